"""A file of weights taken apart: named tensors, what is recorded beside them, and their digest."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from robustkit.checkpoint import containers, safetensor, torchfile
from robustkit.checkpoint.architecture import COUNTER
from robustkit.checkpoint.metadata import CheckpointMetadata, parse_metadata
from robustkit.checkpoint.parametrizations import State
from robustkit.checkpoint.weight_sets import WeightSets, find_weight_sets
from robustkit.errors import CheckpointError
from robustkit.files import canonical, digest
from robustkit.unpickling import printable


@dataclass(frozen=True, slots=True)
class Weights:
    """A file taken apart."""

    format: str
    container: str = ""
    state: State = field(default_factory=dict)
    recorded: CheckpointMetadata = field(default_factory=CheckpointMetadata)
    extra: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    """what stands among the weights and could not be rebuilt"""
    sets: WeightSets = field(default_factory=WeightSets)
    """all sets of weights in the file"""
    key: str = ""
    """of the set that was taken"""


def open_weights(path: Path, kind: str, key: str | None = None) -> Weights:
    """The weights in a file of a format that is no program's, all of them finite numbers.

    Args:
        path: the file.
        kind: its format.
        key: which set of weights, of several; None: as `containers` has it.

    Raises:
        CheckpointError: the file is damaged, has no weights, or some that are NaN or infinite.
    """
    opened = _opened_safetensors if kind == "safetensors" else partial(_opened_torch, kind)
    weights = opened(path, key)
    _check_finite(weights.state, str(path))
    return weights


def _opened_torch(kind: str, path: Path, key: str | None) -> Weights:
    if kind == "torch zip":
        with zipfile.ZipFile(path) as archive:
            contents = torchfile.read_zip(path, archive)
    else:
        contents = torchfile.read_pickle(path)
    sets = find_weight_sets(contents.root, str(path), path.stat().st_size)
    if key is None:
        found = containers.locate(contents.root, str(path))
    else:
        found = sets.found[sets.choose(key)]
    state, notes = containers.tensors(found, str(path), path.stat().st_size)
    extra = containers.surroundings(contents.root) if found.container else {}
    inert = (f"ignored inert: {listed(contents.uncalled)}",) if contents.uncalled else ()
    odd = [f"{key} ({what})" for key, what in found.others.items()]
    others = (f"ignored among the weights: {listed(odd)}",) if odd else ()
    return Weights(
        contents.format,
        _container(contents.root, found.container),
        state,
        CheckpointMetadata(**containers.training(extra)),
        extra,
        (*found.notes, *notes, *others, *inert),
        contents.warnings,
        tuple(found.others.values())[:3],
        sets,
        found.container,
    )


def _container(root: object, keys: str) -> str:
    lightning = isinstance(root, dict) and "pytorch-lightning_version" in root
    return f"{keys} (Lightning)" if lightning else keys


def listed(names: Sequence[str]) -> str:
    """The first names, and how many there are in all."""
    shown = [name[:80] for name in names[:5]]
    return ", ".join(shown) + (f" … ({len(names)} in all)" if len(names) > 5 else "")


def _opened_safetensors(path: Path, key: str | None) -> Weights:
    leaves, metadata = safetensor.read_safetensors(path)
    sets = find_weight_sets(leaves, str(path), path.stat().st_size)
    found = containers.Found("", {printable(key): leaf for key, leaf in leaves.items()}, {}, ())
    if key is not None:
        found = sets.found[sets.choose(key)]
    state, notes = containers.tensors(found, str(path), path.stat().st_size)
    if not state:
        raise CheckpointError(f"{path}: no weights in it")
    extra = metadata.pop("extra", None) or {}
    recorded = parse_metadata(metadata, f"{path}: robustkit metadata")
    return Weights(
        "safetensors",
        found.container,
        state,
        recorded,
        dict(extra),
        notes,
        sets=sets,
        key=found.container,
    )


def _check_finite(state: State, where: str) -> None:
    bad = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CheckpointError(
            f"{where}: the weight {bad[0]!r}{more} holds NaN or infinite numbers: the training "
            "diverged, or the file is damaged"
        )


def weights_digest(state: State) -> str:
    """SHA-256 over sorted names, types, shapes and numbers; batch norm's counters don't count."""
    # the same bytes are another network under other names, as another type (a float32 0 and an
    # int32 0 have the same bytes) or in another shape (10 × 2 and 2 × 10)
    parts: list[bytes | str] = []
    for key in sorted(state):
        if not key.endswith(COUNTER):
            value = state[key].contiguous()
            header = canonical([key, str(value.dtype), list(value.shape)])
            parts += [header, value.flatten().view(torch.uint8).numpy().tobytes()]
    return digest(*parts)
