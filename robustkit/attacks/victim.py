"""The model under attack, whose every answer is checked."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from robustkit.attacks.passes import Passes
from robustkit.errors import EvaluationFailed
from robustkit.network import answer, apart, spread

VOTES = 20
"""passes over which the logits of a model that draws at random are averaged for a verdict"""
RANDOM = 1e-4
"""passes that differ by more are a random model's (Croce and Hein 2020, check_randomized)"""


def draws_at_random(a: Tensor, b: Tensor) -> bool:
    """Whether two passes over the same images, N × K each, differ beyond rounding."""
    return passes_apart(a, b) > RANDOM


def passes_apart(a: Tensor, b: Tensor) -> float:
    """How far two passes over the same images, N × K each, lie apart at most.

    In logits of unit length, as AutoAttack's check_randomized has it, or as a share of their
    spread where that is more: a masked class or an offset of all logits hides it from the former.
    """
    unit = [logits / (logits.norm(dim=1, keepdim=True) + 1e-10) for logits in (a, b)]
    # NaN, as of infinite logits, compares with nothing and is left out
    return max(apart(a, b, spread(a)), float((unit[0] - unit[1]).norm(dim=1).max()))


@dataclass(frozen=True, slots=True)
class Victim:
    """A model and what counts as fooling it; `rows` name a block's images in its errors."""

    model: torch.nn.Module
    place: Callable[[int], int]
    """of a block's row in the data set"""
    targeted: bool
    """whether a class is to be reached, or to be left"""
    passes: Passes
    """where its passes are counted, N images"""
    votes: int = 1
    """passes whose mean logits decide: more than one where the model draws at random"""

    def fooled(self, predicted: Tensor, classes: Tensor) -> Tensor:
        """Which predictions are what the attack is after, N."""
        return (predicted == classes) == self.targeted

    def logits(self, images: Tensor, rows: Tensor, name: str) -> Tensor:
        """Logits without gradients, N × K.

        Raises:
            EvaluationFailed: one is NaN or infinite.
        """
        with torch.no_grad():
            logits: Tensor = answer(self.model, images)
        self.passes.add(rows, 1)
        self.checked_hits(logits, rows, torch.zeros(len(rows), device=logits.device), name)
        return logits

    def mean_logits(self, images: Tensor, rows: Tensor, name: str, least: int = 1) -> Tensor:
        """Logits, of a model that draws at random their mean over `votes` passes, or `least`."""
        count = max(self.votes, least)
        logits = self.logits(images, rows, name)
        for _ in range(count - 1):
            logits = logits + self.logits(images, rows, name)
        return logits / count if count > 1 else logits

    def confirmed(
        self,
        logits: Tensor,
        images: Tensor,
        rows: Tensor,
        classes: Tensor,
        name: str,
        passes: int = 1,
    ) -> Tensor:
        """Logits N × K of points, means over so many passes; those that fool are asked again.

        A model that draws at random fools by luck, the sooner the more points it is asked at. What
        fools is asked once more, as long as the mean of its logits does, until these are `votes`
        passes: by luck alone few points get far.
        """
        going = self.fooled(logits.argmax(1), classes).nonzero()[:, 0]
        if passes >= self.votes or not len(going):
            return logits
        means, at = logits.clone(), rows.to(logits.device)
        for n in range(passes, self.votes):
            again = self.logits(images[going], at[going].cpu(), name)
            means[going] += (again - means[going]) / (n + 1)
            going = going[self.fooled(means[going].argmax(1), classes[going])]
            if not len(going):
                break
        return means

    def checked_hits(self, logits: Tensor, rows: Tensor, classes: Tensor, name: str) -> Tensor:
        """Which rows fool, on the CPU, after a check that all logits are finite.

        NaN compares unequal to everything: unchecked, a model that breaks down would count as
        fooled, or as robust, by the way that the comparison is written.
        """
        hit = self.fooled(logits.argmax(1), classes).cpu()
        if not isfinite(float(logits.sum())):  # or finite ones whose sum is too large
            finite = torch.isfinite(logits).all(1).cpu()
            if not bool(finite.all()):
                raise EvaluationFailed(
                    f"logits are NaN or infinite{self.at(rows[~finite])} ({name}): a fault "
                    "of the model, not a success of the attack"
                )
        return hit

    def at(self, rows: Tensor) -> str:
        """Where in the data set, for an error."""
        return f" at image {self.place(int(rows[0]))}"
