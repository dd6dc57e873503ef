"""The calls that are carried out: each only moves plain data about."""

from collections.abc import Callable
from math import isfinite
from typing import NamedTuple

from robustkit.unpickling.objects import (
    Global,
    Placeholder,
    Quantiser,
    Storage,
    StoredTensor,
    checked_integer,
    checked_shape,
    checked_sizes,
    expected,
)

Rule = Callable[..., object]
"""takes no longer than its arguments are long"""


class Entries(NamedTuple):
    """What a dictionary is to be made of; which keys it may have is not a rule's to say."""

    pairs: list[tuple[object, object]]


def _tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *rest: object
) -> StoredTensor:
    """torch._utils._rebuild_tensor and _v2; a conjugate or negative view is left to the refusal."""
    if len(rest) > 2 and rest[2]:
        raise ValueError("a lazily negated or conjugated view")
    shape, stride = checked_shape(shape), checked_sizes(stride)
    if len(shape) != len(stride):
        raise ValueError("expected as many strides as sizes")
    return StoredTensor(expected(Storage, storage), checked_integer(offset), shape, stride)


def _tensor_v3(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: object,
    dtype: Global,
    metadata: object = None,
) -> StoredTensor:
    tensor = _tensor(storage, offset, shape, stride, requires_grad, hooks, metadata)
    tensor.dtype = expected(Global, dtype).name.removeprefix("torch.")
    return tensor


def _quantised(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    quantiser: tuple[object, ...],
    *rest: object,
) -> StoredTensor:
    """torch._utils._rebuild_qtensor."""
    tensor = _tensor(storage, offset, shape, stride)
    kind, scale, zero_point, *axis = expected(tuple, quantiser)
    match expected(Global, kind).name.removeprefix("torch."):
        case "per_tensor_affine" if not axis:
            step: float = expected(float, scale)
            shift: int = expected(int, zero_point)
            if not isfinite(step) or abs(shift) >= 2**31:
                raise ValueError("an invalid scale or zero point")
            tensor.steps = Quantiser(step, shift)
        case "per_channel_affine" | "per_channel_affine_float_qparams" if len(axis) == 1:
            ends = (expected(StoredTensor, scale), expected(StoredTensor, zero_point))
            place = checked_integer(axis[0])
            if not place < len(shape) or any(end.shape != (shape[place],) for end in ends):
                raise ValueError("expected one scale and zero point per channel")
            tensor.steps = Quantiser(*ends, place)
        case _:
            raise ValueError("a quantiser that torch never writes")
    return tensor


def _parameter(data: object, *_: object) -> StoredTensor:
    tensor: StoredTensor = expected(StoredTensor, data)
    return tensor


def _pairs(pairs: object = ()) -> Entries:
    """The entries of a dictionary, or of a list of pairs."""
    if isinstance(pairs, dict):
        return Entries(list(pairs.items()))
    found = [(key, value) for key, value in _sequence(pairs)]  # type: ignore[misc, has-type]
    return Entries(found)


def _defaultdict(factory: object = None, pairs: object = ()) -> Entries:
    return _pairs(pairs)


def _sequence(values: object = ()) -> list[object]:
    if not isinstance(values, list | tuple):
        raise ValueError("expected a list or tuple")
    return list(values)


def _size(values: object = ()) -> tuple[object, ...]:
    return tuple(_sequence(values))


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("an encoding that pickle never writes")
    return bytes(expected(str, text), "latin1")


def _bytes(value: object = b"", encoding: str = "latin1") -> bytes:
    return value if isinstance(value, bytes) else _encoded(expected(str, value), encoding)


def _reconstructed(kind: Global, base: object, state: object) -> object:
    """How copyreg makes an object at protocols 0 and 1."""
    return Placeholder(expected(Global, kind).name, ())


def _device(name: str, *index: int) -> str:
    if len(index) > 1 or len(expected(str, name)) > 20:
        raise ValueError("a device that torch never writes")
    return ":".join([name, *map(str, map(checked_integer, index))])


PLAIN_TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
RULES: dict[str, Rule] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _pairs,
    "collections.defaultdict": _defaultdict,
    "builtins.dict": _pairs,
    "builtins.list": _sequence,
    "builtins.set": _sequence,
    "builtins.frozenset": _size,
    "builtins.tuple": _size,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": _reconstructed,
    "copy_reg._reconstructor": _reconstructed,
}
