"""The active set: what an attack knows of each image that it works on."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class State:
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
    chain: Tensor
    """which of the attack's restarts and target classes, int64 N"""
    key: Tensor
    """key of the row's own random stream, int64 N"""
    step: Tensor
    """steps taken, int64 N"""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """whatever the attack remembers, N × …"""

    def __len__(self) -> int:
        return len(self.step)

    def take(self, rows: Tensor) -> "State":
        """These rows alone."""
        there = rows.to(self.x.device)
        fields = {n: getattr(self, n)[there] for n in _TENSORS}
        return State(**fields, memory={n: t[there] for n, t in self.memory.items()})

    def join(self, other: "State") -> "State":
        """These rows, then those."""
        fields = {n: torch.cat([getattr(self, n), getattr(other, n)]) for n in _TENSORS}
        memory = {n: torch.cat([t, other.memory[n]]) for n, t in self.memory.items()}
        return State(**fields, memory=memory)


_TENSORS = ("x", "images", "classes", "clean", "epsilon", "chain", "key", "step")
