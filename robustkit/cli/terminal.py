"""What a terminal shows: progress on stderr, the table on stdout."""

from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from robustkit.evaluation import Options
    from robustkit.record import Evaluation
    from robustkit.statistics import Estimate

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


class Bar:
    """Progress of one evaluation, with the time to go; nothing where stderr is no terminal."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} images"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def attach(self, options: "Options") -> "Options":
        """Options that report here."""
        task = self.bar.add_task(self.path, total=None, visible=False)

        def progress(done: float, total: int) -> None:
            self.bar.update(task, completed=done, total=total, visible=True)

        def waiting() -> None:
            self.console.print(f"robustkit: another process is at work on {self.path}; waiting")

        return replace(options, progress=progress, waiting=waiting)


def show(evaluation: "Evaluation", interval: Literal["wilson", "exact"]) -> None:
    """The table of one evaluation on stdout; what was assumed, and its warnings, on stderr."""
    header, stderr = evaluation.header, Console(stderr=True)
    for note in header["checkpoint"]["notes"]:
        stderr.print(Text(f"note: {note}"), style="dim", soft_wrap=True)
    for warning in header["warnings"]:
        stderr.print(Text(f"warning: {warning}"), style="yellow", soft_wrap=True)
    data, protocol = header["data"], header["protocol"]
    target = protocol["resolved"]["target"]
    title = (
        f"{header['checkpoint']['path']} on {data['name']} {data['split']} ({data['n']:,} images), "
        f"{protocol['name']}{'' if target == 'none' else f' towards {target}'}, "
        f"{NORMS[protocol['norm']]}"
    )
    table = Table()
    table.add_column("ε", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_row("clean", *_cells(evaluation.clean(interval)))
    for point in evaluation.robust(interval):
        table.add_row(point.epsilon.text, *_cells(point.accuracy))
    console = Console()
    console.print(Text(title), soft_wrap=True)
    console.print(table)
    console.print(Text(f"record: {evaluation.path}"), soft_wrap=True)


def _cells(estimate: "Estimate") -> tuple[str, str]:
    return f"{estimate.value:.1%}", f"{estimate.low:.1%} to {estimate.high:.1%}"
