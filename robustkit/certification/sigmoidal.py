"""Lines below and above sigmoid and tanh over an interval (Zhang et al. 2018, section 3.2).

Both are s · tanh(r x) and a constant: convex below 0, concave above, odd about it. Below, the
line is the image of the one above on the mirrored interval.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from robustkit.certification.graph import Sigmoidal

HALVINGS = 12
"""for the place where a tangent touches; none is needed for a line to be one above"""


class Lines(NamedTuple):
    """Linear functions of x on both sides of a curve, each of the interval's shape."""

    below: Tensor
    """slope"""
    under: Tensor
    """value at 0"""
    above: Tensor
    over: Tensor


def lines(step: Sigmoidal, low: Tensor, high: Tensor) -> Lines:
    """Lines that no value of the exact function passes between `low` and `high`.

    Their own arithmetic has its share in the step's error, `bounds.local_error`.
    """
    above, over = _above(step, low, high)
    below, under = _above(step, -high, -low)
    return Lines(below, step.centre - under, above, step.centre + over)


def _above(step: Sigmoidal, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and value at 0 of a line above s · tanh(r x)."""
    slope = _slope(step, low, high)
    # whatever the slope is: curve less line is largest at an end of the interval, or where the
    # concave part has that slope, (s r) / cosh²(r x) = slope
    steepness = (step.size * step.rate / slope.clamp(min=1e-300)).sqrt().clamp(min=1.0)
    touching = torch.acosh(steepness) / step.rate
    inside = torch.minimum(torch.maximum(touching, low), high)
    gaps = [step.odd(x) - slope * x for x in (low, high, inside)]
    return slope, torch.maximum(torch.maximum(gaps[0], gaps[1]), gaps[2])


def _slope(step: Sigmoidal, low: Tensor, high: Tensor) -> Tensor:
    """A good slope above: the chord's where that lies above, else a tangent's.

    Where x crosses 0 that is the tangent through the lower end of the curve.
    """
    width = high - low
    chord = (step.odd(high) - step.odd(low)) / width.clamp(min=1e-9)
    # further out the curve is flat
    reached, inner = high.clamp(max=20 / step.rate), low.clamp(min=0)
    for _ in range(HALVINGS):
        middle = (reached + inner) / 2
        rise = step.odd(middle) - step.derivative(middle) * (middle - low)
        over = rise >= step.odd(low)
        reached, inner = torch.where(over, middle, reached), torch.where(over, inner, middle)
    tangent = torch.where(low >= 0, (low + high) / 2, reached)
    convex = (high <= 0) | ((low < 0) & (chord <= step.derivative(high)))
    slope = torch.where(convex & (width > 1e-6), chord, step.derivative(tangent))
    return slope.clamp(0, step.size * step.rate)
