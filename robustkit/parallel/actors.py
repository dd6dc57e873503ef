"""Workers of a Ray cluster: an actor each, on whatever machine has room."""

import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from robustkit import machine
from robustkit.errors import EvaluationFailed, RobustkitError
from robustkit.parallel.cluster import Cluster
from robustkit.parallel.crew import LOST, News, Workplace, Worksite


class Attendant:
    """A worker, on whatever machine this is."""

    def __init__(self, site: Worksite, place: Workplace) -> None:
        machine.keep_memory()
        self.refused: Exception | None = None
        try:
            with _of_this_machine():
                self.bench = site.open(place)
        except Exception as error:  # raised here, Ray would tell it as a death
            self.refused = error

    def host(self) -> str:
        """The name of its machine, once it can begin.

        Raises:
            Exception: what its site could not be opened for.
        """
        if self.refused is not None:
            raise self.refused
        return platform.node()

    def carry_out(self, job: Any) -> list[News]:
        """What there is to say of a job, its end last."""
        said: list[News] = []
        try:
            with _of_this_machine():
                found = self.bench.carry_out(job, lambda it: said.append(News(0, "told", it)))
        except Exception as error:
            error.add_note(traceback.format_exc())
            return [*said, News(0, "failed", error)]
        return [*said, News(0, "done", found)]


@contextmanager
def _of_this_machine() -> Iterator[None]:
    """Have errors say which machine they are of: files stand elsewhere on another."""
    try:
        yield
    except RobustkitError as error:
        error.args = (f"{platform.node()}: {error}",)
        raise


class _Call(NamedTuple):
    """What an actor is doing."""

    worker: int
    begins: bool
    """whether it is still being set up"""


class RayCrew:
    """An actor for every place that the cluster has, as long as there is work for it."""

    def __init__(self, cluster: Cluster, site: Worksite, most: int) -> None:
        """`site` is put where each machine fetches it once; `most` workers can be of use."""
        self._cluster, self._most = cluster, most
        self._site = cluster.ray.put(site)
        self._place = Workplace("cuda" if cluster.gpus else "cpu", cluster.cpus)
        self._actors: dict[int, Any] = {}
        self._calls: dict[Future[Any], _Call] = {}
        self._hosts: dict[int, str] = {}
        self._begun = self._stillborn = 0

    def news(self, patience: float) -> Sequence[News]:
        """What has come in, waiting for it for so many seconds.

        Raises:
            InputError: a machine lacks robustkit.
            EvaluationFailed: the cluster is gone, or workers die at start-up.
        """
        for _ in range(self._cluster.room(self._most) - len(self._actors)):
            self._hire()
        if not self._calls:
            time.sleep(patience)
        # not by ray.wait, which turns a signal's exception into an error of its own
        done = wait(self._calls, patience, FIRST_COMPLETED).done
        return [news for future in done for news in self._heard(future)]

    def _hire(self) -> None:
        cluster, number = self._cluster, self._begun
        attendant = cluster.ray.remote(
            num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_restarts=0, max_task_retries=0
        )(Attendant)
        self._actors[number] = attendant.remote(self._site, self._place)
        self._call(number, self._actors[number].host.remote(), begins=True)
        self._begun += 1

    def _call(self, worker: int, reference: Any, *, begins: bool = False) -> None:
        self._calls[reference.future()] = _Call(worker, begins)

    def _heard(self, future: "Future[Any]") -> list[News]:
        worker, begins = self._calls.pop(future)
        errors = self._cluster.ray.exceptions
        try:
            found = future.result()
        except errors.RayTaskError as error:
            self._cluster.check_installed(error)
            own = isinstance(error.cause, RobustkitError)
            return [News(worker, "failed", error.cause if own else error)]
        except errors.RayError as error:
            return [self._lost(worker, error, begins)]
        if begins:
            self._stillborn, self._hosts[worker] = 0, found
            return [News(worker, "ready")]
        return [one._replace(worker=worker) for one in found]

    def _lost(self, worker: int, error: Exception, begins: bool) -> News:
        del self._actors[worker]
        of_machine = self._cluster.lost_machine(error)
        self._stillborn += begins and not of_machine
        if self._stillborn >= LOST:
            raise EvaluationFailed(
                f"--ray {self._cluster.address}: workers die at start-up "
                f"({type(error).__name__}), perhaps for lack of memory; what is finished is kept"
            ) from error
        if of_machine:
            return News(worker, "gone", "its machine was lost")
        return News(worker, "lost", type(error).__name__)

    def give(self, worker: int, job: Any) -> None:
        """Hand a job to a worker that is ready; that it is gone is heard as its loss."""
        self._call(worker, self._actors[worker].carry_out.remote(job))

    def name(self, worker: int) -> str:
        """How a message calls a worker."""
        return self._hosts.get(worker, f"--ray {self._cluster.address}")

    def close(self) -> None:
        """End all workers at once."""
        for actor in self._actors.values():
            with suppress(Exception):  # of a cluster that is gone
                self._cluster.ray.kill(actor)
        self._calls.clear()
