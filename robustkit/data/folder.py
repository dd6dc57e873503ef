"""Folders of class folders, as torchvision's ImageFolder reads them: one picture a file."""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robustkit.data.encoded import AS_TORCHVISION, SUFFIXES, EncodedImage, Reading, decode
from robustkit.data.pixels import Image, Labels
from robustkit.data.source import UNDIVIDED, WHOLE, FileStamp, Opened, Remembered, stamps
from robustkit.data.split import SPLITS
from robustkit.errors import DataError, quoted
from robustkit.parsing import whole

SPLIT_FOLDERS = frozenset(SPLITS) - {"extra"}
UNREAD = frozenset(
    [".heic", ".heif", ".avif", ".jxl", ".jp2", ".tga", ".svg", ".dng", ".raw", ".psd", ".exr"]
)
"""pictures' suffixes whose files are not read"""
MOST_FOLDERS = 10_000
"""within a class folder"""
NO_CLASSES = ("__MACOSX", "@eaDir", "__pycache__")
"""folders that archives of macOS, file servers and Python leave among others, at any depth"""


@dataclass(frozen=True, slots=True, eq=False)
class FileSource:
    """Pictures decoded when they are asked for."""

    paths: tuple[Path, ...]
    labels: Labels
    reading: Reading = AS_TORCHVISION

    def read(self, positions: Sequence[int]) -> Iterator[Image]:
        """The images at these positions, in this order."""
        pictures = (EncodedImage(self.paths[p], self.where(p)) for p in positions)
        return decode(pictures, self.reading)

    def read_as(self, reading: Reading) -> "FileSource":
        """The same pictures, read as another library's loader does."""
        return replace(self, reading=reading)

    def where(self, position: int) -> str:
        """How a message names an image."""
        return str(self.paths[position])


def open_folder(folder: Path, split: str, names: Sequence[str] = ()) -> Opened:
    """`folder/SPLIT/CLASS/*.png`, or `folder/CLASS/*.png` where there are no splits.

    The labels are the places of the class folders in `names`, else in alphabetical order: that of
    ImageFolder, in which "10" stands before "2". Hidden files and folders, `NO_CLASSES` and files
    that are no pictures are passed over.

    Raises:
        DataError: no such split, no pictures, or a class folder that is not among `names`.
    """
    # a class may be called "train", but then pictures stand in it and no folders
    splits = [p for p in _folders(folder) if p.name.lower() in SPLIT_FOLDERS and _folders(p)]
    chosen = next((p for p in splits if p.name == split), None) or next(
        (p for p in splits if SPLITS[p.name.lower()] == SPLITS.get(split, split)), folder
    )
    if splits and chosen == folder:
        known = ", ".join(child.name for child in splits)
        raise DataError(f"{folder}: no split {split!r}; it has: {known} (--split chooses)")
    if not splits and split not in ("test", WHOLE):
        raise DataError(f"{folder}: no split {split!r}; the folder {UNDIVIDED}")
    # a class that has no test image keeps its number
    parents = splits or [folder]
    found = sorted({child.name for parent in parents for child in _folders(parent)})
    own = split if splits else WHOLE
    return _opened(chosen, own, found, tuple(names) or tuple(found), numbered=bool(names))


def open_classes(folder: Path, split: str) -> Opened:
    """Class folders, as those of a folder without splits, under the name of a split.

    Raises:
        DataError: no pictures.
    """
    found = [child.name for child in _folders(folder)]
    return _opened(folder, split, found, tuple(found), numbered=False)


def has_class_folders(folder: Path) -> bool:
    """Whether a picture stands in a folder within the folder, at any depth."""
    inside = (path for child in _folders(folder) for path in _files(child))
    return any(path.suffix.lower() in SUFFIXES for path in inside)


def _opened(
    folder: Path, split: str, found: Sequence[str], names: tuple[str, ...], *, numbered: bool
) -> Opened:
    if unknown := sorted(set(found) - set(names)):
        raise DataError(
            f"{folder}: the class folder {unknown[0]!r} is not one of the known classes"
        )
    pictures = [
        (path, label) for label, name in enumerate(names) for path in _pictures(folder / name)
    ]
    tables = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".csv", ".tsv"))
    instead = f"; name the table instead: --data {folder / tables[0]}" if tables else ""
    if pictures and tables and len(names) == 1:
        raise DataError(f"{folder}: all images are in one folder, {names[0]!r}{instead}")
    if not pictures:
        raise DataError(f"{folder}: no images in class folders (folder/CLASS/image.png){instead}")
    paths, labels = zip(*pictures, strict=True)
    if len(found) == 1 and not numbered:
        _check_depth(folder, folder / found[0], paths)
    told: list[str] = []
    empty = tuple(names[n] for n in sorted(set(range(len(names))) - set(labels)))
    if empty and not numbered and split == WHOLE:
        told.append(
            f"{folder}: no images in the class folder {empty[0]!r}, which still takes label "
            f"{names.index(empty[0])}; remove it if it is not a class"
        )
    numbers = [number for name in names if (number := whole(name)) is not None]
    if len(numbers) == len(names) and sorted(numbers) != numbers:
        first = next(i for i, n in enumerate(sorted(numbers)) if n != numbers[i])
        told.append(
            f"{folder}: class folders are numbered in alphabetical order, as ImageFolder "
            f"does: label {first} is the folder {names[first]!r}; with --classes number their "
            "names are the network's class numbers"
        )
    files = stamps(paths)
    _check_one_label(files, dict(zip(map(str, paths), labels, strict=True)), names)
    source = Remembered(FileSource(paths, np.array(labels, np.int64)))
    origin, left_out = {"folder": str(folder)}, tuple(_passed_over(folder, found))
    opened = Opened(source, split, names, numbered, empty, origin, files=files)
    return replace(opened, warnings=left_out, if_in_place=tuple(told))


def _check_one_label(
    files: Iterable[FileStamp], labels: Mapping[str, int], names: Sequence[str]
) -> None:
    """Nothing, unless one file stands in the folders of two classes, by way of links.

    Raises:
        DataError: it does; of its labels one at most is right.
    """
    by_inode: dict[int, list[str]] = defaultdict(list)
    for file in files:
        by_inode[file.inode].append(file.path)
    for alike in by_inode.values():
        first: dict[str, str] = {}
        # a real path costs a look at every folder above, and few files share an inode
        for path in alike if len({labels[path] for path in alike}) > 1 else ():
            other = first.setdefault(os.path.realpath(path), path)
            if labels[other] != labels[path]:
                one, two = (quoted(names[labels[which]]) for which in (other, path))
                raise DataError(
                    f"{path}: the same file as {other}, by a link, so that it is of two classes, "
                    f"{one} and {two}; remove one of them"
                )


def _check_depth(folder: Path, place: Path, pictures: Sequence[Path]) -> None:
    """Nothing, unless the one class folder seems to hold the class folders themselves.

    Raises:
        DataError: pictures stand in several folders inside, and in none above these.
    """
    while len(inside := _folders(place)) == 1 and not any(p.parent == place for p in pictures):
        place = inside[0]
    if len(inside) > 1 and not any(p.parent == place for p in pictures):
        raise DataError(
            f"{folder}: has one class folder, and all its images stand in folders inside it; if "
            f"those are the classes, pass --data {place}"
        )


def _passed_over(folder: Path, classes: Iterable[str]) -> Iterator[str]:
    """A word on pictures that are not read."""
    found = Counter(
        suffix
        for name in classes
        for path in _files(folder / name)
        if (suffix := path.suffix.lower()) in UNREAD and not path.name.startswith(".")
    )
    for suffix, count in sorted(found.items()):
        yield (
            f"{folder}: {count} {suffix} file{'s are' if count > 1 else ' is'} not read, and no "
            "part of the data; convert to PNG or JPEG"
        )


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not _is_aside(p.name) and p.is_dir())


def _is_aside(name: str) -> bool:
    """Whether a folder of this name holds no data: thumbnails, checkpoints of notebooks."""
    return name in NO_CLASSES or name.startswith(".")


def _pictures(folder: Path) -> list[Path]:
    """The pictures at any depth under a class folder, in alphabetical order.

    Links are followed, to pictures and to folders: subsets are made of them, and a picture is data.

    Raises:
        DataError: a folder that cannot be read, a link to nothing, or a pipe or device of a
            picture's name: pictures must not vanish without a word; or a link to a folder that
            holds other classes.
    """
    found = sorted(
        path
        for path in _files(folder, above=_with_parents(folder.parent))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    for path in found:
        if not path.is_file():
            gone = path.is_symlink() and not path.exists()
            what = "a link to a file that does not exist" if gone else "not a regular file"
            raise DataError(f"{path}: {what}; remove it, or put the image there")
    return found


def _with_parents(folder: Path) -> set[str]:
    """A folder and all that it stands in, where links have led to."""
    real = Path(os.path.realpath(folder))
    return set(map(str, (real, *real.parents)))


def _files(folder: Path, above: Collection[str] = ()) -> Iterator[Path]:
    """All files under a folder but in `_is_aside`; each folder once, however many links lead there.

    Raises:
        DataError: a folder that cannot be read; too many; or, where `above` names the folders that
            this one stands in, a link to one of those or to this very folder.
    """
    waiting, seen = [folder] if folder.is_dir() else [], set[str]()
    while waiting:
        real = os.path.realpath(place := waiting.pop())
        if real in above:
            raise DataError(
                f"{place}: a link to {real}, in which it stands itself: all images there would be "
                f"labelled {quoted(folder.name)}, those of other classes, too; remove the link"
            )
        if real in seen:
            continue
        if above and not seen:
            above = {*above, *_with_parents(folder)}
        seen.add(real)
        if len(seen) > MOST_FOLDERS:
            raise DataError(
                f"{folder}: more than {MOST_FOLDERS:,} folders inside, as by a link to a whole disk"
            )
        try:
            with os.scandir(place) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{place}: cannot be read: {error.strerror}") from error
        folders = [entry.name for entry in reversed(inside) if entry.is_dir()]
        waiting += [place / name for name in folders if not _is_aside(name)]
        yield from (place / entry.name for entry in inside if not entry.is_dir())
