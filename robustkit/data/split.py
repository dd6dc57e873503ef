"""Which split a file is of, by its name and those of its folders."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustkit.data.source import WHOLE
from robustkit.errors import DataError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    "extra": "extra",
}
"""words in file names, and the split they mean"""


class SplitFiles(NamedTuple):
    """The files of one split, in order."""

    files: Sequence[Path]
    split: str


def find_split(place: Path, suffix: str, split: str, skip: str = "\0") -> SplitFiles | None:
    """The files of a split, in a folder or as the file itself; None if there are none.

    The split is read off the names (`data/test-00000-of-00001.parquet`, `cifar10-test.parquet`,
    `test/0000.parquet`); files without such a word are one whole. Files in a folder whose names
    begin with `skip` are passed over.

    Raises:
        DataError: the files are of other splits.
    """
    if not place.is_dir():
        return among([place], place.parent, split)
    # a folder may be called so, too
    found = (path for path in sorted(place.rglob(f"*{suffix}")) if path.is_file())
    return among([path for path in found if not path.name.startswith(skip)], place, split)


def among(files: Sequence[Path], root: Path, split: str) -> SplitFiles | None:
    """Those files that are of a split, by their names below `root`; hidden ones are passed over.

    Raises:
        DataError: the files are of other splits.
    """
    by_split: dict[str, list[Path]] = {}
    for path in files:
        inside = path.relative_to(root)
        if not any(part.startswith(".") for part in inside.parts):
            by_split.setdefault(split_of(inside), []).append(path)
    if not by_split:
        return None
    if (wanted := SPLITS.get(split, split)) in by_split:
        return SplitFiles(by_split[wanted], split)
    if set(by_split) == {WHOLE} and wanted == "test":
        return SplitFiles(by_split[WHOLE], WHOLE)
    where = files[0] if len(files) == 1 else root
    raise DataError(f"{where}: no split {split!r}; it has: {', '.join(sorted(by_split))}")


def split_of(path: Path) -> str:
    """The split that a file's name, else its folders' names, speak of; "all" where none does."""
    for part in (path.stem, *(parent.name for parent in path.parents)):
        words = re.split(r"[^a-z]+", part.lower())
        if found := [SPLITS[word] for word in words if word in SPLITS]:
            return found[-1]
    return WHOLE
