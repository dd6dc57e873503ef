"""TRADES (Zhang et al. 2019): accuracy on images and steadiness around them, weighed."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustkit.losses.attacked import AttackedLoss
from robustkit.losses.loss import Result, Step, as_float32, expect, mode, unwrapped


@dataclass(frozen=True, slots=True)
class Trades(AttackedLoss):
    """Mean of −log p_y(x) + β KL(p(x) ‖ p(x′)) over the batch; x′ is attacked to raise the KL.

    The images and the attacked ones go through the network one after the other, so that batch norm
    sees two batches. The logits in the result are those of the images x.
    """

    name: ClassVar[str] = "trades"

    beta: float = 6.0
    """weight of the divergence"""

    def __post_init__(self) -> None:
        # a slotted dataclass is made anew, which the short form of super does not survive
        AttackedLoss.__post_init__(self)
        expect(self.beta >= 0, "trades: beta must be at least 0", self.beta)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """The loss of a batch; see `Loss`."""
        attacked = self._attacked(model, images, step)
        logits = as_float32(model(images))
        loss = functional.cross_entropy(logits, labels)
        # past the wrapper of distributed training, which would write rank 0's batch statistics over
        # those that the first pass's gradient still needs; gradients meet at the weights as before
        distance = divergence(logits, as_float32(unwrapped(model)(attacked)))
        return Result(loss + self.beta * distance / len(images), logits.detach())

    def _attacked(self, model: nn.Module, images: Tensor, step: Step) -> Tensor:
        """Images attacked to differ from what the network says of them in the attack's mode."""
        inner = unwrapped(model)
        with torch.no_grad(), mode(inner, self.attack_mode == "train"):
            clean = as_float32(inner(images))
        return self.attack(model, images, step, lambda logits: divergence(clean, logits))


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q), summed over the batch, from logits N × K."""
    return functional.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="sum", log_target=True)
