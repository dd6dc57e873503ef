"""The legend: along the foot of a figure, or within axes that share theirs with others."""

from collections.abc import Sequence
from typing import TypeVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend

from robustkit.figures.names import shortened

MOST = 6
"""columns"""
T = TypeVar("T")


def legend(ax: Axes, labels: Sequence[str], drawn: Sequence[Artist] = ()) -> None:
    """What these artists are, or the labelled ones of `ax` in their order, in columns that fit."""
    own = [one for one, label in zip(*ax.get_legend_handles_labels(), strict=True) if _ours(label)]
    handles = drawn or own[-len(labels) :]  # after those of an earlier figure on the same axes
    names = shortened(labels)
    if not _whole(ax):
        _named(ax.legend(handles=handles, handlelength=3), names)
        return
    for columns in range(min(len(names), MOST), 0, -1):
        made = _drawn(ax, _by_row(handles, columns), _by_row(names, columns), columns)
        if columns == 1 or made.get_window_extent().width <= ax.figure.bbox.width:
            return
        made.remove()


def _ours(label: str) -> bool:
    """Whether a label is a line's number, and not what the caller's own line is called."""
    return label.isdecimal()


def _whole(ax: Axes) -> bool:
    """Whether all of the figure is there for `ax`, and matplotlib makes room at its foot."""
    figure = ax.figure
    constrained = isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine)
    return constrained and figure.axes == [ax] and not figure.legends


def _drawn(ax: Axes, handles: Sequence[Artist], names: Sequence[str], columns: int) -> Legend:
    drawn = ax.figure.legend(
        handles=handles,
        loc="outside lower left",
        frameon=False,
        handlelength=3,
        ncols=columns,
        columnspacing=1.2,
    )
    return _named(drawn, names)


def _named(drawn: Legend, names: Sequence[str]) -> Legend:
    """The names, set afterwards: matplotlib leaves out a label that begins with an underscore."""
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_text(name)
    return drawn


def _by_row(items: Sequence[T], columns: int) -> list[T]:
    """Items reordered so that a legend, which fills its columns one by one, reads by rows."""
    return [item for column in range(columns) for item in items[column::columns]]
