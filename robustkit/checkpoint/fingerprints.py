"""Which of a library's architectures have names and shapes such as a file's, without the library.

`fingerprints.json` is made by `tests/benchmarks/fingerprints.py`. What is found is printed as a
proposal, and never built unasked: several architectures of the same names and shapes need not
compute the same.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256
from itertools import islice
from pathlib import Path

from robustkit.unpickling.tensors import COUNTER

DIGITS = 12
MOST = 10_000
"""names of a network in the table"""
LONGEST = 200
"""characters of one"""


def fingerprint(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """A digest of names and of shapes without their first size, in which numbers of classes stand.

    What that leaves out of a layer's width is the next one's input.
    """
    known = sorted((name, shape[1:]) for name, shape in shapes if not name.endswith(COUNTER))
    return sha256(repr(known).encode()).hexdigest()[:DIGITS]


def alike(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> tuple[str, ...]:
    """The architectures of such names and shapes, as `--model` has them."""
    listed = list(islice(shapes, MOST + 1))
    if len(listed) > MOST or any(len(name) > LONGEST for name, _ in listed):
        return ()
    return tuple(_table().get(fingerprint(listed), ()))


def known_names() -> frozenset[str]:
    """All of the table."""
    return frozenset(name for names in _table().values() for name in names)


@cache
def _table() -> Mapping[str, list[str]]:
    text = Path(__file__).with_name("fingerprints.json").read_text(encoding="utf-8")
    table: dict[str, list[str]] = json.loads(text)
    return table
