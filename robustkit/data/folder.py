"""Folders of class folders, as torchvision's ImageFolder reads them: one picture a file."""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robustkit.data.encoded import AS_TORCHVISION, SUFFIXES, EncodedImage, Reading, decode
from robustkit.data.pixels import Image, Labels
from robustkit.data.related import LIST, check_group, groups, listed_classes
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
    ImageFolder, in which "10" stands before "2". Classes are those of all splits that have some in
    common; in place of class folders a list may say them, as Tiny ImageNet's does. Hidden files and
    folders, `NO_CLASSES` and files that are no pictures are passed over.

    Raises:
        DataError: no such split, no pictures, a class folder that is not among `names`, or a split
            of other classes than the training's.
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
    parents = splits or [folder]
    inside = {one: _names(one) for one in parents}
    classes = {p: {*listed_classes(p, own).values()} or {*own} for p, own in inside.items()}
    grouped = groups(classes, _holds)
    if not names and has_class_folders(chosen):
        check_group(classes, grouped, chosen)
    group = next(group for group in grouped if chosen in group)
    # a class that has no test image keeps its number
    found = sorted(set().union(*(classes[one] for one in group)))
    own = split if splits else WHOLE
    others = [one for one in group if one != chosen]
    numbered = bool(names)
    return _opened(chosen, own, found, tuple(names) or tuple(found), others, numbered=numbered)


def open_classes(folder: Path, split: str) -> Opened:
    """Class folders, as those of a folder without splits, under the name of a split.

    Raises:
        DataError: no pictures.
    """
    found = _names(folder)
    return _opened(folder, split, found, tuple(found), numbered=False)


def has_class_folders(folder: Path) -> bool:
    """Whether a picture stands in a folder within the folder, at any depth."""
    return any(map(_has_picture, _folders(folder)))


def _holds(split: Path, name: str) -> bool:
    """Whether a split has pictures of a class, as far as it has any in class folders."""
    own = split / name
    return not own.is_dir() or _has_picture(own) or not has_class_folders(split)


def _has_picture(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in _files(folder))


def _opened(
    folder: Path,
    split: str,
    found: Sequence[str],
    names: tuple[str, ...],
    others: Sequence[Path] = (),
    *,
    numbered: bool,
) -> Opened:
    """The pictures of a split.

    Args:
        folder: of it.
        split: its name.
        found: its classes, and those of the splits that have some in common with it.
        names: the classes in the order of the labels.
        others: folders of those splits.
        numbered: whether somebody has said so.
    """
    if unknown := sorted(set(found) - set(names)):
        raise DataError(
            f"{folder}: the class folder {unknown[0]!r} is not one of the known classes"
        )
    inside = _names(folder)
    listed = listed_classes(folder, inside)
    pictures = list(_of_list(folder, listed, names) if listed else _of_folders(folder, names))
    tables = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".csv", ".tsv"))
    instead = f"; name the table instead: --data {folder / tables[0]}" if tables else ""
    if pictures and tables and len(names) == 1:
        raise DataError(f"{folder}: all images are in one folder, {names[0]!r}{instead}")
    if not pictures:
        raise DataError(f"{folder}: no images in class folders (folder/CLASS/image.png){instead}")
    paths, labels = zip(*pictures, strict=True)
    if len(found) == 1 and not (numbered or listed):
        _check_depth(folder, folder / found[0], paths)
    empty = tuple(names[n] for n in sorted(set(range(len(names))) - set(labels)))
    files = stamps(paths)
    _check_one_label(files, dict(zip(map(str, paths), labels, strict=True)), names)
    source = Remembered(FileSource(paths, np.array(labels, np.int64)))
    opened = Opened(source, split, names, numbered, empty, {"folder": str(folder)}, files=files)
    if listed:
        files += stamps([folder / LIST])
        opened = replace(opened, files=files, notes=(f"{folder}: classes are those of {LIST}",))
    else:
        empty = tuple(n for n in empty if not any(_has_picture(one / n) for one in others))
    told = () if numbered else tuple(_in_place(folder, names, empty))
    return replace(opened, warnings=tuple(_passed_over(folder, inside)), if_in_place=told)


def _in_place(folder: Path, names: Sequence[str], empty: Sequence[str]) -> Iterator[str]:
    """What is told of classes whose labels are their places.

    Args:
        folder: of the split.
        names: of the classes.
        empty: those without pictures in any split.
    """
    if empty:
        yield (
            f"{folder}: no images in the class folder {empty[0]!r}, which still takes label "
            f"{names.index(empty[0])}; remove it if it is not a class"
        )
    numbers = [number for name in names if (number := whole(name)) is not None]
    if len(numbers) == len(names) and sorted(numbers) != numbers:
        first = next(i for i, n in enumerate(sorted(numbers)) if n != numbers[i])
        yield (
            f"{folder}: class folders are numbered in alphabetical order, as ImageFolder "
            f"does: label {first} is the folder {names[first]!r}; with --classes number their "
            "names are the network's class numbers"
        )


def _of_folders(folder: Path, names: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """The pictures in class folders, with their labels."""
    for label, name in enumerate(names):
        yield from ((path, label) for path in _pictures(folder / name))


def _of_list(
    folder: Path, listed: Mapping[str, str], names: Sequence[str]
) -> list[tuple[Path, int]]:
    """The pictures whose classes stand in a list, in the order of class folders.

    Raises:
        DataError: a picture that is not in the list, or is not there.
    """
    places = {name: label for label, name in enumerate(names)}
    (inside,) = _folders(folder)
    pictures = {path.relative_to(inside).as_posix(): path for path in _pictures(inside)}
    if odd := sorted(pictures.keys() ^ listed.keys()):
        what = "is not listed" if odd[0] in pictures else "no such file"
        raise DataError(f"{folder / LIST}: {quoted(odd[0])}: {what}")
    found = [(pictures[name], places[own]) for name, own in listed.items()]
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


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


def _names(folder: Path) -> list[str]:
    return [child.name for child in _folders(folder)]


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
