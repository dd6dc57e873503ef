"""Losses on attacked images: projected gradient ascent (Madry et al. 2018) in the training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robustkit.geometry import column, project, steepest_step
from robustkit.losses.loss import Loss, Step, as_float32, expect, mode, unwrapped


@dataclass(frozen=True, slots=True)
class AttackedLoss(Loss):
    """Settings of an attack; images and ε are in pixel units of [0, 1].

    In eval mode batch norm uses its running statistics and dropout is off while the images are
    attacked; in train mode every step of the attack is a training forward pass and moves the
    statistics. What is then learnt from the attacked images is always in the mode given.
    """

    name: ClassVar[str]
    """as in the registry, for messages"""

    epsilon: Fraction = Fraction(8, 255)
    """radius of the ball"""
    norm: Literal["linf", "l2"] = "linf"
    steps: int = 10
    relative_step: Fraction = Fraction(1, 4)
    """step size as a share of ε"""
    attack_mode: Literal["eval", "train"] = "eval"
    warmup: int = 0
    """updates over which ε grows to its size, in equal steps"""

    def __post_init__(self) -> None:
        expect(self.epsilon > 0, f"{self.name}: epsilon must be above 0", self.epsilon)
        expect(self.steps >= 1, f"{self.name}: steps must be at least 1", self.steps)
        share = self.relative_step
        expect(share > 0, f"{self.name}: relative_step must be above 0", share)
        expect(self.warmup >= 0, f"{self.name}: warmup must not be negative", self.warmup)

    def attack(
        self,
        model: nn.Module,
        images: Tensor,
        step: Step,
        objective: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Images in the ball and in [0, 1] that raise an objective of the logits, detached.

        The start is uniform in the ball, drawn from `step.generator`.

        Args:
            model: the network, N × C × H × W to N × K.
            images: N × C × H × W in [0, 1].
            step: where the run stands.
            objective: from logits N × K to a scalar, a sum over images.
        """
        inner, images = unwrapped(model), images.detach()
        grown = min(1.0, (step.number + 1) / self.warmup) if self.warmup else 1.0
        epsilon = images.new_full((len(images),), grown * float(self.epsilon))
        noise = in_unit_ball(images, self.norm, step.generator)
        x = (images + column(epsilon, images) * noise).clamp(0, 1)
        with torch.enable_grad(), mode(inner, self.attack_mode == "train"):
            for _ in range(self.steps):
                # a new leaf each step, so that no graph runs through the steps before; only its own
                # gradient is asked for, so that the attack adds none to the weights'
                x.requires_grad_()
                (slope,) = torch.autograd.grad(objective(as_float32(inner(x))), x)
                size = epsilon * float(self.relative_step)
                x = steepest_step(x.detach(), slope, size, self.norm)
                x = project(x, images, epsilon, self.norm, exact=False)
        return x


def in_unit_ball(like: Tensor, norm: str, generator: torch.Generator) -> Tensor:
    """Uniform points of the unit ball, N × …, of the shape, kind and device of `like`."""
    if norm == "linf":
        return torch.empty_like(like).uniform_(-1, 1, generator=generator)
    direction = torch.empty_like(like).normal_(generator=generator)
    share = like.new_empty(len(like)).uniform_(0, 1, generator=generator)
    # a ball's volume grows as r^n: its n-th root makes the points uniform in volume
    radius = share ** (1 / like[:1].numel())
    length = direction.flatten(1).norm(dim=1)
    return direction * column(radius / length, like)
