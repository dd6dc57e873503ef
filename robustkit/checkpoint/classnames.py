"""The names of the classes that stand beside a file's weights, under keys that scripts use."""

from collections.abc import Iterator, Mapping

from robustkit.checkpoint.containers import NAMESPACES, plain
from robustkit.checkpoint.metadata import MOST_CLASSES
from robustkit.unpickling import mapping
from robustkit.unpickling.tensors import TensorReader

NUMBERS = ("class_to_idx", "label2id")
"""keys of tables from names to numbers"""
KEYS = (*NUMBERS, "idx_to_class", "id2label", "classes", "class_names")
"""a list of names, or a table between names and numbers either way"""
DIGITS = len(str(MOST_CLASSES))
"""of a number that is a text"""


def class_names(root: object, reader: TensorReader) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the classes in the order of the outputs, and a warning where they contradict.

    What is no complete list of names is passed over: under these keys scripts keep other things,
    too, such as the number of classes.
    """
    found: dict[tuple[str, ...], str] = {}
    for key, value in _candidates(root, reader):
        if names := _names(value, reader, to_numbers=key.endswith(NUMBERS)):
            found.setdefault(names, key)
    if len(found) < 2:
        return next(iter(found), ()), ()
    keys = " and ".join(list(found.values())[:2])
    return (), (
        f"{keys} in the file number the classes differently: neither is taken; --classes says "
        "which they are",
    )


def _candidates(root: object, reader: TensorReader) -> Iterator[tuple[str, object]]:
    entries = mapping(root) or {}
    for place in ("", *NAMESPACES):
        table = entries if not place else mapping(entries.get(place)) or {}
        reader.budget.visit(len(KEYS))
        for key in KEYS:
            if key in table:
                yield f"{place}.{key}" if place else key, table[key]


def _names(value: object, reader: TensorReader, *, to_numbers: bool) -> tuple[str, ...]:
    """The names in the order of their numbers; none where it is something else."""
    pairs: list[tuple[object, object]] = []
    if isinstance(value, list | tuple):
        pairs = list(enumerate(value))
    elif isinstance(entries := mapping(value), Mapping):
        pairs = list(entries.items())
    if not 2 <= len(pairs) <= MOST_CLASSES:
        return ()
    reader.budget.visit(2 * len(pairs))
    turned = [(number, name) for name, number in pairs]
    for ordered in (turned, pairs) if to_numbers else (pairs, turned):
        numbered = {_number(number, reader): name for number, name in ordered}
        names = [numbered.get(number) for number in range(len(pairs))]
        texts = tuple(n for n in names if isinstance(n, str) and plain(n, reader) is not None)
        if len(texts) == len(pairs):
            return texts
    return ()


def _number(value: object, reader: TensorReader) -> int | None:
    """A class's number; JSON has numbers as texts where they are keys."""
    found = plain(value, reader)
    if isinstance(found, str) and len(found) <= DIGITS and found.isascii() and found.isdecimal():
        found = int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) else None
