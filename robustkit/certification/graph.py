"""A network as a short list of steps that bounds can be carried through.

There are five kinds of step behind the images, all in float64: affine maps, ReLUs, sigmoids (tanh
is one), max pools and sums. The batch dimension stays first and no step mixes images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional, grad

from robustkit.certification.roundoff import IEEE, Roundoff
from robustkit.certification.rows import largest_products, windows

Shape = tuple[int, ...]


class Unsupported(Exception):
    """No bounds for this network; `str(error)` is the reason in one line. `certify` catches it."""


@dataclass(frozen=True, slots=True)
class Input:
    """The images."""

    shape: Shape
    """C, H, W"""


@dataclass(frozen=True, slots=True)
class Window:
    """The square of a step's input that one place of its result depends on."""

    size: int
    stride: int
    padding: int


@dataclass(frozen=True, slots=True)
class Affine:
    """A linear map and an offset: convolution, batch norm in eval mode, mean pooling, moving."""

    source: int
    """the step whose result goes in"""
    shape: Shape
    """of one image's result"""
    weight: Tensor | None
    """None where no entry of the map is negative and none is a weight"""
    linear: Callable[[Tensor, Tensor | None], Tensor]
    """of a batch and a weight of the same shape as `weight`"""
    offset: Tensor
    """broadcasts over one image's result"""
    constants: Tensor
    """likewise: the sum of the sizes of the constants in the offset, for rounding"""
    terms: int
    """roundings on the way to one number; 0 where numbers are only moved"""
    work: int
    """multiplications per image"""
    diagonal: bool = False
    """no number of the result depends on more than one that goes in"""
    transposed: Callable[[Tensor], Tensor] | None = None
    """the linear map's transpose on a batch, where it is quicker than autograd"""
    window: Window | None = None
    """where a place of the result depends on a square, alike at all places"""
    cropped: "Callable[[int, Shape, Shape], Affine] | None" = None
    """of a source and the shapes of a crop before and behind: the same step without padding"""
    largest: Callable[[Tensor], Tensor] | None = None
    """of one image's numbers, none negative: the largest |weight| · number of each row"""

    def apply(self, x: Tensor) -> Tensor:
        """N × the source's shape to N × shape."""
        return self.linear(x, self.weight) + self.offset

    def absolute(self, x: Tensor, more: float = 0.0) -> Tensor:
        """The map of absolute weights, `more` added to each, without the offset."""
        return self.linear(x, None if self.weight is None else self.weight.abs() + more)

    def pull(self, slopes: Tensor, shape: Shape) -> Tensor:
        """The transpose of the linear map: slopes B × shape to B × the source's shape."""
        if self.transposed is not None:
            return self.transposed(slopes)
        with torch.enable_grad():
            x = slopes.new_zeros(len(slopes), *shape).requires_grad_()
            # differentiable in its turn, for what ascends a bound
            (result,) = torch.autograd.grad(
                self.linear(x, self.weight), x, slopes, create_graph=slopes.requires_grad
            )
        return result


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, slope · x)."""

    source: int
    shape: Shape
    slope: float
    """0 of ReLU, up to 1 of the leaky one"""

    def apply(self, x: Tensor) -> Tensor:
        """Of a batch."""
        return functional.leaky_relu(x, self.slope) if self.slope else x.clamp(min=0)


@dataclass(frozen=True, slots=True)
class Sigmoidal:
    """size · tanh(rate · x) + centre: tanh, and sigmoid, which is (1 + tanh(x / 2)) / 2."""

    source: int
    shape: Shape
    size: float
    rate: float
    centre: float

    def apply(self, x: Tensor) -> Tensor:
        """Of a batch."""
        # sigmoid of its own keeps its relative precision where it is near 0
        return x.sigmoid() if self.centre else x.tanh()

    def odd(self, x: Tensor) -> Tensor:
        """Less the centre."""
        return self.size * (self.rate * x).tanh()

    def derivative(self, x: Tensor) -> Tensor:
        """At x, at most size · rate."""
        return self.size * self.rate / (self.rate * x).clamp(-300, 300).cosh().square()


@dataclass(frozen=True, slots=True)
class MaxPool:
    """The largest of each window."""

    source: int
    shape: Shape
    arguments: tuple[Any, ...]
    """of `functional.max_pool2d` after the images"""
    windows: Tensor
    """L × P: places in a flattened channel, H · W where a window overhangs"""

    def apply(self, x: Tensor) -> Tensor:
        """Of a batch."""
        result: Tensor = functional.max_pool2d(x, *self.arguments)
        return result


@dataclass(frozen=True, slots=True)
class Add:
    """The sum of two steps' results, as in a residual block."""

    sources: tuple[int, int]
    shape: Shape
    exact: bool = False
    """one of the two is 0 at each place, as in what is joined"""


Step = Input | Affine | Relu | Sigmoidal | MaxPool | Add


@dataclass(frozen=True, slots=True)
class BoundGraph:
    """Steps in order; the last one gives the logits."""

    steps: tuple[Step, ...]
    roundoff: Roundoff = IEEE
    """of the network as it is run, which the bounds hold for"""

    def values(self, x: Tensor) -> list[Tensor]:
        """Every step's result for a float64 batch."""
        results: list[Tensor] = []
        for step in self.steps:
            match step:
                case Input():
                    results.append(x)
                case Add(sources=(one, other)):
                    results.append(results[one] + results[other])
                case _:
                    results.append(step.apply(results[step.source]))
        return results

    def work_below(self, index: int) -> int:
        """Multiplications to carry one slope from a step back to the images."""
        needed, total = {index}, 0
        for i in range(index, -1, -1):
            if i in needed:
                step = self.steps[i]
                total += step.work if isinstance(step, Affine) else prod(step.shape)
                needed.update(sources(step))
        return total


def sources(step: Step) -> tuple[int, ...]:
    """The steps whose results go in."""
    match step:
        case Input():
            return ()
        case Add():
            return step.sources
        case _:
            return (step.source,)


def flattened(values: Tensor) -> Tensor:
    """N × … to N × numbers, one of them where a step holds a single number per image."""
    return values.reshape(len(values), -1)


def matrix(source: int, shape: Shape, w: Tensor, b: Tensor) -> Affine:
    """A matrix, outputs × inputs, times the last dimension, and a bias."""
    terms = w.shape[1]

    def linear(v: Tensor, weight: Tensor | None) -> Tensor:
        return functional.linear(v, weight)  # type: ignore[arg-type]

    def largest(v: Tensor) -> Tensor:
        rows = largest_products(w.abs()[None], v.reshape(-1, terms).t()[None])[0]
        return rows.t().reshape(1, *shape)

    return Affine(
        source,
        shape,
        weight=w,
        linear=linear,
        offset=b,
        constants=b.abs(),
        terms=terms,
        work=terms * prod(shape),
        transposed=lambda slopes: slopes @ w,
        largest=largest,
    )


def columns(source: int, shape: Shape, w: Tensor) -> Affine:
    """A matrix, outputs × inputs, times the last dimension but one."""
    terms, zero = w.shape[1], w.new_zeros(1)

    def linear(v: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return weight @ v

    def largest(v: Tensor) -> Tensor:
        many = v.reshape(-1, *v.shape[-2:])
        return largest_products(w.abs().expand(len(many), -1, -1), many).reshape(1, *shape)

    return Affine(
        source,
        shape,
        weight=w,
        linear=linear,
        offset=zero,
        constants=zero,
        terms=terms,
        work=terms * prod(shape),
        transposed=lambda slopes: w.t() @ slopes,
        largest=largest,
    )


def convolution(
    source: int, inner: Shape, shape: Shape, w: Tensor, b: Tensor, options: Sequence[Any]
) -> Affine:
    """A convolution; `options` are stride, padding, dilation and groups as far as given."""
    given = [*options, *[1, 0, 1, 1][len(options) :]]
    stride, padding, dilation, groups = given

    def linear(v: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return functional.conv2d(v, weight, None, stride, padding, dilation, groups)

    def transposed(slopes: Tensor) -> Tensor:
        size = (len(slopes), *inner)
        result: Tensor = grad.conv2d_input(  # type: ignore[no-untyped-call]
            size, w, slopes, stride, padding, dilation, groups
        )
        return result

    def cropped(source: int, inner: Shape, shape: Shape) -> Affine:
        return convolution(source, inner, shape, w, b, (stride, 0, 1, groups))

    words = isinstance(padding, str)

    def largest(v: Tensor) -> Tensor:
        edges = padding if words else pair(padding)
        seen = windows(v, w.shape[2:], pair(stride), edges, pair(dilation))
        kernels = w.abs().reshape(groups, len(w) // groups, -1)
        rows = largest_products(kernels, seen.view(groups, -1, seen.shape[2]))
        return rows.view(1, *shape)

    window = None if words else square(tuple(w.shape[2:]), stride, padding, dilation)
    terms = w[0].numel()
    return Affine(
        source,
        shape,
        w,
        linear,
        b.view(-1, 1, 1),
        b.abs().view(-1, 1, 1),
        terms,
        terms * prod(shape),
        transposed=None if words else transposed,
        window=window,
        cropped=cropped if window else None,
        largest=largest,
    )


def scaling(
    source: int, shape: Shape, w: Tensor, offset: Tensor, constants: Tensor, terms: int
) -> Affine:
    """A factor and an offset for each number."""

    def scaled(v: Tensor, weight: Tensor | None) -> Tensor:
        return v if weight is None else v * weight

    def cropped(source: int, _inner: Shape, shape: Shape) -> Affine:
        return scaling(source, shape, w, offset, constants, terms)

    alike = all(c.numel() == 1 or c.shape[1:] == (1, 1) for c in (w, offset, constants))
    return Affine(
        source,
        shape,
        w,
        scaled,
        offset,
        constants,
        terms,
        prod(shape),
        diagonal=True,
        transposed=lambda slopes: slopes * w,
        window=Window(1, 1, 0) if alike else None,
        cropped=cropped if alike else None,
    )


def moving(
    source: int,
    shape: Shape,
    moved: Callable[[Tensor], Tensor],
    zero: Tensor,
    transposed: Callable[[Tensor], Tensor] | None = None,
) -> Affine:
    """Each number of the result is one that goes in, or 0; `zero` is a float64 one."""
    return Affine(
        source,
        shape,
        weight=None,
        linear=lambda v, _: moved(v),
        offset=zero,
        constants=zero,
        terms=0,
        work=prod(shape),
        diagonal=True,
        transposed=transposed,
    )


def zero_padding(source: int, shape: Shape, edges: Sequence[int], zero: Tensor) -> Affine:
    """Zeros around the last dimensions, as `functional.pad` counts `edges`; below 0 they crop."""

    def cropped(source: int, _inner: Shape, shape: Shape) -> Affine:
        return zero_padding(source, shape, (0, 0, 0, 0), zero)

    step = moving(
        source,
        shape,
        lambda v: functional.pad(v, list(edges)),
        zero,
        lambda slopes: functional.pad(slopes, [-edge for edge in edges]),
    )
    alike = len(edges) == 4 and len(set(edges)) == 1 and edges[0] >= 0
    return replace(step, window=Window(1, 1, edges[0]), cropped=cropped) if alike else step


def averaging(
    source: int,
    shape: Shape,
    mapped: Callable[[Tensor], Tensor],
    zero: Tensor,
    count: int,
    window: Window | None = None,
) -> Affine:
    """Means of so many numbers at most; `window` is a square that all of them have, unpadded."""

    def cropped(source: int, _inner: Shape, shape: Shape) -> Affine:
        return averaging(source, shape, mapped, zero, count, window)

    return Affine(
        source,
        shape,
        weight=None,
        linear=lambda v, _: mapped(v),
        offset=zero,
        constants=zero,
        terms=count + 2,  # two more roundings are the division's
        work=count * prod(shape),
        window=window,
        cropped=cropped if window else None,
    )


def pool_windows(H: int, W: int, arguments: Sequence[Any], device: torch.device) -> Tensor:
    """Which places of a flattened H × W channel each window of a max pool covers, L × P."""
    size, stride, padding, dilation, ceiling = (*arguments, *(None,) * 5)[:5]
    kernel, step = pair(size), pair(stride or size)
    edge, gap = pair(padding or 0), pair(dilation or 1)
    across = [
        _starts(length, k, s, p, d, bool(ceiling))
        for length, k, s, p, d in zip((H, W), kernel, step, edge, gap, strict=True)
    ]
    rows, columns = (torch.tensor(a, device=device) for a in across)
    outside = ((rows < 0) | (rows >= H))[:, None, :, None] | ((columns < 0) | (columns >= W))[
        None, :, None, :
    ]
    places = rows[:, None, :, None] * W + columns[None, :, None, :]
    return places.masked_fill(outside, H * W).reshape(len(rows) * len(columns), -1)


def _starts(length: int, k: int, s: int, p: int, d: int, ceiling: bool) -> list[list[int]]:
    """Along one side: the places each window covers, some of them outside."""
    room = length + 2 * p - d * (k - 1) - 1
    count = (ceil(room / s) if ceiling else room // s) + 1
    if ceiling and (count - 1) * s >= length + p:  # no window starts in the padding behind
        count -= 1
    return [[start * s - p + d * i for i in range(k)] for start in range(count)]


def pool_window(step: MaxPool) -> Window | None:
    """The square of a max pool; None where it is none."""
    size, stride, padding, dilation = (*step.arguments, *(None,) * 4)[:4]
    return square(size, stride or size, padding or 0, dilation or 1)


def square(size: Any, stride: Any, padding: Any, dilation: Any) -> Window | None:
    """The window of these arguments of torch; None where it is no square."""
    sizes, strides, paddings = pair(size), pair(stride), pair(padding)
    if pair(dilation) != (1, 1) or any(a != b for a, b in (sizes, strides, paddings)):
        return None
    return Window(sizes[0], strides[0], paddings[0])


def pair(value: Any) -> tuple[int, int]:
    """One number or one in a list stands for both sides."""
    values = [value] if isinstance(value, int) else list(value)
    return values[0], values[-1]
