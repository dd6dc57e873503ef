"""A study's jobs in worker processes on this machine, and those whose workers are lost anywhere."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import NamedTuple

from robustkit.errors import Hindered, InputError
from robustkit.parallel.crew import LOST, Tries
from robustkit.parallel.processes import end_with, end_workers, without_script
from robustkit.study.cells import in_words
from robustkit.study.work import Job, WorkerConfig, carry_out


@dataclass(frozen=True, slots=True)
class ProcessExecutor:
    """Worker processes on this machine; a job whose worker dies is tried again."""

    config: WorkerConfig
    workers: int
    until: float = math.inf
    """time by `time.monotonic` after which no further job begins"""

    def execute(self, jobs: Sequence[Job], began: Callable[[Job], None]) -> Iterator[Job]:
        """Carry out jobs; each is yielded when it is done.

        Raises:
            InputError: when all else is done, some job's workers have died too often.
            Hindered: a job could not be done for want of something; all others are done.
        """
        left, hindered = Left(list(reversed(jobs))), list[Hindered]()
        while left.waiting:
            yield from self._attempt(left, hindered, began)
        left.settle("try fewer --workers")
        if hindered:
            raise hindered[0]

    def _attempt(
        self, left: "Left", hindered: list[Hindered], began: Callable[[Job], None]
    ) -> Iterator[Job]:
        """Carry out what is left, until a worker dies, with which all of the pool's are gone."""
        # spawned, not forked: torch's threads do not survive a fork
        context, running = get_context("spawn"), dict[Future[str], Job]()
        with ProcessPoolExecutor(self.workers, context, end_with, (os.getpid(),)) as pool:
            try:
                while left.waiting or running:
                    if time.monotonic() > self.until:
                        left.waiting.clear()
                    while left.waiting and self._has_room(left, running):
                        with without_script():
                            future = pool.submit(carry_out, left.waiting[-1], self.config)
                        running[future] = left.waiting.pop()
                        began(running[future])
                    done = wait(running, return_when=FIRST_COMPLETED).done
                    for future in sorted(done, key=_broken):
                        try:
                            future.result()
                        except Hindered as error:
                            hindered.append(error)
                            del running[future]
                        else:
                            yield running.pop(future)
            except BrokenProcessPool:
                for job in running.values():
                    left.again(job, WorkerLoss("its process died", machine=False))
            except BaseException:
                # an interruption: leaving the pool would wait for its jobs
                end_workers(pool)
                raise

    def _has_room(self, left: "Left", running: Mapping[Future[str], Job]) -> bool:
        """Whether the next job may begin: one on its last try goes alone, and dies of itself."""
        alone = any(map(left.on_last_try, (left.waiting[-1], *running.values())))
        return len(running) < (1 if alone else self.workers)


def _broken(future: Future[str]) -> bool:
    """Whether a job's worker died, or another one's of its pool."""
    return isinstance(future.exception(), BrokenProcessPool)


class WorkerLoss(NamedTuple):
    """How a worker was lost."""

    reason: str
    machine: bool
    """whether its whole machine was"""


@dataclass(slots=True)
class Left:
    """Jobs still to be done, and what has become of those whose workers were lost."""

    waiting: list[Job]
    """the next one last"""
    tries: Tries = field(default_factory=Tries)

    def take(self, most: int) -> list[Job]:
        """The next jobs."""
        return [self.waiting.pop() for _ in range(min(most, len(self.waiting)))]

    def again(self, job: Job, loss: WorkerLoss) -> None:
        """Have a job done again, unless it has been tried often enough."""
        words = f"{in_words(job.cell)} ({loss.reason})"
        if self.tries.again(job.cell.key, words, machine=loss.machine):
            self.waiting.append(job)

    def on_last_try(self, job: Job) -> bool:
        """Whether a job is given up at its next loss."""
        return self.tries.counts[job.cell.key] == LOST - 1

    def settle(self, advice: str) -> None:
        """Say what was given up, and what can be done.

        Raises:
            InputError: something was.
        """
        if self.tries.given_up:
            raise InputError(
                f"lost {LOST} workers each, perhaps for lack of memory; {advice}: "
                f"{'; '.join(self.tries.given_up)}"
            )
