"""The engine: from images and a protocol to one honest outcome per image.

Whatever an attack claims is recomputed here, in a forward pass of its own, on the float32 pixels
that came back: finite logits, pixels in [0, 1], distance within the budget, prediction. An attack
at fixed budgets runs over an active set: each slot of the batch holds one image at one budget; it
is freed at the first success, or after the last step, and refilled from a queue, so that passes run
at full batch size and no pass is spent on an image whose verdict is known.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from robustkit.attack.draws import generator, seed_of
from robustkit.attack.gradient import search
from robustkit.attack.library import foolbox, foolbox_model, seeded
from robustkit.attack.minimal import ONE_BY_ONE, minimal_norm
from robustkit.attack.search import Search, passes
from robustkit.attack.state import State
from robustkit.errors import DataError, EvaluationFailed
from robustkit.geometry import distance, in_budget
from robustkit.protocol import Attack, Protocol, labels_of
from robustkit.record import CLEAN

REVISION = 3
"""Raised whenever a change here can change a row; part of every evaluation's digest."""

VOTES = 20
"""passes over which the logits of a model that draws at random are averaged for a verdict"""
RANDOM = 1e-4
"""logits of unit length that differ by more from pass to pass are a random model's (Croce and Hein
2020, check_randomized)"""

Progress = Callable[[float], None]
"""told the share of a block's work that is done, 0 to 1"""


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive images of a data set, on the device."""

    images: Tensor
    """float32 N × C × H × W in [0, 1]"""
    labels: Tensor
    """int64 N"""
    ids: Sequence[str]
    """key of each image's random draws"""
    first: int
    """place of the first image in the data set"""


@dataclass(slots=True)
class Outcomes:
    """What is known of each image of a block; attacks can only lower the distances."""

    predicted: Tensor
    """class of the clean image, N"""
    classes: Tensor
    """what the attacks ascend against: labels, or the targets to reach, N"""
    distance: Tensor
    """smallest verified distance, float64 N: 0 for a clean mistake, inf where nothing was found"""
    fooled_by: list[str | None]
    perturbed: Tensor
    """the image at that distance; the clean image where there is none"""
    perturbed_class: Tensor
    """its predicted class, N"""


class _Task(NamedTuple):
    level: int
    """index of the budget"""
    chain: int
    """which of the attack's restarts and targets"""


@dataclass(slots=True)
class _Slots:
    """The active set: row i of the state belongs to image `owner[i]` of the block."""

    owner: Tensor  # on the CPU
    left: Tensor  # steps to go, on the CPU
    state: State

    def take(self, rows: Tensor) -> "_Slots":
        return _Slots(self.owner[rows], self.left[rows], self.state.take(rows))

    def join(self, other: "_Slots") -> "_Slots":
        return _Slots(
            torch.cat([self.owner, other.owner]),
            torch.cat([self.left, other.left]),
            self.state.join(other.state),
        )


def draws_at_random(a: Tensor, b: Tensor) -> bool:
    """Whether two passes over the same images, N × K each, differ beyond rounding."""
    return bool((normalised(a) - normalised(b)).norm(dim=1).max() > RANDOM)


def normalised(logits: Tensor) -> Tensor:
    """Logits over their norm, N × K."""
    result: Tensor = logits / (logits.norm(dim=1, keepdim=True) + 1e-10)
    return result


def attack_block(
    model: torch.nn.Module,
    block: Block,
    protocol: Protocol,
    batch_size: int,
    progress: Progress = lambda share: None,
    surrogate: torch.nn.Module | None = None,
) -> Outcomes:
    """Run every attack of a protocol on a block of images.

    `model` is frozen, in eval mode and on the block's device. Images that are misclassified clean
    are never attacked. The same draws are made whatever the batch size. With a surrogate the attack
    takes every step by it, and the model is asked once, after the last: a transfer attack
    (Papernot et al. 2017) with one query a budget and restart.

    Raises:
        DataError: the model has fewer classes than the labels.
        EvaluationFailed: logits that are NaN or infinite, or an attack that returned NaN pixels.
    """
    return _Engine(model, block, protocol, batch_size, progress, surrogate).run()


@dataclass(slots=True)
class _Engine:
    model: torch.nn.Module
    block: Block
    protocol: Protocol
    batch_size: int
    progress: Progress
    surrogate: torch.nn.Module | None = None
    outcomes: Outcomes = field(init=False)
    clean: Tensor = field(init=False)
    """logits of the clean images, by the network that takes the steps"""
    votes: int = field(init=False, default=1)
    """passes whose mean logits decide: more than one where the model draws at random"""

    def run(self) -> Outcomes:
        self._clean()
        attacks = self.protocol.attacks
        for position, (attack, name) in enumerate(zip(attacks, labels_of(attacks), strict=True)):

            def share(part: float, done: int = position) -> None:
                self.progress((done + part) / len(attacks))

            own = search(attack, self.protocol.norm)
            if own is not None:
                self._at_budgets(own, name, position, share)
            else:
                self._smallest(attack, name, position, share)
            share(1.0)
        return self.outcomes

    # --- clean images -----------------------------------------------------------------------

    def _clean(self) -> None:
        images, labels = self.block.images, self.block.labels
        every = torch.arange(len(images))
        first, *others = self._batches(every)
        once, again = (self._logits(images[first], first, CLEAN) for _ in range(2))
        if draws_at_random(once, again):
            self.votes, once = VOTES, self._decided(images[first], first, CLEAN)
        logits = torch.cat([once, *(self._decided(images[r], r, CLEAN) for r in others)])
        if int(labels.max()) >= logits.shape[1]:
            raise DataError(
                f"label {int(labels.max())} of image {self.block.first + int(labels.argmax())} is "
                f"outside the model's {logits.shape[1]} classes"
            )
        predicted = logits.argmax(1)
        right = predicted == labels
        self.clean = logits
        if self.surrogate is not None:
            with torch.no_grad():
                self.clean = torch.cat([self.surrogate(images[r]) for r in self._batches(every)])
        nothing = torch.full(
            (len(images),), float("inf"), dtype=torch.float64, device=images.device
        )
        self.outcomes = Outcomes(
            predicted,
            self._classes(logits),
            torch.where(right, nothing, 0.0),
            [None if ok else CLEAN for ok in right.tolist()],
            images.clone(),
            predicted.clone(),
        )

    def _classes(self, logits: Tensor) -> Tensor:
        """The labels, or for a targeted protocol the class that each image is to be taken for."""
        labels, k = self.block.labels, logits.shape[1]
        match self.protocol.target:
            case "none":
                return labels
            case "next":
                return (labels + 1) % k
            case "random":
                draws = [
                    int(
                        torch.randint(
                            1, k, (), generator=generator(self.protocol.seed, i, "target")
                        )
                    )
                    for i in self.block.ids
                ]
                return (labels + torch.tensor(draws, device=labels.device)) % k
            case "least-likely":
                own = torch.zeros_like(logits).scatter(1, labels[:, None], float("inf"))
                return (logits + own).argmin(1)

    @property
    def _targeted(self) -> bool:
        return self.protocol.target != "none"

    # --- attacks that the engine drives -------------------------------------------------------

    def _at_budgets(self, attack: Search, name: str, position: int, share: Progress) -> None:
        """For each image budgets rising, at each the chains; the first success ends it."""
        epsilons = [float(e) for e in self.protocol.epsilons]
        reached = torch.stack([in_budget(self.outcomes.distance, e) for e in epsilons]).sum(0).cpu()
        open_levels = (len(epsilons) - reached).tolist()
        chains = attack.chains(self.clean.shape[1])
        tasks = {
            i: iter([_Task(*t) for t in product(range(levels), range(chains))])
            for i, levels in enumerate(open_levels)
            if levels
        }
        total = sum(open_levels) * chains or 1
        queue = deque((i, next(chain)) for i, chain in tasks.items())
        while queue:
            found = self._drain(
                queue, tasks, attack, position, name, lambda n: share(1 - n / total)
            )
            # a claim that does not hold up sends its image on to its next task
            for i in self._verify(found, name, epsilons, attack.eot):
                if (task := next(tasks[i], None)) is not None:
                    queue.append((i, task))

    def _drain(
        self,
        queue: deque[tuple[int, _Task]],
        tasks: dict[int, Iterator[_Task]],
        attack: Search,
        position: int,
        name: str,
        remaining: Callable[[int], None],
    ) -> dict[int, tuple[Tensor, _Task]]:
        """Work the queue off; the claimed successes by image, as (perturbed image, task)."""
        slots: _Slots | None = None
        current: dict[int, _Task] = {}
        found: dict[int, tuple[Tensor, _Task]] = {}
        while True:
            free = self.batch_size - (len(slots.owner) if slots else 0)
            fresh = [queue.popleft() for _ in range(min(free, len(queue)))]
            if fresh:
                current.update(fresh)
                entering = self._enter(fresh, attack, position)
                slots = slots.join(entering) if slots else entering
            if slots is None or not len(slots.owner):
                return found
            hit, images, value, gradient = self._pass(slots, attack, name)
            done = hit | (slots.left == 0)
            if done.any():
                self._keep_leftovers(slots, attack, name, done & ~hit)
                for row in done.nonzero()[:, 0].tolist():
                    i = int(slots.owner[row])
                    if hit[row]:
                        found[i] = (images[row].clone(), current[i])
                    elif (task := next(tasks[i], None)) is not None:
                        queue.append((i, task))
                keep = (~done).nonzero()[:, 0]
                there = keep.to(slots.state.x.device)
                value, gradient = value[there], gradient[there]
                slots = slots.take(keep)
                remaining(len(queue) + len(slots.owner))
            if len(slots.owner):
                self._advance(slots, attack, value, gradient, name)

    def _enter(self, fresh: Sequence[tuple[int, _Task]], attack: Search, position: int) -> _Slots:
        """First iterates for tasks that enter the active set."""
        owner = torch.tensor([i for i, _ in fresh])
        there = owner.to(self.block.images.device)
        images = self.block.images[there]
        budgets = [self.protocol.epsilons[task.level] for _, task in fresh]
        names = [
            (self.protocol.seed, self.block.ids[i], position, budget.value, task.chain)
            for (i, task), budget in zip(fresh, budgets, strict=True)
        ]
        state = State(
            images,
            images,
            self.outcomes.classes[there],
            self.clean[there],
            torch.tensor([float(e) for e in budgets]).to(images),
            torch.tensor([task.chain for _, task in fresh]).to(there),
            torch.tensor([seed_of(*name) for name in names]).to(there),
            torch.zeros_like(there),
        )
        attack.start(state, [generator(*name) for name in names] if attack.random_start else [])
        return _Slots(owner, torch.full_like(owner, attack.steps), state)

    def _pass(
        self, slots: _Slots, attack: Search, name: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One pass: which rows claim success (on the CPU), with which images; values, gradients."""
        model, state = self.surrogate or self.model, slots.state
        moving = bool((slots.left > 0).any())
        logits, value, gradient = passes(model, state, attack, self._targeted, moving)
        hit, images = attack.claims(state, self._hits(slots, logits, name).to(state.x.device))
        return hit.cpu(), images, value, gradient

    def _advance(
        self, slots: _Slots, attack: Search, value: Tensor, gradient: Tensor, name: str
    ) -> None:
        state = slots.state
        attack.advance(state, value, gradient)
        state.step = state.step + 1
        slots.left = slots.left - 1
        if attack.peeks:
            logits = self._logits(state.x, slots.owner, name)
            attack.settle(state, self._fooled(logits.argmax(1), state.classes))

    def _keep_leftovers(self, slots: _Slots, attack: Search, name: str, ended: Tensor) -> None:
        """Searches that ended in vain may have met points outside the budget: they are bounds."""
        some, images = attack.leftovers(slots.state)
        rows = (ended & some.cpu()).nonzero()[:, 0]
        if len(rows):
            self._keep(slots.owner[rows], images[rows.to(images.device)], name)

    def _hits(self, slots: _Slots, logits: Tensor, name: str) -> Tensor:
        """Which iterates succeed: all are tried on the model, of a surrogate's the last ones."""
        state = slots.state
        hit = self._checked_hits(logits, slots.owner, state.classes, name)
        if self.surrogate is None:
            return hit
        last = (slots.left == 0).nonzero()[:, 0]
        hit = torch.zeros_like(hit)
        if len(last):
            there = last.to(state.x.device)
            logits = self._logits(state.x[there], slots.owner[last], name)
            hit[last] = self._fooled(logits.argmax(1), state.classes[there]).cpu()
        return hit

    # --- attacks that minimise the distance ---------------------------------------------------

    def _smallest(self, attack: Attack, name: str, position: int, share: Progress) -> None:
        """Every image that is classified right, to the attack's end."""
        adversary = minimal_norm(attack, self.protocol.norm)
        device = self.block.images.device
        wrapped = foolbox_model(self.model, device)
        rows = (self.outcomes.distance > 0).nonzero()[:, 0].cpu()
        batches = list(self._batches(rows, 1 if isinstance(attack, ONE_BY_ONE) else None))
        for n, batch in enumerate(batches, 1):
            seed = seed_of(
                self.protocol.seed, position, *(self.block.ids[i] for i in batch.tolist())
            )
            with seeded(seed, device):
                result = self._run(adversary, wrapped, batch)
            if result is not None:
                if not bool(torch.isfinite(result).all()):
                    raise EvaluationFailed(
                        f"{name} returned pixels that are not finite{self._at(batch)}"
                    )
                pixels = result.detach().to(self.block.images.dtype).clamp(0, 1)
                self._keep(batch, pixels, name)
            share(n / len(batches))

    def _run(self, adversary: object, wrapped: object, batch: Tensor) -> Tensor | None:
        """The attack's own answer; None if it found no point to start from."""
        there = batch.to(self.block.images.device)
        classes = self.outcomes.classes[there]
        criterion = (
            foolbox.TargetedMisclassification if self._targeted else foolbox.Misclassification
        )
        try:
            return adversary.run(wrapped, self.block.images[there], criterion(classes))  # type: ignore[attr-defined, no-any-return]
        except EvaluationFailed as error:
            raise EvaluationFailed(
                f"{error}, in the batch of {len(batch)} that begins{self._at(batch)}"
            ) from error
        except ValueError as error:
            # HopSkipJump and Boundary: noise of every strength left the prediction alone
            if "init_attack failed" in str(error):
                return None
            raise

    # --- verdicts ------------------------------------------------------------------------------

    def _verify(
        self,
        found: dict[int, tuple[Tensor, _Task]],
        name: str,
        epsilons: Sequence[float],
        eot: int,
    ) -> list[int]:
        """Recompute the claimed successes; the images whose claim does not hold up."""
        failed: list[int] = []
        for rows in self._batches(torch.tensor(list(found), dtype=torch.int64)):
            claims = [found[i] for i in rows.tolist()]
            budget = torch.tensor([epsilons[task.level] for _, task in claims], dtype=torch.float64)
            good = self._keep(rows, torch.stack([x for x, _ in claims]), name, budget, eot)
            failed += rows[~good].tolist()
        return failed

    def _keep(
        self,
        rows: Tensor,
        perturbed: Tensor,
        name: str,
        budget: Tensor | None = None,
        eot: int = 1,
    ) -> Tensor:
        """Recompute what is claimed of perturbed images, keep the nearer ones; which hold (CPU).

        A model that draws at random must err by the mean of its logits over several passes, `eot`
        at least: what one lucky pass gets wrong is no success.
        """
        there = rows.to(perturbed.device)
        logits = self._decided(perturbed, rows, name, eot)
        predicted = logits.argmax(1)
        reached = distance(self.block.images[there], perturbed, self.protocol.norm)
        in_box = ((perturbed >= 0) & (perturbed <= 1)).flatten(1).all(1)
        good = self._fooled(predicted, self.outcomes.classes[there]) & in_box
        if budget is not None:
            good &= in_budget(reached, budget.to(reached.device))
        nearer = good & (reached < self.outcomes.distance[there])
        kept = there[nearer]
        self.outcomes.distance[kept] = reached[nearer]
        self.outcomes.perturbed[kept] = perturbed[nearer]
        self.outcomes.perturbed_class[kept] = predicted[nearer]
        for i in kept.tolist():
            self.outcomes.fooled_by[i] = name
        return good.cpu()

    def _fooled(self, predicted: Tensor, classes: Tensor) -> Tensor:
        return (predicted == classes) == self._targeted

    def _checked_hits(self, logits: Tensor, owner: Tensor, classes: Tensor, name: str) -> Tensor:
        """Which rows succeed, after a check that all logits are finite; one transfer to the CPU."""
        finite = torch.isfinite(logits).all(1)
        both = torch.stack([self._fooled(logits.argmax(1), classes), finite]).cpu()
        hit, finite = both[0], both[1]
        if not bool(finite.all()):
            raise EvaluationFailed(
                f"logits are NaN or infinite{self._at(owner[~finite])} ({name}): not a success of "
                "the attack but a fault of the model"
            )
        return hit

    def _decided(self, images: Tensor, rows: Tensor, name: str, least: int = 1) -> Tensor:
        """Logits, of a model that draws at random their mean over `votes` passes."""
        count = max(self.votes, least)
        logits = self._logits(images, rows, name)
        for _ in range(count - 1):
            logits = logits + self._logits(images, rows, name)
        return logits / count if count > 1 else logits

    def _logits(self, images: Tensor, rows: Tensor, name: str) -> Tensor:
        """Logits without gradients, checked to be finite; `rows` name the images in an error."""
        with torch.no_grad():
            logits: Tensor = self.model(images)
        self._checked_hits(logits, rows, torch.zeros(len(rows), device=logits.device), name)
        return logits

    def _batches(self, rows: Tensor, size: int | None = None) -> Iterator[Tensor]:
        size = size or self.batch_size
        return (rows[i : i + size] for i in range(0, len(rows), size))

    def _at(self, rows: Tensor) -> str:
        return f" at image {self.block.first + int(rows[0])}"
