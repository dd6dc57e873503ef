"""The fifteen common corruptions of Hendrycks & Dietterich 2019, at five severities.

On batches, on the images' own device; for images of any size from 8 × 8 on, grey or in colour. At
32 and 224 pixels the constants are those of CIFAR-10-C and ImageNet-C. Needs no attack.

- tables: the constants, and what they are at other sizes
- kinds: the corruptions by name; noise, blur, weather and digital have them in the paper's groups
- draws: chance, by image
- filters, pixels: what they are made of
- telling: every departure from the published benchmarks
- measuring: which images a model still gets right
"""

from robustkit.corruption.kinds import corrupt
from robustkit.corruption.measuring import measure
from robustkit.corruption.tables import (
    GROUPS,
    NAMES,
    SEVERITIES,
    SMALLEST,
    Parameters,
    parameters,
)
from robustkit.corruption.telling import notes

__all__ = [
    "GROUPS",
    "NAMES",
    "SEVERITIES",
    "SMALLEST",
    "Parameters",
    "corrupt",
    "measure",
    "notes",
    "parameters",
]
