"""Generalised cross-entropy: between cross-entropy and the absolute error, which forgives more."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robustkit.losses.loss import LogitLoss, expect


@dataclass(frozen=True, slots=True)
class GeneralisedCrossEntropy(LogitLoss):
    """Mean of (1 − p_y^q) / q over the batch (Zhang and Sabuncu 2018).

    As q goes to 0 it becomes cross-entropy; q = 1 is half the mean absolute error.
    """

    q: float = 0.7
    """in (0, 1]"""

    def __post_init__(self) -> None:
        expect(
            0 < self.q <= 1,
            "generalised-cross-entropy: q must be above 0 and at most 1 (towards 0 it becomes "
            "cross-entropy)",
            self.q,
        )

    def value(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch; see `LogitLoss`."""
        entropy = functional.cross_entropy(logits, labels, reduction="none")
        # expm1 keeps the difference from 1 where p_y is close to it
        return (-torch.expm1(-self.q * entropy) / self.q).mean()
