"""The images to evaluate a checkpoint on, made as those of its training were."""

from pathlib import Path
from typing import Any

from robustkit.checkpoint import Checkpoint
from robustkit.data import Dataset, load_dataset
from robustkit.data.classes import WantedClasses, renumbered
from robustkit.errors import DataError, InputError


def images_for(
    checkpoint: Checkpoint,
    name: str | Path | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    root: str | Path | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    crop: int | None = None,
    channels: int | None = None,
    classes: str | Path | None = None,
) -> Dataset:
    """The images to evaluate a checkpoint on, made as those of its training were.

    Arguments are as `load_dataset` takes them. The data set, and how its images are made, are those
    that the checkpoint records, where nothing else is given. Labels become the numbers of the
    checkpoint's classes: by name where both sides have names, or as `classes` says.

    Raises:
        InputError: no data set is named, the images have another shape than those of the training
            and nothing says that they should, or their classes are not the checkpoint's.
    """
    checkpoint.check_installed()  # before images are read
    if not (name := name or checkpoint.trained_on):
        raise InputError(f"{checkpoint.path}: does not record a data set; name one with --data")
    given: dict[str, Any] = {
        "resize": resize,
        "interpolation": interpolation,
        "crop": crop,
        "channels": channels,
    }
    chosen = {
        key: getattr(checkpoint, key) if value is None else value for key, value in given.items()
    }
    wanted = WantedClasses(
        names=checkpoint.label_names,
        count=checkpoint.num_classes,
        given=None if classes is None else str(classes),
    )
    pipeline = checkpoint.pipeline if given == dict.fromkeys(given) else None
    data = load_dataset(
        name, split=split, limit=limit, root=root, classes=wanted, pipeline=pipeline, **chosen
    )
    if given == dict.fromkeys(given) and not data.fixed_channels:
        check_shape(checkpoint, data)
    return data


def check_shape(checkpoint: Checkpoint, data: Dataset) -> None:
    """Nothing, if the images have the recorded shape of the training's, or none is recorded.

    Raises:
        DataError: they have another, and accuracy on them would say little.
    """
    if checkpoint.trained_shape not in (None, data.shape):
        raise DataError(
            f"{checkpoint.path}: {shape_mismatch(checkpoint.trained_shape, data)}; make "
            "them fit with --resize, --crop or --channels, or in the data set's file "
            f"(--channels {data.shape[0]} accepts them as they are)"
        )


def check_classes(checkpoint: Checkpoint, data: Dataset) -> None:
    """Nothing, if a checkpoint's classes have the numbers of the images' as far as names tell.

    Raises:
        DataError: a class of that name has another number.
    """
    if moved := renumbered(data.classes, checkpoint.label_names):
        raise DataError(
            f"{checkpoint.path}: numbers its classes differently from {data.name}: {moved}; "
            "renumber the labels, or evaluate it in a call of its own, which renumbers them"
        )


def shape_mismatch(trained: tuple[int, int, int] | None, data: Dataset) -> str:
    """What is said where the training's images had another shape."""
    expected, found = ("×".join(map(str, shape)) for shape in (trained or (), data.shape))
    return f"trained on images of {expected}, but those of {data.name} are {found}"
