"""The networks of one method at one level: which images each classifies correctly."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robustkit.results.finder import features
from robustkit.results.metadata import training_settings

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


def differing(checkpoints: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which networks differ that count as seeds of one method, where on record.

    Args:
        checkpoints: the entries of their records' headers; a file that is still the one that was
            evaluated says more.
    """
    if len(checkpoints) < 2:
        return []
    told = [
        {name: str(value) for name, value in known.items() if value is not None}
        | dict(training_settings(Path(str(one["path"])), str(one["sha256"])))
        for known, one in zip(features(checkpoints), checkpoints, strict=True)
    ]
    names = dict.fromkeys(name for one in told for name in one)
    return [name for name in names if len({one[name] for one in told if name in one}) > 1]
