"""Logits on fixed noise: whether a record on file is that of this very module.

Source does not show everything (a name put together at run time, a file changed after its import).
What it does not show, outputs mostly do.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from robustkit.network import apart, spread
from robustkit.seeding import seeded

Outputs = npt.NDArray[np.float64]
"""logits, N × K"""
IMAGES = 8
"""of noise"""
TOLERANCE = 1e-4
"""of the logits' spread: above the rounding of another batch or number of threads. A record that is
refused for nothing costs a second evaluation, one that is wrongly taken a wrong number."""


def on_noise(
    load: Callable[[torch.device], torch.nn.Module],
    shape: tuple[int, int, int],
    device: torch.device,
) -> Outputs | None:
    """A module's logits on noise of C × H × W; None where they say nothing.

    Both passes start from the same seed, so that a module that draws from the global generator of
    torch, numpy or Python draws alike, now and at every later call, and can be compared like any
    other. Where the passes differ all the same (a generator of its own, a counter, the time), no
    two calls can be compared: such a module is evaluated anew each time.
    """
    model = load(device)  # a copy of its own: passes may change it
    source = torch.Generator().manual_seed(0)
    noise = torch.rand(IMAGES, *shape, generator=source).to(device)
    try:
        first, second = (_logits(model, noise, device) for _ in range(2))
    except Exception:  # what it cannot take, the probe says in words
        return None
    return first if agree(first, second) else None


@torch.no_grad()
def _logits(model: torch.nn.Module, noise: torch.Tensor, device: torch.device) -> Outputs:
    with seeded(0, device):
        logits: Outputs = model(noise).double().cpu().numpy()
        return logits


def agree(now: Outputs | None, earlier: Outputs | None) -> bool:
    """Whether two logits are there and alike, up to rounding."""
    if now is None or earlier is None or now.shape != earlier.shape:
        return False
    one, other = torch.from_numpy(now), torch.from_numpy(earlier)
    return apart(one, other, spread(other)) <= TOLERANCE
