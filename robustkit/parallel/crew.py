"""Workers and what is heard of them, whatever they run on."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

LOST = 3
"""times that a piece of work is tried whose worker was lost"""
MACHINES = 10
"""times that it is tried whose whole machine was lost, which others on it may have done"""

Tell = Callable[[Any], None]
"""what a worker says on the way"""


class Workplace(NamedTuple):
    """Where a worker works."""

    device: str
    threads: int


class Bench(Protocol):
    """All that a worker holds: whatever takes long to set up, once for all jobs."""

    def carry_out(self, job: Any, tell: Tell) -> Any:
        """The result of a job."""


class Worksite(Protocol):
    """What travels to every worker."""

    def open(self, place: Workplace) -> Bench:
        """Set up a worker's bench."""


class News(NamedTuple):
    """What is heard of a worker."""

    worker: int
    kind: Literal["ready", "told", "done", "failed", "lost", "gone"]
    """gone: lost with its whole machine"""
    content: Any = None
    """what was said on the way; a result; an error; how it was lost"""


class Crew(Protocol):
    """Workers, each at work on one job at most. One that is lost is replaced."""

    def news(self, patience: float) -> Sequence[News]:
        """What has come in, waiting for it for so many seconds.

        Raises:
            EvaluationFailed: workers die at start-up, or there are none any more.
        """

    def give(self, worker: int, job: Any) -> None:
        """Hand a job to a worker that is ready."""

    def name(self, worker: int) -> str:
        """How a message calls a worker."""

    def close(self) -> None:
        """End all workers at once."""


@dataclass(slots=True)
class Tries:
    """How often work was tried whose worker was lost under it."""

    counts: Counter[str] = field(default_factory=Counter)
    machines: Counter[str] = field(default_factory=Counter)
    given_up: list[str] = field(default_factory=list)

    def again(self, key: str, words: str, *, machine: bool = False) -> bool:
        """Whether a piece of work, known by its key, is tried again after this loss.

        A loss of the whole `machine` is not its own, and hardly counts.
        """
        counts, most = (self.machines, MACHINES) if machine else (self.counts, LOST)
        counts[key] += 1
        if counts[key] < most:
            return True
        self.given_up.append(words)
        return False
