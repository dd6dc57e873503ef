"""Comparisons as one table: what repeats stands in the caption, and what differs in columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from robustkit.reporting.wording import delta_in_points
from robustkit.statistics import Comparison
from robustkit.statistics.comparison import capital, listed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """The rows of a table, and which of its columns differ between them."""

    rows: Sequence[Comparison]
    caption: str
    """what all rows share, in sentences"""
    methods: bool
    others: bool
    """whether the methods compared with differ"""
    deltas: bool
    made: bool
    """whether tests or networks differ"""
    won: bool
    """whether seeds were paired, of which one method may win"""
    tests: Sequence[str]
    """the tests beside the one that decides"""

    def p_beside(self, row: Comparison, test: str) -> float | None:
        """The p value of a test beside; None where it was not made."""
        return next((one.p for one in row.secondary if one.test == test), None)


def comparison_table(rows: Sequence[Comparison], title: str) -> ComparisonTable:
    """The table of some comparisons; `title` begins its caption."""
    tested = [row for row in rows if row.difference is not None]
    pairs = _alike(tested, lambda c: c.b)
    delta = _alike(tested, lambda c: c.delta)
    made = _alike(tested, grounds)
    return ComparisonTable(
        rows,
        " ".join(_caption(rows, title, pairs, delta, made)),
        methods=len({c.a for c in rows}) > 1,
        others=pairs is None and len({c.b for c in rows}) > 1,
        deltas=delta is None and any(c.delta is not None for c in tested),
        made=made is None and bool(tested),
        won=any(c.outperforms for c in rows),
        tests=list(dict.fromkeys(test.test for c in tested for test in c.secondary)),
    )


def grounds(comparison: Comparison) -> str:
    """The test that decides, its correction, and what was replicated."""
    return ", ".join(filter(None, (comparison.test, comparison.correction, comparison.unit)))


def _alike(rows: Sequence[Comparison], of: Callable[[Comparison], T]) -> T | None:
    """What all rows have; None where they differ, or there are none."""
    found = {of(row) for row in rows}
    return found.pop() if len(found) == 1 else None


def _caption(
    rows: Sequence[Comparison],
    title: str,
    other: str | None,
    delta: float | None,
    made: str | None,
) -> list[str]:
    methods = list(dict.fromkeys(row.a for row in rows))
    if len(methods) == 1 and other:
        words = [f"{title}: {methods[0]} minus {other}."]
    else:
        words = [f"{title}: differences{f' from {other}' if other else ''}."]
    if made:
        words.append(f"{capital(made)}.")
    if delta:
        words.append(f"Equivalence margin Δ = {delta_in_points(delta)} points.")
    notes: dict[str, dict[str, None]] = {}
    for test in (test for row in rows for test in row.secondary if test.note):
        notes.setdefault(test.note, {})[test.test] = None
    words += [f"{capital(listed(list(names)))} {note}." for note, names in notes.items()]
    return words
