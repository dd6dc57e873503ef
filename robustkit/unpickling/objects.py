"""What a pickle becomes without anything being imported or called: names, placeholders, tensors."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np


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
    data: memoryview | bytes | None = None
    """the bytes, once their place in the file is known"""
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
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def numpy_value(value: Placeholder) -> Any:
    """A numpy array or scalar that a pickle describes, or None where it is another thing."""
    module, _, name = value.name.rpartition(".")
    if not re.fullmatch(r"numpy\.(_?core)\.(multiarray|numeric)", module):
        return None
    if name == "scalar" and len(value.arguments) == 2:
        (kind, data), shape, fortran = value.arguments, (), False
    elif name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, kind, fortran, data = value.state
    else:
        return None
    dtype = _numpy_dtype(kind)
    try:
        flat = np.frombuffer(data, dtype)  # type: ignore[call-overload]
        shaped = flat.reshape(shape, order="F" if fortran else "C")
    except (TypeError, ValueError):
        return None
    return shaped.astype(dtype.newbyteorder("=")) if dtype is not None else None


def _numpy_dtype(kind: object) -> "np.dtype[Any] | None":
    if not isinstance(kind, Placeholder) or kind.name != "numpy.dtype" or not kind.arguments:
        return None
    code, state = str(kind.arguments[0]), kind.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
    if not re.fullmatch(r"[biuf][1248]", code) or order not in ("<", ">", "|", "="):
        return None
    return np.dtype(f"{order}{code}")


def expected(kind: type, value: Any) -> Any:
    """The value, if it is of that kind.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, kind):
        raise ValueError(f"{type(value).__name__} where {kind.__name__} is due")
    return value


def global_named(module: str, name: str) -> Global:
    """A name that a pickle wants imported, under its name in Python 3."""
    return Global(printable(f"{module}.{name}".replace("__builtin__.", "builtins.")))


def is_plain_key(key: object) -> bool:
    """Whether a key can be hashed in a bounded time; the entries of other keys are dropped."""
    # a tuple's hash is not cached: nested ones that share their parts take exponential time
    if isinstance(key, tuple):
        return all(isinstance(k, str | int | float | bytes | None) for k in key)
    return isinstance(key, str | int | float | bytes | None)
