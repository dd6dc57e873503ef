"""Which splits of a folder are of the same classes, and the list of Tiny ImageNet's validation.

A split's class folders are numbered together with those of all splits that share a class with it,
directly or by way of others. What stands in one folder of another name, as unlabelled test images
do, is of no class, and must not shift the numbers of the others.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from robustkit.data.split import SPLITS
from robustkit.errors import DataError, InputError, quoted
from robustkit.files import read_text

LIST = "val_annotations.txt"
"""as Tiny ImageNet has it: a picture's name, its class and a box a line, with tabs between"""


def listed_classes(folder: Path, inside: Sequence[str]) -> dict[str, str]:
    """The class of each picture by its name, where a list has them; empty where none is needed.

    Args:
        folder: of a split.
        inside: names of the folders in it: one alone holds all pictures, more are the classes.

    Raises:
        DataError: the list cannot be read, or gives a picture two classes.
    """
    file = folder / LIST
    if len(inside) != 1 or not file.is_file():
        return {}
    try:
        lines = read_text(file).splitlines()
    except InputError as error:
        raise DataError(str(error)) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, _, rest = line.partition("\t")
        own = rest.partition("\t")[0].strip()
        if not name or not own:
            raise DataError(
                f"{file}: line {number}: expected an image's name and its class, with a tab between"
            )
        if found.setdefault(name, own) != own:
            raise DataError(f"{file}: line {number}: {quoted(name)} has another class before")
    return {} if inside[0] in found.values() else found


def groups(
    classes: Mapping[Path, Collection[str]], holds: Callable[[Path, str], bool]
) -> list[list[Path]]:
    """The splits whose classes are numbered together.

    Args:
        classes: of each split's folder.
        holds: whether a split has pictures of a class: scripts that sort pictures leave folders.
    """
    found: list[list[Path]] = []
    for one, own in classes.items():
        joined = [
            group
            for group in found
            if any(
                holds(one, name) and holds(other, name)
                for other in group
                for name in sorted({*own} & {*classes[other]})
            )
        ]
        rest = [group for group in found if group not in joined]
        found = [*rest, [*itertools.chain(*joined), one]]
    return found


def check_group(
    classes: Mapping[Path, Collection[str]], grouped: Sequence[Sequence[Path]], chosen: Path
) -> None:
    """Nothing, if a split's class folders can be those of a network that the others trained.

    Of splits without a class in common these are the training's, else of the most class folders;
    one folder alone is no sign of classes.

    Raises:
        DataError: they cannot, so that their numbers would mean nothing.
    """

    def weight(group: Sequence[Path]) -> tuple[bool, bool, int]:
        count = len({name for one in group for name in classes[one]})
        return count > 1, any(SPLITS.get(one.name.lower()) == "train" for one in group), count

    most = max(grouped, key=weight)
    own = next(group for group in grouped if chosen in group)
    if weight(own) == weight(most):
        return
    best = next((one for one in most if SPLITS.get(one.name.lower()) == "train"), most[0])
    first, *more = sorted(classes[chosen])
    if not more:
        raise DataError(
            f"{chosen}: its images are all in {quoted(first)}, which is no class of {best.name}; "
            "sort them into class folders, or give a CSV of paths and labels (--split chooses "
            f"another split; if {quoted(first)} is a class, give --data {chosen})"
        )
    raise DataError(
        f"{chosen}: none of its {len(more) + 1:,} class folders ({quoted(first)}, …) is one of "
        f"those of {best.name} ({quoted(min(classes[best]))}, …); rename them, or give --data "
        f"{chosen} if the network's classes are these"
    )
