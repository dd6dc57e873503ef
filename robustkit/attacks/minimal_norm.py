"""Attacks that look for the smallest perturbation, each image to the attack's end, by foolbox."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

from robustkit.attacks.block import Block, batches
from robustkit.attacks.build import build_minimal_norm
from robustkit.attacks.draws import seed_of
from robustkit.attacks.forecast import BlockForecast, Standing
from robustkit.attacks.library import DecidedOnce, Elsewhere, foolbox, foolbox_model
from robustkit.attacks.passes import CountedNetwork
from robustkit.attacks.starting import nearest_start
from robustkit.attacks.verdicts import Verifier
from robustkit.attacks.victim import Victim
from robustkit.errors import EvaluationFailed
from robustkit.network import answer, asked
from robustkit.protocol import Attack, Boundary, DeepFool, HopSkipJump, Protocol, SigmaZero
from robustkit.seeding import seeded

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
    clean: Tensor
    """logits of the block's clean images, of a model that draws at random their means, N × K"""

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
            if result is None:
                unstarted = self.verifier.outcomes.unstarted
                unstarted[self.name] = unstarted.get(self.name, 0) + len(batch)
            else:
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
        images = self.verifier.block.images
        away = (pixels != images[rows.to(pixels.device)]).flatten(1).any(1)
        pixels, rows = pixels[away], rows[away.cpu()]
        for factor in FARTHER:
            if len(rows) == 0:
                return
            images = self.verifier.block.images[rows.to(pixels.device)]
            points = (images + factor * (pixels - images)).clamp(0, 1)
            lost = ~self.verifier.keep(rows, points, self.name)
            pixels, rows = pixels[lost.to(pixels.device)], rows[lost]

    def _answer(self, adversary: Any, batch: Tensor) -> Tensor | None:
        """What the attack returns; None if it found no point to start from."""
        images = self.verifier.block.images[batch.to(self.verifier.block.images.device)]
        model, criterion, counted = self._asked(batch, images)
        how = {"only": counted.only} if isinstance(self.attack, SigmaZero) else {}
        try:
            return self._ran(adversary, batch, model, images, criterion, **how)
        except _NoStart:
            pass  # HopSkipJump and Boundary: noise of every strength left the prediction alone
        row, outcomes = int(batch[0]), self.verifier.outcomes
        found = outcomes.perturbed[row : row + 1] if bool(outcomes.distance[row] < inf) else None
        names = (self.protocol.seed, self.verifier.block.ids[row], self.position)
        is_adversarial = foolbox.attacks.base.get_is_adversarial(criterion, model)
        held = partial(self.verifier.block.held, images=images)
        start = nearest_start(images, found, held, is_adversarial, self.protocol.norm, names)
        if start is None:
            return None
        return self._ran(adversary, batch, model, images, criterion, starting_points=start)

    def _asked(self, batch: Tensor, images: Tensor) -> tuple[Any, Any, CountedNetwork]:
        """The network as the attack asks it, what it is to make of images, and who counts."""
        victim, classes = self.verifier.victim, self.verifier.outcomes.classes
        classes = classes[batch.to(images.device)]
        kind = foolbox.TargetedMisclassification if victim.targeted else foolbox.Misclassification
        counted = CountedNetwork(victim.model, victim.passes, batch, self._ended(classes))
        model: torch.nn.Module = counted
        criterion, random = kind(classes), victim.votes > 1
        decides = isinstance(self.attack, ONE_BY_ONE)
        if random and not decides:
            clean = self.clean[batch.to(self.clean.device)]
            model = _Confirmed(model, victim, batch, classes, self.name, images, clean)
        if self.verifier.block.fixed:
            model = _Held(model, self.verifier.block, images)
        if random and decides:
            model, criterion = DecidedOnce(model, victim.votes), criterion & Elsewhere(images)
        return foolbox_model(model, images.device, counted.broken), criterion, counted

    def _ran(
        self, adversary: Any, batch: Tensor, model: Any, images: Tensor, criterion: Any, **how: Any
    ) -> Tensor:
        try:
            with asked(f"in {self.name}"), warnings.catch_warnings():
                # what is said of it names the images (`Outcomes.unstarted`)
                warnings.filterwarnings("ignore", ".*failed to draw sufficient random inputs")
                # foolbox goes back through the network by itself
                found: Tensor = adversary.run(model, images, criterion, **how)
        except EvaluationFailed as error:
            if "init_attack failed" in str(error):
                raise _NoStart from error
            where = self.verifier.victim.at(batch)
            raise EvaluationFailed(
                f"{error}, in the batch of {len(batch)} that begins{where}"
            ) from error
        return found


class _NoStart(Exception):
    """An attack found no point to start from."""


class _Confirmed(torch.nn.Module):
    """A network that draws at random, whose lucky answers are asked again (`Victim.confirmed`).

    An attack that looks for the smallest perturbation would keep the nearest lucky one: were it
    that of the image itself, nothing nearer could take its place. Gradients are those of one pass.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        victim: Victim,
        rows: Tensor,
        classes: Tensor,
        name: str,
        images: Tensor,
        clean: Tensor,
    ) -> None:
        super().__init__()
        self.model = model
        self.victim = victim
        self.given = (rows, classes, name)
        self.images = images
        self.clean = clean
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """As the network, N × K."""
        logits: Tensor = answer(self.model, x)
        single, points = logits.detach(), x.detach()
        means = self.victim.confirmed(single, points, *self.given)
        same = (points == self.images).flatten(1).all(1)
        means = torch.where(same[:, None], self.clean.to(means), means)
        return logits + (means - single)


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
