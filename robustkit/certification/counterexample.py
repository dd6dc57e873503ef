"""Points that bounds point at, tried on the network itself in float32."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustkit.attacks.verdicts import Verifier
from robustkit.geometry import project, steepest_step
from robustkit.network import gradient

STARTS = 4
"""points that PGD starts from: those of the smallest margin"""
STEPS = 20
RELATIVE_STEP = 0.1
"""of the first step, as a share of ε; they shrink to none"""
NAME = "branch and bound"


@dataclass(frozen=True, slots=True)
class Trial:
    """Looks for a counterexample at one image; nothing counts but what the engine verifies."""

    model: nn.Module
    followed: nn.Module
    """whose gradients are followed: the model, or itself a little inside (`attacks/inside.py`)"""
    verifier: Verifier
    """of a block of this one image"""
    epsilon: float

    def __call__(self, points: Tensor) -> bool:
        """Whether one of the points, B × C × H × W, or one that PGD reaches from them, fools."""
        x, label, budget = self._start(points)
        margins = self._margins(x, label)
        best = margins.topk(min(STARTS, len(x)), largest=False).indices
        if not bool((margins[best] < 0).any()):
            x = self._descended(x[best], label, budget)
            margins = self._margins(x, label)
        # the one that fools most clearly; ties and rounding are the engine's to judge
        nearest = int(margins.argmin())
        if margins[nearest] > 0:
            return False
        rows = torch.zeros(1, dtype=torch.int64)
        held = self.verifier.keep(rows, x[[nearest]], NAME, budget[:1])
        return bool(held.any())

    def _start(self, points: Tensor) -> tuple[Tensor, int, Tensor]:
        image = self.verifier.block.images
        budget = torch.full((len(points),), self.epsilon, device=image.device)
        x = points.to(image.device, torch.float32)
        return (
            project(x, image, budget, self.verifier.norm),
            int(self.verifier.block.labels),
            budget,
        )

    @torch.no_grad()
    def _margins(self, x: Tensor, label: int) -> Tensor:
        return _margin(self.model(x), label)

    def _descended(self, x: Tensor, label: int, budget: Tensor) -> Tensor:
        """PGD on the margin, with steps that shrink."""
        image, norm = self.verifier.block.images, self.verifier.norm
        for step in range(STEPS):
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                slope = gradient(-_margin(self.followed(leaf), label).sum(), leaf)
            size = budget[: len(x)] * (RELATIVE_STEP * (1 - step / STEPS))
            x = project(steepest_step(x, slope, size, norm), image, budget[: len(x)], norm)
        return x


def _margin(logits: Tensor, label: int) -> Tensor:
    """The label's logit less the largest other one, N."""
    others = logits.clone()
    others[:, label] = -torch.inf
    result: Tensor = logits[:, label] - others.amax(1)
    return result
