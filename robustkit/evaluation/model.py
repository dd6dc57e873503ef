"""What is evaluated: a checkpoint, or a module in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robustkit import checkpoint as checkpoints
from robustkit.checkpoint import Checkpoint
from robustkit.files import digest, shipped

CHECKPOINT_KEYS = (
    *("path", "sha256", "weights", "model", "loss", "label_noise", "data_fraction", "seed"),
    *("trained_on", "recorded_accuracy", "preprocessing", "notes", "mean", "std"),
)
"""what a record's header says of the checkpoint"""


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """What is evaluated: a checkpoint, or a module in memory."""

    identity: Mapping[str, Any]
    """everything that can change a logit, as JSON"""
    header: Mapping[str, Any]
    """the record's `checkpoint` entry"""
    warnings: Sequence[str]
    load: Callable[[torch.device], torch.nn.Module]
    """a frozen module on pixels in [0, 1]"""
    shape: tuple[int, int, int] | None = None
    """C, H, W of the training images, where that is recorded"""


def from_checkpoint(checkpoint: Checkpoint) -> EvaluatedModel:
    """A checkpoint as what is evaluated."""
    header = {key: getattr(checkpoint, key) for key in CHECKPOINT_KEYS}
    if Path(checkpoint.path).parent == shipped("data"):
        header["path"] = Path(checkpoint.path).stem  # a shipped one goes by its name
    return EvaluatedModel(
        checkpoint.identity,
        header,
        checkpoint.warnings,
        lambda device: checkpoint.load(device),
        checkpoint.trained_shape,
    )


def from_module(module: torch.nn.Module, name: str | None) -> EvaluatedModel:
    """A module in memory as what is evaluated; what is known of it is its weights and its name."""
    weights = digest(
        *(
            part
            for key, t in module.state_dict().items()
            for part in (key, t.cpu().contiguous().numpy().tobytes())
        )
    )
    header: dict[str, Any] = {
        **dict.fromkeys(CHECKPOINT_KEYS),
        "path": name or f"<{type(module).__qualname__}>",
        "weights": weights,
        "preprocessing": "in the module",
        "notes": [],
    }
    identity = {"module": type(module).__qualname__, "name": name, "weights": weights}
    return EvaluatedModel(identity, header, (), lambda device: checkpoints.wrap(module).to(device))
