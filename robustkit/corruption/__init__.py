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

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustkit.corruption.notes import departure_notes
from robustkit.corruption.tables import (
    GROUPS,
    NAMES,
    SEVERITIES,
    SMALLEST,
    Parameters,
    parameters,
)

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


def __getattr__(name: str) -> Any:
    """The names that need torch, when they are first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
