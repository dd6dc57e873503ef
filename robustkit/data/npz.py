"""NumPy archives (`.npz`) with images and labels."""

import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robustkit.data.packed import check_unpacked
from robustkit.data.pixels import Image
from robustkit.data.source import (
    UNDIVIDED,
    WHOLE,
    ArraySource,
    Opened,
    checked_arrays,
    diagnosis,
    stamps,
)
from robustkit.errors import DataError
from robustkit.files import file_digest

SPLITS = ("train", "test", "val", "valid", "validation", "extra")


class Keys(NamedTuple):
    """What an archive calls its arrays."""

    images: str
    labels: str
    split: str


def open_npz(path: Path, split: str) -> Opened:
    """An archive as a source; images are N x H x W, N x C x H x W or N x H x W x C.

    The last axis is the channels where it has length 1 or 3 and the second has neither.

    Raises:
        DataError: unreadable, keys not understood, no such split, values out of range.
    """
    files = stamps([path])
    try:
        # opened here, because NumPy leaves the file open when the archive is broken
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: a single array; expected an .npz with images and labels")
            keys = keys_of(archive.files, split, path)
            names = [*keys[:2], *(["classes"] if "classes" in archive.files else [])]
            with zipfile.ZipFile(file) as members:
                check_unpacked(members, [f"{name}.npy" for name in names], path)
                images, labels, *others = (read_member(members, name) for name in names)
    except DataError:
        raise
    # zipfile, zlib and NumPy's header parser raise nearly anything on broken bytes
    except Exception as error:
        why = "it contains Python objects, which are never loaded" if "Object" in str(error) else ""
        raise DataError(f"{path}: cannot be read as .npz: {why or diagnosis(path)}") from error
    laid_out, layout = channels_second(images)
    pair = checked_arrays(laid_out, labels, str(path))
    source = ArraySource(pair.images, pair.labels, str(path))
    origin = {"file": str(path), "sha256": file_digest(path), **keys._asdict(), "layout": layout}
    return Opened(source, keys.split, _classes(others, path), origin=origin, files=files)


def read_member(members: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """An array of an archive, by its name without `.npy`, whose size was looked at before.

    Not by NumPy's mapping, for which a member without that ending stands before the one with it.

    Raises:
        ValueError: no array, or Python objects in it.
        KeyError: there is no such member.
    """
    with members.open(f"{name}.npy") as file:
        found: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def _classes(found: Sequence[npt.NDArray[Any]], path: Path) -> tuple[str, ...]:
    """The names of the classes, where the archive has any."""
    for names in found:
        if names.ndim != 1 or names.dtype.kind not in "USiu":
            shape = "x".join(map(str, names.shape)) or "none"
            raise DataError(
                f"{path}: classes of shape {shape} and type {names.dtype}; expected a list of names"
            )
        text = np.char.decode(names, "utf-8", "replace") if names.dtype.kind == "S" else names
        return tuple(map(str, text.tolist()))
    return ()


def keys_of(found: Collection[str], split: str, path: Path) -> Keys:
    """The arrays of a split, else those of an archive without splits."""
    for images, labels in pairs_of(split):
        if images in found and labels in found:
            return Keys(images, labels, split)
    others = [s for s in SPLITS if any({a, b} <= set(found) for a, b in pairs_of(s))]
    if others:
        raise DataError(f"{path}: no split {split!r}; it has: {', '.join(others)}")
    for images, labels in pairs_of(""):
        if images in found and labels in found:
            if split not in ("test", WHOLE):
                raise DataError(f"{path}: no split {split!r}; it {UNDIVIDED}")
            return Keys(images, labels, WHOLE)
    raise DataError(
        f"{path}: no images and labels under known names (such as 'images' and 'labels', "
        f"'x' and 'y', 'x_test' and 'y_test'); it has: {_some(found)}"
    )


def _some(found: Collection[str]) -> str:
    return ", ".join([*list(found)[:8], *(["…"] if len(found) > 8 else [])]) or "nothing"


def pairs_of(split: str) -> list[tuple[str, str]]:
    """Pairs of names in use for images and labels."""
    pairs = [("images", "labels"), ("x", "y"), ("X", "y"), ("X", "Y"), ("data", "labels")]
    pairs += [("data", "targets"), ("images", "targets"), ("image", "label")]
    pairs += [("images", "label")]  # as `--save-adversarial` has them
    if not split:
        return pairs
    orders = [(f"{a}_{split}", f"{b}_{split}") for a, b in pairs]
    return orders + [(f"{split}_{a}", f"{split}_{b}") for a, b in pairs]


def channels_second(images: Image) -> tuple[Image, str]:
    """The images as N x C x H x W, and the name of the layout they had."""
    last, second = (images.shape[3], images.shape[1]) if images.ndim == 4 else (0, 0)
    # four: with transparency, which is refused for what it is
    if (last in (1, 3) and second not in (1, 3)) or (last == 4 and second not in (1, 3, 4)):
        return images.transpose(0, 3, 1, 2), "NHWC"
    return images, "NHW" if images.ndim == 3 else "NCHW"


def noted_layout(images: Image, name: str) -> tuple[Image, tuple[str, ...]]:
    """The images as N x C x H x W, and a note where the channels stood last."""
    found, layout = channels_second(images)
    shape = "x".join(map(str, images.shape))
    return found, (f"{name}: images of {shape} are N x H x W x C",) if layout == "NHWC" else ()
