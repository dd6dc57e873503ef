"""What a training leaves. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustkit.showing import Shown


@dataclass(frozen=True, slots=True, repr=False)
class TrainingResult(Shown):
    """A checkpoint that was trained, and how it went."""

    path: Path
    """of the checkpoint"""
    record: dict[str, Any]
    """the checkpoint's own account: the configuration, realised counts, history per epoch"""
    first: bool = True
    """of several processes, whether this one wrote it and speaks for all"""
    warning: str = ""
    """what a user should know of this training; empty if nothing"""
    snapshots: tuple[Path, ...] = ()
    """the weights after the passes that were asked for"""
    paused: bool = False
    """whether it stopped where it was asked to: there is no checkpoint yet, only its history"""
    model: str | None = None
    """the architecture as its user named it here: FILE.py:FUNCTION, which is not imported because a
    checkpoint says so, may be because the user did"""
