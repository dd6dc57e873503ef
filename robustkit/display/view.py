"""What a result shows of itself: a title, a table, a sentence or two and a figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import wrap

import pandas as pd
from markupsafe import Markup

from robustkit import figures
from robustkit.errors import InputError, shown
from robustkit.reporting import markdown, tables
from robustkit.reporting.html import render

LINES = 5
"""of a table that text shows"""
MOST = 9
"""lines of text"""
CELL, LINE = 32, 100
"""characters that text shows of a cell, and of a line"""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A result as its reader meets it. What is needed for a figure is drawn only when it is."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    frame: Callable[[], pd.DataFrame]
    """the numbers of the table"""
    sentences: Sequence[str] = ()
    draw: "figures.Draw | None" = None
    size: Callable[[], tuple[float, float]] = lambda: (4.5, 2.8)
    """of the figure, in inches"""
    spoken: str = ""
    """the figure in words, for those who do not see it"""
    caption: str = ""
    """what the figure does not say of itself"""
    brief: Sequence[Sequence[str]] = ()
    """the rows as text shows them, where it has no room for whole ones"""
    words: int = 1
    """how many columns hold words and stand left"""
    notes: Sequence[str] = ()
    """what to know beside the sentences, all of it on a page"""
    warnings: Sequence[str] = ()
    """without which the numbers may mislead, likewise; text has room for the first"""

    def text(self) -> str:
        """Fewer than ten lines, none longer than 100 characters."""
        table = [list(self.head), *map(list, (self.brief or self.rows)[:LINES])]
        left = len(self.rows) - LINES
        lines = [self.title, *_aligned(table, self.words)]
        lines += [f"  … and {left:,} more"] if left > 0 else []
        lines = [_clipped(shown(line), LINE) for line in lines]
        warned = self._warned()
        left = MOST - len(lines) - len(warned)
        for sentence in (*self.sentences, *self.notes)[: min(1, left)]:
            lines += wrap(shown(sentence), LINE, max_lines=left, placeholder=" …")
        return "\n".join([*lines, *warned])

    def _warned(self) -> list[str]:
        """The first warning in one line, and how many there are."""
        if not self.warnings:
            return []
        more = f" (1 of {len(self.warnings)})" if len(self.warnings) > 1 else ""
        return [_clipped(f"Warning{more}: {shown(self.warnings[0])}", LINE)]

    def html(self) -> str:
        """A piece of a page, complete in itself: no style or script of it reaches another."""
        svg = figures.svg(self.draw, self.size(), "view", shown(self.spoken)) if self.draw else ""
        return render("view.html.jinja", view=self, figure=Markup(svg))

    def plot(self, ax: "figures.Axes | None") -> "figures.Axes":
        """The figure, on `ax` or on one of its own.

        Raises:
            InputError: there is nothing to draw.
        """
        if self.draw is None:
            raise InputError(f"{self.title}: there is nothing to draw")
        return figures.plot(self.draw, ax, self.size)

    def markdown(self) -> str:
        """The table."""
        return markdown.table(self.head, self.rows, self.words)

    def section(self) -> str:
        """Title, table and sentences in Markdown, for a page of others."""
        told = (*self.sentences, *self.notes, *(f"Warning: {text}" for text in self.warnings))
        sentences = [markdown.escaped(sentence) for sentence in told]
        blocks = [f"### {markdown.escaped(self.title)}", self.markdown(), *sentences]
        return "\n\n".join(filter(None, blocks))

    def latex(self) -> str:
        """The table."""
        columns = "l" * self.words + "r" * (len(self.head) - self.words)
        head, *body = ([tables.escaped(c) for c in row] for row in (self.head, *self.rows))
        return tables.tabular(self.title, columns, head, body)


def _aligned(table: Sequence[Sequence[str]], words: int) -> list[str]:
    cells = [[_clipped(shown(cell), CELL) for cell in row[:-1]] + [shown(row[-1])] for row in table]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _clipped(text: str, width: int) -> str:
    """Text as far as it fits: its beginning says what it is about."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
