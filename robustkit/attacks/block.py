"""What goes into the engine, and what comes out: a block of images and what is known of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustkit.attacks.passes import Passes
from robustkit.protocol import Protocol

Progress = Callable[[float], None]
"""told the share of a block's work that is done, 0 to 1"""
Prove = Callable[[Tensor], Tensor]
"""told which images of a block are right, bool N on the CPU; says how many of the budgets, from the
smallest, each provably withstands, int64 N on the CPU"""


@dataclass(frozen=True, slots=True)
class Block:
    """Some images of a data set, on the device."""

    images: Tensor
    """float32 N × C × H × W in [0, 1]"""
    labels: Tensor
    """int64 N"""
    ids: Sequence[str]
    """key of each image's random draws"""
    first: int
    """place of the first image in the data set"""
    fixed: int = 0
    """channels, the first ones, that no attack may change"""
    places: Sequence[int] | None = None
    """of the images in the data set, where they are not consecutive"""

    def place(self, row: int) -> int:
        """Where in the data set an image stands, for an error."""
        return self.first + row if self.places is None else self.places[row]

    def held(self, x: Tensor, images: Tensor) -> Tensor:
        """Points with the channels that may not change as they are in their images."""
        return torch.cat([images[:, : self.fixed], x[:, self.fixed :]], 1) if self.fixed else x


@dataclass(slots=True)
class Outcomes:
    """What is known of each image of a block; attacks can only lower the distances."""

    predicted: Tensor
    """class of the clean image, N"""
    classes: Tensor
    """what the attacks ascend against: labels, or the targets to reach, N"""
    distance: Tensor
    """smallest verified distance, float64 N: 0 for a clean mistake, inf where nothing was found"""
    fooled_by: list[str | None]
    perturbed: Tensor
    """the image at that distance; the clean image where there is none"""
    perturbed_class: Tensor
    """its predicted class, N"""
    closest: Tensor
    """the highest margin that gradient attacks reached at each budget, N × budgets; -inf where none
    has tried, or no attack asks for it"""
    passes: Passes
    """(1 + attacks) × N: of the clean pass, then of each attack of the protocol"""
    proven: Tensor
    """how many of the protocol's budgets, from the smallest, need no attack, int64 N on the CPU"""

    transform: Tensor
    """the rotation and translation that makes it of the clean image, where it is one: degrees,
    pixels down, pixels right, float64 N × 3 on the CPU; NaN otherwise"""
    unstarted: dict[str, int] = field(default_factory=dict)
    """by attack: how many images it left alone for want of a point to start from"""

    def attacked(self, protocol: Protocol) -> Tensor:
        """Rows that are right, and not proven at every budget, on the CPU."""
        unproven = self.proven < max(1, len(protocol.epsilons))
        return ((self.distance > 0).cpu() & unproven).nonzero()[:, 0]


def batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Numbers of rows, so many at a time."""
    return (rows[i : i + size] for i in range(0, len(rows), size))
