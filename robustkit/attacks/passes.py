"""Passes through the network, by image and attack: the cost that every machine agrees on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustkit.network import answer


@dataclass(frozen=True, slots=True)
class Passes:
    """What images of a block have cost, int64 on the CPU; last dimension: images.

    Each image in each call of the network is a pass forward, be it to search or to verify, of the
    model or of a surrogate; each gradient of one number in the image's pixels a pass backward. What
    an image is passed only for the sake of its company is not counted, nor are passes that try the
    network itself: counts depend on no other image and on no batch size.
    """

    forward: Tensor
    backward: Tensor
    broken: Tensor
    """passes back whose gradient holds NaN, which moves nothing, or an infinity"""

    @classmethod
    def none_yet(cls, *shape: int) -> "Passes":
        """Zeros."""
        zeros = torch.zeros(shape, dtype=torch.int64)
        return cls(zeros, zeros.clone(), zeros.clone())

    def part(self, place: int) -> "Passes":
        """Those of one attack, which go on being counted here."""
        return Passes(self.forward[place], self.backward[place], self.broken[place])

    def add(
        self,
        rows: Tensor,
        forward: int | Tensor,
        backward: int | Tensor = 0,
        broken: int | Tensor = 0,
    ) -> None:
        """So many passes more of some images, N different rows."""
        rows = rows.to(self.forward.device)
        kinds = (self.forward, forward), (self.backward, backward), (self.broken, broken)
        for counts, more in kinds:
            if isinstance(more, Tensor):
                counts.index_add_(0, rows, more.to(counts))
            elif more:
                counts.index_add_(0, rows, torch.full_like(rows, more))


class CountedNetwork(torch.nn.Module):
    """A network whose passes are counted as those of some images, in whole batches of them.

    `ended` tells from logits N × K which images the attack has done with: from then on they cost
    nothing, not even that pass's gradients, and are passed along since foolbox's code knows whole
    batches only. An attack that knows better says so (`only`).
    """

    def __init__(
        self,
        network: torch.nn.Module,
        passes: Passes,
        rows: Tensor,
        ended: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self._passes = passes
        self._rows = rows.cpu()
        self._active = torch.ones(len(rows), dtype=torch.bool)
        self._ended = ended
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """As the network."""
        logits = answer(self.network, x)
        # an attack that asks for several points of an image at once has it alone in its batch
        self._passes.add(self._rows[self._active], len(x) // len(self._rows))
        if self._ended is not None:
            self._active = self._active & ~self._ended(logits.detach()).cpu()
        if logits.requires_grad:
            rows = self._rows[self._active]
            logits.register_hook(lambda _: self._passes.add(rows, 0, 1))
        return logits

    def broken(self, rows: Tensor) -> None:
        """Told which images of the batch have a gradient that is no finite number, bool N."""
        self._passes.add(self._rows[self._active & rows], 0, 0, 1)

    def only(self, some: Tensor) -> None:
        """From now on count some images of the batch, bool N, and none besides."""
        self._active = some.cpu()
