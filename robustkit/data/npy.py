"""Arrays in `.npy` files, images in one and labels in another beside it; read image by image."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustkit.data.npz import SPLITS, channels_second, keys_of, pairs_of
from robustkit.data.pixels import Image, Labels
from robustkit.data.source import (
    CUT_SHORT,
    UNDIVIDED,
    WHOLE,
    ArraySource,
    Opened,
    Source,
    checked_arrays,
    checked_labels,
    checked_pixels,
    diagnosis,
    stamps,
)
from robustkit.errors import DataError
from robustkit.files import file_digest

LABELS = ("labels", "targets", "y")
"""names of files with the labels of all others in the folder"""
LARGEST_LABELS = 2**30
"""bytes"""


class NpyHeader(NamedTuple):
    """What a file says of its numbers."""

    shape: tuple[int, ...]
    by_column: bool
    """Fortran's order"""
    dtype: "np.dtype[Any]"
    start: int
    """of the numbers in the file"""


def read_header(path: Path) -> NpyHeader:
    """What a `.npy` file says of its numbers.

    Raises:
        DataError: no such file, Python objects in it, or not as long as it says.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, by_column, dtype = readers[version](file)
            start = file.tell()
            missing = start + math.prod(shape) * dtype.itemsize - file.seek(0, 2)
    # NumPy's header parser raises nearly anything on broken bytes
    except Exception as error:
        raise DataError(f"{path}: cannot be read as .npy: {diagnosis(path)}") from error
    if dtype.hasobject:
        raise DataError(f"{path}: contains Python objects, which are never loaded")
    if dtype.kind not in "biufc":
        raise DataError(f"{path}: contains {str(dtype)[:80]}; expected numbers")
    if missing > 0:
        raise DataError(f"{path}: {missing:,} bytes are missing at the end; {CUT_SHORT}")
    return NpyHeader(tuple(shape), by_column, dtype, start)


@dataclass(frozen=True, slots=True, eq=False)
class NpySource:
    """Images of a `.npy` file, read when they are asked for."""

    path: Path
    header: NpyHeader
    labels: Labels
    first: int = 0
    """where in the file the first image is that belongs to the source"""

    def read(self, positions: Sequence[int]) -> Iterator[Image]:
        """The images at these positions, in this order."""
        _, *shape = self.header.shape
        size = math.prod(shape) * self.header.dtype.itemsize
        for position in positions:
            try:
                # opened each time: a generator may never be exhausted
                with self.path.open("rb", buffering=0) as file:
                    file.seek(self.header.start + (self.first + position) * size)
                    content = file.read(size)
            except OSError as error:
                raise DataError(f"{self.where(position)}: {error.strerror}") from error
            if len(content) < size:
                raise DataError(f"{self.where(position)}: the file ends within the image")
            image = np.frombuffer(content, self.header.dtype).reshape(shape)
            yield self._laid_out(image, position)

    def _laid_out(self, image: Image, position: int) -> Image:
        """An image as C x H x W, its values checked."""
        found, _ = channels_second(image[np.newaxis])
        whole = found[:, np.newaxis] if found.ndim == 3 else found
        checked = checked_pixels(whole, str(self.path), self.first + position)
        return np.asarray(checked[0])

    def where(self, position: int) -> str:
        """How a message names an image."""
        return f"{self.path}: image {self.first + position}"


def read_labels(path: Path) -> Labels:
    """The labels in a `.npy` file.

    Raises:
        DataError: not integers from 0 on.
    """
    header = read_header(path)
    if math.prod(header.shape) * header.dtype.itemsize > LARGEST_LABELS:
        raise DataError(f"{path}: labels of shape {header.shape}; expected one integer per image")
    return checked_labels(np.load(path, allow_pickle=False), str(path))


def images_of(path: Path, labels: Labels, first: int = 0) -> Source:
    """The images in a `.npy` file from one on, as many as there are labels.

    Raises:
        DataError: they have another form, or are too few.
    """
    header = read_header(path)
    if len(header.shape) not in (3, 4):
        shape = "x".join(map(str, header.shape)) or "none"
        raise DataError(
            f"{path}: images of shape {shape}; expected N x C x H x W, N x H x W x C or N x H x W"
        )
    if 0 in header.shape or not len(labels):
        raise DataError(f"{path}: no images")
    if header.dtype.kind not in "iuf":
        raise DataError(f"{path}: images of type {header.dtype}; expected uint8 or float32")
    if header.by_column:  # an image's numbers stand all over the file
        whole = np.load(path, allow_pickle=False)[first : first + len(labels)]
        pair = checked_arrays(channels_second(whole)[0], labels, str(path))
        return ArraySource(pair.images, pair.labels, str(path))
    return NpySource(path, header, labels, first)


class NpyPair(NamedTuple):
    """Files of images and labels that go together."""

    images: Path
    labels: Path
    split: str


def find_npy(place: Path, split: str) -> NpyPair | None:
    """The files of a split, in a folder or beside the one given; None if there are none.

    Raises:
        DataError: no such split, or labels without images and the other way round.
    """
    folder = place if place.is_dir() else place.parent
    found = {path.stem: path for path in sorted(folder.glob("*.npy"))}
    if place.is_dir():
        if not found:
            return None
        keys = keys_of(found, split, place)
        return NpyPair(found[keys.images], found[keys.labels], keys.split)
    if not place.is_file():
        return None
    for known in ("", *SPLITS):
        for images, labels in pairs_of(known):
            if images == place.stem and labels in found:
                return _of_split(NpyPair(place, found[labels], known or WHOLE), split)
    if (beside := next((name for name in LABELS if name in found), place.stem)) == place.stem:
        raise DataError(
            f"{place}: no labels beside it; expected labels.npy, or a name such as y_test.npy "
            "beside x_test.npy"
        )
    return _of_split(NpyPair(place, found[beside], WHOLE), split)


def _of_split(pair: NpyPair, split: str) -> NpyPair:
    if pair.split != split and (pair.split != WHOLE or split != "test"):
        has = f"it {UNDIVIDED}" if pair.split == WHOLE else f"it is {pair.split!r}"
        raise DataError(f"{pair.images}: no split {split!r}; {has}")
    return pair


def open_npy(pair: NpyPair) -> Opened:
    """Images and labels as a source.

    Raises:
        DataError: unreadable, or they do not go together.
    """
    before = stamps(pair[:2])
    header, labels = read_header(pair.images), read_labels(pair.labels)
    if header.shape[:1] != labels.shape:
        count = header.shape[0] if header.shape else 0
        raise DataError(f"{pair.images}: {count} images but {len(labels)} labels in {pair.labels}")
    source = images_of(pair.images, labels)
    origin = {
        "folder": str(pair.images.parent),
        "sha256": {path.name: file_digest(path) for path in pair[:2]},
    }
    return Opened(source, pair.split, origin=origin, files=before)
