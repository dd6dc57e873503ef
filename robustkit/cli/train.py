"""`robustkit train`: from a loss, a network and data to a checkpoint that needs no flags."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustkit.cli.options import Channels, Crop, DataRoot, Device, Resize, Seed, Split, share
from robustkit.errors import InputError
from robustkit.files import build

if TYPE_CHECKING:
    from robustkit.data import Dataset
    from robustkit.data.noise import Noise


def train(
    model: Annotated[
        str,
        typer.Option(help="Architecture: see `robustkit list models`, or FILE.py:FUNCTION."),
    ],
    data: Annotated[str, typer.Option(help="A name (`robustkit list data`) or a path.")],
    loss: Annotated[
        str, typer.Option(help="See `robustkit list losses`, or FILE.py:FUNCTION.")
    ] = "cross-entropy",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the loss: gamma=10; repeatable."),
    ] = None,
    data_root: DataRoot = None,
    split: Split = "train",
    label_noise: Annotated[
        str | None, typer.Option(metavar="RATE", help="Share of labels made wrong: 0.4, 40%.")
    ] = None,
    noise_kind: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="symmetric, symmetric-any, pair, instance, matrix:FILE or file:FILE#COLUMN.",
        ),
    ] = "symmetric",
    noise_stratified: Annotated[
        bool, typer.Option("--noise-stratified", help="The rate holds in every class.")
    ] = False,
    data_fraction: Annotated[
        str, typer.Option(metavar="SHARE", help="Of the images that are not held out: 0.05, 5%.")
    ] = "1",
    hold_out: Annotated[
        str | None,
        typer.Option(metavar="N|SHARE", help="Images kept to watch the training by: 5000, 10%."),
    ] = None,
    keep: Annotated[
        Literal["last", "best"],
        typer.Option(help="Weights of the last epoch, or of the best one by held-out accuracy."),
    ] = "last",
    clean_selection: Annotated[
        bool, typer.Option("--clean-selection", help="No label noise in the held-out images.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates in all, instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images an update.")] = None,
    optimizer: Annotated[
        Literal["sgd", "rmsprop", "adam", "adamw"] | None, typer.Option(help="And its settings:")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its highest.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD and RMSProp.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Times the weights.")] = None,
    schedule: Annotated[
        Literal["constant", "cosine", "one-cycle", "staircase", "multistep"] | None,
        typer.Option(help="Of the learning rate."),
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(metavar="flip|crop|none", help="Images mirrored, shifted."),
    ] = None,
    recipe: Annotated[
        Literal["default", "paper"],
        typer.Option(help="Where the above are not given: ours, or that of the loss's own paper."),
    ] = "default",
    recipe_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Change the rest of it: nesterov=true, milestones=5000,7500; repeatable.",
        ),
    ] = None,
    compress: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEME",
            help="Gradients between processes: top-k:0.01, random-k:0.01, one-bit, fp16, bf16, "
            "powersgd:4.",
        ),
    ] = None,
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Compress without error feedback.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "float32", "tf32", "bf16"], typer.Option(help="auto: tf32 on a GPU.")
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
    crop: Crop = None,
    channels: Channels = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.safetensors", help="The checkpoint.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew, whatever is there.")] = False,
    log: Annotated[Path | None, typer.Option(help="A folder for TensorBoard.")] = None,
) -> int:
    """Train a network and write a self-describing checkpoint; interrupted, it goes on later.

    Exit status: 0 done, 2 bad input, 3 the training failed, 130 and 143 interrupted.
    """
    from robustkit import compression, losses
    from robustkit.data import noise as noises
    from robustkit.training import recipe as recipes

    if steps is not None and epochs is not None:
        raise InputError("--steps and --epochs both say how long to train; give one")
    if no_memory and compress is None:
        raise InputError("--no-memory is about compressed gradients; give --compress too")
    wrong = None if label_noise is None else str(share(label_noise, "--label-noise"))
    noise = noises.parse(noise_kind, wrong, stratified=noise_stratified)
    if noise_stratified and noise.kind == "file":
        raise InputError("--noise-stratified: a file's labels are what they are; leave it out")
    part = share(data_fraction, "--data-fraction")
    held = None if hold_out is None else _held_out(hold_out)
    scheme = None if compress is None else compression.parse(compress)
    losses.source(loss)  # an unknown name is told before torch is imported
    given = losses.parse_settings(set_ or ())
    paper = recipes.published(loss, data, model, given) if recipe == "paper" else None
    chosen = paper.recipe if paper else recipes.default_recipe(loss, data)
    if epochs is not None:
        chosen = replace(chosen, steps=None)
    if schedule is not None:
        chosen = replace(chosen, milestones=())
    changes: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "clip": clip,
        "augment": None if augment is None else tuple(kind for kind in augment if kind != "none"),
        "hold_out": held,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    chosen = recipes.checked(replace(chosen, **changes, **_rest(recipe_set or ())))
    path = out or Path(  # in the working folder
        _name(loss, given, model, data, noise, part, scheme, seed)
    )
    from robustkit import training
    from robustkit.cli.terminal import TrainingBar, show_training
    from robustkit.data import load
    from robustkit.data.subset import size

    images = load(data, split=split, root=data_root, resize=resize, crop=crop, channels=channels)
    if held is not None:
        _check_held_out(held, images)
    updates = recipes.updates(chosen, size(len(images), chosen.hold_out, part))
    settings = paper.settings if paper else recipes.default_settings(loss, data, updates, given)
    question = training.Question(
        model,
        images,
        loss,
        settings | given,
        chosen,
        noise,
        part,
        seed,
        keep,
        clean_selection,
        scheme,
        not no_memory,
        precision,
        deterministic,
    )
    with TrainingBar(path.name) as bar:
        trained = training.train(
            question, path, training.Options(device, fresh, log=log, progress=bar.progress)
        )
    if trained.first:
        show_training(trained)
        if loss in losses.LOSSES and (
            told := losses.build(loss, settings | given).warning(updates)
        ):
            typer.echo(f"warning: {told}", err=True)
    return 0


def _held_out(text: str) -> Fraction:
    """What --hold-out says.

    Raises:
        InputError: not a number, or one that may be a share or a count.
    """
    value = share(text, "--hold-out")
    if value == 1 and text != "1":
        raise InputError(
            f"--hold-out {text}: a share must be below 1; for a single image write --hold-out 1"
        )
    return value


def _check_held_out(amount: Fraction, images: "Dataset") -> None:
    """Raise InputError where a share above 0 comes to no image."""
    if 0 < amount * len(images) < 1:
        raise InputError(
            f"--hold-out: {float(amount):g} of {len(images)} images is none; give at least "
            f"1/{len(images)}, or 0 to hold out none"
        )


def _rest(texts: Iterable[str]) -> dict[str, Any]:
    """What --recipe-set says of a recipe: fields that have no option of their own."""
    from robustkit import losses
    from robustkit.training import recipe as recipes

    given = losses.parse_settings(texts, "--recipe-set")
    for key in given:
        if key in recipes.Recipe.__dataclass_fields__ and key not in recipes.FURTHER:
            raise InputError(f"--recipe-set {key}: this has an option, --{key.replace('_', '-')}")
    if type(given.get("milestones")) is int:
        given["milestones"] = [given["milestones"]]
    made = build(recipes.Recipe, given, "--recipe-set")
    return {key: getattr(made, key) for key in given}


def _name(
    loss: str,
    settings: Mapping[str, Any],
    model: str,
    data: str,
    noise: "Noise",
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
