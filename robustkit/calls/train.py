"""`robustkit.train`: from a loss, an architecture and data to a checkpoint."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from robustkit import compression, losses, training
from robustkit.calls import tracking
from robustkit.calls.given import path_of
from robustkit.calls.sources import Code, Given, called, code_of
from robustkit.calls.spoken import spoken
from robustkit.data import Dataset, load_dataset
from robustkit.data.noise import LabelNoise, parse_label_noise
from robustkit.defaults import torch_defaults
from robustkit.display.progress import TrainingBar, seen
from robustkit.errors import InputError, UnknownName
from robustkit.files import extended, whole_number
from robustkit.parsing import checked_integer, share, spelled, whole
from robustkit.protocol import Number
from robustkit.training import Callbacks, TrainingConfig, TrainingOptions, TrainingResult, resolve
from robustkit.training import recipe as recipes
from robustkit.training.config import Precision

Settings = Mapping[str, Any] | Iterable[str]
"""{"gamma": 10}, or ["gamma=10"] as a command line has it"""


@torch_defaults()
def train(
    model: Given,
    data: Dataset | str | Path,
    loss: Given = "cross-entropy",
    *,
    settings: Settings = (),
    split: str | None = None,
    label_noise: Number | None = None,
    noise_kind: str = "symmetric",
    noise_stratified: bool = False,
    data_fraction: Number = 1,
    hold_out: Number | None = None,
    keep: Literal["last", "best"] = "last",
    snapshots: str | int | Sequence[int] | None = None,
    clean_selection: bool = False,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    optimizer: Literal["sgd", "rmsprop", "adam", "adamw"] | None = None,
    learning_rate: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    schedule: Literal["constant", "cosine", "one-cycle", "staircase", "multistep"] | None = None,
    clip: float | None = None,
    augment: str | Sequence[str] | None = None,
    recipe: Literal["default", "paper"] = "default",
    recipe_settings: Settings = (),
    compress: str | None = None,
    memory: bool = True,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    deterministic: bool = False,
    data_root: Path | str | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    crop: int | None = None,
    channels: int | None = None,
    out: Path | str | None = None,
    fresh: bool = False,
    track: str | None = None,
    command: str | None = None,
    progress: bool | None = None,
) -> TrainingResult:
    """Train a network and write a self-describing checkpoint; interrupted, it goes on later.

        trained = robustkit.train("lenet5", "mnist5k", "trades", label_noise=0.2, epochs=5)
        robustkit.evaluate(trained)

    Args:
        model: an architecture's name, FILE.py:FUNCTION, or a function or class that returns the
            module.
        data: a data set, its name or path.
        loss: a loss's name, FILE.py:FUNCTION, or a function of `(logits, labels)` or
            `(model, images, labels)`. What is in memory is written to a file beside `out`, with
            all of the user's own that it uses, and is on record by its digest.
        settings: of the loss.
        split: of the data set; "train" where nothing is given.
        label_noise: share of the labels to flip: 0.4 or "40%".
        noise_kind: symmetric, symmetric-any, pair, instance, matrix:FILE or file:FILE#COLUMN.
        noise_stratified: the rate holds in every class.
        data_fraction: share of the images that are not held out: 0.05 or "5%".
        hold_out: images to monitor the training by: 5000, 0.1 or "10%".
        keep: weights of the last epoch, or of the best one by held-out accuracy.
        snapshots: passes over the data after which the weights are kept, too: [1, 2, 4].
        clean_selection: held-out labels are clean, whatever the noise.
        epochs: passes over the data.
        steps: or updates in total.
        batch_size: images per update.
        optimizer: and so on to `augment`: of the recipe; otherwise its defaults.
        learning_rate: the peak.
        momentum: of SGD and RMSProp.
        weight_decay: likewise of the recipe.
        schedule: of the learning rate.
        clip: the gradient's norm at most.
        augment: "flip", "crop", both, or "none".
        recipe: this project's defaults, or the settings of the loss's paper.
        recipe_settings: fields of the recipe that have no keyword of their own: nesterov.
        compress: gradients between processes: "top-k:0.01", "powersgd:4".
        memory: of the compressor: what was not sent is sent later.
        seed: of every random draw.
        device: "cpu", "cuda:1"; "auto" takes a GPU.
        precision: of the network's multiplications.
        deterministic: same bytes on a GPU too.
        data_root: where the files of a known data set stand.
        resize: and interpolation, crop and channels: how images are made, as for `load_dataset`.
        interpolation: likewise.
        crop: likewise.
        channels: likewise.
        out: file (.safetensors) of the checkpoint; otherwise a name that says what it is.
        fresh: start over, even if there is a result.
        track: where the run is tracked: mlflow, wandb or tensorboard, with `:WHERE`.
        command: what the tracker is told it was made by; otherwise this call.
        progress: whether a bar is shown; otherwise where one is seen.

    Raises:
        InputError: something given makes no sense, or `out` holds another training.
        TrainingFailed: the loss or a weight became NaN or infinite; the last good state is kept.
    """
    command = command or spoken("train", train, locals())
    noise = _noise(noise_kind, label_noise, noise_stratified)
    part = share(data_fraction, "--data-fraction")
    scheme = _scheme(compress, memory)
    given = _settings(settings, "--set")
    changes = _further(recipe_settings) | _given(epochs=epochs, steps=steps, schedule=schedule)
    changes |= _given(optimizer=optimizer, learning_rate=learning_rate, momentum=momentum)
    changes |= _given(batch_size=batch_size, weight_decay=weight_decay, clip=clip)
    changes |= _given(augment=_augment(augment), hold_out=_held_out(hold_out))
    passes, name = _passes(snapshots), data.name if isinstance(data, Dataset) else str(data)
    path = Path(out or _name(called(loss), given, called(model), name, noise, part, scheme, seed))
    code = _code(loss, model, path)
    names = {what: one.name for what, one in code.items()}
    resolved = resolve(**names, data=name, settings=given, changes=changes, paper=_paper(recipe))
    shape = _given(resize=resize, crop=crop, channels=channels, interpolation=interpolation)
    images = _images(data, _given(split=split, root=path_of(data_root)) | shape)
    images.check_pictures("no training is on")
    _check_held_out(changes.get("hold_out", 0), images)
    config = TrainingConfig(
        **names,
        data=images,
        settings=resolved.settings(len(images), part),
        recipe=resolved.recipe,
        noise=noise,
        fraction=part,
        seed=checked_integer(whole_number(seed, "--seed"), "--seed"),  # as in a checkpoint
        keep=keep,
        clean_selection=clean_selection,
        compress=scheme,
        memory=memory,
        precision=precision,
        deterministic=deterministic,
    )
    recipes.check_types(config)
    for one in code.values():
        one.keep(path, fresh=fresh)
    with (
        tracking.run(tracking.asked(track), path.stem, command) as run,
        TrainingBar(path.name) if seen(progress) else nullcontext() as bar,
    ):
        callbacks = tracking.also(bar.callbacks if bar else Callbacks(), run)
        options = TrainingOptions(device=device, fresh=fresh, callbacks=callbacks, snapshots=passes)
        trained = replace(training.train(config, path, options), model=names["model"])
        tracking.track_training(run, trained)
        return trained


def _paper(recipe: str) -> bool:
    """Whether the settings of the loss's paper are asked for."""
    if recipe not in (known := ("default", "paper")):
        raise UnknownName("value of --recipe", str(recipe), known)
    return recipe == "paper"


def _code(loss: Given, model: Given, beside: Path) -> dict[str, Code]:
    """Loss and architecture by the names under which the training has them."""
    if isinstance(loss, str):
        losses.source(loss)  # an unknown name is told before torch is imported
    return {"loss": code_of(loss, beside, "--loss"), "model": code_of(model, beside, "--model")}


def _images(data: Dataset | str | Path, given: dict[str, Any]) -> Dataset:
    """The images to train on."""
    if not isinstance(data, Dataset):
        return load_dataset(data, **{"split": "train"} | given)
    for option in given:
        raise InputError(f"{option} goes with a data set's name; read it with load_dataset")
    return data


def _settings(given: Settings, option: str) -> dict[str, Any]:
    """Settings by their names."""
    if isinstance(given, Mapping):
        return dict(given)
    return losses.parse_settings([given] if isinstance(given, str) else given, option)


def _noise(kind: str, rate: Number | None, stratified: bool) -> LabelNoise:
    """What the options of label noise say."""
    share_wrong = None if rate is None else str(share(rate, "--label-noise"))
    noise = parse_label_noise(kind, share_wrong, stratified=stratified)
    if stratified and noise.kind == "file":
        raise InputError("--noise-stratified does not apply to labels from a file; leave it out")
    return noise


def _scheme(text: str | None, memory: bool) -> compression.Scheme | None:
    """What the options of compressed gradients say."""
    if text is None and not memory:
        raise InputError("--no-memory applies to compressed gradients only; give --compress too")
    return None if text is None else compression.parse(text)


def _passes(given: str | int | Sequence[int] | None) -> tuple[int, ...]:
    """What --snapshots says: "1,2,4", or several numbers."""
    text = ",".join(map(str, given)) if isinstance(given, list | tuple) else given
    found = [] if text is None else [whole(part.strip()) for part in str(text).split(",")]
    if None in found:
        raise InputError(f"--snapshots {text}: expected passes over the data, such as 1,2,4,8")
    return tuple(sorted({number for number in found if number is not None}))


def _augment(kinds: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """What --augment says; `none` takes away what the recipe has."""
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return None if kinds is None else tuple(kind for kind in kinds if kind != "none")


def _held_out(given: Number | None) -> Fraction | None:
    """What --hold-out says.

    Raises:
        InputError: not a number, or one that may be a share or a count.
    """
    if given is None:
        return None
    text = spelled(given) if isinstance(given, float) else str(given)
    value = share(text, "--hold-out")
    if value == 1 and text != "1":
        raise InputError(
            f"--hold-out {text}: a share must be below 1; for a single image write --hold-out 1"
        )
    return value


def _check_held_out(amount: Fraction | int, images: Dataset) -> None:
    """Raise InputError where a share above 0 comes to no image."""
    if 0 < amount * len(images) < 1:
        raise InputError(
            f"--hold-out: {float(amount):g} of {len(images)} images is none; give at least "
            f"1/{len(images)}, or 0 to hold out none"
        )


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _further(settings: Settings) -> dict[str, Any]:
    """What --recipe-set says of a recipe: fields that have no option of their own."""
    given = _settings(settings, "--recipe-set")
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
    noise: LabelNoise,
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
    return extended(re.sub(r"[^\w.=-]+", "_", "-".join(parts)), ".safetensors")
