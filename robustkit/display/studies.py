"""What a study still needs, and how far it has come."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from robustkit.display.meter import NotebookMeter, notebook
from robustkit.display.pace import span
from robustkit.display.stream import console, styled
from robustkit.errors import shown
from robustkit.showing import Shown
from robustkit.study.cells import Plan
from robustkit.study.forecast import Forecast
from robustkit.study.run import Run, StudyProgress


@dataclass(frozen=True, slots=True, repr=False)
class StudyPlan(Shown):
    """What a study still needs, and how long that takes."""

    run: Run
    plan: Plan
    expected: Forecast | None
    """None: that cannot be told, or nothing is missing"""
    workers: int | None
    """cells at a time; None: as many as a cluster has room for"""

    @property
    def text(self) -> str:
        """'9 cells known, 9 to run, 45 after selection, 63 evaluations; about 8 min …'."""
        missing, later = len(self.run.missing(self.plan)), sum(self.plan.later.values())
        text = f"{len(self.plan.cells)} cells known, {missing} to run"
        text += f", {later} after selection" if later else ""
        expected = self.expected
        if expected is None:
            return f"{text}; the time cannot be estimated" if missing else text
        text += f", {expected.evaluations + expected.pending} evaluations; about "
        text += span(expected.seconds(self.workers or 1))
        if self.workers is None:
            text += " with one worker like this machine"
        else:
            text += f" with {self.workers} in parallel"
        untimed = ", ".join(row.method for row in expected.rows if row.seconds is None)
        return text + (f", not counting {untimed}, which cannot be timed" if untimed else "")


class StudyTable:
    """Where a study stands: a table while it runs; where stderr is no terminal, a line a cell."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.console = console(err=True)
        self.state: StudyProgress | None = None
        display = notebook()
        self.meter = None if display is None else NotebookMeter("cells", display)
        self.live = Live(
            get_renderable=self._drawn, console=self.console, refresh_per_second=2, transient=True
        )

    def __enter__(self) -> Self:
        if self.meter is not None:
            self.meter.start()
        elif self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()
        if self.meter is not None:
            self.meter.stop()

    def progress(self, state: StudyProgress) -> None:
        """Show how far the study has come; a cell that failed is named for good."""
        self.state, ended = state, state.ended
        if self.meter is not None:
            self.meter.update(state.done, state.total, self._summary(state))
            return
        if self.console.is_terminal:
            self.live.refresh()
        if ended is None:
            return
        reason = ended.reason
        if not self.console.is_terminal:
            told = f"failed: {reason}" if reason else f"took {span(ended.seconds)}"
            self.console.print(
                styled(f"{self._summary(state)}; {ended.cell}, {told}"), soft_wrap=True
            )
        elif reason:
            self.console.print(styled(f"{ended.cell}, failed: {reason}", "red"), soft_wrap=True)

    def _summary(self, state: StudyProgress) -> str:
        """'tiny: 3 of 8 cells, 1 failed, about 12 min to go'."""
        failed = f", {state.failed} failed" if state.failed else ""
        left = f", about {span(state.seconds)} to go" if state.seconds else ""
        return f"{self.name}: {state.done} of {state.total} cells{failed}{left}"

    def _drawn(self) -> RenderableType:
        """By method what is done, and what is at work now: as much as there is room for."""
        if (state := self.state) is None:
            return styled(f"{self.name}: starting")
        table = Table()
        for column in ("method", "done", "running", "failed", "left"):
            table.add_column(column, justify="left" if column == "method" else "right")
        for method, *counts in state.counts:
            table.add_row(styled(method), *map(str, counts))
        room, now = max(1, self.console.height - len(state.counts) - 7), time.monotonic()
        running = state.running[:room]
        lines = [f"running for {span(now - one.since)}: {one.cell}" for one in running]
        if more := len(state.running) - len(running):
            lines.append(f"and {more} more")
        text = [Text(shown(line), no_wrap=True, overflow="ellipsis") for line in lines]
        return Group(table, *text, styled(self._summary(state)))
