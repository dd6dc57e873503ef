"""What a data set's file says of a source, held against what the source says of itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from robustkit.data.classnames import plain
from robustkit.data.shelf import DatasetSpec
from robustkit.data.source import Opened, Relabelled, files_in
from robustkit.errors import DataError, quoted
from robustkit.files import file_digest
from robustkit.parsing import whole


def under_its_classes(opened: Opened, known: DatasetSpec, file: Path) -> Opened:
    """The source with its labels at the classes that a data set's file names.

    Raises:
        DataError: they are more or fewer, a stated number is that of another, or nothing says
            which name is whose.
    """
    if not known.classes or not opened.classes:
        return opened
    if opened.numbered:
        _check_count(opened, known, file)
        _check_numbers(opened, known, file)
        return opened
    names = names_in_order(opened, known, file)
    if names in ((), opened.classes):
        return opened
    places = {name: place for place, name in enumerate(names)}
    numbers = np.array([places[name] for name in opened.classes], np.int64)
    source = Relabelled(opened.source, numbers[opened.source.labels])
    return replace(opened, source=source, classes=names, if_in_place=())


def names_in_order(opened: Opened, known: DatasetSpec, file: Path) -> tuple[str, ...]:
    """What a source calls the classes of a data set's file, in their order; () where by number.

    Its labels are the places of its own names in alphabetical order, which say nothing of theirs.

    Raises:
        DataError: they are more or fewer, or nothing says which name is whose.
    """
    if opened.numbered or not known.classes or not opened.classes:
        return ()
    _check_count(opened, known, file)
    own = {_spelled(name): name for name in opened.classes}
    for given in filter(None, (known.folders, known.classes)):
        if sorted(given) == sorted(opened.classes):
            return given
        found = [own.get(_spelled(name), "") for name in given]
        if set(found) == set(opened.classes):
            return tuple(found)
    numbers = [whole(name) for name in opened.classes]
    ascending = sorted(number for number in numbers if number is not None)
    if numbers == ascending:
        return ()
    raise DataError(f"{file.stem}: {_unmatched(opened.classes, known.classes, file)}")


def check_digests(opened: Opened, known: DatasetSpec, file: Path, place: Path | None) -> None:
    """Nothing, if the files that were read are those whose digests a data set's file has.

    Args:
        opened: the source.
        known: what the file says.
        file: that file.
        place: the path of the source, where files of other splits stand, too; None: the digests
            may be those of other files with the same images.

    Raises:
        DataError: one is another, or there is no such file.
    """
    read = [Path(one.path) for one in opened.files]
    # a name that is over may be of another split, which need not be here, or a typing error
    unnamed = any(not any(_is_called(path, name) for name in known.sha256) for path in read)
    for name, expected in known.sha256.items():
        meant = [path for path in read if _is_called(path, name)]
        for path in meant:
            if file_digest(path) != expected:
                raise DataError(
                    f"{path}: its SHA-256 differs from that in {file}; the file was changed"
                )
        if place is None or meant or not unnamed:
            continue
        others = files_in(place if place.is_dir() else place.parent)
        if not any(_is_called(one, name) for one in others):
            raise DataError(f"{file}: sha256: {quoted(name)} is no file of {place}")


def _is_called(path: Path, name: str) -> bool:
    """Whether a path ends in a file's name, or in folders and its name."""
    return f"/{path.as_posix()}".endswith(f"/{name}")


def _spelled(name: str) -> str:
    """A name without what may differ in its spelling; a folder's has no slash."""
    return plain(name.replace("/", " "))


def _check_count(opened: Opened, known: DatasetSpec, file: Path) -> None:
    found, named = len(opened.classes), len(known.classes)
    # a table that states numbers need not have the last
    if found > named or (opened.named is None and found != named):
        raise DataError(f"{file.stem}: {found} classes found, but {file} names {named}")


def _check_numbers(opened: Opened, known: DatasetSpec, file: Path) -> None:
    """Nothing, unless a name that the source numbers is that of another number in the file."""
    own = opened.classes
    if own in (known.folders, known.classes):
        return
    places: dict[str, set[int]] = {}
    for number, name in enumerate(known.classes):
        places.setdefault(_spelled(name), set()).add(number)
    for number in sorted(range(len(own)) if opened.named is None else opened.named):
        name = _spelled(own[number])
        there = places.get(name, {number})
        # lists of ImageNet call two classes alike
        right = {place for place in there if place < len(own) and _spelled(own[place]) == name}
        if number not in there and not right:
            raise DataError(
                f"{file.stem}: the class {quoted(own[number])} has the number {number}, but {file} "
                f"names {quoted(known.classes[number])} there; give the names in the order of the "
                "numbers"
            )


def _unmatched(own: Sequence[str], classes: Sequence[str], file: Path) -> str:
    """What is told of a source's names of which one is not the file's, or two are alike."""
    known = {_spelled(name) for name in classes}
    times = Counter(map(_spelled, own))
    odd = next((name for name in own if _spelled(name) not in known), None)
    alike = next((name for name in own if times[_spelled(name)] > 1), own[0])
    told = (
        f"two classes are called {quoted(alike)}, but for the spelling"
        if odd is None
        else f"the class {quoted(odd)} is none of those that {file} names"
    )
    return (
        f"{told}; give folders = [{', '.join(map(quoted, own[:2]))}, …] there: the names of the "
        "source in the order of classes"
    )
