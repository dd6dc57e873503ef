"""What each operation of an exported program becomes: steps, or a refusal that names it."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from robustkit.certification.builder import Builder, named, shape_of
from robustkit.certification.graph import (
    Add,
    MaxPool,
    Relu,
    Sigmoidal,
    Unsupported,
    averaging,
    columns,
    convolution,
    matrix,
    moving,
    pair,
    pool_windows,
    square,
    zero_padding,
)
from robustkit.certification.moves import MOVING, apart
from robustkit.certification.roundoff import OVERFLOW, TINY, UNDERFLOW

aten = torch.ops.aten
LEAST_ROOT = 2.0**-15
"""of a batch norm's variance, where its weight may underflow; see `roundoff.py`"""


def _same(build: Builder, node: fx.Node, x: fx.Node, *_: object, **__: object) -> None:
    build.place[node] = build.place[x]


def _dropout(build: Builder, node: fx.Node, x: fx.Node, _p: float, train: bool) -> None:
    if train:
        raise Unsupported(f"in training mode: {named(node)}")
    build.place[node] = build.place[x]


def _convolution(
    build: Builder, node: fx.Node, x: fx.Node, weight: fx.Node, bias: Any = None, *rest: Any
) -> None:
    w, b = build.fixed(node, weight), build.bias(node, bias)
    inner, shape = build.plane(node, x), shape_of(node)
    build.add(node, convolution(build.place[x], inner, shape, w, b, rest))


def _linear(build: Builder, node: fx.Node, x: fx.Node, weight: fx.Node, bias: Any = None) -> None:
    _matrix(build, node, x, build.fixed(node, weight), build.bias(node, bias))


def _times(build: Builder, node: fx.Node, x: fx.Node, weight: fx.Node) -> None:
    if x in build.constant:
        _times_columns(build, node, x, weight)
        return
    w = build.fixed(node, weight)
    if w.dim() != 2:
        raise Unsupported(named(node))
    _matrix(build, node, x, w.t(), w.new_zeros(1))


def _times_columns(build: Builder, node: fx.Node, weight: fx.Node, x: fx.Node) -> None:
    """A weight times columns of an image's numbers."""
    w = build.fixed(node, weight)
    if w.dim() != 2 or len(build.source(node, x).shape) < 2:  # the columns would be images
        raise Unsupported(f"mixes images: {named(node)}")
    build.add(node, columns(build.place[x], shape_of(node), w))


def _plus_times(build: Builder, node: fx.Node, bias: fx.Node, x: fx.Node, weight: fx.Node) -> None:
    _matrix(build, node, x, build.fixed(node, weight).t(), build.fixed(node, bias))


def _matrix(build: Builder, node: fx.Node, x: fx.Node, w: Tensor, b: Tensor) -> None:
    if len(build.source(node, x).shape) < 1 or w.dim() != 2 or b.dim() > 2:
        raise Unsupported(named(node))
    if b.dim() == 2:  # as `addmm` broadcasts it over images
        if len(b) != 1:
            raise Unsupported(f"mixes images: {named(node)}")
        b = b[0]
    build.add(node, matrix(build.place[x], shape_of(node), w, b))


def _batch_norm(
    build: Builder,
    node: fx.Node,
    x: fx.Node,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    _momentum: float,
    epsilon: float,
) -> None:
    centre, var = build.fixed(node, mean), build.fixed(node, variance)
    gain = torch.ones_like(var) if weight is None else build.fixed(node, weight)
    shift = torch.zeros_like(var) if bias is None else build.fixed(node, bias)
    root = (var + epsilon).sqrt()
    lost = (gain != 0) & (gain.abs() < UNDERFLOW) & (root < LEAST_ROOT)  # if it is taken for 0
    if bool(((root < TINY**0.5) | (centre.abs() >= OVERFLOW) | lost).any()):
        raise Unsupported(f"numbers whose rounding no bound covers: {named(node)}")
    scale = gain / root
    view = (-1, *[1] * (len(build.source(node, x).shape) - 1))
    # ten roundings: root, quotient, two products and two sums, in whichever order
    build.diagonal(
        node,
        x,
        scale.view(view),
        (shift - centre * scale).view(view),
        # the mean's own product may underflow, too, and so may its factor
        (shift.abs() + centre.abs() * (scale.abs() + TINY)).view(view),
        10,
    )


def _any_batch_norm(build: Builder, node: fx.Node, x: fx.Node, *arguments: Any) -> None:
    weight, bias, mean, variance, training, momentum, epsilon, *_ = arguments
    if training:
        raise Unsupported(f"in training mode: {named(node)}")
    _batch_norm(build, node, x, weight, bias, mean, variance, momentum, epsilon)


def _multiply(build: Builder, node: fx.Node, one: Any, other: Any) -> None:
    x, factor = (one, other) if one in build.place else (other, one)
    w = build.broadcast(node, x, factor)
    build.diagonal(node, x, w, w.new_zeros(1), w.new_zeros(1), 2)


def _divide(build: Builder, node: fx.Node, x: Any, divisor: Any) -> None:
    w = 1 / build.broadcast(node, x, divisor)
    build.diagonal(node, x, w, w.new_zeros(1), w.new_zeros(1), 2)


def _negate(build: Builder, node: fx.Node, x: fx.Node) -> None:
    _multiply(build, node, x, -1.0)


def _add(build: Builder, node: fx.Node, one: Any, other: Any, alpha: float = 1) -> None:
    if alpha != 1:
        raise Unsupported(named(node))
    if one in build.place and other in build.place:
        _sum(build, node, build.index(node, one), build.index(node, other))
        return
    x, constant = (one, other) if one in build.place else (other, one)
    c = build.broadcast(node, x, constant)
    build.diagonal(node, x, c.new_ones(1), c, c.abs(), 2)


def _subtract(build: Builder, node: fx.Node, one: Any, other: Any, alpha: float = 1) -> None:
    if alpha != 1:
        raise Unsupported(named(node))
    if other not in build.place:
        c = build.broadcast(node, one, other)
        build.diagonal(node, one, c.new_ones(1), -c, c.abs(), 2)
        return
    if one not in build.place:
        c = build.broadcast(node, other, one)
        build.diagonal(node, other, -c.new_ones(1), c, c.abs(), 2)
        return
    minuend = build.index(node, one)
    _negate(build, node, other)
    _sum(build, node, minuend, build.place[node])


def _sum(build: Builder, node: fx.Node, one: int, other: int) -> None:
    whole, places = shape_of(node), []
    for place in (one, other):
        inner = build.steps[place].shape
        if len(inner) != len(whole):  # it would be told apart from the images by its place alone
            raise Unsupported(f"adds results of different shapes: {named(node)}")
        if inner != whole:
            zero = build.zero(node)
            build.steps.append(moving(place, whole, lambda v: v.expand(len(v), *whole), zero))
            place = len(build.steps) - 1
        places.append(place)
    build.add(node, Add((places[0], places[1]), whole))


def _relu(build: Builder, node: fx.Node, x: fx.Node, slope: float = 0.0) -> None:
    build.add(node, Relu(build.place[x], shape_of(node), slope))


def _leaky(build: Builder, node: fx.Node, x: fx.Node, slope: float = 0.01) -> None:
    if not 0 <= slope <= 1:
        raise Unsupported(f"a slope of {slope:g} below zero: {named(node)}")
    _relu(build, node, x, slope)


def _sigmoid(build: Builder, node: fx.Node, x: fx.Node) -> None:
    build.add(node, Sigmoidal(build.index(node, x), shape_of(node), 0.5, 0.5, 0.5))


def _tanh(build: Builder, node: fx.Node, x: fx.Node) -> None:
    build.add(node, Sigmoidal(build.index(node, x), shape_of(node), 1.0, 1.0, 0.0))


def _max_pool(build: Builder, node: fx.Node, x: fx.Node, *arguments: Any) -> None:
    H, W = build.plane(node, x)[-2:]
    windows = pool_windows(H, W, arguments, build.device(x))
    build.add(node, MaxPool(build.place[x], shape_of(node), arguments, windows))


def _mean(
    build: Builder, node: fx.Node, x: fx.Node, dims: Sequence[int] | None, keep: bool = False
) -> None:
    kept, count = _over(build, node, x, dims)
    build.averaged(node, x, lambda v: v.mean(kept, keep), count)


def _total(
    build: Builder, node: fx.Node, x: fx.Node, dims: Sequence[int] | None, keep: bool = False
) -> None:
    kept, count = _over(build, node, x, dims)
    build.averaged(node, x, lambda v: v.sum(kept, keep), count)


def _over(
    build: Builder, node: fx.Node, x: fx.Node, dims: Sequence[int] | None
) -> tuple[tuple[int, ...], int]:
    """Dimensions that are summed over, and how many numbers they hold."""
    inner = build.source(node, x).shape
    apart(build, node, x, *(dims or [0]))
    kept = tuple(dims or ())
    return kept, prod(inner[d % (len(inner) + 1) - 1] for d in kept)


def _average(
    build: Builder,
    node: fx.Node,
    x: fx.Node,
    size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceiling: bool = False,
    counted: bool = True,
    divisor: int | None = None,
) -> None:
    if divisor is not None:
        raise Unsupported(named(node))
    C, H, W = build.plane(node, x)
    (down, right), zero = pair(padding), build.zero(x)
    place, mapped = build.place[x], _averages(size, stride, padding, ceiling, counted)
    window = None
    if not ceiling and (counted or not (down or right)):
        # zeros of their own, then windows that are all alike
        if down or right:
            shape = (C, H + 2 * down, W + 2 * right)
            build.add(node, zero_padding(place, shape, (right, right, down, down), zero))
            place = build.place[node]
        mapped, window = _averages(size, stride, 0, False, True), square(size, stride or size, 0, 1)
    build.add(node, averaging(place, shape_of(node), mapped, zero, prod(pair(size)), window))


def _averages(*arguments: Any) -> Callable[[Tensor], Tensor]:
    return lambda v: functional.avg_pool2d(v, *arguments)


def _adaptive(build: Builder, node: fx.Node, x: fx.Node, size: Any) -> None:
    count = prod(build.plane(node, x)[1:])
    build.averaged(node, x, lambda v: functional.adaptive_avg_pool2d(v, size), count)


MOVES = {
    aten.t.default,
    aten.transpose.int,
    aten.permute.default,
    aten.view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.dims,
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
}
"""what may be done to weights"""

HANDLERS: dict[Any, Callable[..., None]] = {
    **MOVING,
    aten.conv2d.default: _convolution,
    aten.conv2d.padding: _convolution,
    aten.linear.default: _linear,
    aten.mm.default: _times,
    aten.matmul.default: _times,
    aten.addmm.default: _plus_times,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.batch_norm.default: _any_batch_norm,
    aten.mul.Tensor: _multiply,
    aten.mul.Scalar: _multiply,
    aten.div.Tensor: _divide,
    aten.div.Scalar: _divide,
    aten.neg.default: _negate,
    aten.add.Tensor: _add,
    aten.add.Scalar: _add,
    aten.sub.Tensor: _subtract,
    aten.sub.Scalar: _subtract,
    aten.relu.default: _relu,
    aten.leaky_relu.default: _leaky,
    aten.sigmoid.default: _sigmoid,
    aten.tanh.default: _tanh,
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _average,
    aten.adaptive_avg_pool2d.default: _adaptive,
    aten.mean.dim: _mean,
    aten.sum.dim_IntList: _total,
    aten.dropout.default: _dropout,
    aten.clone.default: _same,
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.contiguous.default: _same,
}
