"""Methods ranked over independent data sets by their evaluations; needs no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from robustkit.analysis.contrast import unlike_note
from robustkit.data import shelf
from robustkit.errors import InputError, UnknownName
from robustkit.files import canonical
from robustkit.protocol.file import target_of
from robustkit.results.finder import Finder, NetworkGroup, check_twice, named, split
from robustkit.results.records import CLEAN, NetworkRecords, RecordQuery
from robustkit.results.sides import Side, attack_in_words, in_words, sides
from robustkit.showing import Shown
from robustkit.statistics import Ranks, friedman
from robustkit.statistics.comparison import listed

DATA = "data"
"""the field of a pattern that tells data sets apart"""
MANY = 10
"""data sets from which on Nemenyi's test is near enough, says Demšar (2006)"""
SETTINGS = "settings of the attack"


@dataclass(frozen=True, slots=True, repr=False)
class Ranking(Shown):
    """Several methods over several data sets."""

    methods: tuple[str, ...]
    data: tuple[str, ...]
    levels: tuple[str, ...]
    """at which each data set was attacked; "clean" for no attack"""
    accuracies: tuple[tuple[float, ...], ...]
    """data sets × methods, means over seeds and images"""
    ranks: Ranks
    headers: tuple[Mapping[str, Any], ...]
    """of a record on each data set: images and protocol are those of all methods there"""
    notes: tuple[str, ...] = ()
    """what of networks and attacks bears on it"""

    @property
    def attacks(self) -> tuple[str, ...]:
        """What the data sets were attacked by, each once."""
        told = zip(self.headers, self.levels, strict=True)
        return tuple(dict.fromkeys(attack_in_words(*one) for one in told))

    @property
    def conditions(self) -> tuple[str, ...]:
        """By which attack, on which images, data set by data set."""
        return tuple(in_words(*one) for one in zip(self.headers, self.levels, strict=True))

    @property
    def apart(self) -> tuple[tuple[str, str], ...]:
        """Pairs of methods that differ, the better one first; none where Friedman finds nothing."""
        if not self.ranks.differ:
            return ()
        placed = sorted(zip(self.ranks.mean_ranks, self.methods, strict=True))
        least = self.ranks.critical_difference
        return tuple((a, b) for x, a in placed for y, b in placed if y - x > least)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, and what must be known of it."""
        ranks, sets = self.ranks, len(self.data)
        agree = "differ" if ranks.differ else "were not shown to differ"
        found = [
            f"Over {sets} data sets, the mean ranks of {len(self.methods)} methods {agree} "
            f"(Friedman's chi-square {ranks.statistic:.3g}; p by permutation = "
            f"{ranks.permutation_p:.2g})."
        ]
        if ranks.differ:
            pairs = listed([f"{a} ranks above {b}" for a, b in self.apart]) or "no pair is"
            found.append(
                f"Further apart than Nemenyi's critical difference of "
                f"{ranks.critical_difference:.2f} at {ranks.level:.3g}: {pairs}."
            )
        if sets < MANY:
            found.append(
                f"With fewer than {MANY} data sets the critical difference is approximate, and "
                "little is decided."
            )
        return (*found, *(f"Evaluated: {one}." for one in self.conditions), *self.notes)


def rank(
    names: Sequence[str],
    finder: Finder,
    *,
    at: Mapping[str, str],
    level: float = 0.95,
) -> Ranking:
    """Rank the methods that names mean within every data set they were evaluated on.

    Args:
        names: as for `compare`; a pattern's field {data} is not part of a method's name.
        finder: where evaluations are looked up, and which are meant.
        at: budget or "clean" by data set; "" is that of all others.
        level: of confidence.

    Raises:
        InputError: fewer than three methods or two data sets, data sets that share images, see
            `_check_images`, or a method that was not evaluated on one of them.
    """
    found = finder.networks(names)
    everyone = [network for _, networks in found for network in networks]
    data = sorted({r.header["data"]["name"] for n in everyone for r in n.records})
    if unknown := sorted(set(at) - {"", *data}):
        raise UnknownName("data set", unknown[0], data)
    _check_independent(data)
    levels = tuple(at.get(name, at[""]) for name in data)
    tested = [
        _on(name, found, replace(finder.query, at=(where,), data=name), finder)
        for name, where in zip(data, levels, strict=True)
    ]
    methods = tuple(sorted({method for known in tested for method in known}))
    _check_enough(methods, data)
    for name, known in zip(data, tested, strict=True):
        if missing := [method for method in methods if method not in known]:
            raise InputError(
                f"{missing[0]}: no evaluation on {name}; every method needs one on every data set "
                f"(there: {', '.join(sorted(known))})"
            )
    _check_images(
        {name: next(iter(s.values())) for name, s in zip(data, tested, strict=True)}, everyone
    )
    accuracies = tuple(
        tuple(float(known[method].at(where).right.mean()) for method in methods)
        for known, where in zip(tested, levels, strict=True)
    )
    every = (side for known in tested for side in known.values())
    notes = [note for side in every for note in unlike_note(side.name, side.checkpoints)]
    headers = tuple(next(iter(known.values())).rows[0].header for known in tested)
    notes += _unlike_attacks(headers, levels)
    ranks = friedman(accuracies, level=level)
    told = tuple(dict.fromkeys(notes))
    return Ranking(methods, tuple(data), levels, accuracies, ranks, headers, told)


def _unlike_attacks(headers: Sequence[Mapping[str, Any]], levels: Sequence[str]) -> Iterable[str]:
    """In what the attacks of the data sets differ, budgets apart, if they do."""
    asked = [_attack(*one) for one in zip(headers, levels, strict=True)]
    differ = [key for key in asked[0] if len({one[key] for one in asked}) > 1]
    if SETTINGS in differ[1:]:
        differ.remove(SETTINGS)  # another norm or protocol has others anyway
    if differ:
        yield f"Data sets differ in {listed(differ)}: mean ranks are over different threats."


def _attack(header: Mapping[str, Any], level: str) -> dict[str, str]:
    protocol = header["protocol"]
    if level == CLEAN:
        return dict.fromkeys(("norm", "target", "protocol", SETTINGS), "none")
    return {
        "norm": protocol["norm"],
        "target": target_of(protocol),
        "protocol": protocol["name"],
        SETTINGS: canonical(protocol["resolved"]["attacks"]),
    }


def _on(
    data: str,
    found: Sequence[tuple[str, Sequence[NetworkRecords]]],
    query: RecordQuery,
    finder: Finder,
) -> dict[str, Side]:
    """The methods that were evaluated on a data set, by name."""
    groups: list[NetworkGroup] = []
    for given, networks in found:
        own = [_restricted(network, data) for network in networks]
        if there := [network for network in own if network.records]:
            made = list(split(given, there))
            if not there[0].fields and f"{{{DATA}}}" in given:
                # a pattern of one method, which has no other name on all data sets
                made = [replace(one, name=given) for one in made]
            groups += made
    check_twice(groups)
    return {side.name: side for side in sides(named(groups), query, finder.runs)}


def _restricted(network: NetworkRecords, data: str) -> NetworkRecords:
    records = tuple(r for r in network.records if r.header["data"]["name"] == data)
    fields = tuple((key, value) for key, value in network.fields if key != DATA)
    return replace(network, records=records, fields=fields)


def _check_enough(methods: Sequence[str], data: Sequence[str]) -> None:
    if len(data) < 2:
        raise InputError(
            f"all evaluations are on {listed(data)}; ranks need two independent data sets or more, "
            "and noise levels or budgets of one are not independent: use robustkit compare"
        )
    if len(methods) < 3:
        raise InputError(
            f"ranks need three methods or more, but there is {listed(methods)} only; two methods "
            "are compared data set by data set: use robustkit compare"
        )


def _check_independent(data: Sequence[str]) -> None:
    whole: dict[str, str] = {}
    for name in data:
        source = _source(name)
        if source in whole:
            raise InputError(
                f"{whole[source]} and {name} share images, so they are not independent data sets; "
                "name evaluations on one of them"
            )
        whole[source] = name


def _check_images(tested: Mapping[str, Side], networks: Sequence[NetworkRecords]) -> None:
    """Nothing, if no two data sets share more than half of the images of the smaller one.

    Shared are images of exactly the same pixels, among those that were tested, whatever their data
    sets are called. A few of them leave two data sets; an image that was saved or scaled in another
    way is not known to be the same.

    Args:
        tested: a method on each data set.
        networks: with their records.
    """
    records = {r.header["data"]["digest"]: r for network in networks for r in network.records}
    pixels = {
        name: records[side.rows[0].header["data"]["digest"]].pixels for name, side in tested.items()
    }
    for (one, own), (other, others) in combinations(pixels.items(), 2):
        shared = len(own & others)
        if 2 * shared > min(len(own), len(others)):
            raise InputError(
                f"{one} and {other} share {shared:,} images, so they are not independent data "
                "sets; name evaluations on one of them"
            )


def _source(name: str) -> str:
    """The data set that a part was taken from."""
    try:
        return shelf.read_dataset_spec(name).all_training_images_of or name
    except InputError:
        return name  # the user's own
