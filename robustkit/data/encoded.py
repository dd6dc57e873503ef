"""Encoded pictures (PNG, JPEG, …) to arrays, through Pillow."""

import io
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFile, ImageOps, UnidentifiedImageError

from robustkit.data.pixels import Image
from robustkit.errors import DataError

JPEG = b"\xff\xd8\xff"
SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"]
)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""what these are to Pillow, whose readers of others may start programs, whatever the suffix"""
GREY, SIXTEEN_BIT, REFUSED = ("1", "L", "LA", "La"), ("I;16", "I;16B", "I;16L"), ("I", "F")
OF_AT_MOST_16 = ("PNG", "PPM")
"""formats whose grey pixels Pillow holds in 32 bits where they have more than 8: in 0 to 65,535"""
BITS, WHITE_IS_ZERO = 258, (262, 0)
"""a TIFF's tags"""
ORIENTATION = 274
"""EXIF's tag"""
LARGEST = 10**8
"""pixels; above it a file is taken for an attempt to fill the memory"""
THREADS = 4
AT_ONCE = 4
"""pictures that a thread decodes in a row: small ones cost more to hand over than to decode"""


class EncodedImage(NamedTuple):
    """An encoded picture."""

    content: bytes | Path
    where: str
    """how a message names it"""


class Reading(NamedTuple):
    """How a library's loader reads a picture file, where that is not as torchvision's does."""

    upright: bool = False
    """turned as its EXIF orientation says"""
    on_white: bool = False
    """a colour that stands for transparency becomes white, not whatever it is"""


AS_TORCHVISION = Reading()


@dataclass(slots=True)
class Departures:
    """Pictures that are read otherwise than other programs show them."""

    pictures: int = 0
    """of all kinds"""
    turned: int = 0
    """with an EXIF orientation that is not applied"""
    transparent: int = 0
    """with pixels that are more or less transparent, and are read as if they were not"""

    def add(self, picture: "_Decoded") -> None:
        """Count one more picture."""
        self.pictures += 1
        self.turned += picture.turned
        self.transparent += picture.transparent

    @property
    def notes(self) -> tuple[str, ...]:
        """As sentences."""
        found = [
            (self.turned, "have an EXIF orientation, which is not applied"),
            (self.transparent, "have transparent pixels, whose transparency is dropped"),
        ]
        as_there = "as in torchvision's ImageFolder"
        of_all = f"of {self.pictures:,} images"
        return tuple(f"{n:,} {of_all} {what}, {as_there}" for n, what in found if n)


_counting: ContextVar[Departures | None] = ContextVar("_counting", default=None)


@contextmanager
def departures() -> Iterator[Departures]:
    """What is counted of the pictures that are decoded inside."""
    token = _counting.set(found := Departures())
    try:
        yield found
    finally:
        _counting.reset(token)


class _Decoded(NamedTuple):
    image: Image
    turned: bool = False
    transparent: bool = False


def decode(pictures: Iterable[EncodedImage], reading: Reading = AS_TORCHVISION) -> Iterator[Image]:
    """Pictures as C x H x W: grey ones have one channel, all others become RGB.

    uint8; float32 where a picture has one channel of 16 bits. Transparency is dropped and EXIF
    orientation ignored unless `reading` says otherwise, and of several frames the first is taken,
    as by torchvision's loader.

    Raises:
        DataError: unreadable, absurdly large, or 32 bits per channel.
    """
    rest = iter(pictures)
    with ThreadPoolExecutor(THREADS) as pool:
        while chunks := [
            chunk for _ in range(THREADS) if (chunk := list(itertools.islice(rest, AT_ONCE)))
        ]:
            # not in the threads, whose filters are the process's; Pillow warns of odd metadata
            with warnings.catch_warnings(), _no_truncated():
                warnings.simplefilter("ignore")
                decoded = list(pool.map(partial(_all_decoded, reading=reading), chunks))
            for picture in itertools.chain.from_iterable(decoded):
                if (counted := _counting.get()) is not None:
                    counted.add(picture)
                yield picture.image


@contextmanager
def _no_truncated() -> Iterator[None]:
    """No picture is made of a truncated file, whatever the program has Pillow do with its own."""
    usual, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = usual


def is_jpeg(picture: bytes) -> bool:
    """Whether the first bytes are those of a JPEG file."""
    return picture.startswith(JPEG)


def _all_decoded(pictures: Iterable[EncodedImage], reading: Reading) -> list[_Decoded]:
    return [_decoded(picture, reading) for picture in pictures]


def _decoded(picture: EncodedImage, reading: Reading) -> _Decoded:
    content, where = picture
    try:
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        with Pillow.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > LARGEST:
                raise DataError(
                    f"{where}: {opened.width}x{opened.height} pixels are too many; refused"
                )
            plain, white = _narrowed(opened, where), _white(opened, where)
            turned = ImageOps.exif_transpose(plain) if reading.upright else plain
            image = _array(_whitened(turned) if reading.on_white else turned, white)
            # afterwards, as metadata may stand behind the pixels, and Pillow turns a TIFF itself
            aside = not reading.upright and _is_turned(opened)
            return _Decoded(image, aside, not reading.on_white and _is_transparent(opened))
    except DataError:
        raise
    # Pillow's plugins raise nearly anything on a broken file
    except Exception as error:
        raise DataError(f"{where}: unreadable image: {_reason(error, where)}") from error


def _narrowed(opened: Pillow.Image, where: str) -> Pillow.Image:
    """The picture with 16 bits a pixel where it has no more of them, though Pillow takes 32."""
    if opened.mode == "I" and opened.format in OF_AT_MOST_16:
        return opened.convert("I;16")
    if opened.mode in REFUSED:
        signed = ", or signed numbers" if opened.mode == "I" else ""
        raise DataError(f"{where}: 32 bits per channel{signed}; save the images with 8 or 16")
    return opened


def _white(opened: Pillow.Image, where: str) -> int:
    """The largest number of a grey pixel of 16 bits; in a TIFF it may have 12 of them."""
    if opened.mode not in SIXTEEN_BIT or opened.format != "TIFF":
        return 65535
    tags: Mapping[int, Any] = getattr(opened, "tag_v2", {})
    if tags.get(WHITE_IS_ZERO[0]) == WHITE_IS_ZERO[1]:
        raise DataError(f"{where}: 16 bits, of which 0 is white; save the images with 0 as black")
    return int(2 ** tags.get(BITS, (16,))[0]) - 1


def _whitened(opened: Pillow.Image) -> Pillow.Image:
    """As transformers' `convert_to_rgb` of what its `load_image` made RGB before.

    That drops an alpha channel, so that only a colour that stands for transparency is left.
    """
    plain = opened if opened.mode in SIXTEEN_BIT else opened.convert("RGB")
    if plain.info.get("transparency") is None or opened.mode in SIXTEEN_BIT:
        return opened
    clear = plain.convert("RGBA")
    white = Pillow.new("RGBA", clear.size, (255, 255, 255, 255))
    return Pillow.alpha_composite(white, clear).convert("RGB")


def _array(opened: Pillow.Image, white: int) -> Image:
    if opened.mode in SIXTEEN_BIT:
        return (np.asarray(opened).astype(np.float32) / np.float32(white))[np.newaxis]
    if opened.mode in GREY:
        return np.asarray(opened.convert("L"))[np.newaxis]
    return np.asarray(opened.convert("RGB")).transpose(2, 0, 1)


def _is_turned(opened: Pillow.Image) -> bool:
    """Whether a picture's EXIF orientation is another than that of its pixels."""
    with suppress(Exception):  # of metadata that nothing here rests on
        return bool(2 <= opened.getexif().get(ORIENTATION, 1) <= 8)
    return False


def _is_transparent(opened: Pillow.Image) -> bool:
    """Whether a pixel is."""
    if not opened.has_transparency_data:
        return False
    with suppress(Exception):
        return bool(np.asarray(opened.convert("RGBA").getchannel("A")).min() < 255)
    return True


def _reason(error: Exception, where: str) -> str:
    """What Pillow says, on one line and without the name that the message has already."""
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return " ".join(str(error).replace(where, "").split()) or type(error).__name__
