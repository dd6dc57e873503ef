"""Sparse-PGD: few pixels, or features, by gradients at a fixed number (Zhong et al. 2024).

Zhong, Huang and Liu 2024, "Towards efficient training and evaluation of robust models against ℓ0
bounded adversarial perturbations", algorithm 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks.draws import stream
from robustkit.attacks.library import foolbox
from robustkit.attacks.objectives import objective
from robustkit.attacks.search import Search
from robustkit.attacks.state import State
from robustkit.geometry import entries
from robustkit.protocol import Loss, Norm

FLAT = 2e-10
"""length of a mask's gradient below which it stays"""


@dataclass(slots=True)
class SparsePgdBuffers:
    """What Sparse-PGD remembers; N × V × E are the values of each entry."""

    change: Tensor
    """of every entry, whether or not it is chosen, N × V × E"""
    mask: Tensor
    """the higher, the sooner an entry is chosen, N × E"""
    chosen: Tensor
    """the entries of the highest, as many as the budget, bool N × E"""
    still: Tensor
    """steps since the choice has changed, int64 N"""


class SparsePgdSearch(Search[SparsePgdBuffers], foolbox.attacks.base.FixedEpsilonAttack):  # type: ignore[misc]
    """Changes by the sign of their gradients, and a mask of which entries are changed by its own.

    On the way back the mask's sigmoid stands for the choice, so that entries change, too, that are
    not chosen (the paper's unprojected gradient). A choice that stays is drawn anew.
    """

    random_start = False

    def __init__(
        self,
        norm: Norm,
        *,
        steps: int = 300,
        restarts: int = 1,
        step_size: float = 0.25,
        mask_step: float = 0.25,
        patience: int = 3,
        loss: Loss = "margin",
    ) -> None:
        self.norm = norm
        self.steps = steps
        self.restarts = restarts
        self.step_size = step_size
        self.mask_step = mask_step
        self.patience = patience
        self.loss = loss

    def start(
        self, state: State[None], sources: Sequence[torch.Generator | None]
    ) -> State[SparsePgdBuffers]:
        """Random changes of every entry, and a random choice."""
        images = entries(state.images, self.norm)
        values, size = images.shape[1:]
        draws = stream(state.key, torch.zeros_like(state.step), (values + 2) * size)
        change = (draws[:, 2 * size :] * 2 - 1).view_as(images).to(images)
        change = (images + change).clamp(0, 1) - images
        mask = _normal(draws[:, : 2 * size]).to(images)
        chosen = self._chosen(mask, state.epsilon)
        buffers = SparsePgdBuffers(change, mask, chosen, torch.zeros_like(state.step))
        return state.started(self._point(state.images, buffers), buffers)

    def value(self, logits: Tensor, state: State[SparsePgdBuffers], targeted: bool) -> Tensor:
        """The loss, N."""
        return objective(logits, state.classes, state.clean, self.loss, targeted)

    def advance(self, state: State[SparsePgdBuffers], value: Tensor, gradient: Tensor) -> None:
        """A step of the mask and one of the changes, both by the gradient at the iterate."""
        b, slope = state.buffers, entries(gradient, self.norm)
        images = entries(state.images, self.norm)
        weight = b.mask.sigmoid()
        of_mask = (slope * b.change).sum(1) * weight * (1 - weight)
        length = of_mask.norm(dim=1, keepdim=True)
        step = self.mask_step * math.sqrt(of_mask.shape[1])
        moved = b.mask + step * of_mask / (length + 1e-10)
        b.mask = torch.where(length < FLAT, b.mask, moved)
        change = b.change + self.step_size * slope.sign()
        b.change = (images + change).clamp(0, 1) - images
        chosen = self._chosen(b.mask, state.epsilon)
        stays = (chosen == b.chosen).all(1)
        b.still = torch.where(stays, b.still + 1, 0)
        b.chosen = chosen
        self._draw_anew(state, (b.still >= self.patience).nonzero()[:, 0])
        state.x = self._point(state.images, b)

    def _draw_anew(self, state: State[SparsePgdBuffers], rows: Tensor) -> None:
        if not len(rows):
            return
        b, size = state.buffers, state.buffers.mask.shape[1]
        fresh = _normal(stream(state.key[rows], state.step[rows] + 1, 2 * size))
        b.mask[rows] = fresh.to(b.mask)
        b.chosen[rows] = self._chosen(b.mask[rows], state.epsilon[rows])
        b.still[rows] = 0

    def _chosen(self, mask: Tensor, epsilon: Tensor) -> Tensor:
        count = epsilon.clamp(max=mask.shape[1]).long()
        most = int(count.max())
        places = mask.topk(most, dim=1).indices
        taken = torch.arange(most, device=mask.device) < count[:, None]
        return torch.zeros_like(mask, dtype=torch.bool).scatter_(1, places, taken)

    def _point(self, images: Tensor, b: SparsePgdBuffers) -> Tensor:
        """The images with the chosen entries changed; the others as they are, to the last bit."""
        flat = entries(images, self.norm)
        moved = torch.where(b.chosen[:, None], (flat + b.change).clamp(0, 1), flat)
        return moved.view_as(images)


def _normal(draws: Tensor) -> Tensor:
    """Normal draws, N × E, of uniform ones N × 2E in [0, 1) (Box and Muller 1958)."""
    one, other = draws.chunk(2, dim=1)
    return (-2 * (1 - one).log()).sqrt() * (2 * math.pi * other).cos()
