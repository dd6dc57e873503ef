"""Which split a file is of, by its name and those of its folders."""

import re
from pathlib import Path

from robustkit.data.source import WHOLE

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    "extra": "extra",
}
"""words in file names, and the split they mean"""


def split_of(path: Path) -> str:
    """The split that a file's name, else its folders' names, speak of; "all" where none does."""
    for part in (path.stem, *(parent.name for parent in path.parents)):
        words = re.split(r"[^a-z]+", part.lower())
        if found := [SPLITS[word] for word in words if word in SPLITS]:
            return found[-1]
    return WHOLE
