"""The queue: which image is attacked next, at which budget, in which attempt; what was found."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from torch import Tensor

from robustkit.attack.search import Attempt


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


class Queue:
    """Every image has tasks of its own, of which one waits or is worked on at a time.

    Budgets rise, and at each come all attempts: what counts is the smallest budget that succeeds,
    so that no larger one need be tried after a success, and each one before it was tried in full.
    """

    def __init__(self, levels: Sequence[int], attempts: Sequence[Attempt]) -> None:
        """`levels` are how many budgets are open for each image of the block, smallest first."""
        self._later: dict[int, Iterator[Task]] = {
            image: _tasks(image, count, attempts) for image, count in enumerate(levels)
        }
        self._waiting: deque[Task] = deque()
        self._current: dict[int, Task] = {}
        self._finds: list[Find] = []
        for image in self._later:
            self.try_next(image)

    def __len__(self) -> int:
        """How many images wait."""
        return len(self._waiting)

    def take(self, most: int) -> list[Task]:
        """Tasks to be worked on now, no more than so many."""
        tasks = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._current.update((task.image, task) for task in tasks)
        return tasks

    def try_next(self, image: int) -> None:
        """The image's last task came to nothing: its next one waits, if there is one."""
        if (task := next(self._later[image], None)) is not None:
            self._waiting.append(task)

    def add_find(self, image: int, perturbed: Tensor) -> None:
        """The task that the image is at claims success: it rests until that is verified."""
        self._finds.append(Find(self._current[image], perturbed))

    def take_finds(self) -> list[Find]:
        """All that was claimed since the last time."""
        finds, self._finds = self._finds, []
        return finds


def _tasks(image: int, levels: int, attempts: Sequence[Attempt]) -> Iterator[Task]:
    return (Task(image, *rest) for rest in product(range(levels), attempts))
