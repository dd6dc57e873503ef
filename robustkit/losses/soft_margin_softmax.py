"""Soft-margin softmax: cross-entropy that asks for a lead of the target logit."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robustkit.losses.loss import LogitLoss, expect


@dataclass(frozen=True, slots=True)
class SoftMarginSoftmax(LogitLoss):
    """Mean of −log e^{f_y − m} / (e^{f_y − m} + Σ_{j≠y} e^{f_j}) over the batch (Liang et al.).

    It is cross-entropy where m is 0. Prediction uses the logits f as they are.
    """

    margin: float = 1.0
    """m, in units of logits, at least 0"""

    def __post_init__(self) -> None:
        expect(self.margin >= 0, "soft-margin-softmax: margin must be at least 0", self.margin)

    def value(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch; see `LogitLoss`."""
        shift = torch.full_like(labels[:, None], -self.margin, dtype=logits.dtype)
        return functional.cross_entropy(logits.scatter_add(1, labels[:, None], shift), labels)
