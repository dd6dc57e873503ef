"""From a file or folder to a `Checkpoint`: what it is, what is known of it, and a frozen network.

What is known comes from the flags first, then the sidecar, then the file's own record, then
recognition by keys and shapes. torch is imported when a network is made, and not before, unless the
architecture is none of the registry's.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustkit import models
from robustkit.checkpoint import architecture, named
from robustkit.checkpoint.boundary import boundary
from robustkit.checkpoint.checkpoint import ADAPTER, Checkpoint
from robustkit.checkpoint.containers import extra_state
from robustkit.checkpoint.folder import open_folder, open_only_graph
from robustkit.checkpoint.foreign import foreign_weights
from robustkit.checkpoint.formats import PROGRAMS, detect_format, find_checkpoint
from robustkit.checkpoint.graphs import read_graph
from robustkit.checkpoint.libraries import (
    Declared,
    build,
    read_declared,
    reading_of,
    robustbench,
    rows_of_head,
    torchvision,
)
from robustkit.checkpoint.metadata import (
    CheckpointMetadata,
    parse_metadata,
    parse_normalisation,
)
from robustkit.checkpoint.normalising import normalised_as_read
from robustkit.checkpoint.readings import (
    StateReading,
    listed,
)
from robustkit.checkpoint.said import Said, as_named, merged
from robustkit.checkpoint.selection import parse_ignored, parse_renamed
from robustkit.checkpoint.sidecar import read_sidecar, sidecar_path
from robustkit.checkpoint.suggestions import suggest
from robustkit.checkpoint.weight_sets import NoSuchSet, fit_weights, recognise_weights
from robustkit.checkpoint.weights import Weights, open_weights, weights_digest
from robustkit.defaults import torch_defaults
from robustkit.errors import CheckpointError, InputError, quoted
from robustkit.fetching import Progress
from robustkit.files import open_digest
from robustkit.keys import CheckpointKey
from robustkit.unpickling.tensors import State, TensorReader

if TYPE_CHECKING:
    import torch


@torch_defaults()
def read_checkpoint(
    path: str | Path,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    trust_program: bool = False,
    weights: str | None = None,
    ignore: str | Sequence[str] | None = None,
    rename: str | Sequence[str] | Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """A checkpoint from a file or folder, or by name. No code of the file runs.

    A checkpoint whose architecture is neither given nor recognised can be described, not loaded.
    Published weights (hf:ORGANISATION/NAME, timm:NAME.TAG, torchvision:NAME.WEIGHTS,
    robustbench:DATASET/THREAT/NAME) are fetched once into a cache.

    Args:
        path: the file or folder, a name on the shelf of data, or that of published weights.
        model: a registry name, torchvision:NAME, timm:NAME, the name of published weights, or
            FILE.py:FUNCTION, which is imported and called.
        num_classes: where the weights do not tell, or to insist.
        mean: per channel, of [0, 1] pixels; one number holds for all channels.
        std: likewise.
        trust_program: load TorchScript and torch.export files, which run code of their own.
        weights: key of the set of weights to take, in a file with several; the end of it will do.
        ignore: patterns of names that are no part of the network: "loss.*,metric.*".
        rename: what names begin with, and are to begin with instead: "backbone.=,head.=fc.".
        progress: is told how much of a file has been fetched.

    Raises:
        CheckpointError: the file is no checkpoint, is damaged, does not fit, or may not be loaded.
        FetchError: what is published under a name cannot be fetched.
        InputError: the architecture cannot be built.
    """
    given = parse_metadata(
        {
            "model": model,
            "num_classes": num_classes,
            **parse_normalisation(mean, std),
            "weights_key": weights,
            "ignore": parse_ignored(ignore),
            "rename": parse_renamed(rename),
        },
        "--model, --num-classes, --mean, --std, --weights, --ignore, --rename",
    )
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"{quoted(path)}: expected a checkpoint's path or name; a module in memory needs no "
            "reading: give it in the checkpoint's place, a state dict loaded into its module"
        )
    name = named.parse(str(path))
    located = None if name is None else named.locate(name, model, progress)
    file = find_checkpoint(path) if located is None else located.path
    published = None if located is None else located.declared
    found = _read(file, given, trust_program, published, progress)
    if located is None:
        return found
    located.check(found.sha256)
    hint = found.hint or ("" if found.model or found.format == "ONNX" else located.hint)
    notes = (located.note, *found.notes)
    return replace(found, notes=notes, published=str(path), hint=hint)


def _read(
    file: Path,
    given: CheckpointMetadata,
    trusted: bool,
    published: Declared | None,
    progress: Progress | None,
) -> Checkpoint:
    said = Said(given, read_sidecar(file), published)
    said = as_named(said, progress, sidecar_path(file))
    if file.is_dir():
        with open_only_graph(file) as graph:
            if graph is None:
                return _read_folder(file, said)
            path, opened = graph
            note = f"network from {path.relative_to(file)}"
            with boundary(path):
                found = _read_onnx(path, opened, said)
            return replace(found, path=str(file), notes=(note, *found.notes))
    # opened once: what is judged, read and digested is one file, whatever takes its name meanwhile
    with boundary(file), file.open("rb") as opened:
        kind = detect_format(file, opened)
        if kind in PROGRAMS:
            return _read_program(file, opened, kind, said, trusted)
        if kind == "ONNX":
            return _read_onnx(file, opened, said)
        return _read_weights(file, opened, kind, said)


def _read_program(
    path: Path, file: BufferedReader, kind: str, said: Said, trusted: bool
) -> Checkpoint:
    if not trusted:
        raise CheckpointError(
            f"{path}: a {kind} program, and loading a program runs its code; if you trust whoever "
            "made it, pass --trust-program"
        )
    from robustkit.checkpoint import program  # torch

    known = program.read_program(path, file, kind, said)
    network = {"program": known.sha256}
    return _identified(_of_itself(known, said.given, "a program"), network)


def _read_onnx(path: Path, file: BufferedReader, said: Said) -> Checkpoint:
    known, network = read_graph(path, file, said)
    return _identified(_of_itself(known, said.given, "an ONNX file"), network)


def _of_itself(known: Checkpoint, given: CheckpointMetadata, what: str) -> Checkpoint:
    """A checkpoint that is a network and not weights for one.

    Raises:
        CheckpointError: what was given is for weights.
    """
    if any((given.weights_key, given.ignore, given.rename)):
        raise CheckpointError(
            f"{known.path}: {what} holds one network; --weights, --ignore and --rename are for "
            "state dicts"
        )
    if given.model is None:
        return known
    return replace(known, notes=(*known.notes, f"{what} brings its architecture along"))


def _read_weights(path: Path, file: BufferedReader, kind: str, said: Said) -> Checkpoint:
    parts, sha256 = _opened(path, file, kind, said), open_digest(file)
    said = said.recognised(sha256)
    return _from_weights(path, sha256, parts, said, said.declared)


def _opened(path: Path, file: BufferedReader, kind: str, said: Said) -> Weights:
    """The set of weights that is asked for, or that the library would take of its own file."""
    selection, declared = said.selection, said.declared
    usual = declared.keys if declared is not None and selection.key is None else ()
    for key in usual:
        with suppress(NoSuchSet):  # a file of the user's need not have several
            asked = replace(selection, key=key)
            parts = open_weights(file, TensorReader.of(file, str(path)), kind, asked)
            if parts.key == key:  # and not one that ends so
                return parts
    return open_weights(file, TensorReader.of(file, str(path)), kind, selection)


def _read_folder(path: Path, said: Said) -> Checkpoint:
    with open_folder(path, said.selection) as folder:
        declared = said.declared
        if declared is None:
            try:
                declared = read_declared(folder.words, str(path))
            except CheckpointError:
                if said.given.model is None:
                    raise
        return _from_weights(path, folder.sha256, folder.weights, said, declared)


def _from_weights(
    path: Path, sha256: str, parts: Weights, said: Said, declared: Declared | None
) -> Checkpoint:
    base = Checkpoint(
        path=str(path),
        sha256=sha256,
        format=parts.format,
        container=parts.container,
        prefix="",
        weights="",
        label_names=parts.label_names,
        extra=parts.extra,
        notes=parts.notes,
        warnings=(*parts.warnings, *extra_state(parts.sets.found.get(parts.key))),
    )
    if said.note and declared is not None:
        said, declared, told = _headed(said, declared, parts)
        base = replace(base, notes=(told, *base.notes))
    recorded = replace(parts.recorded, weights_key=None, ignore=None, rename=None)
    if declared is not None:
        recorded = recorded.over(declared.known)
        names = declared.label_names or base.label_names
        base = replace(base, label_names=names, pipeline=declared.pipeline)
    known = merged(base, said, recorded)
    given, aside = said.given, said.aside
    inferred = not given.over(aside).over(parts.recorded).states_pixels
    if declared is not None and known.model == declared.called:
        return _of_library(known, parts, declared, inferred=inferred)
    named_, recognised = _architecture(known.model, given.model is not None, parts)
    if named_ is None:
        unknown = known.model is None
        hint = foreign_weights(parts.state) or architecture.proposed(parts.variants)
        known = replace(known, hint=(hint or suggest(parts)) if unknown else "")
        return _identified(_read_as(known, parts.variants[-1], None, inferred=inferred), {})
    classes = given.num_classes or aside.num_classes or parts.recorded.num_classes
    fit = _fit(named_, parts, classes, str(path))
    guess = (architecture.guess(named_),) if recognised else ()
    known = replace(
        known,
        model=named_,
        num_classes=fit.num_classes,
        recognised=recognised,
        warnings=(*known.warnings, *guess, *torchvision.caution(named_)),
    )
    return _identified(
        _telling(_read_as(known, fit.reading, fit, inferred=inferred), parts, fit),
        {"model": _name(named_), "code": models.source(named_)},
    )


def _headed(said: Said, declared: Declared, parts: Weights) -> tuple[Said, Declared | None, str]:
    """What a name says of a file, as far as the file's head is that of the published weights.

    Of another number of classes it is the architecture alone; and a note tells.
    """
    bare = declared.library in ("timm", "torchvision") and not declared.arguments.get("model_args")
    if bare:
        count = architecture.classes_in(declared.plain, parts.variants)
    else:
        count = rows_of_head(reading_of(declared, parts.variants).state)
    if count in (None, declared.num_classes) or declared.library == "robustbench":
        return said, declared, said.note
    note = (
        f"{count} classes and not the {declared.num_classes} of the published weights, whose mean, "
        "std and pictures are therefore not taken for its own"
    )
    if bare:
        return said.with_model(declared.plain), None, note
    return said, declared.with_head(count), f"{said.note}, but for {note}"


def _of_library(
    known: Checkpoint, parts: Weights, declared: Declared, *, inferred: bool
) -> Checkpoint:
    """The checkpoint of a library's, built when it is loaded; RobustBench's at once."""
    if declared.library == "robustbench":
        fit = robustbench.fit(declared, parts.variants, known.path)
        made = _read_as(known, fit.reading, fit, inferred=inferred)
        made = _telling(made, parts, fit, "RobustBench" if parts.key in declared.keys else "")
        return _identified(made, {"model": declared.model, "code": declared.code})
    reading = reading_of(declared, parts.variants)
    made = _read_as(known, reading, None, inferred=inferred)
    made = replace(
        made,
        _network=partial(build, declared, reading.state, Path(known.path)),
        unmet=declared.unmet,
        notes=(*made.notes, f"built by {declared.library} {declared.version or '(not installed)'}"),
    )
    return _identified(made, {"model": declared.model, "code": declared.code})


def _fit(spec: str, parts: Weights, classes: int | None, where: str) -> architecture.Fit:
    try:
        return fit_weights(spec, parts.sets, parts.key, parts.variants, classes, where)
    except CheckpointError as error:
        if parts.packed:
            raise CheckpointError(
                f"{where}: holds layers quantised by torch.ao.quantization, whose packed weights "
                "only code unpacks; save the network as it was before, or hand the module itself "
                "to robustkit.evaluate in Python"
            ) from error
        if foreign := foreign_weights(parts.state):
            raise CheckpointError(f"{where}: {foreign}") from error
        names = ", ".join(parts.placeholders)
        reason = f"; not rebuilt, since that runs code: {names}" if names else ""
        raise CheckpointError(f"{error}{reason}") from error


def _telling(
    known: Checkpoint, parts: Weights, fit: architecture.Fit, library: str = ""
) -> Checkpoint:
    """The checkpoint, with a word on what else in the file would fit the network.

    `library` takes the same set by itself.
    """
    if not (others := parts.sets.others(fit.layout, fit.reading.state)):
        return known
    said = (
        f"{parts.key or 'the weights at the top'} taken"
        f"{f', as {library} does' if library else ''}, but {listed(others)} in the file "
        f"{'fits' if len(others) == 1 else 'fit'} {known.model}, too"
    )
    if known.weights_key is not None:
        return replace(known, notes=(*known.notes, said))
    said += ", with other numbers; --weights chooses"
    return replace(known, warnings=(*known.warnings, said))


def _architecture(known: str | None, given: bool, parts: Weights) -> tuple[str | None, bool]:
    """The architecture to build, or None, and whether it was recognised."""
    if known is not None:
        return (known if given or not models.names_code(known) else None), False
    matching = recognise_weights(parts.sets, parts.key, parts.variants)
    return (matching[0], True) if len(matching) == 1 else (None, False)


def _name(spec: str) -> str:
    """The architecture's name without the folder of a user's file."""
    return models.parse_name(spec).name if models.names_code(spec) else spec


def _read_as(
    known: Checkpoint,
    reading: StateReading,
    fit: architecture.Fit | None,
    *,
    inferred: bool = False,
) -> Checkpoint:
    """The checkpoint with its names read so, and the network that fits them.

    `inferred`: nobody but its library states how pixels are normalised.
    """
    made_by = None if fit is None else partial(_network_on, fit.build, reading.state, known.path)
    made = replace(
        known,
        prefix=reading.prefix,
        weights=weights_digest(reading.state),
        notes=(*reading.notes, *known.notes),
        input_shape=known.input_shape or _input_shape(known.model),
        _network=made_by,
    )
    layer = fit.normalises if fit is not None else None
    return normalised_as_read(made, reading, layer, inferred=inferred)


def _network_on(
    build: Callable[[], "torch.nn.Module"], state: State, path: str, device: "str | torch.device"
) -> "torch.nn.Module":
    from robustkit.checkpoint.adapter import filled  # torch

    return filled(build(), state, path).to(device)


def _input_shape(model: str | None) -> tuple[int, int, int] | None:
    return models.MODELS[model].shape if model in models.MODELS else None


def _or_tag(model: str | None) -> str:
    """What else says how images are prepared, of an architecture named without weights."""
    name = named.parse(model or "")
    if name is None or name.kind not in ("timm", "torchvision") or "." in name.rest:
        return ""
    return f", or --model {model}.{'TAG' if name.kind == 'timm' else 'WEIGHTS'} for theirs"


def _identified(known: Checkpoint, code: dict[str, Any]) -> Checkpoint:
    """The checkpoint with its identity, and a word on what is a guess or does not fit."""
    if known.label_names and known.num_classes not in (None, len(known.label_names)):
        told = (
            f"names {len(known.label_names)} classes, but the network has {known.num_classes}: "
            "these names are not used"
        )
        known = replace(known, label_names=(), notes=(*known.notes, told))
    if known.preprocessing == "assumed none":
        warning = (
            "unknown preprocessing: the network is assumed to take [0, 1] pixels as they are; "
            f"if it was trained on normalised images, pass --mean and --std{_or_tag(known.model)}"
        )
        known = replace(known, warnings=(*known.warnings, warning))
    # what a logit depends on, and nothing else: the same network in another container, under
    # another name or with another label has the same identity, and its records are found again
    channels = known.input_shape[0] if known.input_shape else 1
    key = CheckpointKey(
        weights=known.weights,
        mean=_for_each(known.mean, channels),
        std=_for_each(known.std, channels),
        adapter=ADAPTER,
        **code,
    )
    return replace(known, identity=key.plain())


def _for_each(values: tuple[float, ...] | None, channels: int) -> list[float] | None:
    """A number for each channel, where one stands for all: that is the same question."""
    if values is None:
        return None
    return list(values * channels if len(values) == 1 else values)
