"""Training: from a loss, an architecture and a data set to a self-describing checkpoint.

- config: what is trained, and how the work is done; needs no torch
- recipe: optimiser, schedule, epochs; needs no torch
- defaults: recipe and settings by loss and data set, and what a user changes of them; likewise
- progress: what whoever watches is told; likewise
- result: what comes of it; likewise
- examples: the images and labels of a run, on the device
- processes: several that train together
- building: a network with its first weights, and a loss that fits it
- engine: the loop and its state
- numerics: how exactly a GPU calculates
- run: from a configuration to a checkpoint on disk
"""

from typing import TYPE_CHECKING

from robustkit.lazy import lazily
from robustkit.training.config import TrainingConfig, TrainingOptions
from robustkit.training.defaults import Resolved, resolve
from robustkit.training.progress import Callbacks, Progress
from robustkit.training.recipe import Recipe
from robustkit.training.result import TrainingResult

if TYPE_CHECKING:
    from robustkit.training.run import train

__all__ = [
    "Callbacks",
    "Progress",
    "Recipe",
    "Resolved",
    "TrainingConfig",
    "TrainingOptions",
    "TrainingResult",
    "resolve",
    "train",
]


__getattr__ = lazily(__name__, {"train": "run"})
"""What needs torch, when it is first asked for: options are checked without it."""
