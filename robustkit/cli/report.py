"""`robustkit report`: from a study's file to its report, by way of whatever is missing."""

import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustkit import machine
from robustkit.cli.options import DataRoot, Device
from robustkit.errors import InputError

if TYPE_CHECKING:
    from robustkit.figures import Width
    from robustkit.study.cells import Plan
    from robustkit.study.ray import Demand
    from robustkit.study.run import Crew, Run
    from robustkit.study.spec import Study


def report(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE.toml", help="A study: `robustkit list reports`.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; by default the study's name.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what is missing and how long it takes; stop there.")
    ] = False,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Train nothing; write what is on file.")
    ] = False,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Networks made elsewhere: 'nets/{loss}_noise{label_noise}_seed{seed}.pt'.",
        ),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="A folder of evaluations, instead of networks.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="What networks are tested on.")] = None,
    data_root: DataRoot = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N images only.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Architecture of networks made elsewhere.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The method that the others are compared with.")
    ] = None,
    device: Device = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time; by default one a core, or one GPU.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Begin no further cell after so long; report what is.")
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
    retry: Annotated[bool, typer.Option("--retry", help="Try failed cells again.")] = False,
    amend: Annotated[
        bool, typer.Option("--amend", help="Go on though the file has changed; the report says so.")
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
    from robustkit.study import spec
    from robustkit.study.store import Store

    folder = out or Path(Path(name).stem)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file; give the name of a folder")
    store = Store(folder / "work")
    changes = _changes(checkpoints, runs, data, limit, model, baseline)
    study = _as_asked(store) if only_report and runs is None else spec.load(name, changes)
    if runs is not None or (study.brought is not None and study.brought.runs):
        return _of_runs(study, runs or Path(study.brought.runs), folder, style, width)  # type: ignore[union-attr]
    if not only_report:
        from robustkit.study.run import Options, Run

        demand = _demand(ray, cpus_per_cell, gpus_per_cell, shared, workers, device)
        device, workers = _place(device, workers)
        run = Run(study, store, Options(data_root, device, workers, retry, amend), changes)
        if plan:
            _show_plan(run, run.plan())
            return 0
        run.register()
        _work(run, hours, demand)
    return _write(study, store, folder, style, width)


def _changes(
    checkpoints: str | None,
    runs: Path | None,
    data: str | None,
    limit: int | None,
    model: str | None,
    baseline: str | None,
) -> dict[str, dict[str, Any]]:
    """What the options change in the study's file, by table."""
    given: dict[str, dict[str, Any]] = {
        "checkpoints": {"pattern": checkpoints, "runs": runs and str(runs), "model": model},
        "test": {"data": data, "limit": limit},
        "": {"baseline": baseline},
    }
    kept = {
        section: {key: value for key, value in keys.items() if value is not None}
        for section, keys in given.items()
    }
    return {section: keys for section, keys in kept.items() if keys}


def _as_asked(store: Any) -> "Study":
    """The study that a folder holds, whatever has become of its file."""
    from robustkit.study import spec

    asked = store.asked()
    if asked is None:
        raise InputError(f"{store.folder}: holds no study; run it without --only-report first")
    last = [asked, *asked["amendments"]][-1]
    return spec.of_text(last["file"], asked["name"], f"{store.folder}", last["changes"])


def _place(device: str, workers: int | None) -> tuple[str, int]:
    """Where cells are worked on, and how many at a time."""
    from robustkit.device import device as find

    found = find(device)
    if found.type != "cpu":
        return str(found), workers or 1
    return "cpu", workers or machine.cores()


def _demand(
    address: str | None,
    cpus: int | None,
    gpus: float | None,
    shared: str | None,
    most: int | None,
    device: str,
) -> "Demand | None":
    """What is asked of a Ray cluster; None: nothing."""
    if address is None:
        given = {"--cpus-per-cell": cpus, "--gpus-per-cell": gpus, "--shared": shared}
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} goes with --ray")
        return None
    from robustkit.study.ray import Demand

    return Demand(address, cpus or 1, 0 if device == "cpu" else gpus, shared or "", most)


def _work(run: "Run", hours: float | None, demand: "Demand | None") -> None:
    from robustkit.cli.terminal import StudyBar

    until = math.inf if hours is None else time.monotonic() + 3600 * hours
    with _crew(run, until, demand) as crew, StudyBar(run.study.name) as bar:
        run.finish(crew, bar.progress)


def _crew(run: "Run", until: float, demand: "Demand | None") -> "AbstractContextManager[Crew]":
    """Whoever carries out the jobs."""
    from robustkit.study.run import Processes, means

    if demand is None:
        return nullcontext(Processes(means(run), run.options.workers, until))
    from robustkit.study.ray import cluster

    return cluster(means(run), demand, until)


def _show_plan(run: "Run", plan: "Plan") -> None:
    from robustkit.cli.terminal import show_plan
    from robustkit.study.run import step_times

    show_plan(run, plan, step_times(run, plan))


def _of_runs(study: "Study", runs: Path, folder: Path, style: str, width: "Width | None") -> int:
    from robustkit import report as reports
    from robustkit.study.analysis import outcome
    from robustkit.study.findings import of_runs

    command = f"robustkit report {study.name} --runs {runs}"
    made = outcome(study, of_runs(study, runs, command))
    return _said(reports.write(made, folder, style, width), 0)


def _write(study: "Study", store: Any, folder: Path, style: str, width: "Width | None") -> int:
    """Write the report; 3 where something in it has failed."""
    from robustkit import report as reports
    from robustkit.study.analysis import outcome
    from robustkit.study.findings import of_store

    findings = of_store(study, store, f"robustkit report {study.name}")
    failed = any(cell.status == "failed" for cell in findings.cells)
    made = reports.write(outcome(study, findings), folder, style, width)
    return _said(made, 3 if failed else 0)


def _said(written: Any, status: int) -> int:
    sys.stdout.write(f"report: {written.page}\n")
    return status
