"""The active set: what a search knows of each image that it works on, row by row."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

B = TypeVar("B")
C = TypeVar("C")
T = TypeVar("T")


@dataclass(slots=True)
class State(Generic[B]):
    """Row i of every tensor belongs to one image at one budget, N rows in all."""

    x: Tensor
    """iterates, N × C × H × W"""
    images: Tensor
    """clean images"""
    classes: Tensor
    """labels, or the targets to reach, int64 N"""
    clean: Tensor
    """logits of the clean images, N × K"""
    epsilon: Tensor
    """budgets"""
    target: Tensor
    """the wrong class that is headed for, if any is, int64 N"""
    restart_index: Tensor
    """which of the attack's restarts, int64 N"""
    key: Tensor
    """key of the row's own random stream, int64 N"""
    step: Tensor
    """steps taken, int64 N"""
    closest: Tensor
    """the highest margin that gradient attacks reached at the budget before, N; -inf: none did"""
    buffers: B
    """what the search remembers: a dataclass of its own, of tensors N × …; None before its start"""

    def __len__(self) -> int:
        return len(self.step)

    def started(self, x: Tensor, buffers: C) -> "State[C]":
        """The same rows with their first iterates and whatever the search remembers of them."""
        return State(
            x,
            self.images,
            self.classes,
            self.clean,
            self.epsilon,
            self.target,
            self.restart_index,
            self.key,
            self.step,
            self.closest,
            buffers,
        )


def take(rows_of: T, rows: Tensor) -> T:
    """These rows alone, of a tensor, of None, or of a dataclass of such, however deep."""
    # one transfer of the row numbers a device, however many tensors there are
    at = cache(lambda device: rows.to(device))
    taken: T = _each(lambda tensor: tensor[at(tensor.device)], rows_of)
    return taken


def join(*parts: T) -> T:
    """The rows of one part after the other; of what `take` takes."""
    joined: T = parts[0] if len(parts) == 1 else _each(lambda *t: torch.cat(t), *parts)
    return joined


def overwrite(kept: Tensor, rows: Tensor, new: Tensor) -> None:
    """Some rows, bool N, become those of another tensor.

    By their numbers, since torch.where is slow on a processor.
    """
    at = rows.nonzero()[:, 0]
    if len(at) == len(kept):
        kept.copy_(new)
    elif len(at):
        kept.index_copy_(0, at, new.index_select(0, at))


def _each(change: Callable[..., Tensor], first: Any, *others: Any) -> Any:
    """The same dataclass with its tensors changed, each together with the others' same tensor."""
    if first is None:
        return None
    if isinstance(first, Tensor):
        return change(first, *others)
    return type(first)(
        *(_each(change, *(getattr(o, f.name) for o in (first, *others))) for f in fields(first))
    )
