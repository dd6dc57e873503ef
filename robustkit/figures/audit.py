"""What an audit found: accuracy between its bounds, attack by attack, and who is taken for whom."""

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from robustkit.auditing.outcome import Bound, Level, RobustnessClaim, SmoothedAccuracy, Stage
from robustkit.errors import shown
from robustkit.figures.curves import ticks
from robustkit.figures.hover import estimate_text, hover
from robustkit.figures.legend import legend
from robustkit.figures.names import shortened
from robustkit.figures.style import FAINT, INK, line_style, map_text, percent_axis
from robustkit.protocol.norms import symbol
from robustkit.statistics import Estimate

ANNOTATED = 12
"""up to so many classes the cells of a confusion matrix have room for their numbers"""
WRAPPED = 30
"""characters of a line of a stage's name"""
NAMED = 30
"""up to so many classes every row has room for its name"""


def bounds(
    ax: Axes, clean: Estimate, robust: Sequence[Level], certified: Sequence[Bound], norm: str
) -> Axes:
    """Attacked accuracy, an upper bound, and certified accuracy, a lower one, against ε.

    Both begin at accuracy without attack, where ε is 0. The zone between them is not known. A lower
    bound on fewer images is a share of others: it has no such beginning, and there is no zone.
    """
    upper = [(0.0, clean), *sorted((lv.value, lv.accuracy) for lv in robust)]
    lower = sorted((b.value, b.certified) for b in certified)
    _line(ax, upper, 0)
    if certified and all(share.n == clean.n for _, share in lower):
        lower = [(0.0, clean), *lower]
        _line(ax, lower, 2)
        _between(ax, dict(upper), dict(lower))
    elif certified:
        _line(ax, lower, 2)
    places = {lv.epsilon: lv.value for lv in robust} | {b.epsilon: b.value for b in certified}
    ticks(ax, {"0": 0.0} | dict(sorted(places.items(), key=lambda p: p[1])), log=False)
    _share_axis(ax, f"ε ({symbol(norm)})")
    if certified:
        labels = {"0": "under attack: an upper bound", "2": "certified: a lower bound"}
        _legend(ax, labels)
    return ax


def smoothed(ax: Axes, found: SmoothedAccuracy) -> Axes:
    """The smoothed classifier's certified and attacked accuracy against the L2 radius."""
    lower = [(0.0, found.clean), *((lv.radius, lv.certified) for lv in found.levels)]
    upper = [(0.0, found.clean), *((lv.radius, lv.attacked) for lv in found.levels)]
    _line(ax, upper, 0)
    _line(ax, lower, 2)
    _between(ax, dict(upper), dict(lower))
    ticks(ax, {"0": 0.0} | {f"{lv.radius:g}": lv.radius for lv in found.levels}, log=False)
    _share_axis(ax, "ℓ₂ radius")
    _legend(ax, {"0": "under attack", "2": "certified"})
    return ax


def _line(ax: Axes, values: Sequence[tuple[float, Estimate]], number: int) -> None:
    """Estimates with their intervals, joined."""
    ends = np.array([(e.value - e.low, e.high - e.value) for _, e in values]).T
    x = [place for place, _ in values]
    y = [e.value for _, e in values]
    drawn = ax.errorbar(x, y, yerr=ends, **line_style(number), label=str(number))
    hover(drawn, [f"{place:.4g}: {estimate_text(e)}" for place, e in values])


def _between(ax: Axes, upper: dict[float, Estimate], lower: dict[float, Estimate]) -> None:
    """The zone between two curves, where both are known."""
    x = sorted(set(upper) & set(lower))
    low, high = ([side[place].value for place in x] for side in (lower, upper))
    ax.fill_between(x, low, high, color=FAINT, alpha=0.25, linewidth=0, label="zone")


def _legend(ax: Axes, lines: Mapping[str, str]) -> None:
    """What each line is, and the zone: by the artists' own labels, since matplotlib sorts them."""
    labels = {**lines, "zone": "between them: unknown"}
    known = zip(*ax.get_legend_handles_labels(), strict=True)
    own = {label: artist for artist, label in known if label in labels}
    legend(ax, [labels[label] for label in own], list(own.values()))


def _share_axis(ax: Axes, label: str) -> None:
    percent_axis(ax.yaxis)
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    sns.despine(ax=ax)
    ax.set(ylim=(-0.02, 1.02), xlabel=label, ylabel="robust accuracy")


def stages(
    ax: Axes, clean: Estimate, stages: Sequence[Stage], claim: RobustnessClaim | None = None
) -> Axes:
    """Accuracy so far after each stage, from the top down, with intervals; the claim as a line.

    At the right stands how many images the stage was the first to fool, or that it has no result.
    """
    titles = shortened([stage.title for stage in stages], 2 * WRAPPED)
    names = ["no attack", *("\n".join(wrap(title, WRAPPED)) for title in titles)]
    _row(ax, 0, clean, "")
    for place, stage in enumerate(stages, 1):
        done = stage.status == "complete"
        note = f"{stage.first:,} new" if done else stage.status
        _row(ax, place, stage.so_far if done else None, note)
    if claim is not None:
        ax.axvline(claim.accuracy, color=INK, linewidth=0.9, linestyle="--")
        side = "left" if claim.accuracy < 0.5 else "right"
        text = " claim " if side == "left" else "claim "
        ax.text(claim.accuracy, -0.75, text, ha=side, va="bottom", size="small")
    ax.set_yticks(range(len(names)), names)
    ax.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.75), xlabel="robust accuracy so far")
    percent_axis(ax.xaxis)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=FAINT, alpha=0.3, linewidth=0.6)
    sns.despine(ax=ax, left=True)
    return ax


def _row(ax: Axes, place: int, estimate: Estimate | None, note: str) -> None:
    ax.text(1.03, place, note, va="center", size="small", transform=ax.get_yaxis_transform())
    if estimate is None:
        return
    ends = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
    appearance = line_style(0) | {"linestyle": "none"}
    drawn = ax.errorbar(estimate.value, place, xerr=ends, **appearance)
    hover(drawn, [estimate_text(estimate)])


def confusion(ax: Axes, shares: Sequence[Sequence[float]], classes: Sequence[str]) -> Axes:
    """A heat map of shares of each class's images (rows) by predicted class (columns).

    Few classes have numbers, in per cent, and names; many have only colours, and names at every
    so-manieth row. The colour of a share is that of its square root, so that small ones show.
    """
    values = np.array(shares, dtype=np.float64).reshape(len(classes), len(classes))
    # not seaborn's mesh: 120 classes would be 14,400 paths
    ax.imshow(np.sqrt(values), vmin=0, vmax=1, cmap="cividis", interpolation="none")
    if len(classes) <= ANNOTATED:
        for (row, column), value in np.ndenumerate(values):
            _number(ax, column, row, float(value))
    every = 1 if len(classes) <= NAMED else -(-len(classes) // NAMED)
    names = shortened([shown(name) for name in classes], 14)
    at = range(0, len(classes), every)
    wide = max(map(len, names), default=0) * len(at) > ANNOTATED * 2
    size = "x-small" if len(classes) > ANNOTATED else "small"
    ax.set_xticks(at, [names[i] for i in at], rotation=90 if wide else 0, size=size)
    ax.set_yticks(at, [names[i] for i in at], size=size)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())
    ax.tick_params(length=0)
    ax.set(xlabel="predicted under attack", ylabel="true class")
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def _number(ax: Axes, x: int, y: int, value: float) -> None:
    if value <= 0:
        return
    text = "<1" if value < 0.005 else ">99" if 0.995 <= value < 1 else f"{100 * value:.0f}"
    ax.text(x, y, text, ha="center", va="center", size="x-small", color=map_text(value**0.5))
