"""How trainings went."""

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import Any, Literal, cast

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D

from robustkit.analysis.outcome import History, Panel
from robustkit.figures.curves import accuracy_curves
from robustkit.figures.hover import hover, share_text
from robustkit.figures.legend import legend
from robustkit.figures.style import FAINT, line_style, percent_axis

Quantity = Literal["memorised", "held_out"]
_LABELS = {"memorised": "noisy labels memorised", "held_out": "held-out accuracy"}


def memorisation(
    ax: Axes,
    histories: Sequence[History],
    quantity: Quantity = "memorised",
    order: Sequence[str] = (),
) -> Axes:
    """A quantity over the steps of training, a line a method.

    What was memorised has gaps where it is not known; held-out accuracy leads from look to look.

    `histories` are of one level. `order` are all methods of a study: one that stands in several
    figures looks the same in all.
    """
    order = list(dict.fromkeys([*order, *(history.method for history in histories)]))
    drawn = []
    for history in histories:
        number = order.index(history.method)
        shares = getattr(history, quantity)
        points = list(zip(history.steps, shares, strict=True))
        if quantity == "held_out":
            points = [(step, share) for step, share in points if share is not None]
        drawn.append(_progress(ax, points, number, history.method, "step"))
    percent_axis(ax.yaxis)
    ax.set(xlabel="optimiser steps", ylabel=_LABELS[quantity])
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    sns.despine(ax=ax)
    if len(histories) > 1:
        legend(ax, [history.method for history in histories], drawn)
    return ax


def course(ax: Axes, panel: Panel, histories: Sequence[History], order: Sequence[str] = ()) -> Axes:
    """Accuracy along a training, and below it the share of wrong labels that was memorised.

    `ax` becomes the upper of two axes with one scale of passes; `histories` are of the panel's
    share of wrong labels. The shade around a lower line is its interval over seeds.
    """
    order = list(dict.fromkeys([*order, *(line.method for line in panel.lines)]))
    rows = cast(SubplotSpec, ax.get_subplotspec()).subgridspec(2, 1, height_ratios=(3, 2))
    ax.set_subplotspec(rows[0])
    accuracy_curves(ax, panel, order)
    below = cast(Figure, ax.figure).add_subplot(rows[1], sharex=ax)
    for history in histories:
        style = line_style(order.index(history.method))
        each = zip(history.passes, history.memorised, strict=True)
        points = [(at, share) for at, share in each if share is not None]
        _progress(below, points, order.index(history.method), history.method, "pass")
        shade = [(at, e) for at, e in zip(history.passes, history.band, strict=False) if e]
        x, low, high = (
            [at for at, _ in shade],
            [e.low for _, e in shade],
            [e.high for _, e in shade],
        )
        below.fill_between(x, low, high, color=style["color"], alpha=0.13, lw=0)
    bottom, top = below.get_ylim()
    below.set_ylim(max(bottom, 0.0), min(top, 1.0))
    percent_axis(below.yaxis)
    below.set(xlabel=ax.get_xlabel(), ylabel="wrong labels\nmemorised")
    below.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    sns.despine(ax=below)
    ax.set_xlabel("")
    ax.tick_params(labelbottom=False)
    return ax


def learning_curve(
    ax: Axes, history: Sequence[Mapping[str, Any]], shares: Mapping[str, str]
) -> Axes:
    """One training by epoch: a line for each of these shares, by what it is called."""
    drawn = []
    for number, (key, called) in enumerate(shares.items()):
        known = [(line["epoch"], line[key]) for line in history if line.get(key) is not None]
        drawn.append(_progress(ax, known, number, called, "epoch"))
    percent_axis(ax.yaxis)
    ax.set(xlabel="epoch", ylabel="share of images")
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    sns.despine(ax=ax)
    legend(ax, list(shares.values()), drawn)
    return ax


def _progress(
    ax: Axes, points: Sequence[tuple[float, float | None]], number: int, name: str, unit: str
) -> Line2D:
    """A share from point to point, with about eight markers; `unit` is what points count.

    Where it is not known, None, the line has a gap.
    """
    every = max(1, len(points) // 8)
    known = [(at, nan if share is None else share) for at, share in points]
    (line,) = ax.plot(*zip(*known, strict=True), **line_style(number), markevery=every)
    marked = [(f"{at:,.4g}" if at < 1e4 else f"{at:,.0f}", y) for at, y in known[::every]]
    hover(line, [f"{name}, {unit} {at}: {share_text(y)}" for at, y in marked if not isnan(y)])
    return line
