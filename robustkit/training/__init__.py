"""Training: from a loss, an architecture and a data set to a self-describing checkpoint.

- recipe: optimiser, schedule, epochs; needs no torch
- examples: the images and labels of a run, on the device
- processes: several that train together
- engine: the loop and its state
- run: from a question to a checkpoint on disk
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustkit.training.recipe import Recipe, default_recipe

if TYPE_CHECKING:
    from robustkit.training.run import Options, Question, Trained, train

__all__ = ["Options", "Question", "Recipe", "Trained", "default_recipe", "train"]


def __getattr__(name: str) -> Any:
    """The names that need torch, when they are first asked for: options are checked without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.run"), name)
