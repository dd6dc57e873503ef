"""That a network answers after its work as it did before: what only many passes would show.

`contract` asks before any work. A state that tips over later, a counter or a store of earlier
queries, makes all numbers wrong; the same few images are therefore asked again at the end.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustkit.attacks.company import FEW
from robustkit.attacks.contract import AGAIN, COMPANY, REMEMBERS, WRAPPED, check_contract
from robustkit.checkpoint.adapter import classifier
from robustkit.errors import InputError, NetworkFailed
from robustkit.network import apart, spread
from robustkit.seeding import seeded


class NetworkChanged(InputError):
    """A network answers otherwise than before it was attacked: none of its rows is kept."""


@dataclass(frozen=True, slots=True, eq=False)
class FirstAnswers:
    """What a network answered to a few images before any work."""

    model: nn.Module
    images: Tensor
    random: bool
    """whether passes over the same image differ, by what the contract found"""
    logits: Tensor | None
    """N × K; None: no two passes can be compared"""
    whose: str = ""
    """said first in a refusal"""

    @classmethod
    def of(
        cls, model: nn.Module, images: Tensor, *, random: bool, whose: str = ""
    ) -> "FirstAnswers":
        """Asked now. Global random generators are left as they were.

        Args:
            model: from pixels in [0, 1] to logits N × K, on the images' device; the contract holds.
            images: N × C × H × W, of which the first few are passed.
            random: whether passes over the same image differ.
            whose: said first in a refusal.
        """
        few = images[:FEW].clone()  # whoever gave them may fill them anew
        asked = cls(model, few, random, None, whose)
        try:
            logits = asked._answered()
            # one that draws from global generators alone draws alike from the same seed
            comparable = not random or asked._same(asked._answered(), logits)
        except (NetworkFailed, torch.OutOfMemoryError):
            return asked  # the work itself says of which image
        return cls(model, few, random, logits if comparable else None, whose)

    def check(self) -> None:
        """Nothing, if the network answers after all its passes as it did before them.

        Raises:
            NetworkChanged: its logits of the same images are others now.
        """
        if self.logits is None:
            return
        # draws of its own, now and then, may have been missed at the start, and pass by
        tries = AGAIN if self.random else 1
        if not any(self._same(self._answered(), self.logits) for _ in range(tries)):
            raise NetworkChanged(f"{self.whose}{REMEMBERS}")

    def _answered(self) -> Tensor:
        with seeded(0, self.images.device), torch.no_grad():
            found: Tensor = self.model(self.images).float()
        return found

    @staticmethod
    def _same(one: Tensor, other: Tensor) -> bool:
        return apart(one, other, spread(other)) <= COMPANY


@contextmanager
def unchanged(model: nn.Module, images: Tensor, *, random: bool) -> Iterator[None]:
    """Work with a network that keeps the contract, and that answers alike afterwards.

    Raises:
        NetworkChanged: it does not; where the work itself breaks, that alone is told.
    """
    first = FirstAnswers.of(model, images, random=random)
    yield
    first.check()


@contextmanager
def held_throughout(
    model: nn.Module, images: Tensor, instead: str = WRAPPED, batch: int | None = None
) -> Iterator[nn.Module]:
    """As `contract.held`, for the time of some work; asked again at its end.

    Raises:
        InputError, EvaluationFailed: as `check_contract`, but for no images.
        NetworkChanged: it answers otherwise than before the work.
    """
    model = classifier(model)
    if not len(images):
        yield model
        return
    contract = check_contract(model, images, instead, batch=batch)
    with unchanged(model, images, random=contract.random):
        yield model
