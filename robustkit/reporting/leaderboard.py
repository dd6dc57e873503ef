"""The page of a leaderboard: one self-contained file that reads without its scripts."""

from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from robustkit.analysis.leaderboard import Board, Leaderboard
from robustkit.figures import PAGE, board_curves, svg
from robustkit.reporting import html
from robustkit.reporting.html import PageFigure
from robustkit.reporting.wording import board_in_words

HEIGHT = 2.9
"""of a figure, in inches"""


@dataclass(frozen=True, slots=True)
class BoardSection:
    """A board as the page shows it, and which of its columns hold anything."""

    board: Board
    curves: PageFigure | None
    corrupted: bool
    audited: bool
    several: bool
    """whether a row stands for several networks"""


def page(found: Leaderboard, title: str) -> str:
    """The page of a leaderboard; the same one gives the same bytes."""
    sort, sort_source = html.script("sort.js")
    search, search_source = html.script("search.js")
    return html.render(
        "leaderboard.html.jinja",
        title=title,
        found=found,
        sections=[_section(i, board) for i, board in enumerate(found.boards, 1)],
        networks=len({path for b in found.boards for row in b.rows for path in row.networks}),
        sort=sort,
        search=search,
        script_source=f"{sort_source} {search_source}",
    )


def _section(number: int, board: Board) -> BoardSection:
    return BoardSection(
        board,
        _curves(board, f"board{number}") if board.levels else None,
        any(row.corrupted is not None for row in board.rows),
        any(row.audits for row in board.rows),
        any(len(row.networks) > 1 for row in board.rows),
    )


def _curves(board: Board, prefix: str) -> PageFigure:
    size = PAGE.single * 1.3, HEIGHT
    drawing = svg(partial(board_curves, board=board), size, prefix, board_in_words(board.rows))
    seeds = " Seeds of a method share a colour." if _many_of_a_method(board) else ""
    return PageFigure(prefix, f"Robust accuracy against ε: {board.title}.{seeds}", Markup(drawing))


def _many_of_a_method(board: Board) -> bool:
    return len({row.method for row in board.rows}) < len(board.rows)
