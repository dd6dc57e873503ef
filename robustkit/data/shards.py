"""The files of one split: the shards of one data set, all of them, and nothing beside.

Hugging Face calls shards `train-00000-of-00003`. Configurations and revisions of a data set are
folders side by side, as in the hub's cache, with files in them that are called alike.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from robustkit.data.source import WHOLE
from robustkit.data.split import SPLITS, split_of
from robustkit.errors import DataError, shown

_PIECES = "part|shard|chunk|batch|block|bucket|piece|slice|worker|rank|file"
_OF = re.compile(r"(?<!\d)(\d{1,9})([-_]of[-_])(\d{1,9})(?!\d)", re.ASCII | re.IGNORECASE)
"""a shard's number, and how many there are"""
_NUMBER = re.compile(r"(?<!\d)\d{1,9}(?!\d)", re.ASCII)
_PIECE_FOLDER = re.compile(rf"({_PIECES})s?[-_.]?\d+|[^=]+=.*", re.ASCII | re.I | re.DOTALL)
"""folders into which one data set is divided, Hive's `key=value` among them"""
_PIECE = re.compile(
    rf"({_PIECES})s?\d*|\d+|[a-z]|[a-qs-uw-z]\d+|(?=[a-f]*\d)[0-9a-f]{{4,}}|[a-f]{{4}}", re.ASCII
)
"""words that tell pieces apart: numbers, letters, those of a UUID; `v2` and `r2` are revisions"""
SHOWN = 5
"""names in a message"""


class SplitFiles(NamedTuple):
    """The files of one split, in order."""

    files: Sequence[Path]
    split: str
    root: Path | None = None
    """the folder that was searched for them"""
    warnings: tuple[str, ...] = ()


def find_split(
    place: Path,
    suffix: str,
    split: str,
    skip: str = "\0",
    divided: Callable[[Path], bool] = lambda path: False,
) -> SplitFiles | None:
    """The files of a split, in a folder or as the file itself; None if there are none.

    The split is read off the names (`data/test-00000-of-00001.parquet`, `cifar10-test.parquet`,
    `test/0000.parquet`); files without such a word are one whole. Files in a folder whose names
    begin with `skip` are passed over. `divided` says of such a whole's first file whether rows are
    of splits; if so, it is given for any split.

    Raises:
        DataError: the files are of other splits, or in a folder are no whole, see `check_shards`.
    """
    if not place.is_dir():
        return among([place], place.parent, split, divided)
    # a folder may be called so, too
    found = (path for path in sorted(place.rglob(f"*{suffix}")) if path.is_file())
    named = [path for path in found if not path.name.startswith(skip)]
    part = among(named, place, split, divided)
    return part and part._replace(warnings=check_shards(part.files, place))


def among(
    files: Sequence[Path],
    root: Path,
    split: str,
    divided: Callable[[Path], bool] = lambda path: False,
) -> SplitFiles | None:
    """Those files that are of a split, by their names below `root`; hidden ones are passed over.

    `divided` as with `find_split`.

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
        return SplitFiles(by_split[wanted], split, root)
    if set(by_split) == {WHOLE} and (wanted == "test" or divided(by_split[WHOLE][0])):
        return SplitFiles(by_split[WHOLE], WHOLE, root)
    where = files[0] if len(files) == 1 else root
    raise DataError(f"{where}: no split {split!r}; it has: {', '.join(sorted(by_split))}")


def check_shards(files: Sequence[Path], root: Path) -> tuple[str, ...]:
    """A warning where numbers are left out and nothing says how many there should be.

    Args:
        files: those of one split, sorted.
        root: the folder in which they were found.

    Raises:
        DataError: they are of several configurations or revisions, or shards are missing.
    """
    inside = [path.relative_to(root) for path in files]
    numbered = _is_counted({part for path in inside for part in path.parts[:-1]})
    firsts: dict[_Kind, PurePath] = {}
    for path in inside:
        firsts.setdefault(_kind(path, numbered=numbered), path)
    if len(firsts) > 1:
        raise DataError(_several(list(firsts.values()), root, alone=len(firsts) == len(files)))
    if _shard(files[0]):
        _check_whole(files, root)
        return ()
    return tuple(_gaps(files))


# -- one data set ----------------------------------------------------------------------------------


class _Kind(NamedTuple):
    """What the files of one data set have in common."""

    folders: tuple[str, ...]
    series: tuple[str, ...]
    """words of the file's name; none where it may be any"""


def _kind(path: PurePath, *, numbered: bool) -> _Kind:
    folders = tuple(
        "*" if _PIECE_FOLDER.fullmatch(part) or (numbered and part.isdecimal()) else part
        for part in path.parts[:-1]
    )
    if found := _shard(path):
        return _Kind(folders, (path.stem[: found.start()], found[3]))
    if split_of(Path(path.name)) == WHOLE:
        return _Kind(folders, ())
    # `train/` may hold files of any name, but `fr-train` is no part of `en-train`
    words = (_without_number(word) for word in re.split(r"[^0-9a-z]+", path.stem.lower()))
    return _Kind(folders, tuple(word for word in words if not _PIECE.fullmatch(word)))


def _without_number(word: str) -> str:
    """A split's word out of `test1`; any other word as it is."""
    plain = word.strip("0123456789")
    return plain if plain in SPLITS else word


def _is_counted(folders: set[str]) -> bool:
    """Whether folders that are called by numbers are `00`, `01` and so on: pieces of one whole."""
    names = sorted(name for name in folders if name.isascii() and name.isdecimal())
    if len({len(name) for name in names}) != 1 or not names[0].startswith("0"):
        return False
    return int(names[-1]) - int(names[0]) == len(names) - 1


def _several(firsts: Sequence[PurePath], root: Path, *, alone: bool) -> str:
    """The line that says how to choose among data sets, of each of which one file is known."""
    columns = zip(*(path.parts for path in firsts), strict=False)
    shared = next(place for place, parts in enumerate(columns) if len(set(parts)) > 1)
    places = {PurePath(*path.parts[: shared + 1]): path for path in reversed(firsts)}
    named = _some([str(place) for place in sorted(places)], len(places))
    found = f"{root}: several configurations or revisions of a data set, {named}"
    # a folder, else a file, which is one only where it is alone
    chosen, file = min(places.items(), key=lambda item: (item[0] == item[1], item[0]))
    if chosen == file and not alone:
        return f"{found}; put the files of one in a folder of their own, and give that"
    # the word for the split may stand above the folder
    outside = chosen != file and split_of(Path(file.relative_to(chosen))) == WHOLE
    option = " --split all" if outside and split_of(Path(file)) not in (WHOLE, "test") else ""
    return f"{found}; give one of them: --data {root / chosen}{option}"


def _some(names: Sequence[str], count: int) -> str:
    """The first of so many names."""
    more = f" and {count - SHOWN:,} more" if count > SHOWN else ""
    return ", ".join(map(shown, names[:SHOWN])) + more


# -- all of it -------------------------------------------------------------------------------------


def _shard(path: PurePath) -> re.Match[str] | None:
    """What a name says of a shard's number and of how many there are, if it does."""
    found = _OF.search(path.stem)
    return found if found and int(found[1]) <= int(found[3]) else None


def _check_whole(files: Sequence[Path], root: Path) -> None:
    """Nothing, if the shards of one series are all there, each once."""
    shards = {path: found for path in files if (found := _shard(path))}
    by_number: dict[int, Path] = {}
    for path, shard in shards.items():
        other = by_number.setdefault(int(shard[1]), path)
        if other != path:
            raise DataError(
                f"{root}: {_inside(other, root)} and {_inside(path, root)} are the same shard, as "
                "of two revisions or configurations; keep the files of one"
            )
    path, shard = next(iter(shards.items()))
    total = int(shard[3])
    first = int(total in by_number)  # some count from 1 on
    expected = range(first, first + total)
    if not (missing := total - sum(number in expected for number in by_number)):
        return
    absent = itertools.islice((n for n in expected if n not in by_number), SHOWN)
    start, end = path.stem[: shard.start()], f"{shard[2]}{shard[3]}"
    names = [f"{start}{number:0{len(shard[1])}}{end}" for number in absent]
    raise DataError(
        f"{root}: {missing:,} of {total:,} shards {'is' if missing == 1 else 'are'} missing: "
        f"{_some(names, missing)}; put what is missing there, or give the path of one file alone"
    )


def _inside(path: Path, root: Path) -> str:
    return shown(str(path.relative_to(root)))


def _gaps(files: Sequence[Path]) -> Iterator[str]:
    """A word on numbers that are left out of consecutive ones."""
    by_frame: dict[tuple[Path, str, str], dict[int, str]] = {}
    for path in files:
        for found in list(_NUMBER.finditer(path.stem))[-1:]:
            frame = path.parent, path.stem[: found.start()], path.stem[found.end() :] + path.suffix
            by_frame.setdefault(frame, {})[int(found[0])] = found[0]
    for (folder, start, end), numbers in by_frame.items():
        expected = range(min(numbers), max(numbers) + 1)
        missing = len(expected) - len(numbers)
        # fewer are there than not: then they are numbers of something else
        if not 0 < missing < len(numbers):
            continue
        absent = next(number for number in expected if number not in numbers)
        name = shown(f"{start}{absent:0{min(map(len, numbers.values()))}}{end}")
        yield (
            f"{folder}: no {name}{f' and {missing - 1:,} more' if missing > 1 else ''} among "
            f"{len(numbers):,} files numbered alike; the data may not be complete"
        )
