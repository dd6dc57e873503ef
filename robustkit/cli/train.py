"""`robustkit train`: from a loss, a network and data to a checkpoint that needs no flags."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robustkit.cli import completion
from robustkit.cli.options import (
    Channels,
    Crop,
    DataRoot,
    Device,
    Interpolation,
    Resize,
    Seed,
    Split,
    Track,
)
from robustkit.cli.output import check_file


def train(
    model: Annotated[
        str,
        typer.Option(
            help="Architecture: a name (`robustkit list models`) or FILE.py:FUNCTION.",
            autocompletion=completion.models,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Data set: a name (`robustkit list data`) or a path.",
            autocompletion=completion.data,
        ),
    ],
    loss: Annotated[
        str,
        typer.Option(
            help="Loss: a name (`robustkit list losses`) or FILE.py:FUNCTION.",
            autocompletion=completion.losses,
        ),
    ] = "cross-entropy",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a setting of the loss: gamma=10; repeatable."
        ),
    ] = None,
    data_root: DataRoot = None,
    split: Split = "train",
    label_noise: Annotated[
        str | None, typer.Option(metavar="RATE", help="Fraction of noisy labels: 0.4, 40%.")
    ] = None,
    noise_kind: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="Noise: symmetric, symmetric-any, pair, instance, matrix:FILE, file:FILE#COLUMN.",
        ),
    ] = "symmetric",
    noise_stratified: Annotated[
        bool, typer.Option("--noise-stratified", help="Apply the noise rate in every class.")
    ] = False,
    data_fraction: Annotated[
        str,
        typer.Option(
            metavar="SHARE", help="Fraction of the images that are not held out: 0.05, 5%."
        ),
    ] = "1",
    hold_out: Annotated[
        str | None,
        typer.Option(metavar="N|SHARE", help="Images to hold out for selection: 5000, 10%."),
    ] = None,
    keep: Annotated[
        Literal["last", "best"],
        typer.Option(help="Keep the last epoch, or the best one by held-out accuracy."),
    ] = "last",
    snapshots: Annotated[
        str | None,
        typer.Option(
            metavar="PASSES",
            help="Also keep the weights after these passes over the data: 1,2,4,8.",
        ),
    ] = None,
    clean_selection: Annotated[
        bool, typer.Option("--clean-selection", help="Keep held-out labels clean.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Updates in total, instead of --epochs.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per update.")] = None,
    optimizer: Annotated[
        Literal["sgd", "rmsprop", "adam", "adamw"] | None, typer.Option(help="Optimiser.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of SGD and RMSProp.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    schedule: Annotated[
        Literal["constant", "cosine", "one-cycle", "staircase", "multistep"] | None,
        typer.Option(help="Learning-rate schedule."),
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Clip the gradient to this norm.")] = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="flip|crop|none", help="Augmentation: random mirroring, random shifts."
        ),
    ] = None,
    recipe: Annotated[
        Literal["default", "paper"],
        typer.Option(
            help="Settings that are not given: robustkit's defaults, or those of the loss's paper."
        ),
    ] = "default",
    recipe_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Other recipe settings: nesterov=true, milestones=5000,7500; repeatable.",
        ),
    ] = None,
    compress: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEME",
            help="Compress gradients between processes: top-k:0.01, random-k:0.01, one-bit, fp16, "
            "bf16, powersgd:4.",
        ),
    ] = None,
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Compress without error feedback.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "float32", "tf32", "bf16", "fp16"],
        typer.Option(
            help="Precision of the network's products; weights and loss stay in float32. auto: "
            "tf32 on a GPU, float32 on a CPU, where bf16 halves the time of most networks."
        ),
    ] = "auto",
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Reproduce every byte on a GPU too, by deterministic algorithms only and a fixed "
            "cuBLAS workspace (CUBLAS_WORKSPACE_CONFIG). Usually slower; an operation without such "
            "an algorithm is refused.",
        ),
    ] = False,
    resize: Resize = None,
    interpolation: Interpolation = None,
    crop: Crop = None,
    channels: Channels = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.safetensors", help="Checkpoint to write.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train again, even if there is a result.")
    ] = False,
    track: Track = None,
) -> int:
    """Train a network, for example under label noise.

    The checkpoint records how it was made, so that evaluating it needs no options, but --model
    again where the architecture is FILE.py:FUNCTION. A repeated command continues an interrupted
    training.
    """
    from robustkit.calls.train import train as trained
    from robustkit.cli.terminal import show_training

    check_file("--out", out)
    length: dict[str, Any] = {"epochs": epochs, "steps": steps, "batch_size": batch_size}
    update: dict[str, Any] = {"optimizer": optimizer, "schedule": schedule, "clip": clip}
    update |= {"learning_rate": learning_rate, "momentum": momentum, "augment": augment}
    update["weight_decay"] = weight_decay
    images: dict[str, Any] = {"data_root": data_root, "resize": resize, "crop": crop}
    images |= {"channels": channels, "interpolation": interpolation}
    found = trained(
        model,
        data,
        loss,
        settings=set_ or (),
        split=split,
        label_noise=label_noise,
        noise_kind=noise_kind,
        noise_stratified=noise_stratified,
        data_fraction=data_fraction,
        hold_out=hold_out,
        keep=keep,
        snapshots=snapshots,
        clean_selection=clean_selection,
        recipe=recipe,
        recipe_settings=recipe_set or (),
        compress=compress,
        memory=not no_memory,
        seed=seed,
        device=device,
        precision=precision,
        deterministic=deterministic,
        out=out,
        fresh=fresh,
        track=track,
        command=shlex.join(["robustkit", *sys.argv[1:]]),
        progress=True,
        **length,
        **update,
        **images,
    )
    show_training(found)
    return 0
