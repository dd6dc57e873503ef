"""What an audit knows of a network under attack, and the passes that its indicators share."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from robustkit.attacks import Block, SearchNetwork, attack_block, draws_at_random, in_budget
from robustkit.attacks.draws import seed_of
from robustkit.attacks.inside import stepping_inside, steps_inside
from robustkit.errors import EvaluationFailed
from robustkit.geometry import distance
from robustkit.protocol import Epsilon, Norm, Protocol
from robustkit.seeding import seeded

T = TypeVar("T")
OtherAttack = Literal["fgsm", "random", "black", "transfer"]
"""what the plain evaluation is held against, by the mask of what it left"""


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard adaptive attacks try: about steps × restarts passes an image, × averaged draws."""

    steps: int = 60
    restarts: int = 2
    draws: int = 16
    """gradients that are averaged into one, over a random model's draws or over noise"""
    queries: int = 1000
    """forward passes of a black-box attack an image"""
    passes: int = 10
    """a random model is fooled where it is wrong in more than half of so many passes"""


@dataclass(frozen=True, slots=True)
class AuditContext:
    """One network, its images, and which of them each kind of attack left right.

    Masks are boolean, N, on the CPU; True means classified right. A mask that is None was not
    worked out, and the indicators that need it say so: `missing` tells why it is not there.
    """

    model: torch.nn.Module
    """frozen, in eval mode, on its device; takes pixels in [0, 1], returns N × K"""
    images: Tensor
    """float32 N × C × H × W in [0, 1], on the model's device"""
    labels: Tensor
    """int64 N, likewise"""
    ids: tuple[str, ...]
    """keys of the images' random draws; of a data set, digests of their pixels"""
    protocol: Protocol
    """the plain evaluation under audit; its first budget is the judged one"""
    clean_right: Tensor
    """without an attack"""
    plain: Tensor
    """after the plain evaluation at the judged budget"""
    white: Tensor | None = None
    """after every white-box attack, the plain ones included"""
    black: Tensor | None = None
    """after black-box attacks alone"""
    fgsm: Tensor | None = None
    """after a single step alone"""
    random: Tensor | None = None
    """after random points of the ball alone"""
    transfer: Tensor | None = None
    """after attacks made on another network alone"""
    recorded_accuracy: float | None = None
    """clean accuracy that the checkpoint claims, as a fraction"""
    recorded_images: int | None = None
    """on how many images, held out of the same data set; None where that is not on record"""
    all_seen: bool = False
    """whether the checkpoint's record says that it was trained on these images"""
    training_ids: Callable[[], frozenset[str] | None] = lambda: None
    """ids of the images that the network was trained on"""
    batch_size: int = 128
    effort: Effort = Effort()
    failed: str = ""
    """why the plain attack broke off, so that `plain` is no more than `clean_right`"""
    missing: Mapping[OtherAttack, str] = field(default_factory=dict)
    """why a mask is None although its attack was asked for"""
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    # --- what is asked ------------------------------------------------------------------------

    @property
    def norm(self) -> Norm:
        """Of the judged budget."""
        return self.protocol.norm

    @property
    def epsilon(self) -> Epsilon:
        """The judged budget."""
        return self.protocol.epsilons[0]

    @property
    def seed(self) -> int:
        """Of every random draw."""
        return self.protocol.seed

    @property
    def survivors(self) -> Tensor:
        """Rows that the plain evaluation left right."""
        return self.plain.nonzero()[:, 0]

    def __len__(self) -> int:
        return len(self.images)

    # --- what is worked out once ----------------------------------------------------------------

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """A value that several indicators need, computed at the first call."""
        if name not in self._known:
            self._known[name] = compute()
        return cast("T", self._known[name])

    @property
    def is_random(self) -> bool:
        """Whether two passes over the same images differ."""
        return self.once("random", self._passes_differ)

    def _passes_differ(self) -> bool:
        few = self.images[:32]
        with self.repeatable("passes"), torch.no_grad():
            first, *others = (self.model(few) for _ in range(3))
        return any(draws_at_random(first, other) for other in others)

    # --- passes ---------------------------------------------------------------------------------

    def repeatable(self, *names: object) -> AbstractContextManager[None]:
        """Seeds the generators that a random model draws from, and restores them after."""
        return seeded(seed_of(self.seed, *names), self.images.device)

    def batches(self, rows: Tensor, size: int | None = None) -> list[Tensor]:
        """Rows, a batch at a time."""
        return list(torch.split(rows, size or self.batch_size)) if len(rows) else []

    def logits(self, images: Tensor, size: int | None = None) -> Tensor:
        """One pass without gradients, N × K."""
        with torch.no_grad():
            parts = torch.split(images, size or self.batch_size)
            return torch.cat([self.model(part) for part in parts])

    def _classes_at(self, perturbed: Tensor, rows: Tensor, size: int | None = None) -> Tensor:
        """What images that stand for `rows` are taken for, on the CPU.

        A random model is right where it is in at least half of `effort.passes` passes; else the
        class is the most frequent of the others.
        """
        labels = self.labels[rows.to(self.labels.device)][:, None]
        passes = self.effort.passes if self.is_random else 1
        votes = torch.zeros(len(rows), 1, device=labels.device)
        with self.repeatable("verdict"):
            for _ in range(passes):
                logits = self.logits(perturbed, size)
                if not bool(torch.isfinite(logits).all()):
                    raise EvaluationFailed("logits are NaN or infinite")
                votes = votes + torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1])
        right = votes.gather(1, labels) * 2 >= passes
        others = votes.scatter(1, labels, -1).argmax(1, keepdim=True)
        return torch.where(right, labels, others)[:, 0].cpu()

    def fooled_at(self, perturbed: Tensor, rows: Tensor, size: int | None = None) -> Tensor:
        """Whether perturbed images are successes, N on the CPU: the one word that counts.

        Recomputed on the model itself, in float32: within the budget, within the box, and wrong.
        """
        originals = self.images[rows.to(self.images.device)]
        pixels = perturbed.detach().to(torch.float32)
        allowed = in_budget(distance(originals, pixels, self.norm), float(self.epsilon))
        allowed &= ((pixels >= 0) & (pixels <= 1)).flatten(1).all(1)
        # one that is not allowed is judged as the clean image, so that every pass is of full size
        pixels = torch.where(allowed.view(-1, *[1] * (pixels.ndim - 1)), pixels, originals)
        classes = self._classes_at(pixels, rows, size)
        return self.count(rows, (classes != self.labels.cpu()[rows]) & allowed.cpu(), classes)

    def attacked(
        self, protocol: Protocol, rows: Tensor, surrogate: torch.nn.Module | None = None
    ) -> Tensor:
        """Whether a protocol fools the images of `rows` at its last budget, N on the CPU.

        Raises:
            EvaluationFailed, RuntimeError: the attack broke off.
        """
        if not len(rows):
            return torch.zeros(0, dtype=torch.bool)
        there = rows.to(self.images.device)
        places = rows.tolist()
        ids = [self.ids[i] for i in places]
        block = Block(self.images[there], self.labels[there], ids, places[0], places=places)
        followed = self.model if surrogate is None else surrogate
        with self.repeatable("attack", protocol.digest):
            inside = steps_inside(followed, self.images, protocol)
            search_by = stepping_inside(SearchNetwork(followed)) if inside else None
            outcomes = attack_block(
                self.model,
                block,
                protocol,
                self.batch_size,
                surrogate=surrogate,
                search_by=search_by,
            )
        claimed = in_budget(outcomes.distance, float(protocol.epsilons[-1])).cpu()
        classes = outcomes.perturbed_class.cpu()
        # one lucky pass is no success: a random model's perturbed images are judged by majority
        found = claimed.nonzero()[:, 0]
        if self.is_random and len(found):
            perturbed = outcomes.perturbed[found.to(there.device)]
            classes[found] = self._classes_at(perturbed, rows[found])
            claimed = claimed & (classes != self.labels.cpu()[rows])
        judged = (protocol.norm, protocol.epsilons[-1].value) == (self.norm, self.epsilon.value)
        return self.count(rows, claimed, classes) if judged else claimed

    # --- successes ------------------------------------------------------------------------------

    @property
    def taken_for(self) -> Tensor:
        """Class of each image in the last success at the judged budget, int64 N; -1 before one."""
        return self.once("taken for", lambda: torch.full((len(self),), -1))

    def count(self, rows: Tensor, fooled: Tensor, classes: Tensor) -> Tensor:
        """`fooled` of the images of `rows`; what those are taken for is kept."""
        self.taken_for[rows[fooled]] = classes[fooled]
        return fooled
