"""Checkpoints: from any training code's file to a frozen network on [0, 1] pixels.

Reading, describing and naming one needs no torch, as long as its architecture is one of the
registry's; making a network of it does (`adapter`, `program`, `saving`).
"""

from typing import TYPE_CHECKING

from robustkit.lazy import lazily

if TYPE_CHECKING:
    from robustkit.checkpoint.adapter import OneByOne, wrap
    from robustkit.checkpoint.checkpoint import Checkpoint
    from robustkit.checkpoint.description import as_json, describe
    from robustkit.checkpoint.reading import read_checkpoint
    from robustkit.checkpoint.saving import save_checkpoint
    from robustkit.checkpoint.sidecar import write_sidecar

__all__ = [
    "Checkpoint",
    "OneByOne",
    "as_json",
    "describe",
    "read_checkpoint",
    "save_checkpoint",
    "wrap",
    "write_sidecar",
]

_HOMES = {
    "Checkpoint": "checkpoint",
    "OneByOne": "adapter",
    "as_json": "description",
    "describe": "description",
    "read_checkpoint": "reading",
    "save_checkpoint": "saving",
    "wrap": "adapter",
    "write_sidecar": "sidecar",
}

__getattr__ = lazily(__name__, _HOMES)
"""The names that need torch, when they are first asked for."""
