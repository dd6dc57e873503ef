"""Methods beside each other: differences with their verdicts, ranks, cost against gain."""

from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from typing import Any, NamedTuple

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator, NullLocator

from robustkit.analysis.outcome import Cost
from robustkit.figures.hover import hover
from robustkit.figures.legend import legend
from robustkit.figures.names import level_text, shortened
from robustkit.figures.style import COLOURS, FAINT, INK, line_style
from robustkit.statistics import Comparison, Estimate, Ranks
from robustkit.statistics.comparison import times

_VERDICTS: Mapping[str, tuple[object, str]] = {
    "better": (COLOURS[0], "^"),
    "worse": (COLOURS[1], "v"),
    "equivalent": (COLOURS[2], "s"),
    "inconclusive": (FAINT, "o"),
}
"""colour and marker; the word stands beside each row as well"""
FAR = 12
"""how many times farther than the middle row a row of a forest plot may reach"""
_HEADING: Any = {"fontweight": "bold", "clip_on": False}


def forest(
    ax: Axes,
    comparisons: Sequence[Comparison],
    *,
    percent: bool = False,
    numbers: Callable[[Comparison], str] = lambda comparison: "",
) -> Axes:
    """Each difference in points with its simultaneous interval, and its verdict as a word.

    Rows stand under the names of their methods. A zone shows ±Δ where there is one. A comparison
    without data has a row and no number. `percent`: levels are shares, shown in per cent.

    The axis ends where the rows that are not `beyond` need it to. A row that goes on has an arrow
    there, and below it what `numbers` says of it; no marker stands where the difference itself
    lies beyond.
    """
    rows, limits = _rows(comparisons, percent), _limits(comparisons)
    ax.set_xlim(*limits)
    for place, row in enumerate(rows):
        if row.comparison is not None:
            c = row.comparison
            told = ", ".join(filter(None, (c.a, level_text(c.level, percent))))
            _difference(ax, place, c, f"{told}: {numbers(c)}")
            ax.vlines(0, place - 0.5, place + 0.5, color=INK, linewidth=0.8, zorder=1)
        if row.goes_on is not None:
            _arrows(ax, place - 1, row.goes_on, numbers(row.goes_on))
    _zones(ax, [row.comparison.delta if row.comparison else None for row in rows])
    _label(ax, rows)
    against = list(dict.fromkeys(c.b for c in comparisons))
    to = f" to {shortened(against, 24)[0]}" if len(against) == 1 else ""
    zone = "shaded: ±Δ" if any(c.delta for c in comparisons) else ""
    arrows = "arrows: beyond the axis" if beyond(comparisons) else ""
    key = "; ".join(filter(None, (zone, arrows)))
    ax.set_xlabel("\n".join(filter(None, (f"difference{to} (percentage points)", key))))
    ax.grid(axis="x", color=FAINT, alpha=0.3, linewidth=0.6)
    sns.despine(ax=ax, left=True)
    return ax


def forest_rows(comparisons: Sequence[Comparison]) -> int:
    """How many rows a forest plot has."""
    return len(_rows(comparisons, percent=False))


def forest_height(comparisons: Sequence[Comparison], size: float) -> float:
    """How many inches a forest plot needs, with text of `size` points: its rows, and an axis."""
    return 1.5 * size / 72 * (forest_rows(comparisons) + 5)


def beyond(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons whose intervals are not to stretch the axis of a forest plot.

    They reach, to either side of 0, more than `FAR` times as far as the middle one, or have no
    end: drawn whole, they would make dots of the others.
    """
    known = [c for c in comparisons if c.difference is not None]
    reaches = sorted(filter(isfinite, map(_reach, known)))
    most = FAR * reaches[(len(reaches) - 1) // 2] if reaches else 0.0
    return [c for c in known if not _reach(c) <= most]


def _reach(comparison: Comparison) -> float:
    """How far from 0 a comparison's interval and its Δ reach, in points."""
    return max(map(abs, _ends(comparison)))


def _ends(comparison: Comparison) -> tuple[float, ...]:
    """What an axis must hold of a comparison: 0, ±Δ and its interval, in points."""
    delta, difference = comparison.delta or 0.0, comparison.difference
    ends = () if difference is None else (difference.low, difference.high)
    return tuple(100 * end for end in (0.0, -delta, delta, *ends))


def _limits(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """The ends of the axis, with a margin."""
    cut = beyond(comparisons)
    ends = [end for c in comparisons if c not in cut for end in _ends(c)] or [-1.0, 1.0]
    margin = 0.06 * ((max(ends) - min(ends)) or 1.0)
    return min(ends) - margin, max(ends) + margin


class _ForestRow(NamedTuple):
    label: str
    comparison: Comparison | None
    """none in the row that names the method of those below it"""
    goes_on: Comparison | None = None
    """the comparison of the row above, where this one has its numbers"""


def _rows(comparisons: Sequence[Comparison], percent: bool) -> list[_ForestRow]:
    """A row a comparison, under a heading where several are of the same two methods."""
    several = len({c.b for c in comparisons}) > 1
    pairs = list(dict.fromkeys((c.a, c.b) for c in comparisons))
    names = shortened([f"{a} − {b}" if several else a for a, b in pairs], 36)
    rows: list[_ForestRow] = []
    cut = beyond(comparisons)
    for name, pair in zip(names, pairs, strict=True):
        own = [c for c in comparisons if (c.a, c.b) == pair]
        if len(own) == 1:
            level = level_text(own[0].level, percent)
            rows += _with_numbers(", ".join(filter(None, (name, level))), own[0], cut)
        else:
            rows.append(_ForestRow(name, None))
            for c in own:
                rows += _with_numbers(level_text(c.level, percent), c, cut)
    return rows


def _with_numbers(
    label: str, comparison: Comparison, cut: Sequence[Comparison]
) -> list[_ForestRow]:
    """A comparison's row, and one for its numbers where it goes on beyond the axis."""
    below = [_ForestRow("", None, comparison)] if comparison in cut else []
    return [_ForestRow(label, comparison), *below]


def _label(ax: Axes, rows: Sequence[_ForestRow]) -> None:
    """The rows' labels, from the top downwards; headings begin at the axes' left edge."""
    ax.set_yticks(range(len(rows)), [row.label if row.comparison else "" for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0, pad=0.9 * mpl.rcParams["font.size"])  # room for arrows
    ax.yaxis.set_minor_locator(NullLocator())
    for place, row in enumerate(rows):
        if row.comparison is None and row.goes_on is None:
            ax.text(
                0, place, row.label, va="center", transform=ax.get_yaxis_transform(), **_HEADING
            )


def _zones(ax: Axes, deltas: Sequence[float | None]) -> None:
    """±Δ: one zone where all rows have the same, else one a row."""
    different = {delta for delta in deltas if delta}
    if len(different) == 1:
        half = 100 * different.pop()
        ax.axvspan(-half, half, color=FAINT, alpha=0.2, linewidth=0)
        return
    for place, delta in enumerate(deltas):
        if delta:
            ax.barh(place, 200 * delta, 1, -100 * delta, color=FAINT, alpha=0.2, linewidth=0)


def _difference(ax: Axes, place: int, comparison: Comparison, text: str) -> None:
    """One row: interval, marker, word; grey where the level decides nothing."""
    word = comparison.word
    ax.text(1.05, place, word, va="center", transform=ax.get_yaxis_transform())
    if comparison.difference is None:
        return
    color, marker = _VERDICTS["inconclusive" if comparison.at_chance else comparison.verdict]
    x, ends = _value_and_ends(comparison.difference)
    left, right = ax.get_xlim()
    bar = ax.errorbar(x, place, xerr=ends, color=color, marker=marker, linestyle="none")
    hover(bar, [text])
    if ends is None:
        ax.hlines(place, left, right, color=color, linewidth=bar[0].get_linewidth())


def _arrows(ax: Axes, place: int, comparison: Comparison, numbers: str) -> None:
    """Arrows at the ends of the axis beyond which a row goes on, and its numbers below it."""
    (left, right), (*_, low, high) = ax.get_xlim(), _ends(comparison)
    color, _ = _VERDICTS["inconclusive" if comparison.at_chance else comparison.verdict]
    across = ax.get_yaxis_transform()
    sides = [("<", "left", 0.0, low < left), (">", "right", 1.0, high > right)]
    sides = [side for side in sides if side[-1]]
    for marker, _, end, _ in sides:
        ax.plot(end, place, marker, color=color, transform=across, clip_on=False)
    side, at = sides[0][1:3] if len(sides) == 1 else ("center", 0.5)
    ax.text(at, place + 1, numbers, ha=side, va="center", transform=across, fontsize="small")


def _value_and_ends(estimate: Estimate) -> tuple[float, list[list[float]] | None]:
    """A difference in points, and how far its interval reaches to either side, if it ends."""
    value, low, high = (100 * v for v in (estimate.value, estimate.low, estimate.high))
    ends = [[value - low], [high - value]]
    return value, ends if isfinite(low) and isfinite(high) else None


def critical_difference(ax: Axes, names: Sequence[str], ranks: Ranks) -> Axes:
    """Mean ranks on a line, best at the left; a bar joins methods that do not differ.

    `names` are the methods', in the order of the ranks. After Demšar, Statistical Comparisons of
    Classifiers over Multiple Data Sets, JMLR 2006: what is ranked must be independent data sets.
    """
    order = sorted(range(len(names)), key=lambda i: ranks.mean_ranks[i])
    short = shortened(names, 28)
    placed = [(ranks.mean_ranks[i], short[i]) for i in order]
    apart = ranks.critical_difference if ranks.differ else inf
    cliques = _cliques([rank for rank, _ in placed], apart)
    for i, (first, last) in enumerate(cliques):
        y = 0.45 + 0.35 * i
        ax.plot([first - 0.03, last + 0.03], [y, y], color=INK, linewidth=3)
    names_from = 0.7 + 0.35 * len(cliques)
    middle = (len(names) + 1) // 2
    for i, (rank, name) in enumerate(placed):
        row = i if i < middle else len(names) - 1 - i
        _pointer(ax, name, rank, names_from + row, edge=1 if i < middle else len(names))
    _bar(ax, ranks.critical_difference)
    ax.set(xlim=(1, len(names)), ylim=(names_from + middle - 0.5, -2.4))
    _rank_axis(ax)
    return ax


def _cliques(ranks: Sequence[float], difference: float) -> list[tuple[float, float]]:
    """First and last of the longest runs of sorted mean ranks within the critical difference."""
    runs = [(first, max(r for r in ranks if r - first <= difference)) for first in ranks]
    ends = [-1.0, *(last for _, last in runs)]
    return [run for run, before in zip(runs, ends, strict=False) if run[1] > max(before, run[0])]


def _pointer(ax: Axes, name: str, rank: float, row: float, *, edge: int) -> None:
    """A line from a rank down and out to its name."""
    ax.plot([rank, rank, edge], [0, row, row], color=INK, linewidth=0.8)
    x, align, text = (-0.01, "right", f"{name}  {rank:.2f}")
    if edge > 1:
        x, align, text = (1.01, "left", f"{rank:.2f}  {name}")
    ax.text(x, row, text, ha=align, va="center", transform=ax.get_yaxis_transform())


def _bar(ax: Axes, difference: float) -> None:
    """A bar with ends above the line, as long as the critical difference, and its length."""
    ax.plot([1, 1 + difference], [-1.5, -1.5], color=INK, linewidth=1, marker="|", clip_on=False)
    ax.text(1, -1.8, f"critical difference {difference:.2f}", va="bottom")


def _rank_axis(ax: Axes) -> None:
    """The line of ranks, with its labels above it."""
    ax.xaxis.set_major_locator(MultipleLocator(1))
    ax.xaxis.tick_top()
    ax.spines["top"].set_position(("data", 0))
    ax.spines["top"].set_visible(True)
    ax.yaxis.set_visible(False)
    for side in ("left", "right", "bottom"):
        ax.spines[side].set_visible(False)


def cost_against_gain(
    ax: Axes,
    costs: Sequence[Cost],
    order: Sequence[str] = (),
    numbers: Callable[[Cost], str] = lambda cost: "",
) -> Axes:
    """What a method gains over the baseline against what a step of it costs, with intervals.

    `numbers` says a gain in words. `order` are all methods of a study: one that stands in several
    figures looks the same in all.
    """
    order = list(dict.fromkeys([*order, *(cost.method for cost in costs)]))
    for cost in costs:
        number = order.index(cost.method)
        ratio, (gain, ends) = cost.ratio, _value_and_ends(cost.gain)
        across = [[ratio.value - ratio.low], [ratio.high - ratio.value]]
        appearance = line_style(number) | {"linestyle": "none"}
        bar = ax.errorbar(ratio.value, gain, ends, across, **appearance, label=str(number))
        hover(bar, [f"{cost.method}: × {times(ratio)[0]}, {numbers(cost)} points"])
    ax.axhline(0, color=FAINT, linewidth=0.8)
    ax.axvline(1, color=FAINT, linewidth=0.8)
    ax.set(
        xlabel="time of a training step (relative to the baseline)",
        ylabel="gain (percentage points)",
    )
    sns.despine(ax=ax)
    if costs:
        legend(ax, [cost.method for cost in costs])
    return ax
