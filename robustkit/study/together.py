"""A training of several processes on this machine, as `torchrun` would start them."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from robustkit import machine
from robustkit.errors import InputError, ProcessLost
from robustkit.parallel.processes import end_with, end_workers, in_order, without_script

T = TypeVar("T")
GRACE = 10.0
"""seconds for the others, once one has failed, to say how they end"""


def together(world: int, threads: int, work: Callable[..., T], *given: Any) -> T:
    """What the first of several processes makes of some work that all of them do as one group.

    Args:
        world: how many processes.
        threads: of each.
        work: a function of a module, that trains; it finds the others as under `torchrun`.
        given: to it.

    Raises:
        ProcessLost: a process died.
        Exception: what the work raised where it failed first.
    """
    context, parts = get_context("spawn"), list[Future[T]]()
    with (
        in_order(),
        TemporaryDirectory(prefix="robustkit-") as folder,
        ProcessPoolExecutor(world, context, end_with, (os.getpid(),)) as pool,
    ):
        meeting = Path(folder) / "meeting"
        try:
            with without_script():
                for rank in range(world):
                    part = pool.submit(_take_part, rank, world, meeting, threads, work, given)
                    parts.append(part)
            if wait(parts, return_when=FIRST_EXCEPTION).not_done:
                wait(parts, GRACE)
            _raise_first(parts)
            return parts[0].result()
        except BrokenProcessPool as error:
            raise ProcessLost(
                f"one of the {world} processes of a training died, perhaps for lack of memory; "
                "try fewer --workers"
            ) from error
        finally:
            if any(not part.done() for part in parts):
                # they wait for one that has gone; leaving the pool would wait for them
                end_workers(pool)


def _raise_first(parts: Sequence[Future[Any]]) -> None:
    """Raise what failed first, if anything did: the others only say that they were left alone."""
    errors = [part.exception() for part in parts if part.done()]
    failed = [error for error in errors if error is not None]
    if failed:
        raise min(failed, key=lambda error: "ended early" in str(error))


def _take_part(
    rank: int,
    world: int,
    meeting: Path,
    threads: int,
    work: Callable[..., T],
    given: Sequence[Any],
) -> T:
    """One process's part, from meeting the others on."""
    import torch
    from torch import distributed

    from robustkit.training.processes import end_group

    machine.keep_memory()
    torch.set_num_threads(threads)
    os.environ |= {"WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    # by its path: in a URL a blank would be %20, which torch takes for part of the name
    store = distributed.FileStore(str(meeting), world)  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        return work(*given)
    finally:
        end_group()


def processes_of(asked: dict[str, Any], device: str) -> int:
    """How many processes a cell is trained by.

    Raises:
        InputError: several, and not on a CPU.
    """
    world = int(asked.get("processes", 1))
    if world > 1 and device != "cpu":
        raise InputError(
            f"a study trains with several processes on a CPU alone, not on {device}; "
            "give --device cpu"
        )
    return world
