"""Whether a network's gradient arrives, and is that of what it answers, on a few images."""

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustkit.attacks.contract import AGAIN, COMPANY, ROUNDING
from robustkit.attacks.inside import zero_slopes
from robustkit.attacks.library import drawn
from robustkit.attacks.prepared import compared, logits_and_gradient
from robustkit.errors import NetworkFailed
from robustkit.network import ROUNDED, answer, apart, gradient, spread
from robustkit.parsing import in_percent
from robustkit.seeding import seeded
from robustkit.statistics.estimate import counted

STEPS = (0.001, 1 / 255, 0.03, 0.1)
"""up and down along the gradient's sign: short ones for what bends, long ones for what has steps"""
TELLS = 1e-3
"""of the logits' spread: less than that is no rise to be expected"""
RISES = 0.75
"""share of images at which the output must rise at one of the steps; half of them do by chance"""
DOUBLED = [0.001 * 2**k for k in range(8)]
"""steps in random directions, from short ones to those that are longer than what is rounded"""
LINEAR = 0.9
"""of the changes at a step, squared, that are twice those at half of it: then the network has a
slope there; where it is rounded it has none"""
FOLLOWS = 0.8
"""share of such changes that its gradient must account for. Measured: 0.85 and more of networks in
float32, bfloat16 and behind roundings with a way back, and 0.4 to 0.75 where a part sends none"""
FEWEST = 4
"""images of which such a share is taken"""
ENDS = 4
"""images at which the gradient is looked at in black and white, too"""
SHORT = 1 / 255
"""a step that takes no image off a plateau, but changes what a gradient should follow"""


class Arrival(NamedTuple):
    """What arrives at the pixels of images of the gradient of their logits."""

    missing: Tensor
    """N, which images it does not arrive at: it is 0 at all of their pixels"""
    undefined: float
    """share of pixels at which it is NaN or infinite"""


def arrival(model: torch.nn.Module, images: Tensor) -> Arrival:
    """What arrives at images, N × C × H × W, and at a few of them in black and white.

    Where it arrives at some images, those are not missing at which a plain network has none: dead
    ones, and those that a short step takes to where it is.
    """
    try:
        _, slope = _slope(model, torch.cat([images, images[:ENDS].round()]))
        missing = _all_zero(slope[: len(images)])
        if missing.all():
            return Arrival(missing, 0.0)
        if missing.any():
            missing = _held(model, images, missing)
    except (NetworkFailed, torch.OutOfMemoryError):
        # an image alone takes less, and nothing is said of the others that may be wrong
        found = arrival(model, images[:1]).missing if len(images) > 1 else torch.ones(1).bool()
        return Arrival(found.expand(len(images)), 0.0)
    return Arrival(missing, float((~slope.isfinite()).float().mean()))


def _held(model: torch.nn.Module, images: Tensor, missing: Tensor) -> Tensor:
    """Which of the images without a gradient have an output that does not stay as it is, N.

    Dead images of a plain network are few, answer the same, and go on to after a short step.
    Those of a network that saturates or detaches its logits do not.
    """
    source = torch.Generator().manual_seed(0)
    sign = torch.rand(images.shape, generator=source).to(images).sub(0.5).sign()
    with seeded(0, images.device), torch.no_grad():
        here: Tensor = answer(model, images)
    with seeded(0, images.device):
        there, slope = _slope(model, (images + SHORT * sign).clamp(0, 1))
    held, scale = missing & _all_zero(slope), spread(here)
    alike = here[held][:1].expand_as(here[held])
    if 2 * int(held.sum()) > len(images) or (
        bool(held.any()) and apart(here[held], alike, scale) > COMPANY
    ):
        return held
    moved = [apart(*pair, scale) > COMPANY for pair in zip(here, there, strict=True)]
    return held & torch.tensor(moved, device=held.device)


def _all_zero(slope: Tensor) -> Tensor:
    return (slope == 0).flatten(1).all(1)


def _slope(model: torch.nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the gradient of their sum, weighted, in the pixels; zeros where there is none."""
    x = images.clone().requires_grad_()
    with torch.enable_grad():
        logits: Tensor = answer(model, x)
        found = None
        if logits.requires_grad:
            # each with a weight of its own: probabilities sum to 1, whose gradient is zero
            weights = torch.arange(1, logits.shape[1] + 1, device=x.device)
            found = gradient((logits.float() * weights).sum(), x, allow_unused=True)
    return logits.detach(), torch.zeros_like(images) if found is None else found


def doubts(model: torch.nn.Module, images: Tensor, *, random: bool = False) -> tuple[str, ...]:
    """What is wrong with the gradient of a network, in words.

    Args:
        model: frozen, from pixels in [0, 1] to logits.
        images: a few, N × C × H × W.
        random: whether its passes differ; nothing is said of one whose draws no seed repeats.
    """
    found: list[str] = []
    # whatever breaks here breaks in the attack, and is told there
    with suppress(NetworkFailed, torch.OutOfMemoryError):
        if random and not _repeats(model, images[:1]):
            return ()
        if (share := _differs(model, images, random)) > ROUNDING:
            found.append(
                f"the network's logits differ by {share:.2g} of their spread where a gradient is "
                "asked for: gradient attacks follow another function than the one that is judged, "
                "and what they do not find is not robustness"
            )
        way = _Way.of(model, compared(images))
        risen, asked = _rising(model, way)
        if risen < RISES * asked:
            found.append(
                f"a step along the gradient raises the network's output at {risen} of "
                f"{counted(asked, 'image')} only: attacks that follow it find little, which is "
                "not robustness; check its backward passes; square and hopskipjump need no "
                "gradients"
            )
        elif (share := _accounted(model, way)) < FOLLOWS:
            found.append(
                f"the gradient accounts for {in_percent(share, 0)} of how the network's output "
                "changes around the images: a part of it sends none back, or another (no_grad, "
                "detach), and attacks that follow the rest find less, which is not robustness; "
                "square and hopskipjump need no gradients"
            )
    return tuple(found)


def without_at_ends(model: torch.nn.Module, images: Tensor) -> tuple[str, ...]:
    """What is wrong with the gradient where a pixel is exactly 0 or 1, in words."""
    found = zero_slopes(model, images)
    if not found.drop:
        return ()
    return (
        f"the gradient is 0 at {in_percent(found.at, 0)} of the pixels that are exactly 0 or 1, "
        f"but at {in_percent(found.inside, 0)} of them a little inside (a clamp to [0, 1], a ReLU "
        "or a power of the pixels): attacks at a budget take it there, but those that look for the "
        "smallest perturbation leave such pixels as they are, which is not robustness; leave that "
        "operation out, or clamp to a little more than [0, 1]",
    )


def _repeats(model: torch.nn.Module, image: Tensor) -> bool:
    """Whether all that a network draws is drawn from global generators: a seed repeats it."""
    _, before = drawn(lambda: None, 0, image.device)
    once, after = drawn(_without(model, image), 0, image.device)
    passes = (drawn(_without(model, image), 0, image.device)[0] for _ in range(AGAIN))
    return before != after and all(apart(z, once, spread(once)) <= COMPANY for z in passes)


def _without(model: torch.nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """A pass without gradients."""

    def asked() -> Any:
        with torch.no_grad():
            return answer(model, images)

    return asked


def _differs(model: torch.nn.Module, images: Tensor, random: bool) -> float:
    """How far logits with a gradient lie from those without."""

    def asked() -> Any:
        with torch.enable_grad():
            return answer(model, images.clone().requires_grad_())

    without, left = drawn(_without(model, images), 0, images.device)
    logits, then = drawn(asked, 0, images.device)
    if random and left != then:  # a kernel of another kind draws otherwise, which is no fault
        return 0.0
    return apart(logits, without, spread(without))


class _Way(NamedTuple):
    """Where a network stands and where its gradient points, at a few images N × C × H × W."""

    images: Tensor
    slope: Tensor | None
    """of the output, the logits' sum with a weight of its own for each class; None: none"""
    spread: float
    """of the logits"""

    @classmethod
    def of(cls, model: torch.nn.Module, images: Tensor) -> "_Way":
        """That of `logits_and_gradient`; all passes draw the same."""
        with seeded(0, images.device):
            logits, slope = logits_and_gradient(model, images)
        return cls(images, slope, spread(logits))

    def both(self, model: torch.nn.Module, step: float, sign: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the output should change between a step back and one forth, and does, N."""
        assert self.slope is not None
        up, down = ((self.images + s * step * sign).clamp(0, 1) for s in (1, -1))
        promised = (self.slope * (up - down)).double().flatten(1).sum(1)
        device = self.images.device
        above, below = (drawn(_without(model, x), 0, device)[0].double() for x in (up, down))
        change = above - below
        rounding = ROUNDED * torch.maximum(above.abs(), below.abs())
        weights = torch.linspace(-1, 1, change.shape[1], device=device).double()
        return promised, torch.where(change.abs() > rounding, change, 0) @ weights


def _rising(model: torch.nn.Module, way: _Way) -> tuple[int, int]:
    """At how many of how many images the output rises along its gradient, at the best step.

    Images whose gradient promises nothing to speak of are left out, and those at which a step
    changes nothing, as between two steps of a rounding.
    """
    if way.slope is None:
        return 0, 0
    tells, best = TELLS * way.spread, (0, 0)
    for step in STEPS:
        promised, rise = way.both(model, step, way.slope.sign())
        rise = rise[(promised > tells) & (rise != 0)]
        found = int((rise > 0).sum()), len(rise)
        if len(rise) >= FEWEST and found[0] * best[1] >= best[0] * found[1]:
            best = found
    return best


def _accounted(model: torch.nn.Module, way: _Way) -> float:
    """The share of the output's changes, squared, that the gradient foretells, at the best step.

    In a random direction, up to a factor for all images, and where the output has a slope at all:
    at steps where it changes as much again when they are doubled. 1 where it has none.
    """
    if way.slope is None:
        return 1.0
    source = torch.Generator().manual_seed(0)
    sign = torch.rand(way.images.shape, generator=source).to(way.images).sub(0.5).sign()
    found = [way.both(model, step, sign) for step in DOUBLED]
    best = []
    for (promised, change), (_, doubled) in pairwise(found):
        off = (doubled - 2 * change).square().sum()
        if off < (1 - LINEAR) * doubled.square().sum() and bool(promised.any()):
            share = (promised @ change) ** 2 / ((promised @ promised) * (change @ change))
            best.append(float(share))
    return max(best, default=1.0)
