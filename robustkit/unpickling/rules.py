"""The calls that are carried out: each only moves plain data about."""

from collections.abc import Callable
from typing import Any

from robustkit.unpickling.objects import (
    Global,
    Placeholder,
    Storage,
    StoredTensor,
    expected,
    is_plain_key,
)

Rule = Callable[..., object]


def _integer(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError("an offset, size or stride that makes no sense")
    return value


def _integers(values: object) -> tuple[int, ...]:
    return tuple(map(_integer, expected(tuple, values)))


def _tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *rest: object
) -> StoredTensor:
    """torch._utils._rebuild_tensor and _v2; a conjugate or negative view is left to the refusal."""
    if len(rest) > 2 and rest[2]:
        raise ValueError("a lazily negated or conjugated view")
    shape, stride = _integers(shape), _integers(stride)
    if len(shape) != len(stride):
        raise ValueError("as many strides as sizes are due")
    return StoredTensor(expected(Storage, storage), _integer(offset), shape, stride)


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


def _parameter(data: object, *_: object) -> StoredTensor:
    tensor: StoredTensor = expected(StoredTensor, data)
    return tensor


def _dictionary(pairs: Any = ()) -> dict[object, object]:
    if isinstance(pairs, dict):
        return dict(pairs)
    return {key: value for key, value in pairs if is_plain_key(key)}


def _defaultdict(factory: object = None, pairs: Any = ()) -> dict[object, object]:
    return _dictionary(pairs)


def _sequence(values: object = ()) -> list[object]:
    if not isinstance(values, list | tuple):
        raise ValueError("a list or tuple is due")
    return list(values)


def _size(values: object = ()) -> tuple[object, ...]:
    return tuple(_sequence(values))


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("an encoding that pickle does not write")
    return bytes(expected(str, text), "latin1")


def _bytes(value: object = b"", encoding: str = "latin1") -> bytes:
    return value if isinstance(value, bytes) else _encoded(expected(str, value), encoding)


def _reconstructed(kind: Global, base: object, state: object) -> object:
    """How copyreg makes an object at protocols 0 and 1."""
    return Placeholder(expected(Global, kind).name, ())


def _device(name: str, *index: int) -> str:
    return ":".join(map(str, (expected(str, name), *map(_integer, index))))


PLAIN_TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
RULES: dict[str, Rule] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": _defaultdict,
    "builtins.dict": _dictionary,
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
