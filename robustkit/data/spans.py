"""Encoded pictures that stand in one piece somewhere in larger files: tars, Arrow streams."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustkit.data.encoded import AS_TORCHVISION, EncodedImage, Reading, decode
from robustkit.data.pixels import Image, Labels
from robustkit.errors import DataError, shown

LARGEST_PICTURE = 2**28
"""bytes of an encoded picture"""


class Span(NamedTuple):
    """Where a picture stands."""

    file: int
    """which of the files"""
    start: int
    size: int
    """bytes"""


@dataclass(frozen=True, slots=True, eq=False)
class SpanSource:
    """Pictures read from their places in files, and decoded, when they are asked for."""

    files: tuple[Path, ...]
    spans: npt.NDArray[np.int64]
    """N x 3: a `Span` each"""
    labels: Labels
    names: tuple[str, ...] = ()
    """what a message calls each image; empty: its row in the file"""
    reading: Reading = AS_TORCHVISION

    def read(self, positions: Sequence[int]) -> Iterator[Image]:
        """The images at these positions, in this order."""
        pictures = (EncodedImage(self.encoded(p), self.where(p)) for p in positions)
        return decode(pictures, self.reading)

    def read_as(self, reading: Reading) -> "SpanSource":
        """The same pictures, read as another library's loader does."""
        return replace(self, reading=reading)

    def encoded(self, position: int) -> bytes:
        """One picture as it stands in its file.

        Raises:
            DataError: it is cut off, or no picture is of that length.
        """
        span = Span(*self.spans[position].tolist())
        if not span.size:
            raise DataError(f"{self.where(position)}: no image bytes")
        if span.size > LARGEST_PICTURE:
            raise DataError(f"{self.where(position)}: an image of {span.size:,} bytes")
        try:
            with self.files[span.file].open("rb", buffering=0) as file:
                file.seek(span.start)
                content = file.read(span.size)
        except OSError as error:
            raise DataError(f"{self.where(position)}: cannot be read: {error.strerror}") from error
        if len(content) < span.size:
            raise DataError(f"{self.where(position)}: the file ends within the image")
        return content

    def where(self, position: int) -> str:
        """How a message names an image."""
        file = self.spans[position, 0]
        row = position - int(np.searchsorted(self.spans[:, 0], file))
        name = shown(self.names[position]) if self.names else f"row {row}"
        return f"{self.files[file]}: {name}"
