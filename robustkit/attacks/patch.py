"""Patches: a square of any content, and where it does most.

Brown et al. 2017, "Adversarial patch", for each image by itself; places are tried before one is
gone on with, as Rao et al. 2020, "Adversarial training against location-optimized adversarial
patches", move theirs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from robustkit.attacks.library import foolbox
from robustkit.attacks.objectives import objective, towards
from robustkit.attacks.search import Search
from robustkit.attacks.state import State
from robustkit.geometry import column
from robustkit.protocol import Loss, Norm

MOMENTUM = 0.75
"""decay of the gradients that ascent adds up"""
LAST = 0.02
"""size of the last step, in units of the box"""


@dataclass(slots=True)
class PatchBuffers:
    """What the search for a patch remembers."""

    wall: Tensor
    """each value at the end of the box that the clean image's gradient points to, N × C × H × W"""
    gain: Tensor
    """what that would add to the loss of the linearised network, pixel by pixel, N × 1 × H × W"""
    tried: Tensor
    """upper left corners that attempts before and this one have taken, bool N × H × W"""
    near: Tensor
    """those, and others too near to be worth a trial, likewise"""
    corner: Tensor
    """of the patch in the iterate, int64 N × 2: row and column"""
    best: Tensor
    """of the highest loss so far, likewise"""
    best_value: Tensor
    """that loss, N"""
    velocity: Tensor
    """gradients over their L1 norms, added up, N × C × H × W"""


class PatchSearch(Search[PatchBuffers], foolbox.attacks.base.FixedEpsilonAttack):  # type: ignore[misc]
    """A square of the budget's side: places are tried, then the best one's content ascends.

    Places come in the order of what the linearised network gains there, each half a side away from
    earlier ones while there are such; on trial a patch is what the clean gradient points to.
    Attempts go on where the one before ended.
    """

    random_start = False
    transfers = False

    def __init__(
        self,
        norm: Norm,
        *,
        steps: int = 60,
        step_size: float = 0.25,
        trials: int = 20,
        places: int = 3,
        loss: Loss = "margin",
        targets: int = 0,
    ) -> None:
        self.norm = norm
        self.trials = trials
        self.steps = 1 + trials + steps
        self.step_size = step_size
        self.restarts = places
        self.loss = loss
        self.targets = targets

    def start(
        self, state: State[None], sources: Sequence[torch.Generator | None]
    ) -> State[PatchBuffers]:
        """The images themselves, whose gradients tell where to begin."""
        images = state.images
        nowhere = torch.zeros_like(images[:, 0], dtype=torch.bool)
        corner = torch.zeros((len(images), 2), dtype=torch.int64, device=images.device)
        buffers = PatchBuffers(
            torch.zeros_like(images),
            torch.zeros_like(images[:, :1]),
            nowhere,
            nowhere.clone(),
            corner,
            corner.clone(),
            torch.full_like(state.epsilon, -torch.inf),
            torch.zeros_like(images),
        )
        return state.started(images.clone(), buffers)

    def value(self, logits: Tensor, state: State[PatchBuffers], targeted: bool) -> Tensor:
        """The loss, N."""
        if self.targets:
            return towards(logits, state.classes, state.target, state.clean, self.loss)
        return objective(logits, state.classes, state.clean, self.loss, targeted)

    def advance(self, state: State[PatchBuffers], value: Tensor, gradient: Tensor) -> None:
        """First the clean gradient is read, then places are tried, then the best one's ascends."""
        b, images = state.buffers, state.images
        first, trying = state.step == 0, state.step < self.trials
        if bool(first.any()):
            self._read(state, gradient, first)
        better = (value > b.best_value) & ~first & (state.step <= self.trials)
        b.best_value = torch.where(better, value, b.best_value)
        b.best = torch.where(better[:, None], b.corner, b.best)
        for row_set in (first, trying & ~first):
            if bool(row_set.any()):
                self._next_place(state, row_set, (self.trials * state.restart_index) * first)
        ascends = state.step > self.trials
        b.corner = torch.where((trying | ascends)[:, None], b.corner, b.best)
        size = gradient.flatten(1).abs().sum(1).clamp(min=1e-38)
        b.velocity = torch.where(
            column(ascends, gradient),
            MOMENTUM * b.velocity + gradient / column(size, gradient),
            0.0,
        )
        moved = state.x + column(self._rate(state.step), images) * b.velocity.sign()
        inside = torch.where(column(ascends, images), moved.clamp(0, 1), b.wall)
        state.x = torch.where(self._mask(state), inside, images)

    def _read(self, state: State[PatchBuffers], gradient: Tensor, rows: Tensor) -> None:
        b, images = state.buffers, state.images
        corner = torch.where(gradient == 0, images, (gradient > 0).to(images))
        gain = (gradient * (corner - images)).sum(1, keepdim=True)
        b.wall = torch.where(column(rows, images), corner, b.wall)
        b.gain = torch.where(column(rows, images), gain, b.gain)

    def _rate(self, step: Tensor) -> Tensor:
        """Size of a step of the ascent, which falls by half a cosine, N."""
        gone = (step - self.trials - 1).clamp(min=0) / max(1, self.steps - self.trials - 1)
        return LAST + (self.step_size - LAST) * (1 + (math.pi * gone).cos()) / 2

    def _sides(self, state: State[PatchBuffers]) -> tuple[Tensor, Tensor]:
        """Height and width of each row's patch, int64 N: the budget, or the whole picture."""
        height, width = state.images.shape[-2:]
        side = state.epsilon.clamp(max=max(height, width)).long()
        return side.clamp(max=height), side.clamp(max=width)

    def _mask(self, state: State[PatchBuffers]) -> Tensor:
        """The pixels of each row's patch, bool N × 1 × H × W."""
        return _square(state.buffers.corner, *self._sides(state), state.images)

    def _next_place(self, state: State[PatchBuffers], rows: Tensor, passed: Tensor) -> None:
        """Move some rows' patches on to the next place, after as many as N have been passed by."""
        b = state.buffers
        height, width = self._sides(state)
        score = self._scores(state, height, width)
        for turn in range(int(passed[rows].max()) + 1):
            going = rows & (turn <= passed)
            # where every place is near to one that was tried, those between them follow
            full = (b.near | score.isinf()).flatten(1).all(1) & going
            b.near = torch.where(column(full, b.near), b.tried, b.near)
            at = score.masked_fill(b.near, -torch.inf).flatten(1).argmax(1)
            corner = torch.stack([at // score.shape[2], at % score.shape[2]], 1)
            b.corner = torch.where(going[:, None], corner, b.corner)
            here = _square(corner, torch.ones_like(height), torch.ones_like(width), b.gain)[:, 0]
            half = (torch.stack([height, width], 1) + 1) // 2
            span = 2 * half - 1
            around = _square(corner - half + 1, span[:, 0], span[:, 1], b.gain)[:, 0]
            b.tried = b.tried | (here & column(going, here))
            b.near = b.near | (around & column(going, around))

    def _scores(self, state: State[PatchBuffers], height: Tensor, width: Tensor) -> Tensor:
        """The gain of each place by its upper left corner, N × H × W; -inf where none fits."""
        gain = state.buffers.gain
        scores = torch.full_like(gain[:, 0], -torch.inf)
        for size in sorted(set(zip(height.tolist(), width.tolist(), strict=True))):
            rows = ((height == size[0]) & (width == size[1])).nonzero()[:, 0]
            sums = avg_pool2d(gain[rows], size, stride=1)[:, 0]
            scores[rows, : sums.shape[1], : sums.shape[2]] = sums
        return scores


def _square(corner: Tensor, height: Tensor, width: Tensor, like: Tensor) -> Tensor:
    """The pixels of a rectangle, by its upper left corner N × 2, bool N × 1 × H × W."""
    rows = torch.arange(like.shape[-2], device=corner.device) - corner[:, :1]
    columns = torch.arange(like.shape[-1], device=corner.device) - corner[:, 1:]
    down = (rows >= 0) & (rows < height[:, None])
    across = (columns >= 0) & (columns < width[:, None])
    return (down[:, :, None] & across[:, None, :])[:, None]
