"""What results show of themselves in a notebook and on a prompt; `showing.Shown` looks here."""

from robustkit.display.results import view
from robustkit.display.view import View

__all__ = ["View", "view"]
