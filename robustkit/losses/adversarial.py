"""Adversarial training by projected gradient ascent (Madry et al. 2018)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from robustkit.losses.attacked import AttackedLoss
from robustkit.losses.loss import Result, Step, as_float32


@dataclass(frozen=True, slots=True)
class Adversarial(AttackedLoss):
    """Cross-entropy of images attacked to raise it: the inner maximum of a saddle point problem.

    The logits in the result are those of the attacked images.
    """

    name: ClassVar[str] = "adversarial"

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """The loss of a batch; see `Loss`."""
        attacked = self.attack(
            model,
            images,
            step,
            lambda logits: functional.cross_entropy(logits, labels, reduction="sum"),
        )
        logits = as_float32(model(attacked))
        return Result(functional.cross_entropy(logits, labels), logits.detach())
