"""Pixels: the one form of an image that ids, transforms and attacks start from."""

from typing import Any

import numpy as np
import numpy.typing as npt

from robustkit.files import digest

Image = npt.NDArray[Any]
"""uint8 in 0..255 or float32 in [0, 1]; C x H x W"""
Labels = npt.NDArray[np.int64]

EXACT = 1e-4
"""how far a float times 255 may lie from an integer and still be that integer"""


def canonical(image: Image) -> Image:
    """The image as uint8 where its values are multiples of 1/255, else as float32.

    So the same picture is the same bytes whether it was stored as PNG, as uint8 or as float.
    """
    if image.dtype == np.uint8:
        return image
    scaled = image * np.float32(255)
    nearest = np.rint(scaled)
    if np.abs(scaled - nearest).max() <= EXACT:
        return nearest.astype(np.uint8)
    return image.astype(np.float32, copy=False) + np.float32(0)  # makes -0.0 and 0.0 one


def fingerprint(image: Image) -> str:
    """A hash of a canonical image's pixels, shape and type; 32 hexadecimal digits."""
    kind = f"{image.dtype.name} {'x'.join(map(str, image.shape))}"
    return digest(kind, np.ascontiguousarray(image).tobytes())[:32]


def unit(image: Image) -> npt.NDArray[np.float32]:
    """A canonical image, or a block of them, as float32 in [0, 1]."""
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255)
    return image.astype(np.float32, copy=False)
