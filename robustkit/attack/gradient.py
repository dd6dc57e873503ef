"""Attacks at fixed budgets, as foolbox classes that give every image its own budget and state.

The engine drives `start` and `advance` image by image as slots free up; `run` drives the same two
for a whole batch at one budget, so each class is also a foolbox attack like any other.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robustkit.attack.draws import Distribution, generator, in_ball, on_sphere
from robustkit.attack.geometry import ascend, column, project
from robustkit.attack.library import eagerpy, foolbox
from robustkit.protocol import Attack, Fgsm, Loss, Mifgsm, Noise, Norm, Pgd


def objective(logits: Tensor, classes: Tensor, loss: Loss, targeted: bool) -> Tensor:
    """What an attack ascends, N: `classes` are the labels, or the targets to be reached.

    Cross-entropy is that of Madry et al. 2018; the margin is the largest other logit minus the
    class's own (Carlini and Wagner 2017, f6), which still has a gradient where softmax saturates.
    """
    if loss == "cross-entropy":
        value = cross_entropy(logits, classes, reduction="none")
    else:
        own = logits.gather(1, classes[:, None])[:, 0]
        others = logits.scatter(1, classes[:, None], float("-inf"))
        value = others.amax(1) - own
    return -value if targeted else value


class FixedBudget(Protocol):
    """What the engine asks of an attack at a fixed budget."""

    steps: int
    random_start: bool
    restarts: int
    loss: Loss

    def start(self, images: Tensor, epsilon: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
        """First iterates."""

    def blank(self, images: Tensor) -> Tensor:
        """What is remembered of each image before its first step."""

    def advance(
        self, x: Tensor, gradient: Tensor, images: Tensor, epsilon: Tensor, memory: Tensor
    ) -> Tensor:
        """Next iterates; `gradient` and `memory`, zero at the start, may be written to."""


class _Ascent:
    """Projected steepest ascent, mixed into foolbox's three gradient descent classes."""

    norm: ClassVar[Norm]
    steps: int
    random_start: bool
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
        self.loss = loss
        self.momentum = momentum
        self.distribution = distribution

    def start(self, images: Tensor, epsilon: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
        """First iterates: the images, or draws from their balls, one generator an image."""
        if not self.random_start:
            return images.clone()
        draw = in_ball if self.distribution == "uniform" else on_sphere
        noise = torch.stack([draw(self.norm, images.shape[1:], source) for source in sources])
        start = images + column(epsilon, images) * noise.to(images)
        return project(start, images, epsilon, self.norm)

    def blank(self, images: Tensor) -> Tensor:
        """An empty memory; of no size where there is no momentum."""
        if self.momentum is None:
            return images.new_zeros(len(images), 0)
        return torch.zeros_like(images)

    def advance(
        self, x: Tensor, gradient: Tensor, images: Tensor, epsilon: Tensor, memory: Tensor
    ) -> Tensor:
        """One step of rel_stepsize · ε along the steepest direction, then back into ball and box.

        With momentum the direction is Dong et al.'s: gradients over their L1 norm, accumulated in
        `memory`.
        """
        if self.momentum is not None:
            size = gradient.flatten(1).abs().sum(1).clamp(min=1e-38)
            gradient = memory.mul_(self.momentum).add_(gradient / column(size, x)).clone()
        x = ascend(x, gradient, self.rel_stepsize * epsilon, self.norm)
        return project(x, images, epsilon, self.norm)

    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        """The entry that foolbox calls: the whole batch at one budget, last iterate returned.

        Start points come from generators keyed by place in the batch.
        """
        foolbox.attacks.base.raise_if_kwargs(kwargs)
        wrapped, restore = eagerpy.astensor_(inputs)
        images, budget = wrapped.raw, torch.full((len(wrapped),), epsilon).to(wrapped.raw)
        criterion = foolbox.attacks.base.get_criterion(criterion)
        targeted = hasattr(criterion, "target_classes")
        classes = (criterion.target_classes if targeted else criterion.labels).raw
        x = self.start(images, budget, [generator("run", i) for i in range(len(images))])
        memory = self.blank(x)
        for _ in range(self.steps):
            x.requires_grad_()
            value = objective(model(x), classes, self.loss, targeted).sum()
            (gradient,) = torch.autograd.grad(value, x)
            x = self.advance(x.detach(), gradient, images, budget, memory)
        return restore(eagerpy.astensor(x))


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


def fixed_budget(attack: Attack, norm: Norm) -> FixedBudget | None:
    """The foolbox class for a kind that works at fixed budgets; None for minimal-norm kinds."""
    ascent = ASCENT[norm]
    match attack:
        case Fgsm(loss):
            return ascent(steps=1, rel_stepsize=1.0, random_start=False, loss=loss)
        case Pgd(steps, relative, restarts, random_start, loss):
            return ascent(
                steps=steps,
                rel_stepsize=float(relative),
                random_start=random_start,
                # without a random start every restart would be the first one again
                restarts=restarts if random_start else 1,
                loss=loss,
            )
        case Mifgsm(steps, relative, momentum, loss):
            return ascent(
                steps=steps,
                rel_stepsize=float(relative),
                random_start=False,
                loss=loss,
                momentum=float(momentum),
            )
        case Noise(draws, distribution):
            return ascent(
                steps=0,
                rel_stepsize=1.0,
                random_start=True,
                restarts=draws,
                distribution=distribution,
            )
        case _:
            return None
