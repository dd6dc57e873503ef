"""An ONNX file as a checkpoint, with what the JSON beside it says of pictures and classes.

Exporters such as optimum leave `config.json` and `preprocessor_config.json` in the graph's folder,
or above it where that is called `onnx`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustkit.checkpoint.boundary import boundary
from robustkit.checkpoint.checkpoint import Checkpoint
from robustkit.checkpoint.folder.files import open_files
from robustkit.checkpoint.folder.finding import GRAPHS
from robustkit.checkpoint.folder.words import read_table
from robustkit.checkpoint.libraries import Declared, read_declared, read_prepared
from robustkit.checkpoint.metadata import CheckpointMetadata
from robustkit.checkpoint.normalising import OF_LIBRARY, normalised_within
from robustkit.checkpoint.onnxfile.reading import OnnxFile, read_onnx
from robustkit.checkpoint.said import Said, merged
from robustkit.checkpoint.weights import weights_digest
from robustkit.errors import CheckpointError
from robustkit.files import open_digest

if TYPE_CHECKING:
    import torch

BESIDE = ("config.json", "preprocessor_config.json", "processor_config.json")


def read_graph(path: Path, file: BufferedReader, said: Said) -> tuple[Checkpoint, dict[str, Any]]:
    """What is known of an open ONNX file, and what identifies its network beside its numbers.

    Raises:
        CheckpointError: as `read_onnx`, or the JSON beside it makes no sense.
    """
    sha256 = open_digest(file)
    found = read_onnx(path, file, sha256)
    declared, told, warned = _declared(path, said, found)
    base = Checkpoint(
        path=str(path),
        sha256=sha256,
        format="ONNX",
        container="",
        prefix="",
        weights=weights_digest(found.state),
        extra=dict(found.extra),
        input_shape=found.shape,
        num_classes=found.num_classes,
        notes=(*told, *found.notes),
        warnings=warned,
        _network=found.make,
    )
    recorded, pins = CheckpointMetadata(), dict(found.pins)
    if declared is not None:
        recorded = replace(declared.known, model=None)
        base = replace(base, label_names=declared.label_names, pipeline=declared.pipeline)
    if found.pixels is not None:  # what stands in the graph itself goes first
        own = CheckpointMetadata(mean=found.pixels[:1], std=found.pixels[1:])
        recorded = own.over(replace(recorded, mean=None, std=None, normalised=None))
    if found.blue_first or (declared is not None and declared.flipped):
        base = replace(base, _network=partial(_flipped, found.make))
        pins["channels"] = "blue, green, red"
    known = merged(base, said, recorded)
    outside = said.given.over(said.aside)
    stated = outside.states_pixels and not _repeats(outside, found.pixels)
    if found.normalises is not None and (stated or found.pixels is None):
        known = normalised_within(known, found.normalises, "" if stated else OF_LIBRARY)
    return known, {"graph": found.graph, "pins": pins}


def _repeats(outside: CheckpointMetadata, pixels: tuple[float, float] | None) -> bool:
    """Whether mean and std say what the graph says of its pixels, as a sidecar of its own does."""
    if pixels is None or outside.mean is None or outside.std is None:
        return False
    return set(outside.mean) == {pixels[0]} and set(outside.std) == {pixels[1]}


def _declared(
    path: Path, said: Said, found: OnnxFile
) -> tuple[Declared | None, tuple[str, ...], tuple[str, ...]]:
    """What a name after --model or the JSON beside a graph says of it, with notes and warnings.

    Of another number of classes, or of pictures of another size, it is of another network.
    """
    declared, where = said.declared, f"model {said.model}"
    if declared is None:
        try:
            declared, where = _beside(path)
        except CheckpointError as error:  # it need not be about this file
            return None, (), (f"not used: {error}",)
    if declared is None:
        return None, (), ()
    for what, theirs, own in (
        ("classes", declared.num_classes, found.num_classes),
        ("images of the shape", declared.input_shape, found.shape),
    ):
        if None not in (theirs, own) and theirs != own:
            return None, (), (f"not used: {where}: {what} {theirs}, but the graph's {own}",)
    return declared, (f"pictures and classes as in {where}",), ()


def _beside(path: Path) -> tuple[Declared | None, str]:
    for folder in (path.parent, *([path.parent.parent] if path.parent.name == GRAPHS else [])):
        with boundary(folder), open_files(folder) as files:
            words = {name: read_table(files, name) for name in BESIDE if name in files.names}
            declared = read_declared(words, str(folder)) or read_prepared(words, str(folder))
        if declared is not None:
            return declared, f"{' and '.join(words)} in {folder}"
    return None, ""


def _flipped(
    make: "Callable[[str | torch.device], torch.nn.Module]", device: "str | torch.device"
) -> "torch.nn.Module":
    from robustkit.checkpoint.adapter import freeze  # torch
    from robustkit.checkpoint.onnxfile.network import BlueFirst

    return freeze(BlueFirst(make(device)))
