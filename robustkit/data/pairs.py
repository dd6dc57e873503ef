"""Face verification: pairs of pictures, of the same person or of two (Huang et al. 2007).

A pair is one image of 2C + 1 channels: the first picture, which no attack may change, a plane that
holds the number of its fold, which none may change either, and the second picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustkit.data.encoded import AS_TORCHVISION, EncodedImage, Reading, decode
from robustkit.data.pixels import Image, Labels
from robustkit.data.source import Opened, stamps
from robustkit.data.transform import with_channels
from robustkit.errors import DataError
from robustkit.files import file_digest, read_text
from robustkit.parsing import whole

LIST = "pairs.txt"
PAIRS = "pairs"
"""the source of a data set's file whose pairs stand at `--data-root`"""
FOLDERS = ("lfw_funneled", "lfw-deepfunneled", "lfw-py/lfw_funneled", "lfw", "images", ".")
"""where the folders of people may stand, beside the list"""
ENDS = (".jpg", ".jpeg", ".png")
MOST_FOLDS = 255


class PicturePair(NamedTuple):
    """Two pictures."""

    first: Path
    second: Path
    same: bool
    """whether of one person"""
    fold: int
    """from 0 on"""


@dataclass(frozen=True, slots=True, eq=False)
class PairSource:
    """Pairs as stacks of 2C + 1 channels, uint8."""

    pairs: tuple[PicturePair, ...]
    labels: Labels
    """1 where a pair is of one person"""
    channels: int | None = None
    """that pictures are converted to; None: RGB where one of the two has colour"""
    reading: Reading = AS_TORCHVISION

    def read(self, positions: Sequence[int]) -> Iterator[Image]:
        """The pairs at these positions, in this order."""
        paths = (p for place in positions for p in self.pairs[place][:2])
        pictures = decode((EncodedImage(p, str(p)) for p in paths), self.reading)
        for place in positions:
            yield self._stacked(self.pairs[place], next(pictures), next(pictures))

    def read_as(self, reading: Reading) -> "PairSource":
        """The same pairs, their pictures read as another library's loader does."""
        return replace(self, reading=reading)

    def where(self, position: int) -> str:
        """How a message names a pair."""
        first, second, *_ = self.pairs[position]
        return f"the pair of {first} and {second}"

    def _stacked(self, pair: PicturePair, first: Image, second: Image) -> Image:
        if not first.dtype == second.dtype == np.uint8:
            raise DataError(f"{pair.first}, {pair.second}: images must have 8 bits per channel")
        if first.shape[1:] != second.shape[1:]:
            raise DataError(f"{pair.first}, {pair.second}: two images of different size")
        channels = self.channels or max(len(first), len(second))
        fold = np.full((1, *first.shape[1:]), pair.fold, np.uint8)
        return np.concatenate(
            [with_channels(first, channels), fold, with_channels(second, channels)]
        )


def is_pairs(folder: Path) -> bool:
    """Whether a folder has a list of pairs."""
    return (folder / LIST).is_file()


def open_pairs(folder: Path) -> Opened:
    """The pairs of `pairs.txt`, and the folders of people beside it.

    They are put in an order in which folds, and pairs of one person and of two, take turns, so that
    the first of them are a fair sample.

    Raises:
        DataError: the list is no such list, or a picture is missing.
    """
    path = folder / LIST
    if not path.is_file():
        raise DataError(f"{folder}: no {LIST}, the list of LFW's pairs with its ten folds")
    listed = _listed(path)
    people = _people(folder, listed[0][0])
    by_group: dict[tuple[int, bool], list[PicturePair]] = {}
    for (one, i), (other, j), fold in listed:
        pair = PicturePair(_picture(people, one, i), _picture(people, other, j), one == other, fold)
        by_group.setdefault((fold, pair.same), []).append(pair)
    most = max(map(len, by_group.values()))
    turns = (g[k] for k in range(most) for g in by_group.values() if k < len(g))
    pairs = tuple(turns)
    labels = np.array([pair.same for pair in pairs], np.int64)
    files = (path, *dict.fromkeys(p for pair in pairs for p in pair[:2]))
    origin = {
        "folder": str(folder),
        "pairs": file_digest(path),
        "folds": 1 + max(p[2] for p in listed),
    }
    return Opened(
        PairSource(pairs, labels),
        "all",
        ("different", "same"),
        origin=origin,
        files=stamps(files),
        ordered=True,
        notes=("the second image of a pair is attacked, the first one is not",),
    )


Listed = tuple[tuple[str, int], tuple[str, int], int]


def _listed(path: Path) -> list[Listed]:
    """Names, numbers and fold of each line; the first line says how many there are."""
    head, *lines = [line.split() for line in read_text(path).splitlines() if line.strip()] or [[]]
    counts = [whole(part) or 0 for part in head]
    if len(counts) not in (1, 2) or not all(counts):
        raise DataError(f"{path}: its first line must give the numbers of folds and pairs: 10 300")
    folds, each = (1, *counts)[-2:]
    if folds > MOST_FOLDS or len(lines) != 2 * folds * each:
        raise DataError(
            f"{path}: {len(lines)} pairs, but the first line announces {folds} folds of 2 × {each}"
        )
    return [_line(path, row, line, row // (2 * each)) for row, line in enumerate(lines)]


def _line(path: Path, row: int, line: Sequence[str], fold: int) -> Listed:
    one, i, *rest = (*line, "")
    numbers = [whole(i), whole(rest[-2] if len(rest) > 1 else "")]
    other = rest[0] if len(line) == 4 else one
    if len(line) not in (3, 4) or None in numbers or not all(map(_plain, (one, other))):
        raise DataError(f"{path}: line {row + 2}: expected NAME 1 2 or NAME 1 NAME 2")
    return (one, numbers[0] or 0), (other, numbers[1] or 0), fold


def _plain(name: str) -> bool:
    """Whether a name leads nowhere else."""
    return not set(name) & set("/\\") and name not in ("", ".", "..")


def _people(folder: Path, one: tuple[str, int]) -> Path:
    for name in FOLDERS:
        if (folder / name / one[0]).is_dir():
            return folder / name
    raise DataError(f"{folder}: no folder of {one[0]!r}; looked in {', '.join(FOLDERS)}")


def _picture(people: Path, name: str, number: int) -> Path:
    for end in ENDS:
        path = people / name / f"{name}_{number:04d}{end}"
        if path.is_file():
            return path
    raise DataError(f"{people / name}: {name}_{number:04d}{ENDS[0]} is missing, but part of a pair")
