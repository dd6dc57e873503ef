"""How much of an attack on a block is left, in seconds: what is planned, corrected by what is seen.

What an image costs depends on what is open: at most every attempt at the budgets to which the
order of questions leads. How often an attempt succeeds, and how soon, is learned by budget from
those that ended, and from those under way, since one of many steps in vain will hardly succeed: a
cure model (Boag 1949) with exponential times. What a step takes is measured, as a share for the
pass and one for each image in it: a batch that shrank to its hardest images costs less, but not
in proportion.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import exp, prod
from time import perf_counter
from typing import NamedTuple

from robustkit.attacks.block import Progress
from robustkit.attacks.build import build_search
from robustkit.attacks.queue import Task, choose
from robustkit.attacks.search import Attempt
from robustkit.protocol import CW, Attack, Norm, Protocol

EVEN, SELDOM = 0.35, 0.1
"""how often an attempt is taken to succeed before any did: the first attack's first; all others"""
TRUST = 2.0
"""attempts that such a guess counts for"""
SOON = 0.15
"""share of an attempt's steps that it is taken to need where it succeeds, before any did"""
ROUNDS = 5
"""of learning from attempts under way"""
OFTEN = 0.2
"""seconds between two forecasts"""
WORTH = 0.01
"""share of the time that forecasts may take"""
Steps = tuple[float, ...]
"""by attack"""
Chances = list[float]


class Standing(NamedTuple):
    """Where an image stands in an attack."""

    open_levels: range
    task: Task | None = None
    """that is worked on, or next"""
    steps: int = 0
    """that it has taken"""

    @property
    def place(self) -> tuple[int, int, int, int, int]:
        """The same of all images that stand there."""
        task, levels = self.task, self.open_levels
        at = (-1, -1) if task is None else (task.level, task.attempt.number)
        return levels.start, levels.stop, *at, self.steps


Standings = Sequence[tuple[Standing, int]]
"""each with how many images stand there"""


class _Plan(NamedTuple):
    """What an attack spends on an image that withstands it."""

    attempts: int
    """at a budget; 0: no budgets are asked"""
    steps: int
    """of an attempt, with the pass that looks where the last one led"""
    weight: float
    """of a step, in passes of the network; a pass back counts as two"""
    back: bool = True
    """whether a step takes passes back"""


def _plan(attack: Attack, norm: Norm, classes: int) -> _Plan:
    search = build_search(attack, norm)
    if search is None:
        steps = int(getattr(attack, "steps", 1))
        return _Plan(0, steps * (attack.search_steps if isinstance(attack, CW) else 1), 3)
    gradients, steps = search.gradients(classes), search.steps + 1
    weight = search.eot * (1 + 2 * gradients * search.steps / steps) + search.needs_outcome
    return _Plan(len(search.attempts(classes)), steps, weight, gradients > 0)


@dataclass(slots=True)
class _Attempts:
    """Those of an attack at a budget: the first at it, or the later ones."""

    hits: float = 0.0
    misses: float = 0.0
    under_way: int = 0
    expected: float = 0.0
    """hits of those under way"""

    def rate(self, guess: float) -> float:
        """How often they succeed."""
        ended = self.hits + self.misses
        return (self.hits + self.expected + TRUST * guess) / (ended + self.under_way + TRUST)


@dataclass(slots=True)
class _Ended:
    """How many steps attempts took."""

    count: float = 0.0
    steps: float = 0.0


@dataclass(slots=True)
class _Clock:
    """What steps took, with how many images in the pass."""

    count: int = 0
    rows: float = 0.0
    squares: float = 0.0
    seconds: float = 0.0
    products: float = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """One more."""
        self.count += 1
        self.rows += rows
        self.squares += rows * rows
        self.seconds += seconds
        self.products += rows * seconds

    def shares(self) -> tuple[float, float]:
        """Seconds for a pass, and for each image in it, by least squares."""
        rows, seconds = self.rows / self.count, self.seconds / self.count
        spread, slope = self.squares / self.count - rows**2, seconds / rows
        if spread > 1:
            fitted = (self.products / self.count - rows * seconds) / spread
            slope = min(max(fitted, 0.0), slope)
        return seconds - slope * rows, slope


@dataclass(slots=True)
class Experience:
    """What was seen, which later blocks of an evaluation profit from; by place of the attack."""

    attempts: dict[tuple[int, int, bool], _Attempts] = field(
        default_factory=lambda: defaultdict(_Attempts)
    )
    """and by budget, and whether they were later than the first"""
    ended: dict[tuple[int, bool, bool], _Ended] = field(default_factory=lambda: defaultdict(_Ended))
    """by place of the attack, whether they were later than the first, and whether they succeeded"""
    clocks: dict[int, _Clock] = field(default_factory=lambda: defaultdict(_Clock))
    forward: float | None = None
    """seconds of a pass forward, an image"""
    clean: float = 1.0
    """of the clean pass, likewise"""


class BlockForecast:
    """Tells, now and then, which share of the time for a block is gone."""

    def __init__(
        self,
        protocol: Protocol,
        batch_size: int,
        experience: Experience,
        progress: Progress,
        *,
        proofs: bool = False,
    ) -> None:
        self._protocol = protocol
        self._proofs = proofs  # before attacks, which leave them nobody knows how much
        self._plans: list[_Plan] = []
        self._batch_size = batch_size
        self._seen = experience
        self._progress = progress
        self._position = 0
        self._values: dict[tuple[int, int, int, bool], Steps] = {}
        self._lengths: dict[tuple[int, int, int, bool], Chances] = {}
        self._chances: dict[tuple[int, int, bool, int], tuple[float, float]] = {}
        self._begun = self._told = self._last = perf_counter()
        self._pause = OFTEN
        self._share = 0.0

    def looked(self, classes: int, images: int, made: int, left: int) -> None:
        """Of the clean pass so many images were passed, and so many are left, before any attack.

        Args:
            classes: of the network.
            images: of the block; all that are right will be attacked.
            made: images passed so far, some of them again.
            left: likewise.
        """
        protocol = self._protocol
        self._plans = [_plan(attack, protocol.norm, classes) for attack in protocol.attacks]
        self._seen.clean = (perf_counter() - self._begun) / made
        if self.due and not self._proofs:
            whole = Standing(range(len(protocol.epsilons)))
            self.tell([whole] * images, before=left * self._seen.clean)

    @property
    def needs_forward(self) -> bool:
        """Whether a pass forward would tell something: what steps take, without one back, later."""
        return self._seen.forward is None and any(not plan.back for plan in self._plans[1:])

    def took_forward(self, seconds: float) -> None:
        """A pass forward took so long, an image."""
        self._seen.forward = seconds

    @property
    def due(self) -> bool:
        """Whether it is time to tell."""
        return perf_counter() - self._told >= self._pause

    def begin(self, position: int, open_levels: Sequence[range]) -> None:
        """The attack at that place begins, on images of which so much is open."""
        self._position, self._last = position, perf_counter()
        self.tell(Standing(levels) for levels in open_levels)

    def passed(self, images: int, steps: int = 1) -> None:
        """So many images took that many steps since the last time, or since the attack began."""
        now = perf_counter()
        self._seen.clocks[self._position].add(images, (now - self._last) / steps)
        self._last = now

    def finished(self, images: int) -> None:
        """So many images took all steps of an attack without budgets."""
        self.passed(images, self._plans[self._position].steps)

    def ended(self, task: Task, steps: int, hit: bool) -> None:
        """A task ended at so many steps, with the pass that found how."""
        attempt = task.attempt.number
        seen = self._seen.attempts[self._position, task.level, attempt > 0]
        seen.hits += hit
        seen.misses += not hit
        ended = self._seen.ended[self._position, attempt > 0, hit]
        ended.count += 1
        ended.steps += steps

    def tell(self, images: Iterable[Standing], done: float = 0.0, before: float = 0.0) -> None:
        """Tell the share of the time that is gone.

        Args:
            images: all of the block, or all that are attacked.
            done: share of them that an attack without budgets is done with.
            before: seconds of what comes before attacks.
        """
        began, every = perf_counter(), list(images)
        counts, one = Counter(image.place for image in every), {i.place: i for i in every}
        standing = [(one[place], count) for place, count in counts.items()]
        self._chances.clear()
        self._learn(standing)
        for known in (self._values, self._lengths, self._chances):
            known.clear()
        left = before + self._seconds(standing, done)
        self._told = perf_counter()
        self._pause = max(OFTEN, (self._told - began) / WORTH)
        gone = self._told - self._begun
        self._share = max(self._share, gone / (gone + left))
        self._progress(self._share)

    def _learn(self, standing: Standings) -> None:
        """What attempts under way make of the rates: each counts as the success it may become.

        By expectation maximisation, from none: while only quick successes have ended, that all
        others will succeed, too, would explain itself.
        """
        groups: dict[tuple[int, bool], list[tuple[int, int]]] = defaultdict(list)
        for image, count in standing:
            if image.task is not None and image.steps:
                place = image.task.level, image.task.attempt.number > 0
                groups[place].append((image.steps, count))
        for seen in self._seen.attempts.values():
            seen.under_way, seen.expected = 0, 0.0
        attempts = {place: self._seen.attempts[self._position, *place] for place in groups}
        for place, seen in attempts.items():
            seen.under_way = sum(count for _, count in groups[place])
        for _ in range(ROUNDS):
            self._chances.clear()
            expected = {
                place: sum(count * self._attempt(*place, steps)[0] for steps, count in under_way)
                for place, under_way in groups.items()
            }
            for place, seen in attempts.items():
                seen.expected = expected[place]

    # --- steps ----------------------------------------------------------------------------------

    def _attempt(
        self, level: int, later: bool, steps: int = 0, position: int | None = None
    ) -> tuple[float, float]:
        """Chance that an attempt succeeds that took so many steps, and how many more it takes."""
        at = self._position if position is None else position
        place = at, level, later, steps
        if place not in self._chances:
            self._chances[place] = self._estimated(*place)
        return self._chances[place]

    def _estimated(self, at: int, level: int, later: bool, steps: int) -> tuple[float, float]:
        plan, hits = self._plans[at], self._seen.ended[at, later, True]
        vain = self._seen.ended[at, later, False]  # some searches give up early
        pooled = [
            seen
            for (place, _, late), seen in self._seen.attempts.items()
            if (place, late) == (at, later)
        ]
        whole = _Attempts(
            sum(s.hits + s.expected for s in pooled),
            sum(s.misses + s.under_way - s.expected for s in pooled),
        )
        # what the other budgets say is no guess at where an image's own boundary lies
        guess = whole.rate(SELDOM / (plan.attempts if at else 1)) if at or later else EVEN
        rate = self._seen.attempts[at, level, later].rate(guess)
        soon = (hits.steps + TRUST * SOON * plan.steps) / (hits.count + TRUST) or 1.0
        still = rate * exp(-steps / soon)
        whole_length = vain.steps / vain.count if vain.count else plan.steps
        chance, left = still / (still + 1 - rate), max(whole_length - steps, 0)
        return chance, chance * min(soon, left / 2) + (1 - chance) * left

    def _level(
        self, position: int, level: int, attempt: int = 0, steps: int = 0
    ) -> tuple[float, float]:
        """Chance that an image falls at a budget, and the steps that it takes there from now on."""
        following = self._plans[position].attempts - attempt - 1
        chance, cost = self._attempt(level, attempt > 0, steps, position)
        if following:
            later, each = self._attempt(level, True, 0, position)
            none = (1 - later) ** following
            cost += (1 - chance) * each * (1 - none) / later
            chance = 1 - (1 - chance) * none
        return chance, cost

    def _first(self, position: int, start: int, stop: int, untried: bool) -> Task:
        attempts = self._plans[position].attempts
        level = choose(
            range(start, stop), self._protocol.search, attempts, untried and position > 0
        )
        return Task(0, level, Attempt(0, 0, 0))

    def _value(self, position: int, start: int, stop: int, untried: bool = False) -> Steps:
        """Expected steps of each attack on an image, of which these levels are open."""
        if position == len(self._plans):
            return (0.0,) * position
        if start >= stop or not self._plans[position].attempts:
            return self._value(position + 1, 0, stop, True)
        place = position, start, stop, untried
        if place not in self._values:
            level = self._first(*place).level
            self._values[place] = self._fork(place[:3], level, *self._level(position, level))
        return self._values[place]

    def _fork(self, place: tuple[int, int, int], level: int, chance: float, cost: float) -> Steps:
        position, start, stop = place
        hit, miss = self._value(position, start, level), self._value(position, level + 1, stop)
        mixed = [chance * a + (1 - chance) * b for a, b in zip(hit, miss, strict=True)]
        mixed[position] += cost
        return tuple(mixed)

    def _image(self, image: Standing) -> Steps:
        place = self._position, image.open_levels.start, image.open_levels.stop
        task = image.task
        if task is None or task.level not in image.open_levels:
            return self._value(*place)
        from_now = self._level(self._position, task.level, task.attempt.number, image.steps)
        return self._fork(place, task.level, *from_now)

    # --- seconds --------------------------------------------------------------------------------

    def _attempts_left(
        self, position: int, start: int, stop: int, untried: bool = False
    ) -> Chances:
        """Chances that an image of these open levels takes no whole attempt, one, two and so on."""
        if start >= stop:
            return [1.0]
        place = position, start, stop, untried
        if place not in self._lengths:
            self._lengths[place] = self._attempts_of(place[:3], self._first(*place), 0)
        return self._lengths[place]

    def _attempts_of(self, place: tuple[int, int, int], task: Task, steps: int) -> Chances:
        position, start, stop = place
        first, plan = task.attempt.number, self._plans[position]
        below = self._attempts_left(position, start, task.level)
        above = self._attempts_left(position, task.level + 1, stop)
        chances = [0.0] * (plan.attempts - first + max(len(below), len(above)))
        still = 1.0
        for taken, attempt in enumerate(range(first, plan.attempts)):
            hit = self._attempt(task.level, attempt > 0, 0 if taken else steps, position)[0]
            for further, chance in enumerate(below):
                chances[taken + further] += still * hit * chance
            still *= 1 - hit
        for further, chance in enumerate(above):
            chances[plan.attempts - first + further] += still * chance
        return chances

    def _longest(self, position: int, images: Standings) -> float:
        """Steps of the image that takes most, one after another, whatever room there is beside."""
        counts: dict[tuple[float, ...], int] = defaultdict(int)
        for image, count in images:
            stop, now = image.open_levels.stop, position == self._position
            place = position, image.open_levels.start if now else 0, stop
            if now and image.task is not None and image.task.level in image.open_levels:
                counts[tuple(self._attempts_of(place, image.task, image.steps))] += count
            else:
                counts[tuple(self._attempts_left(*place, not now))] += count
        total, until = 0.0, [list(accumulate(chances)) for chances in counts]
        for k in range(max(map(len, until), default=0)):
            none = prod(
                min(sums[k], 1.0) ** count if k < len(sums) else 1.0
                for sums, count in zip(until, counts.values(), strict=True)
            )
            total += 1 - none
        return total * self._plans[position].steps

    def _seconds(self, images: Standings, done: float) -> float:
        """What is left, of this attack and those to come."""
        expected, total = [(self._image(image), count) for image, count in images], 0.0
        for position in range(self._position, len(self._plans)):
            a_pass, an_image = self._shares(position)
            plan = self._plans[position]
            if plan.attempts:
                every = sum(count * image[position] for image, count in expected)
                passes = max(every / self._batch_size, self._longest(position, images))
            else:
                left = 1 - done if position == self._position else 1
                every = left * plan.steps * sum(count for _, count in images)
                passes = every / self._batch_size
            total += passes * a_pass + every * an_image
        return total

    def _shares(self, position: int) -> tuple[float, float]:
        """Seconds a pass and an image, measured, or by weight from the attack before.

        A pass back takes one to three times as long as one forward, by the network, so the weight
        of steps without one says too much or too little, and a measured pass forward leaves out
        what the attack does beside it: they are met half way.
        """
        plan, forward = self._plans[position], self._seen.forward
        for known in range(position, -1, -1):
            if self._seen.clocks[known].count:
                a_pass, an_image = self._seen.clocks[known].shares()
                scale = plan.weight / self._plans[known].weight
                if plan.back or forward is None or known == position:
                    return scale * a_pass, scale * an_image
                return scale * a_pass / 2, (scale * an_image + plan.weight * forward) / 2
        return 0.0, plan.weight * self._seen.clean
