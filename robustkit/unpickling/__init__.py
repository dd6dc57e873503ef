"""Safe unpickling: a pickle as plain data and placeholders, whatever it asks to be run."""

from robustkit.unpickling.objects import (
    Global,
    Placeholder,
    Storage,
    StoredTensor,
    mapping,
    numpy_value,
    printable,
)
from robustkit.unpickling.unpickler import DAMAGE, MAGIC, Unpickler

__all__ = [
    "DAMAGE",
    "MAGIC",
    "Global",
    "Placeholder",
    "Storage",
    "StoredTensor",
    "Unpickler",
    "mapping",
    "numpy_value",
    "printable",
]
