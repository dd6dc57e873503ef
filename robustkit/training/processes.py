"""Processes that train together, as `torchrun` starts them; alone there is one."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from robustkit.errors import InputError, ProcessLost, first_line

PATIENCE = timedelta(seconds=5)
"""for the launcher's answer"""
_formed: list[object] = []
"""the group that `join` has formed, if it has: one that the caller made is the caller's to end"""
BROKEN = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
"""of which one stands in the message of a collective that another process has left"""


class ProcessGroup(NamedTuple):
    """Which one this is, and of how many."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of a batch; parts differ by one image where they cannot be equal.

        Gradients are averaged over processes, not images: an image of a smaller part then counts
        for more, by one part in 42 where three processes share 128 images.
        """
        return rows.tensor_split(self.world)[self.rank]

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            distributed.all_reduce(value)
        return value

    def agree(self, holds: Tensor) -> bool:
        """Whether a condition holds in every process; all of them have to ask."""
        return not self.total((~holds).to(torch.int32))

    def tell(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def collect(self, value: Any) -> list[Any] | None:
        """Every process's value, in the first one; None in the others."""
        if self.world == 1:
            return [value]
        found: list[Any] | None = [None] * self.world if self.first else None
        distributed.gather_object(value, found)
        return found


def join(device: torch.device, alone: bool = False) -> ProcessGroup:
    """Meet the other processes where `torchrun` started several.

    With `alone` a single process forms a group of its own, as compressed gradients need one.

    Raises:
        InputError: the environment speaks of several, but they cannot meet.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    backend = "nccl" if device.type == "cuda" else "gloo"
    if world == 1:
        if alone and not distributed.is_initialized():
            store = distributed.HashStore()  # type: ignore[attr-defined]
            distributed.init_process_group(backend, store=store, rank=0, world_size=1)
            _formed[:] = [distributed.group.WORLD]
        return ProcessGroup()
    try:
        if not distributed.is_initialized():
            distributed.init_process_group(backend)
            _formed[:] = [distributed.group.WORLD]
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"WORLD_SIZE is {world}, but the processes cannot meet: {first_line(error)}; "
            "start them with torchrun"
        ) from error
    return ProcessGroup(distributed.get_rank(), distributed.get_world_size())


def wrapped(
    network: nn.Module, processes: ProcessGroup, device: torch.device, *, alone: bool = False
) -> nn.Module:
    """The network as the loss sees it: itself, or shared between processes.

    With `alone`, as in `join`, a single process shares it with itself. That a group is there asks
    for nothing: another training may have formed it.

    Raises:
        InputError: it has no weights to train.
    """
    if not any(weight.requires_grad for weight in network.parameters()):
        raise InputError("--model: all weights are frozen, or there are none: nothing to train")
    if processes.world == 1 and not alone:
        return network
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids)


def leave() -> None:
    """Part from the others, unless they met before `join`.

    Whoever has finished waits for the rest first, see `together`.
    """
    mine = _formed.pop() if _formed else None
    if mine is not None and distributed.is_initialized() and distributed.group.WORLD is mine:
        end_group()


def end_group() -> None:
    """End the group of this process.

    A wrapped network holds on to it and stands in a cycle of references: it is cleared away now,
    not when the interpreter ends and its threads with it.
    """
    gc.collect()
    distributed.destroy_process_group()


@contextmanager
def together(processes: ProcessGroup) -> Iterator[None]:
    """Work of several processes that end together: with one error, or when all of them are done.

    Raises:
        ProcessLost: another process has ended before its time.
    """
    try:
        yield
        if processes.world > 1:
            distributed.barrier()
    except BaseException as error:
        first_to_fail()  # asked now, since the others hear of it as soon as this one leaves
        if processes.world > 1 and _broken(error):
            raise ProcessLost(
                f"one of the {processes.world} processes ended early ({first_line(error)}); "
                "the same command continues from the last saved state"
            ) from error
        raise


def _broken(error: BaseException) -> bool:
    """Whether an error says that another process no longer answers."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, RuntimeError):
        cause = cause.__cause__  # a gradient that could not be shared is told as a failed training
    return cause is not None and any(mark in str(cause).lower() for mark in BROKEN)


def first_to_fail() -> bool:
    """Whether this process speaks for all: no other one that `torchrun` started failed before it.

    Where none can be asked each speaks for itself.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return True
    run = [os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RUN_ID", "RESTART_COUNT")]
    own = os.environ.get("RANK", "0")
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = distributed.TCPStore(address, port, None, False, PATIENCE)  # type: ignore[attr-defined]
        first: bytes = store.compare_set("/".join(["robustkit", *run]), "", own)
    except (RuntimeError, ValueError, KeyError):
        return True
    return first.decode() == own


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process, where there are several processes."""
    if device.type == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return device
