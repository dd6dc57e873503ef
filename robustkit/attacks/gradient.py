"""Projected steepest ascent: FGSM, BIM, PGD, MI-FGSM, and noise as the case of no step at all.

foolbox's three gradient descent classes, with budgets, draws and projections of our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks.draws import Distribution, in_ball, on_sphere, starts
from robustkit.attacks.library import foolbox
from robustkit.attacks.objectives import objective
from robustkit.attacks.search import Search
from robustkit.attacks.state import State
from robustkit.geometry import column, project, steepest_step
from robustkit.protocol import Loss, Norm


@dataclass(slots=True)
class Momentum:
    """What MI-FGSM remembers."""

    velocity: Tensor
    """gradients over their L1 norms, accumulated, N × C × H × W"""


class _Ascent(Search[Momentum | None]):
    """Projected steepest ascent, mixed into foolbox's three gradient descent classes."""

    rel_stepsize: float

    def __init__(
        self,
        *,
        steps: int,
        rel_stepsize: float,
        random_start: bool,
        restarts: int = 1,
        loss: Loss = "cross-entropy",
        momentum: float | None = None,
        distribution: Distribution = "uniform",
    ) -> None:
        super().__init__(steps=steps, rel_stepsize=rel_stepsize, random_start=random_start)  # type: ignore[call-arg]
        self.restarts = restarts
        # what only draws goes on from no point: it is the floor that every attack must beat
        self.goes_on = random_start and steps > 0
        self.loss = loss
        self.momentum = momentum
        self.distribution = distribution

    def start(
        self, state: State[None], sources: Sequence[torch.Generator | None]
    ) -> State[Momentum | None]:
        """First iterates: the images, draws from their balls, or the points that are given."""
        images, epsilon = state.images, state.epsilon
        x = images.clone()
        if self.random_start:
            draw = in_ball if self.distribution == "uniform" else on_sphere
            noise = starts(draw, self.norm, images, sources)
            x = project(state.x + column(epsilon, images) * noise, images, epsilon, self.norm)
        still = None if self.momentum is None else Momentum(torch.zeros_like(images))
        return state.started(x, still)

    def value(self, logits: Tensor, state: State[Momentum | None], targeted: bool) -> Tensor:
        """The loss, N."""
        return objective(logits, state.classes, state.clean, self.loss, targeted)

    def advance(self, state: State[Momentum | None], value: Tensor, gradient: Tensor) -> None:
        """One step of rel_stepsize · ε along the steepest direction, then back into ball and box.

        With momentum the direction is Dong et al.'s: gradients over their L1 norm, accumulated.
        """
        if self.momentum is not None and state.buffers is not None:
            size = gradient.flatten(1).abs().sum(1).clamp(min=1e-38)
            velocity = state.buffers.velocity.mul_(self.momentum)
            gradient = velocity.add_(gradient / column(size, gradient)).clone()
        x = steepest_step(state.x, gradient, self.rel_stepsize * state.epsilon, self.norm)
        state.x = project(x, state.images, state.epsilon, self.norm)


class LinfAscent(_Ascent, foolbox.attacks.gradient_descent_base.LinfBaseGradientDescent):  # type: ignore[misc]
    """Steps along the gradient's sign, confined to the cube."""

    norm = "linf"


class L2Ascent(_Ascent, foolbox.attacks.gradient_descent_base.L2BaseGradientDescent):  # type: ignore[misc]
    """Steps along the gradient, confined to the Euclidean ball."""

    norm = "l2"


class L1Ascent(_Ascent, foolbox.attacks.gradient_descent_base.L1BaseGradientDescent):  # type: ignore[misc]
    """Steps on the steepest pixels, confined to the L1 ball by its true projection.

    foolbox's own L1 classes step along g/‖g‖₁ and shrink instead of projecting, which does a tenth
    of the damage on a linear model.
    """

    norm = "l1"


ASCENT: dict[Norm, type[_Ascent]] = {"linf": LinfAscent, "l2": L2Ascent, "l1": L1Ascent}
