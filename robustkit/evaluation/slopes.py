"""Whether a network's gradient is that of what it answers, on a few images."""

from contextlib import suppress

import torch
from torch import Tensor

from robustkit.attacks.contract import ROUNDING
from robustkit.attacks.inside import zero_slopes
from robustkit.attacks.prepared import compared, logits_and_gradient
from robustkit.errors import NetworkFailed
from robustkit.network import ROUNDED, answer, apart, spread
from robustkit.parsing import in_percent
from robustkit.statistics.estimate import counted

STEPS = (0.001, 1 / 255, 0.03, 0.1)
"""up and down along the gradient's sign: short ones for what bends, long ones for what has steps"""
TELLS = 1e-3
"""of the logits' spread: less than that is no rise to be expected"""
RISES = 0.75
"""share of images at which the output must rise at one of the steps; half of them do by chance"""
FEWEST = 4
"""images of which such a share is taken"""


def doubts(model: torch.nn.Module, images: Tensor) -> tuple[str, ...]:
    """What is wrong with the gradient of a network that draws nothing at random, in words."""
    found: list[str] = []
    # whatever breaks here breaks in the attack, and is told there
    with suppress(NetworkFailed, torch.OutOfMemoryError):
        if (share := _differs(model, images)) > ROUNDING:
            found.append(
                f"the network's logits differ by {share:.2g} of their spread where a gradient is "
                "asked for: gradient attacks follow another function than the one that is judged, "
                "and what they do not find is not robustness"
            )
        risen, asked = _rising(model, compared(images))
        if risen < RISES * asked:
            found.append(
                f"a step along the gradient raises the network's output at {risen} of "
                f"{counted(asked, 'image')} only: attacks that follow it find little, which is "
                "not robustness; check its backward passes; square and hopskipjump need no "
                "gradients"
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


def _differs(model: torch.nn.Module, images: Tensor) -> float:
    """How far logits with a gradient lie from those without."""
    with torch.no_grad():
        without: Tensor = answer(model, images)
    with torch.enable_grad():
        logits: Tensor = answer(model, images.clone().requires_grad_())
    return apart(logits, without, spread(without))


def _rising(model: torch.nn.Module, images: Tensor) -> tuple[int, int]:
    """At how many of how many images the output rises along its gradient, at the best step.

    The output is that of `logits_and_gradient`. Images whose gradient promises nothing to speak of
    are left out, and those at which a step changes nothing, as between two steps of a rounding.
    """
    logits, slope = logits_and_gradient(model, images)
    if slope is None:
        return 0, 0
    weights = torch.linspace(-1, 1, logits.shape[1], device=images.device).double()
    tells, best = TELLS * spread(logits), (0, 0)
    for step in STEPS:
        up, down = ((images + sign * step * slope.sign()).clamp(0, 1) for sign in (1, -1))
        promised = (slope * (up - down)).double().flatten(1).sum(1)
        with torch.no_grad():
            above, below = (answer(model, x).double() for x in (up, down))
        change = above - below
        rounding = ROUNDED * torch.maximum(above.abs(), below.abs())
        rise = torch.where(change.abs() > rounding, change, 0) @ weights
        rise = rise[(promised > tells) & (rise != 0)]
        found = int((rise > 0).sum()), len(rise)
        if len(rise) >= FEWEST and found[0] * best[1] >= best[0] * found[1]:
            best = found
    return best
