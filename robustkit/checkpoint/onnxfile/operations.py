"""Operations that are made here: what takes sizes, and what onnx2torch has not or has otherwise.

Each entry of `OPERATIONS` takes a `Call` and gives an `Operation`. Sources: ONNX's operators, by
their names; torch's own functions do the work.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from robustkit.checkpoint.onnxfile.call import Call, Operation
from robustkit.checkpoint.onnxfile.graph import FLOATS
from robustkit.checkpoint.onnxfile.moves import MOVES, same
from robustkit.checkpoint.onnxfile.sizes import Computed, Inflexible, Known, Shape

WHOLE = 1e-4
"""how far a side of so many pixels may be from a whole number"""


def _clip(call: Call) -> Operation:
    low, high = call.scalar(1, "min"), call.scalar(2, "max")
    if low is None and high is None:
        return Operation(same, (0,))
    if low == 0 and high is None:
        return Operation(functional.relu, (0,))
    return Operation(partial(torch.clamp, min=low, max=high), (0,))


def _dropout(call: Call) -> Operation:
    if call.has(2) and bool(call.array(2).any()):
        raise NotImplementedError("in training mode (export model.eval() instead)")
    return Operation(same, (0,))


def _cast(call: Call) -> Operation:
    to = call.get("to")
    if to in FLOATS:
        real = partial(_as_type, kind=torch.float32)
        return Operation(same if call.of().floating else real, (0,))
    kinds = {6: torch.int32, 7: torch.int64, 2: torch.uint8, 3: torch.int8, 9: torch.bool}
    if to not in kinds:
        raise NotImplementedError("to a type other than float, int8, uint8, int32, int64 or bool")
    return Operation(partial(_as_type, kind=kinds[to]), (0,))


def _as_type(x: Tensor, kind: torch.dtype) -> Tensor:
    return x.to(kind)


def _cast_like(call: Call) -> Operation:
    like = call.values[1]
    floating = like.floating if isinstance(like, Computed) else like.arrays[0].dtype.kind == "f"  # type: ignore[union-attr]
    if not floating or not call.of().floating:
        raise NotImplementedError("between types")
    return Operation(same, (0,))


def _gemm(call: Call) -> Operation:
    if call.of().shifted or not isinstance(call.values[1], Known):
        raise Inflexible("a matrix product with the batch in neither dimension")
    return Operation(
        partial(
            _product,
            alpha=float(call.get("alpha", 1.0)),
            beta=float(call.get("beta", 1.0)),
            left=bool(call.get("transA", 0)),
            right=bool(call.get("transB", 0)),
        ),
        (0, 1, 2) if call.has(2) else (0, 1),
    )


def _product(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    left: bool,
    right: bool,
) -> Tensor:
    x, w = (x.t() if left else x), (w if right else w.t())
    if alpha == beta == 1 and b is not None and b.shape == w.shape[:1]:
        return functional.linear(x, w, b)
    product = functional.linear(x, w)
    product = product if alpha == 1 else product * alpha
    if b is None:
        return product
    return product + (b if beta == 1 else b * beta)


def _reduced(name: str) -> Callable[[Call], Operation]:
    """An operation over dimensions, which are an input since version 13 or 18."""

    def made(call: Call) -> Operation:
        axes = call.whole(1, "axes")
        rank = call.rank()
        if not axes:
            if call.get("noop_with_empty_axes", 0):
                return Operation(same, (0,))
            axes = list(range(rank))
        axes = sorted(axis % rank for axis in axes)
        if call.of().axis in axes:
            raise Inflexible("a mean, sum or extremum across images")
        keep = bool(call.get("keepdims", 1))
        return Operation(partial(_REDUCTIONS[name], dim=tuple(axes), keepdim=keep), (0,))

    return made


def _powers(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return (x * x).sum(dim, keepdim)


def _root(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x, 2, dim, keepdim)
    return found


def _sizes_of(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return x.abs().sum(dim, keepdim)


_REDUCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL1": _sizes_of,
    "ReduceL2": _root,
    "ReduceSumSquare": _powers,
    "ReduceLogSumExp": torch.logsumexp,
}


def _average_pool(call: Call) -> Operation:
    if set(call.get("dilations", [1])) != {1} or call.rank() != 4:
        raise NotImplementedError("with other than two dimensions, or dilated")
    size = tuple(call.get("kernel_shape"))
    stride = tuple(call.get("strides", (1, 1)))
    pads = pads_of(call, size, stride, (1, 1))
    inside = not call.get("count_include_pad", 0)
    ceiling = bool(call.get("ceil_mode", 0))
    if pads[:2] == pads[2:]:
        call_ = partial(_averaged, size=size, stride=stride, padding=tuple(pads[:2]),
                        ceiling=ceiling, counted=not inside)  # fmt: skip
        return Operation(call_, (0,))
    if ceiling:
        raise NotImplementedError("with ceil_mode and asymmetric pads")
    top, left, bottom, right = pads
    around = (left, right, top, bottom)
    return Operation(
        partial(_averaged_unevenly, size=size, stride=stride, around=around, inside=inside), (0,)
    )


def _averaged(
    x: Tensor, size: Shape, stride: Shape, padding: Shape, ceiling: bool, counted: bool
) -> Tensor:
    return functional.avg_pool2d(x, size, stride, padding, ceiling, counted)


def _averaged_unevenly(
    x: Tensor, size: Shape, stride: Shape, around: Shape, inside: bool
) -> Tensor:
    found = functional.avg_pool2d(functional.pad(x, around), size, stride)
    if not inside:
        return found
    ones = torch.ones_like(x[:1, :1])
    return found / functional.avg_pool2d(functional.pad(ones, around), size, stride)


def pads_of(
    call: Call, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Pads before and after each side, those of the attribute `auto_pad` computed."""
    auto = call.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return list(call.get("pads", [0] * 2 * len(size)))
    if auto == "VALID":
        return [0] * 2 * len(size)
    before, after = [], []
    sides = call.of().shapes[1][2:]
    for side, k, s, d in zip(sides, size, stride, dilation, strict=True):
        needed = max(0, (-(-side // s) - 1) * s + (k - 1) * d + 1 - side)
        less, more = needed // 2, needed - needed // 2
        before.append(less if auto == "SAME_UPPER" else more)
        after.append(more if auto == "SAME_UPPER" else less)
    return before + after


def _global_max(call: Call) -> Operation:
    return Operation(partial(torch.amax, dim=tuple(range(2, call.rank())), keepdim=True), (0,))


def _gelu(call: Call) -> Operation:
    return Operation(partial(functional.gelu, approximate=call.get("approximate", "none")), (0,))


def _group_norm(call: Call) -> Operation:
    if call.node.version < 21:
        raise NotImplementedError("with scales per group; export with opset 21")
    groups, epsilon = int(call.get("num_groups")), float(call.get("epsilon", 1e-5))
    return Operation(partial(_grouped, groups=groups, epsilon=epsilon), (0, 1, 2))


def _grouped(x: Tensor, w: Tensor, b: Tensor, groups: int, epsilon: float) -> Tensor:
    return functional.group_norm(x, groups, w, b, epsilon)


def _rms_norm(call: Call) -> Operation:
    axis, epsilon = call.axis(-1), float(call.get("epsilon", 1e-5))
    return Operation(partial(_root_mean_squared, axis=axis, epsilon=epsilon), (0, 1))


def _root_mean_squared(x: Tensor, w: Tensor, axis: int, epsilon: float) -> Tensor:
    found: Tensor = functional.rms_norm(x, x.shape[axis:], None, epsilon) * w
    return found


def _prelu(call: Call) -> Operation:
    return Operation(_sloped, (0, 1))


def _sloped(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, slope * x)


def _resize(call: Call) -> Operation:
    """Of the sides of images, in the ways that torch has, too; others are refused by value."""
    if call.rank() != 4 or call.get("antialias", 0):
        raise NotImplementedError("in another mode than torch's")
    mode = call.get("mode", "nearest")
    way = call.get("coordinate_transformation_mode", "half_pixel")
    if call.node.kind == "Upsample" or call.node.version < 11:
        way = "asymmetric"
    size = _resized(call)
    sides = call.of().shapes[1][2:]
    if mode == "nearest":
        if any(new % side for new, side in zip(size, sides, strict=True)):
            raise NotImplementedError("to the nearest, by a factor that is not an integer,")
        return Operation(partial(_interpolated, size=size, mode="nearest", corners=None), (0,))
    kinds = {"linear": "bilinear", "cubic": "bicubic"}
    if mode not in kinds or way not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise NotImplementedError("in another mode than torch's")
    corners = way == "align_corners"
    return Operation(partial(_interpolated, size=size, mode=kinds[mode], corners=corners), (0,))


def _resized(call: Call) -> Shape:
    """The sides that images are resized to."""
    place = 1 if call.node.kind == "Upsample" or call.node.version < 11 else 2
    sides = call.of().shapes[1][2:]
    if call.has(place) and call.array(place).size:
        factors = [float(factor) for factor in call.array(place).reshape(-1)][-2:]
        exact = [side * factor for side, factor in zip(sides, factors, strict=True)]
        if any(abs(side - round(side)) > WHOLE for side in exact):
            raise NotImplementedError("by a factor that gives no whole side")
        return tuple(map(int, exact))
    given = call.values[3] if call.has(3) else None
    if not isinstance(given, Known):
        raise NotImplementedError("to a size that depends on the images")
    return tuple(int(size) for size in given.arrays[1].reshape(-1)[-2:])


def _interpolated(x: Tensor, size: Shape, mode: str, corners: bool | None) -> Tensor:
    return functional.interpolate(x, size, mode=mode, align_corners=corners)


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """Scales or zero points shaped to broadcast along a dimension."""
    return (
        values
        if values.dim() != 1 or len(values) == 1
        else values.reshape([-1 if at == axis else 1 for at in range(x.dim())])
    )


def _quantize(call: Call) -> Operation:
    if call.get("block_size", 0):
        raise NotImplementedError("in blocks")
    ends = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}
    if call.has(2):
        kind = {"uint8": 2, "int8": 3, "uint16": 4, "int16": 5}.get(str(call.array(2).dtype), 0)
    else:
        kind = call.get("output_dtype", 0) or 2
    if kind not in ends:
        raise NotImplementedError("to another type than 8 or 16 bits")
    low, high = ends[kind]
    places = (0, 1, 2) if call.has(2) else (0, 1)
    axis = call.axis(1) if call.rank() > 1 else 0
    return Operation(partial(_quantized, low=low, high=high, axis=axis), places)


class _Steps(torch.autograd.Function):
    """Rounding whose gradient is that of not rounding, the straight-through estimator.

    Source: Bengio, Léonard and Courville 2013, arXiv 1308.3432. The true one is zero wherever it
    exists, so that no attack by gradients would find anything.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream


def _quantized(
    x: Tensor, scale: Tensor, zero: Tensor | None = None, *, low: int, high: int, axis: int
) -> Tensor:
    steps: Tensor = _Steps.apply(x / _along(scale, x, axis))
    shifted = steps if zero is None else steps + _along(zero.to(x.dtype), x, axis)
    return shifted.clamp(low, high)


def _dequantize(call: Call) -> Operation:
    if call.get("block_size", 0):
        raise NotImplementedError("in blocks")
    axis = call.axis(1) if call.rank() > 1 else 0
    return Operation(partial(_dequantized, axis=axis), (0, 1, 2) if call.has(2) else (0, 1))


def _dequantized(x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int) -> Tensor:
    shifted = x if zero is None else x - _along(zero.to(scale.dtype), x, axis)
    return shifted * _along(scale, x, axis)


def _swish(call: Call) -> Operation:
    return Operation(partial(_gated, alpha=float(call.get("alpha", 1.0))), (0,))


def _gated(x: Tensor, alpha: float) -> Tensor:
    return x * torch.sigmoid(alpha * x)


OPERATIONS: Mapping[str, Callable[[Call], Operation]] = {
    **MOVES,
    "AveragePool": _average_pool,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "DequantizeLinear": _dequantize,
    "Dropout": _dropout,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalMaxPool": _global_max,
    "GroupNormalization": _group_norm,
    "Mish": lambda call: Operation(functional.mish, (0,)),
    "PRelu": _prelu,
    "QuantizeLinear": _quantize,
    "RMSNormalization": _rms_norm,
    "Resize": _resize,
    "Swish": _swish,
    "Upsample": _resize,
    **{name: _reduced(name) for name in _REDUCTIONS},
}
