"""Processes that train together, as `torchrun` starts them; alone there is one."""

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from robustkit.errors import InputError, first_line


class Processes(NamedTuple):
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


def join(device: torch.device, alone: bool = False) -> Processes:
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
        return Processes()
    try:
        if not distributed.is_initialized():
            distributed.init_process_group(backend)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"WORLD_SIZE is {world}, but the processes cannot meet: {first_line(error)}; "
            "start them with torchrun"
        ) from error
    return Processes(distributed.get_rank(), distributed.get_world_size())


def leave() -> None:
    """Part from the others."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process, where there are several processes."""
    if device.type == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return device
