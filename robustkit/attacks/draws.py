"""Random draws that belong to an image, not to a batch.

Every draw comes from a generator seeded by a digest of names (seed, image, attack, budget,
restart), so that order, batch size and number of workers cannot change it.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from robustkit.files import digest
from robustkit.geometry import ORDER
from robustkit.protocol import Norm

Distribution = Literal["uniform", "gaussian"]


def seed_of(*names: object) -> int:
    """63 bits from a digest of names."""
    return int(digest(*map(str, names))[:16], 16) >> 1


def generator(*names: object) -> torch.Generator:
    """A CPU generator seeded from a digest of names."""
    return torch.Generator().manual_seed(seed_of(*names))


def in_ball(norm: Norm, shape: torch.Size, source: torch.Generator) -> Tensor:
    """A uniform draw from the unit ball of a norm; `shape` is one image's, C × H × W.

    L2 by Voelker et al. 2017 (two extra coordinates of a point on the sphere), L1 by Barthe et
    al. 2005 (exponentials over their sum and one more).
    """
    n = shape.numel()
    if norm == "linf":
        return torch.rand(shape, generator=source) * 2 - 1
    if norm == "l2":
        point = torch.randn(n + 2, generator=source)
        return (point / point.pow(2).sum().sqrt())[:n].reshape(shape)
    size = torch.empty(n + 1).exponential_(generator=source)
    sign = torch.randint(0, 2, (n,), generator=source) * 2 - 1
    return (size[:n] * sign / size.sum()).reshape(shape)


def on_sphere(norm: Norm, shape: torch.Size, source: torch.Generator) -> Tensor:
    """A Gaussian draw scaled to the unit sphere of a norm; `shape` is one image's, C × H × W."""
    draw = torch.randn(shape, generator=source)
    size: Tensor = torch.linalg.vector_norm(draw, ord=ORDER[norm])
    return draw / size


def starts(
    draw: Callable[[Norm, torch.Size, torch.Generator], Tensor],
    norm: Norm,
    images: Tensor,
    sources: Sequence[torch.Generator | None],
) -> Tensor:
    """A draw for each image, on its device; zeros where there is no generator."""
    nothing = torch.zeros(images.shape[1:])
    drawn = [nothing if s is None else draw(norm, images.shape[1:], s) for s in sources]
    return torch.stack(drawn).to(images)


def stream(keys: Tensor, step: Tensor, count: int) -> Tensor:
    """Uniform draws in [0, 1), float64 N × count: those of each row's key at each row's step.

    SplitMix64 (Steele et al. 2014) as a counter-based generator, on the device of `keys`, int64 N:
    a draw depends on nothing but key, step and place.
    """
    place = torch.arange(count, device=keys.device)
    # SplitMix64's state after n draws is seed + n γ: any draw is reached without those before it
    counter = step[:, None] * count + place + 1
    z = keys[:, None] + counter * _GOLDEN
    z = (z ^ _shifted(z, 30)) * _MIX_1
    z = (z ^ _shifted(z, 27)) * _MIX_2
    z = z ^ _shifted(z, 31)
    # the upper 53 bits, as many as a float64 holds
    return _shifted(z, 11).double() / 2**53


def _shifted(z: Tensor, places: int) -> Tensor:
    """A logical shift to the right; torch's own keeps the sign."""
    return (z >> places) & ((1 << (64 - places)) - 1)


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
