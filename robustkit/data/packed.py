"""Packed files, whose unpacked size is looked at before anything is unpacked."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from robustkit.errors import DataError

LARGE = 256 * 2**20
"""bytes that are unpacked without a second thought"""
RATIO = 200
"""times that images are larger unpacked: beyond it there is nothing in them but one colour"""


def check_size(unpacked: int, packed: int, path: Path) -> None:
    """Nothing, if so many bytes can be meant to come of so many.

    Raises:
        DataError: they are a few bytes that would fill the memory.
    """
    if unpacked > LARGE and unpacked > RATIO * packed:
        raise DataError(
            f"{path}: {packed:,} bytes that decompress to {unpacked:,}, which may be an "
            "attempt to exhaust memory; if intended, save it uncompressed"
        )


def check_unpacked(archive: zipfile.ZipFile, names: Sequence[str], path: Path) -> None:
    """Nothing, if members of a zip can be meant to be unpacked.

    Raises:
        DataError: as `check_size`.
        KeyError: there is no such member.
    """
    for entry in map(archive.getinfo, names):
        check_size(entry.file_size, entry.compress_size, path)
