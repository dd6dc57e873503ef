"""Checkpoints: from any training code's file to a frozen network on [0, 1] pixels."""

from robustkit.checkpoint.adapter import wrap
from robustkit.checkpoint.checkpoint import Checkpoint, describe, read, save, write_sidecar

__all__ = ["Checkpoint", "describe", "read", "save", "wrap", "write_sidecar"]
