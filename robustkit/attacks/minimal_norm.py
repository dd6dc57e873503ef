"""Attacks that look for the smallest perturbation, each image to the attack's end, by foolbox."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustkit.attacks.block import Block, batches
from robustkit.attacks.build import build_minimal_norm
from robustkit.attacks.draws import seed_of
from robustkit.attacks.forecast import BlockForecast, Standing
from robustkit.attacks.library import DecidedOnce, Elsewhere, foolbox, foolbox_model, seeded
from robustkit.attacks.passes import CountedNetwork
from robustkit.attacks.verdicts import Verifier
from robustkit.errors import EvaluationFailed
from robustkit.network import asked
from robustkit.protocol import Attack, Boundary, DeepFool, HopSkipJump, Protocol

ONE_BY_ONE = (Boundary, HopSkipJump)
"""kinds whose foolbox code shares draws and norms over the batch: image by image, so that a result
depends on no other image"""

FARTHER = tuple(1.1**k for k in range(1, 13))
"""how far beyond a point that did not hold others are tried, as multiples of its distance"""


@dataclass(frozen=True, slots=True)
class MinimalNorm:
    """One such attack on a block."""

    verifier: Verifier
    protocol: Protocol
    attack: Attack
    name: str
    position: int
    """place of the attack in the protocol; its draws are keyed by it"""
    batch_size: int
    forecast: BlockForecast

    def run(self) -> None:
        """Attack every image that is right, and not proven so at the largest budget."""
        block = self.verifier.block
        device = block.images.device
        adversary = build_minimal_norm(self.attack, self.protocol.norm)
        rows = self.verifier.outcomes.attacked(self.protocol)
        size = 1 if isinstance(self.attack, ONE_BY_ONE) else self.batch_size
        parts = list(batches(rows, size))
        open_levels = [range(len(self.protocol.epsilons)) for _ in rows]
        self.forecast.begin(self.position, open_levels)
        for n, batch in enumerate(parts, 1):
            ids = (block.ids[i] for i in batch.tolist())
            with seeded(seed_of(self.protocol.seed, self.position, *ids), device):
                result = self._answer(adversary, batch)
            if result is not None:
                self._keep(result, batch)
            self.forecast.finished(len(batch))
            self.forecast.tell(map(Standing, open_levels), n / len(parts))

    def _ended(self, classes: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Which images the attack has done with, by their logits; None: it never says."""
        victim = self.verifier.victim
        if not isinstance(self.attack, DeepFool) or victim.votes > 1:
            return None
        return lambda logits: victim.fooled(logits.argmax(1), classes)

    def _keep(self, result: Tensor, batch: Tensor) -> None:
        if not bool(torch.isfinite(result).all()):
            where = self.verifier.victim.at(batch)
            raise EvaluationFailed(f"{self.name} returned pixels that are not finite{where}")
        block = self.verifier.block
        pixels = result.detach().to(block.images.dtype).clamp(0, 1)
        pixels = block.held(pixels, block.images[batch.to(pixels.device)])
        held = self.verifier.keep(batch, pixels, self.name)
        if self.verifier.victim.votes > 1:
            self._keep_farther(pixels[~held.to(pixels.device)], batch[~held])

    def _keep_farther(self, pixels: Tensor, rows: Tensor) -> None:
        """Points beyond those that a model that draws at random was not fooled at.

        Its single answers flicker near the boundary, where these attacks end: the nearest lucky one
        is what they return, and its mean answer is another. On the ray behind it there may be one
        that holds.
        """
        for factor in FARTHER:
            if len(rows) == 0:
                return
            images = self.verifier.block.images[rows.to(pixels.device)]
            points = (images + factor * (pixels - images)).clamp(0, 1)
            lost = ~self.verifier.keep(rows, points, self.name)
            pixels, rows = pixels[lost.to(pixels.device)], rows[lost]

    def _answer(self, adversary: Any, batch: Tensor) -> Tensor | None:
        """What the attack returns; None if it found no point to start from."""
        victim, images = self.verifier.victim, self.verifier.block.images
        there = batch.to(images.device)
        classes = self.verifier.outcomes.classes[there]
        kind = foolbox.TargetedMisclassification if victim.targeted else foolbox.Misclassification
        model: torch.nn.Module = CountedNetwork(
            victim.model, victim.passes, batch, self._ended(classes)
        )
        if self.verifier.block.fixed:
            model = _Held(model, self.verifier.block, images[there])
        criterion = kind(classes)
        if victim.votes > 1 and isinstance(self.attack, ONE_BY_ONE):
            model, criterion = (
                DecidedOnce(model, victim.votes),
                criterion & Elsewhere(images[there]),
            )
        wrapped = foolbox_model(model, images.device)
        try:
            with asked(f"in {self.name}"):  # foolbox goes back through the network by itself
                answer: Tensor = adversary.run(wrapped, images[there], criterion)
        except EvaluationFailed as error:
            # HopSkipJump and Boundary: noise of every strength left the prediction alone
            if "init_attack failed" in str(error):
                return None
            where = victim.at(batch)
            raise EvaluationFailed(
                f"{error}, in the batch of {len(batch)} that begins{where}"
            ) from error
        return answer


class _Held(torch.nn.Module):
    """A network that sees the channels that may not change as they are in the images of a batch."""

    def __init__(self, model: torch.nn.Module, block: Block, images: Tensor) -> None:
        super().__init__()
        self.model = model
        self.block = block
        self.images = images
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """As the network."""
        # an attack that asks for several points of an image at once has it alone in its batch
        images = self.images.expand(len(x), *self.images.shape[1:])
        logits: Tensor = self.model(self.block.held(x, images))
        return logits
