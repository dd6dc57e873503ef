"""Labels as files write them: numbers, or names of classes."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from robustkit.data.pixels import Labels
from robustkit.data.source import MOST_CLASSES
from robustkit.errors import DataError, quoted
from robustkit.parsing import parse_integer, whole

LABELS = (
    "label", "labels", "class", "target", "y", "category", "class_name", "label_name",
)  # fmt: skip
"""columns of labels, names or numbers"""
NUMBERS = ("class_id", "label_id", "class_index", "label_index", "class_idx", "label_idx")
"""columns of numbers; beside one of names they say which number is whose"""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|-?inf", re.ASCII | re.IGNORECASE)
"""what is no name, lest classes "10.0" and "2.0" change places"""


class NumberedLabels(NamedTuple):
    """Labels as numbers."""

    labels: Labels
    classes: tuple[str, ...]
    """the names that they were, in alphabetical order or that of their numbers; else empty"""
    named: frozenset[int] | None = None
    """the numbers that have a name, where each name has a number; None elsewhere"""

    @property
    def numbered(self) -> bool:
        """Whether the numbers are the data's own, and not the places of names."""
        return not self.classes or self.named is not None


def spelled(column: str) -> str:
    """A column's name without what differs in its spelling: `ClassId`, `class_id`, `class-id`."""
    return re.sub(r"[\s_-]+", "", column).lower()


def columns_beside(columns: Iterable[str], label: str) -> Iterator[str]:
    """Columns that may have the names of a column's numbers, or the numbers of its names.

    Not `y`, which may be a place in the picture.
    """
    known = [spelled(name) for name in (*NUMBERS, *LABELS) if name != "y"]
    found = [name for name in columns if spelled(name) in known and name != label]
    yield from sorted(found, key=lambda name: known.index(spelled(name)))


def number_labels(
    texts: Sequence[str], where: Callable[[int], str], others: Iterable[str] = ()
) -> NumberedLabels:
    """Numbers as they are; names by their places in alphabetical order, as ImageFolder has it.

    Args:
        texts: one per image.
        where: what a message calls an image.
        others: labels of images that are not asked for, whose classes keep their numbers.

    Raises:
        DataError: an empty label, a negative one, numbers among names, or too many classes.
    """
    numbers = [_integer(text) for text in texts]
    for position, text in enumerate(texts):
        if not text:
            raise DataError(f"{where(position)}: no label")
    names = tuple(sorted({*texts, *others}))
    if None not in numbers:
        return NumberedLabels(np.array(_in_range(numbers, where), np.int64), ())
    if (odd := next((p for p, n in enumerate(numbers) if n is not None), None)) is not None:
        name = next(text for text, n in zip(texts, numbers, strict=True) if n is None)
        raise DataError(
            f"{where(odd)}: the label {quoted(texts[odd])} is a number, but {quoted(name)} "
            "is a name; give all labels as numbers from 0, or all as names"
        )
    if _NUMBER.fullmatch(names[0]) and all(map(_NUMBER.fullmatch, names)):
        raise DataError(f"{where(0)}: the label {quoted(texts[0])} is not an integer from 0")
    if len(names) > MOST_CLASSES:
        raise DataError(f"{where(0)}: {len(names):,} different class names are too many; refused")
    number_of = {name: number for number, name in enumerate(names)}
    return NumberedLabels(np.array([number_of[text] for text in texts], np.int64), names)


def _integer(text: str) -> int | None:
    with suppress(ValueError):
        return parse_integer(text)
    return None


def _in_range(numbers: Sequence[int | None], where: Callable[[int], str]) -> list[int]:
    found = [-1 if number is None else number for number in numbers]
    for position, number in enumerate(found):
        if not 0 <= number < MOST_CLASSES:
            raise DataError(
                f"{where(position)}: label {number}; labels start at 0, and there can be at "
                f"most {MOST_CLASSES:,} classes"
            )
    return found


# -- names and numbers beside each other -----------------------------------------------------------


def paired_labels(
    labels: Sequence[str], beside: Sequence[str], where: Callable[[int], str]
) -> NumberedLabels:
    """Labels of rows that may have two, a name and a number, in either order.

    What stands beside names and is no number is passed over, and so is what stands beside numbers
    and is not one name for each, as of groups of classes.

    Raises:
        DataError: as `number_labels` and `stated_labels`, a name with two numbers, or two numbers
            that differ.
    """
    numbers, others = (list(map(whole, texts)) for texts in (labels, beside))
    if None not in numbers:
        if None not in others:
            pairs = enumerate(zip(numbers, others, strict=True))
            if (row := next((row for row, (one, two) in pairs if one != two), None)) is not None:
                raise DataError(
                    f"{where(row)}: two columns of labels, with {quoted(labels[row])} and "
                    f"{quoted(beside[row])}; keep one"
                )
        sizes = {len(set(own)) for own in (numbers, beside, zip(numbers, beside, strict=True))}
        if "" in beside or any(other is not None for other in others) or len(sizes) > 1:
            return number_labels(labels, where)
        labels, beside = beside, labels
    elif all(number is None for number in others):
        return number_labels(labels, where)
    return stated_labels(labels, numbers_of(labels, beside, where), where)


def numbers_of(
    names: Sequence[str], numbers: Sequence[str], where: Callable[[int], str]
) -> dict[str, str]:
    """The number of each name.

    Raises:
        DataError: a name has two, or a number has no name.
    """
    found: dict[str, str] = {}
    for row, (name, number) in enumerate(zip(names, numbers, strict=True)):
        if not name:
            raise DataError(f"{where(row)}: no label")
        if (known := found.setdefault(name, number)) != number:
            raise DataError(
                f"{where(row)}: the class {quoted(name)} has the number {quoted(number)}, and "
                f"{quoted(known)} before"
            )
    return found


def stated_labels(
    texts: Sequence[str], numbers: Mapping[str, str], where: Callable[[int], str]
) -> NumberedLabels:
    """Labels where a file has a number for each name, and the numbers that have one.

    None have where both columns are numbers. One without a name is called by its number.

    Raises:
        DataError: what is no number, or two names with one.
    """
    found = number_labels([numbers[text] for text in texts], where)
    names: dict[int, str] = {}
    for name, text in numbers.items():
        number = whole(text)
        if found.classes or number is None or number >= MOST_CLASSES:
            raise DataError(f"{where(0)}: the class {quoted(name)} has the number {quoted(text)}")
        if (other := names.setdefault(number, name)) != name:
            raise DataError(
                f"{where(0)}: the classes {quoted(other)} and {quoted(name)} have one number, "
                f"{number}"
            )
    if all(whole(name) is not None for name in names.values()):
        if any(whole(name) != number for number, name in names.items()):
            raise DataError(f"{where(0)}: two columns of labels, which are different numbers")
        return found
    called = tuple(names.get(n, str(n)) for n in range(max(names) + 1))
    return NumberedLabels(found.labels, called, frozenset(names))
