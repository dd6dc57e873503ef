"""What a pickle becomes without anything being imported or called: names, placeholders, tensors."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from robustkit.errors import BadFile, shown


@dataclass(frozen=True, slots=True)
class Global:
    """The name of something that a pickle wants imported. It is not."""

    name: str
    """module and qualified name, dotted"""


@dataclass(eq=False, slots=True)
class Placeholder:
    """An object that a pickle wants made; what was to be done to it is kept as data.

    Not an error: training scripts keep optimisers, schedulers and settings of classes of their own
    beside the weights, and a pickled module is nothing but such objects around its tensors. Whoever
    needs one of them can tell by the name what is missing.
    """

    name: str
    """what was to be called"""
    arguments: tuple[object, ...]
    state: object = None
    items: list[object] = field(default_factory=list)
    entries: dict[object, object] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Storage:
    """A run of numbers somewhere in the file."""

    kind: str
    """name of torch's storage class, such as FloatStorage"""
    size: int
    """number of elements"""
    read: Callable[[], bytearray] | None = None
    """gives the bytes, each time anew, once their place is known and as long as the file is open"""
    parent: "Storage | None" = None
    """in the oldest files a storage can be a piece of another"""
    offset: int = 0
    """first element within the parent"""


@dataclass(eq=False, slots=True)
class StoredTensor:
    """A strided view of a storage, as described by the file: not yet checked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str | None = None
    """torch's name, where it differs from the storage's"""
    steps: "Quantiser | None" = None
    """what its integers stand for, where they are quantised"""


@dataclass(frozen=True, slots=True)
class Quantiser:
    """An integer q stands for (q − zero point) · scale: one of each, or one a channel of `axis`."""

    scale: "float | StoredTensor"
    zero_point: "int | StoredTensor"
    axis: int | None = None


def mapping(value: object) -> dict[object, object] | None:
    """The entries of a dictionary, or of an placeholder that has entries or attributes."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Placeholder):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        return value.entries or (state if isinstance(state, dict) else None)
    return None


def printable(text: str) -> str:
    """The text, with escapes for what would break a line or talk to the terminal."""
    return shown(text)


@dataclass(frozen=True, slots=True)
class NumpyArray:
    """A numpy array or scalar as a pickle describes it; its bytes are looked at when it is made."""

    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    data: bytes | bytearray
    fortran: bool = False

    def make(self) -> Any:
        """The array, in this machine's byte order and writable."""
        kind = np.dtype("u1") if self.dtype.kind == "b" else self.dtype
        found: Any = np.ndarray(self.shape, kind, self.data, order="F" if self.fortran else "C")
        # a byte of 2 is no truth value
        made = found != 0 if self.dtype.kind == "b" else found
        return np.asarray(made).astype(self.dtype.newbyteorder("="))


def numpy_array(value: object) -> NumpyArray | None:
    """The numpy array or scalar that a placeholder describes; None where it is another thing.

    Raises:
        BadFile: its shape makes no sense.
    """
    if not isinstance(value, Placeholder) or not _FROM_NUMPY.fullmatch(value.name):
        return None
    parts = _described(value)
    if parts is None:
        return None
    kind, shape, data, fortran = parts
    dtype = _numpy_dtype(kind)
    if dtype is None or not isinstance(data, bytes | bytearray):
        return None
    try:
        sizes = checked_shape(shape)
    except ValueError:
        return None
    if prod(sizes) * dtype.itemsize != len(data):
        return None
    return NumpyArray(dtype, sizes, data, fortran in (True, "F"))


def _described(value: Placeholder) -> tuple[object, object, object, object] | None:
    """Type, shape, bytes and order, wherever a call has them."""
    name, arguments, state = value.name.rpartition(".")[2], value.arguments, value.state
    if name == "scalar" and len(arguments) == 2:
        return arguments[0], (), arguments[1], False
    if name == "_frombuffer" and len(arguments) == 4:  # as protocol 5 has it
        return arguments[1], arguments[2], arguments[0], arguments[3]
    if name == "_reconstruct" and isinstance(state, tuple) and len(state) == 5:
        return state[2], state[1], state[4], state[3]
    return None


def numpy_value(value: object) -> Any:
    """That array itself, or None."""
    described = numpy_array(value)
    return None if described is None else described.make()


_FROM_NUMPY = re.compile(r"numpy\._?core\.(multiarray|numeric)\.(scalar|_reconstruct|_frombuffer)")
_NUMPY_CODE = re.compile(r"b1|[iu][1248]|f[248]")


def _numpy_dtype(kind: object) -> "np.dtype[Any] | None":
    if not isinstance(kind, Placeholder) or kind.name != "numpy.dtype" or not kind.arguments:
        return None
    code, state = kind.arguments[0], kind.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
    if not isinstance(code, str) or not isinstance(order, str) or order not in "<>|=":
        return None
    return np.dtype(f"{order}{code}") if order and _NUMPY_CODE.fullmatch(code) else None


# -- what a file's numbers may be -----------------------------------------------------------------

DIMENSIONS = 32
"""of a tensor"""
NUMBERS = 2**48
"""in a tensor, leaving out dimensions of no size"""


def checked_integer(value: object) -> int:
    """An offset, size or stride.

    Raises:
        ValueError: it makes no sense.
    """
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError("an invalid offset, size or stride")
    return value


def checked_sizes(values: object) -> tuple[int, ...]:
    """A shape or strides.

    Raises:
        ValueError: no tuple of numbers from 0 on.
        BadFile: more dimensions than any tensor has.
    """
    sizes: tuple[object, ...] = expected(tuple, values)
    if len(sizes) > DIMENSIONS:
        raise BadFile(f"damaged: a tensor of {len(sizes)} dimensions")
    return tuple(map(checked_integer, sizes))


def checked_shape(values: object) -> tuple[int, ...]:
    """A shape of which torch and NumPy can make a tensor, were there memory for it.

    Raises:
        ValueError: no tuple of numbers from 0 on.
        BadFile: more dimensions or numbers than any tensor has.
    """
    shape = checked_sizes(values)
    if prod(size for size in shape if size) >= NUMBERS:
        raise BadFile("damaged: a tensor of more numbers than any machine holds")
    return shape


def expected(kind: type, value: Any) -> Any:
    """The value, if it is of that kind.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} instead of a {kind.__name__}")
    return value


def global_named(module: str, name: str) -> Global:
    """A name that a pickle wants imported, under its name in Python 3.

    Raises:
        BadFile: no class or function has a name of that length.
    """
    if len(module) + len(name) > LONGEST_GLOBAL:
        raise BadFile("damaged: an imported name of more than a thousand characters")
    return Global(printable(f"{module}.{name}".replace("__builtin__.", "builtins.")))


LONGEST_GLOBAL = 1000
"""characters"""
