"""The queue: which image is attacked next, at which budget, in which attempt; what was found."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from robustkit.attacks.search import Attempt
from robustkit.protocol import BudgetOrder, next_level


class Task(NamedTuple):
    """One search: of an image, at a budget, from a start towards a target."""

    image: int
    """row of the block"""
    level: int
    """index of the budget"""
    attempt: Attempt


class Find(NamedTuple):
    """A success that a search claims."""

    task: Task
    perturbed: Tensor
    """C × H × W"""
    search: Any
    """what the search knows, with which it goes on if the claim does not hold; the engine's own"""


class Queue:
    """Every image has one task at a time, which waits or is worked on, as long as a level is open.

    Levels are the protocol's budgets, smallest first, and an image's open ones a range: a success
    closes its level and all above, a level at which every attempt failed itself and all below. What
    counts is the smallest budget that succeeds, and where one fails smaller ones hardly succeed.
    """

    def __init__(
        self,
        open_levels: Sequence[range],
        attempts: Sequence[Attempt],
        order: BudgetOrder,
        attacked: bool = False,
    ) -> None:
        """Begin with the levels of each image of the block that are still in question.

        `attacked`: another attack settled all others, so that the largest is most in question.
        """
        self._open = list(open_levels)
        self._attempts = attempts
        self._order = order
        self._untried = set(range(len(open_levels))) if attacked else set()
        self._waiting: deque[Task] = deque()
        self._current: dict[int, Task] = {}
        self._finds: list[Find] = []
        for image in range(len(self._open)):
            self._go_on(image)

    def __len__(self) -> int:
        """How many images wait."""
        return len(self._waiting)

    @property
    def withheld(self) -> int:
        """How many images wait for a verdict on their claims to go on at smaller budgets."""
        return sum(find.task.level > self._open[find.task.image].start for find in self._finds)

    @property
    def claimed(self) -> int:
        """How many images wait for a verdict on their claims."""
        return len(self._finds)

    def current(self, image: int) -> Task:
        """What is worked on."""
        return self._current[image]

    def standing(self) -> Iterator[tuple[range, Task | None]]:
        """Of each image the open levels, as if claims held, and the task that comes or runs."""
        tasks: dict[int, Task | None] = {
            task.image: task for task in (*self._waiting, *self._current.values())
        }
        ends = {}
        for find in self._finds:
            tasks[find.task.image], ends[find.task.image] = None, find.task.level
        for image, levels in enumerate(self._open):
            stop = min(levels.stop, ends.get(image, levels.stop))
            yield range(levels.start, stop), tasks.get(image)

    def take(self, most: int) -> list[Task]:
        """Tasks to be worked on now, no more than so many."""
        tasks = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._current.update((task.image, task) for task in tasks)
        return tasks

    def fail(self, image: int) -> None:
        """The image's task came to nothing: on to the next attempt, from the last to a level."""
        task = self._current.pop(image)
        if (
            task.level not in self._open[image]
        ):  # closed meanwhile, by what the search met elsewhere
            self._go_on(image)
        elif task.attempt.number + 1 < len(self._attempts):
            following = self._attempts[task.attempt.number + 1]
            self._waiting.append(task._replace(attempt=following))
        else:
            self._open[image] = range(task.level + 1, self._open[image].stop)
            self._go_on(image)

    def claim(self, image: int, perturbed: Tensor, search: Any = None) -> None:
        """The image's task claims success: it rests until that is verified.

        It stays the image's task until it succeeds or fails: one whose claim does not hold goes on.
        """
        self._finds.append(Find(self._current[image], perturbed, search))

    def take_finds(self) -> list[Find]:
        """All that was claimed since the last time."""
        finds, self._finds = self._finds, []
        return finds

    def succeed(self, image: int, level: int) -> None:
        """The claim of the image's task holds, at its level or even a smaller one."""
        self.close_from(image, min(level, self._current.pop(image).level))
        self._go_on(image)

    def close_from(self, image: int, level: int) -> None:
        """A success is known at this level, whatever found it."""
        open_levels = self._open[image]
        self._open[image] = range(open_levels.start, min(open_levels.stop, level))

    def _go_on(self, image: int) -> None:
        if open_levels := self._open[image]:
            self._waiting.append(Task(image, self._chosen(image, open_levels), self._attempts[0]))

    def _chosen(self, image: int, open_levels: range) -> int:
        """Which of an image's open levels is tried next."""
        untried = image in self._untried
        self._untried.discard(image)
        return choose(open_levels, self._order, len(self._attempts), untried)


def choose(open_levels: range, order: BudgetOrder, attempts: int, untried: bool) -> int:
    """Which of an image's open levels is tried next.

    `untried`: by this attack, where others settled all other levels.
    """
    if order == "scan":
        return open_levels[0]
    if untried:
        # where an attack failed right below its smallest success, another one seldom succeeds, and
        # if it does not, nothing is left to be asked
        return open_levels[-1]
    return next_level(open_levels, attempts)
