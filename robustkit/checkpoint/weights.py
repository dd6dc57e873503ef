"""A file of weights taken apart: named arrays, what is recorded beside them, and their digest."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BufferedReader
from typing import Any

import numpy as np

from robustkit.checkpoint import containers, safetensor
from robustkit.checkpoint.classnames import class_names
from robustkit.checkpoint.metadata import CheckpointMetadata, checked_extra, parse_metadata
from robustkit.checkpoint.readings import StateReading, listed
from robustkit.checkpoint.selection import ALL, Selection
from robustkit.checkpoint.weight_sets import WeightSets, find_weight_sets
from robustkit.errors import CheckpointError, quoted
from robustkit.files import canonical
from robustkit.unpickling import Contents, read_torch
from robustkit.unpickling.tensors import (
    COUNTER,
    Array,
    State,
    TensorReader,
    distinct,
    plain_bytes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A file taken apart."""

    format: str
    container: str = ""
    state: State
    variants: Sequence[StateReading]
    """its names, read in every way"""
    sets: WeightSets
    """all sets of weights in the file"""
    key: str
    """of the set that was taken"""
    recorded: CheckpointMetadata
    extra: dict[str, Any]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    """what stands among the weights and could not be rebuilt"""
    packed: bool = False
    """whether layers hold their weights in a form that only torch's int8 kernels read"""
    label_names: tuple[str, ...] = ()
    """of the classes, as they stand beside the weights"""


def open_weights(
    file: BufferedReader, reader: TensorReader, kind: str, selection: Selection = ALL
) -> Weights:
    """The weights in an open file of a format that is no program's, all of them finite numbers.

    Args:
        file: the file, which must stay open as long as further sets of weights are read.
        reader: of its tensors.
        kind: its format.
        selection: which set of weights, by default as `containers` has it, and what of it.

    Raises:
        CheckpointError: the file is damaged, has no weights, or some that are NaN or infinite.
        BadFile: it is damaged, or over its budget.
    """
    if kind != "safetensors":
        return weights_in(read_torch(file, reader.budget), reader, selection)
    leaves, metadata = safetensor.read_safetensors(file, reader.where, reader.budget)
    extra = checked_extra(metadata.pop("extra", None), reader.where)
    if names := class_names({"classes": extra.get("classes")}, reader)[0]:
        del extra["classes"]
    return replace(
        weights_in(Contents("safetensors", leaves), reader, selection),
        label_names=names,
        recorded=parse_metadata(metadata, f"{reader.where}: robustkit metadata"),
        extra=extra,
    )


def read_contents(file: BufferedReader, reader: TensorReader, kind: str) -> Contents:
    """What one of several files holds; it must stay open until its tensors are read.

    Raises:
        BadFile: it is damaged, or over its budget.
    """
    if kind != "safetensors":
        return read_torch(file, reader.budget)
    return Contents(kind, safetensor.read_safetensors(file, reader.where, reader.budget)[0])


def weights_in(contents: Contents, reader: TensorReader, selection: Selection) -> Weights:
    """The weights in what a file holds, or several together, all of them finite numbers.

    Raises:
        CheckpointError: as `open_weights`.
        BadFile: likewise.
    """
    sets = find_weight_sets(contents.root, reader, selection)
    if selection.key is None:
        found = containers.locate(contents.root, reader)
    else:
        found = sets.found[sets.choose(selection.key)]
    state, notes = containers.tensors(found, reader)
    variants = sets.readings(state)
    _check_finite(variants[0].state, reader.where)
    _check_met(variants, selection, reader.where)
    extra = containers.surroundings(contents.root, reader) if found.container else {}
    names, doubt = class_names(contents.root, reader) if found.container else ((), ())
    inert = (f"ignored inert: {listed(contents.uncalled)}",) if contents.uncalled else ()
    odd = [f"{key} ({what})" for key, what in found.others.items()]
    others = (f"ignored among the weights: {listed(odd)}",) if odd else ()
    return Weights(
        format=contents.format,
        container=_container(contents.root, found.container),
        state=state,
        variants=variants,
        sets=sets,
        key=found.container,
        recorded=CheckpointMetadata(**containers.training(extra)),
        extra=extra,
        notes=(*found.notes, *notes, *others, *inert),
        warnings=(*contents.warnings, *doubt),
        label_names=names,
        placeholders=tuple(found.others.values())[:3],
        packed=any("_packed_params" in key for key in found.others)
        or any(".nn.quantized." in name for name in contents.uncalled),
    )


def _container(root: object, keys: str) -> str:
    lightning = isinstance(root, dict) and "pytorch-lightning_version" in root
    return f"{keys} (Lightning)" if lightning else keys


def _check_met(variants: Sequence[StateReading], selection: Selection, where: str) -> None:
    """Nothing, if all that was to be left out or renamed is there, and something else.

    Raises:
        CheckpointError: a pattern or beginning that no name has; all are left out.
    """
    if not variants[0].state:
        raise CheckpointError(f"{where}: no weights are left by {selection.options or 'it'}")
    asked = (("--ignore", selection.ignore), ("--rename", selection.rename))
    for option, patterns in asked:
        for pattern in patterns:
            if all(pattern in (*v.unmet.ignore, *v.unmet.rename) for v in variants):
                names = listed(list(variants[0].state))
                raise CheckpointError(
                    f"{where}: {option} {quoted(pattern)}: no such name; there are {names}"
                )


def _check_finite(state: State, where: str) -> None:
    bad = [key for key, value in state.items() if not _is_finite(value)]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CheckpointError(
            f"{where}: the weight {bad[0]!r}{more} holds NaN or infinite numbers: the training "
            "diverged, or the file is damaged"
        )


def _is_finite(numbers: Array) -> bool:
    if numbers.dtype.kind != "f" or not numbers.size:
        return True
    every = distinct(numbers)
    return bool(np.isfinite(every.min()) and np.isfinite(every.max()))


def weights_digest(state: State) -> str:
    """SHA-256 over sorted names, types, shapes and numbers; batch norm's counters don't count."""
    # the same bytes are another network under other names, as another type (a float32 0 and an
    # int32 0 have the same bytes) or in another shape (10 × 2 and 2 × 10)
    total = hashlib.sha256()
    for key in sorted(state):
        if not key.endswith(COUNTER):
            value = state[key]
            header = canonical([key, f"torch.{value.dtype}", list(value.shape)]).encode()
            # as files.digest has it: each part behind its length
            total.update(len(header).to_bytes(8, "little") + header)
            total.update(value.nbytes.to_bytes(8, "little"))
            for piece in plain_bytes(value):
                total.update(piece)
    return total.hexdigest()
