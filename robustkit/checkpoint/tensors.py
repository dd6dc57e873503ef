"""From the leaves of a file's tree to torch tensors: one a storage, however many its views."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from math import prod

import torch

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

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
EXTRA_DTYPES = {
    name: getattr(torch, name)
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
}
"""dtypes that torch writes as untyped storage and a name"""


@dataclass(slots=True)
class TensorReader:
    """Turns leaves into tensors. Each storage is read, and changed to float32, once."""

    where: str
    """how messages name the file"""
    budget: Budget
    _inside: dict[tuple[int, int], bool] = field(default_factory=dict)
    _arrays: dict[int, NumpyArray | None] = field(default_factory=dict)
    _numbers: dict[tuple[int, torch.dtype, bool], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, file: BufferedReader, where: str) -> "TensorReader":
        """The reader of an open file, with a budget by its size."""
        return cls(where, Budget.of(file.seek(0, 2)))

    def count(self, leaf: object) -> int:
        """How many numbers a leaf claims to hold; 0 where it is no tensor."""
        if isinstance(leaf, StoredTensor):
            return prod(leaf.shape)
        if isinstance(leaf, torch.Tensor):
            return leaf.numel()
        array = self._array(leaf)
        return 0 if array is None else prod(array.shape)

    def is_tensor(self, leaf: object) -> bool:
        """Whether a leaf is a tensor or an array; no single numbers in passing."""
        if isinstance(leaf, Placeholder):
            return not leaf.name.endswith("scalar") and self._array(leaf) is not None
        return isinstance(leaf, StoredTensor | torch.Tensor)

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

    def read(self, leaf: object, name: str, *, as_float32: bool = False) -> torch.Tensor | None:
        """The tensor that a leaf describes; None where it is none.

        Views of one storage share it. With `as_float32` real numbers of other widths become those.

        Raises:
            CheckpointError: it reaches outside its storage, or has a dtype that cannot be read.
        """
        if isinstance(leaf, torch.Tensor):
            return leaf.float() if as_float32 and leaf.is_floating_point() else leaf
        if isinstance(leaf, StoredTensor):
            return self._view(leaf, f"{self.where}: {name!r}", as_float32)
        if (array := self._array(leaf)) is None:
            return None
        key = (id(leaf), torch.float32, as_float32)
        if key not in self._numbers:
            tensor = torch.from_numpy(array.make())
            real = as_float32 and tensor.is_floating_point()
            self._numbers[key] = tensor.float() if real else tensor
        return self._numbers[key]

    def _array(self, leaf: object) -> NumpyArray | None:
        """What a placeholder describes, looked at once."""
        if not isinstance(leaf, Placeholder):
            return None
        if id(leaf) not in self._arrays:
            self._arrays[id(leaf)] = numpy_array(leaf)
        return self._arrays[id(leaf)]

    def _view(self, leaf: StoredTensor, where: str, as_float32: bool) -> torch.Tensor:
        kind = (EXTRA_DTYPES if leaf.dtype else DTYPES).get(leaf.dtype or leaf.storage.kind)
        if kind is None:
            raise CheckpointError(
                f"{where} has the type {(leaf.dtype or leaf.storage.kind)[:80]}, which is not "
                "supported; save it as float32"
            )
        whole = self._storage(leaf.storage, kind, where, as_float32)
        if 0 in leaf.shape:
            return torch.empty(leaf.shape, dtype=whole.dtype)
        # the file's word on offset, sizes and strides is checked before as_strided believes it
        steps = [s if n > 1 else 1 for n, s in zip(leaf.shape, leaf.stride, strict=True)]
        last = leaf.offset + sum((n - 1) * s for n, s in zip(leaf.shape, steps, strict=True))
        if last >= len(whole):
            raise CheckpointError(f"{where} reaches outside its storage: the file is damaged")
        return whole.as_strided(leaf.shape, steps, leaf.offset)

    def _storage(
        self, storage: Storage, kind: torch.dtype, where: str, as_float32: bool
    ) -> torch.Tensor:
        """A storage's numbers as a flat tensor."""
        if storage.parent is not None:
            whole = self._storage(storage.parent, kind, where, as_float32)
            return whole[storage.offset :][: storage.size]
        key = (id(storage), kind, as_float32)
        if key not in self._numbers:
            self._numbers[key] = self._converted(storage, kind, where, as_float32)
        return self._numbers[key]

    def _converted(
        self, storage: Storage, kind: torch.dtype, where: str, as_float32: bool
    ) -> torch.Tensor:
        if as_float32 and kind.is_floating_point and kind != torch.float32:
            return self._storage(storage, kind, where, False).float()
        data = bytearray() if storage.read is None else storage.read()
        self.budget.copy(len(data))
        if len(data) < storage.size * ITEM_SIZES.get(storage.kind, 1):
            raise CheckpointError(
                f"{where}: its storage is shorter than it claims: the file is damaged"
            )
        usable = len(data) // kind.itemsize
        if not usable:
            return torch.empty(0, dtype=kind)
        if kind == torch.bool:  # a byte of 2 is no truth value
            return torch.frombuffer(data, dtype=torch.uint8, count=usable) != 0
        return torch.frombuffer(data, dtype=kind, count=usable)


def distinct(tensor: torch.Tensor) -> torch.Tensor:
    """A view with every number of an expanded tensor once."""
    for dim, step in enumerate(tensor.stride()):
        if step == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def plain_bytes(tensor: torch.Tensor) -> Iterator[memoryview]:
    """A tensor's bytes in the order of its indices, in pieces, whatever its strides and type.

    Of a quantised tensor those of its integers.
    """
    tensor = tensor.detach().cpu()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    for piece in _pieces(tensor.resolve_conj().resolve_neg()):
        if not piece.numel():
            continue
        # contiguous() leaves the strides of dimensions of one element as they are
        flat = piece.reshape(-1)
        flat = flat if flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format)
        yield flat.view(torch.uint8).numpy().data


PIECE = 2**22
"""numbers of a tensor that is not contiguous that are copied at once"""


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if tensor.is_contiguous() or tensor.numel() <= PIECE:
        yield tensor
    elif len(tensor) == 1:
        yield from _pieces(tensor[0])
    else:
        middle = len(tensor) // 2
        yield from _pieces(tensor[:middle])
        yield from _pieces(tensor[middle:])
