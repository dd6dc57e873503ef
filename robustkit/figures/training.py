"""How trainings went."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any, Literal

import seaborn as sns
from matplotlib.axes import Axes

from robustkit.analysis.outcome import History
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
    for history in histories:
        number = order.index(history.method)
        shares = [float("nan") if v is None else v for v in getattr(history, quantity)]
        points = list(zip(history.steps, shares, strict=True))
        if quantity == "held_out":
            points = [(step, share) for step, share in points if not isnan(share)]
        every = max(1, len(points) // 8)
        ax.plot(
            *zip(*points, strict=True), **line_style(number), markevery=every, label=str(number)
        )
    percent_axis(ax.yaxis)
    ax.set(xlabel="optimiser steps", ylabel=_LABELS[quantity])
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    sns.despine(ax=ax)
    if len(histories) > 1:
        legend(ax, [history.method for history in histories])
    return ax


def learning_curve(
    ax: Axes, history: Sequence[Mapping[str, Any]], shares: Mapping[str, str]
) -> Axes:
    """One training by epoch: a line for each of these shares, by what it is called."""
    for number, (key, called) in enumerate(shares.items()):
        known = [(line["epoch"], line[key]) for line in history if line.get(key) is not None]
        ax.plot(*zip(*known, strict=True), **line_style(number), label=called)
    percent_axis(ax.yaxis)
    ax.set(xlabel="epoch", ylabel="share of images")
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    sns.despine(ax=ax)
    legend(ax, list(shares.values()))
    return ax
