"""What is told on stderr, encodable and on one line, whatever a name in it says."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from robustkit.errors import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def tell(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"{shown(text)}\n")


def console(*, err: bool = False) -> "Console":
    """What draws tables and colours, on stdout or stderr; square brackets are no commands."""
    from rich.console import Console

    # the file is named, since only then its encoding decides on the lines of a table
    return Console(file=sys.stderr if err else sys.stdout, markup=False, emoji=False)


def styled(text: str, style: str = "") -> "Text":
    """Text in a style, all of it visible."""
    from rich.text import Text

    return Text(shown(text), style)


def say_styled(text: str, style: str, *, err: bool = False) -> None:
    """A line in a style."""
    console(err=err).print(styled(text, style), soft_wrap=True)


def tell_notes(*notes: str) -> None:
    """What was taken from where, on stderr."""
    for note in notes:
        say_styled(f"note: {note}", "dim", err=True)


def tell_warnings(warnings: Iterable[str]) -> None:
    """Lines on stderr."""
    for warning in warnings:
        say_styled(f"warning: {warning}", "yellow", err=True)


class FetchLines:
    """How far downloads are: a line for each file on stderr, on a terminal with its share."""

    def __init__(self) -> None:
        self.name, self.told = "", -1

    def __call__(self, name: str, done: int, total: int | None) -> None:
        """Tell it; as `robustkit.fetching.Progress`."""
        if name != self.name:
            self.name, self.told = name, -1
            tell(f"fetching {name}" + (f" ({total / 1e6:,.1f} MB)" if total else ""))
        if not total or total == done == 0 or not sys.stderr.isatty():
            return
        if (percent := 100 * done // total) != self.told:
            self.told = percent
            sys.stderr.write("\r\x1b[K" if done == total else f"\r{percent:>3} %")
            sys.stderr.flush()
