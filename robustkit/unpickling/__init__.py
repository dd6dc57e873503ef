"""Safe unpickling: a pickle as plain data and placeholders, whatever it asks to be run."""

from robustkit.unpickling.archive import read_directory
from robustkit.unpickling.budget import LONGEST_NAME, Budget
from robustkit.unpickling.objects import (
    Global,
    NumpyArray,
    Placeholder,
    Quantiser,
    Storage,
    StoredTensor,
    checked_shape,
    mapping,
    numpy_array,
    numpy_value,
    printable,
)
from robustkit.unpickling.torchfile import ITEM_SIZES, Contents, read_torch
from robustkit.unpickling.unpickler import Unpickler

__all__ = [
    "ITEM_SIZES",
    "LONGEST_NAME",
    "Budget",
    "Contents",
    "Global",
    "NumpyArray",
    "Placeholder",
    "Quantiser",
    "Storage",
    "StoredTensor",
    "Unpickler",
    "checked_shape",
    "mapping",
    "numpy_array",
    "numpy_value",
    "printable",
    "read_directory",
    "read_torch",
]
