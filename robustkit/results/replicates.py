"""The networks of one method at one level: which images each classifies correctly."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Right = npt.NDArray[np.bool_]


class Replicates(NamedTuple):
    """A method at a level, replicated over seeds."""

    seeds: tuple[int | None, ...]
    """None: not recorded"""
    right: Right
    """[S, N]: row s is the network of seed s, right on image n or not"""

    def of(self, seeds: Sequence[int]) -> "Replicates":
        """The networks of these seeds, in their order."""
        places = [self.seeds.index(seed) for seed in seeds]
        return Replicates(tuple(seeds), self.right[places])
