"""`robustkit.report`: from a study's file to its report, by way of whatever is missing."""

import math
import shlex
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, overload

from robustkit import machine, reporting, spec
from robustkit.analysis import evidence, judge
from robustkit.analysis.evidence import StudyEvidence, collect
from robustkit.analysis.findings import not_found
from robustkit.analysis.outcome import Outcome
from robustkit.analysis.record_folder import findings_of_records
from robustkit.calls import tracking
from robustkit.calls.given import path_of
from robustkit.calls.spoken import spoken
from robustkit.defaults import torch_defaults
from robustkit.display.progress import seen
from robustkit.display.stream import tell
from robustkit.display.studies import StudyPlan, StudyTable
from robustkit.errors import EvaluationFailed, InputError, UnknownName
from robustkit.figures import STYLES, Width
from robustkit.files import find, given_path, whole_number
from robustkit.spec import Study
from robustkit.study.cells import Plan
from robustkit.study.findings import findings_of_store
from robustkit.study.forecast import Forecast, forecast, measured
from robustkit.study.processes import ProcessExecutor
from robustkit.study.ray import Demand, cluster
from robustkit.study.run import Executor, Run, StudyOptions, worker_config
from robustkit.study.store import RetriedStore, StudyStore

if TYPE_CHECKING:
    from robustkit.tracking import Tracker


@overload
def report(name: str | Path, *, plan: Literal[True], **asked: Any) -> StudyPlan: ...
@overload
def report(
    name: str | Path,
    *,
    out: Path | str | None = None,
    plan: Literal[False] = False,
    only_report: bool = False,
    checkpoints: Path | str | None = None,
    runs: Path | str | None = None,
    data: Path | str | None = None,
    data_root: Path | str | None = None,
    limit: int | None = None,
    model: str | None = None,
    baseline: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    hours: float | None = None,
    ray: str | None = None,
    cpus_per_cell: int | None = None,
    gpus_per_cell: float | None = None,
    shared: str | None = None,
    retry: bool = False,
    amend: bool = False,
    style: str = "neurips",
    width: Width | None = None,
    track: str | None = None,
    command: str | None = None,
    progress: bool | None = None,
) -> Outcome: ...
@torch_defaults()  # type: ignore[misc]  # the first overload leaves its keywords open
def report(
    name: str | Path,
    *,
    out: Path | str | None = None,
    plan: bool = False,
    only_report: bool = False,
    checkpoints: Path | str | None = None,
    runs: Path | str | None = None,
    data: Path | str | None = None,
    data_root: Path | str | None = None,
    limit: int | None = None,
    model: str | None = None,
    baseline: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    hours: float | None = None,
    ray: str | None = None,
    cpus_per_cell: int | None = None,
    gpus_per_cell: float | None = None,
    shared: str | None = None,
    retry: bool = False,
    amend: bool = False,
    style: str = "neurips",
    width: Width | None = None,
    track: str | None = None,
    command: str | None = None,
    progress: bool | None = None,
) -> Outcome | StudyPlan:
    """Train and evaluate what a study still needs, and write its report.

        found = robustkit.report("adversarial", out="adversarial")
        found.judgements

    A script that calls it does so under `if __name__ == "__main__":`, since cells are worked off in
    processes of their own.

    Args:
        name: of a study, or its file.
        out: folder of the report; otherwise the study's name.
        plan: return what is missing and how long it takes, and stop there.
        only_report: train nothing; report the cached results, as they were asked for.
        checkpoints: pattern of external networks: "nets/{loss}_seed{seed}.pt".
        runs: a folder of evaluations, instead of networks.
        data: what networks are tested on; with `runs`, evaluations on this data set only.
        data_root: where the files of known data sets stand.
        limit: only the first so many images.
        model: architecture of external networks.
        baseline: the method that the others are compared with.
        device: "cpu", "cuda:1"; "auto" takes a GPU.
        workers: cells at a time; otherwise one per core, on a GPU one.
        hours: start no further cell after this time; report what is done.
        ray: work on a Ray cluster: "auto" or its address.
        cpus_per_cell: cores of a cell on Ray.
        gpus_per_cell: GPUs of a cell on Ray.
        shared: what Ray's workers reach, if not `out`: "s3://bucket/study".
        retry: retry failed cells.
        amend: accept a changed file; the report says what changed.
        style: of the figures: neurips, icml, ieee or talk.
        width: of the figures, in columns: "single" or "double".
        track: where the report is tracked: mlflow, wandb or tensorboard, with `:WHERE`.
        command: what the tracker is told it was made by; otherwise this call.
        progress: whether it is shown how far the study is; otherwise where that is seen.

    Raises:
        InputError: the study's file, or something given, makes no sense.
    """
    command = command or spoken("report", report, locals())
    if hours is not None and not 0 <= hours < math.inf:
        raise InputError(f"--hours {hours:g}: expected a number of hours, 0 or more")
    _check_look(style, width)
    given = {"--workers": workers, "--cpus-per-cell": cpus_per_cell}
    for option, value in given.items():
        if value is not None:
            whole_number(value, option, least=1)
    # of what is trained and evaluated, which a report of what is there is not to be asked for
    works: dict[str, Any] = {**given, "--retry": retry or None, "--hours": hours, "--ray": ray}
    works |= {"--shared": shared, "--gpus-per-cell": gpus_per_cell, "--data-root": data_root}
    works |= {"--device": None if device == "auto" else device}
    if plan and track is not None:
        raise InputError("--track does not go with --plan: nothing is reported")
    name, folder = str(given_path(name, "a study")), Path(out or Path(name).stem)
    store, source = StudyStore(folder / "work"), path_of(runs)
    output = _Output(folder, style, width, tracking.asked(track), command)
    changes = _changes(checkpoints, source, data, limit, model, baseline)
    _check_only_report(only_report, source, works={"--plan": plan or None} | works, changes=changes)
    if only_report and source is None and store.asked() is None:
        return _again(name, output, amend)
    study = (
        _as_asked(store, name, amend)
        if only_report and source is None
        else spec.load_study(name, changes)
    )
    again = _command(name, study)
    if source is not None or (study.external is not None and study.external.runs):
        if plan:
            raise InputError("--plan does not go with --runs: nothing is trained or evaluated")
        _check_of_runs(works | {"--amend": amend or None}, changes)
        source = source or Path(study.external.runs)  # type: ignore[union-attr]
        return _of_runs(study, source, again, output)
    if not only_report:
        demand = _demand(ray, cpus_per_cell, gpus_per_cell, shared, workers, device)
        device, workers = _place(device, workers)
        options = StudyOptions(path_of(data_root), device, workers, retry, amend)
        if plan:
            there = RetriedStore(store.folder) if retry else store
            return _planned(Run(study, there, options, changes), demand)
        run = Run(study, store, options, changes)
        with store.claimed():
            run.register()
            _work(run, hours, demand, seen(progress))
    return _write(study, store, again, output)


def _planned(run: Run, demand: Demand | None) -> StudyPlan:
    """What is missing, and how long it takes."""
    plan = run.plan()
    _tell_missing(run.study, {wanted.method for wanted in plan.wanted})
    expected = _expected(run, plan) if run.missing(plan) else None
    return StudyPlan(run, plan, expected, _lanes(run, demand))


def _changes(
    checkpoints: Path | str | None,
    runs: Path | None,
    data: Path | str | None,
    limit: int | None,
    model: str | None,
    baseline: str | None,
) -> dict[str, dict[str, Any]]:
    """What the options change in the study's file, by table."""
    given: dict[str, dict[str, Any]] = {
        "checkpoints": {
            "pattern": checkpoints and str(checkpoints),
            "runs": runs and str(runs),
            "model": model,
        },
        "test": {"data": data and str(data), "limit": limit},
        "": {"baseline": baseline},
    }
    kept = {
        section: {key: value for key, value in keys.items() if value is not None}
        for section, keys in given.items()
    }
    return {section: keys for section, keys in kept.items() if keys}


def _check_only_report(
    only_report: bool,
    runs: Path | None,
    *,
    works: Mapping[str, Any],
    changes: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise InputError where a report of what is there is asked for something else."""
    if not only_report:
        return
    for option, given in works.items():
        if given is not None:
            raise InputError(f"{option} does not go with --only-report: nothing is trained")
    if runs is None and changes:
        raise InputError(
            f"{_options(changes)[0]} does not go with --only-report: the report is of the study "
            "as it was asked; leave one of them out"
        )


def _check_of_runs(works: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError where a report of evaluations is asked for what it would ignore.

    That a number of images, an architecture or other networks were asked for would stand on the
    page, beside numbers of other ones.
    """
    networks, limit = changes.get("checkpoints", {}), changes.get("test", {}).get("limit")
    asked = {"--limit": limit, "--model": networks.get("model")}
    asked |= {"--checkpoints": networks.get("pattern")}
    for option, given in {**works, **asked}.items():
        if given is not None:
            raise InputError(
                f"{option} does not go with --runs: the report is of the evaluations in it, and "
                "nothing is trained or evaluated"
            )


def _check_look(style: str, width: Width | None) -> None:
    """Raise InputError where figures cannot look so, before the time that a study takes."""
    if style not in STYLES:
        raise UnknownName("style", style, STYLES)
    if width is not None and width not in get_args(Width):
        raise UnknownName("width", width, get_args(Width))


def _options(changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The options and values that change a study's file, as on a command line."""
    return [
        part
        for keys in changes.values()
        for key, value in keys.items()
        for part in (f"--{'checkpoints' if key == 'pattern' else key}", str(value))
    ]


def _command(name: str, study: Study) -> str:
    """The command that asks the same: the study's name or path as given, and the options."""
    # a report may be written of a folder whose study bears another name
    given = name if study.name in (name, Path(name).stem) else f"{study.name}.toml"
    return shlex.join(["robustkit", "report", given, *_options(study.changes)])


def _as_asked(store: Any, name: str, amend: bool) -> Study:
    """The study that a folder holds, whatever has become of its file; says so if it has changed.

    Raises:
        InputError: its file is to be accepted as it is now, which only a run puts on record.
    """
    if amend:
        raise InputError(
            f"--amend does not go with --only-report: {store.folder} has the study as it was "
            "asked, and a run without --only-report accepts what has changed"
        )
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


def _tell_missing(study: Study, methods: Collection[str]) -> None:
    for line in not_found(study, methods):
        tell(line)


def _place(device: str, workers: int | None) -> tuple[str, int]:
    """Where cells are worked on, and how many at a time."""
    found = import_module("robustkit.device").device(device)  # torch
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
) -> Demand | None:
    """What is asked of a Ray cluster; None: nothing."""
    if address is None:
        given = {"--cpus-per-cell": cpus, "--gpus-per-cell": gpus, "--shared": shared}
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} goes with --ray")
        return None
    return Demand(address, cpus or 1, 0 if device == "cpu" else gpus, shared or "", most)


def _work(run: Run, hours: float | None, demand: Demand | None, shown: bool) -> None:
    until = math.inf if hours is None else time.monotonic() + 3600 * hours
    if run.options.retry:
        run.retry(run.plan())
    with _executor(run, until, demand) as executor:
        if not shown:
            run.finish(executor, lambda state: None)
            return
        if run.missing(plan := run.plan()):
            told = StudyPlan(run, plan, _expected(run, plan), _lanes(run, demand))
            tell(f"{run.study.name}: {told.text}")
        with StudyTable(run.study.name) as table:
            run.finish(executor, table.progress)


def _executor(run: Run, until: float, demand: Demand | None) -> AbstractContextManager[Executor]:
    """Whoever carries out the jobs."""
    if demand is None:
        return nullcontext(ProcessExecutor(worker_config(run), run.options.workers, until))
    return cluster(worker_config(run), demand, until)


def _lanes(run: Run, demand: Demand | None) -> int | None:
    """Cells at a time; None: a cluster decides."""
    return run.options.workers if demand is None else None


def _expected(run: Run, plan: Plan) -> Forecast | None:
    """How long the rest takes; None where that cannot be told, which stops nothing."""
    try:
        return forecast(run, plan, measured(run, plan))
    except EvaluationFailed:
        return None


class _Output(NamedTuple):
    """Where the report is written, how its figures look, and who is told of it."""

    folder: Path
    style: str
    width: Width | None
    tracker: "Tracker | None"
    command: str
    """what the tracker is told"""


def _of_runs(study: Study, runs: Path, command: str, output: _Output) -> Outcome:
    return _report(collect(study, findings_of_records(study, runs, command)), output)


def _write(study: Study, store: Any, command: str, output: _Output) -> Outcome:
    return _report(collect(study, findings_of_store(study, store, command)), output)


def _again(name: str, output: _Output, amend: bool) -> Outcome:
    """The report of a folder that has its evidence only."""
    if not (path := output.folder / evidence.NAME).is_file():
        raise InputError(
            f"{output.folder}: contains neither work/ nor {evidence.NAME} to make a report "
            "from; run it without --only-report first"
        )
    found = evidence.read_evidence(path)
    if amend:
        found = _reworded(name, found)
    _tell_if_changed(name, found.study.text)
    return _report(found, output)


def _reworded(name: str, found: StudyEvidence) -> StudyEvidence:
    """The evidence with the words of the study's file as they are now, beside those of before.

    Raises:
        InputError: more than words has changed, which takes the study's networks.
    """
    path, before = find("reports", name), found.study
    text = path.read_text(encoding="utf-8")
    study = spec.study_of_text(text, before.name, str(path), before.changes)
    if study.digest != before.digest:
        raise InputError(
            f"{path}: more than words has changed since {found.study.name} was published; only its "
            "networks can answer that: run it without --only-report"
        )
    return collect(study, found.findings)


def _report(found: StudyEvidence, output: _Output) -> Outcome:
    """Write the report."""
    _tell_missing(found.study, {number.method for number in found.findings.numbers})
    outcome = judge.judge_study(found.study, found.findings)
    reporting.write(outcome, output.folder, output.style, output.width, found.content)
    tracking.track_study(output.tracker, outcome, output.folder, output.command)
    return outcome
