"""`robustkit report`: from a study's file to its report, by way of whatever is missing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustkit.cli import completion
from robustkit.cli.options import DataRoot, Device
from robustkit.cli.output import check_folder, say

if TYPE_CHECKING:
    from robustkit.analysis.outcome import Outcome
    from robustkit.display.studies import StudyPlan


def report(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE.toml",
            help="A study: `robustkit list reports`.",
            autocompletion=completion.reports,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; by default the study's name.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what is missing and how long it takes; stop there.")
    ] = False,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Train nothing; report the cached results.")
    ] = False,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="External networks: 'nets/{loss}_noise{label_noise}_seed{seed}.pt'.",
        ),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="A folder of evaluations, instead of networks.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="What networks are tested on.")] = None,
    data_root: DataRoot = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N images only.")] = None,
    model: Annotated[str | None, typer.Option(help="Architecture of external networks.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The method that the others are compared with.")
    ] = None,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Cells run in parallel; by default one per core or GPU."),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(help="Start no further cell after this time; report what is done."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|ADDRESS",
            help="Work on a Ray cluster; auto joins that of RAY_ADDRESS, or starts one here.",
        ),
    ] = None,
    cpus_per_cell: Annotated[
        int | None, typer.Option(min=1, help="Cores of a cell on Ray; by default 1.")
    ] = None,
    gpus_per_cell: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs of a cell on Ray, such as 0.25; by default 1, if any."),
    ] = None,
    shared: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="What Ray's workers reach, if not --out: s3://bucket/study."
        ),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Retry failed cells.")] = False,
    amend: Annotated[
        bool,
        typer.Option("--amend", help="Accept a changed file; the report says what changed."),
    ] = False,
    style: Annotated[
        Literal["neurips", "icml", "ieee", "talk"], typer.Option(help="Of the figures.")
    ] = "neurips",
    width: Annotated[
        Literal["single", "double"] | None,
        typer.Option(help="Of the figures, in columns; by default single, or what each needs."),
    ] = None,
) -> int:
    """Train and evaluate what a study still needs, and write its report."""
    from robustkit.calls.report import report as reported

    folder = out or Path(Path(name).stem)
    check_folder("--out", folder)
    asked: dict[str, Any] = {"checkpoints": checkpoints, "runs": runs, "data": data}
    asked |= {"data_root": data_root, "limit": limit, "model": model, "baseline": baseline}
    asked |= {"device": device, "workers": workers, "hours": hours, "ray": ray, "shared": shared}
    asked |= {"cpus_per_cell": cpus_per_cell, "gpus_per_cell": gpus_per_cell}
    asked |= {"retry": retry, "amend": amend, "style": style, "width": width, "progress": True}
    asked |= {"only_report": only_report, "out": folder, "plan": plan}
    return _show(reported(name, **asked), folder)


def _show(found: "Outcome | StudyPlan", folder: Path) -> int:
    """Say what was found; 3 where something in it has failed."""
    from robustkit.cli.terminal import show_plan
    from robustkit.display.studies import StudyPlan

    if isinstance(found, StudyPlan):
        show_plan(found)
        return 0
    say(f"report: {folder / 'report.html'}")
    return 3 if any(cell.status == "failed" for cell in found.cells) else 0
