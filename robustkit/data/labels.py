"""Labels as files write them: numbers, or names of classes."""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from robustkit.data.pixels import Labels
from robustkit.data.source import MOST_CLASSES
from robustkit.errors import DataError, quoted
from robustkit.parsing import parse_integer

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|-?inf", re.ASCII | re.IGNORECASE)
"""what is no name, lest classes "10.0" and "2.0" change places"""


class NumberedLabels(NamedTuple):
    """Labels as numbers."""

    labels: Labels
    classes: tuple[str, ...]
    """the names that they were, in alphabetical order; empty where they were numbers"""


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
