"""What a corruption draws for an image, from a generator of that image's own.

A source is seeded by a digest of seed, id, corruption and severity, so that neither the batch nor
its order can change a draw. Draws are made on the CPU in float64, whatever the device.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from robustkit.corruption.tables import Constants
from robustkit.files import digest

Drawn = tuple[Tensor, ...]
Draw = Callable[[Tensor, Constants, torch.Generator], Drawn]
"""from an image's levels (C × H × W, on the CPU) and the constants to what is drawn for it"""

VERSION = "corruption/1"
"""raised when the same names are to mean other draws"""


def source(seed: int, name: str, severity: int, image: str) -> torch.Generator:
    """The generator of one image under one corruption."""
    names = digest(VERSION, str(seed), name, str(severity), image)
    return torch.Generator().manual_seed(int(names[:16], 16) >> 1)


def nothing(image: Tensor, constants: Constants, source: torch.Generator) -> Drawn:
    """The draw of a corruption that leaves nothing to chance."""
    return ()


def normal(shape: tuple[int, ...], source: torch.Generator) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=source, dtype=torch.float64)


def uniform(
    shape: tuple[int, ...], source: torch.Generator, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Uniform numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=source, dtype=torch.float64)
