"""Sets of corrupted images as they are published: each corruption at each severity is a split.

- CIFAR-10-C and CIFAR-100-C: `CORRUPTION.npy` with the images of severity 1, then those of 2, and
  so on, and `labels.npy`.
- ImageNet-C and Tiny-ImageNet-C: `CORRUPTION/SEVERITY/CLASS/picture.JPEG`, perhaps in folders by
  kind.
- MNIST-C: `CORRUPTION/test_images.npy` and `test_labels.npy`, of one severity.

An image has one place in all of them, so that rows of one index are of one original.

Source: Hendrycks and Dietterich 2019, https://github.com/hendrycks/robustness; Mu and Gilmer 2019,
https://github.com/google-research/mnist-c.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustkit.data.encoded import SUFFIXES
from robustkit.data.folder import open_classes
from robustkit.data.npy import NpyPair, images_of, open_npy, read_header, read_labels
from robustkit.data.npz import SPLITS, pairs_of
from robustkit.data.order import is_grouped, shuffled_by
from robustkit.data.pixels import Labels
from robustkit.data.source import MOST_CLASSES, Opened, Reordered, stamps
from robustkit.data.split import SPLITS as SPLIT_WORDS
from robustkit.errors import DataError
from robustkit.files import file_digest

LABELS = "labels.npy"
SEVERITIES = ("1", "2", "3", "4", "5")
CLEAN = ("identity", "clean", "original", "none")
"""what sets call the images as they were"""
ALL = ("test", "all")
"""splits that mean every corruption at every severity"""
MOST = 200
"""corruptions of a set"""
Part = Path | tuple[Path, int, int]
"""of a level: its folder, or a file and its rows from one to before another"""


class CorruptionLevel(NamedTuple):
    """A corruption at a severity."""

    corruption: str
    """as the set calls it, with hyphens"""
    severity: int | None
    """None where the set has but one"""

    def __str__(self) -> str:
        return self.corruption if self.severity is None else f"{self.corruption}-{self.severity}"


def find_levels(folder: Path) -> dict[str, CorruptionLevel]:
    """The levels of a set, by the split that each is; empty where a folder is no such set.

    Raises:
        DataError: its files don't go together.
    """
    return {str(level): level for level in _parts(folder)}


def asked_levels(levels: Mapping[str, CorruptionLevel], split: str) -> list[str]:
    """The splits that one names: itself, all severities of a corruption, or all there are."""
    if split in levels:
        return [split]
    wanted = split.replace("_", "-")
    return [s for s, level in levels.items() if split in ALL or level.corruption == wanted]


def open_level(folder: Path, split: str) -> Opened | None:
    """A level as a source; None where the folder is no such set.

    Raises:
        DataError: no such level, or its files are not readable.
    """
    parts = _parts(folder)
    if not parts:
        return None
    found = {str(level): (level, part) for level, part in parts.items()}
    if split not in found:
        raise DataError(
            f"{folder}: no split {split!r}; the splits of these corrupted images are "
            f"{', '.join([*list(found)[:6], '…'] if len(found) > 6 else found)}; name one of them "
            "(the command robustkit evaluate takes all in turn)"
        )
    level, part = found[split]
    opened = _open(part, split)
    told = {"corruption": level.corruption, "severity": level.severity}
    return replace(_in_order(opened, part), origin=opened.origin | told)


def _open(part: Part, split: str) -> Opened:
    if isinstance(part, tuple):
        return _open_rows(*part, split)
    if pair := _pair(part):
        return open_npy(pair._replace(split=split))
    return open_classes(part, split)


def _in_order(opened: Opened, part: Part) -> Opened:
    """Its images in the order of all levels: shuffled by place or file name where grouped by class.

    Not by their pixels, as other data sets, since no two levels share those.
    """
    source = opened.source
    if not is_grouped(source.labels):
        return replace(opened, ordered=True)
    keys = [str(position) for position in range(len(source.labels))]
    if isinstance(part, Path) and _pair(part) is None:
        paths = [Path(source.where(position)) for position in range(len(keys))]
        keys = [path.relative_to(part).with_suffix("").as_posix() for path in paths]
    return replace(opened, source=Reordered(source, shuffled_by(keys)), ordered=True)


def _open_rows(path: Path, start: int, stop: int, split: str) -> Opened:
    """Some rows of a file, as one severity of CIFAR-10-C."""
    files = (path, path.with_name(LABELS))
    before = stamps(files)
    labels = read_labels(files[1])
    own = labels[start:stop] if len(labels) >= stop else labels[: stop - start]
    source = images_of(path, own, start)
    digests = {one.name: file_digest(one) for one in files}
    origin: dict[str, Any] = {"folder": str(path.parent), "sha256": digests, "rows": [start, stop]}
    return Opened(source, split, origin=origin, files=before)


def _parts(folder: Path) -> dict[CorruptionLevel, Part]:
    """The levels of a set and where each stands, in alphabetical order; empty where it is none."""
    if (folder / LABELS).is_file():
        return dict(_of_stacks(folder))
    found: dict[CorruptionLevel, Path] = {}
    for place in _subfolders(folder, MOST):
        inside = [place] if _severities(place) or _pair(place) else _subfolders(place, MOST)
        for one in inside:
            name = one.name.replace("_", "-")
            if one.name.lower() in SPLIT_WORDS and not _pair(one):
                continue  # whose class folders are called by numbers, as the grades of a disease
            if severities := _severities(one):
                found |= {CorruptionLevel(name, int(s)): one / s for s in severities}
            elif _pair(one):
                found[CorruptionLevel(name, None)] = one
    if not _share_classes([place for level, place in found.items() if level.severity]):
        return {}
    return dict(sorted(found.items(), key=lambda item: (item[0].corruption, item[0].severity or 0)))


def _of_stacks(folder: Path) -> Iterator[tuple[CorruptionLevel, Part]]:
    """The levels of files that are stacks of severities, with the labels of all beside them."""
    files = [path for path in sorted(folder.glob("*.npy")) if path.name != LABELS]
    stems = {path.stem for path in files} | {Path(LABELS).stem}
    if any({*pair} <= stems for split in ("", *SPLITS) for pair in pairs_of(split)):
        return  # images and labels of a data set like any other
    labels = read_labels(folder / LABELS) if files else np.zeros(0, np.int64)
    for path in files:
        shape = read_header(path).shape
        count = _stacked(shape[0] if len(shape) > 2 else 0, labels, path)
        size = shape[0] // count
        name = path.stem.replace("_", "-")
        for number in range(count):
            level = CorruptionLevel(name, number + 1 if count > 1 else None)
            yield level, (path, number * size, (number + 1) * size)


def _stacked(images: int, labels: Labels, path: Path) -> int:
    """How many severities a file has: as often do the labels repeat.

    Raises:
        DataError: images and labels don't go together.
    """
    most = len(SEVERITIES)
    if images == len(labels) > 0:
        block = images // most
        whole = images % most == 0 and block > 1
        return most if whole and bool((labels.reshape(most, -1) == labels[:block]).all()) else 1
    if len(labels) and images % len(labels) == 0 and 0 < images <= most * len(labels):
        return images // len(labels)
    raise DataError(f"{path}: {images} images but {len(labels)} labels in {LABELS}")


def _severities(folder: Path) -> list[str]:
    """The severities whose folders, of class folders, are all that a folder has."""
    children = _subfolders(folder, len(SEVERITIES))
    names = [child.name for child in children]
    known = bool(names) and set(names) <= set(SEVERITIES)
    return names if known and all(map(_has_folder, children)) else []


def _share_classes(levels: Sequence[Path]) -> bool:
    """Whether a class folder is in all levels, as in those of the same images; true of none."""
    first = _subfolders(levels[0], MOST_CLASSES) if levels else []
    return not levels or any(
        all((level / one.name).is_dir() for level in levels[1:]) for one in first
    )


def _has_folder(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_is_folder(entry) for entry in entries)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    # not entry.is_dir(), which raises for a link to itself
    return not entry.name.startswith(".") and Path(entry.path).is_dir()


def _pair(folder: Path) -> NpyPair | None:
    """The files of images and labels of a folder that has them under MNIST-C's names."""
    images, labels = folder / "test_images.npy", folder / "test_labels.npy"
    return NpyPair(images, labels, "") if images.is_file() and labels.is_file() else None


def _subfolders(folder: Path, most: int) -> list[Path]:
    """The folders in a folder, in alphabetical order; none where there are more, or pictures.

    A class folder has 1,300 pictures, and is told by its first.
    """
    found: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if Path(entry.name).suffix.lower() in SUFFIXES or len(found) > most:
                return []
            if _is_folder(entry):
                found.append(Path(entry.path))
    return sorted(found)
