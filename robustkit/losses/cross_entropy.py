"""Cross-entropy, the usual loss."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from robustkit.losses.loss import LogitLoss, expect


@dataclass(frozen=True, slots=True)
class CrossEntropy(LogitLoss):
    """Mean of −Σⱼ tⱼ log pⱼ over the batch, p the softmax of the logits.

    The target t is 1 − s + s/K at the label and s/K elsewhere, s the smoothing (Szegedy et al.
    2016).
    """

    label_smoothing: float = 0.0
    """share of the target spread evenly over all classes, in [0, 1)"""

    def __post_init__(self) -> None:
        expect(
            0 <= self.label_smoothing < 1,
            "cross-entropy: label_smoothing must be at least 0 and below 1",
            self.label_smoothing,
        )

    def value(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch; see `LogitLoss`."""
        return functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
