"""The fifteen common corruptions of Hendrycks & Dietterich 2019, at five severities.

On batches, on the images' own device; for images of any size from 8 × 8 on, grey or in colour. At
32 and 224 pixels the constants are those of CIFAR-10-C and ImageNet-C. Images go in and
come out as multiples of 1/255. Names, tables and notes need no torch.

- tables: the constants, and what they are at other sizes
- kinds: the corruptions by name; noise, blur, weather and digital have them in the paper's groups
- draws: chance, by image
- filters, pixels: what they are made of
- notes: every departure from the published benchmarks
- measuring: which images a model still gets right
- published: accuracies on a set of images as published, from the records of its levels
"""

from typing import TYPE_CHECKING

from robustkit.corruption.notes import departure_notes
from robustkit.corruption.tables import (
    GROUPS,
    NAMES,
    SEVERITIES,
    SMALLEST,
    Parameters,
    parameters,
)
from robustkit.lazy import lazily

if TYPE_CHECKING:
    from robustkit.corruption.kinds import corrupt
    from robustkit.corruption.measuring import measure

__all__ = [
    "GROUPS",
    "NAMES",
    "SEVERITIES",
    "SMALLEST",
    "Parameters",
    "corrupt",
    "departure_notes",
    "measure",
    "parameters",
]

_HOMES = {"corrupt": "kinds", "measure": "measuring"}

__getattr__ = lazily(__name__, _HOMES)
"""The names that need torch, when they are first asked for."""
