"""Attacks at fixed budgets, over an active set.

Each slot of the batch holds one image at one budget; it is freed at the first success, or after the
last step, and refilled from a queue, so that passes run at full batch size and no pass is spent on
an image whose verdict is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

import torch
from torch import Tensor

from robustkit.attacks.block import batches
from robustkit.attacks.draws import generator, seed_of
from robustkit.attacks.forecast import BlockForecast, Standing
from robustkit.attacks.objectives import objective
from robustkit.attacks.passes import CountedNetwork
from robustkit.attacks.queue import Queue, Task
from robustkit.attacks.search import Search
from robustkit.attacks.state import B, State, join, take
from robustkit.attacks.step_model import Passed, StepModel
from robustkit.attacks.verdicts import Verifier
from robustkit.geometry import column, in_budget
from robustkit.protocol import Protocol


@dataclass(slots=True)
class _Slots(Generic[B]):
    """The active set: row i of the state belongs to image `owner[i]` of the block."""

    owner: Tensor  # on the CPU
    level: Tensor  # of its budget, on the CPU
    left: Tensor  # steps to go, on the CPU
    exact: Tensor  # whether it is searched in float32 alone
    state: State[B]

    def __len__(self) -> int:
        return len(self.owner)


@dataclass(slots=True)
class _Pass:
    """What a pass over the slots said of each."""

    hit: Tensor  # which claim success, on the CPU
    images: Tensor  # and with which
    value: Tensor
    gradient: Tensor


@dataclass(slots=True)
class _Resting(Generic[B]):
    """Rows that claim success, and rest until that is verified."""

    slots: _Slots[B]
    found: _Pass


@dataclass(frozen=True, slots=True)
class FixedBudgets(Generic[B]):
    """One such attack on a block, at every budget of the protocol."""

    verifier: Verifier
    protocol: Protocol
    search: Search[B]
    name: str
    position: int
    """place of the attack in the protocol; its draws are keyed by it"""
    step_model: StepModel
    batch_size: int
    wrong: Tensor
    """wrong classes in the order in which they are headed for, N × C: the likeliest first, but as
    the search orders them of images that it attacks"""
    keeps_margins: bool
    """whether a later attack asks how close this one came"""
    forecast: BlockForecast
    refuted: list[_Slots[B]] = field(default_factory=list)
    """rows whose claims did not hold up, at their next iterates: they wait to go on"""

    def run(self) -> None:
        """Attack every image at its open budgets: above those proven, below those that succeed."""
        images = torch.arange(len(self.verifier.outcomes.distance))
        proven = self.verifier.outcomes.proven.tolist()
        ends = zip(proven, self._succeeded_from(images), strict=True)
        open_levels = [range(first, stop) for first, stop in ends]
        self._order_classes(torch.tensor([bool(levels) for levels in open_levels]))
        attempts = self.search.attempts(self.step_model.clean.shape[1])
        queue = Queue(open_levels, attempts, self.protocol.search, self.position > 0)
        self.forecast.begin(self.position, open_levels)
        while len(queue) or self.refuted:
            self._drain(queue)
            self._verify(queue)

    def _order_classes(self, attacked: Tensor) -> None:
        """Have the search order its classes, of the images that it will attack and of no others."""
        if not self.search.targets:
            return
        verifier, step_model = self.verifier, self.step_model
        images, classes = verifier.block.images, verifier.outcomes.classes
        for some in batches(attacked.nonzero()[:, 0], self.batch_size):
            there = some.to(images.device)
            network = CountedNetwork(step_model.network.exact, verifier.victim.passes, some)
            given = (images[there], classes[there], step_model.clean[there])
            found = self.search.wrong_classes(network, *given)
            self.wrong[there, : found.shape[1]] = found

    def _succeeded_from(self, rows: Tensor) -> list[int]:
        """The smallest level at which a success is known of each image, by its distance."""
        distances = self.verifier.outcomes.distance
        distances = distances[rows.to(distances.device)]
        beyond = [~in_budget(distances, float(e)) for e in self.protocol.epsilons]
        levels: list[int] = torch.stack(beyond).sum(0).tolist()
        return levels

    def _drain(self, queue: Queue) -> None:
        """Work the queue off; the last claimed successes are left in it."""
        slots = self._filled(queue)
        while slots is not None:
            found = self._pass(slots)
            self.forecast.passed(len(slots))
            slots, found = self._without_ended(queue, slots, found)
            if len(slots):
                self._advance(slots, found)
            del found  # its gradients, of which FAB has one a class: the next pass makes its own
            waiting = len(queue) + sum(map(len, self.refuted))
            if waiting < self.batch_size - len(slots) and self._needs_verdicts(queue, len(slots)):
                self._verify(queue)
            slots = self._filled(queue, slots)
            if self.forecast.due and slots is not None:
                self.forecast.tell(self._standing(queue, slots))

    def _filled(self, queue: Queue, slots: _Slots[B] | None = None) -> _Slots[B] | None:
        """The active set, its free places taken by whoever waits; None: by nobody.

        Rows are at different steps of different searches, so a free slot need not wait for the
        others: a batch that shrank to its hardest images would waste most of each pass.
        """
        parts = [] if slots is None or not len(slots) else [slots]
        free = self.batch_size - sum(map(len, parts))
        if free and self.refuted:
            rows = join(*self.refuted)
            places = torch.arange(len(rows))
            parts.append(take(rows, places[:free]))
            self.refuted[:] = [take(rows, places[free:])] if len(rows) > free else []
            free -= len(parts[-1])
        if fresh := queue.take(free):
            parts.append(self._enter(fresh))
        return join(*parts) if parts else None

    def _needs_verdicts(self, queue: Queue, working: int) -> bool:
        """Whether verdicts on claims give free slots something to do.

        Where claims hold, images go on at smaller budgets; where they do not, as is often the case
        of a model that draws at random, with the same search.
        """
        random = self.verifier.victim.votes > 1
        return queue.withheld > 0 or (random and queue.claimed >= max(1, working))

    def _without_ended(
        self, queue: Queue, slots: _Slots[B], found: _Pass
    ) -> tuple[_Slots[B], _Pass]:
        """The rows that go on; those that claim success rest, those at their end have failed."""
        done = self._done(slots, found)
        if not bool(done.any()):
            return slots, found
        self._keep_out_of_budget_finds(queue, slots, done & ~found.hit)
        self._count(slots, done.nonzero()[:, 0])
        claiming = (done & found.hit).nonzero()[:, 0]
        resting = _Resting(take(slots, claiming), take(found, claiming))
        claimed = iter(range(len(claiming)))
        for row in done.nonzero()[:, 0].tolist():
            image, hit = int(slots.owner[row]), bool(found.hit[row])
            steps = self.search.steps + 1 - int(slots.left[row])
            self.forecast.ended(queue.current(image), steps, hit)
            if hit:
                place = next(claimed)
                queue.claim(image, resting.found.images[place], (resting, place))
            else:
                queue.fail(image)
        keep = (~done).nonzero()[:, 0]
        return take(slots, keep), take(found, keep)

    def _standing(self, queue: Queue, slots: _Slots[B]) -> list[Standing]:
        """Where each image stands."""
        taken = (self.search.steps - slots.left).tolist()
        steps = dict(zip(slots.owner.tolist(), taken, strict=True))
        return [
            Standing(open_levels, task, steps.get(image, 0))
            for image, (open_levels, task) in enumerate(queue.standing())
        ]

    def _enter(self, tasks: Sequence[Task]) -> _Slots[B]:
        """First iterates for tasks that enter the active set."""
        block, seed = self.verifier.block, self.protocol.seed
        owner = torch.tensor([task.image for task in tasks])
        level = torch.tensor([task.level for task in tasks])
        there = owner.to(block.images.device)
        images = block.images[there]
        budgets = [self.protocol.epsilons[task.level] for task in tasks]
        # draws are keyed by what a row is, not by where it stands: company changes nothing
        names = [
            (seed, block.ids[task.image], self.position, budget.value, task.attempt.number)
            for task, budget in zip(tasks, budgets, strict=True)
        ]
        known = self._known(tasks, there)
        unstarted = State(
            torch.where(column(known, images), self.verifier.outcomes.perturbed[there], images),
            images,
            self.verifier.outcomes.classes[there],
            self.step_model.clean[there],
            torch.tensor([float(e) for e in budgets]).to(images),
            self._targets(tasks, there),
            torch.tensor([task.attempt.restart_index for task in tasks]).to(there),
            torch.tensor([seed_of(*name) for name in names]).to(there),
            torch.zeros_like(there),
            self.verifier.outcomes.closest[there, level.to(there)],
            None,
        )
        draws = zip(names, known.tolist(), strict=True) if self.search.random_start else ()
        sources = [None if begins else generator(*name) for name, begins in draws]
        state = self.search.start(unstarted, sources)
        state.x = block.held(state.x, state.images)
        left, exact = torch.full_like(owner, self.search.steps), torch.zeros_like(there).bool()
        return _Slots(owner, level, left, exact, state)

    def _known(self, tasks: Sequence[Task], there: Tensor) -> Tensor:
        """Which tasks begin at the nearest point that is known to fool, brought into their ball.

        The way from there is shorter, and finds more, than that from a random one: the first
        attempt of a bisection takes it, if any budget above has succeeded.
        """
        distance, protocol = self.verifier.outcomes.distance[there], self.protocol
        bisected = protocol.search == "bisect" and len(protocol.epsilons) > 1
        if not (self.search.goes_on and bisected) or self.step_model.surrogate:
            return torch.zeros_like(there).bool()
        first = torch.tensor([task.attempt.number == 0 for task in tasks])
        return first.to(there.device) & distance.isfinite()

    def _targets(self, tasks: Sequence[Task], there: Tensor) -> Tensor:
        if not self.search.targets:
            return torch.zeros_like(there)
        places = torch.tensor([task.attempt.target_index for task in tasks])
        return self.wrong[there, places.to(there)]

    def _pass(self, slots: _Slots[B]) -> _Pass:
        state, moving = slots.state, bool((slots.left > 0).any())
        targeted = self.verifier.victim.targeted
        found = self.step_model.passes(state, slots.exact, self.search, targeted, moving)
        slots.exact = found.exact
        self._count_again(slots, found)
        if bool(found.broken.any()):
            self.verifier.victim.passes.add(slots.owner, 0, 0, found.broken)
        logits, value = self._confirmed(slots, found, moving)
        self._keep_closest(slots, logits)
        fooled = self._fooled(slots, logits).to(state.x.device)
        hit, images = self.search.claims(state, fooled)
        return _Pass(hit.cpu(), images, value, found.gradient)

    def _confirmed(self, slots: _Slots[B], found: Passed, moving: bool) -> tuple[Tensor, Tensor]:
        """Logits and values, of a model that draws at random those of no lucky pass alone."""
        state, victim = slots.state, self.verifier.victim
        if victim.votes == 1 or self.step_model.surrogate:
            return found.logits, found.value
        given = (slots.owner, state.classes, self.name, self.search.eot)
        logits = victim.confirmed(found.logits, state.x, *given)
        asked = (logits != found.logits).any(1)
        if not moving or not bool(asked.any()):
            return logits, found.value
        value = self.search.value(logits, state, victim.targeted)
        return logits, torch.where(column(asked, value), value, found.value)

    def _count(self, slots: _Slots[B], rows: Tensor, sign: int = 1) -> None:
        """The passes of rows that end: one an iterate, and a gradient where a step followed.

        `sign` is −1 where they go on after all.
        """
        left = slots.left[rows]
        forward = (self.search.steps + 1 - left) * self.search.eot
        backward = (forward - self.search.eot * (left == 0)) * self._gradients
        self.verifier.victim.passes.add(slots.owner[rows], sign * forward, sign * backward)

    def _count_again(self, slots: _Slots[B], found: Passed) -> None:
        """What rows of low precision have cost that were passed in float32, too."""
        if isinstance(found.asked, Tensor):
            forward = (found.asked - 1) * self.search.eot
            backward = forward * (slots.left > 0) * self._gradients
            self.verifier.victim.passes.add(slots.owner, forward, backward)

    @property
    def _gradients(self) -> int:
        return self.search.gradients(self.step_model.clean.shape[1])

    def _fooled(self, slots: _Slots[B], logits: Tensor) -> Tensor:
        """Which iterates succeed, on the CPU: all are tried on the model, a surrogate's last ones.

        A transfer attack has one query an attempt: it may not stop at the first iterate that fools.
        """
        state, victim = slots.state, self.verifier.victim
        hit = victim.checked_hits(logits, slots.owner, state.classes, self.name)
        if not self.step_model.surrogate:
            return hit
        last = (slots.left == 0).nonzero()[:, 0]
        hit = torch.zeros_like(hit)
        if len(last):
            there = last.to(state.x.device)
            logits = victim.mean_logits(state.x[there], slots.owner[last], self.name)
            hit[last] = victim.fooled(logits.argmax(1), state.classes[there]).cpu()
        return hit

    def _keep_closest(self, slots: _Slots[B], logits: Tensor) -> None:
        """How close gradients bring each image at its budget, where a later attack asks for it."""
        inside = self.search.gradient and self.search.stays_inside
        if not (self.keeps_margins and inside) or self.step_model.surrogate:
            return
        state, closest = slots.state, self.verifier.outcomes.closest
        targeted = self.verifier.victim.targeted
        reached = objective(logits, state.classes, state.clean, "margin", targeted)
        at = slots.owner.to(closest.device), slots.level.to(closest.device)
        closest[at] = torch.maximum(closest[at], reached.to(closest))

    def _done(self, slots: _Slots[B], found: _Pass) -> Tensor:
        done = found.hit | (slots.left == 0)
        rows = self.search.gives_up(slots.state, found.value, self.verifier.victim.targeted)
        return done if rows is None else done | rows.cpu()

    def _advance(self, slots: _Slots[B], found: _Pass) -> None:
        state, victim = slots.state, self.verifier.victim
        self.search.advance(state, found.value, self._movable(found.gradient))
        state.x = self.verifier.block.held(state.x, state.images)
        state.step = state.step + 1
        slots.left = slots.left - 1
        if self.search.needs_outcome:
            asked = replace(victim, model=self.step_model.network.exact)
            logits = asked.logits(state.x, slots.owner, self.name)
            logits = asked.confirmed(logits, state.x, slots.owner, state.classes, self.name)
            self.search.observe(state, victim.fooled(logits.argmax(1), state.classes))

    def _movable(self, gradient: Tensor) -> Tensor:
        """Gradients N × … × C × H × W without the slopes of channels that may not change."""
        if not (fixed := self.verifier.block.fixed) or not self.search.gradient:
            return gradient
        return torch.cat([0 * gradient[..., :fixed, :, :], gradient[..., fixed:, :, :]], -3)

    def _keep_out_of_budget_finds(self, queue: Queue, slots: _Slots[B], ended: Tensor) -> None:
        """Searches that ended in vain may have met points outside the budget: they are bounds."""
        some, images = self.search.out_of_budget_finds(slots.state)
        rows = (ended & some.cpu()).nonzero()[:, 0]
        if len(rows):
            owners = slots.owner[rows]
            self.verifier.keep(owners, images[rows.to(images.device)], self.name)
            for image, level in zip(owners.tolist(), self._succeeded_from(owners), strict=True):
                queue.close_from(image, level)

    def _verify(self, queue: Queue) -> None:
        """Recompute what is claimed, in full batches where nothing waits for it.

        An image whose claim holds goes on below what was found; one whose claim does not hold up,
        with the search that made it.
        """
        finds = queue.take_finds()
        for part in batches(torch.arange(len(finds)), self.batch_size):
            some = [finds[k] for k in part.tolist()]
            rows = torch.tensor([find.task.image for find in some])
            budget = torch.tensor(
                [float(self.protocol.epsilons[find.task.level]) for find in some],
                dtype=torch.float64,
            )
            perturbed = torch.stack([find.perturbed for find in some])
            held = self.verifier.keep(rows, perturbed, self.name, budget, self.search.eot)
            levels = self._succeeded_from(rows)
            refuted = []
            for find, holds, level in zip(some, held.tolist(), levels, strict=True):
                if holds:
                    queue.succeed(find.task.image, level)
                else:
                    refuted.append(find.search)
            self._go_on(queue, refuted)

    def _go_on(self, queue: Queue, refuted: Sequence[tuple["_Resting[B]", int]]) -> None:
        """Searches whose claims did not hold up take their next steps, as far as they have some."""
        going = []
        for resting, place in refuted:
            row = torch.tensor([place])
            slots, found = take(resting.slots, row), take(resting.found, row)
            self._count(slots, torch.tensor([0]), -1)
            found.hit = torch.zeros_like(found.hit)
            self.search.refuted(slots.state)
            left = self._without_ended(queue, slots, found)
            if len(left[0]):
                going.append(left)
        if going:
            slots, found = (join(*parts) for parts in zip(*going, strict=True))
            self._advance(slots, found)
            self.refuted.append(slots)
