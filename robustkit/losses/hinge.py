"""The SVM's hinge loss on the logits, with many classes."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from robustkit.losses.loss import LogitLoss, expect


@dataclass(frozen=True, slots=True)
class Hinge(LogitLoss):
    """Hinge loss of logits f and label y, margin m.

    Crammer and Singer (2001): max(0, m + max over j ≠ y of f_j − f_y). One-vs-rest: the sum over
    classes j of max(0, m − t_j f_j), with t_j = 1 at the label and −1 elsewhere. On request each
    of these maxima is squared.
    """

    kind: Literal["crammer-singer", "one-vs-rest"] = "crammer-singer"
    margin: float = 1.0
    squared: bool = False

    def __post_init__(self) -> None:
        expect(self.margin > 0, "hinge: margin must be above 0", self.margin)

    def value(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch; see `LogitLoss`."""
        if self.kind == "crammer-singer":
            own = labels[:, None]
            rival = logits.scatter(1, own, -float("inf")).amax(1, keepdim=True)
            lack = (self.margin + rival - logits.gather(1, own)).clamp(min=0)
        else:
            sign = 2 * functional.one_hot(labels, logits.shape[1]) - 1
            lack = (self.margin - sign * logits).clamp(min=0)
        return (lack.square() if self.squared else lack).sum(1).mean()
