"""Workers of this machine: a process for each device that is named."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, current_process, parent_process
from types import FrameType, ModuleType
from typing import Any

from robustkit import machine
from robustkit.errors import EvaluationFailed, InputError
from robustkit.parallel.crew import LOST, News, Workplace
from robustkit.parallel.parcel import Parcel

WATCH = 0.5
"""seconds between two looks at whether the parent process is still there"""
GRACE = 3.0
"""seconds for a worker that is told to end, before it is killed"""
UNGUARDED = 'in a script, the call must stand under `if __name__ == "__main__":`'


def end_with(parent: int) -> None:
    """Set up a worker: signals end it at once, and so does the end of its parent."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which its parent ends it
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # else its parent goes on, too
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def watch() -> None:
        # a killed parent leaves its workers behind, which would hold on to what they work on
        above = parent_process()
        if sys.platform == "win32" and above:  # getppid tells nothing of its end there
            above.join()
        else:
            while os.getppid() == parent:
                time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_workers(pool: ProcessPoolExecutor) -> None:
    """End a pool's processes at once, and no other of the program's: leaving it waits for them."""
    for process in list((pool._processes or {}).values()):
        process.terminate()


@contextmanager
def in_order() -> Iterator[None]:
    """Let a worker that a signal ends leave what is inside first, with the files it made there."""
    ended: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        if not ended:  # a second signal finds it on its way out
            ended.append(number)
            raise SystemExit

    mine = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        mine = []  # only the main thread may
    for number in mine:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)
        if ended:
            signal.raise_signal(ended[0])


def _attend(parent: int, connection: Connection, parcel: Parcel, place: Workplace) -> None:
    """A worker, from its start to its end."""
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent ends all workers
    machine.keep_memory()

    def say(kind: Any, content: Any = None) -> None:
        connection.send(News(0, kind, content))

    try:
        bench = parcel.unpack().open(place)
        say("ready")
        while True:
            say("done", bench.carry_out(connection.recv(), lambda content: say("told", content)))
    except (EOFError, BrokenPipeError):  # the parent has gone
        return
    except BaseException as error:
        error.add_note(traceback.format_exc())
        try:
            say("failed", error)
        except Exception:  # one that cannot travel
            say("failed", RuntimeError(f"{type(error).__name__}: {error}"))


def check_guarded() -> None:
    """Nothing, unless this process is itself a worker that has only just begun.

    Raises:
        InputError: it is, of a script that starts workers whenever it is imported.
    """
    if getattr(current_process(), "_inheriting", False):
        raise InputError(f"several devices take processes of their own, and {UNGUARDED}")


@contextmanager
def without_script() -> Iterator[None]:
    """Keep a new process from running the script of this one, which would only cost time."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _Worker:
    """A process, and the way to it."""

    def __init__(self, parcel: Parcel, place: Workplace) -> None:
        # spawned, not forked: neither torch's threads nor CUDA survive a fork
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.ready = False
        self.process: BaseProcess = context.Process(
            target=_attend, args=(os.getpid(), theirs, parcel, place), daemon=True
        )
        with nullcontext() if parcel.of_script else without_script():
            self.process.start()
        theirs.close()

    def heard(self, number: int) -> list[News]:
        """All that it has said, and whether it is lost."""
        found = []
        try:
            while self.connection.poll():
                found.append(self.connection.recv()._replace(worker=number))
        except (EOFError, OSError):
            self.process.join(GRACE)
            found.append(News(number, "lost", _how(self.process.exitcode)))
        self.ready = self.ready or any(one.kind == "ready" for one in found)
        return found

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()


def _how(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "it stopped responding"
    if status >= 0:
        return f"it ended with status {status}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"


class Processes:
    """A process for each place; a lost one is replaced."""

    def __init__(self, parcel: Parcel, places: Sequence[Workplace]) -> None:
        """Start them."""
        self._parcel, self._places = parcel, places
        self._workers = [_Worker(parcel, place) for place in places]
        self._stillborn = 0

    def news(self, patience: float) -> Sequence[News]:
        """What has come in, waiting for it for so many seconds.

        Raises:
            EvaluationFailed: workers die at start-up.
        """
        wait([worker.connection for worker in self._workers], patience)
        found = []
        for number, worker in enumerate(self._workers):
            heard = worker.heard(number)
            found += heard
            if heard and heard[-1].kind == "lost":
                self._replace(number, heard[-1].content)
        return found

    def _replace(self, number: int, how: str) -> None:
        lost = self._workers[number]
        lost.end()
        if lost.ready:
            self._stillborn = 0
        else:
            self._stillborn += 1
        if self._stillborn >= LOST:
            raise EvaluationFailed(
                f"worker processes die at start-up ({self.name(number)}: {how}), perhaps for "
                f"want of memory; {UNGUARDED}; what is finished is kept"
            )
        self._workers[number] = _Worker(self._parcel, self._places[number])

    def give(self, worker: int, job: Any) -> None:
        """Hand a job to a worker that is ready; that it is gone is heard as its loss."""
        with suppress(OSError):
            self._workers[worker].connection.send(job)

    def name(self, worker: int) -> str:
        """How a message calls a worker."""
        return self._places[worker].device

    def close(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.end()
        until = time.monotonic() + GRACE
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            worker.process.kill()
            worker.process.join()
