"""Gradients through what has none: BPDA for any module (Athalye et al. 2018, section 4.1).

The forward pass computes, bit for bit, what the model computes. Going backward, operations whose
derivative is zero or missing count as the identity: rounding, signs, integer casts, `detach`,
`no_grad`, and whole submodules of equal input and output shape that let no gradient through.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ROUNDING = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn"}
DIVISION = {"floor_divide", "__floordiv__", "div", "divide", "true_divide"}
REMAINDERS = {"remainder", "fmod", "frac", "__mod__"}
"""x − x mod s rounds: the remainder's own derivative, 1, would cancel the identity"""
CUTTING = {"detach", "detach_"}
SQUASHING = {"softmax", "sigmoid"}
"""identity where they end a classifier, N × K: they saturate; inside networks they stay"""
RISING, FALLING = {"gt", "ge", "greater", "greater_equal"}, {"lt", "le", "less", "less_equal"}
_DATA: Any = getattr(Tensor.data, "__get__", None)


class _Through(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def through(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value`, differentiated as if it were `surrogate`, of the same or a smaller shape."""
    result: Tensor = _Through.apply(value.detach(), surrogate)
    return result


class StraightThrough(TorchFunctionMode):
    """While active, inline operations without a derivative count as the identity going backward.

    With `comparisons` x > t counts as x − t too. That suits thresholds, and would distort a mask
    that is multiplied with x, so it is left for models that give no gradient without it.
    Integers carry what they were made from as an attribute, until they are made floats again.
    """

    def __init__(self, comparisons: bool = False) -> None:
        super().__init__()
        self.comparisons = comparisons

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """One call of a torch function, with a gradient where it has none."""
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "_set_grad_enabled":
            # a model's own no_grad, which defences use to hide from attacks
            return None
        with torch.enable_grad():
            if name in CUTTING or func == _DATA:  # `x.data` is no function, but cuts as `detach`
                return _kept(args[0])
            surrogate = self._surrogate(func, name, args, options)
            if surrogate is None:
                return func(*args, **options)
            if name.endswith("_") and not name.endswith("__"):
                return _in_place(func, args, options, surrogate)
            with torch.no_grad():
                value = func(*args, **options)
            return _joined(value, surrogate)

    def _surrogate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Tensor | None:
        """What to differentiate instead; None where the function itself will do."""
        x = args[0] if args else None
        if not isinstance(x, Tensor):
            return None
        base = name if name.startswith("__") else name.removesuffix("_")
        if any(_origin(a) is not None for a in args):
            return _replayed(func, base, args, options)
        if not (x.is_floating_point() and x.requires_grad):
            return None
        if base in ROUNDING:
            return x
        if base in REMAINDERS:
            return torch.mul(x, 0)
        if base in DIVISION and (options.get("rounding_mode") or "floor" in base):
            return torch.div(x, args[1])
        if base in SQUASHING and x.ndim == 2:
            return x
        if base in ("to", "type", "type_as", "int", "long", "short", "byte", "char", "bool"):
            with torch.no_grad():
                made: Tensor = func(*args, **options)
            return None if made.is_floating_point() else x
        if base == "quantize_per_tensor":
            return x
        if self.comparisons and base in RISING | FALLING:
            return torch.sub(x, args[1]) if base in RISING else -torch.sub(x, args[1])
        return None


def _kept(x: Tensor) -> Tensor:
    """The same tensor with its graph, as another object."""
    same = x.view_as(x)
    if (origin := _origin(x)) is not None:
        same.made_from = origin  # type: ignore[attr-defined]
    return same


def _origin(value: Any) -> Tensor | None:
    """What an integer or Boolean tensor was made from."""
    return getattr(value, "made_from", None) if isinstance(value, Tensor) else None


def _replayed(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], options: dict[str, Any]
) -> Tensor | None:
    """The same operation on what the integers were made from; bit operations count as identity."""
    origins = [_origin(a) for a in args]
    real = [a if o is None else o for a, o in zip(args, origins, strict=True)]
    first = next(o for o in origins if o is not None)
    if name == "where" and origins[0] is not None:
        difference = (real[1] - real[2]) if len(real) == 3 else None
        if difference is None:
            return None
        # either branch's own gradient, and that of the choice between them
        chosen: Tensor = func(*args, **options)
        return torch.add(chosen, torch.mul(real[0], _detached(difference)))
    if name == "dequantize":
        return first
    with suppress(RuntimeError, TypeError, IndexError, NotImplementedError):
        if name in DIVISION:
            return torch.div(real[0], real[1])
        result = func(*real, **options)
        if isinstance(result, Tensor) and result.requires_grad:
            return result
    return first


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _joined(value: Any, surrogate: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point() and not value.is_quantized:
        with suppress(RuntimeError):  # shapes that do not go together: a value without a gradient
            return through(value, surrogate.expand_as(value))
        return value
    value.made_from = surrogate  # type: ignore[attr-defined]
    return value


def _in_place(
    func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], surrogate: Tensor
) -> Tensor:
    """round_ and the like: worked out on a copy, then written back with its gradient."""
    with torch.no_grad():
        value = func(args[0].clone(), *args[1:], **options)
    if not value.is_floating_point():
        result: Tensor = func(*args, **options)
        return result
    changed: Tensor = args[0].copy_(through(value, surrogate.clone()))
    return changed


def blocked(model: torch.nn.Module, images: Tensor) -> list[torch.nn.Module]:
    """Submodules of equal input and output shape that let no gradient through, outermost ones.

    Tried on what they are given when the model sees `images`; no gradient means none at all,
    zero for every image, or NaN or infinite anywhere.
    """
    seen = _inputs(model, images)
    # `modules` names outer ones first; what lies inside one that is bypassed no longer matters
    found: list[torch.nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():
        if id(module) in inside or id(module) not in seen or module is model:
            continue
        if not _passes_gradient(module, seen[id(module)]):
            found.append(module)
            inside.update(id(m) for m in module.modules())
    return found


def _inputs(model: torch.nn.Module, images: Tensor) -> dict[int, Tensor]:
    """What each submodule is given, where it returns a float tensor of the same shape."""
    seen: dict[int, Tensor] = {}

    def note(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        pair = (*args[:1], output)
        tensors = all(isinstance(t, Tensor) and t.is_floating_point() for t in pair)
        if len(args) == 1 and tensors and args[0].shape == output.shape:
            seen.setdefault(id(module), args[0].detach().clone())

    handles = [m.register_forward_hook(note) for m in model.modules()]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _passes_gradient(module: torch.nn.Module, given: Tensor) -> bool:
    with torch.enable_grad():
        x = given.clone().requires_grad_()
        try:
            output = module(x.clone())
            if not output.requires_grad:
                return False
            # not the plain sum: that of softmax's outputs is constant, and its gradient 0 although
            # softmax passes one
            direction = torch.linspace(0.5, 1.5, output.numel(), device=x.device)
            (gradient,) = torch.autograd.grad(
                output, x, direction.view_as(output).to(output), allow_unused=True
            )
        except Exception:  # no graph, or one that cannot be walked
            return False
    if gradient is None:
        return False
    return bool(torch.isfinite(gradient).all() and (gradient != 0).any())


@contextmanager
def straight_through(
    modules: Sequence[torch.nn.Module], comparisons: bool = False
) -> Iterator[None]:
    """Inside, gradients pass straight through inline operations and through these modules."""

    def replaced(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor) and args and args[0].shape == output.shape:
            return through(output, args[0])
        return output

    handles = [module.register_forward_hook(replaced) for module in modules]
    try:
        with StraightThrough(comparisons):
            yield
    finally:
        for handle in handles:
            handle.remove()
