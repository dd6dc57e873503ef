"""What a library does to a picture, up to pixels in [0, 1], bit for bit.

A `Pipeline` stands in for a `Transform` where a checkpoint says which library prepares its images.
Importing this needs no torch; resizing as torch does, needs it.

Sources: transformers/image_processing_backends.py and image_transforms.py (version 5),
torchvision/transforms/functional.py (CenterCrop, as timm has it).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from math import ceil, floor
from typing import Any, Literal

import numpy as np
from PIL import Image as Pillow

from robustkit.data.pixels import Image
from robustkit.data.shelf import Interpolation
from robustkit.data.transform import LONGEST_SIDE, Shape, Transform, to_side, with_channels
from robustkit.errors import DataError, one_line

Fit = Literal["stretched", "cover", "contain"]
Centre = Literal["rounded", "rounded down", "rounded down, padded up"]
"""where a crop begins, if the rest is odd: torchvision's, transformers' by torch and by Pillow"""
OF_TORCH: Mapping[str, str] = {"nearest": "NEAREST_EXACT"}
"""torchvision's names of interpolations, where they are others than Pillow's"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Channels, then resize, then centre crop, as a library does it."""

    library: str
    """and its version"""
    processor: str
    """the class or function that does it"""
    resize: int | tuple[int, int] | None
    """shorter side, or height and width"""
    interpolation: Interpolation
    by: Literal["Pillow", "torch"]
    """which of them resizes"""
    crop: tuple[int, int] | None
    """height and width"""
    centre: Centre
    upright: bool
    """whether pictures are turned as their EXIF orientation says"""
    channels: int = 3
    fit: Fit = "stretched"
    """how a picture comes to height and width: by itself, or in proportion, at least or at most so
    large"""
    on_white: bool = False
    """whether a colour that stands for transparency becomes white"""
    fill: tuple[int, ...] = (0,)
    """of 255, by channel, around a picture that is smaller than the crop"""

    def output(self, shape: Shape, where: str) -> Shape:
        """The shape of a prepared image of this shape.

        Raises:
            DataError: the channels cannot be converted, or an absurdly long side.
        """
        if shape.channels not in (1, 3, self.channels):
            raise DataError(
                f"{where}: {shape.channels} channels cannot be converted to {self.channels}"
            )
        height, width = self._resized(shape.height, shape.width)
        if max(height, width) > LONGEST_SIDE:
            raise DataError(f"{where}: {height}x{width} pixels after resizing; it is too narrow")
        if not min(height, width):
            raise DataError(f"{where}: no pixels are left after resizing; it is too narrow")
        return Shape(self.channels, *(self.crop or (height, width)))

    def __call__(self, image: Image) -> Image:
        """The prepared image; uint8 stays uint8, float32 stays float32."""
        image = with_channels(image, self.channels)
        height, width = self._resized(*image.shape[1:])
        if (height, width) != image.shape[1:]:
            resize = _by_torch if self.by == "torch" else _by_pillow
            resized = resize(image, height, width, self.interpolation)
            image = resized.clip(0, 255 if image.dtype == np.uint8 else 1)
        return image if self.crop is None else self._cropped(image, self.crop)

    def effective(self, shapes: Iterable[Shape]) -> "Pipeline":
        """The pipeline without a resize that changes no image; all else is on record."""
        sizes = [shape[1:] for shape in shapes]
        return self._without_resize(all(size == self._resized(*size) for size in sizes))

    def unresized(self, shapes: Iterable[Shape]) -> "Pipeline":
        """Without the resize, where all images have the crop's size, or would keep their own."""
        sizes = [shape[1:] for shape in shapes]
        kept = all(size in (self.crop, self._resized(*size)) for size in sizes)
        return self._without_resize(kept)

    def _without_resize(self, without: bool) -> "Pipeline":
        return replace(self, resize=None, fit="stretched") if without else self

    def counted(self, shapes: Iterable[Shape]) -> dict[str, Any]:
        """What of it changes an image of these shapes, as JSON.

        As of a `Transform` where one does the same, bit for bit, so that the same images have one
        digest, whichever library says how they are made. What is done to a picture before it has
        pixels shows in the images' ids.
        """
        sizes = {shape: self._resized(*shape[1:]) for shape in shapes}
        parts = self._parts(sizes)
        crop = parts.get("crop", (0, 0))
        others = {"fit", "centre", "fill"} & parts.keys() or parts.get("by") == "torch"
        usual = parts.get("channels") in (None, 1, 3)
        if others or crop[0] != crop[1] or not usual:
            return {"pipeline": parts}
        channels, interpolation = parts.get("channels"), parts.get("interpolation")
        alike = Transform(parts.get("resize"), crop[0] or None, channels, interpolation)
        return alike.counted(sizes)

    def _parts(self, sizes: Mapping[Shape, tuple[int, int]]) -> dict[str, Any]:
        """The fields that play a part, by what images of these shapes are resized to."""
        found: dict[str, Any] = {}
        if any(shape.channels != self.channels for shape in sizes):
            found["channels"] = self.channels
        if any(size != shape[1:] for shape, size in sizes.items()) and self.resize is not None:
            side = self.resize if isinstance(self.resize, int) else min(self.resize)
            whole = all(size == to_side(side, *shape[1:]) for shape, size in sizes.items())
            found |= {"resize": side} if whole else {"resize": self.resize, "fit": self.fit}
            found |= {"interpolation": self.interpolation, "by": self.by}
        if self.crop is not None and any(size != self.crop for size in sizes.values()):
            found["crop"] = self.crop
            axes = [pair for size in sizes.values() for pair in zip(size, self.crop, strict=True)]
            padded = any(size < crop for size, crop in axes)
            if padded or any(self._start(s, crop) != round((s - crop) / 2) for s, crop in axes):
                found["centre"] = self.centre
            found |= {"fill": self.fill} if padded else {}
        return found

    def plain(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {"pipeline": asdict(self)}

    def described(self) -> str:
        """In a few words."""
        size = (
            self.resize
            if self.resize is None or isinstance(self.resize, int)
            else "×".join(map(str, self.resize))
        )
        side = " (shorter side)" if isinstance(self.resize, int) else ""
        steps = [f"resized to {size}{side}, {self.interpolation} by {self.by}"] if size else []
        if self.fit != "stretched":
            steps[0] += f", in proportion ({self.fit})"
        steps += [f"cropped to {self.crop[0]}×{self.crop[1]}"] if self.crop else []
        steps += [f"EXIF orientation {'applied' if self.upright else 'ignored'}"]
        return f"{'; '.join(steps)}, as {self.processor} of {self.library}"

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple):
            if self.fit == "stretched":
                return self.resize
            ratios = height / self.resize[0], width / self.resize[1]
            ratio = max(ratios) if self.fit == "contain" else min(ratios)
            return round(height / ratio), round(width / ratio)
        return to_side(self.resize, height, width)

    def _start(self, size: int, crop: int) -> int:
        """Where a crop begins on an axis."""
        place: Callable[[float], int] = round if self.centre == "rounded" else floor
        return place((size - crop) / 2)

    def _cropped(self, image: Image, crop: tuple[int, int]) -> Image:
        padding = ceil if self.centre == "rounded down, padded up" else floor
        for axis, size in enumerate(crop, 1):
            if (lack := size - image.shape[axis]) > 0:
                before = padding(lack / 2)
                around = [(0, 0)] * 2
                around[axis - 1] = (before, lack - before)
                image = self._padded(image, around)
            start = self._start(image.shape[axis], size)
            image = image.take(range(start, start + size), axis)
        return image

    def _padded(self, image: Image, around: list[tuple[int, int]]) -> Image:
        values = self.fill * (len(image) // len(self.fill))
        scale = 1 if image.dtype == np.uint8 else 255
        planes = zip(image, values, strict=True)
        return np.stack([np.pad(one, around, constant_values=v / scale) for one, v in planes])


def _by_pillow(image: Image, height: int, width: int, interpolation: str) -> Image:
    how = Pillow.Resampling[interpolation.upper()]
    planes = [Pillow.fromarray(plane).resize((width, height), how) for plane in image]
    return np.stack([np.asarray(plane) for plane in planes])


def _by_torch(image: Image, height: int, width: int, interpolation: str) -> Image:
    torch: Any = import_module("torch")
    functional: Any = import_module("torchvision.transforms.v2.functional")
    how = functional.InterpolationMode[OF_TORCH.get(interpolation, interpolation.upper())]
    batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    try:
        found = functional.resize(batch, [height, width], interpolation=how, antialias=True)
    except (ValueError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"torch cannot resize by {interpolation} ({one_line(error)})") from error
    resized: Image = found[0].numpy()
    return resized
