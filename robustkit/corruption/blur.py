"""Blur: out of focus, through frosted glass, moved, zoomed."""

import numpy as np
import torch
from torch import Tensor

from robustkit.corruption.draws import Drawn, uniform
from robustkit.corruption.filters import convolve, disk, enlarge, smooth, streak
from robustkit.corruption.pixels import cut, unit
from robustkit.corruption.tables import Constants

SLACK = 1e-9
"""added before truncation where sums are not exact: what should be an integer then is one"""


def defocus(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """Every point spread over a disk."""
    radius, alias = constants
    return cut(convolve(unit(images), disk(radius, alias)) + SLACK)


def draw_glass(image: Tensor, constants: Constants, source: torch.Generator) -> Drawn:
    """Steps down and right in −reach … reach − 1, for every pixel; rounds × 2 × H × W."""
    reach, rounds = int(constants[1]), int(constants[2])
    shape = (rounds, 2, *image.shape[1:])
    return (torch.randint(-reach, reach, shape, generator=source),)


def glass(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """Blurred, pixels replaced by ones nearby, blurred again.

    The benchmarks mean to swap two pixels, yet their swap writes over the one before it reads it:
    a pixel takes the value of the other, which keeps its own. Their images are made so, and ours.
    """
    (sigma, reach, _), (steps,) = constants, drawn
    images = cut(smooth(unit(images), sigma))
    for turn in range(steps.shape[1]):
        images = _stir(images, steps[:, turn], int(reach))
    return cut(smooth(unit(images), sigma))


def _stir(images: Tensor, steps: Tensor, reach: int) -> Tensor:
    """One round: from the last pixel to the first, each takes the value its step leads to.

    A pixel that comes later in the image has taken its own new value by then, so a value may be
    handed on many times. Chains of pixels are followed by doubling: after k turns each pixel knows
    where its value came from 2**k steps ago.
    """
    n, c, height, width = images.shape
    count = height * width
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)
    here = rows * width + columns
    moved = (rows > reach) & (rows <= height - reach) & (columns > reach)
    moved = moved & (columns <= width - reach)
    target = torch.where(moved, (rows + steps[:, 0]) * width + columns + steps[:, 1], here)
    renewed = (target > here) & moved.flatten()[target]
    # entries from `count` on stand for values from before the round
    origin = torch.where(renewed, target, target + count).flatten(1)
    before = torch.arange(count, 2 * count, device=images.device).expand(n, -1)
    chain = torch.cat([origin, before], 1)
    while bool((chain < count).any()):
        chain = chain.gather(1, chain)
    index = (chain[:, :count] - count)[:, None].expand(n, c, -1)
    return images.flatten(2).gather(2, index).view_as(images)


def draw_motion(image: Tensor, constants: Constants, source: torch.Generator) -> Drawn:
    """The direction in degrees, at most 45 from the horizontal."""
    return (uniform((), source, -45, 45),)


def motion(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """Smeared in one direction."""
    (radius, sigma), (angles,) = constants, drawn
    return streak(images, radius, sigma, angles)


def zoom(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """The mean of the image and of its enlargements, in float32 as in the benchmarks."""
    stop, step = constants
    single = unit(images).float()
    pixels = single.double()
    total = torch.zeros_like(single)
    factors = np.arange(1, stop, step).tolist()
    for factor in factors:
        total += enlarge(pixels, factor).float()
    return cut((single + total) / (len(factors) + 1))
