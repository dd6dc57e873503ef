"""`robustkit report`: from a study's file to its report, by way of whatever is missing."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustkit.cli import completion
from robustkit.cli.options import DataRoot, Device, Track
from robustkit.cli.output import check_folder, say
from robustkit.cli.stepsummary import summarise

if TYPE_CHECKING:
    from robustkit.analysis.outcome import Outcome
    from robustkit.display.studies import StudyPlan


def report(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE.toml",
            help="Study: a name (`robustkit list reports`) or FILE.toml.",
            autocompletion=completion.reports,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report; default: the study's name.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show what is missing and how long it takes.")
    ] = False,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Train nothing; report what is done.")
    ] = False,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Existing networks: 'nets/{loss}_noise{label_noise}_seed{seed}.pt'.",
        ),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of evaluations, instead of networks.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set to evaluate on; with --runs: only evaluations on this data set."
        ),
    ] = None,
    data_root: DataRoot = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    model: Annotated[str | None, typer.Option(help="Architecture of existing networks.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Method to compare the others with.")] = None,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Cells to run in parallel; default: one per core, on a GPU one."),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(help="Start no cell after so many hours; report what is done."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|ADDRESS",
            help="Run on a Ray cluster; auto: that of RAY_ADDRESS, or one started here.",
        ),
    ] = None,
    cpus_per_cell: Annotated[
        int | None, typer.Option(min=1, help="Cores per cell on Ray; default: 1.")
    ] = None,
    gpus_per_cell: Annotated[
        float | None,
        typer.Option(
            min=0, help="GPUs per cell on Ray, such as 0.25; default: 1 if there are any."
        ),
    ] = None,
    shared: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Storage that Ray's workers share, if not --out: s3://bucket/study."
        ),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Retry failed cells.")] = False,
    amend: Annotated[
        bool,
        typer.Option("--amend", help="Accept a changed file; the report says what changed."),
    ] = False,
    style: Annotated[
        Literal["neurips", "icml", "ieee", "talk"], typer.Option(help="Style of the figures.")
    ] = "neurips",
    track: Track = None,
    width: Annotated[
        Literal["single", "double"] | None,
        typer.Option(help="Width of the figures in columns; default: single, or what each needs."),
    ] = None,
) -> int:
    """Run a study, or report on networks that exist, as one page.

    Trains and evaluates what is missing, then writes the report to --out. A repeated command
    continues where the last one stopped.
    """
    from robustkit.calls.report import report as reported

    folder = out or Path(Path(name).stem)
    check_folder("--out", folder)
    asked: dict[str, Any] = {"checkpoints": checkpoints, "runs": runs, "data": data}
    asked |= {"data_root": data_root, "limit": limit, "model": model, "baseline": baseline}
    asked |= {"device": device, "workers": workers, "hours": hours, "ray": ray, "shared": shared}
    asked |= {"cpus_per_cell": cpus_per_cell, "gpus_per_cell": gpus_per_cell}
    asked |= {"retry": retry, "amend": amend, "style": style, "width": width, "progress": True}
    asked |= {"only_report": only_report, "out": folder, "plan": plan, "track": track}
    asked["command"] = shlex.join(["robustkit", *sys.argv[1:]])
    return _show(reported(name, **asked), folder)


def _show(found: "Outcome | StudyPlan", folder: Path) -> int:
    """Say what was found; 3 where something in it has failed."""
    from robustkit.cli.terminal import show_plan
    from robustkit.display.studies import StudyPlan

    if isinstance(found, StudyPlan):
        show_plan(found)
        return 0
    say(f"report: {folder / 'report.html'}")
    summarise([found])
    failed = found.failed or any(cell.status == "failed" for cell in found.cells)
    return 3 if failed else 0
