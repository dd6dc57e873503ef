"""`robustkit train`: from a loss, a network and data to a checkpoint that needs no flags."""

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustkit.cli import completion, tracking
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
    share,
)
from robustkit.cli.output import check_file
from robustkit.errors import InputError
from robustkit.parsing import whole

if TYPE_CHECKING:
    from robustkit.compression import Scheme
    from robustkit.data import Dataset
    from robustkit.data.noise import LabelNoise


def train(
    model: Annotated[
        str,
        typer.Option(
            help="Architecture: see `robustkit list models`, or FILE.py:FUNCTION.",
            autocompletion=completion.models,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="A name (`robustkit list data`) or a path.", autocompletion=completion.data
        ),
    ],
    loss: Annotated[
        str,
        typer.Option(
            help="See `robustkit list losses`, or FILE.py:FUNCTION.",
            autocompletion=completion.losses,
        ),
    ] = "cross-entropy",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the loss: gamma=10; repeatable."),
    ] = None,
    data_root: DataRoot = None,
    split: Split = "train",
    label_noise: Annotated[
        str | None, typer.Option(metavar="RATE", help="Fraction of labels to flip: 0.4, 40%.")
    ] = None,
    noise_kind: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="symmetric, symmetric-any, pair, instance, matrix:FILE or file:FILE#COLUMN.",
        ),
    ] = "symmetric",
    noise_stratified: Annotated[
        bool, typer.Option("--noise-stratified", help="Apply the rate in every class.")
    ] = False,
    data_fraction: Annotated[
        str, typer.Option(metavar="SHARE", help="Fraction of the images not held out: 0.05, 5%.")
    ] = "1",
    hold_out: Annotated[
        str | None,
        typer.Option(metavar="N|SHARE", help="Held-out images, to monitor training: 5000, 10%."),
    ] = None,
    keep: Annotated[
        Literal["last", "best"],
        typer.Option(help="Weights of the last epoch, or of the best one by held-out accuracy."),
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
    steps: Annotated[int | None, typer.Option(help="Updates in total, instead of epochs.")] = None,
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
        typer.Option(metavar="flip|crop|none", help="Random mirroring, shifting."),
    ] = None,
    recipe: Annotated[
        Literal["default", "paper"],
        typer.Option(
            help="What is not given above: our defaults, or the settings of the loss's paper."
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
            help="Of the network's multiplications; weights and loss are float32. auto: tf32 on a "
            "GPU, float32 on a CPU, where bf16 halves the time of most networks."
        ),
    ] = "auto",
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Same bytes on a GPU too: torch and cuDNN use deterministic algorithms alone, "
            "cuBLAS a fixed workspace (CUBLAS_WORKSPACE_CONFIG). Mostly slower; an operation that "
            "has no such algorithm is refused.",
        ),
    ] = False,
    resize: Resize = None,
    interpolation: Interpolation = None,
    crop: Crop = None,
    channels: Channels = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.safetensors", help="Output checkpoint.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over, even if there is a result.")
    ] = False,
    track: Track = None,
) -> int:
    """Train a network and write a self-describing checkpoint; interrupted, it goes on later.

    Exit status: 0 done, 2 bad input, 3 the training failed, 130 and 143 interrupted.
    """
    from robustkit import losses, training
    from robustkit.cli.terminal import TrainingBar, show_training
    from robustkit.data import load_dataset
    from robustkit.training import TrainingConfig, TrainingOptions, resolve

    noise = _noise(noise_kind, label_noise, noise_stratified)
    part = share(data_fraction, "--data-fraction")
    scheme = _scheme(compress, no_memory)
    losses.source(loss)  # an unknown name is told before torch is imported
    given = losses.parse_settings(set_ or ())
    changes = _further(recipe_set or ()) | _given(epochs=epochs, steps=steps, schedule=schedule)
    changes |= _given(optimizer=optimizer, learning_rate=learning_rate, momentum=momentum)
    changes |= _given(batch_size=batch_size, weight_decay=weight_decay, clip=clip)
    changes |= _given(augment=_augment(augment), hold_out=_held_out(hold_out))
    resolved = resolve(loss, data, model, settings=given, changes=changes, paper=recipe == "paper")
    passes = _passes(snapshots)
    check_file("--out", out)
    path = out or Path(_name(loss, given, model, data, noise, part, scheme, seed))
    shape: dict[str, Any] = {"resize": resize, "crop": crop, "channels": channels}
    shape["interpolation"] = interpolation
    images = load_dataset(data, split=split, root=data_root, **shape)
    _check_held_out(changes.get("hold_out", 0), images)
    config = TrainingConfig(
        model=model,
        data=images,
        loss=loss,
        settings=resolved.settings(len(images), part),
        recipe=resolved.recipe,
        noise=noise,
        fraction=part,
        seed=seed,
        keep=keep,
        clean_selection=clean_selection,
        compress=scheme,
        memory=not no_memory,
        precision=precision,
        deterministic=deterministic,
    )
    with tracking.run(tracking.asked(track), path.stem) as run, TrainingBar(path.name) as bar:
        told = tracking.also(bar.callbacks, run)
        options = TrainingOptions(device=device, fresh=fresh, callbacks=told, snapshots=passes)
        trained = training.train(config, path, options)
        tracking.track_training(run, trained)
    show_training(trained)
    return 0


def _noise(kind: str, rate: str | None, stratified: bool) -> "LabelNoise":
    """What the options of label noise say."""
    from robustkit.data.noise import parse_label_noise

    share_wrong = None if rate is None else str(share(rate, "--label-noise"))
    noise = parse_label_noise(kind, share_wrong, stratified=stratified)
    if stratified and noise.kind == "file":
        raise InputError("--noise-stratified does not apply to labels from a file; leave it out")
    return noise


def _scheme(text: str | None, no_memory: bool) -> "Scheme | None":
    """What the options of compressed gradients say."""
    from robustkit import compression

    if text is None and no_memory:
        raise InputError("--no-memory applies to compressed gradients only; give --compress too")
    return None if text is None else compression.parse(text)


def _passes(text: str | None) -> tuple[int, ...]:
    """What --snapshots says."""
    found = [whole(part.strip()) for part in (text or "").split(",")] if text is not None else []
    if None in found:
        raise InputError(f"--snapshots {text}: expected passes over the data, such as 1,2,4,8")
    return tuple(sorted({number for number in found if number is not None}))


def _augment(kinds: list[str] | None) -> tuple[str, ...] | None:
    """What --augment says; `none` takes away what the recipe has."""
    return None if kinds is None else tuple(kind for kind in kinds if kind != "none")


def _held_out(text: str | None) -> Fraction | None:
    """What --hold-out says.

    Raises:
        InputError: not a number, or one that may be a share or a count.
    """
    if text is None:
        return None
    value = share(text, "--hold-out")
    if value == 1 and text != "1":
        raise InputError(
            f"--hold-out {text}: a share must be below 1; for a single image write --hold-out 1"
        )
    return value


def _check_held_out(amount: Fraction | int, images: "Dataset") -> None:
    """Raise InputError where a share above 0 comes to no image."""
    if 0 < amount * len(images) < 1:
        raise InputError(
            f"--hold-out: {float(amount):g} of {len(images)} images is none; give at least "
            f"1/{len(images)}, or 0 to hold out none"
        )


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _further(texts: Iterable[str]) -> dict[str, Any]:
    """What --recipe-set says of a recipe: fields that have no option of their own."""
    from robustkit import losses
    from robustkit.training import recipe as recipes

    given = losses.parse_settings(texts, "--recipe-set")
    for key in given:
        if key in recipes.Recipe.__dataclass_fields__ and key not in recipes.FURTHER:
            raise InputError(f"--recipe-set {key}: this has an option, --{key.replace('_', '-')}")
    if type(given.get("milestones")) is int:
        given["milestones"] = [given["milestones"]]
    return recipes.parse_changes(given, "--recipe-set")


def _name(
    loss: str,
    settings: Mapping[str, Any],
    model: str,
    data: str,
    noise: "LabelNoise",
    share: Fraction,
    scheme: object,
    seed: int,
) -> str:
    """A file's name that tells one training from another at a glance."""
    parts = [
        loss.rpartition(":")[2],
        *(f"{key}={value}" for key, value in settings.items()),
        model.rpartition(":")[2],
        Path(data).stem,
        *([f"noise-{noise.kind}-{float(noise.rate or 0):g}"] if noise.rate != 0 else []),
        *([f"fraction-{float(share):g}"] if share != 1 else []),
        *([str(scheme)] if scheme else []),
        f"seed{seed}",
    ]
    return re.sub(r"[^\w.=-]+", "_", "-".join(parts)) + ".safetensors"
