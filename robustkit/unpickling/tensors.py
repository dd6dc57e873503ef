"""From the leaves of a file's tree to NumPy arrays: one a storage, however many its views.

Types go by torch's names. NumPy has no bfloat16 and no float8: numbers of those are float32 here,
which holds every one of them. Needs no torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

import numpy as np
import numpy.typing as npt

from robustkit.errors import CheckpointError
from robustkit.unpickling import (
    ITEM_SIZES,
    Budget,
    NumpyArray,
    Placeholder,
    Storage,
    StoredTensor,
    numpy_array,
)

Array = npt.NDArray[Any]
State = dict[str, Array]
"""weights by name"""
COUNTER = "num_batches_tracked"
"""ends the names of batch norm's counters, which eval mode never reads"""
EXTRA = "_extra_state"
"""ends the names of what a module keeps beside its weights, of any kind"""
TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
}
"""of the numbers in each of torch's classes of storages"""
EXTRA_TYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
"""that torch writes as untyped storage and a name"""
QUANTISED = ("qint8", "quint8", "qint32")
"""of integers that stand for real numbers"""
WIDTHS = {
    "bool": 1, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "qint8": 1, "quint8": 1, "qint32": 4,
}  # fmt: skip
"""bytes of a number of types that NumPy lacks, or may not take at their word"""


def is_real(kind: str) -> bool:
    """Whether a type is one of real numbers, whatever its width."""
    return kind.startswith(("float", "bfloat"))


def item_size(kind: str) -> int:
    """Bytes of a number of that type."""
    return WIDTHS.get(kind) or np.dtype(kind).itemsize


def contiguous(kind: str, shape: tuple[int, ...], read: Callable[[], bytearray]) -> StoredTensor:
    """A tensor of a type, with a storage of its own that `read` gives the bytes of."""
    storage = next((name for name, held in TYPES.items() if held == kind), "")
    size = prod(shape) if storage else prod(shape) * item_size(kind)
    steps = tuple(accumulate((size or 1 for size in shape[:0:-1]), mul, initial=1))[::-1]
    whole = Storage(storage or "UntypedStorage", size, read)
    return StoredTensor(whole, 0, shape, steps if shape else (), None if storage else kind)


def decoded(data: bytes | bytearray, kind: str) -> Array:
    """The numbers in some bytes, as many as are whole."""
    usable = len(data) // item_size(kind)
    if not usable:
        found = np.float32 if is_real(kind) and kind in WIDTHS else kind.removeprefix("q")
        return np.empty(0, found)
    match kind:
        case "bool":  # a byte of 2 is no truth value
            return np.asarray(np.frombuffer(data, np.uint8, usable) != 0)
        case "bfloat16":  # the upper half of a float32
            return (np.frombuffer(data, np.uint16, usable).astype(np.uint32) << 16).view(np.float32)
        case "float8_e5m2":  # the upper half of a float16
            upper = np.frombuffer(data, np.uint8, usable).astype(np.uint16) << 8
            return upper.view(np.float16).astype(np.float32)
        case "qint8" | "quint8" | "qint32":
            return np.frombuffer(data, kind.removeprefix("q"), usable)
        case "float8_e4m3fn":
            return _e4m3fn()[np.frombuffer(data, np.uint8, usable)]
        case _:
            return np.frombuffer(data, kind, usable)


def _e4m3fn() -> Array:
    """All 256: 4 bits of exponent, 3 of mantissa, no infinity (Micikevicius et al. 2022)."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    scaled = np.where(exponent == 0, mantissa, 8 + mantissa) * 2.0 ** (np.maximum(exponent, 1) - 10)
    signed = np.where(codes < 128, scaled, -scaled)
    return np.where(codes & 127 == 127, np.nan, signed).astype(np.float32)


@dataclass(slots=True)
class TensorReader:
    """Turns leaves into arrays. Each storage is read, and changed to float32, once."""

    where: str
    """how messages name the file"""
    budget: Budget
    _inside: dict[tuple[int, int], bool] = field(default_factory=dict)
    _arrays: dict[int, NumpyArray | None] = field(default_factory=dict)
    _numbers: dict[tuple[int, str, bool], Array] = field(default_factory=dict)

    @classmethod
    def of(cls, file: BufferedReader, where: str) -> "TensorReader":
        """The reader of an open file, with a budget by its size."""
        return cls(where, Budget.of(file.seek(0, 2)))

    def count(self, leaf: object) -> int:
        """How many numbers a leaf claims to hold; 0 where it is no tensor."""
        if isinstance(leaf, StoredTensor):
            return prod(leaf.shape)
        array = self._array(leaf)
        return 0 if array is None else prod(array.shape)

    def is_tensor(self, leaf: object) -> bool:
        """Whether a leaf is a tensor or an array; no single numbers in passing."""
        if isinstance(leaf, Placeholder):
            return not leaf.name.endswith("scalar") and self._array(leaf) is not None
        return isinstance(leaf, StoredTensor)

    def is_weight(self, leaf: object) -> bool:
        """Whether a leaf is a tensor, or what is left of one whose class is unknown."""
        if self.is_tensor(leaf):
            return True
        return isinstance(leaf, Placeholder) and (
            leaf.name.startswith("torch._utils._rebuild_") or self._has_tensor(leaf.arguments, 3)
        )

    def _has_tensor(self, values: tuple[object, ...], depth: int) -> bool:
        """Whether a tensor or storage is among a call's arguments, or in tuples among them."""
        place = (id(values), depth)
        if place not in self._inside:
            self.budget.visit(len(values))
            self._inside[place] = any(
                isinstance(value, StoredTensor | Storage)
                or (depth > 0 and isinstance(value, tuple) and self._has_tensor(value, depth - 1))
                for value in values
            )
        return self._inside[place]

    def kind(self, leaf: object) -> str:
        """The type of the numbers that a leaf describes; "" where it describes none."""
        if isinstance(leaf, StoredTensor):
            return leaf.dtype or TYPES.get(leaf.storage.kind, leaf.storage.kind)
        array = self._array(leaf)
        return "" if array is None else array.dtype.name

    def read(self, leaf: object, name: str, *, as_float32: bool = False) -> Array | None:
        """The numbers that a leaf describes; None where it describes none.

        Views of one storage share it. With `as_float32` real numbers of other widths become those.

        Raises:
            CheckpointError: it reaches outside its storage, or has a type that cannot be read.
        """
        if isinstance(leaf, StoredTensor):
            if self.kind(leaf) in QUANTISED:
                return self._dequantised(leaf, f"{self.where}: {name!r}")
            return self._view(leaf, f"{self.where}: {name!r}", as_float32)
        if (array := self._array(leaf)) is None:
            return None
        key = (id(leaf), "float32", as_float32)
        if key not in self._numbers:
            found: Array = np.asarray(array.make())
            self._numbers[key] = _float32(found) if as_float32 else found
        return self._numbers[key]

    def _array(self, leaf: object) -> NumpyArray | None:
        """What a placeholder describes, looked at once."""
        if not isinstance(leaf, Placeholder):
            return None
        if id(leaf) not in self._arrays:
            self._arrays[id(leaf)] = numpy_array(leaf)
        return self._arrays[id(leaf)]

    def _view(self, leaf: StoredTensor, where: str, as_float32: bool) -> Array:
        kind = self.kind(leaf)
        if kind not in (EXTRA_TYPES if leaf.dtype else TYPES.values()):
            raise CheckpointError(
                f"{where} has the type {kind[:80]}, which is not supported; save it as float32"
            )
        whole = self._storage(leaf.storage, kind, where, as_float32)
        if 0 in leaf.shape:
            return np.empty(leaf.shape, whole.dtype)
        # the file's word on offset, sizes and strides is checked before as_strided believes it
        steps = [s if n > 1 else 1 for n, s in zip(leaf.shape, leaf.stride, strict=True)]
        last = leaf.offset + sum((n - 1) * s for n, s in zip(leaf.shape, steps, strict=True))
        if last >= len(whole):
            raise CheckpointError(f"{where} reaches beyond its storage: the file is damaged")
        strides = [step * whole.itemsize for step in steps]
        return np.lib.stride_tricks.as_strided(whole[leaf.offset :], leaf.shape, strides)

    def _dequantised(self, leaf: StoredTensor, where: str) -> Array:
        """The float32 that its integers stand for, as torch's `dequantize`."""
        if (steps := leaf.steps) is None:
            raise CheckpointError(
                f"{where} is quantised, and its scale is unknown; save what its "
                "dequantize() returns"
            )
        key = (id(leaf), "dequantised", True)
        if key not in self._numbers:
            scale = self._by_channel(leaf, steps.scale, where)
            zero_point = self._by_channel(leaf, steps.zero_point, where)
            # a byte less its zero point is exact in float32; four bytes are not
            wide = "float64" if self.kind(leaf) == "qint32" else "float32"
            found = self._view(leaf, where, False).astype(wide)
            found -= np.asarray(zero_point, wide)
            found *= np.asarray(scale, wide)
            self._numbers[key] = _float32(found)
        return self._numbers[key]

    def _by_channel(self, leaf: StoredTensor, value: "float | StoredTensor", where: str) -> Any:
        """A scale or zero point, as it is broadcast over the tensor."""
        if not isinstance(value, StoredTensor) or leaf.steps is None or leaf.steps.axis is None:
            return value
        if value.steps is not None:
            raise CheckpointError(f"{where} is quantised in steps that are: the file is damaged")
        shape = [1] * len(leaf.shape)
        shape[leaf.steps.axis] = -1
        return self._view(value, where, False).reshape(shape)

    def _storage(self, storage: Storage, kind: str, where: str, as_float32: bool) -> Array:
        """A storage's numbers, one after another."""
        if storage.parent is not None:
            whole = self._storage(storage.parent, kind, where, as_float32)
            return whole[storage.offset :][: storage.size]
        key = (id(storage), kind, as_float32)
        if key not in self._numbers:
            self._numbers[key] = self._converted(storage, kind, where, as_float32)
        return self._numbers[key]

    def _converted(self, storage: Storage, kind: str, where: str, as_float32: bool) -> Array:
        if as_float32 and is_real(kind):
            return _float32(self._storage(storage, kind, where, False))
        data = bytearray() if storage.read is None else storage.read()
        self.budget.copy(len(data))
        if len(data) < storage.size * ITEM_SIZES.get(storage.kind, 1):
            raise CheckpointError(
                f"{where}: its storage is shorter than stated: the file is damaged"
            )
        return decoded(data, kind)


def _float32(numbers: Array) -> Array:
    """Real numbers as float32, too large ones as infinity; others as they are."""
    if numbers.dtype.kind != "f":
        return numbers
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32, copy=False)


def distinct(numbers: Array) -> Array:
    """A view with every number of an expanded array once."""
    pairs = zip(numbers.shape, numbers.strides, strict=True)
    return numbers[tuple(slice(1 if step == 0 and size > 1 else None) for size, step in pairs)]


def plain_bytes(numbers: Array) -> Iterator[memoryview]:
    """The bytes of an array in the order of its indices, in pieces, whatever its strides."""
    for piece in _pieces(numbers):
        if piece.size:
            yield np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data


PIECE = 2**22
"""numbers of an array that is not contiguous that are copied at once"""


def _pieces(numbers: Array) -> Iterator[Array]:
    if numbers.flags.c_contiguous or numbers.size <= PIECE:
        yield numbers
    elif len(numbers) == 1:
        yield from _pieces(numbers[0])
    else:
        middle = len(numbers) // 2
        yield from _pieces(numbers[:middle])
        yield from _pieces(numbers[middle:])
