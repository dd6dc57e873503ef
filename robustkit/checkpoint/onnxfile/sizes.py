"""Sizes that grow with the number of images, and the values of a graph at several such numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from robustkit.checkpoint.onnxfile.opening import Array

Shape = tuple[int, ...]
NUMBERS = (5, 7)
"""of images, at which a graph's shapes are found; what grows with them differs"""


class Inflexible(Exception):
    """The graph, or an operation of it, holds for one number of images only."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """A slope and an offset for each of several whole numbers."""

    slopes: tuple[Fraction, ...]
    offsets: tuple[Fraction, ...]

    @classmethod
    def through(cls, points: Sequence[Sequence[int]]) -> "Sizes":
        """The straight lines through sizes at the two `NUMBERS`."""
        one, other = NUMBERS
        slopes = [Fraction(int(b) - int(a), other - one) for a, b in zip(*points, strict=True)]
        offsets = [int(a) - slope * one for a, slope in zip(points[0], slopes, strict=True)]
        return cls(tuple(slopes), tuple(offsets))

    @classmethod
    def growing(cls, shape: Shape, axis: int, alone: int) -> "Sizes":
        """A shape at `alone` images, of which one axis grows with them."""
        slopes = [Fraction(0)] * len(shape)
        offsets = [Fraction(size) for size in shape]
        slopes[axis], offsets[axis] = Fraction(shape[axis], alone), Fraction(0)
        return cls(tuple(slopes), tuple(offsets))

    def at(self, n: int) -> list[int]:
        """The numbers for n images.

        Raises:
            Inflexible: one is not whole.
        """
        found = [
            slope * n + offset for slope, offset in zip(self.slopes, self.offsets, strict=True)
        ]
        if any(number.denominator != 1 for number in found):
            raise Inflexible("sizes that are not whole numbers for every batch size")
        return [int(number) for number in found]


@dataclass(frozen=True, slots=True)
class Known:
    """A value that depends on no image, but perhaps on how many there are."""

    arrays: tuple[Array, ...]
    """as the file has it, then at each of `NUMBERS`"""

    @property
    def fixed(self) -> Array | None:
        """The array, where it is the same for every number of images."""
        first, *others = self.arrays[-len(NUMBERS) :]
        same = all(first is other or _equal(first, other) for other in others)
        return first if same else None


def _equal(one: Array, other: Array) -> bool:
    return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


@dataclass(frozen=True, slots=True)
class Computed:
    """A value that depends on the images."""

    slot: int
    """where the network keeps it"""
    shapes: tuple[Shape, ...]
    """as the file has it, then at each of `NUMBERS`"""
    images: int | None
    """the dimension that grows with the number of images; -1 where that number is fixed; None where
    there is no single one"""
    dtype: torch.dtype = torch.float32

    @property
    def floating(self) -> bool:
        """Whether it is made of floating-point numbers, of whichever size."""
        return self.dtype.is_floating_point

    @property
    def shifted(self) -> bool:
        """Whether the file's value has no dimension of images, and ours one in front."""
        return len(self.shapes[1]) == len(self.shapes[0]) + 1

    @property
    def axis(self) -> int:
        """The dimension that grows with the number of images.

        Raises:
            Inflexible: there is none, or several.
        """
        if self.images is None:
            raise Inflexible("a value without a single batch dimension")
        return self.images


Value = Known | Computed
