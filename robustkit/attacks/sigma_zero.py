"""σ-zero: the fewest changed pixels, or features, by gradients (Cinà et al. 2025, algorithm 1).

Cinà et al. 2025, "σ-zero: Gradient-based optimization of ℓ0-norm adversarial examples". What we
add can only lower what is found: the fewest of the steepest entries that fool where they go to
their wall, which is the answer on a linear model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustkit.attacks.library import foolbox, goal, unit_box
from robustkit.attacks.objectives import objective
from robustkit.attacks.targets import likeliest
from robustkit.geometry import column, distance
from robustkit.network import answer
from robustkit.network import gradient as gradient_of
from robustkit.protocol import Norm
from robustkit.protocol.passes import TARGETS

ADAM = (0.9, 0.999)
"""decay of the running means of the gradient and of its square (Kingma and Ba 2015)"""


@dataclass(slots=True)
class _Nearest:
    """The changes of fewest entries that fool, and how many those are; N rows."""

    change: Tensor
    count: Tensor
    """float64; inf where nothing fools"""

    def keep(self, change: Tensor, count: Tensor, fooled: Tensor) -> Tensor:
        """Which rows are fooled with fewer than before; they are kept."""
        fewer = fooled & (count < self.count)
        self.count = torch.where(fewer, count, self.count)
        self.change = torch.where(column(fewer, change), change, self.change)
        return fewer


@dataclass(frozen=True, slots=True)
class _Asked:
    """A model, images in [0, 1] and what is to be made of them."""

    model: Any
    images: Tensor
    classes: Tensor
    targeted: bool
    norm: Norm
    only: Callable[[Tensor], None]
    """told of which images the next passes are, bool N"""

    def logits(self, change: Tensor) -> Tensor:
        """Of the changed images, N × K."""
        logits: Tensor = answer(self.model, self.images + change)
        return logits

    def fooled(self, logits: Tensor) -> Tensor:
        """Which rows are, N."""
        return (logits.argmax(1) == self.classes) == self.targeted

    def count(self, change: Tensor) -> Tensor:
        """Of changed entries, float64 N."""
        return distance(self.images, self.images + change, self.norm)


class SigmaZeroAttack(foolbox.attacks.base.MinimizationAttack):  # type: ignore[misc]
    """The smallest number of changed pixels, or features.

    Each step lowers the margin and a smooth count of the changes, whose gradients are brought to
    one scale; then entries smaller than a threshold, which follows success, are set back.
    """

    def __init__(
        self,
        norm: Norm,
        steps: int = 1000,
        step_size: float = 1.0,
        sigma: float = 1e-3,
        threshold: float = 0.3,
        adaptation: float = 0.01,
    ) -> None:
        self.norm = norm
        self.steps = steps
        self.step_size = step_size
        self.sigma = sigma
        self.threshold = threshold
        self.adaptation = adaptation

    @property
    def distance(self) -> Any:
        """The norm, in foolbox's words."""
        return foolbox.distances.l0

    def run(self, model: Any, inputs: Any, criterion: Any, **kwargs: Any) -> Any:
        """The image of fewest changes that fools; the image itself where there is none.

        `only`, if given, is told of which images the next passes are, bool N.
        """
        kwargs.pop("early_stop", None)
        only = kwargs.pop("only", lambda some: None)
        foolbox.attacks.base.raise_if_kwargs(kwargs)
        classes, targeted = goal(criterion)
        model, images, _, back = unit_box(model, inputs)
        asked = _Asked(model, images, classes, targeted, self.norm, only)
        nearest = _Nearest(
            torch.zeros_like(images),
            torch.full((len(images),), math.inf, dtype=torch.float64, device=images.device),
        )
        self._search(asked, nearest)
        self._choose_steepest(asked, nearest)
        return back((images + nearest.change).clamp(0, 1))

    def _search(self, asked: _Asked, nearest: _Nearest) -> None:
        images, change = asked.images, torch.zeros_like(asked.images)
        first, second = torch.zeros_like(change), torch.zeros_like(change)
        threshold = torch.full((len(images),), self.threshold, device=images.device)
        for step in range(self.steps):
            point = change.detach().requires_grad_()
            logits = asked.logits(point)
            margin = objective(logits, asked.classes, logits, "margin", asked.targeted)
            loss = (-margin).clamp(min=0) + self._smooth_count(point)
            slope = gradient_of(loss.sum(), point)
            slope = slope / column(slope.flatten(1).abs().amax(1).clamp(min=1e-12), slope)
            fooled = asked.fooled(logits.detach())
            nearest.keep(change, asked.count(change), fooled)
            first = ADAM[0] * first + (1 - ADAM[0]) * slope
            second = ADAM[1] * second + (1 - ADAM[1]) * slope**2
            mean = first / (1 - ADAM[0] ** (step + 1))
            size = second / (1 - ADAM[1] ** (step + 1))
            change = change - self._rate(step) * mean / (size.sqrt() + 1e-8)
            change = (images + change).clamp(0, 1) - images
            way = torch.where(fooled, 1.0, -1.0)
            threshold = (threshold + self.adaptation * self._rate(step + 1) * way).clamp(0, 1)
            change = torch.where(self._size(change) < column(threshold, change), 0.0, change)

    def _rate(self, step: int) -> float:
        """Step size, which falls by a cosine to a tenth."""
        share = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.step_size * (0.1 + 0.9 * share)

    def _size(self, change: Tensor) -> Tensor:
        """Of each entry, that of its largest channel where pixels count."""
        size = change.abs()
        return size.amax(1, keepdim=True) if self.norm == "l0" else size

    def _smooth_count(self, change: Tensor) -> Tensor:
        """Share of changed entries, N: |δ|² / (|δ|² + σ) of each (equation 5)."""
        square = change**2
        if self.norm == "l0":
            square = square.sum(1, keepdim=True)
        return (square / (square + self.sigma)).flatten(1).mean(1)

    def _choose_steepest(self, asked: _Asked, nearest: _Nearest) -> None:
        """The fewest entries that fool at their wall, those of the largest gain first.

        Gains are those of the network's linearisation at the image, towards each of the likeliest
        classes, and how many are needed is bisected: the answer itself where a network is linear.
        """
        logits = asked.logits(torch.zeros_like(asked.images)).detach()
        towards = asked.classes[:, None] if asked.targeted else likeliest(logits, asked.classes)
        for place in range(min(towards.shape[1], TARGETS)):
            self._bisect(asked, nearest, *self._gains(asked, towards[:, place]))

    def _gains(self, asked: _Asked, target: Tensor) -> tuple[Tensor, Tensor]:
        """The change of each value to its wall, N × C × H × W, and each entry's gain, N × E."""
        point = asked.images.detach().requires_grad_()
        logits = answer(asked.model, point)
        own = logits.argmax(1) if asked.targeted else asked.classes
        gap = logits.gather(1, target[:, None]) - logits.gather(1, own[:, None])
        slope = gradient_of(gap.sum(), point)
        room = torch.where(slope > 0, 1 - asked.images, -asked.images) * (slope != 0)
        gain = slope * room
        if self.norm == "l0":
            gain = gain.sum(1, keepdim=True)
        return room, gain.flatten(1)

    def _bisect(self, asked: _Asked, nearest: _Nearest, wall: Tensor, gain: Tensor) -> None:
        rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
        low = torch.zeros_like(asked.classes)
        high = nearest.count.clamp(max=gain.shape[1] + 1).long()
        # low entries do not fool, high ones do or need not be asked
        while bool((left := high - low > 1).any()):
            asked.only(left)  # the others are passed along, and change nothing
            middle = (low + high) // 2
            chosen = (rank < middle[:, None]).view(len(gain), -1, *wall.shape[2:])
            change = torch.where(chosen, wall, 0.0)
            with torch.no_grad():
                fooled = asked.fooled(asked.logits(change)) & left
            nearest.keep(change, asked.count(change), fooled)
            low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
        asked.only(torch.ones_like(left))
