"""Run a study: plan, work, choose, plan again, until nothing is missing."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from robustkit import machine
from robustkit.analysis.registration import RULES
from robustkit.data import Dataset, load_dataset
from robustkit.errors import InputError
from robustkit.keys import StepTimesKey
from robustkit.spec import Study, Tuning
from robustkit.spec.amendments import differences, edited, reworded
from robustkit.study.cells import Cell, Plan, Planner, Test, in_words
from robustkit.study.checks import check, check_unseen, locate_errors
from robustkit.study.exchange import network
from robustkit.study.external import ExternalPlanner
from robustkit.study.selection import Context, Scores, best_score, score_at
from robustkit.study.store import StudyStore
from robustkit.study.user_files import described_files
from robustkit.study.work import TIMING, Job, WorkerConfig, load_cached, time_steps

ROUNDS, STEPS = 15, 10
"""of timing: rounds, updates a round and before the first"""
TOLD = 3
"""changes of a study's file that a message names"""


class MethodCounts(NamedTuple):
    """How many cells of a method have come how far."""

    method: str
    done: int
    running: int
    failed: int
    """those of which an evaluation has failed included"""
    left: int
    """as far as known: choices can only be made when their cells are done"""


class RunningCell(NamedTuple):
    """A cell under way."""

    cell: str
    """in words"""
    since: float
    """by `time.monotonic`"""


class FinishedCell(NamedTuple):
    """A cell that has just been worked off."""

    cell: str
    """in words"""
    seconds: float
    reason: str
    """why it has failed; "" where it has not"""


class StudyProgress(NamedTuple):
    """How far a study has come, for whoever watches."""

    counts: tuple[MethodCounts, ...]
    running: tuple[RunningCell, ...]
    """the longest first"""
    ended: FinishedCell | None
    """the news, if it is that"""
    seconds: float | None
    """still to go, as far as can be told"""

    @property
    def failed(self) -> int:
        """Cells that came to nothing."""
        return sum(count.failed for count in self.counts)

    @property
    def done(self) -> int:
        """Cells that are over, failed or not."""
        return self.failed + sum(count.done for count in self.counts)

    @property
    def total(self) -> int:
        """Cells in all."""
        return self.done + sum(count.running + count.left for count in self.counts)


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """How a study is run; none of it is part of what is asked."""

    data_root: Path | None = None
    device: str = "cpu"
    workers: int = 1
    retry: bool = False
    """try failed cells again"""
    amend: bool = False
    """go on although the file asks something else than it did at first"""


class Executor(Protocol):
    """Whoever carries out jobs."""

    def execute(self, jobs: Sequence[Job], began: Callable[[Job], None]) -> Iterator[Job]:
        """Carry out jobs; each is yielded when it is done."""


@dataclass(slots=True)
class Run:
    """A study at work."""

    study: Study
    store: StudyStore
    options: StudyOptions
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """to the study's file, see `spec.load_study`"""
    planner: Planner | ExternalPlanner = field(init=False)

    def __post_init__(self) -> None:
        check(self.study)
        if self.study.trained is not None:
            name = self.study.trained.data
            with locate_errors(f"{self.study.where}: [train] data"):
                data = load_dataset(name, split="train", root=self.options.data_root)
            self.planner = planner = Planner(self.study, self.study.trained, data, self.tested)
            with locate_errors(f"{self.study.where}: [train]"):
                planner.check_images()
            with locate_errors(f"{self.study.where}: [test] data"):
                check_unseen(data, self._images(self.study.tested.limit))
        elif self.study.external is not None:
            self.planner = ExternalPlanner(self.study, self.study.external, self.tested)
        self.tested(self.study.tested.limit)  # missing images are told before the first cell

    def tested(self, limit: int | None) -> str:
        """The digest of the first test images: under one name there may be other ones tomorrow."""
        with locate_errors(f"{self.study.where}: [test] data"):
            return self._images(limit).digest

    def _images(self, limit: int | None) -> Dataset:
        tested = self.study.tested
        return load_cached(tested.data, tested.split, limit, self.options.data_root)

    def named(self) -> dict[str, str | None]:
        """Digests of what the study's file names; None: it is not there, or robustkit's own."""
        tested, images = self.study.tested, {}
        for limit in sorted({one.limit or tested.limit or 0 for one in self.study.analyses}):
            which = f"{tested.split}, first {limit}" if limit else tested.split
            images[f"images of {tested.data!r}, {which}"] = self.tested(limit or None)
        return self.planner.named() | described_files(self.study) | images

    def register(self) -> None:
        """Write down what is asked before anything is trained, and keep its words up to date.

        When cells are done, the words of claims, and the contents of the files that the study
        names, are as fixed as what they ask.

        Raises:
            InputError: the folder holds a study that asked something else, or nothing can be
                planned: then nothing is written down.
        """
        self.planner.plan()
        self._put_down()
        self._untimed()

    def _put_down(self) -> None:
        changes = {section: dict(keys) for section, keys in self.changes.items()}
        now = {"digest": self.study.digest, "file": self.study.text, "changes": changes}
        now |= {"user_files": self.named(), "rules": list(RULES)}
        request = self.store.asked()
        if request is None:
            self.store.keep_asked(now | {"name": self.study.name, "amendments": []})
            return
        last = [request, *request["amendments"]][-1]
        done = sum(1 for _ in (self.store.folder / "cells").glob("*.json"))
        same = last["digest"] == now["digest"]
        told = [*reworded(last, now), *edited(last, now)] if same else differences(last, now)
        said = [change.text for change in told]
        if same and not (done and said):
            # only what is written for readers can differ; a rule is as old as the first result
            last |= now | ({"rules": last.get("rules", [])} if done else {})
            self.store.keep_asked(request | {"name": self.study.name})
            return
        if not self.options.amend:
            what = f" ({'; '.join(said[:TOLD])})" if said else ""
            raise InputError(
                f"{self.store.folder}: contains a study with other claims, margins or "
                f"cells{what}; give another --out, or --amend to continue, which the report "
                "will mention"
            )
        request["amendments"].append(now | {"cells_done": done})
        self.store.keep_asked(request)

    def plan(self) -> Plan:
        """The plan by what is done so far."""
        return self.planner.plan(self._scores())

    def _scores(self) -> Scores:
        """What held-out labels say of the cells that are tried, as far as these have come."""
        tuning = self.study.tuning or Tuning()
        score, end, best = tuning.recorded_score, dict[str, float](), dict[str, float]()
        rungs = tuple(dict[str, float]() for _ in tuning.halving)
        for one in self.planner.plan().candidates:
            if (done := self.store.cell(one.cell)) is not None:
                end[one.cell] = score_at(done, score)
                best[one.cell] = best_score(done, score)
            for known, number in zip(rungs, self._rungs(one.context), strict=True):
                made = self.store.rung(f"{one.cell}-pass{number}") or done
                if made is not None:
                    known[one.cell] = score_at(made, score, number)
        return Scores(end, best, rungs)

    def _rungs(self, where: Context) -> tuple[int, ...]:
        planner = self.planner
        return planner.rungs(where) if isinstance(planner, Planner) else ()

    def missing(self, plan: Plan) -> list[Job]:
        """The jobs that can be done now."""
        tests = self._ready(plan)
        jobs = []
        for key, cell in plan.cells.items():
            if key in plan.dropped or not (tests[key] or self.store.cell(key) is None):
                continue
            if self.store.cell(key) is not None and not self._done(key):
                continue
            pause = plan.pauses.get(key)
            passed = [f"{key}-pass{number}" for number in self._rungs(cell.context)]
            rungs = tuple(name for name in passed if self.store.rung(name) is not None)
            if pause is None or f"{key}-pass{pause}" not in rungs:
                jobs.append(Job(cell, tuple(tests[key]), pause, rungs))
        return jobs

    def _ready(self, plan: Plan) -> dict[str, list[Test]]:
        """By cell: its missing evaluations for which all is there that they need."""
        tests: dict[str, list[Test]] = {key: [] for key in plan.cells}
        untrained = [k for k in plan.cells if k not in plan.dropped and self.store.cell(k) is None]
        last = self.study.tuning.test_last if self.study.tuning else "no"
        if last == "all seeds" and (untrained or plan.later):
            return tests
        # a seed that has yet to choose has candidates that are not trained
        waiting = {plan.cells[key].seed for key in untrained} if last == "by seed" else set()
        for test in plan.tests.values():
            ready = not test.surrogate or self._done(test.surrogate)
            waits = plan.cells[test.cell].seed in waiting
            if ready and not waits and self.store.test(test.key) is None:
                tests[test.cell].append(test)
        return tests

    def _stage(self, jobs: list[Job]) -> list[Job]:
        """What is done before the plan is made anew.

        Where every seed chooses, the trainings of one and what can be evaluated: when time runs
        out, whole seeds can be compared, and not none.
        """
        tuning = self.study.tuning
        if tuning is None or not tuning.every_seed:
            return jobs
        seeds = [job.cell.seed for job in jobs if self.store.cell(job.cell.key) is None]
        now = {*seeds[:1], tuning.seed}  # surrogates soon: evaluations wait for them
        return [job for job in jobs if job.cell.seed in now or self._done(job.cell.key)]

    def _done(self, key: str) -> bool:
        return _status(self.store.cell(key)) == "done"

    def retry(self, plan: Plan) -> None:
        """Forget what has failed, and write down where that can change what is chosen."""
        tried = {one.cell for one in plan.candidates}
        again = sum(_status(self.store.cell(key)) == "failed" for key in tried)
        request, seen = self.store.asked(), any((self.store.folder / "tests").glob("*.json"))
        if again and seen and request is not None:
            self.store.keep_asked(request | {"retried": request.get("retried", 0) + again})
        for kind, keys in (("cell", plan.cells), ("test", plan.tests)):
            for key in keys:
                cached = self.store.cell(key) if kind == "cell" else self.store.test(key)
                if _status(cached) == "failed":
                    self.store.forget(kind, key)

    def _with_networks(self, plan: Plan, kept: set[str]) -> Plan:
        """The plan, in which trainings whose networks are wanted and gone are not done.

        That is how a study goes on whose folder came without its networks.

        Args:
            plan: by what is done so far.
            kept: trainings that are not looked at again.
        """
        tests = [test for test in plan.tests.values() if self.store.test(test.key) is None]
        new = {key for test in tests for key in (test.cell, test.surrogate)} - {"", *kept}
        kept |= new
        found = False
        for key in new:
            paths = [self.store.folder / path for path in network(self.store.cell(key) or {})]
            if not all(path.exists() for path in paths):
                found = True
                self.store.forget("cell", key)
                for path in paths:  # what is left of it would be taken for all of it
                    path.unlink(missing_ok=True)
        return self.plan() if found else plan

    def finish(
        self, executor: Executor, progress: Callable[[StudyProgress], None] = lambda state: None
    ) -> Plan:
        """Work until nothing is missing, or time is up; the plan as it ended."""
        if self.options.retry:
            self.retry(self.plan())
        clock = _Clock(progress, self.store)
        kept: set[str] = set()
        while missing := self.missing(plan := self._with_networks(self.plan(), kept)):
            self.store.keep_plan(plan)
            clock.stage(plan, missing)
            jobs, done = self._stage(missing), 0
            for job in executor.execute(jobs, clock.began):
                clock.ended(job)
                done += 1
            if done < len(jobs):
                plan = self.plan()
                break  # time is up
        self.store.keep_plan(plan)
        for name, (key, cells) in self._untimed().items():
            self._time(name, key, cells)
        return plan

    def _untimed(self) -> dict[str, tuple[str, list[Cell]]]:
        """By analysis of cost: what is to be timed, with its key.

        Other times are forgotten: whoever judges them would not see that they are of what was
        asked before.
        """
        found, planner = {}, self.planner
        device = self.options.device.partition(":")[0]
        for one in self.study.analyses:
            if one.factor == "cost" and isinstance(planner, Planner):
                cells = planner.timed(one)
                asked = [cell.asked for cell in cells]
                key = StepTimesKey(cells=asked, device=device, revision=TIMING).digest
                if (self.store.cost(one.name) or {}).get("asked") != key:
                    self.store.forget("cost", one.name)
                    found[one.name] = key, cells
        return found

    def _time(self, name: str, key: str, cells: Sequence[Cell]) -> None:
        threads = machine.threads()
        alone = WorkerConfig(
            self.store.folder, self.options.data_root, self.options.device, threads
        )
        seconds = time_steps(cells, alone, ROUNDS, STEPS)
        self.store.keep(
            "cost",
            name,
            {"asked": key, "seconds": seconds, "threads": threads, "steps": STEPS},
        )


@dataclass(slots=True)
class _Clock:
    """Counts what is done, and tells when the rest will be."""

    progress: Callable[[StudyProgress], None]
    store: StudyStore
    cells: dict[str, Cell] = field(default_factory=dict)
    later: dict[str, int] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    """keys of what this stage has not finished, the running included"""
    failed: set[str] = field(default_factory=set)
    running: dict[str, RunningCell] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)
    lanes: int = 1
    """jobs that were ever done at a time: a stage ends with fewer"""

    def stage(self, plan: Plan, jobs: Sequence[Job]) -> None:
        self.cells, self.later = plan.cells, plan.later
        self.left = {job.cell.key for job in jobs}
        tests: dict[str, list[Test]] = {key: [] for key in plan.cells}
        for test in plan.tests.values():
            tests[test.cell].append(test)
        self.failed = {key for key in plan.cells if _why_failed(self.store, key, tests[key])}
        self._tell()

    def began(self, job: Job) -> None:
        self.running[job.cell.key] = RunningCell(in_words(job.cell), time.monotonic())
        self.lanes = max(self.lanes, len(self.running))
        self._tell()

    def ended(self, job: Job) -> None:
        now, key = time.monotonic(), job.cell.key
        words, since = self.running.pop(key, RunningCell(in_words(job.cell), now))
        self.took.append(now - since)
        if self.store.cell(key) is not None:  # else its training waits for others
            self.left.discard(key)
        reason = _why_failed(self.store, key, job.tests)
        if reason:
            self.failed.add(key)
        self._tell(FinishedCell(words, now - since, reason))

    def _tell(self, ended: FinishedCell | None = None) -> None:
        running = sorted(self.running.values(), key=lambda one: one.since)
        state = StudyProgress(self._counts(), tuple(running), ended, None)
        if self.took:
            mean = sum(self.took) / len(self.took)
            seconds = mean * (state.total - state.done) / self.lanes
            state = state._replace(seconds=seconds)
        self.progress(state)

    def _counts(self) -> tuple[MethodCounts, ...]:
        counts = Counter((cell.method, self._state(key)) for key, cell in self.cells.items())
        methods = dict.fromkeys([*(cell.method for cell in self.cells.values()), *self.later])
        return tuple(
            MethodCounts(
                method,
                counts[method, "done"],
                counts[method, "running"],
                counts[method, "failed"],
                counts[method, "left"] + self.later.get(method, 0),
            )
            for method in methods
        )

    def _state(self, key: str) -> str:
        if key in self.running:
            return "running"
        if key in self.left:
            return "left"
        return "failed" if key in self.failed else "done"


def _status(result: Mapping[str, Any] | None) -> str:
    return "" if result is None else str(result["status"])


def _why_failed(store: StudyStore, key: str, tests: Sequence[Test]) -> str:
    """Why a cell, or the first of these evaluations that did, has failed; "" where none has."""
    cached = store.cell(key)
    if cached is None or cached["status"] == "failed":
        return "" if cached is None else str(cached["reason"])
    for test in tests:
        result = store.test(test.key)
        if result is not None and result["status"] == "failed":
            by = f" in {test.norm}" if test.norm else ""
            return f"evaluation by {test.protocol}{by}: {result['reason']}"
    return ""


def worker_config(run: Run) -> WorkerConfig:
    """What a worker of this machine works with."""
    threads = machine.threads(run.options.workers)
    return WorkerConfig(run.store.folder, run.options.data_root, run.options.device, threads)
