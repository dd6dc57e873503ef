"""Which split a file is of, by its name and those of its folders."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from robustkit.data.source import WHOLE
from robustkit.errors import DataError, quoted

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    "extra": "extra",
}
"""words in file names, and the split they mean"""
COLUMN = "split"
"""of a table, which says which rows are of which split"""


def check_no_column(words: Mapping[str, Collection[str]], split: str, where: Path) -> None:
    """Nothing, unless a column of another name than `COLUMN` seems to say which rows are of which.

    Args:
        words: of each column that has nothing but words for splits, or nothing in a row.
        split: that is asked for.
        where: the table, for messages.

    Raises:
        DataError: one does, so that rows of other splits would be taken for that which is asked.
    """
    wanted = SPLITS.get(split, split)
    for name, found in words.items():
        if wanted != WHOLE and not {SPLITS[word] for word in found} <= {wanted}:
            raise DataError(
                f"{where}: column {quoted(name)} has {' and '.join(sorted(found))}; if it says "
                f"which rows are of which split, call it {COLUMN!r}; else give --split {WHOLE}"
            )


def split_of(path: Path) -> str:
    """The split that a file's name, else its folders' names, speak of; "all" where none does."""
    for part in (path.stem, *(parent.name for parent in path.parents)):
        words = re.split(r"[^a-z]+", part.lower())
        if found := [SPLITS[word] for word in words if word in SPLITS]:
            return found[-1]
    return WHOLE
