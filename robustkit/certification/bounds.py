"""What a network's numbers can be over a region: intervals, linear relaxations, rounding.

Intervals are those of Gowal et al. 2018, the linear relaxation is CROWN (Zhang et al. 2018): a
lower bound of a linear function of a step's result is carried back to the images, each ReLU,
sigmoid and max pool replaced by the linear function below or above it that its interval allows.
Everything is float64; N images, S linear functions ("slopes") for each. The numbers bounded are
those of the network as it is run, rounding included, and the bounds hold in spite of their own: see
`roundoff.py`, which derives the error of each step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from robustkit.certification.graph import (
    Add,
    Affine,
    BoundGraph,
    Input,
    MaxPool,
    Relu,
    Sigmoidal,
    Step,
    flattened,
)
from robustkit.certification.region import Region
from robustkit.certification.roundoff import (
    IEEE,
    LIBRARY,
    OVERFLOW,
    TINY,
    UNDERFLOW,
    own_arithmetic,
)
from robustkit.certification.rows import CELLS
from robustkit.certification.sigmoidal import lines
from robustkit.protocol import Norm

Interval = tuple[Tensor, Tensor]
"""lowest and highest, both N × a step's shape"""
LEAST = 1e-70
"""of a factor and of a weight, over the largest: the product of their squares stays above 1e-281"""


def intervals(
    graph: BoundGraph, region: Region, known: dict[int, Interval] | None = None
) -> list[Interval]:
    """Every step's interval by interval arithmetic, cut by those already `known` by step.

    Each holds what the network computes at the step, float32's rounding included. In L2 and L1 the
    first layer that mixes pixels is also measured against the ball itself, by the dual norm of its
    rows: the interval of pixels is as wide as in Linf.
    """
    results: list[Interval] = []
    stretch: dict[int, Tensor] = {}
    carried = {0: torch.zeros_like(region.images[:1])}
    if region.norm != "linf":
        stretch[0] = torch.ones_like(region.images[:1])
    for index, step in enumerate(graph.steps):
        low, high = _interval(step, results, region)
        error = local_error(graph, index, [*results, (low, high)])
        if error is not None:
            low, high = low - error, high + error
        if isinstance(step, Affine) and step.source in stretch:
            # rows are measured around the exact value: what was lost on the way is added up
            before = step.absolute(carried[step.source])
            carried[index] = before if error is None else before + error
            stretched = _stretched(step, stretch[step.source], region.norm)
            if stretched is not None and step.diagonal:
                if not _repeats(graph, step):
                    stretch[index] = stretched
            elif stretched is not None:
                half = stretched * region.radius * (1 + 1e-9) + carried[index]
                low, high = _cut((low, high), _around(graph, region, index, half))
        if known and index in known:
            low, high = _cut((low, high), known[index])
        results.append((low, high))
    return results


def _interval(step: Step, before: Sequence[Interval], region: Region) -> Interval:
    match step:
        case Input():
            return region.interval()
        case Affine(terms=0):  # moved, each number as it is
            low, high = before[step.source]
            return step.apply(low), step.apply(high)
        case Affine():
            # middle and radius: two passes, where splitting weights by sign would take four
            low, high = before[step.source]
            middle = step.apply((low + high) / 2)
            half = step.absolute((high - low) / 2)
            return middle - half, middle + half
        case Add(sources=(one, other)):
            return before[one][0] + before[other][0], before[one][1] + before[other][1]
        case _:  # ReLU, sigmoid and max pool never fall: the ends of the interval go to the ends
            low, high = before[step.source]
            return step.apply(low), step.apply(high)


def _cut(one: Interval, other: Interval) -> Interval:
    """The intersection; rounding may not leave it empty."""
    low = torch.maximum(one[0], other[0])
    return low, torch.maximum(torch.minimum(one[1], other[1]), low)


def _stretched(step: Affine, factors: Tensor, norm: Norm) -> Tensor | None:
    """The dual norm of each row of a step after pixels were scaled by `factors`, 1 × shape.

    None where the step has no weights of its own. Of L1 it is the largest product itself: no power
    of it, since the sum of powers underflows where scales lie far apart.
    """
    if step.diagonal:
        return step.absolute(factors)
    if step.weight is None:
        return None
    if norm == "l1":
        return None if step.largest is None else step.largest(factors)
    # scaled by the largest, and kept off zero, so that no square underflows: rows may only grow
    weight, most = step.weight.abs(), step.weight.abs().max().clamp(min=1e-300)
    scale = factors.max().clamp(min=1e-300)
    squares = [(t / top).clamp(min=LEAST) ** 2 for t, top in ((factors, scale), (weight, most))]
    rows: Tensor = step.linear(squares[0], squares[1]).sqrt() * scale * most
    return rows


def _repeats(graph: BoundGraph, step: Affine) -> bool:
    """Whether a number that goes in comes out several times: copies share one part of the ball."""
    if step.weight is not None:
        return False
    ones = torch.ones(1, *step.shape, dtype=torch.float64, device=step.offset.device)
    return bool((step.pull(ones, graph.steps[step.source].shape) > 1).any())


def _around(graph: BoundGraph, region: Region, index: int, half: Tensor) -> Interval:
    """An interval around a step's value on the images themselves."""
    middle = BoundGraph(graph.steps[: index + 1]).values(region.images)[-1]
    return middle - half, middle + half


def local_error(graph: BoundGraph, index: int, bounds: Sequence[Interval]) -> Tensor | None:
    """How far a step's float32 result may be from the exact step of what went in: δ, N × shape.

    None where nothing is lost. `bounds` of the steps up to this one suffice; see `roundoff.py`.
    """
    step, roundoff = graph.steps[index], graph.roundoff
    own = own_arithmetic(_terms(step), prod(step.shape), len(graph.steps))
    match step:
        case Input():
            return None  # float32 numbers; the region takes care of its own arithmetic
        case Affine(terms=0):
            # moved; where numbers are repeated, their slopes are added up on the way back
            repeated = prod(step.shape) > prod(graph.steps[step.source].shape)
            return _size(bounds[index]) * own if repeated else None
        case Affine():
            sizes = step.absolute(_size(bounds[step.source]) + TINY, TINY)
            sizes = sizes + step.constants + 2 * step.terms * TINY
            lost = sizes * roundoff.relative(step.terms)
            if step.weight is None:  # a mean's sum may overflow before it is divided
                lost = lost.masked_fill(sizes * step.terms >= OVERFLOW, torch.inf)
            if step.weight is not None and not step.diagonal:
                terms = _products(step, bounds[step.source])
                lost = roundoff.of_sum(terms, sizes, _size(bounds[index]))
        case Add(sources=(one, other)):
            sizes = _size(bounds[one]) + _size(bounds[other]) + TINY
            lost = sizes * (0.0 if step.exact else roundoff.relative(1))
        case Relu():
            sizes = _size(bounds[step.source]) + TINY
            slope = step.slope + TINY if step.slope else 0.0
            lost = sizes * (roundoff.relative(1) * slope + own) + UNDERFLOW
            off = (bounds[step.source][1] <= 0) & (step.slope == 0)
            return lost.masked_fill(off, 0.0)  # 0, and nothing is carried back
        case Sigmoidal():
            low, high = bounds[step.source]
            share = LIBRARY / IEEE.unit * roundoff.unit
            # slope · x and offset of the relaxation's lines, together
            sizes = 2 * (step.size * step.rate * _size((low, high)) + 1)
            lost = _size((step.apply(low), step.apply(high))) * share + UNDERFLOW
        case MaxPool():
            return step.apply(_size(bounds[step.source])) * own + UNDERFLOW
    return torch.where(sizes < OVERFLOW, lost + sizes * own, torch.inf)


def _products(step: Affine, interval: Interval) -> Tensor | int:
    """How many products each sum has that may not be 0: only these are rounded."""
    low, high = interval
    there = (low != 0) | (high != 0)
    if step.weight is None or (bool(there.all()) and bool(step.weight.all())):
        return step.terms
    return step.linear(there.to(low), (step.weight != 0).to(low)).round()


def _terms(step: Step) -> int:
    return step.terms if isinstance(step, Affine) else 1


def local_errors(graph: BoundGraph, bounds: Sequence[Interval]) -> list[Tensor | None]:
    """`local_error` of every step."""
    return [local_error(graph, index, bounds) for index in range(len(graph.steps))]


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


class Carried(NamedTuple):
    """A linear function of the images, below one of a step's result."""

    arriving: dict[int, Tensor]
    """its slopes at 0, and those that came to each ReLU beside them, N × S × shape"""
    constant: Tensor
    """N × S, less `rounding`"""
    rounding: Tensor
    """N × S: what was taken off for it on the way"""


@dataclass(frozen=True, slots=True)
class LowerBounds:
    """Lower bounds of S linear functions of a step's result over each of N regions."""

    values: Tensor
    """N × S"""
    rounding: Tensor
    """N × S: what was taken off for it on the way"""


def lowest(
    graph: BoundGraph,
    bounds: Sequence[Interval],
    region: Region,
    index: int,
    slopes: Tensor,
    *,
    relax: bool,
    errors: Sequence[Tensor | None] | None = None,
    real: Sequence[Tensor | None] = (),
    multipliers: Multipliers = NONE,
) -> LowerBounds:
    """A lower bound of Σ slopes · (the result of a step) over each region; slopes N × S × shape.

    `carried`, then the minimum over the region.
    """
    arriving, total, rounding = carried(
        graph,
        bounds,
        index,
        slopes,
        relax=relax,
        errors=errors,
        real=real,
        multipliers=multipliers,
    )
    if 0 in arriving:
        total = total + region.minimum(arriving[0])
    return LowerBounds(total, rounding)


def carried(
    graph: BoundGraph,
    bounds: Sequence[Interval],
    index: int,
    slopes: Tensor,
    *,
    relax: bool,
    errors: Sequence[Tensor | None] | None = None,
    real: Sequence[Tensor | None] = (),
    multipliers: Multipliers = NONE,
) -> Carried:
    """A linear function of the images below Σ slopes · (the result of a step).

    Carried back through affine steps exactly. Without `relax` it stops at the first other step and
    takes its interval there: interval bounds with the last layers merged into the linear function.
    `errors` are `local_errors`, where they are at hand. Where `real` has a tensor for a step, 1
    where a number exists and 0 where padding stands for it, N × 1 × H × W, padding counts as 0.
    """
    errors = local_errors(graph, bounds) if errors is None else errors
    waiting = {index: slopes}
    arriving: dict[int, Tensor] = {}
    total, rounding = (slopes.new_zeros(slopes.shape[:2]) for _ in range(2))
    for i in range(index, -1, -1):
        if i not in waiting:
            continue
        a, step = waiting.pop(i), graph.steps[i]
        if real and (there := real[i]) is not None:
            a = a * there[:, None]
        if (error := errors[i]) is not None:
            rounding = rounding + _weighed(a.abs(), error)
        match step:
            case Input():
                arriving[i] = a
                continue
            case Affine():
                offset = step.offset.expand(1, *step.shape).flatten()
                total = total + a.reshape(*a.shape[:2], -1) @ offset
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
            case Sigmoidal() | MaxPool():
                inner = graph.steps[step.source].shape
                passed, constant = _through_other(step, a, bounds[step.source], inner)
                total = total + constant
                flows = [(step.source, passed)]
        for source, flow in flows:
            waiting[source] = waiting[source] + flow if source in waiting else flow
    return Carried(arriving, total - rounding, rounding)


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


def _through_other(
    step: Sigmoidal | MaxPool, a: Tensor, interval: Interval, inner: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Slopes before a step that nothing may be chosen of, and what is added."""
    if isinstance(step, MaxPool):
        return _through_pool(step, a, interval, inner)
    return _through_sigmoid(step, a, interval)


def _through_sigmoid(step: Sigmoidal, a: Tensor, interval: Interval) -> tuple[Tensor, Tensor]:
    """Slopes before a sigmoid or tanh, and what is added."""
    below, under, above, over = lines(step, *interval)
    rising, falling = a.clamp(min=0), a.clamp(max=0)
    passed = rising * below[:, None] + falling * above[:, None]
    return passed, _weighed(rising, under) + _weighed(falling, over)


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
    return (slopes.reshape(*slopes.shape[:2], -1) @ flattened(values)[..., None])[..., 0]


def _windowed(step: MaxPool, x: Tensor) -> Tensor:
    """The inputs of each window, N × C × H × W to N × C × L × P, −∞ where it overhangs."""
    padded = functional.pad(x.flatten(2), (0, 1), value=float("-inf"))
    return padded[..., step.windows]


def chunk(graph: BoundGraph, images: int, each: int) -> int:
    """How many linear functions an image may have at once, `each` slopes to one, for memory."""
    widest = max(prod(step.shape) for step in graph.steps)
    return max(1, CELLS // (widest * images * each))
