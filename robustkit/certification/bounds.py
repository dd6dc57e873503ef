"""What a network's numbers can be over a region: intervals, linear relaxations, rounding.

Intervals are those of Gowal et al. 2018, the linear relaxation is CROWN (Zhang et al. 2018): a
lower bound of a linear function of a step's result is carried back to the images, each ReLU and
each max pool replaced by the linear function below or above it that its interval allows.
Everything is float64; N images, S linear functions ("slopes") for each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from robustkit.certification.graph import Add, Affine, BoundGraph, Input, MaxPool, Relu, Step
from robustkit.certification.region import Region, power

Interval = tuple[Tensor, Tensor]
"""lowest and highest, both N × a step's shape"""
CELLS = 2**20
"""numbers in the largest tensor of a pass: 8 MiB in float64; larger ones only miss the cache"""


@dataclass(frozen=True, slots=True)
class Roundoff:
    """How a floating-point network departs from the exact one (Higham 2002, chapter 3)."""

    unit: float = 2.0**-24
    """relative error of one operation: float32's"""
    inputs: float = 0.0
    """relative error of each factor before it is multiplied: TF32's 2⁻¹¹, otherwise 0"""

    def relative(self, terms: int) -> float:
        """Error of a sum of so many products, in any order, over the sum of their sizes."""
        if terms == 0:
            return 0.0
        # in whatever order, a product passes through its own rounding, those of n − 1 sums at most
        # and the bias's; one more is spare. Higham's γₙ = nu / (1 − nu) bounds what they come to
        roundings = (terms + 2) * self.unit
        return roundings / (1 - roundings) + 2.1 * self.inputs


def intervals(
    graph: BoundGraph, region: Region, known: dict[int, Interval] | None = None
) -> list[Interval]:
    """Every step's interval by interval arithmetic, cut by those already `known` by step.

    In L2 and L1 the first layer that mixes pixels is also measured against the ball itself, by the
    dual norm of its rows: the interval of pixels is as wide as in Linf.
    """
    results: list[Interval] = []
    stretch: dict[int, Tensor] = {}
    if region.norm != "linf":
        stretch[0] = torch.ones_like(region.images[:1])
    for index, step in enumerate(graph.steps):
        low, high = _interval(step, results, region)
        if isinstance(step, Affine) and step.source in stretch:
            stretched = _stretched(step, stretch[step.source], power(region.norm))
            if stretched is not None and step.diagonal:
                stretch[index] = stretched
            elif stretched is not None:
                ball = _around(graph, region, index, stretched * region.radius)
                low, high = _cut((low, high), ball)
        if known and index in known:
            low, high = _cut((low, high), known[index])
        results.append((low, high))
    return results


def _interval(step: Step, before: Sequence[Interval], region: Region) -> Interval:
    match step:
        case Input():
            return region.interval()
        case Affine():
            # middle and radius: two passes, where splitting weights by sign would take four
            low, high = before[step.source]
            middle = step.apply((low + high) / 2)
            half = step.absolute((high - low) / 2)
            return middle - half, middle + half
        case Add(sources=(one, other)):
            return before[one][0] + before[other][0], before[one][1] + before[other][1]
        case _:  # ReLU and max pool never fall: the ends of the interval go to the ends
            low, high = before[step.source]
            return step.apply(low), step.apply(high)


def _cut(one: Interval, other: Interval) -> Interval:
    """The intersection; rounding may not leave it empty."""
    low = torch.maximum(one[0], other[0])
    return low, torch.maximum(torch.minimum(one[1], other[1]), low)


def _stretched(step: Affine, factors: Tensor, q: int) -> Tensor | None:
    """The q-norm of each row of a step after pixels were scaled by `factors`, 1 × shape.

    None where the step has no weights of its own to raise to a power.
    """
    if step.diagonal:
        return step.absolute(factors)
    if step.weight is None:
        return None
    # scaled by the largest, and kept off zero, so that no power underflows: rows may only grow
    weight, most = step.weight.abs(), step.weight.abs().max().clamp(min=1e-300)
    scale = factors.max().clamp(min=1e-300)
    power_of = [(t / top).clamp(min=1e-4) ** q for t, top in ((factors, scale), (weight, most))]
    rows: Tensor = step.linear(power_of[0], power_of[1]) ** (1 / q) * scale * most
    return rows


def _around(graph: BoundGraph, region: Region, index: int, half: Tensor) -> Interval:
    """An interval around a step's value on the images themselves."""
    middle = BoundGraph(graph.steps[: index + 1]).values(region.images)[-1]
    return middle - half, middle + half


def rounding(graph: BoundGraph, bounds: Sequence[Interval], roundoff: Roundoff) -> list[Tensor]:
    """How far each step's result of a floating-point pass may be from the exact one, N × shape.

    A running error analysis over the whole interval: it holds for every image of the region and
    every order of summation, not for convolutions by Winograd's or Fourier transforms.
    """
    # The bounds themselves are computed in float64 without directed rounding, which torch does not
    # offer. They speak of the exact function; what is attacked is its float32 evaluation. The
    # distance between the two is bounded here with float32's unit, 2²⁹ times float64's, and taken
    # off every margin, which leaves room for the rounding of the bounds themselves.
    results: list[Tensor] = []
    for step in graph.steps:
        match step:
            case Input():
                results.append(torch.zeros_like(bounds[0][0]))
            case Affine():
                error, size = results[step.source], _size(bounds[step.source])
                fresh = step.absolute(size + error) + step.constants
                results.append(step.absolute(error) + roundoff.relative(step.terms) * fresh)
            case Add(sources=(one, other)):
                error = results[one] + results[other]
                size = _size(bounds[one]) + _size(bounds[other])
                results.append(error + roundoff.relative(1) * (size + error))
            case Relu():
                error, size = results[step.source], _size(bounds[step.source])
                fresh = roundoff.relative(1) * step.slope * (size + error)
                results.append(error + fresh)
            case MaxPool():
                results.append(step.apply(results[step.source]))
    return results


def _size(interval: Interval) -> Tensor:
    return torch.maximum(interval[0].abs(), interval[1].abs())


# -- lower bounds carried back ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Multipliers:
    """What a relaxation may choose, by ReLU step: whatever is chosen, the bound holds.

    The notation is that of Wang et al. 2021 (β-CROWN, equation 8). Both may need gradients.
    """

    alpha: Mapping[int, Tensor] = field(default_factory=dict)
    """slope of the line below a ReLU whose interval crosses 0, from the ReLU's own slope to 1,
    N × S × shape or N × 1 × shape"""
    beta: Mapping[int, Tensor] = field(default_factory=dict)
    """added to the slopes before the ReLU, likewise: at most 0 where x ≥ 0 is presumed, at least 0
    where x ≤ 0 is, and 0 elsewhere. Σ β x ≤ 0 there, so that adding it only lowers a minimum"""


NONE = Multipliers()


def lowest(
    graph: BoundGraph,
    bounds: Sequence[Interval],
    region: Region,
    index: int,
    slopes: Tensor,
    *,
    relax: bool,
    real: Sequence[Tensor | None] = (),
    multipliers: Multipliers = NONE,
) -> Tensor:
    """A lower bound of Σ slopes · (the result of a step) over each region; N × S × shape to N × S.

    `carried`, then the minimum over the region.
    """
    arriving, total = carried(
        graph, bounds, index, slopes, relax=relax, real=real, multipliers=multipliers
    )
    return total + region.minimum(arriving[0]) if 0 in arriving else total


def carried(
    graph: BoundGraph,
    bounds: Sequence[Interval],
    index: int,
    slopes: Tensor,
    *,
    relax: bool,
    real: Sequence[Tensor | None] = (),
    multipliers: Multipliers = NONE,
) -> tuple[dict[int, Tensor], Tensor]:
    """A linear function of the images below Σ slopes · (the result of a step): slopes, constant.

    The slopes that arrive at the images stand at 0, those at each ReLU beside them, N × S × shape.
    Carried back through affine steps exactly. Without `relax` it stops at the first other step and
    takes its interval there: interval bounds with the last layers merged into the linear function.
    Where `real` has a tensor for a step, 1 where a number exists and 0 where padding stands for it,
    N × 1 × H × W, padding counts as 0.
    """
    waiting = {index: slopes}
    arriving: dict[int, Tensor] = {}
    total = slopes.new_zeros(slopes.shape[:2])
    for i in range(index, -1, -1):
        if i not in waiting:
            continue
        a, step = waiting.pop(i), graph.steps[i]
        if real and (there := real[i]) is not None:
            a = a * there[:, None]
        match step:
            case Input():
                arriving[i] = a
                continue
            case Affine():
                total = total + a.flatten(2) @ step.offset.expand(step.shape).flatten()
                inner = graph.steps[step.source].shape
                pulled = step.pull(a.flatten(0, 1), inner).view(*a.shape[:2], *inner)
                flows = [(step.source, pulled)]
            case Add(sources=(one, other)):
                flows = [(one, a), (other, a)]
            case _ if not relax:
                low, high = bounds[i]
                total = total + _weighed(a.clamp(min=0), low) + _weighed(a.clamp(max=0), high)
                continue
            case Relu():
                arriving[i] = a
                alpha, beta = multipliers.alpha.get(i), multipliers.beta.get(i)
                passed, constant = _through_relu(step, a, bounds[step.source], alpha)
                if beta is not None:
                    passed = passed + beta
                total = total + constant
                flows = [(step.source, passed)]
            case MaxPool():
                inner = graph.steps[step.source].shape
                passed, constant = _through_pool(step, a, bounds[step.source], inner)
                total = total + constant
                flows = [(step.source, passed)]
        for source, flow in flows:
            waiting[source] = waiting[source] + flow if source in waiting else flow
    return arriving, total


def _through_relu(
    step: Relu, a: Tensor, interval: Interval, alpha: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Slopes before a ReLU, and what is added; where x crosses 0 it lies under its chord.

    Below lies the line of slope `alpha`, else the steeper side where the interval has more of it
    (Zhang et al. 2018, adaptive).
    """
    low, high = interval
    crossing = (low < 0) & (high > 0)
    sure = torch.where(low >= 0, 1.0, step.slope).to(low)
    # convex: the chord is above it everywhere, and any line through 0 with a slope between the two
    # pieces' is below. A positive weight needs the line below, a negative one the line above: only
    # then is the sum a lower bound, whatever the signs of the slopes that come from further up
    chord = (high - step.slope * low) / (high - low).clamp(min=1e-300)
    above = torch.where(crossing, chord, sure)
    offset = torch.where(crossing, (1 - chord) * high, torch.zeros_like(high))
    if alpha is None:
        alpha = torch.where(high > -low, 1.0, step.slope).to(low)[:, None]
    below = torch.where(crossing[:, None], alpha, sure[:, None])
    falling = a.clamp(max=0)
    passed = (a * below).addcmul_(falling, above[:, None] - below)
    return passed, _weighed(falling, offset)


def _through_pool(
    step: MaxPool, a: Tensor, interval: Interval, inner: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Slopes before a max pool, and what is added.

    Any input lies below the maximum; the one with the highest middle is taken. With c the highest
    that the others reach, and j the input that reaches most, the maximum is at most max(x_j, c), so
    it lies under the chord of that over x_j's interval: tighter than the constant it is usually
    given, and exact where j always wins.
    """
    N, C = a.shape[0], inner[0]
    low, high = (_windowed(step, side) for side in interval)  # N × C × L × P
    best = (low + high).argmax(3, keepdim=True)
    top = high.argmax(3, keepdim=True)
    bottom, peak = low.gather(3, top)[..., 0], high.gather(3, top)[..., 0]
    others = high.scatter(3, top, float("-inf")).amax(3)
    # a window of one input, or one that always wins, passes it on
    crossing = (others > bottom) & (peak > bottom)
    base = torch.where(crossing, others, torch.zeros_like(peak))
    chord = torch.where(crossing, (peak - base) / (peak - bottom).clamp(min=1e-300), 1.0)
    offset = torch.where(crossing, base - chord * bottom, 0.0)
    flat = a.flatten(3)  # N × S × C × L
    rising, falling = flat.clamp(min=0), flat.clamp(max=0)
    places = step.windows.expand(N, C, -1, -1)
    result = a.new_zeros(*flat.shape[:3], prod(inner[1:]) + 1)
    for chosen, part in ((best, rising), (top, falling * chord[:, None])):
        where = places.gather(3, chosen)[..., 0][:, None].expand_as(part)
        result.scatter_add_(3, where, part)
    return result[..., :-1].reshape(*a.shape[:2], *inner), _weighed(falling, offset)


def _weighed(slopes: Tensor, values: Tensor) -> Tensor:
    """Σ slopes · values of each image, N × S × … and N × … to N × S."""
    return (slopes.flatten(2) @ values.flatten(1)[..., None])[..., 0]


def _windowed(step: MaxPool, x: Tensor) -> Tensor:
    """The inputs of each window, N × C × H × W to N × C × L × P, −∞ where it overhangs."""
    padded = functional.pad(x.flatten(2), (0, 1), value=float("-inf"))
    return padded[..., step.windows]


def chunk(graph: BoundGraph, images: int, each: int) -> int:
    """How many linear functions an image may have at once, `each` slopes to one, for memory."""
    widest = max(prod(step.shape) for step in graph.steps)
    return max(1, CELLS // (widest * images * each))
