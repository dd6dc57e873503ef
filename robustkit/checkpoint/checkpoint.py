"""From a file to a `Checkpoint`: what it is, what is known of it, and a frozen network.

What is known comes from the flags first, then the sidecar, then the file's own record, then
recognition by keys and shapes.
"""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from robustkit import models
from robustkit.checkpoint import architecture, containers, program, safetensor, sidecar, torchfile
from robustkit.checkpoint.adapter import Classifier, freeze, replica
from robustkit.checkpoint.header import is_safetensors
from robustkit.checkpoint.parametrizations import State
from robustkit.checkpoint.sidecar import Facts
from robustkit.errors import CheckpointError, UnknownName
from robustkit.files import canonical, digest, file_digest, shipped
from robustkit.unpickling import printable

ADAPTER = "robustkit.classifier/1"
"""changes when the layer around the network computes something else"""
NETWORK = Callable[[str | torch.device], torch.nn.Module]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained network on disk, and what is known of its making. Unknown is None."""

    path: str
    sha256: str
    """of the file"""
    format: str
    """torch zip, torch legacy, pickle, safetensors, TorchScript or torch.export"""
    container: str
    """dotted keys that lead to the weights, "" where the file is the weights"""
    prefix: str
    """taken off the front of every name"""
    weights: str
    """digest of names, types, shapes and numbers, whatever the container; of a program: its file"""
    model: str | None = None
    """as given, recorded or recognised"""
    num_classes: int | None = None
    input_shape: tuple[int, int, int] | None = None
    """C, H, W"""
    trained_shape: tuple[int, int, int] | None = None
    """likewise, of the training images, where the file itself records it"""
    resize: int | None = None
    """how the training images were made: shorter side"""
    crop: int | None = None
    """then a central square"""
    channels: int | None = None
    loss: str | None = None
    label_noise: float | None = None
    data_fraction: float | None = None
    seed: int | None = None
    trained_on: str | None = None
    recorded_accuracy: float | None = None
    """as a fraction"""
    extra: dict[str, Any] = field(default_factory=dict)
    """other plain numbers and texts in the file"""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preprocessing: str = "assumed none"
    """in the checkpoint, given, recorded or assumed none"""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    identity: dict[str, Any] = field(default_factory=dict)
    """plain JSON: everything that can change a logit"""
    _network: NETWORK | None = field(default=None, repr=False, compare=False)

    def load(self, device: str | torch.device = "cpu") -> torch.nn.Module:
        """The network, in eval mode, weights without gradient: N×C×H×W in [0, 1] to N×K logits.

        Raises:
            CheckpointError: the architecture is unknown, or named only by the file itself.
        """
        if self._network is None:
            _no_architecture(self)
        return freeze(Classifier(self._network(device), self.mean, self.std, self.num_classes)).to(
            device
        )


def _no_architecture(checkpoint: Checkpoint) -> NoReturn:
    if checkpoint.model is not None:
        raise CheckpointError(
            f"{checkpoint.path}: the file names its architecture {checkpoint.model}, whose code is "
            f"not run on a file's word; if you trust it, pass --model {checkpoint.model}"
        )
    raise CheckpointError(
        f"{checkpoint.path}: unknown architecture, not recognised either; name it with --model "
        f"({', '.join(models.MODELS)}, torchvision:NAME, timm:NAME or FILE.py:FUNCTION)"
    )


@dataclass(frozen=True, slots=True)
class _Weights:
    """A file taken apart."""

    format: str
    container: str = ""
    state: State = field(default_factory=dict)
    recorded: Facts = field(default_factory=Facts)
    extra: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    inert: tuple[str, ...] = ()
    """what stands among the weights and could not be rebuilt"""


def read(
    path: str | Path,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    trust_program: bool = False,
) -> Checkpoint:
    """A checkpoint from a file, or by the name of a shipped one. No code of the file runs.

    A checkpoint whose architecture is neither given nor recognised can be described, not loaded.

    Args:
        path: the file, or a name on the shelf of data.
        model: a registry name, torchvision:NAME, timm:NAME or FILE.py:FUNCTION; the last is
            imported and called.
        num_classes: where the weights do not tell, or to insist.
        mean: per channel, of [0, 1] pixels.
        std: likewise.
        trust_program: load TorchScript and torch.export files, which run code of their own.

    Raises:
        CheckpointError: the file is no checkpoint, is damaged, does not fit, or may not be loaded.
        InputError: the architecture cannot be built.
    """
    file = _located(path)
    given = sidecar.facts(
        {
            "model": model,
            "num_classes": num_classes,
            "mean": None if mean is None else [float(value) for value in mean],
            "std": None if std is None else [float(value) for value in std],
        },
        "--model, --num-classes, --mean, --std",
    )
    kind = sniff(file)
    if kind in ("TorchScript", "torch.export"):
        return _read_program(file, kind, given, trust_program)
    return _read_weights(file, kind, given)


# -- which file, and which format -----------------------------------------------------------------


def _located(path: str | Path) -> Path:
    file = Path(path)
    if file.is_dir():
        raise CheckpointError(f"{path}: a folder; name the checkpoint file inside it")
    if file.is_file():
        return file
    if file.name == str(path) and not file.suffix:
        known = [item.stem for item in shipped("data").glob("*.safetensors")]
        if file.name in known:
            return shipped("data") / f"{file.name}.safetensors"
        raise CheckpointError(
            str(UnknownName("checkpoint", str(path), known, "or give a file's path"))
        )
    raise CheckpointError(f"{path}: no such file")


def sniff(path: Path) -> str:
    """A file's format, by its first bytes and, of a zip, by its directory.

    Raises:
        CheckpointError: no checkpoint.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if reason := _no_checkpoint(head):
        raise CheckpointError(f"{path}: {reason}")
    if head[:4] == b"PK\x03\x04":
        return _sniff_zip(path)
    if is_safetensors(path, head):
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    raise CheckpointError(
        f"{path}: of no known format; known are torch's .pt and .pth, Lightning's .ckpt, "
        "safetensors, TorchScript and .pt2"
    )


def _no_checkpoint(head: bytes) -> str:
    """Why the first bytes cannot be a checkpoint's, or ""."""
    text = head.lstrip().lower()
    if not head:
        return "the file is empty; download or save it again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "this is a web page, not weights; download it again"
    if text.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the weights; fetch them with: git lfs pull"
    if head[257:262] == b"ustar":
        return "torch's tar format from before version 0.2; load and save it with an old torch"
    if head[:2] == b"\x1f\x8b":
        return "gzip-compressed; unpack it first"
    if head[:4] == b"\x89HDF":
        return "an HDF5 file, as Keras writes; robustkit evaluates torch networks"
    if head[:4] == b"PK\x05\x06":
        return "an empty zip archive"
    return ""


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path}: truncated or damaged: {error}; download it again"
        ) from error
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "TorchScript"
    exported = ("archive_format", "serialized_exported_program.json", "models/model.json")
    if any(name in inner or name in names for name in exported):
        return "torch.export"
    return "torch zip"


# -- programs -------------------------------------------------------------------------------------


def _read_program(path: Path, kind: str, given: Facts, trusted: bool) -> Checkpoint:
    if not trusted:
        raise CheckpointError(
            f"{path}: a {kind} program, and loading a program runs its code; if you trust whoever "
            "made it, pass --trust-program"
        )
    load = program.load_torchscript if kind == "TorchScript" else program.load_export
    loaded, sha256 = load(path), file_digest(path)
    base = Checkpoint(
        str(path),
        sha256,
        kind,
        container="",
        prefix="",
        weights=sha256,
        input_shape=loaded.input_shape,
        num_classes=loaded.num_classes,
        notes=loaded.notes,
        warnings=loaded.warnings,
        _network=loaded.make,
    )
    known = _merged(base, given, sidecar.read(path), Facts())
    if given.model is not None:
        known = replace(known, notes=(*known.notes, "a program brings its architecture along"))
    return _identified(known, {"program": sha256})


# -- weights --------------------------------------------------------------------------------------


def _read_weights(path: Path, kind: str, given: Facts) -> Checkpoint:
    parts = _opened(path, kind)
    aside = sidecar.read(path)
    _finite(parts.state, str(path))
    base = Checkpoint(
        str(path),
        file_digest(path),
        parts.format,
        parts.container,
        prefix="",
        weights="",
        extra=parts.extra,
        notes=parts.notes,
        warnings=parts.warnings,
    )
    known = _merged(base, given, aside, parts.recorded)
    named, note = _architecture(known.model, given.model is not None, parts.state)
    if named is None:
        reading = architecture.plainest(parts.state)
        return _identified(_read_as(known, reading, None), {})
    classes = given.num_classes or aside.num_classes or parts.recorded.num_classes
    try:
        fit = architecture.fit(named, parts.state, classes, str(path))
    except CheckpointError as error:
        inert = (
            f"; not rebuilt, since that runs code: {', '.join(parts.inert)}" if parts.inert else ""
        )
        raise CheckpointError(f"{error}{inert}") from error
    known = replace(known, model=named, num_classes=fit.num_classes, notes=(*known.notes, *note))
    return _identified(
        _read_as(known, fit.reading, fit.module),
        {"model": _name(named), "code": models.source(named)},
    )


def _opened(path: Path, kind: str) -> _Weights:
    if kind == "safetensors":
        return _opened_safetensors(path)
    if kind == "torch zip":
        with zipfile.ZipFile(path) as archive:
            contents = torchfile.read_zip(path, archive)
    else:
        contents = torchfile.read_pickle(path)
    found = containers.locate(contents.root, str(path))
    state, notes = containers.tensors(found, str(path), path.stat().st_size)
    extra = containers.surroundings(contents.root) if found.container else {}
    inert = (f"ignored inert: {_listed(contents.uncalled)}",) if contents.uncalled else ()
    odd = [f"{key} ({what})" for key, what in found.others.items()]
    others = (f"ignored among the weights: {_listed(odd)}",) if odd else ()
    return _Weights(
        contents.format,
        _container(contents.root, found.container),
        state,
        Facts(**containers.training(extra)),
        extra,
        (*found.notes, *notes, *others, *inert),
        contents.warnings,
        tuple(found.others.values())[:3],
    )


def _container(root: object, keys: str) -> str:
    lightning = isinstance(root, dict) and "pytorch-lightning_version" in root
    return f"{keys} (Lightning)" if lightning else keys


def _listed(names: Sequence[str]) -> str:
    shown = [name[:80] for name in names[:5]]
    return ", ".join(shown) + (f" … ({len(names)} in all)" if len(names) > 5 else "")


def _opened_safetensors(path: Path) -> _Weights:
    leaves, metadata = safetensor.read(path)
    found = containers.Found("", {printable(key): leaf for key, leaf in leaves.items()}, {}, ())
    state, notes = containers.tensors(found, str(path), path.stat().st_size)
    if not state:
        raise CheckpointError(f"{path}: no weights in it")
    extra = metadata.pop("extra", None) or {}
    recorded = sidecar.facts(metadata, f"{path}: robustkit metadata")
    return _Weights("safetensors", "", state, recorded, dict(extra), notes)


def _finite(state: State, where: str) -> None:
    bad = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise CheckpointError(
            f"{where}: the weight {bad[0]!r}{more} holds NaN or infinite numbers: the training "
            "diverged, or the file is damaged"
        )


def _architecture(
    known: str | None, given: bool, state: State
) -> tuple[str | None, tuple[str, ...]]:
    """The architecture to build, or None, and a note where it was recognised."""
    if known is not None:
        return (known if given or not models.names_code(known) else None), ()
    matching = architecture.recognise(state)
    if len(matching) != 1:
        return None, ()
    return matching[0], (f"recognised as {matching[0]} by its keys and shapes",)


def _name(spec: str) -> str:
    """The architecture's name without the folder of a user's file."""
    return models.parse_name(spec).name if models.names_code(spec) else spec


def _read_as(
    known: Checkpoint, reading: architecture.Reading, module: torch.nn.Module | None
) -> Checkpoint:
    """The checkpoint with its names read so, and the network that fits them."""
    made = replace(
        known,
        prefix=reading.prefix,
        weights=weights_digest(reading.state),
        notes=(*reading.notes, *known.notes),
        input_shape=known.input_shape or _input_shape(known.model),
        _network=partial(_network_on, freeze(module)) if module is not None else None,
    )
    if reading.mean is None and not architecture.carries_normalisation(reading.state):
        return made
    if known.preprocessing in ("given", "recorded") and known.mean is not None:
        warning = "the normalisation in the checkpoint is replaced by the one given"
        return replace(made, warnings=(*made.warnings, warning)) if reading.mean else made
    return replace(made, mean=reading.mean, std=reading.std, preprocessing="in the checkpoint")


def _network_on(module: torch.nn.Module, device: str | torch.device) -> torch.nn.Module:
    return replica(module).to(device)


def _input_shape(model: str | None) -> tuple[int, int, int] | None:
    return models.MODELS[model].shape if model in models.MODELS else None


def weights_digest(state: State) -> str:
    """SHA-256 over sorted names, types, shapes and numbers; batch norm's counters don't count."""
    parts: list[bytes | str] = []
    for key in sorted(state):
        if not key.endswith(architecture.COUNTER):
            value = state[key].contiguous()
            header = canonical([key, str(value.dtype), list(value.shape)])
            parts += [header, value.flatten().view(torch.uint8).numpy().tobytes()]
    return digest(*parts)


# -- what is known --------------------------------------------------------------------------------


def _merged(base: Checkpoint, given: Facts, aside: Facts, recorded: Facts) -> Checkpoint:
    """The checkpoint with everything that is known of it: flags, then sidecar, then the file."""
    table = recorded.known() | aside.known() | given.known()
    stale = table.pop("sha256", base.sha256) != base.sha256
    normalised = table.pop("normalised", None)
    warnings = ("the sidecar was written for another version of this file",) if stale else ()
    preprocessing = base.preprocessing
    if given.mean is not None:
        preprocessing = "given"
    elif "mean" in table or normalised is False:
        preprocessing = "recorded"
    return replace(
        base,
        **table,
        trained_shape=recorded.input_shape,  # type: ignore[arg-type]  # three, as `facts` checks
        preprocessing=preprocessing,
        warnings=(*base.warnings, *warnings),
    )


def _identified(known: Checkpoint, code: dict[str, str]) -> Checkpoint:
    """The checkpoint with its identity, and a warning where the preprocessing is a guess."""
    if known.preprocessing == "assumed none":
        warning = (
            "unknown preprocessing: the network is assumed to take [0, 1] pixels as they are; "
            "if it was trained on normalised images, pass --mean and --std"
        )
        known = replace(known, warnings=(*known.warnings, warning))
    identity = {
        "weights": known.weights,
        "mean": None if known.mean is None else list(known.mean),
        "std": None if known.std is None else list(known.std),
        "adapter": ADAPTER,
        **code,
    }
    return replace(known, identity=identity)


# -- telling and keeping --------------------------------------------------------------------------


def describe(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """What was recognised, as rows of a label and a text, warnings last."""
    c = checkpoint
    shape = "×".join(map(str, c.input_shape)) if c.input_shape else None
    normalisation = f" (mean {_numbers(c.mean)}, std {_numbers(c.std)})" if c.mean and c.std else ""
    rows: list[tuple[str, object]] = [
        ("file", c.path),
        ("sha256", c.sha256),
        ("format", c.format),
        ("container", c.container or "none"),
        ("prefix", c.prefix or "none"),
        ("weights", c.weights),
        ("model", c.model or "unknown: name it with --model"),
        ("classes", c.num_classes),
        ("input shape", shape),
        *((name, n) for name in ("resize", "crop", "channels") if (n := getattr(c, name))),
        ("preprocessing", c.preprocessing + normalisation),
        ("trained on", c.trained_on),
        ("loss", c.loss),
        ("label noise", c.label_noise),
        ("data fraction", c.data_fraction),
        ("seed", c.seed),
        ("recorded accuracy", c.recorded_accuracy),
        *(row for name, value in c.extra.items() for row in _rows(name, value)),
        *(("note", note) for note in c.notes),
        *(("warning", warning) for warning in c.warnings),
    ]
    return [(label, "unknown" if value is None else str(value)) for label, value in rows]


def _rows(name: str, value: object) -> list[tuple[str, object]]:
    """Nested tables as dotted names; of a list of tables, such as a history, the last."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        name, value = f"{name}.{len(value)}", value[-1]
    if isinstance(value, dict) and value:
        return [row for key, item in value.items() for row in _rows(f"{name}.{key}", item)]
    return [(name, "none" if value is None or value == [] else value)]


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def write_sidecar(checkpoint: Checkpoint, path: str | Path | None = None) -> Path:
    """Write what is known of a checkpoint to a sidecar, by default next to it; returns its path.

    Raises:
        EvaluationFailed: it cannot be written.
    """
    c = checkpoint
    inside = c.preprocessing == "in the checkpoint"
    target = Path(path) if path is not None else sidecar.place(Path(c.path))
    known = Facts(
        model=c.model,
        num_classes=c.num_classes,
        input_shape=c.input_shape,
        resize=c.resize,
        crop=c.crop,
        channels=c.channels,
        mean=None if inside else c.mean,
        std=None if inside else c.std,
        normalised=False if c.preprocessing == "recorded" and c.mean is None else None,
        loss=c.loss,
        label_noise=c.label_noise,
        data_fraction=c.data_fraction,
        seed=c.seed,
        trained_on=c.trained_on,
        recorded_accuracy=c.recorded_accuracy,
        sha256=c.sha256,
    )
    sidecar.write(target, known)
    return target


def save(path: str | Path, module: torch.nn.Module, *, model: str, **metadata: Any) -> None:
    """Write robustkit's self-describing safetensors; the same content gives the same bytes.

    A mean and std that are not given are recorded as none: the network takes [0, 1] pixels.

    Args:
        path: the file to write.
        module: the network itself, without a classifier around it.
        model: the architecture's name.
        metadata: the fields of `sidecar.Facts`; other names are kept as extra.

    Raises:
        CheckpointError: metadata of a wrong type.
        EvaluationFailed: the file cannot be written.
    """
    names = Facts.__dataclass_fields__
    table = {key: value for key, value in metadata.items() if key in names} | {"model": model}
    table = {key: list(v) if isinstance(v, tuple) else v for key, v in table.items()}
    table.setdefault("normalised", table.get("mean") is not None)
    known = sidecar.facts(table, str(path)).known()
    extra = {key: value for key, value in metadata.items() if key not in names}
    safetensor.write(Path(path), module.state_dict(), known | ({"extra": extra} if extra else {}))
