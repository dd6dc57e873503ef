"""The geometry between the images as stored and the images that a model wants."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, get_args

import numpy as np
from PIL import Image as Pillow

from robustkit.data.pixels import Image
from robustkit.data.shelf import Interpolation
from robustkit.errors import DataError, quoted

LONGEST_SIDE = 2**14
"""pixels; three channels of such a square are 3 GiB"""

USUAL: Interpolation = "bilinear"


class Shape(NamedTuple):
    """Size of one image."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


@dataclass(frozen=True, slots=True)
class Transform:
    """Channels, then resize, then centre crop: torchvision's usual preparation for evaluation."""

    resize: int | None = None
    """length of the shorter side"""
    crop: int | None = None
    """side of the square cut from the centre"""
    channels: int | None = None
    interpolation: str | None = None
    """that it is resized by, through Pillow; None: bilinear"""

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= LONGEST_SIDE:
                raise DataError(
                    f"--{name} must be from 1 to {LONGEST_SIDE} pixels, got {quoted(value)}"
                )
        known = get_args(Interpolation)
        if self.interpolation not in (None, *known):
            got = f"{', '.join(known)}, got {quoted(self.interpolation)}"
            raise DataError(f"--interpolation must be one of {got}")
        if self.channels not in (None, 1, 3):
            raise DataError(f"--channels must be 1 or 3, got {self.channels}")

    def output(self, shape: Shape, where: str) -> Shape:
        """The shape of a transformed image of this shape.

        Raises:
            DataError: the channels cannot be converted, the crop is larger than the image, or an
                absurdly long side.
        """
        channels, height, width = shape
        if self.channels is not None and channels != self.channels:
            if channels not in (1, 3):
                raise DataError(
                    f"{where}: {channels} channels cannot be converted to {self.channels}"
                )
            channels = self.channels
        height, width = self._resized(height, width)
        if max(height, width) > max(LONGEST_SIDE, *shape[1:]):
            raise DataError(f"{where}: {height}x{width} pixels after resizing; it is too narrow")
        if self.crop is not None:
            if self.crop > min(height, width):
                raise DataError(
                    f"{where}: --crop {self.crop} is larger than the image of "
                    f"{height}x{width}; give --resize {self.crop} or more as well"
                )
            height = width = self.crop
        return Shape(channels, height, width)

    def __call__(self, image: Image) -> Image:
        """The transformed image; uint8 stays uint8, float32 stays float32."""
        if self.channels is not None:
            image = with_channels(image, self.channels)
        height, width = self._resized(*image.shape[1:])
        if (height, width) != image.shape[1:]:
            image = np.stack([_resize(plane, height, width, self.interpolation) for plane in image])
        if self.crop is not None:
            top, left = round((height - self.crop) / 2), round((width - self.crop) / 2)
            image = image[:, top : top + self.crop, left : left + self.crop]
        return image

    def over(self, usual: "Transform") -> "Transform":
        """This transform, with the parts that it leaves open taken from another."""
        return Transform(**(_given(usual) | _given(self)))

    def checked(self) -> "Transform":
        """This transform, if all its parts do something.

        Raises:
            DataError: an interpolation, and nothing is resized.
        """
        if self.interpolation and self.resize is None:
            raise DataError(
                f"--interpolation {self.interpolation}: nothing is resized; give --resize as well"
            )
        return self

    def effective(self, shapes: Iterable[Shape]) -> "Transform":
        """The transform without the parts that change no image of these shapes."""
        kept = self
        shapes = set(shapes)
        if all(shape.channels == kept.channels for shape in shapes):
            kept = replace(kept, channels=None)
        if all(min(shape.height, shape.width) == kept.resize for shape in shapes):
            kept = replace(kept, resize=None, interpolation=None)
        sizes = {kept._resized(shape.height, shape.width) for shape in shapes}
        if sizes == {(kept.crop, kept.crop)}:
            kept = replace(kept, crop=None)
        return kept

    def counted(self, shapes: Iterable[Shape]) -> dict[str, Any]:
        """The parts that change an image of these shapes, as JSON."""
        return self.effective(shapes).plain()

    def plain(self) -> dict[str, Any]:
        """The parts that are set, as JSON."""
        parts = _given(self)
        if parts.get("interpolation") == USUAL:  # as it was before there was a choice
            del parts["interpolation"]
        return parts

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        return (height, width) if self.resize is None else to_side(self.resize, height, width)


def to_side(side: int, height: int, width: int) -> tuple[int, int]:
    """Height and width with this as the shorter; torchvision rounds the longer down."""
    if width <= height:
        return int(side * height / width), side
    return side, int(side * width / height)


def _given(transform: Transform) -> dict[str, Any]:
    return {name: value for name, value in asdict(transform).items() if value is not None}


def _resize(plane: Image, height: int, width: int, interpolation: str | None) -> Image:
    filter_ = Pillow.Resampling[(interpolation or USUAL).upper()]
    picture = Pillow.fromarray(plane).resize((width, height), filter_)
    # bicubic and lanczos overshoot where the type has room for it, and rounding does
    resized: Image = np.asarray(picture)
    return resized.clip(0, 255 if plane.dtype == np.uint8 else 1)


def with_channels(image: Image, channels: int) -> Image:
    """An image of 1 or 3 channels with so many: grey repeated, or luma."""
    if len(image) == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=0)
    if image.dtype == np.uint8:
        picture = Pillow.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        return np.asarray(picture.convert("L"))[np.newaxis]
    luma = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's "L"
    grey: Image = np.tensordot(luma, image, 1).clip(0, 1)
    return grey[np.newaxis].astype(np.float32)
