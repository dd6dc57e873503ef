"""How many of several budgets an image provably withstands, and what it takes to know.

What is proved at a budget is so at all smaller ones, so budgets are bisected, not scanned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from robustkit.certification.deterministic import METHODS, Certifier, clean_right, graph_of
from robustkit.certification.graph import BoundGraph
from robustkit.certification.region import reach
from robustkit.protocol import Norm

INTERVAL = 6
"""multiplications of interval bounds, by those of a pass: middles and radii, errors on the way, and
the margins from the last layers"""


@dataclass(frozen=True, slots=True)
class Proofs:
    """What is proved of N images at rising budgets."""

    count: Tensor
    """int64 N on the CPU: how many of the budgets, from the smallest, each image withstands"""
    tried: int
    """pairs of image and budget that were bounded"""
    held: int
    """of them those that were proved"""
    multiplications: float
    """that bounding took, at most"""


@dataclass(frozen=True, slots=True)
class Prover:
    """A frozen network, written down once, and the budgets to prove it at."""

    model: nn.Module
    """in eval mode, pixels in [0, 1] to N × K logits"""
    graph: BoundGraph
    norm: Norm
    epsilons: Sequence[float]
    """rising"""

    @classmethod
    def of(cls, model: nn.Module, image: Tensor, norm: Norm, epsilons: Sequence[float]) -> "Prover":
        """Of a network that takes images like one, C × H × W.

        Raises:
            Unsupported: it has an operation without bounds, or cannot be traced.
        """
        return cls(model, graph_of(model, image), norm, epsilons)

    @property
    def work(self) -> int:
        """Multiplications of a pass of one image."""
        return self.graph.work_below(len(self.graph.steps) - 1)

    @property
    def relaxation(self) -> float:
        """Multiplications of the linear relaxation of one image, without layers between."""
        return float((prod(self.graph.steps[-1].shape) - 1) * self.work)

    def prove(
        self, images: Tensor, labels: Tensor, tried: Tensor, batch_size: int, budget: float
    ) -> Proofs:
        """How many budgets each image provably withstands; 0 for those that are not `tried`.

        Args:
            images: float32 N × C × H × W in [0, 1].
            labels: int64 N.
            tried: bool N on the CPU; the others are wrong, or not asked for.
            batch_size: images at once.
            budget: multiplications that the linear relaxation may take for an image at a budget.

        Raises:
            Unsupported: the network gives other logits than the steps that were written down.
        """
        rows = tried.nonzero()[:, 0]
        count = torch.zeros(len(images), dtype=torch.int64)
        if len(rows) == 0:
            return Proofs(count, 0, 0, 0.0)
        there = rows.to(images.device)
        right = clean_right(self.model, self.graph, images[there], labels[there], batch_size)
        open_ = torch.zeros_like(count)
        open_[rows[right]] = len(self.epsilons)
        pairs = held = 0
        multiplications = 0.0
        while bool((open_ > count).any()):
            middle = (count + open_ + 1) // 2
            for level in sorted(set(middle[open_ > count].tolist())):
                now = (open_ > count) & (middle == level)
                radius = reach(self.epsilons[level - 1])
                certifier = Certifier(self.model, self.graph, self.norm, radius, budget)
                found = certifier.run(images, labels, now, radius, batch_size)
                pairs, held = pairs + int(now.sum()), held + int(found.robust.sum())
                multiplications += self._spent(now, found.by, budget)
                count = torch.where(found.robust, middle, count)
                open_ = torch.where(now & ~found.robust, middle - 1, open_)
        return Proofs(count, pairs, held, multiplications)

    def _spent(self, now: Tensor, by: Sequence[str], budget: float) -> float:
        """Multiplications of one round, at most: a method is tried where those before it failed."""
        first, second, _ = METHODS
        tried = [by[row] for row in now.nonzero()[:, 0].tolist()]
        relaxed = sum(method != first for method in tried)
        throughout = sum(method not in (first, second) for method in tried)
        total = float(len(tried) * INTERVAL * self.work)
        if self.relaxation <= budget:
            total += relaxed * self.relaxation + throughout * (budget - self.relaxation)
        return total
