"""Symmetric cross-entropy: cross-entropy and its reverse, which bounds what a wrong label costs."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from robustkit.losses.loss import LogitLoss, expect


@dataclass(frozen=True, slots=True)
class SymmetricCrossEntropy(LogitLoss):
    """α · cross-entropy + β · reverse cross-entropy, means over the batch (Wang et al. 2019).

    The reverse term −Σⱼ pⱼ log tⱼ with one-hot t and log 0 set to A is −A (1 − p_y).
    """

    alpha: float = 0.1
    """weight of cross-entropy"""
    beta: float = 1.0
    """weight of the reverse"""
    log_zero: float = -4.0
    """A, below 0"""

    def __post_init__(self) -> None:
        expect(self.alpha >= 0, "symmetric-cross-entropy: alpha must be at least 0", self.alpha)
        expect(self.beta >= 0, "symmetric-cross-entropy: beta must be at least 0", self.beta)
        expect(
            self.log_zero < 0, "symmetric-cross-entropy: log_zero must be below 0", self.log_zero
        )

    def value(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch; see `LogitLoss`."""
        own = logits.log_softmax(1).gather(1, labels[:, None])
        forward = functional.cross_entropy(logits, labels)
        # expm1 keeps the difference from 1 where p_y is close to it
        reverse = (self.log_zero * own.expm1()).mean()
        return self.alpha * forward + self.beta * reverse
