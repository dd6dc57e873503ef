"""Which networks a full grid of methods, levels and seeds lacks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product

from robustkit.protocol import budget_key
from robustkit.statistics.comparison import listed

LISTED = 5
"""networks that a note names"""
Place = tuple[str, str, int]
"""method, level and seed"""


def gaps(places: Iterable[tuple[str, Place]], levels: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Which networks the full grids of methods, levels and seeds lack.

    Args:
        places: what there is, each after the name of its analysis.
        levels: that were asked for, by analysis.
    """
    there: dict[str, list[Place]] = {}
    for analysis, place in places:
        there.setdefault(analysis, []).append(place)
    said: dict[str, list[str]] = {}
    for analysis, own in there.items():
        if lacking := _lacking(own, levels.get(analysis, ())):
            said.setdefault(_named(lacking), []).append(analysis)
    for text, names in said.items():
        yield f"Missing from the full grid of methods, levels and seeds of {listed(names)}: {text}."


def _lacking(own: Sequence[Place], levels: Iterable[str]) -> list[Place]:
    written: dict[tuple[Fraction, str], str] = {}
    for level in (*levels, *(level for _, level, _ in own)):
        written.setdefault(budget_key(level or "0"), level)
    methods, seeds = sorted({m for m, _, _ in own}), sorted({s for _, _, s in own})
    there = {(method, budget_key(level or "0"), seed) for method, level, seed in own}
    grid = product(methods, sorted(written), seeds)
    return [(m, written[key], s) for m, key, s in grid if (m, key, s) not in there]


def _named(lacking: Sequence[Place]) -> str:
    shown = [f"{m}{f' at {level}' if level else ''}, seed {s}" for m, level, s in lacking[:LISTED]]
    more = len(lacking) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])])
