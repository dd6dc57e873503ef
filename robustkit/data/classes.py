"""Which class of a network each class of the data is: by name, synset's id or number.

Never by their places in silence: a folder's classes are numbered in alphabetical order, and five
of ImageNet's are not the network's first five.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from robustkit.data.classlist import ClassList, read_class_list, synonyms
from robustkit.data.classnames import (
    OF_IMAGENET,
    PLACEHOLDER,
    ClassIndex,
    NamedClasses,
    called_by_numbers,
    imagenet,
    plain,
    with_synsets,
)
from robustkit.data.source import MOST_CLASSES
from robustkit.errors import DataError, quoted
from robustkit.parsing import whole

SHOWN = 4
"""classes that a note or a message lists"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedClasses:
    """The classes of the network that images are for, as far as they are known."""

    names: tuple[str, ...] = ()
    """in the order of its outputs"""
    count: int | None = None
    """of its outputs"""
    given: str | None = None
    """what `--classes` says"""


class DataClasses(NamedTuple):
    """The classes that a source has."""

    names: tuple[str, ...]
    """in the order of its labels"""
    numbered: bool
    """whether the numbers are the data's own, and not the places of names in alphabetical order"""
    where: str
    """the data, as messages call it"""
    empty: tuple[str, ...] = ()
    """class folders without pictures"""
    unnamed: bool = False
    """whether the names are but the numbers of the labels"""
    named: frozenset[int] | None = None
    """those that have a name, of data that state a number for each; None elsewhere"""
    present: frozenset[int] | None = None
    """labels that images have; None: all"""

    @property
    def nameless(self) -> bool:
        """Whether they are called by numbers."""
        return all(whole(name) is not None for name in self.names)


class ClassMap(NamedTuple):
    """From the data's classes to the network's."""

    numbers: tuple[int, ...]
    """of the network's class, for each of the data's"""
    names: tuple[str, ...]
    """of the network's classes"""
    record: dict[str, Any]
    """how it was found, as JSON"""
    note: str = ""
    """what changed, in a line"""


def map_classes(data: DataClasses, wanted: WantedClasses) -> ClassMap | None:
    """Which class of the network each of the data's is; None where nothing is known of it.

    Raises:
        DataError: names that match in part, twice, or not at all; what to do is said.
    """
    given = None if wanted.given is None else read_class_list(wanted.given)
    network = _named_network(wanted)
    if data.named is not None:
        return _of_stated(data, given, network, wanted.count)
    if given is not None:
        return _as_given(data, given, network, wanted.count)
    if network is not None:
        return _by_name(data, with_synsets(network), {})
    if wanted.count == OF_IMAGENET and not data.nameless:
        known = imagenet()
        index = ClassIndex.of(known)
        found = [index.find(name) for name in data.names]
        # five folders of which four are ImageNet's are told of the fifth
        if all(found) or (any(found) and not data.numbered and len(found) != OF_IMAGENET):
            return _by_name(data, known, {})
    if data.numbered or wanted.count in (None, len(data.names)):
        return None
    return _of_nameless(data, wanted.count or 0)


def _named_network(wanted: WantedClasses) -> NamedClasses | None:
    if wanted.count not in (None, len(wanted.names)):
        return None
    if not wanted.names or all(PLACEHOLDER.fullmatch(name) for name in wanted.names):
        return None
    return NamedClasses([synonyms(name) for name in wanted.names], "the checkpoint")


# -- by name ---------------------------------------------------------------------------------------


def _by_name(data: DataClasses, network: NamedClasses, record: dict[str, Any]) -> ClassMap:
    """The data's classes under their names among the network's."""
    count = len(network.classes)
    record = {"by": "name", "names_from": network.said_by, **record}
    index = ClassIndex.of(network)
    places = tuple(range(len(data.names)))
    if network.before and data.nameless and len(places) < count:
        raise DataError(
            f"{data.where}: its classes are numbers, and nothing says whether these count the "
            f"network's first class, {quoted(network.names[0])}, which is none of ImageNet's; "
            f"{_advice(data)}"
        )
    if data.unnamed and (called := _of_number_names(data, network, record)):
        return called
    if data.unnamed and len(places) <= count:
        return ClassMap(places, network.names, record | {"by": "number"})
    found = [index.find(name) for name in data.names]
    if len(found) == count and all(n in one for n, one in enumerate(found)):
        return ClassMap(places, network.names, record)
    if network.before is not None and len(found) == OF_IMAGENET:
        # all together tell the two that lists of ImageNet call alike
        numbers = range(network.before, network.before + OF_IMAGENET)
        if all(n in one for n, one in zip(numbers, found, strict=True)):
            return _told(data, tuple(numbers), network.names, record)
    if not any(found) and data.nameless:
        if data.numbered and len(found) <= count:
            return ClassMap(places, network.names, record | {"by": "number"})
        if not data.numbered:
            return _of_nameless(data, count, network)
    if data.numbered and len(found) == count and (note := _vouched(data, places, found)):
        return ClassMap(places, network.names, record | {"by": "number"}, note)
    return _told(data, _settled(data, found, network), network.names, record)


def _of_number_names(
    data: DataClasses, network: NamedClasses, record: dict[str, Any]
) -> ClassMap | None:
    """The map of labels that are but numbers and, as such, names of the network; None elsewhere.

    Raises:
        DataError: they may as well be the numbers of its outputs, and mean others.
    """
    called = called_by_numbers(network.names)
    labels = sorted(range(len(data.names)) if data.present is None else data.present)
    if not all(label in called for label in labels) or all(called[n] == n for n in labels):
        return None
    if "classes" in record or labels[-1] >= len(network.classes):
        return _by_name_alone(data, network, record)
    odd = next(n for n, name in enumerate(network.names) if whole(name) != n)
    raise DataError(
        f"{data.where}: its labels are numbers, but {network.said_by} calls output {odd} "
        f"{quoted(network.names[odd])}; give --classes name if the labels are those names, "
        "--classes number if they are the outputs' own numbers"
    )


def _by_name_alone(data: DataClasses, network: NamedClasses, record: dict[str, Any]) -> ClassMap:
    """The data's classes under their names, never by their numbers; of mere labels those that are.

    Raises:
        DataError: as `_settled`.
    """
    total = len(data.names)
    labels = data.present if data.unnamed and data.present is not None else range(total)
    places = sorted(labels)
    own = data._replace(names=tuple(data.names[place] for place in places))
    index, called = ClassIndex.of(network), called_by_numbers(network.names)
    found = [index.find(name) for name in own.names]
    for one, name in zip(found, own.names, strict=True):
        if not one and (number := whole(name)) is not None and number in called:
            one.add(called[number])
    return _spread(_told(own, _settled(own, found, network), network.names, record), places, total)


def _vouched(data: DataClasses, places: Sequence[int], found: Sequence[set[int]]) -> str:
    """What is told where names agree with numbers as far as the network has them; "" elsewhere.

    Args:
        data: classes with numbers of their own.
        places: these.
        found: the network's classes of each name.
    """
    pairs = list(zip(places, found, strict=True))
    if all(found) or not all(n in one for n, one in pairs if one):
        return ""
    odd = _some(name for name, one in zip(data.names, found, strict=True) if not one)
    return (
        f"{data.where}: the network has no class called {odd}; classes are matched by "
        f"number, under which {_of(sum(map(bool, found)), len(found))} names agree"
    )


def _of_stated(
    data: DataClasses, given: ClassList | None, network: NamedClasses | None, count: int | None
) -> ClassMap | None:
    """The map of data that state a number for each name, and may have no name for others.

    What has no name has no images, and takes no part.

    Raises:
        DataError: as `map_classes`.
    """
    total = len(data.names)
    places = sorted(data.named or ())
    own = data._replace(names=tuple(data.names[n] for n in places), numbered=False, named=None)
    if given is not None:
        if given.by_number:
            given = replace(given, by_number=False, numbers=tuple(places))
        return _spread(_as_given(own, given, network, count), places, total)
    known = imagenet() if network is None else with_synsets(network)
    index = ClassIndex.of(known)
    found = [index.find(name) for name in own.names]
    if network is None and not (count == OF_IMAGENET and all(found)):
        if count is None or count <= total:
            return None
        # the numbers are the data's own, and the last need not be the network's
        further = tuple(map(str, range(total, count)))
        return ClassMap(tuple(range(total)), data.names + further, {"by": "number"})
    record = {"by": "name", "names_from": known.said_by}
    if all(n in one for n, one in zip(places, found, strict=True)):
        return ClassMap(tuple(range(total)), known.names, record)
    if total == len(known.classes) and (note := _vouched(own, places, found)):
        return ClassMap(tuple(range(total)), known.names, record | {"by": "number"}, note)
    told = _told(own, _settled(own, found, known), known.names, record)
    return _spread(told, places, total)


def _spread(found: ClassMap, places: Sequence[int], total: int) -> ClassMap:
    """A map of some classes as one of all; that of the others is never asked for."""
    numbers = [0] * total
    for place, number in zip(places, found.numbers, strict=True):
        numbers[place] = number
    return found._replace(numbers=tuple(numbers))


def _settled(
    data: DataClasses, found: Sequence[set[int]], network: NamedClasses
) -> tuple[int, ...]:
    """The one class that each name means.

    Raises:
        DataError: it means none, or several, or two names mean one.
    """
    taken: dict[int, str] = {}
    for name, numbers in zip(data.names, found, strict=True):
        if not numbers:
            raise DataError(_unknown(name, data, network))
        if len(numbers) > 1:
            these = " and ".join(f"{n} ({network.names[n]})" for n in sorted(numbers)[:SHOWN])
            raise DataError(
                f"{data.where}: its class {quoted(name)} matches several of the network's "
                f"classes, {these}; {_advice(data)}"
            )
        number = next(iter(numbers))
        if number in taken:
            raise DataError(
                f"{data.where}: its classes {quoted(taken[number])} and {quoted(name)} both "
                f"match the network's class {number} ({network.names[number]}); merge them, "
                f"or {_advice(data)}"
            )
        taken[number] = name
    return tuple(taken)


def _unknown(name: str, data: DataClasses, network: NamedClasses) -> str:
    known = {plain(n): n for names in network.classes for n in names}
    close = difflib.get_close_matches(plain(name), known, 1, 0.75)
    meant = f" (did you mean {quoted(known[close[0]])}?);" if close else ";"
    stray = name in data.empty
    empty = ", a folder without images," if stray else ""
    return (
        f"{data.where}: its class {quoted(name)}{empty} is none of the network's "
        f"{len(network.classes):,} ({_some(network.names)}), as {network.said_by} names "
        f"them{meant} {'remove' if stray else 'rename'} it, or {_advice(data)}"
    )


def _advice(data: DataClasses) -> str:
    count = len(data.names)
    return (
        f"give --classes: the number of each of the {count:,} classes ({_some(data.names)}) "
        "in the network, in this order, or a file with the names of all the network's "
        "classes"
    )


def _told(
    data: DataClasses, numbers: tuple[int, ...], names: tuple[str, ...], record: dict[str, Any]
) -> ClassMap:
    """A map that changes something, with the line that tells it."""
    pairs = list(zip(data.names, numbers, strict=True))
    shown = ", ".join(f"{quoted(name)} is {number}" for name, number in pairs[:SHOWN])
    more = ", …" if len(pairs) > SHOWN else ""
    missing = len(names) - len(set(numbers))
    without = f"; {_of(missing, len(names))} of the network's classes have no images"
    note = f"{data.where}: classes by {record['by']}: {shown}{more}{without if missing else ''}"
    return ClassMap(numbers, names, record | {"numbers": dict(pairs)}, note)


def _some(names: Any) -> str:
    listed = list(names)
    more = ["…"] if len(listed) > SHOWN else []
    return ", ".join([*map(quoted, listed[:SHOWN]), *more])


def _of(some: int, whole_: int) -> str:
    return f"{some:,} of {whole_:,}"


# -- by number, and as the user says ---------------------------------------------------------------


def _of_nameless(data: DataClasses, count: int, network: NamedClasses | None = None) -> ClassMap:
    """A folder whose classes are fewer or more than the network's, or are called by numbers.

    Raises:
        DataError: nothing says which of the network's they are.
    """
    numbers = [whole(name) for name in data.names]
    known = tuple(number for number in numbers if number is not None and number < count)
    # ImageFolder trains on folders "0" to "10" in another order than their numbers, unless padded,
    # but then calls no class by a name
    padded = len({len(name) for name in data.names}) == 1 and data.names[0].startswith("0")
    if len(known) == len(numbers) and (count <= 10 or padded or network is not None):
        names = network.names if network else tuple(map(str, range(count)))
        return _told(data, known, names, {"by": "number"})
    empty = f", no images in {_some(data.empty)}" if data.empty else ""
    raise DataError(
        f"{data.where}: {len(numbers):,} classes ({_some(data.names)}{empty}), but the "
        f"network has {count:,}, and nothing says which of them these are; {_advice(data)}"
    )


def _as_given(
    data: DataClasses, given: ClassList, network: NamedClasses | None, count: int | None
) -> ClassMap:
    """The map that `--classes` describes."""
    record: dict[str, Any] = {"classes": given.where.removeprefix("--classes ")}
    if given.sha256:
        record["sha256"] = given.sha256
    if given.by_number:
        if not data.nameless:
            odd = next(name for name in data.names if whole(name) is None)
            raise DataError(
                f"{given.where}: {data.where} has a class {quoted(odd)}, which is not a number"
            )
        given = replace(given, numbers=tuple(whole(name) or 0 for name in data.names))
    if given.by_name:
        if network is None:
            raise DataError(f"{given.where}: the names of the network's classes are unknown")
        record = {"by": "name", "names_from": network.said_by, **record}
        return _by_name_alone(data, with_synsets(network), record)
    if given.numbers:
        return _as_numbered(data, given, network, count, record)
    if given.pairs is not None:
        by_key = {plain(name): value for name, value in given.pairs.items()}
        if all(plain(name) in by_key for name in data.names):
            values = [by_key[plain(name)] for name in data.names]
            return _as_looked_up(data, values, given, network, count, record)
    if not given.names:
        odd = next(n for n in data.names if plain(n) not in {plain(k) for k in given.pairs or ()})
        raise DataError(f"{given.where}: does not mention the class {quoted(odd)} of {data.where}")
    total = len(given.names)
    if given.complete or count in (None, total):
        if count not in (None, total):
            raise DataError(f"{given.where}: {total:,} classes, but the network has {count:,}")
        return _by_name(data, with_synsets(NamedClasses(given.names, given.where)), record)
    if total != len(data.names):
        raise DataError(
            f"{given.where}: {total:,} names; expected the network's {count:,}, or one for each of "
            f"{len(data.names):,} classes of {data.where}"
        )
    return _as_looked_up(data, [n[0] for n in given.names], given, network, count, record)


def _as_numbered(
    data: DataClasses,
    given: ClassList,
    network: NamedClasses | None,
    count: int | None,
    record: dict[str, Any],
) -> ClassMap:
    """A number for each of the data's classes, in their order."""
    if len(given.numbers) != len(data.names):
        raise DataError(
            f"{given.where}: {len(given.numbers):,} numbers, but {data.where} has "
            f"{len(data.names):,} classes ({_some(data.names)})"
        )
    largest = max(given.numbers)
    total = count or (len(network.classes) if network else min(largest + 1, MOST_CLASSES))
    if largest >= total:
        raise DataError(
            f"{given.where}: {largest} is not a class of the network, whose {total:,} "
            "classes are numbered from 0"
        )
    own = dict(zip(given.numbers, data.names, strict=True))
    # the data may call by this number another class than the network does
    other = (f"class {n}" if str(n) in data.names else str(n) for n in range(total))
    called = tuple(own.get(n, name) for n, name in enumerate(other))
    names = network.names if network else called
    return _told(data, given.numbers, names, {"by": "number", **record})


def _as_looked_up(
    data: DataClasses,
    values: Sequence[str],
    given: ClassList,
    network: NamedClasses | None,
    count: int | None,
    record: dict[str, Any],
) -> ClassMap:
    """The network's number or name of each of the data's classes."""
    numbers = [number for value in values if (number := whole(value)) is not None]
    if len(numbers) == len(values):
        return _as_numbered(data, replace(given, numbers=tuple(numbers)), network, count, record)
    if network is None and count == OF_IMAGENET:
        network = imagenet()
    if network is None:
        raise DataError(
            f"{given.where}: contains names, but the names of the network's classes are "
            "unknown; give numbers, or a file with the names of all the network's classes"
        )
    known = with_synsets(network)
    called = data._replace(names=tuple(values), where=given.where, numbered=False)
    index = ClassIndex.of(known)
    found = [index.find(name) for name in values]
    numbers_ = _settled(called, found, known)
    return _told(data, numbers_, known.names, {"by": "name", "names_from": known.said_by, **record})
