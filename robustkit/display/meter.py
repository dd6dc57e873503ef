"""A bar, a share and how long the rest takes: on a terminal by rich, in a notebook as HTML."""

import html
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
)
from rich.text import Text

from robustkit.display.pace import Pace
from robustkit.display.stream import console, styled
from robustkit.errors import shown
from robustkit.parsing import in_percent

OFTEN = 0.2
"""seconds between two pictures of a bar in a notebook: each is a message to the browser"""


class Meter(Protocol):
    """Shows how far something is, between `start` and `stop`; afterwards nothing of it is left."""

    live: bool
    """whether anybody sees it"""
    pace: Pace

    def start(self) -> None:
        """Show it."""

    def stop(self) -> None:
        """Take it away."""

    def begin(
        self, name: str, total: float | None, *, done: float = 0.0, visible: bool = True
    ) -> None:
        """Something new, in place of what was shown before; a share of it may be done already."""

    def update(self, done: float, total: float | None = None, name: str | None = None) -> None:
        """It is so far."""

    def tell(self, text: str) -> None:
        """A line that stays."""


def meter(unit: str | None) -> Meter:
    """What shows progress here; without a unit a share of the time is counted."""
    display = notebook()
    return TerminalMeter(unit) if display is None else NotebookMeter(unit, display)


def notebook() -> Callable[..., Any] | None:
    """What displays in the notebook that this process works for; None where it does not."""
    python = sys.modules.get("IPython")
    shell = None if python is None else python.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    shows: Callable[..., Any] = sys.modules["IPython.display"].display
    return shows


# --- on a terminal --------------------------------------------------------------------------------


class TerminalMeter:
    """A bar on stderr; none where that is no terminal."""

    def __init__(self, unit: str | None) -> None:
        self.console: Console = console(err=True)
        self.pace, self.timed = Pace(), unit is None
        counted = () if unit is None else (_Count(unit),)
        self.bar = _Bar(
            self,
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn("[progress.percentage]{task.percentage:>3.0f}\u00a0%"),
            *counted,
            _ToGo(self),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal or os.environ.get("RANK", "0") != "0",
        )
        self.live = not self.bar.disable

    def start(self) -> None:
        """As `Meter`."""
        self.bar.start()

    def stop(self) -> None:
        """As `Meter`."""
        self.bar.stop()

    def begin(
        self, name: str, total: float | None, *, done: float = 0.0, visible: bool = True
    ) -> None:
        """As `Meter`."""
        self.pace = Pace(done)
        for task in self.bar.task_ids:
            self.bar.remove_task(task)
        self.bar.add_task(shown(name), total=total, visible=visible)

    def update(self, done: float, total: float | None = None, name: str | None = None) -> None:
        """As `Meter`."""
        (task,) = self.bar.task_ids
        text = None if name is None else shown(name)
        if total:
            self.pace.tell(done / total)
        self.bar.update(task, completed=done, total=total, description=text, visible=True)

    def tell(self, text: str) -> None:
        """As `Meter`."""
        self.console.print(styled(text), soft_wrap=True)


class _Bar(Progress):
    """Where a share of the time is counted, it moves while nothing new is told."""

    def __init__(self, meter: TerminalMeter, *columns: ProgressColumn, **settings: Any) -> None:
        self.meter = meter
        super().__init__(*columns, **settings)

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks if self.meter.timed else ():
            if task.total:
                task.completed = self.meter.pace.share * task.total
        yield from super().get_renderables()


class _ToGo(ProgressColumn):
    """'2 min to go' by all that was told; rich's own goes by the last seconds."""

    def __init__(self, meter: TerminalMeter) -> None:
        super().__init__()
        self.meter = meter

    def render(self, task: Task) -> Text:
        return Text(self.meter.pace.to_go, "progress.remaining")


class _Count(ProgressColumn):
    """'3 of 8 images'; nothing while it is not known of how many."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text()
        return Text(f"{task.completed:.0f} of {task.total:.0f} {self.unit}")


# --- in a notebook --------------------------------------------------------------------------------


class NotebookMeter:
    """A bar of HTML, which needs no widgets: a display that is changed in place."""

    live = True

    def __init__(self, unit: str | None, display: Callable[..., Any]) -> None:
        self.unit, self.display = unit, display
        self.handle: Any = None
        self.name, self.done, self.total = "", 0.0, None
        self.pace, self.shown = Pace(), time.monotonic()

    name: str
    done: float
    total: float | None

    def start(self) -> None:
        """As `Meter`."""
        self.handle = self.display(self._picture(), raw=True, display_id=True)

    def stop(self) -> None:
        """As `Meter`."""
        if self.handle is not None:
            self.handle.update({"text/html": "", "text/plain": ""}, raw=True)

    def begin(
        self, name: str, total: float | None, *, done: float = 0.0, visible: bool = True
    ) -> None:
        """As `Meter`."""
        self.pace = Pace(done)
        self.name, self.done, self.total = name, 0.0, total
        self._show()

    def update(self, done: float, total: float | None = None, name: str | None = None) -> None:
        """As `Meter`."""
        self.done, self.total = done, self.total if total is None else total
        self.name = self.name if name is None else name
        if self.total:
            self.pace.tell(self.done / self.total)
        if time.monotonic() - self.shown >= OFTEN:
            self._show()

    def tell(self, text: str) -> None:
        """As `Meter`."""
        self.display({"text/plain": shown(text)}, raw=True)

    def _show(self) -> None:
        self.shown = time.monotonic()
        if self.handle is not None:
            self.handle.update(self._picture(), raw=True)

    def _picture(self) -> dict[str, str]:
        words = [shown(self.name)]
        place = ""
        if self.total:
            share = min(1.0, self.done / self.total)
            place = f' value="{share:.4f}"'
            counted = f"{self.done:.0f} of {self.total:.0f} {self.unit}"
            words += [in_percent(share, 0), *([counted] if self.unit else [])]
            words += [left] if (left := self.pace.to_go) else []
        text = ", ".join(words)
        return {
            "text/html": f"<progress{place}></progress> {html.escape(text)}",
            "text/plain": text,
        }
