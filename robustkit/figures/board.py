"""Many networks' robust accuracy against ε: the seeds of a method in one colour."""

import seaborn as sns
from matplotlib.axes import Axes

from robustkit.analysis.leaderboard import Board
from robustkit.figures.curves import chance_line, ticks
from robustkit.figures.hover import estimate_text, hover
from robustkit.figures.legend import legend
from robustkit.figures.style import COLOURS, FAINT, line_style, percent_axis
from robustkit.protocol import parse_epsilon
from robustkit.protocol.norms import symbol

COLOURED = len(COLOURS)
"""methods that have a colour of their own: as many as can be told apart; the rest are thin"""


def board_curves(ax: Axes, board: Board) -> Axes:
    """Each row against the board's budgets, the best methods in colour and the others thin, grey.

    The seeds of one method have its colour, marker and dash, and one entry of the legend. Where a
    row has no number at a budget, its line goes on to the next.
    """
    methods = list(dict.fromkeys(row.method for row in board.rows))
    named = methods[:COLOURED]
    for number in range(len(named)):
        ax.plot([], [], **line_style(number), label=str(number))
    places = {text: float(parse_epsilon(text, "board")) for text in board.levels}
    for row in reversed(board.rows):  # the best on top
        number = methods.index(row.method)
        values = [("no attack", 0.0, row.clean)]
        values += [(f"ε = {t}", x, row.robust[t]) for t, x in places.items() if t in row.robust]
        x, y = [x for _, x, _ in values], [e.value for _, _, e in values]
        texts = [f"{row.name}, {where}: {estimate_text(e)}" for where, _, e in values]
        if number < COLOURED:
            drawn = ax.plot(x, y, **line_style(number))[0]
        else:
            drawn = ax.plot(x, y, color=FAINT, linewidth=0.6, marker=".", markersize=3)[0]
        hover(drawn, texts)
    if len(methods) > COLOURED:
        ax.plot([], [], color=FAINT, linewidth=0.6, marker=".", label=str(len(methods)))
        named.append(f"{len(methods) - COLOURED} more")
    ticks(ax, {"0": 0.0} | places, log=False)
    percent_axis(ax.yaxis)
    ax.set(ylim=(-0.02, 1.02), xlabel=f"ε ({symbol(board.norm)})", ylabel="robust accuracy")
    if board.chance is not None:
        chance_line(ax, board.chance)
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    sns.despine(ax=ax)
    if len(methods) > 1:
        legend(ax, named)
    return ax
