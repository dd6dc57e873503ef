"""`robustkit report`: from a study's file to its report, by way of whatever is missing."""

import math
import shlex
import time
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from robustkit import machine
from robustkit.cli import completion
from robustkit.cli.options import DataRoot, Device
from robustkit.cli.output import check_folder, say, tell
from robustkit.errors import EvaluationFailed, InputError
from robustkit.files import find

if TYPE_CHECKING:
    from robustkit.analysis.evidence import StudyEvidence
    from robustkit.figures import Width
    from robustkit.spec import Study
    from robustkit.study.cells import Plan
    from robustkit.study.forecast import Forecast
    from robustkit.study.ray import Demand
    from robustkit.study.run import Executor, Run


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
    from robustkit import spec
    from robustkit.study.store import StudyStore

    if hours is not None and not 0 <= hours < math.inf:
        raise InputError(f"--hours {hours:g}: expected a number of hours from 0 on")
    folder = out or Path(Path(name).stem)
    check_folder("--out", folder)
    store = StudyStore(folder / "work")
    report_style = _ReportStyle(folder, style, width)
    changes = _changes(checkpoints, runs, data, limit, model, baseline)
    if only_report and runs is None and store.asked() is None:
        return _again(name, report_style, amend)
    study = (
        _as_asked(store, name) if only_report and runs is None else spec.load_study(name, changes)
    )
    command = _command(name, study)
    if runs is not None or (study.external is not None and study.external.runs):
        source = runs or Path(study.external.runs)  # type: ignore[union-attr]
        return _of_runs(study, source, command, report_style)
    if not only_report:
        from robustkit.study.run import Run, StudyOptions

        demand = _demand(ray, cpus_per_cell, gpus_per_cell, shared, workers, device)
        device, workers = _place(device, workers)
        run = Run(study, store, StudyOptions(data_root, device, workers, retry, amend), changes)
        if plan:
            _show_plan(run, run.plan(), _lanes(run, demand))
            return 0
        run.register()
        _work(run, hours, demand)
    return _write(study, store, command, report_style)


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


def _command(name: str, study: "Study") -> str:
    """The command that asks the same: the study's name or path as given, and the options."""
    # a report may be written of a folder whose study bears another name
    given = name if study.name in (name, Path(name).stem) else f"{study.name}.toml"
    options = [
        part
        for keys in study.changes.values()
        for key, value in keys.items()
        for part in (f"--{'checkpoints' if key == 'pattern' else key}", str(value))
    ]
    return shlex.join(["robustkit", "report", given, *options])


def _as_asked(store: Any, name: str) -> "Study":
    """The study that a folder holds, whatever has become of its file; says so if it has changed."""
    from robustkit import spec

    asked = store.asked()
    last = [asked, *asked["amendments"]][-1]
    _tell_if_changed(name, last["file"])
    return spec.study_of_text(last["file"], asked["name"], f"{store.folder}", last["changes"])


def _tell_if_changed(name: str, text: str) -> None:
    with suppress(InputError, OSError, ValueError):  # a file that is gone has not changed
        path = find("reports", name)
        if path.read_text(encoding="utf-8") != text:
            said = "has changed since; the report is of the study as it was asked"
            tell(f"{path}: {said}")


def _tell_missing(study: "Study", methods: Collection[str]) -> None:
    from robustkit.analysis.findings import not_found

    for line in not_found(study, methods):
        tell(line)


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
    from robustkit.cli.terminal import StudyTable, announce

    until = math.inf if hours is None else time.monotonic() + 3600 * hours
    if run.options.retry:
        run.retry(run.plan())
    with _executor(run, until, demand) as executor:
        if run.missing(plan := run.plan()):
            announce(run, plan, _expected(run, plan), _lanes(run, demand))
        with StudyTable(run.study.name) as table:
            run.finish(executor, table.progress)


def _executor(
    run: "Run", until: float, demand: "Demand | None"
) -> "AbstractContextManager[Executor]":
    """Whoever carries out the jobs."""
    from robustkit.study.run import ProcessExecutor, worker_config

    if demand is None:
        return nullcontext(ProcessExecutor(worker_config(run), run.options.workers, until))
    from robustkit.study.ray import cluster

    return cluster(worker_config(run), demand, until)


def _lanes(run: "Run", demand: "Demand | None") -> int | None:
    """Cells at a time; None: a cluster decides."""
    return run.options.workers if demand is None else None


def _show_plan(run: "Run", plan: "Plan", workers: int | None) -> None:
    from robustkit.cli.terminal import show_plan

    _tell_missing(run.study, {wanted.method for wanted in plan.wanted})
    show_plan(run, plan, _expected(run, plan) if run.missing(plan) else None, workers)


def _expected(run: "Run", plan: "Plan") -> "Forecast | None":
    """How long the rest takes; None where that cannot be told, which stops nothing."""
    from robustkit.study.forecast import forecast, measured

    try:
        return forecast(run, plan, measured(run, plan))
    except EvaluationFailed:
        return None


class _ReportStyle(NamedTuple):
    """Where a report is written, and how its figures look."""

    folder: Path
    style: str
    width: "Width | None"


def _of_runs(study: "Study", runs: Path, command: str, report_style: _ReportStyle) -> int:
    from robustkit.analysis.evidence import collect
    from robustkit.analysis.record_folder import findings_of_records

    return _report(collect(study, findings_of_records(study, runs, command)), report_style)


def _write(study: "Study", store: Any, command: str, report_style: _ReportStyle) -> int:
    from robustkit.analysis.evidence import collect
    from robustkit.study.findings import findings_of_store

    return _report(collect(study, findings_of_store(study, store, command)), report_style)


def _again(name: str, report_style: _ReportStyle, amend: bool) -> int:
    """The report of a folder that has its evidence only."""
    from robustkit.analysis import evidence

    if not (path := report_style.folder / evidence.NAME).is_file():
        raise InputError(
            f"{report_style.folder}: holds neither work/ nor {evidence.NAME} to make a report "
            "from; run it without --only-report first"
        )
    found = evidence.read_evidence(path)
    if amend:
        found = _reworded(name, found)
    _tell_if_changed(name, found.study.text)
    return _report(found, report_style)


def _reworded(name: str, found: "StudyEvidence") -> "StudyEvidence":
    """The evidence with the words of the study's file as they are now, which its report tells.

    Raises:
        InputError: more than words has changed, which takes the study's networks.
    """
    from robustkit import spec
    from robustkit.analysis.evidence import collect
    from robustkit.study.amendments import reworded

    path, before = find("reports", name), found.study
    text = path.read_text(encoding="utf-8")
    study = spec.study_of_text(text, before.name, str(path), before.changes)
    if study.digest != before.digest:
        raise InputError(
            f"{path}: more than words has changed since {found.study.name} was published; only its "
            "networks can answer that: run it without --only-report"
        )
    changes = reworded(*({"file": one.text, "changes": one.changes} for one in (before, study)))
    told = "Wording amended after the results were in; what is judged is the same: "
    notes = (*([f"{told}{'; '.join(changes)}."] if changes else []), *found.findings.notes)
    return collect(study, replace(found.findings, notes=notes))


def _report(found: "StudyEvidence", report_style: _ReportStyle) -> int:
    """Write the report; 3 where something in it has failed."""
    from robustkit import reporting
    from robustkit.analysis.judge import judge_study

    _tell_missing(found.study, {number.method for number in found.findings.numbers})
    failed = any(cell.status == "failed" for cell in found.findings.cells)
    result = judge_study(found.study, found.findings)
    return _said(reporting.write(result, *report_style, found.content), 3 if failed else 0)


def _said(written: Any, status: int) -> int:
    say(f"report: {written.page}")
    return status
