"""Writing: sidecars of checkpoints, and robustkit's own self-describing files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from robustkit.checkpoint.checkpoint import Checkpoint
from robustkit.checkpoint.metadata import NAMES, CheckpointMetadata, parse_metadata
from robustkit.checkpoint.safetensor import write_safetensors
from robustkit.checkpoint.sidecar import sidecar_path, write_metadata


def write_sidecar(checkpoint: Checkpoint, path: str | Path | None = None) -> Path:
    """Write what is known of a checkpoint to a sidecar, by default next to it; returns its path.

    Raises:
        EvaluationFailed: it cannot be written.
    """
    target = Path(path) if path is not None else sidecar_path(Path(checkpoint.path))
    metadata = CheckpointMetadata(**checkpoint.known())
    if checkpoint.preprocessing == "in the checkpoint":
        metadata = replace(metadata, mean=None, std=None)  # it will be found there again
    elif checkpoint.preprocessing == "recorded" and checkpoint.mean is None:
        metadata = replace(metadata, normalised=False)
    write_metadata(target, metadata)
    return target


def save_checkpoint(
    path: str | Path, module: torch.nn.Module, *, model: str, **metadata: Any
) -> None:
    """Write robustkit's self-describing safetensors; the same content gives the same bytes.

    A mean and std that are not given are recorded as none: the network takes [0, 1] pixels.

    Args:
        path: the file to write.
        module: the network itself, without a classifier around it.
        model: the architecture's name.
        metadata: the fields of `CheckpointMetadata`; other names are kept as extra.

    Raises:
        CheckpointError: metadata of a wrong type.
        EvaluationFailed: the file cannot be written.
    """
    table = {key: value for key, value in metadata.items() if key in NAMES} | {"model": model}
    table = {key: list(v) if isinstance(v, tuple) else v for key, v in table.items()}
    table.setdefault("normalised", table.get("mean") is not None)
    known = parse_metadata(table, str(path)).known()
    extra = {key: value for key, value in metadata.items() if key not in NAMES}
    write_safetensors(Path(path), module.state_dict(), known | ({"extra": extra} if extra else {}))
