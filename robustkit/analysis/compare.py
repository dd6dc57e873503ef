"""Methods compared by their evaluations: accuracies, differences, verdicts, and what more it takes.

Records in, comparisons out; needs no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit.errors import InputError
from robustkit.files import digest
from robustkit.results.finder import Group, check_twice, in_order, named
from robustkit.results.records import CLEAN, Network, Record, Wanted, load
from robustkit.results.sides import Side, sides
from robustkit.statistics import (
    Comparison,
    Contrast,
    Estimate,
    Member,
    compare_images,
    compare_seeds,
    compare_unpaired,
    family,
    over_seeds,
)

if TYPE_CHECKING:
    from robustkit.record import Evaluation


@dataclass(frozen=True, slots=True)
class Compared:
    """Several methods, the first of which the others are compared with."""

    sides: tuple[Side, ...]
    levels: tuple[str, ...]
    """"clean" and budgets as written, in their order"""
    accuracies: Mapping[tuple[str, str], Estimate]
    """by side and level, each interval on its own"""
    comparisons: tuple[Comparison, ...]
    """one family: of each other side all levels, in their order"""
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
        return f"under {self.header['protocol']['name']}{by} at ε = {level}"


def levels_of(sides: Sequence[Side], at: Sequence[str]) -> tuple[str, ...]:
    """The levels asked for, each once; otherwise clean and every budget."""
    if not at:
        return (CLEAN, *sides[0].rows[0].epsilons)
    unique: dict[str | Fraction, str] = {}
    for level in at:
        unique.setdefault(level if level == CLEAN else Fraction(level), level)
    return tuple(unique.values())


def compare_sides(
    sides: Sequence[Side],
    *,
    at: Sequence[str] = (),
    delta: float | None = None,
    level: float = 0.95,
) -> Compared:
    """Compare every side with the first, at every level; all of it is one family.

    Networks are paired by seed, else, where the seeds do not match, only by image.

    Args:
        sides: rows of the same images under one protocol.
        at: budgets and "clean"; everything that is on file where empty.
        delta: the difference that counts as none, as a share.
        level: of confidence, of the family and of each accuracy.

    Raises:
        InputError: fewer than two sides, or one network beside several without its seed.
    """
    if len(sides) < 2:
        raise InputError(
            f"{sides[0].name}: give at least two to compare; the first is the baseline"
        )
    levels = levels_of(sides, at)
    baseline, *others = sides
    members = [_member(other, baseline, where) for other in others for where in levels]
    compared = family(
        members, delta=delta, level=level, over="levels" if len(others) == 1 else "comparisons"
    )
    accuracies = {
        (side.name, where): over_seeds(side.right(where), level=level)
        for side in sides
        for where in levels
    }
    notes = dict.fromkeys(note for other in others for note in _notes(other, baseline))
    return Compared(tuple(sides), levels, accuracies, compared, tuple(notes))


def pair(a: Side, b: Side) -> tuple[Side, Side] | None:
    """Both with the seeds they share, in the same order; None where they do not match."""
    if len(a.seeds) == len(b.seeds) == 1:
        return a, b
    common = matched(a.seeds, b.seeds)
    return (a.of(common), b.of(common)) if common else None


def matched(a: Sequence[int | None], b: Sequence[int | None]) -> list[int]:
    """The seeds that pair networks of two methods; none where the seeds do not match.

    A single seed that is shared makes a pair only where there is no more to be had.
    """
    common = sorted({seed for seed in a if seed is not None} & {*b})
    return common if len(common) > 1 or 1 in (len(a), len(b)) else []


def _member(a: Side, b: Side, level: str) -> Member:
    return Member(a.name, b.name, level, _contrast(a, b, level))


def _contrast(a: Side, b: Side, level: str) -> Contrast:
    paired = pair(a, b)
    if paired is None:
        if 1 in (len(a.seeds), len(b.seeds)):
            one, more = sorted((a, b), key=lambda side: len(side.seeds))
            raise InputError(
                f"{one.name} is one network and {more.name} several, none of its seed; compare it "
                "with one of them, or give two seeds or more of both"
            )
        return compare_unpaired(a.right(level), b.right(level))
    left, right = (side.right(level) for side in paired)
    if len(left) == 1:
        return compare_images(left[0], right[0])
    return compare_seeds(left, right, _rng(paired, level))


def _rng(sides: Iterable[Side], level: str) -> np.random.Generator:
    """Seeded by the records, so that neither names nor order change a number."""
    records = [rows.header["digest"] for side in sides for rows in side.rows]
    return np.random.default_rng(int(digest("compare", level, *records)[:16], 16))


def _notes(a: Side, b: Side) -> Iterable[str]:
    paired = pair(a, b)
    if paired is not None and len(a.seeds) == len(b.seeds) == 1:
        yield _single(a.name, b.name)  # whatever their seeds, which need not be known
    else:
        yield from unmatched((a.name, a.seeds), (b.name, b.seeds))


def unmatched(
    a: tuple[str, Sequence[int | None]], b: tuple[str, Sequence[int | None]]
) -> Iterable[str]:
    """What is to be said of how the seeds of two methods, by name, pair their networks."""
    common = matched(a[1], b[1])
    if not common:
        yield (
            f"Seeds of {a[0]} and {b[0]} are not matched (or not recorded), so that networks "
            "were paired by image alone; the same seeds on both sides would usually show more."
        )
        return
    if len(common) == 1:
        yield _single(a[0], b[0])
    for name, seeds in (a, b):
        if left := [seed for seed in seeds if seed not in common]:
            yield f"{name}: left out for want of a partner: seeds {_listed(left)}."


def _single(a: str, b: str) -> str:
    return (
        f"{a} and {b}: one network each. What another training would change is in no interval; a "
        "verdict holds for these networks, not for how they were made."
    )


def _listed(seeds: Iterable[int | None]) -> str:
    return ", ".join("unknown" if seed is None else str(seed) for seed in seeds)


# --- for Python -----------------------------------------------------------------------------------


def compare(
    baseline: "Evaluation | Path | str | Sequence[Evaluation | Path | str]",
    *others: "Evaluation | Path | str | Sequence[Evaluation | Path | str]",
    at: Sequence[str] = (),
    delta: float | None = None,
    level: float = 0.95,
) -> tuple[Comparison, ...]:
    """Compare evaluations with the first, by image and, where several are given, by seed.

    Args:
        baseline: an evaluation or the path of its file, or those of one method over seeds.
        others: likewise; each is compared with the baseline.
        at: budgets ("8/255") and "clean"; everything that was evaluated where empty.
        delta: the difference that counts as none, as a share: 0.005 is half a point.
        level: of confidence, of all comparisons together.

    Raises:
        InputError: other images or protocols, a network or a seed twice, budgets that are missing.
    """
    groups = [_group(given) for given in (baseline, *others)]
    check_twice(groups)
    found = sides(named(groups), Wanted(at=tuple(at)))
    return compare_sides(found, at=at, delta=delta, level=level).comparisons


def _group(given: "Evaluation | Path | str | Sequence[Evaluation | Path | str]") -> Group:
    if isinstance(given, str) or not isinstance(given, Sequence):
        given = [given]
    records = [_record(one) for one in given]
    if not records:
        raise InputError("an empty list of evaluations; give at least one")
    networks = [Network(str(r.checkpoint["path"]), r.checkpoint["seed"], (r,)) for r in records]
    names = " + ".join(network.name for network in networks)
    losses = {record.checkpoint["loss"] for record in records} - {None}
    name = losses.pop() if len(losses) == 1 and len(records) > 1 else names
    return Group(str(name), in_order(networks), names)


def _record(given: "Evaluation | Path | str") -> Record:
    if isinstance(given, str | Path):
        return load(Path(given))
    return Record(given.header, given)
