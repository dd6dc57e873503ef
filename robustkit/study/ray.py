"""A study's jobs on a Ray cluster, a task each; Ray is imported when it is asked for.

All machines see the study's folder, or each works in a scratch folder of its own and exchanges
files with a URL that all reach. Either way a result is there whole or not at all, after all that it
speaks of; a job that is done twice, because its worker only seemed lost, comes to the same.
"""

import math
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from filelock import FileLock

from robustkit.checkpoint import named
from robustkit.errors import InputError, RobustkitError
from robustkit.parallel.cluster import PAUSE, Cluster, connected
from robustkit.study.cells import in_words
from robustkit.study.exchange import (
    Exchange,
    files,
    json_of,
    network,
    results_of,
    state_of,
    surrogates,
)
from robustkit.study.processes import Left, WorkerLoss
from robustkit.study.store import StudyStore
from robustkit.study.user_files import check_user_files
from robustkit.study.work import Job, WorkerConfig, carry_out, load_cached

SLEEP = 0.5
"""seconds until the next look at a cluster that has no room"""
SETTLING = 60.0
"""seconds after which a file written elsewhere must be seen here; NFS remembers absent ones"""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of a cluster."""

    address: str = "auto"
    """auto: the one named by RAY_ADDRESS, or else one started here"""
    cpus: int = 1
    """of a cell, which computes with as many threads"""
    gpus: float | None = None
    """of a cell, shared out in fractions; None: one where there are any"""
    shared: str = ""
    """URL that results go through; "": every machine sees the study's folder"""
    most: int | None = None
    """cells at a time; None: as many as there is room for"""


@dataclass(frozen=True, slots=True)
class Site:
    """What a worker has to know of where it works."""

    config: WorkerConfig
    start: Path
    """what relative names begin at"""
    mark: str
    """name of a file by which a worker knows that it sees the same place"""
    shared: str = ""

    @property
    def exchange(self) -> "Exchange":
        """The place that all machines see."""
        return Exchange(self.shared or str(self.config.folder))


# --- a worker -------------------------------------------------------------------------------------


def attend(job: Job, site: Site) -> str:
    """Do a job on whatever machine this is; "", or why this machine cannot do it."""
    with suppress(OSError):
        os.chdir(site.start)
    try:
        if site.exchange.get(site.mark) is None:
            raise InputError(_unseen(site))
        if site.shared:
            _in_scratch(job, site)
        else:
            _in_folder(job, site.config)
    except RobustkitError as error:
        return f"{platform.node()}: {error}"
    return ""


def _unseen(site: Site) -> str:
    if site.shared:
        return f"does not see what others write to {site.shared}; give a --shared that all reach"
    return (
        f"does not see the study's folder {site.config.folder}; put --out on a file system "
        "that all machines share, or give --shared URL"
    )


def _in_folder(job: Job, config: WorkerConfig) -> None:
    # one that is given up for lost may still be at work, and would be in the way of this one
    claim = config.folder / "cells" / f"{job.cell.key}.lock"
    claim.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(claim):
        _do(job, config)


def _in_scratch(job: Job, site: Site) -> None:
    """Do a job in a folder of its own; what it needs and what it makes go through the URL."""
    exchange, key = site.exchange, job.cell.key
    with TemporaryDirectory(prefix="robustkit-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        fetched = _fetch(job, exchange, scratch)
        _do(job, replace(site.config, folder=scratch))
        if json_of("cell", key) in fetched or exchange.done("cell", key) is None:
            for made in files(job, results_of(StudyStore(scratch))):
                if made not in fetched and (scratch / made).exists():
                    exchange.put(made, (scratch / made).read_bytes())
            return
    # another was faster, and rows belong to one network: go on with that one
    _in_scratch(job, site)


def _fetch(job: Job, exchange: Exchange, folder: Path) -> set[str]:
    """Bring what a job builds on, and what is done of it already; the files' names."""
    key, names = job.cell.key, []
    for other in surrogates(job):
        cell = exchange.done("cell", other)
        if cell is None:
            raise InputError(
                f"{exchange.url}: lacks the network {other}, from which the attack transfers"
            )
        names += [*network(cell), json_of("cell", other)]
    if (cell := exchange.done("cell", key)) is not None:
        names += [*network(cell), json_of("cell", key)]
        names += [json_of("test", t.key) for t in job.tests if exchange.done("test", t.key)]
    elif job.rungs and (rung := exchange.done("rung", job.rungs[-1])) is not None:
        names += [*network(rung), state_of(key)]
    for name in names:
        exchange.bring(name, folder)
    return {*names} - {state_of(key)}  # which changes as the training goes on


def _do(job: Job, config: WorkerConfig) -> None:
    if StudyStore(config.folder).cell(job.cell.key) is None:
        _check_training(job.cell.asked, config)
    check_user_files(job.cell.asked)
    for test in job.tests:
        _data(test.data, test.split, test.limit, config.data_root)
    carry_out(job, config)


def _check_training(cell_config: dict[str, Any], config: WorkerConfig) -> None:
    """See that this machine has what a cell is made of; a lack is no result of the study.

    Raises:
        InputError: it hasn't.
    """
    if (path := cell_config.get("checkpoint")) is not None:
        if named.parse(path) is None and not Path(path).exists():
            raise InputError(f"{path}: not on this machine; put it where every machine sees it")
        return
    name = cell_config["data"]["name"]
    if _data(name, "train", None, config.data_root).digest != cell_config["data"]["digest"]:
        raise InputError(
            f"{name}: differs from the images that the study began with; copy them again"
        )


def _data(name: str, split: str, limit: int | None, root: Path | None) -> Any:
    try:
        return load_cached(name, split, limit, root)
    except RobustkitError as error:
        raise InputError(
            f"{error}; every machine reads the data from its own disk, so --data-root must "
            "be valid there"
        ) from error


# --- the cluster ----------------------------------------------------------------------------------


class _RemoteTask(NamedTuple):
    """A job under way."""

    job: Job
    reference: Any
    """Ray's name for its result"""


@dataclass(frozen=True, slots=True)
class RayExecutor:
    """Ray workers, on as many machines as there are; a job whose worker is lost is tried again."""

    cluster: Cluster
    site: Site
    most: int | None = None
    until: float = math.inf
    """time by `time.monotonic` after which no further job begins"""

    def execute(self, jobs: Sequence[Job], began: Callable[[Job], None]) -> Iterator[Job]:
        """Carry out jobs; each is yielded when its results are in the study's folder.

        Raises:
            InputError: a machine lacks something, or, when all else is done, some job's workers
                have been lost too often.
            EvaluationFailed: the cluster is gone.
        """
        left, running = Left(list(reversed(jobs))), dict[Future[str], _RemoteTask]()
        try:
            while left.waiting or running:
                if time.monotonic() > self.until:
                    left.waiting.clear()
                for job in left.take(self.cluster.room(self.most) - len(running)):
                    task = self._submit(job)
                    running[task.reference.future()] = task
                    began(job)
                if not running:
                    time.sleep(SLEEP)
                # not by ray.wait, which turns a signal's exception into an error of its own
                for done in wait(running, PAUSE, FIRST_COMPLETED).done:
                    job = running.pop(done).job
                    if loss := self._lost(done):
                        left.again(job, loss)
                    else:
                        self._bring(job)
                        yield job
        finally:
            for task in running.values():
                self.cluster.ray.cancel(task.reference, force=True)
        left.settle("give a cell more with --cpus-per-cell or --gpus-per-cell")

    def lanes(self) -> int:
        """How many cells the cluster as it is now has room for."""
        return self.cluster.lanes()

    def _submit(self, job: Job) -> _RemoteTask:
        self._offer(job)
        # Ray would try again by itself, but without end where a worker is killed for its memory
        cpus, gpus = self.cluster.cpus, self.cluster.gpus
        task = self.cluster.ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(attend)
        return _RemoteTask(job, task.remote(job, self.site))

    def _lost(self, done: Future[str]) -> WorkerLoss | None:
        """How a task's worker was lost; None where it was not.

        Raises:
            InputError: its machine could not do the job.
        """
        errors = self.cluster.ray.exceptions
        try:
            refused = done.result()
        except errors.RayTaskError as error:
            self.cluster.check_installed(error)
            raise
        except errors.RayError as error:
            return WorkerLoss(type(error).__name__, self.cluster.lost_machine(error))
        if refused:
            raise InputError(refused)
        return None

    def _offer(self, job: Job) -> None:
        """Put at the URL what a job builds on, where it is only in the study's folder."""
        folder, store = self.site.config.folder, StudyStore(self.site.config.folder)
        if self.site.shared:
            self._offer_rungs(job, store)
        for key in (job.cell.key, *surrogates(job)) if self.site.shared else ():
            cell = store.cell(key)
            if cell is None or cell["status"] != "done" or self.site.exchange.done("cell", key):
                continue
            for name in (*network(cell), json_of("cell", key)):
                self.site.exchange.put(name, (folder / name).read_bytes())

    def _offer_rungs(self, job: Job, store: StudyStore) -> None:
        folder, exchange = self.site.config.folder, self.site.exchange
        for rung in job.rungs[-1:] if store.cell(job.cell.key) is None else ():
            if (made := store.rung(rung)) is None or exchange.done("rung", rung):
                continue
            for name in (*network(made), state_of(job.cell.key), json_of("rung", rung)):
                exchange.put(name, (folder / name).read_bytes())

    def _bring(self, job: Job) -> None:
        """See that the results of a job are in the study's folder.

        Raises:
            InputError: they don't come.
        """
        folder, store = self.site.config.folder, StudyStore(self.site.config.folder)
        if self.site.shared:
            for name in files(job, self.site.exchange.result):
                self.site.exchange.bring(name, folder)
        since = time.monotonic()
        while not _complete(job, store):
            if time.monotonic() - since > SETTLING:
                raise InputError(f"{folder}: results of {in_words(job.cell)} do not appear in it")
            time.sleep(0.1)
            for kind in ("cells", "rungs", "tests"):
                list((folder / kind).glob("*"))  # makes NFS look again


def _complete(job: Job, store: StudyStore) -> bool:
    cell = store.cell(job.cell.key)
    if job.pause is not None and store.rung(job.rung) is not None:
        return True
    if cell is None or cell["status"] != "done":
        return cell is not None
    return all(store.test(test.key) is not None for test in job.tests)


@contextmanager
def cluster(config: WorkerConfig, demand: Demand, until: float = math.inf) -> Iterator[RayExecutor]:
    """An executor of Ray workers, for as long as the context lasts.

    Args:
        config: folder and data; device and threads follow from the demand.
        demand: what is asked of the cluster.
        until: time by `time.monotonic` after which no further job begins.

    Raises:
        InputError: Ray is not installed, there is no such cluster, or no machine in it suffices.
    """
    with connected(demand.address) as ray:
        has = ray.cluster_resources().get("GPU", 0) > 0
        gpus = float(has) if demand.gpus is None else demand.gpus
        if gpus > 1 and gpus % 1:
            raise InputError(
                f"--gpus-per-cell {gpus:g}: expected a fraction of one GPU, or a whole number"
            )
        config = replace(config, device="cuda" if gpus else "cpu", threads=demand.cpus)
        if config.data_root is not None:
            config = replace(config, data_root=config.data_root.absolute())
        site = Site(config, Path.cwd(), f".seen-{uuid.uuid4().hex}", demand.shared)
        place = Cluster(ray, demand.address, demand.cpus, gpus)
        executor = RayExecutor(place, site, demand.most, until)
        if not executor.lanes():
            raise InputError(
                f"--ray {demand.address}: no machine has {demand.cpus} CPUs and {gpus:g} "
                "GPUs for a cell; see --cpus-per-cell and --gpus-per-cell"
            )
        site.exchange.put(site.mark, b"robustkit\n")
        try:
            yield executor
        finally:
            site.exchange.drop(site.mark)
