"""Workers for tests: some that take turns in this process, and sites that processes can open."""

import os
import signal
import time
from dataclasses import dataclass

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
        self.parcel, self.places = parcel, places
        self.benches = [self._open(place) for place in places]
        self.jobs, self.new = {}, set(range(len(places)))
        return self

    def _open(self, place):
        return self.parcel.unpack().open(place)

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
            self.benches[worker] = self._open(self.places[worker])
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
