"""CKPT.toml: what is known of a checkpoint, next to it, so that flags need not be repeated.

The sidecar of `run/best.pt` is `run/best.pt.toml`. A model of the form FILE.py:FUNCTION in it is
shown to the user, never imported, and of a repository only what was fetched before is read. What
`write_sidecar` writes says the same again, as names do whose meaning stays: a tag, a commit. An
architecture that was only recognised is left out: a later reader would take it for somebody's word.
"""

import json
from dataclasses import replace
from pathlib import Path

from robustkit.checkpoint.checkpoint import Checkpoint
from robustkit.checkpoint.metadata import CheckpointMetadata, parse_metadata
from robustkit.errors import CheckpointError, InputError
from robustkit.files import extended, read_toml, write_atomic


def sidecar_path(checkpoint: Path) -> Path:
    """Where the sidecar of a checkpoint stands."""
    place = checkpoint if checkpoint.name not in ("", "..") else checkpoint.resolve()
    return place.with_name(extended(place.name, ".toml"))


def read_sidecar(checkpoint: Path) -> CheckpointMetadata:
    """What the checkpoint's sidecar says; nothing, where there is none.

    Raises:
        CheckpointError: it cannot be read or says what makes no sense.
    """
    path = sidecar_path(checkpoint)
    if not path.is_file():
        return CheckpointMetadata()
    try:
        return parse_metadata(read_toml(path), str(path))
    except CheckpointError:
        raise
    except InputError as error:
        raise CheckpointError(str(error)) from error


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
    if checkpoint.recognised:
        metadata = replace(metadata, model=None)  # a guess, which is made again and warned of
    write_metadata(target, _acceptable(metadata))
    return target


def _acceptable(metadata: CheckpointMetadata) -> CheckpointMetadata:
    """Without sizes that are refused from a sidecar; the file itself tells them again."""
    sizes = {"num_classes": metadata.num_classes, "input_shape": metadata.input_shape}
    for name, value in sizes.items():
        try:
            parse_metadata({name: list(value) if isinstance(value, tuple) else value}, name)
        except CheckpointError:
            metadata = replace(metadata, **{name: None})
    return metadata


def write_metadata(path: Path, metadata: CheckpointMetadata) -> None:
    """Write a sidecar.

    Raises:
        EvaluationFailed: it cannot be written.
    """
    lines = [f"{name} = {_toml(value)}" for name, value in metadata.known().items()]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _toml(value: object) -> str:
    """A value as TOML, which writes these like JSON."""
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")
