"""Examples crafted on one network and evaluated on another."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from robustkit.analysis.outcome import TransferMatrix
from robustkit.figures.hover import share_text
from robustkit.figures.names import shortened
from robustkit.figures.style import map_text

LINE = 16
"""characters of a name on a line"""


def transfer_matrix(ax: Axes, matrix: TransferMatrix) -> Axes:
    """Accuracy in per cent of each target (column) under examples crafted on each source (row).

    A cell without a number is left blank.
    """
    values = np.array([[np.nan if v is None else 100 * v for v in row] for row in matrix.values])
    sns.heatmap(
        values,
        ax=ax,
        vmin=0,
        vmax=100,
        cmap="cividis",
        annot=True,
        fmt=".1f",
        cbar=False,
        square=True,
        linewidths=0.5,
        xticklabels=shortened(matrix.targets, 20),
        yticklabels=_wrapped(matrix.sources),
    )
    # seaborn labels the cells that have a number, row by row; its tenths tell some as none or all
    shown = [value for row in matrix.values for value in row if value is not None]
    for label, value in zip(ax.texts, shown, strict=True):
        # seaborn's own is white where the map is too light for it
        label.set(text=share_text(value).removesuffix(" %"), color=map_text(value))
    ax.set(xlabel="evaluated on", ylabel="crafted on")
    ax.tick_params(axis="x", rotation=40, length=0)
    ax.tick_params(axis="y", rotation=0, length=0)
    for label in ax.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    for label in ax.get_yticklabels():
        label.set(linespacing=0.9)
    return ax


def _wrapped(names: Sequence[str]) -> list[str]:
    """Names on lines of at most `LINE` characters."""
    return [fill(name, LINE) for name in shortened(names, 3 * LINE)]
