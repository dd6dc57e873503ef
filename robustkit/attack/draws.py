"""Random draws that belong to an image, not to a batch.

Every draw comes from a generator seeded by a digest of names (seed, image, attack, budget,
restart), so that order, batch size and number of workers cannot change it.
"""

from typing import Literal

import torch
from torch import Tensor

from robustkit.files import digest
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


ORDER: dict[Norm, float] = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
"""the p of each norm"""
