"""Accuracy against a stress: an attack's budget, label noise, a share of the training data."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator, StrMethodFormatter
from matplotlib.transforms import ScaledTranslation

from robustkit.analysis.outcome import Line, Panel
from robustkit.figures.hover import estimate_text, hover
from robustkit.figures.legend import legend
from robustkit.figures.names import level_text, shortened
from robustkit.figures.style import FAINT, INK, line_style, percent_axis
from robustkit.protocol.norms import symbol
from robustkit.record import Point
from robustkit.statistics import Estimate

BANDS = 4
"""up to so many lines are shaded; with more, shades would hide one another"""


class CheckpointCurve(NamedTuple):
    """One checkpoint's accuracy against the budget."""

    label: str
    clean: Estimate
    points: Sequence[Point]
    certified: Sequence[Point] = ()
    """the share that is proved, where it is known"""


class CostCurve(NamedTuple):
    """One checkpoint's accuracy against the passes that an image is given."""

    label: str
    passes: Sequence[float]
    accuracy: Sequence[float]
    """from each number of passes on"""


class _DrawnLine(NamedTuple):
    label: str
    x: Sequence[float]
    places: Sequence[str]
    """each x in words"""
    estimates: Sequence[Estimate]
    band: Sequence[Estimate] = ()
    """what is shaded, at each x"""


def robustness_curve(ax: Axes, curves: Sequence[CheckpointCurve], norm: str) -> Axes:
    """Accuracy against ε with intervals, one line a checkpoint; ε = 0 is accuracy without attack.

    A dotted line of the same colour is what is certified: the truth lies between the two.
    Points are offset horizontally by a point or two, so that no interval hides another.
    """
    _draw(ax, [_with_clean(curve) for curve in curves], range(len(curves)))
    for number, curve in enumerate(curves):
        x, y = [float(e) for e, _ in curve.certified], [a.value for _, a in curve.certified]
        if curve.certified:
            (line,) = ax.plot(x, y, color=line_style(number)["color"], linestyle=":", marker=".")
            texts = [(e.text, estimate_text(a)) for e, a in curve.certified]
            hover(line, [f"{curve.label}, certified at ε = {e}: {a}" for e, a in texts])
    places = {"0": 0.0} | {p.epsilon.text: float(p.epsilon) for p in curves[0].points}
    ticks(ax, places, log=False)
    ax.set(ylim=(-0.02, 1.02), xlabel=f"ε ({symbol(norm)})", ylabel="robust accuracy")
    return ax


def accuracy_against_passes(ax: Axes, curves: Sequence[CostCurve]) -> Axes:
    """Accuracy against passes an image on a logarithmic axis, a stepped line a checkpoint."""
    for number, curve in enumerate(curves):
        style = line_style(number)
        ax.plot(
            curve.passes,
            curve.accuracy,
            drawstyle="steps-post",
            label=str(number),
            color=style["color"],
            linestyle=style["linestyle"],
        )
    ax.set_xscale("log")
    # figures show text as it is, so the usual powers of ten would show their markup
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(ylim=(-0.02, 1.02), xlabel="passes per image, at most", ylabel="robust accuracy")
    percent_axis(ax.yaxis)
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    sns.despine(ax=ax)
    if len(curves) > 1:
        legend(ax, [curve.label for curve in curves])
    return ax


def _with_clean(curve: CheckpointCurve) -> _DrawnLine:
    x = [0.0, *(float(point.epsilon) for point in curve.points)]
    places = ["no attack", *(f"ε = {point.epsilon.text}" for point in curve.points)]
    accuracies = [curve.clean, *(point.accuracy for point in curve.points)]
    return _DrawnLine(curve.label, x, places, accuracies)


def robustness(ax: Axes, panel: Panel, order: Sequence[str] = ()) -> Axes:
    """A panel whose levels are budgets: like `accuracy_curves`, from 0 to 100 %."""
    accuracy_curves(ax, panel, order)
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("robust accuracy")
    return ax


def accuracy_curves(ax: Axes, panel: Panel, order: Sequence[str] = ()) -> Axes:
    """Each method's estimates and intervals against the panel's factor, a line a method.

    The shade around a line is its simultaneous band, see `banded`; in a panel without any, it joins
    the intervals. More than `BANDS` lines have no shades.
    `order` are all methods of a study: one that stands in several figures looks the same in all.
    Points are offset horizontally by a point or two, so that no interval hides another.
    """
    lines = [_line(line, panel) for line in panel.lines if line.values]
    order = list(dict.fromkeys([*order, *(line.label for line in lines)]))
    _draw(ax, lines, [order.index(line.label) for line in lines])
    levels = {v.level: v.x for line in panel.lines for v in line.values}
    if panel.percent:
        levels = {f"{100 * x:g}": x for x in levels.values()}
    if levels:
        ticks(ax, levels, log=panel.log and min(levels.values()) > 0)
    _share_limits(ax)
    if panel.chance is not None:
        chance_line(ax, panel.chance)
    (factor,) = shortened([panel.factor], 40)
    ax.set(xlabel=factor + (" (%)" if panel.percent else ""), ylabel="accuracy")
    return ax


def banded(panel: Panel) -> list[Estimate]:
    """The values of a panel's simultaneous bands, if these are drawn."""
    return [v.band for line in panel.lines for v in line.values if v.band] if _few(panel) else []


def _few(panel: Panel) -> bool:
    return sum(1 for line in panel.lines if line.values) <= BANDS


def _line(line: Line, panel: Panel) -> _DrawnLine:
    """A method's line, and its shade where lines are few enough to have one."""
    estimates = [v.estimate for v in line.values]
    shade = [v.band for v in line.values if v.band] if banded(panel) else estimates
    x = [v.x for v in line.values]
    places = [f"{panel.factor} {level_text(v.level, panel.percent)}" for v in line.values]
    return _DrawnLine(line.method, x, places, estimates, shade if _few(panel) else ())


def _draw(ax: Axes, lines: Sequence[_DrawnLine], looks: Sequence[int]) -> None:
    """The lines, their scale and their legend; `looks` says which look each one has."""
    shift = min(2.5, 13 / max(len(lines), 1))  # in points
    for i, (line, number) in enumerate(zip(lines, looks, strict=True)):
        _errorbars(ax, line, number, shift * (i - (len(lines) - 1) / 2))
        if len(line.band) == len(line.x):
            low, high = ([getattr(e, end) for e in line.band] for end in ("low", "high"))
            ax.fill_between(line.x, low, high, color=line_style(number)["color"], alpha=0.13, lw=0)
    percent_axis(ax.yaxis)
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    sns.despine(ax=ax)
    if len(lines) > 1:
        legend(ax, [line.label for line in lines])


def _errorbars(ax: Axes, line: _DrawnLine, number: int, shift: float) -> None:
    """A line with its error bars, `shift` points to the right of its place."""
    ends = [(e.value - e.low, e.high - e.value) for e in line.estimates]
    drawn = ax.errorbar(
        line.x,
        [e.value for e in line.estimates],
        yerr=np.array(ends).T,
        **line_style(number),
        label=str(number),
        transform=ax.transData + ScaledTranslation(shift / 72, 0, ax.figure.dpi_scale_trans),
    )
    each = zip(line.places, line.estimates, strict=True)
    hover(drawn, [f"{line.label}, {place}: {estimate_text(e)}" for place, e in each])
    # what is shifted does not count for the limits that matplotlib chooses
    for x, estimate in zip(line.x, line.estimates, strict=True):
        ax.update_datalim([(x, estimate.low), (x, estimate.high)])


def chance_line(ax: Axes, chance: float) -> None:
    """The accuracy of a guess, where the axis reaches down to it."""
    low, high = ax.get_ylim()
    if not low < chance < high:
        return
    ax.axhline(chance, color=INK, linewidth=0.7, linestyle=(0, (1, 3)), zorder=1)
    across = ax.get_yaxis_transform()
    ax.text(0.01, chance, "chance", va="bottom", size="small", transform=across, clip_on=True)
    ax.set_ylim(low, high)


def _share_limits(ax: Axes) -> None:
    """The limits as matplotlib chose them, less what no share can reach."""
    ax.autoscale_view(scalex=False)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -0.02), min(high, 1 + 0.02 * (1 - low)))


def ticks(ax: Axes, levels: Mapping[str, float], *, log: bool) -> None:
    """A tick at every level, labelled as it was written, as far as labels have room."""
    places = {text: log10(x) if log else x for text, x in levels.items()}
    first, last = min(places.values()), max(places.values())
    span = (last - first) or 1.0
    if log:
        ax.set_xscale("log")
        ax.set_xlim(10 ** (first - 0.05 * span), 10 ** (last + 0.05 * span))
    else:
        ax.set_xlim(first - 0.05 * span, last + 0.05 * span)
    ax.xaxis.set_minor_locator(NullLocator())
    shown = _with_room(places, span * _character(ax))
    ax.set_xticks(list(levels.values()), [text if text in shown else "" for text in levels])


def _character(ax: Axes) -> float:
    """Width of a character of a tick's label, as a share of the axis; rather too wide."""
    size = mpl.rcParams["xtick.labelsize"]
    points = size if isinstance(size, (int, float)) else mpl.rcParams["font.size"]
    return float(0.65 * points * ax.figure.dpi / (72 * 0.8 * ax.figure.bbox.width))


def _with_room(places: Mapping[str, float], character: float) -> set[str]:
    """The labels to show: the first, then from the last downwards whatever does not touch."""
    by_place = sorted(places, key=lambda text: places[text])
    shown = [by_place[0]]
    for text in reversed(by_place):
        if all(
            abs(places[text] - places[other]) >= character * (1 + (len(text) + len(other)) / 2)
            for other in shown
        ):
            shown.append(text)
    return set(shown)
