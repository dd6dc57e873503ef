"""What the classes of a network are called, ImageNet's by all names, and which one a name means."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Self

from robustkit.data.classlist import Names, synonyms
from robustkit.data.shelf import read_dataset_spec
from robustkit.errors import quoted
from robustkit.parsing import whole

IMAGENET, OF_IMAGENET = "imagenet", 1000
PLACEHOLDER = re.compile(r"LABEL_\d+", re.ASCII)
"""what transformers calls a class without a name"""
AGREE = 0.9
"""share of ImageNet's names, each at its number, from which a network's classes are ImageNet's"""


class NamedClasses(NamedTuple):
    """A network's classes by all of their names."""

    classes: Sequence[Names]
    said_by: str
    before: int | None = None
    """classes before ImageNet's first, such as "background"; None where they are not ImageNet's"""

    @property
    def names(self) -> tuple[str, ...]:
        """One for each."""
        return tuple(names[0] for names in self.classes)


def imagenet() -> NamedClasses:
    """ImageNet's classes, with their synsets."""
    spec = read_dataset_spec(IMAGENET)
    pairs = zip(spec.classes, spec.folders, strict=True)
    # two names of a bird and a machine, and of two suits, which other lists call alike
    also = {"crane bird": ("crane",), "maillot tank suit": ("maillot",)}
    return NamedClasses([(name, *also.get(name, ()), synset) for name, synset in pairs], "ImageNet")


def with_synsets(network: NamedClasses) -> NamedClasses:
    """The network with the names and ids of ImageNet's classes, where its own are those.

    TensorFlow's networks have one class more, "background", before them.
    """
    further = len(network.classes) - OF_IMAGENET
    if further not in (0, 1):
        return network
    known = imagenet().classes
    for before in sorted({0, further}):
        there = slice(before, before + OF_IMAGENET)
        pairs = list(zip(network.classes[there], known, strict=True))
        if sum(_alike(*pair) for pair in pairs) >= AGREE * OF_IMAGENET:
            classes = list(network.classes)
            classes[there] = [tuple(dict.fromkeys((*own, *names))) for own, names in pairs]
            return NamedClasses(classes, f"{network.said_by} and ImageNet's synsets", before)
    return network


def _alike(names: Names, others: Names) -> bool:
    return not {*map(plain, names)}.isdisjoint(map(plain, others))


def plain(name: str) -> str:
    """A name without what may differ in its spelling."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(re.sub(r"[_\s]+|(?<=\w)-(?=\w)", " ", folded).split())


def are_places(names: Sequence[str]) -> bool:
    """Whether names are but the numbers of their places, as where none are known."""
    return [whole(name) for name in names] == list(range(len(names)))


def called_by_numbers(names: Sequence[str]) -> dict[int, int]:
    """The network's class of each number that is a name; none where other names are among them.

    ImageFolder has the folder "10" in the third place, behind "0" and "1".
    """
    numbers = {number: n for n, name in enumerate(names) if (number := whole(name)) is not None}
    return {} if len(numbers) < len(names) else numbers


class ClassIndex(NamedTuple):
    """Numbers of classes by what they are called, the surest first."""

    exact: dict[str, set[int]]
    first: dict[str, set[int]]
    any: dict[str, set[int]]

    @classmethod
    def of(cls, network: NamedClasses) -> Self:
        """That of a network."""
        index = cls(defaultdict(set), defaultdict(set), defaultdict(set))
        for number, names in enumerate(network.classes):
            for name in names[:2]:  # all that a label says, and its first word or words
                index.exact[name].add(number)
                index.first[plain(name)].add(number)
            for name in names:
                index.any[plain(name)].add(number)
        return index

    def find(self, name: str) -> set[int]:
        """The numbers of the classes that a name can mean."""
        own = synonyms(name) or (name,)
        tables = ((self.exact, name), (self.first, plain(name)), (self.any, plain(name)))
        for table, key in tables:
            if found := table.get(key):
                return found
        return set().union(*(self.any.get(plain(part), ()) for part in own))


def renumbered(names: Sequence[str], others: Sequence[str]) -> str | None:
    """The first class that two networks call alike and number differently, as a message has it."""
    index = ClassIndex.of(NamedClasses([synonyms(name) for name in others], ""))
    numbers = all(called_by_numbers(one) and not are_places(one) for one in (names, others))
    for number, name in enumerate(names if others else ()):
        found = index.find(name)
        if len(found) == 1 and number not in found and (numbers or whole(name) is None):
            return f"{quoted(name)} is {next(iter(found))} there, but {number} here"
    return None
