"""Methods compared by their evaluations: accuracies, differences, verdicts, and what more it takes.

Records in, comparisons out; needs no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from robustkit.analysis.contrast import (
    at_chance,
    classes_of,
    contrast,
    judge_levels,
    pairing_notes,
    precision_note,
    several_note,
    unlike_note,
)
from robustkit.errors import InputError
from robustkit.protocol import budget_key, protocol_in_words
from robustkit.results.records import CLEAN, condition, precision_of
from robustkit.results.sides import Side
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
    levels: tuple[str, ...]
    """"clean" and budgets as written, in their order"""
    accuracies: Mapping[tuple[str, str], Estimate]
    """by side and level, each interval on its own"""
    comparisons: tuple[Comparison, ...]
    """of each other side all levels, in their order, which are a family"""
    notes: tuple[str, ...]
    """for what the verdicts hold, and what was left out"""

    @property
    def header(self) -> Mapping[str, Any]:
        """Of a record of the baseline."""
        return self.sides[0].rows[0].header

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
    # without an attack networks are compared that were attacked in different ways
    if len({condition(row.header, inf)._replace(epsilons=()) for row in rows}) == 1:
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
        *(note for other in others for note in _pairing(other, baseline)),
    ]
    return Compared(tuple(sides), levels, accuracies, tuple(compared), tuple(dict.fromkeys(notes)))


def _pairing(a: Side, b: Side) -> Iterable[str]:
    return pairing_notes((a.name, a.seeds), (b.name, b.seeds))


def _at_chance(a: Side, b: Side, one: Comparison) -> bool:
    left, right = a.at(one.level).right, b.at(one.level).right
    return at_chance(left, right, classes_of(a.rows[0].header))


def _contrast(a: Side, b: Side, level: str) -> Contrast:
    found = contrast(a.at(level), b.at(level))
    if found is None:
        one, more = sorted((a, b), key=lambda side: len(side.seeds))
        raise InputError(
            f"{one.name} is one network and {more.name} several, none of its seed; compare it "
            "with one of them, or give two seeds or more of both"
        )
    return found
