"""`robustkit describe`: what a checkpoint holds, as far as it can be told without running it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustkit.cli import completion
from robustkit.cli.options import (
    CKPT,
    Channels,
    CheckpointOptions,
    Crop,
    Data,
    DataRoot,
    Ignore,
    Interpolation,
    Mean,
    Model,
    NumClasses,
    Rename,
    Resize,
    Std,
    TakenWeights,
    TrustProgram,
    Weights,
)
from robustkit.cli.output import check_file, say, tell, write_json
from robustkit.errors import InputError, shown
from robustkit.files import write_atomic

if TYPE_CHECKING:
    from robustkit.checkpoint import Checkpoint
    from robustkit.data.recovered import Flips


def describe(
    checkpoint: str = typer.Argument(
        ..., metavar="CKPT", help=CKPT, autocompletion=completion.checkpoints
    ),
    model: Model = None,
    num_classes: NumClasses = None,
    mean: Mean = None,
    std: Std = None,
    trust_program: TrustProgram = False,
    weights: Weights = None,
    ignore: Ignore = None,
    rename: Rename = None,
    json_: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write it as JSON.")
    ] = None,
    sidecar: bool = typer.Option(
        False, "--sidecar", help="Write what is known to a .toml beside the checkpoint."
    ),
    sidecar_path: Path | None = typer.Option(None, "--sidecar-path", help="Path of that file."),
    labels: Path | None = typer.Option(
        None,
        metavar="FILE.csv",
        help="Write the labels that were trained on, given and clean; checked by their digests.",
    ),
    data: Data = None,
    data_root: DataRoot = None,
    split: str = typer.Option("train", help="Which part of the data was trained on."),
    noise_kind: str | None = typer.Option(
        None, metavar="KIND", help="Where labels came from a file: file:FILE#COLUMN, matrix:FILE."
    ),
    resize: Resize = None,
    interpolation: Interpolation = None,
    crop: Crop = None,
    channels: Channels = None,
) -> None:
    """Print what was recognised: container, prefix, architecture, classes, training conditions."""
    from robustkit import checkpoint as checkpoints

    check_file("--sidecar-path", sidecar_path)
    check_file("--labels", labels)
    check_file("--json", json_)
    found = CheckpointOptions.parse(
        model=model,
        num_classes=num_classes,
        mean=mean,
        std=std,
        trust_program=trust_program,
        taken=TakenWeights(weights, ignore, rename),
    ).read(checkpoint)
    if json_ is not None:
        write_json(checkpoints.as_json(found), json_)
    rows = checkpoints.describe(found) if json_ != "-" else []
    width = max((len(shown(label)) for label, _ in rows), default=0)
    for label, text in rows:
        say(f"{shown(label):<{width}}  {text}")
    if sidecar or sidecar_path:
        tell(f"wrote {checkpoints.write_sidecar(found, sidecar_path)}")
    if labels is not None:
        where: dict[str, Any] = {
            "root": data_root,
            "resize": resize,
            "crop": crop,
            "channels": channels,
        }
        where["interpolation"] = interpolation
        _write_labels(found, labels, data, split, noise_kind, where)


def _write_labels(
    found: "Checkpoint",
    path: Path,
    data: str | None,
    split: str,
    noise_kind: str | None,
    where: dict[str, Any],
) -> None:
    """The labels of a training as CSV, and how many of each class are wrong.

    Raises:
        InputError: the checkpoint says too little, or what is found has other digests.
    """
    from robustkit.data import load_dataset, recovered

    record = found.extra.get("training")
    told = record.get("data") if isinstance(record, dict) else None
    if not isinstance(told, dict) or not (name := data or found.trained_on):
        raise InputError(f"{found.path}: it does not say what it was trained on; no --labels")
    dataset = load_dataset(name, split=split, **where)
    training = recovered.recover(dataset, told, noise_kind)
    write_atomic(path, recovered.table(dataset, training))
    _show_flips(recovered.flips(dataset, training))
    tell(f"wrote {path}")


def _show_flips(flips: "Sequence[Flips]") -> None:
    """How many labels of each class are wrong, on stdout."""
    total = [sum(column) for column in list(zip(*flips, strict=True))[1:]]
    counted = [(shown(str(name)), *counts) for name, *counts in flips]
    lines = [("class", "trained on", "wrong", "held out", "wrong"), *counted, ("all", *total)]
    width = max(len(str(line[0])) for line in lines)
    say()
    for name, *counts in lines:
        say(f"{name:<{width}}" + "".join(f"  {count:>10}" for count in counts))
