"""Workers for tests: some that take turns in this process, and sites that processes can open."""

import os
import signal
import time
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from robustkit.errors import InputError
from robustkit.parallel.crew import News


class TakingTurns:
    """A crew in this process, whose last worker is always the first to be done.

    `losses` are numbers of blocks: whoever is next at one of them is lost in the middle of it.
    """

    def __init__(self, losses=()):
        self.losses = list(losses)
        self.asked = []

    def __call__(self, parcel, places):
        self.places = places
        self.benches = [parcel.unpack().open(place) for place in places]
        self.jobs, self.new = {}, set(range(len(places)))
        return self

    def news(self, patience):
        if self.new:
            return [News(self.new.pop(), "ready")]
        worker = max(self.jobs)
        job, told = self.jobs.pop(worker), []
        try:
            found = self.benches[worker].carry_out(job, lambda c: told.append(c))
        except Exception as error:
            return [News(worker, "failed", error)]
        said = [News(worker, "told", content) for content in told]
        if job.span.number in self.losses:
            self.losses.remove(job.span.number)
            self.benches[worker].open.clear()
            self.new.add(worker)
            return [*said, News(worker, "lost", "killed by SIGKILL")]
        return [*said, News(worker, "done", found)]

    def give(self, worker, job):
        assert worker not in self.jobs
        self.jobs[worker] = job
        self.asked.append((job.kind, job.span.number))

    def name(self, worker):
        return self.places[worker].device

    def close(self):
        self.jobs.clear()


@dataclass(frozen=True)
class Playground:
    """A site whose workers do as they are told."""

    numbers: object = None

    def open(self, place):
        if isinstance(self.numbers, str):
            os._exit(5)
        return self

    def carry_out(self, job, tell):
        match job:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "sleep":
                tell(os.getpid())
                time.sleep(60)
            case "refuse":
                raise InputError("not this one")
            case _:
                return float(self.numbers.sum()) + job


class Reference:
    """Ray's name for a result that comes at once."""

    def __init__(self, work):
        self.work = work

    def future(self):
        made = Future()
        try:
            made.set_result(self.work())
        except Exception as error:
            made.set_exception(error)
        return made


class FakeRay:
    """As much of Ray as robustkit asks for, in this process.

    `mishaps` are errors of the next calls; `machines` says whether each machine is alive, or is
    asked how many seconds have passed and says so.
    """

    class exceptions:  # noqa: N801  Ray's name
        class RayError(Exception):
            pass

        class NodeDiedError(RayError):
            pass

        class LocalRayletDiedError(RayError):
            pass

        class WorkerCrashedError(RayError):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self, mishaps=(), machines=lambda: [True]):
        self.mishaps, self.machines = list(mishaps), machines
        self.began = []

    def nodes(self):
        return [{"Alive": alive, "Resources": {"CPU": 1}} for alive in self.machines()]

    def put(self, content):
        return content

    def kill(self, actor):
        pass

    def cancel(self, reference, force):
        pass

    def _called(self, work):
        def call():
            if self.mishaps and (error := self.mishaps.pop(0)) is not None:
                raise error
            if not any(self.machines()):
                raise self.exceptions.NodeDiedError("no")
            return work()

        return Reference(call)

    def remote(self, **asked):
        def made(work):
            if not isinstance(work, type):
                return _Remote(lambda *given: self._called(lambda: work(*given)))

            def actor(*given):
                one = work(*given)
                handles = {
                    name: _Remote(lambda *a, n=name: self._called(lambda: getattr(one, n)(*a)))
                    for name in ("host", "carry_out")
                }
                self.began.append(one)
                return SimpleNamespace(**handles)

            return _Remote(actor)

        return made


class _Remote:
    def __init__(self, remote):
        self.remote = remote


@contextmanager
def nodes(count):
    """A cluster of a head and some more nodes with a core each, all on this machine."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    del node["include_dashboard"]
    try:
        others = [made.add_node(**node) for _ in range(count)]
        yield made, others
    finally:
        made.shutdown()
