"""A study's jobs in worker processes on this machine, and those whose workers are lost anywhere."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from typing import NamedTuple

from robustkit.errors import Hindered, InputError
from robustkit.parallel.crew import LOST, Tries
from robustkit.parallel.processes import end_with, without_script
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
            InputError: a job's worker has died too often.
            Hindered: a job could not be done for want of something; all others are done.
        """
        left = list(jobs)
        for _ in range(LOST):
            done = []
            try:
                for job in self._attempt(left, began):
                    done.append(job)
                    yield job
            except BrokenProcessPool:
                left = [job for job in left if job not in done]
                continue
            return
        raise InputError(
            f"worker processes have died {LOST} times, perhaps for lack of memory; try "
            f"fewer --workers; they were working on {in_words(left[0].cell)} and others"
        )

    def _attempt(self, jobs: Sequence[Job], began: Callable[[Job], None]) -> Iterator[Job]:
        # spawned, not forked: torch's threads do not survive a fork
        context = get_context("spawn")
        waiting = list(reversed(jobs))
        with ProcessPoolExecutor(self.workers, context, end_with, (os.getpid(),)) as pool:
            running: dict[Future[str], Job] = {}
            hindered: list[Hindered] = []
            try:
                while waiting or running:
                    if time.monotonic() > self.until:
                        waiting.clear()
                    while waiting and len(running) < self.workers:
                        job = waiting.pop()
                        with without_script():
                            running[pool.submit(carry_out, job, self.config)] = job
                        began(job)
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        job = running.pop(future)
                        try:
                            future.result()
                        except Hindered as error:
                            hindered.append(error)
                            continue
                        yield job
            except BaseException:
                # an interruption: leaving the pool would wait for its jobs
                for process in active_children():
                    process.terminate()
                raise
            if hindered:
                raise hindered[0]


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

    def settle(self) -> None:
        """Say what was given up.

        Raises:
            InputError: something was.
        """
        if self.tries.given_up:
            raise InputError(
                f"lost {LOST} workers each, perhaps for lack of memory; give a cell more with "
                f"--cpus-per-cell or --gpus-per-cell: {'; '.join(self.tries.given_up)}"
            )
