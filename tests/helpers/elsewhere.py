"""A device that is not there: tensors elsewhere, which meet those on the CPU as a GPU's would.

Within `elsewhere()`, what is moved to or made on the device ELSEWHERE says that it lives there; its numbers
are worked out on the CPU all the same. What a GPU refuses is refused: two devices in an operation, but for
a number (a tensor without dimensions) or an index from the CPU, and numpy before `.cpu()`.
"""

from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
ELSEWHERE = torch.device("meta")
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
INDEXED = (*INDEXED, aten._index_put_impl_.default)
REAL_GENERATOR = torch.Generator
MOVING = (aten.copy_.default, aten._to_copy.default)


class Distant(Tensor):
    """A tensor that lives elsewhere."""

    __module__ = "torch"  # eagerpy goes by it

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Distant":
        found = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=ELSEWHERE,
            requires_grad=inner.requires_grad,
        )
        found.near = inner
        return found

    def __repr__(self) -> str:
        return f"elsewhere: {self.near!r}"

    def __reduce_ex__(self, protocol):
        return self.near.__reduce_ex__(protocol)

    def __tensor_flatten__(self):
        return ["near"], None

    @staticmethod
    def __tensor_unflatten__(parts, context, size, stride):
        return Distant(parts["near"])

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is Tensor.tolist:
            return args[0].near.tolist()
        if function in (Tensor.numpy, Tensor.__array__):
            raise TypeError("a tensor elsewhere is no array of numpy; use Tensor.cpu() first")
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            # torch would make the index of a list on its own device of this name, without numbers
            args = (args[0], indices(args[1]), *args[2:])
        return torch._C._disabled_torch_function_impl(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return carry_out(function, args, kwargs or {})


def indices(asked):
    """An index, with tensors for its lists."""
    if isinstance(asked, tuple):
        return tuple(indices(part) for part in asked)
    return torch.tensor(asked) if isinstance(asked, list | range) else asked


class Operations(TorchDispatchMode):
    """Tensors are made and moved elsewhere, when asked."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return carry_out(function, args, kwargs or {})


class Constructors(TorchFunctionMode):
    """torch makes tensors of lists and numbers by itself: here on the CPU, and then moved."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if function in (torch.tensor, torch.as_tensor, torch.asarray) and device is not None:
            return function(*args, **{**kwargs, "device": None}).to(device)
        if function is Tensor.new_tensor and isinstance(first, Distant):
            return torch.tensor(args[1], **{"dtype": first.dtype, **kwargs}).to(ELSEWHERE)
        source = kwargs.get("generator")
        if source is not None:
            there = device if device is not None else "cpu" if first is None else first.device
            if isinstance(source, DistantGenerator) != (torch.device(there) == ELSEWHERE):
                raise RuntimeError(f"{function}: the generator draws on another device")
        return function(*args, **kwargs)


class DistantGenerator(torch.Generator):
    """A generator that draws elsewhere."""

    def __new__(cls, device):
        return super().__new__(cls)

    device = ELSEWHERE


class Generator(torch.Generator):
    """torch.Generator, which knows no device of this name."""

    def __new__(cls, device="cpu"):
        away = torch.device(device).type == ELSEWHERE.type
        return DistantGenerator(device) if away else REAL_GENERATOR(device)


@contextmanager
def elsewhere():
    """Within it, tensors can be made and moved elsewhere."""
    enabled = torch.is_autocast_enabled
    with (
        mock.patch.object(torch, "Generator", Generator),
        # torch knows of no autocast on a device of this name
        mock.patch.object(
            torch, "is_autocast_enabled", lambda at: at != ELSEWHERE.type and enabled(at)
        ),
        Constructors(),
        Operations(),
    ):
        yield ELSEWHERE


def carry_out(function, args, kwargs):
    """One operation on the CPU, its outcome where the operation's tensors live."""
    asked = kwargs.get("device")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    there = placed(function, args, kwargs)
    if asked is not None:
        there = torch.device(asked).type == ELSEWHERE.type
    plain = tree_map_only(Distant, lambda t: t.near, (args, kwargs))
    found = function(*plain[0], **plain[1])
    if not there:
        return found
    found = tree_map_only(Tensor, lambda t: t if isinstance(t, Distant) else Distant(t), found)
    if asked is not None:
        return found
    return return_and_correct_aliasing(function, args, kwargs, found)


def placed(function, args, kwargs) -> bool:
    """Whether an operation is one elsewhere.

    Raises:
        RuntimeError: some of its tensors live there and some on the CPU.
    """
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    distant = [isinstance(t, Distant) for t in tensors]
    hollow = [t for t, d in zip(tensors, distant, strict=True) if not d and t.is_meta]
    assert not hollow, f"{function}: a tensor without numbers was made past this helper"
    if function in MOVING:
        return distant[0]
    if function in INDEXED and distant[0]:
        # an index may come from the CPU, the values may not
        values = args[2:3]
        if values and not isinstance(values[0], Distant) and values[0].dim():
            raise RuntimeError(f"{function}: values on the CPU, put into a tensor elsewhere")
        return True
    if any(distant) and any(t.dim() for t, d in zip(tensors, distant, strict=True) if not d):
        raise RuntimeError(f"{function}: expected all tensors to live on the same device")
    return any(distant)
