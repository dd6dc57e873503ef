"""Methods compared by their evaluations: accuracies, differences, verdicts, and what more it takes.

Records in, comparisons out; needs no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from robustkit.analysis.contrast import (
    at_chance,
    classes_of,
    contrast,
    judge_levels,
    matched,
    pairing_notes,
    precision_note,
    several_note,
    unlike_note,
)
from robustkit.errors import InputError
from robustkit.protocol import budget_key, protocol_in_words
from robustkit.results.records import CLEAN, precision_of
from robustkit.results.sides import Side, in_words
from robustkit.showing import Shown
from robustkit.statistics import (
    Comparison,
    Contrast,
    Estimate,
    over_seeds,
)


@dataclass(frozen=True, slots=True, repr=False)
class Compared(Shown):
    """Several methods, the first of which the others are compared with."""

    sides: tuple[Side, ...]
    """each by its networks that are compared, see `_compared`"""
    levels: tuple[str, ...]
    """"clean" and budgets as written, in their order"""
    accuracies: Mapping[tuple[str, str], Estimate]
    """by side and level, each interval on its own, over the networks that are compared"""
    comparisons: tuple[Comparison, ...]
    """of each other side all levels, in their order, which are a family"""
    notes: tuple[str, ...]
    """for what the verdicts hold, and what was left out"""

    @property
    def header(self) -> Mapping[str, Any]:
        """Of a record of the baseline."""
        return self.sides[0].rows[0].header

    @property
    def protocol(self) -> Mapping[str, Any] | None:
        """Of the attack; None where clean images are all that the evaluations share."""
        return self.header["protocol"] if self.sides[0].attacked else None

    @property
    def condition(self) -> str:
        """In words, how all were evaluated."""
        return in_words(self.header, "" if self.sides[0].attacked else CLEAN)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of all records, each once."""
        rows = (one for side in self.sides for one in side.rows)
        return tuple(dict.fromkeys(text for one in rows for text in one.header["warnings"]))

    def of(self, side: Side) -> tuple[Comparison, ...]:
        """The comparisons of one side with the baseline."""
        return tuple(one for one in self.comparisons if one.a == side.name)

    def where(self, level: str) -> str:
        """A level in words, to begin a sentence with."""
        if level == CLEAN:
            return "without an attack"
        by = " by transfer" if "surrogate" in self.header else ""
        return f"under {protocol_in_words(self.header['protocol'])}{by} at ε = {level}"


def levels_of(sides: Sequence[Side], at: Sequence[str]) -> tuple[str, ...]:
    """The levels asked for, each once; otherwise clean and every budget."""
    return _unique(at) if at else (CLEAN, *sides[0].rows[0].epsilons)


def family_of(sides: Sequence[Side], at: Sequence[str]) -> tuple[str, ...]:
    """The levels that hold together: all that the sides share, those asked for first.

    Were only those counted that are asked for, a level picked afterwards would narrow its interval.
    """
    rows = [row for side in sides for row in side.rows]
    levels = [*levels_of(sides, at), CLEAN]
    if all(side.attacked for side in sides):
        there = [set(map(budget_key, row.epsilons)) for row in rows]
        levels += [e for e in rows[0].epsilons if all(budget_key(e) in own for own in there)]
    return _unique(levels)


def _unique(levels: Iterable[str]) -> tuple[str, ...]:
    """Each once, however its number is written."""
    unique: dict[object, str] = {}
    for level in levels:
        unique.setdefault(level if level == CLEAN else budget_key(level), level)
    return tuple(unique.values())


def compare_sides(
    sides: Sequence[Side],
    *,
    at: Sequence[str] = (),
    delta: float | None = None,
    level: float = 0.95,
) -> Compared:
    """Compare every side with the first; each with it is a family over all levels.

    Networks are paired as `contrast` says.

    Args:
        sides: rows of the same images under one protocol.
        at: budgets and "clean" that are shown; everything that is on file where empty.
        delta: the difference that counts as none, as a share.
        level: of confidence, of each family and of each accuracy.

    Raises:
        InputError: fewer than two sides, or one network beside several without its seed.
    """
    if len(sides) < 2:
        raise InputError(
            f"{sides[0].name}: give at least two to compare; the first is the baseline"
        )
    pairing = list(_pairing(sides))
    sides = _compared(sides)
    levels, whole = levels_of(sides, at), family_of(sides, at)
    baseline, *others = sides
    compared: list[Comparison] = []
    for other in others:
        found = {where: _contrast(other, baseline, where) for where in whole}
        judged = judge_levels(other.name, baseline.name, found, delta=delta, level=level)
        compared += (
            replace(one, at_chance=_at_chance(other, baseline, one))
            for one in judged
            if one.level in levels
        )
    accuracies = {
        (side.name, where): over_seeds(side.at(where).right, level=level)
        for side in sides
        for where in levels
    }
    searched = [precision_of(r.header) for s in sides for r in s.rows if levels != (CLEAN,)]
    notes = [
        *several_note(len(others), baseline.name, level),
        *precision_note(searched),
        *(note for s in sides for note in unlike_note(s.name, s.checkpoints)),
        *pairing,
    ]
    return Compared(tuple(sides), levels, accuracies, tuple(compared), tuple(dict.fromkeys(notes)))


def _compared(sides: Sequence[Side]) -> tuple[Side, ...]:
    """Each side by the networks that its difference is of, so that its accuracy is theirs, too.

    A baseline of which the others pair different networks keeps all; `_pairing` says so.
    """
    baseline, *others = sides
    pairs = [matched(other.seeds, baseline.seeds) for other in others]
    first = pairs[0] if all(one == pairs[0] for one in pairs) else []
    return (baseline.of(first), *(s.of(own) for s, own in zip(others, pairs, strict=True)))


def _pairing(sides: Sequence[Side]) -> Iterable[str]:
    """What is to be said of networks that have no partner, or only one."""
    kept = set(_compared(sides)[0].seeds)
    baseline, *others = sides
    for other in others:
        common = matched(other.seeds, baseline.seeds)
        whole = () if kept == {*common} else (baseline.name,)
        yield from pairing_notes((other.name, other.seeds), (baseline.name, baseline.seeds), whole)


def _at_chance(a: Side, b: Side, one: Comparison) -> bool:
    return at_chance(a.at(one.level), b.at(one.level), classes_of(a.rows[0].header))


def _contrast(a: Side, b: Side, level: str) -> Contrast:
    found = contrast(a.at(level), b.at(level))
    if found is None:
        one, more = sorted((a, b), key=lambda side: len(side.seeds))
        raise InputError(
            f"{one.name} is one network and {more.name} several, none of its seed; compare it "
            "with one of them, or give two seeds or more of both"
        )
    return found
