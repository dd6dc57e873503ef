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
from robustkit.cli.output import check_files, say, tell, write_json
from robustkit.errors import shown

if TYPE_CHECKING:
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
        str | None, typer.Option("--json", metavar="FILE|-", help="Write the description as JSON.")
    ] = None,
    sidecar: bool = typer.Option(
        False, "--sidecar", help="Write what is known to a .toml next to the checkpoint."
    ),
    sidecar_path: Path | None = typer.Option(None, "--sidecar-path", help="Path of the sidecar."),
    labels: Path | None = typer.Option(
        None,
        metavar="FILE.csv",
        help="Write given and clean training labels, checked by their digests.",
    ),
    data: Data = None,
    data_root: DataRoot = None,
    split: str | None = typer.Option(None, help="Split that was trained on; default: train."),
    noise_kind: str | None = typer.Option(
        None, metavar="KIND", help="File of the noisy labels: file:FILE#COLUMN, matrix:FILE."
    ),
    resize: Resize = None,
    interpolation: Interpolation = None,
    crop: Crop = None,
    channels: Channels = None,
) -> None:
    """Show what a checkpoint holds, and what is missing to evaluate it."""
    from robustkit import checkpoint as checkpoints
    from robustkit.calls.describe import describe as described

    check_files({"--sidecar-path": sidecar_path, "--labels": labels, "--json": json_})
    images: dict[str, Any] = {"data": data, "data_root": data_root, "split": split}
    images |= {"resize": resize, "interpolation": interpolation, "crop": crop}
    found = described(
        CheckpointOptions.parse(
            model=model,
            num_classes=num_classes,
            mean=mean,
            std=std,
            trust_program=trust_program,
            taken=TakenWeights(weights, ignore, rename),
        ).read(checkpoint),
        sidecar=sidecar,
        sidecar_path=sidecar_path,
        labels=labels,
        noise_kind=noise_kind,
        channels=channels,
        **images,
    )
    if json_ is not None:
        write_json(checkpoints.as_json(found.checkpoint), json_)
    rows = found.rows if json_ != "-" else []
    width = max((len(shown(label)) for label, _ in rows), default=0)
    for label, text in rows:
        say(f"{shown(label):<{width}}  {text}")
    if found.sidecar is not None:
        tell(f"wrote {found.sidecar}")
    if found.flips is not None:
        if json_ != "-":  # the JSON object stands alone on stdout
            _show_flips(found.flips)
        tell(f"wrote {labels}")


def _show_flips(flips: "Sequence[Flips]") -> None:
    """How many labels of each class are wrong, on stdout."""
    total = [sum(column) for column in list(zip(*flips, strict=True))[1:]]
    counted = [(shown(str(name)), *counts) for name, *counts in flips]
    lines = [("class", "trained on", "wrong", "held out", "wrong"), *counted, ("all", *total)]
    width = max(len(str(line[0])) for line in lines)
    say()
    for name, *counts in lines:
        say(f"{name:<{width}}" + "".join(f"  {count:>10}" for count in counts))
