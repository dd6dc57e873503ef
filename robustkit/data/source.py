"""Sources: images by position, as stored, whatever the format."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from robustkit.data.encoded import Reading
from robustkit.data.pixels import Image, Labels
from robustkit.errors import DataError, first_line
from robustkit.files import file_digest

WHOLE = "all"
"""the split of a source that has no splits"""
UNDIVIDED = f"is not divided into splits; give --split {WHOLE}"
"""what is said of one where a split is asked for"""

CUT_SHORT = "it is damaged or truncated; download it again"


ROUNDING = 1e-5
"""by which a pixel may lie outside [0, 1]: far less than a step of 8 bits"""
MOST_CLASSES = 100_000
"""of a data set: each has a name, and none that is in use has a third as many"""


MOST_FOLDERS = 100_000
"""that are looked into, where a link may lead to a whole disk"""


class FileStamp(NamedTuple):
    """What is another where a file was written anew."""

    path: str
    size: int
    changed: int
    """nanoseconds"""
    inode: int


def stamps(paths: Iterable[Path]) -> tuple[FileStamp, ...]:
    """The stamps of those files that are there."""
    found = []
    for path in paths:
        with suppress(OSError):
            state = path.stat()
            found.append(FileStamp(str(path), state.st_size, state.st_mtime_ns, state.st_ino))
    return tuple(found)


def files_in(path: Path, *, links: bool = False) -> Iterator[Path]:
    """All files in a folder and those inside it; a file itself.

    Args:
        path: of the folder.
        links: also where links lead, to each folder once, as class folders are read.
    """
    if not path.is_dir():
        yield path
        return
    inside: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(path, followlinks=links):
        folders.sort()
        real = os.path.realpath(parent)
        if real in seen or len(seen) == MOST_FOLDERS:
            folders.clear()
            continue
        seen.add(real)
        inside += [Path(parent, name) for name in names]
    yield from sorted(inside)


def digests(files: Sequence[Path]) -> dict[str, str]:
    """The SHA-256 of each file, by its name, or by its path where several are called alike."""
    alike = len({path.name for path in files}) < len(files)
    folder = Path(os.path.commonpath(files)) if alike else None
    return {
        path.relative_to(folder).as_posix() if folder else path.name: file_digest(path)
        for path in files
    }


class Source(Protocol):
    """Images that can be read one after the other without holding them all."""

    @property
    def labels(self) -> Labels:
        """One per image, as stored."""

    def read(self, positions: Sequence[int]) -> Iterator[Image]:
        """The images at these positions, in this order."""

    def where(self, position: int) -> str:
        """How a message names an image."""


@runtime_checkable
class PictureSource(Source, Protocol):
    """One of encoded pictures, which libraries read in different ways."""

    def read_as(self, reading: Reading) -> Source:
        """The same pictures, read as another library's loader does."""


def read_as(source: Source, reading: Reading) -> Source:
    """A source with its pictures read as another library's loader does, if it has pictures."""
    return source.read_as(reading) if isinstance(source, PictureSource) else source


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A source and what it knows of itself."""

    source: Source
    split: str
    classes: tuple[str, ...] = ()
    """empty where unknown"""
    numbered: bool = True
    """whether labels are the data's own, and not the places of names in alphabetical order"""
    empty: tuple[str, ...] = ()
    """classes of which there may be images elsewhere, but none here"""
    origin: dict[str, Any] = field(default_factory=dict)
    """files and their digests, as JSON"""
    shape: tuple[int, ...] = ()
    """C, H, W that every image must have; empty where unknown"""
    warnings: tuple[str, ...] = ()
    if_in_place: tuple[str, ...] = ()
    """warnings of classes that keep the places of their names, no network's being known"""
    notes: tuple[str, ...] = ()
    """what was taken from where, for people; nothing is amiss"""
    files: tuple[FileStamp, ...] = ()
    """as they were before any image was read"""
    ordered: bool = False
    """whether the images have been put in order, and stay in it"""
    named: frozenset[int] | None = None
    """classes that have a name, where a table has a column of numbers, too; None elsewhere"""


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """Images in memory, kept as they were stored: uint8 or float32, N x C x H x W."""

    images: Image
    labels: Labels
    name: str

    def read(self, positions: Sequence[int]) -> Iterator[Image]:
        """The images at these positions, in this order."""
        return (self.images[position] for position in positions)

    def where(self, position: int) -> str:
        """How a message names an image."""
        return f"{self.name}: image {position}"


@dataclass(frozen=True, slots=True, eq=False)
class Relabelled:
    """A source under other labels."""

    source: Source
    labels: Labels

    def read(self, positions: Sequence[int]) -> Iterator[Image]:
        """The images at these positions, in this order."""
        return self.source.read(positions)

    def where(self, position: int) -> str:
        """How a message names an image."""
        return self.source.where(position)

    def read_as(self, reading: Reading) -> "Relabelled":
        """The same, of pictures that are read as another library's loader does."""
        return replace(self, source=read_as(self.source, reading))


@dataclass(frozen=True, slots=True, eq=False)
class Reordered:
    """A source's images in another order."""

    source: Source
    order: npt.NDArray[np.int64]

    @property
    def labels(self) -> Labels:
        """One per image."""
        return self.source.labels[self.order]

    def read(self, positions: Sequence[int]) -> Iterator[Image]:
        """The images at these positions, in this order."""
        return self.source.read(self.order[list(positions)].tolist())

    def where(self, position: int) -> str:
        """How a message names an image."""
        return self.source.where(int(self.order[position]))

    def read_as(self, reading: Reading) -> "Reordered":
        """The same, of pictures that are read as another library's loader does."""
        return replace(self, source=read_as(self.source, reading))


class Remembered:
    """A source whose images stay in memory once they were decoded, as long as they are few.

    Every data set is read at least twice: once for the ids of its images, then to be used.
    """

    LARGEST = 256 * 2**20
    """bytes of pixels kept"""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._images: dict[int, Image] = {}
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        # another process decodes its own share of the images
        return {"_source": self._source, "_images": {}, "_bytes": 0}

    @property
    def labels(self) -> Labels:
        """One per image, as stored."""
        return self._source.labels

    def read(self, positions: Sequence[int]) -> Iterator[Image]:
        """The images at these positions, in this order."""
        if all(position in self._images for position in positions):
            return (self._images[position] for position in positions)
        return self._decoded(positions)

    def _decoded(self, positions: Sequence[int]) -> Iterator[Image]:
        for position, image in zip(positions, self._source.read(positions), strict=True):
            if position not in self._images and self._bytes + image.nbytes <= self.LARGEST:
                # a view would keep the whole picture of which it is a part
                self._images[position] = image if image.base is None else image.copy()
                self._bytes += image.nbytes
            yield image

    def where(self, position: int) -> str:
        """How a message names an image."""
        return self._source.where(position)

    def read_as(self, reading: Reading) -> "Remembered":
        """Another, of pictures that are read as another library's loader does."""
        return Remembered(read_as(self._source, reading))


class Pair(NamedTuple):
    """Images and labels that go together."""

    images: Image
    labels: Labels


def as_array(given: Any, where: str) -> npt.NDArray[Any]:
    """An array of numbers: NumPy's, a tensor of any device or precision, or lists of either.

    Pictures of Pillow's are C x H x W, in a list, too.

    Raises:
        DataError: no numbers, parts of several shapes, or a picture that is neither grey nor RGB.
    """
    if _is_picture(given):
        return _picture(given, where)
    if isinstance(given, list | tuple):
        given = [
            _picture(one, f"{where}: image {place}") if _is_picture(one) else one
            for place, one in enumerate(given)
        ]
        if any(hasattr(one, "detach") for one in given):
            given = [as_array(one, where) for one in given]
    try:
        if hasattr(given, "detach"):  # a sparse tensor, or one without values, raises here
            given = given.detach().cpu()
            # NumPy has no such type
            given = given.float() if "bfloat16" in str(given.dtype) else given
        return np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{where}: cannot be read as one array: {first_line(error)}") from error


def _is_picture(given: Any) -> bool:
    return hasattr(given, "getbands") and hasattr(given, "mode")


def _picture(image: Any, where: str) -> Image:
    """One of Pillow's as C x H x W."""
    mode = image.mode
    if mode not in ("L", "RGB"):
        # Pillow would clip what is deeper
        deep = mode.startswith("I;16") or mode in ("I", "F")
        how = "give its pixels as floats in [0, 1]" if deep else "convert it to L or RGB"
        raise DataError(f"{where} is a picture of mode {mode}; {how}")
    array = np.asarray(image)
    return array[np.newaxis] if array.ndim == 2 else array.transpose(2, 0, 1)


def checked_arrays(images: Any, labels: Any, where: str) -> Pair:
    """Images N x C x H x W (or N x H x W) and labels, checked and in the form of `ArraySource`.

    Raises:
        DataError: a wrong shape or type, differing counts, or a value out of range; the message
            names the first offending image.
    """
    images, whole = as_array(images, where), checked_labels(labels, where)
    if images.ndim == 3:
        images = images[:, np.newaxis]
    if images.ndim != 4:
        raise DataError(
            f"{where}: images of shape {'x'.join(map(str, images.shape)) or 'none'}; "
            "expected N x C x H x W or N x H x W"
        )
    if len(images) != len(whole):
        raise DataError(f"{where}: {len(images)} images but {len(whole)} labels")
    if 0 in images.shape:
        raise DataError(f"{where}: no images")
    return Pair(checked_pixels(images, where), whole)


def checked_labels(labels: Any, where: str) -> Labels:
    """Labels as int64 [N].

    Raises:
        DataError: not a list of integers from 0 on.
    """
    labels = as_array(labels, where)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        several = labels.ndim == 2 and len(labels) > 1
        one_hot = "; of one-hot labels take the argmax" if several else ""
        raise DataError(
            f"{where}: labels of shape {labels.shape}; expected one integer per image{one_hot}"
        )
    if labels.dtype.kind == "b" or (labels.dtype.kind == "f" and _are_whole(labels)):
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels of type {labels.dtype}; expected integers from 0 on")
    whole: Labels = labels.astype(np.int64)
    if len(whole) > 1 and (whole == -1).all():
        raise DataError(
            f"{where}: no image has a label (all are −1), as in test splits whose labels are kept "
            "back; choose another split (--split)"
        )
    if (bad := np.flatnonzero(whole < 0)).size:
        raise DataError(f"{where}: image {bad[0]} has label {whole[bad[0]]}; labels start at 0")
    if (bad := np.flatnonzero(whole >= MOST_CLASSES)).size:
        raise DataError(
            f"{where}: image {bad[0]} has label {whole[bad[0]]}; there can be at most "
            f"{MOST_CLASSES:,} classes"
        )
    return whole


def _are_whole(labels: npt.NDArray[Any]) -> bool:
    """Whether floats are whole numbers, as labels that came through a table are."""
    return bool((np.isfinite(labels) & (labels == np.round(labels)) & (abs(labels) < 2**31)).all())


def checked_pixels(images: Image, where: str, first: int = 0) -> Image:
    """The images as uint8, or as float32 in [0, 1]; messages count them from `first` on.

    What lies outside by no more than rounding, as after resizing or undoing a normalisation, is
    moved to the end of the range.

    Raises:
        DataError: another type, or a value out of range.
    """
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iuf":
        raise DataError(f"{where}: images of type {images.dtype}; expected uint8 or float32")
    top = 1 if images.dtype.kind == "f" else 255
    for index, image in enumerate(images, first):
        low, high = image.min(), image.max()
        past = ROUNDING if top == 1 else 0
        if not (low >= -past and high <= top + past):  # not (a and b): NaN fails too
            value = high if np.isnan(high) or high > top else low
            raise DataError(
                f"{where}: image {index} has the value {value:.6g}, outside 0 to {top}; "
                f"store uint8 in 0 to 255, or floats in [0, 1]{_scale(images)}"
            )
    if top == 255:
        return images.astype(np.uint8, copy=False)
    found = images.astype(np.float32, copy=False)
    outside = bool(found.size) and (found.min() < 0 or found.max() > 1)
    return found.clip(0, 1) if outside else found


def _scale(images: Image) -> str:
    """What would bring the pixels of a known scale to [0, 1], for a message."""
    low, high = images.min(), images.max()
    if low >= 0 and 2 < high <= 255 and images.dtype.kind == "f":
        return ": these look like 0 to 255; divide them by 255"
    if low >= 0 and 255 < high <= 65535:
        return ": these look like 16 bits; divide them by 65535"
    if -1 <= low < -0.1 and high <= 1:
        return ": these look like -1 to 1; convert them with (x + 1) / 2"
    return ": store the pixels before normalisation" if low < 0 else ""


def diagnosis(path: Path) -> str:
    """Why a file could not be read: missing, empty, a web page, or damaged."""
    if not path.is_file():
        return "no such file"
    try:
        with path.open("rb") as file:
            start = file.read(256).lstrip()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if not start:
        return "the file is empty"
    if start.startswith(b"<"):
        return "it is a web page (HTML), not data: the download failed"
    return CUT_SHORT
