"""A study's jobs in worker processes on this machine, and those whose workers are lost anywhere."""

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context

from robustkit.errors import InputError
from robustkit.study.run import in_words
from robustkit.study.work import Job, WorkerConfig, carry_out, initialise_worker

LOST = 3
"""times that a job is tried whose worker vanished"""


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
        with ProcessPoolExecutor(self.workers, context, initialise_worker, (os.getpid(),)) as pool:
            running: dict[Future[str], Job] = {}
            try:
                while waiting or running:
                    if time.monotonic() > self.until:
                        waiting.clear()
                    while waiting and len(running) < self.workers:
                        job = waiting.pop()
                        running[pool.submit(carry_out, job, self.config)] = job
                        began(job)
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        job = running.pop(future)
                        future.result()
                        yield job
            except BaseException:
                # an interruption: leaving the pool would wait for its jobs
                for process in active_children():
                    process.terminate()
                raise


@dataclass(slots=True)
class Left:
    """Jobs still to be done, and what has become of those whose workers were lost."""

    waiting: list[Job]
    """the next one last"""
    tries: Counter[str] = field(default_factory=Counter)
    given_up: list[str] = field(default_factory=list)

    def take(self, most: int) -> list[Job]:
        """The next jobs."""
        return [self.waiting.pop() for _ in range(min(most, len(self.waiting)))]

    def again(self, job: Job, reason: str) -> None:
        """Have a job done again, unless it has been tried often enough."""
        self.tries[job.cell.key] += 1
        if self.tries[job.cell.key] < LOST:
            self.waiting.append(job)
        else:
            self.given_up.append(f"{in_words(job.cell)} ({reason})")

    def settle(self) -> None:
        """Say what was given up.

        Raises:
            InputError: something was.
        """
        if self.given_up:
            raise InputError(
                f"lost {LOST} workers each, perhaps for lack of memory; give a cell more "
                f"with --cpus-per-cell or --gpus-per-cell: {'; '.join(self.given_up)}"
            )
