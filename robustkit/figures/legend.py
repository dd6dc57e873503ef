"""The legend along the foot of a figure."""

from collections.abc import Sequence
from typing import TypeVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.legend import Legend

from robustkit.figures.names import shortened

MOST = 6
"""columns"""
T = TypeVar("T")


def legend(ax: Axes, labels: Sequence[str], drawn: Sequence[Artist] = ()) -> None:
    """What these artists are, or the labelled ones of `ax` in their order, in columns that fit."""
    handles = drawn or ax.get_legend_handles_labels()[0]
    names = shortened(labels)
    for columns in range(min(len(names), MOST), 0, -1):
        made = _drawn(ax, _by_row(handles, columns), _by_row(names, columns), columns)
        if columns == 1 or made.get_window_extent().width <= ax.figure.bbox.width:
            return
        made.remove()


def _drawn(ax: Axes, handles: Sequence[Artist], names: Sequence[str], columns: int) -> Legend:
    drawn = ax.figure.legend(
        handles=handles,
        loc="outside lower left",
        frameon=False,
        handlelength=3,
        ncols=columns,
        columnspacing=1.2,
    )
    # set afterwards, since matplotlib leaves out a label that begins with an underscore
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_text(name)
    return drawn


def _by_row(items: Sequence[T], columns: int) -> list[T]:
    """Items reordered so that a legend, which fills its columns one by one, reads by rows."""
    return [item for column in range(columns) for item in items[column::columns]]
