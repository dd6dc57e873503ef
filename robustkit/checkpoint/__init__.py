"""Checkpoints: from any training code's file to a frozen network on [0, 1] pixels.

`header` and `sidecar`, which say what is recorded of a network, need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustkit.checkpoint.adapter import wrap
    from robustkit.checkpoint.checkpoint import Checkpoint, describe, read, save, write_sidecar

__all__ = ["Checkpoint", "describe", "read", "save", "wrap", "write_sidecar"]


def __getattr__(name: str) -> Any:
    """The names that need torch, when they are first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "adapter" if name == "wrap" else "checkpoint"
    return getattr(import_module(f"{__name__}.{home}"), name)
