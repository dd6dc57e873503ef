"""Results that show themselves: in a line, in a notebook, as a figure, a frame and a table.

A result is made on a low floor, and what shows it stands on a high one. This is the one place that
reaches up: by name, and only when somebody looks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class Shown:
    """A result of which `robustkit.display` has a view."""

    __slots__ = ()

    def __repr__(self) -> str:
        text: str = self._view().text()
        return text

    def _repr_html_(self) -> str:
        html: str = self._view().html()
        return html

    def plot(self, ax: Any = None) -> Any:
        """The figure of the result, on these axes of matplotlib's or on a figure of its own.

        Raises:
            InputError: there is nothing to draw.
        """
        return self._view().plot(ax)

    def to_frame(self) -> "pd.DataFrame":
        """The numbers of the table, shares as fractions."""
        frame: pd.DataFrame = self._view().frame()
        return frame

    def to_markdown(self) -> str:
        """The table in Markdown."""
        text: str = self._view().markdown()
        return text

    def to_latex(self) -> str:
        """The table in LaTeX, for the package booktabs."""
        text: str = self._view().latex()
        return text

    def _view(self) -> Any:
        return import_module("robustkit.display.results").view(self)
