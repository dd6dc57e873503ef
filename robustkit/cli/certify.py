"""`robustkit certify`: each image certified, fooled, or open."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustkit.cli import completion
from robustkit.cli.options import (
    CKPT,
    BatchSize,
    Channels,
    CheckpointOptions,
    Classes,
    Crop,
    Data,
    DataRoot,
    Device,
    Ignore,
    Interpolation,
    Mean,
    Model,
    NumClasses,
    Rename,
    Resize,
    Seed,
    Split,
    Std,
    TakenWeights,
    Track,
    TrustProgram,
    Weights,
    images_per_batch,
)
from robustkit.cli.output import check_files, check_folder, write_json
from robustkit.cli.stepsummary import summarise
from robustkit.errors import InputError
from robustkit.protocol import Norm

if TYPE_CHECKING:
    from robustkit.record.certification import Certification
    from robustkit.statistics.estimate import Method


def certify(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CKPT", help=CKPT, autocompletion=completion.checkpoints)
    ],
    epsilon: Annotated[str, typer.Option(help="Budget ε, such as 8/255.")],
    norm: Annotated[
        Norm | None, typer.Option(help="Norm of ε; default: the attack's first.")
    ] = None,
    time_limit: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Time for branch and bound per image; 0: none."),
    ] = 30.0,
    attack: Annotated[
        str,
        typer.Option(
            help="Attack to try before branch and bound (`robustkit list attacks`).",
            autocompletion=completion.attacks,
        ),
    ] = "pgd",
    model: Model = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    seed: Seed = 0,
    batch_size: BatchSize = "auto",
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the records.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Re-run even if cached.")] = False,
    json_: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write a JSON summary.")
    ] = None,
    save_adversarial: Annotated[
        Path | None, typer.Option(help="Save the counterexamples as float32 .npz.")
    ] = None,
    track: Track = None,
    interval: Annotated[
        Literal["wilson", "exact"], typer.Option(help="Kind of 95 % confidence interval.")
    ] = "wilson",
    num_classes: NumClasses = None,
    mean: Mean = None,
    std: Std = None,
    trust_program: TrustProgram = False,
    weights: Weights = None,
    ignore: Ignore = None,
    rename: Rename = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    crop: Crop = None,
    channels: Channels = None,
    classes: Classes = None,
) -> int:
    """Prove images robust, or find their counterexamples.

    By bounds, an attack, then branch and bound. Certified images are classified correctly under
    every perturbation; a fooled one has a counterexample, verified in float32; the rest is open. A
    repeated command continues where the last one stopped, and tries open images again if it has
    more time.
    """
    _check(attack, norm, epsilon, time_limit)
    size = images_per_batch(batch_size)
    check_folder("--out", out)
    check_files({"--json": json_, "--save-adversarial": save_adversarial})
    reading = CheckpointOptions.parse(
        model=model,
        num_classes=num_classes,
        mean=mean,
        std=std,
        trust_program=trust_program,
        taken=TakenWeights(weights, ignore, rename),
    )
    images: dict[str, Any] = {"data": data, "data_root": data_root, "split": split, "limit": limit}
    images |= {"resize": resize, "crop": crop, "channels": channels, "classes": classes}
    images["interpolation"] = interpolation
    from robustkit.calls import tracking
    from robustkit.calls.certify import certify as certified

    tracker, command = tracking.asked(track), shlex.join(["robustkit", *sys.argv[1:]])
    loaded = reading.read(checkpoint)
    found = certified(
        loaded,
        epsilon=epsilon,
        norm=norm,
        time_limit=time_limit,
        attack=attack,
        seed=seed,
        batch_size=size,
        device=device,
        out=out,
        fresh=fresh,
        save_adversarial=save_adversarial,
        command=command,
        progress=True,
        **images,
    )
    _write(found, interval, json_)
    tracking.track_certification(tracker, str(loaded.path), found, command, interval)
    return 0


def _write(found: "Certification", interval: "Method", json_: str | None) -> None:
    from robustkit.cli.terminal import show_certification
    from robustkit.evaluation import certifying

    if json_ is not None:
        write_json(certifying.summarise_certification(found, interval), json_)
    if json_ != "-":
        show_certification(found, interval)
    summarise([found], method=interval)


def _check(attack: str, norm: Norm | None, epsilon: str, time_limit: float) -> None:
    """What can be told before torch is imported."""
    from math import isfinite

    from robustkit import protocol

    if norm is not None:
        protocol.check_bounded(norm)
    protocol.check_bounded(protocol.load_protocol(attack, (), norm).norm)
    protocol.parse_epsilon(epsilon)
    if not (isfinite(time_limit) and time_limit >= 0):
        raise InputError(f"--time-limit {time_limit}: expected a number of seconds, 0 or more")
