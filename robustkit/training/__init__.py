"""Training: from a loss, an architecture and a data set to a self-describing checkpoint.

- config: what is trained, and how the work is done; needs no torch
- recipe: optimiser, schedule, epochs; needs no torch
- defaults: recipe and settings by loss and data set, and what a user changes of them; likewise
- progress: what whoever watches is told; likewise
- examples: the images and labels of a run, on the device
- processes: several that train together
- engine: the loop and its state
- numerics: how exactly a GPU calculates
- run: from a configuration to a checkpoint on disk
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustkit.training.config import TrainingConfig, TrainingOptions
from robustkit.training.defaults import Resolved, resolve
from robustkit.training.progress import Callbacks, Progress
from robustkit.training.recipe import Recipe

if TYPE_CHECKING:
    from robustkit.training.run import TrainingResult, train

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


def __getattr__(name: str) -> Any:
    """The names that need torch, when they are first asked for: options are checked without it."""
    if name not in ("TrainingResult", "train"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.run"), name)
