"""Values in a folder's JSON, each of the type and size that it must have."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from robustkit.checkpoint.metadata import LARGEST, MOST_CLASSES
from robustkit.errors import CheckpointError, cut

LONGEST_LIST = 4096
"""values in a list, such as the depths of stages"""
LARGEST_NUMBER = 2**20
"""that a network is built by: of channels, layers, words in a vocabulary"""


def refuse(where: str, key: str, value: object, expected: str) -> NoReturn:
    """One line on a value that makes no sense.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(f"{where}: {key}: expected {expected}, got {cut(str(value))}")


def text(table: Mapping[str, Any], key: str, where: str) -> str:
    """A text; "" where there is none."""
    value = table.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        refuse(where, key, value, "a text")
    return value


def flag(table: Mapping[str, Any], key: str, where: str, default: bool) -> bool:
    """True or false; the default where there is nothing."""
    value = table.get(key)
    if value is not None and not isinstance(value, bool):
        refuse(where, key, value, "true or false")
    return default if value is None else value


def number(value: object, key: str, where: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        refuse(where, key, value, "a number")
    return float(value)


def side(value: object, key: str, where: str) -> int:
    """The side of an image in pixels."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        refuse(where, key, value, f"a number of pixels from 1 to {LARGEST}")
    return value


def numbers(value: object, key: str, where: str) -> tuple[float, ...]:
    """A number, or one for each channel."""
    values = value if isinstance(value, list) else [value]
    if not 1 <= len(values) <= 4:
        refuse(where, key, value, "one number per channel")
    return tuple(number(item, key, where) for item in values)


def classes(value: object, key: str, where: str) -> int:
    """How many classes there are."""
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= MOST_CLASSES:
        refuse(where, key, value, f"a number of classes from 2 to {MOST_CLASSES}")
    return value


def names(value: object, key: str, where: str) -> tuple[str, ...]:
    """The names of all classes, from a list or a table by their numbers; none of them invented."""
    if isinstance(value, Mapping):
        places = {str(place): name for place, name in value.items()}
        if set(places) != set(map(str, range(len(places)))):
            refuse(where, key, ", ".join(list(places)[:4]), "classes numbered from 0")
        value = [places[str(place)] for place in range(len(places))]
    if not isinstance(value, list) or not all(isinstance(name, str | int) for name in value):
        refuse(where, key, value, "a name for every class")
    found = tuple(str(name) for name in value)
    # what transformers writes where nobody named the classes
    return () if all(name == f"LABEL_{place}" for place, name in enumerate(found)) else found


def check_sizes(table: Mapping[str, Any], where: str) -> None:
    """Nothing, if no number or list in a table is larger than those of networks in use.

    Raises:
        CheckpointError: one is, so that building by it could take all memory or no end of time.
    """
    for key, value in _leaves("", table):
        if isinstance(value, list) and len(value) > LONGEST_LIST:
            refuse(where, key, f"{len(value)} values", f"at most {LONGEST_LIST}")
        if isinstance(value, float) and not math.isfinite(value):
            refuse(where, key, value, "a finite number")
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            refuse(where, key, value, f"a number of at most {LARGEST_NUMBER:,}")


def _leaves(key: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}" if key else name, inner)
        return
    yield key, value
    for inner in value if isinstance(value, list) else ():
        yield from _leaves(key, inner)
