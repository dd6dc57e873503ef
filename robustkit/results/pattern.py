"""Files found by a pattern, whose fields in braces name what their names say."""

import re
from collections.abc import Callable, Mapping
from glob import iglob
from pathlib import Path
from typing import NamedTuple

from robustkit.errors import InputError

FIELD = re.compile(r"\{(\w+)\}")


class Match(NamedTuple):
    """A file, or a folder that is a checkpoint, that a pattern found."""

    path: Path
    fields: Mapping[str, str]
    """what its name says, by field"""


def match_files(
    pattern: str, folder: Path = Path(), is_one: Callable[[Path], bool] = Path.is_file
) -> list[Match]:
    """The files that a pattern finds, in the order of their names.

    Args:
        pattern: a path with fields in braces and wildcards: "nets/{loss}_seed{seed}.*".
        folder: what a relative pattern begins at.
        is_one: which paths count; files alone where it is not given.

    Raises:
        InputError: no file, or a field that stands twice.
    """
    full = pattern if Path(pattern).is_absolute() else str(folder / pattern)
    names = FIELD.findall(full)
    if len(names) != len(set(names)):
        raise InputError(f"{pattern}: a field occurs twice")
    parts = FIELD.split(full)
    # brackets stand for themselves, as in folders called "nets[1]"
    fixed = [part.replace("[", "[[]") for part in parts]
    glob_text = "".join("*" if i % 2 else part for i, part in enumerate(fixed))
    # a field may be called what no group of an expression may: "1"
    shape = "".join("([^/]+?)" if i % 2 else _as_regex(part) for i, part in enumerate(parts))
    found = []
    for name in sorted(iglob(glob_text)):  # noqa: PTH207 (absolute patterns)
        match = re.fullmatch(shape, name)
        if match and is_one(Path(name)) and not name.endswith(".toml"):
            found.append(Match(Path(name), dict(zip(names, match.groups(), strict=True))))
    if not found:
        raise InputError(f"{full}: no checkpoint matches")
    return found


def _as_regex(part: str) -> str:
    """The fixed part of a pattern, in which * and ? stand for any characters of a name."""
    return re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
