"""`robustkit.describe`: what a checkpoint holds, as far as it can be told without running it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustkit import checkpoint as checkpoints
from robustkit.calls.given import path_of
from robustkit.checkpoint import Checkpoint, read_checkpoint
from robustkit.checkpoint.recognised import Description
from robustkit.data import load_dataset, recovered
from robustkit.data.recovered import Flips
from robustkit.defaults import torch_defaults
from robustkit.display.progress import seen
from robustkit.display.stream import FetchLines
from robustkit.errors import InputError
from robustkit.evaluation.images import TrainedOn
from robustkit.files import write_atomic


@torch_defaults()
def describe(
    checkpoint: Checkpoint | str | Path,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    trust_program: bool = False,
    weights: str | None = None,
    ignore: str | Sequence[str] | None = None,
    rename: str | Sequence[str] | Mapping[str, str] | None = None,
    sidecar: bool = False,
    sidecar_path: Path | str | None = None,
    labels: Path | str | None = None,
    data: str | Path | None = None,
    data_root: Path | str | None = None,
    split: str | None = None,
    noise_kind: str | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    crop: int | None = None,
    channels: int | None = None,
) -> Description:
    """What was recognised: container, prefix, architecture, classes, training conditions.

        robustkit.describe("net.pt")
        dict(robustkit.describe("net.pt").rows)["architecture"]

    Args:
        checkpoint: a file or folder, a shipped or published name; or one that was read before.
        model: and so on to `rename`: as for `read_checkpoint`.
        num_classes: where the weights do not tell.
        mean: per channel, of [0, 1] pixels; one number holds for all channels.
        std: likewise.
        trust_program: load TorchScript and torch.export files, which run code of their own.
        weights: key of the set of weights to take.
        ignore: patterns of names that are no part of the network.
        rename: what names begin with, and are to begin with instead.
        sidecar: write what is known to a .toml beside the checkpoint.
        sidecar_path: path of that file.
        labels: file (.csv) for the labels that were trained on, given and clean; they are checked
            by their digests.
        data: what was trained on; otherwise what the checkpoint says, and so on to `channels`.
        data_root: where its files stand.
        split: which part of it; otherwise "train".
        noise_kind: where labels came from a file: file:FILE#COLUMN, matrix:FILE.
        resize: as for `load_dataset`.
        interpolation: likewise.
        crop: likewise.
        channels: likewise.

    Raises:
        CheckpointError: the file is no checkpoint, or is damaged.
        InputError: it says too little for `labels`, or images are named without them.
    """
    images = {"resize": resize, "interpolation": interpolation, "crop": crop, "channels": channels}
    named = {"data": data, "data-root": data_root, "split": split, "noise-kind": noise_kind}
    for option, value in (named | images).items():
        if value is not None and labels is None:
            raise InputError(f"--{option} goes with --labels")
    if isinstance(checkpoint, Checkpoint):
        _check_read(
            model=model,
            num_classes=num_classes,
            mean=mean,
            std=std,
            trust_program=trust_program or None,
            weights=weights,
            ignore=ignore,
            rename=rename,
        )
        found = checkpoint
    else:
        found = read_checkpoint(
            checkpoint,
            model=model,
            num_classes=num_classes,
            mean=mean,
            std=std,
            trust_program=trust_program,
            weights=weights,
            ignore=ignore,
            rename=rename,
            progress=FetchLines() if seen() else None,
        )
    written = None
    if sidecar or sidecar_path is not None:
        written = checkpoints.write_sidecar(found, path_of(sidecar_path))
    flips = None
    if labels is not None:
        where = images | {"root": path_of(data_root), "split": split}
        flips = _write_labels(found, Path(labels), data, noise_kind, where)
    return Description(found, checkpoints.describe(found), written, flips)


def _check_read(**given: object) -> None:
    """Raise InputError where a checkpoint that was read before is to be read in another way."""
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name} says how a file is read, and this checkpoint was read before")


def _write_labels(
    found: Checkpoint,
    path: Path,
    data: str | Path | None,
    noise_kind: str | None,
    where: Mapping[str, Any],
) -> Sequence[Flips]:
    """Write the labels of a training as CSV; how many of each class are wrong.

    Raises:
        InputError: the checkpoint says too little, or what is found has other digests.
    """
    record = found.extra.get("training")
    told = record.get("data") if isinstance(record, dict) else None
    place = TrainedOn.of(found)
    recorded = place.path if place else found.trained_on
    if not isinstance(told, dict) or not (name := data or recorded):
        raise InputError(f"{found.path}: does not say what it was trained on, which --labels needs")
    usual = place.split if place and data is None else "train"
    dataset = load_dataset(name, **{**where, "split": where["split"] or usual})
    training = recovered.recover(dataset, told, noise_kind)
    write_atomic(path, recovered.table(dataset, training))
    return recovered.flips(dataset, training)
