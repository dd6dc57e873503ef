"""IDX, the format of MNIST: a magic number, big-endian sizes, bytes; often gzipped.

Source: http://yann.lecun.com/exdb/mnist/ (at the end of the page).
"""

import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from robustkit.data.packed import check_size
from robustkit.data.source import CUT_SHORT, ArraySource, Opened, checked_arrays, diagnosis, stamps
from robustkit.errors import DataError, quoted

MAGIC_OF_BYTES = b"\0\0\x08"
MOST_DIMENSIONS = 8
GZIP = b"\x1f\x8b"
PREFIXES = {"train": "train", "test": "t10k"}
CONTENTS = ("images-idx3", "labels-idx1")


class Idx(NamedTuple):
    """The content of a file."""

    values: npt.NDArray[np.uint8]
    sha256: str
    """of the unpacked bytes"""


def read_idx(path: Path) -> Idx:
    """An IDX file of unsigned bytes, gzipped or not.

    Raises:
        DataError: not such a file, or its length is not what its header says.
    """
    try:
        packed = path.read_bytes()
        stream: IO[bytes] | gzip.GzipFile = io.BytesIO(packed)
        if zipped := packed.startswith(GZIP):
            stream = gzip.GzipFile(fileobj=stream)
        shape, content = _header(stream, path)
        expected, start = math.prod(shape), len(content)
        if zipped:
            check_size(expected, len(packed), path)
        # one byte more than there should be, so that what is too long shows
        content += stream.read(expected + 1 if zipped else -1)
    except (OSError, EOFError, zlib.error, OverflowError, MemoryError) as error:
        raise DataError(f"{path}: {diagnosis(path)}") from error
    if (found := len(content) - start) != expected:
        counted = f"more than {expected}" if zipped and found > expected else found
        raise DataError(
            f"{path}: {counted} bytes after the header, expected {expected}; {CUT_SHORT}"
        )
    values = np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    return Idx(values, hashlib.sha256(content).hexdigest())


def _header(stream: IO[bytes] | gzip.GzipFile, path: Path) -> tuple[list[int], bytes]:
    """The sizes of an IDX file, and the bytes that say so."""
    head = stream.read(4)
    dimensions = head[3] if len(head) > 3 else 0
    sizes = stream.read(4 * dimensions)
    known = head.startswith(MAGIC_OF_BYTES) and 0 < dimensions <= MOST_DIMENSIONS
    if not known or len(sizes) < 4 * dimensions:
        raise DataError(f"{path}: not an IDX file of bytes; {diagnosis(path)}")
    return np.frombuffer(sizes, ">u4").tolist(), head + sizes


def find_idx(folders: Sequence[Path], split: str) -> tuple[Path, Path] | None:
    """The image and label files of a split, from the first folder that has either name."""
    prefix = PREFIXES.get(split, split)
    for folder in folders:
        images = _either(folder / f"{prefix}-images-idx3-ubyte")
        labels = _either(folder / f"{prefix}-labels-idx1-ubyte")
        if images and labels:
            return images, labels
        if images or labels:
            missing = "labels-idx1" if images else "images-idx3"
            raise DataError(f"{folder}: {prefix}-{missing}-ubyte[.gz] is missing")
    return None


def open_idx(images: Path, labels: Path, split: str, sha256: Mapping[str, str]) -> Opened:
    """Both files of a split as a source.

    Raises:
        DataError: unreadable, not matching, or not the files whose `sha256` is known.
    """
    before = stamps([images, labels])
    prefixes = {*PREFIXES.values(), PREFIXES.get(split, split)}
    originals = [f"{one}-{what}-ubyte" for one in sorted(prefixes) for what in CONTENTS]
    if odd := sorted(set(sha256) - set(originals)):
        raise DataError(
            f"{images.parent}: sha256: {quoted(odd[0])} is no original; those of the data set, as "
            f"unpacked, are {', '.join(originals)}"
        )
    pictures, marks = read_idx(images), read_idx(labels)
    files = {}
    for path, content in ((images, pictures), (labels, marks)):
        name = path.name.removesuffix(".gz")
        files[name] = content.sha256
        if sha256.get(name, content.sha256) != content.sha256:
            raise DataError(
                f"{path}: not the original {name} of this data set: unpacked, its SHA-256 "
                f"is {content.sha256[:12]}…, not {sha256[name][:12]}…; is it another data "
                "set?"
            )
    pair = checked_arrays(pictures.values, marks.values, str(images))
    source = ArraySource(pair.images, pair.labels, str(images))
    origin = {"folder": str(images.parent), "sha256": files}
    return Opened(source, split, origin=origin, files=before)


def _either(path: Path) -> Path | None:
    """The file, unpacked or gzipped."""
    zipped = path.with_name(path.name + ".gz")
    return next((found for found in (path, zipped) if found.is_file()), None)
