"""The images to evaluate a checkpoint on, made as those of its training were."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from robustkit.checkpoint import Checkpoint
from robustkit.data import Dataset, load_dataset
from robustkit.data.classes import WantedClasses
from robustkit.data.classnames import renumbered
from robustkit.data.pipeline import Pipeline
from robustkit.data.transform import Shape, Transform
from robustkit.errors import DataError, InputError

OF_TENSORS = ("nearest", "bilinear", "bicubic")
"""the interpolations by which torch resizes tensors, as a library's pipeline may have it do"""


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
    that the checkpoint records, where nothing else is given: what is given replaces that part of a
    library's pipeline, and the rest of it stays. Labels become the numbers of the checkpoint's
    classes: by name where both sides have names, or as `classes` says.

    Raises:
        InputError: no data set is named, or the recorded one is not there; the images have another
            shape than those of the training and nothing says that they should, or their classes
            are not the checkpoint's.
    """
    checkpoint.check_installed()  # before images are read
    name = name or _recorded_images(checkpoint)
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
    pipeline = checkpoint.pipeline and adapted(checkpoint.pipeline, Transform(**chosen))
    data = load_dataset(
        name, split=split, limit=limit, root=root, classes=wanted, pipeline=pipeline, **chosen
    )
    if not data.fixed_channels:
        check_shape(checkpoint, data, given)
    return data


class TrainedOn(NamedTuple):
    """Where a training of ours read its images, where no name says which they are."""

    path: str
    split: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "TrainedOn | None":
        """None: a name says it, or nothing does."""
        match checkpoint.extra.get("training"):
            case {"path": str(path), "split": str(split), "data": {"digest": str()}}:
                return cls(path, split)
        return None


def _recorded_images(checkpoint: Checkpoint) -> str:
    """The data set that a checkpoint records, by its path where it had no other name.

    Raises:
        DataError: nothing is there any more: of the path's last part, another may be.
        InputError: it records none.
    """
    found = TrainedOn.of(checkpoint)
    path = found and found.path
    if path and "{" not in path and not os.path.exists(path):  # noqa: PTH110 - of any text
        raise DataError(
            f"{checkpoint.path}: was trained on {path}, which is not there; name the images with "
            "--data"
        )
    if not (name := path or checkpoint.trained_on):
        raise InputError(f"{checkpoint.path}: does not record a data set; name one with --data")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedPipeline(Pipeline):
    """A library's pipeline with parts of it replaced by what was asked for."""

    asked: tuple[tuple[str, int | str], ...]
    """those parts, as options have them; a command that repeats the record names them"""

    def output(self, shape: Shape, where: str) -> Shape:
        """As the library's, but that no crop which is asked for is padded.

        Raises:
            DataError: as the library's, or the crop is larger than the image.
        """
        height, width = self._resized(shape.height, shape.width)
        if "crop" in dict(self.asked) and self.crop and max(self.crop) > min(height, width):
            raise DataError(
                f"{where}: --crop {self.crop[0]} is larger than the image of {height}x{width}; "
                f"give --resize {self.crop[0]} or more as well"
            )
        return Pipeline.output(self, shape, where)  # super() fails in a class with slots

    def plain(self) -> dict[str, Any]:
        """All of it, as JSON, and what was asked for."""
        whole = asdict(self)
        return {**dict(whole.pop("asked")), "pipeline": whole}

    def described(self) -> str:
        """In a few words."""
        parts = ", ".join(f"{name} {value}" for name, value in self.asked)
        return f"{Pipeline.described(self)}, but with {parts} as asked"


def adapted(pipeline: Pipeline, asked: Transform) -> Pipeline:
    """A library's pipeline with what is asked for in the place of its own; itself where equal.

    Raises:
        DataError: an interpolation by which it cannot resize, or nothing is resized.
    """
    made, parts = pipeline, list[tuple[str, int | str]]()
    # an interpolation is of whatever resizes in the end, so it is looked at last
    for name in ("resize", "crop", "channels", "interpolation"):
        if (value := getattr(asked, name)) is not None:
            other = replace(made, **_part(made, name, value))
            parts += [] if other == made else [(name, value)]
            made = other
    return AdaptedPipeline(**asdict(made), asked=tuple(parts)) if parts else pipeline


def _part(pipeline: Pipeline, name: str, value: Any) -> dict[str, Any]:
    """The fields of a pipeline that an option stands for."""
    match name:
        case "resize":  # the shorter side, whatever the library makes of height and width
            return {"resize": value, "fit": "stretched"}
        case "crop":
            return {"crop": (value, value)}
        case "channels":
            fill = pipeline.fill
            # a colour around the picture has as many numbers as the picture has channels
            return {"channels": value, "fill": fill if len(fill) in (1, value) else (_grey(fill),)}
    if pipeline.resize is None:
        raise DataError(f"--interpolation {value}: nothing is resized; give --resize as well")
    if pipeline.by == "torch" and value not in OF_TENSORS:
        raise DataError(
            f"--interpolation {value}: {pipeline.library} resizes by torch, which has no such "
            f"interpolation; use one of {', '.join(OF_TENSORS)}"
        )
    return {"interpolation": value}


def _grey(colour: tuple[int, ...]) -> int:
    """As Pillow makes a colour grey."""
    weights = (0.299, 0.587, 0.114)  # ITU-R 601
    return round(sum(w * value for w, value in zip(weights, colour, strict=True)))


def check_shape(
    checkpoint: Checkpoint, data: Dataset, given: Mapping[str, Any] | None = None
) -> None:
    """Nothing, if the images have the recorded shape of the training's, or none is recorded.

    Args:
        checkpoint: the network.
        data: the images.
        given: how they are made, as far as the user says: channels that are named may differ, and
            so may height and width beside a resize or a crop. The record warns of it.

    Raises:
        DataError: they have another, and accuracy on them would say little.
    """
    trained = checkpoint.trained_shape
    if trained is None or trained == data.shape:
        return
    said = {key for key, value in (given or {}).items() if value is not None}
    accepting = []
    if trained[0] != data.shape[0] and "channels" not in said:
        accepting.append(f"--channels {data.shape[0]}")
    if trained[1:] != data.shape[1:] and said.isdisjoint({"resize", "crop"}):
        accepting.append(f"--resize {min(data.shape[1:])}")
    if accepting:
        raise DataError(
            f"{checkpoint.path}: {shape_mismatch(trained, data)}; make them fit with --resize, "
            "--crop or --channels, or in the data set's file "
            f"({' '.join(accepting)} accepts them as they are)"
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
