"""Branch and bound at one image: certified, fooled, or open when its time is up.

The region is halved by the sign of a neuron until the bound of each part is above 0 (Bunel et al.
2020), and where each bound is attained a counterexample is looked for.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import torch
from torch import Tensor

from robustkit.certification.ascent import ascend, tighten
from robustkit.certification.branching import choose
from robustkit.certification.domains import Domains, Problem
from robustkit.certification.leaves import solve

ROOT_STEPS = 30
STEPS = 5
STALE = 8
AT_ONCE = 64
"""domains that are halved together; more fill a pass better, fewer follow the worst bound closer"""
MEMORY = 2**27
"""numbers in all waiting domains: half a GiB"""


@dataclass(frozen=True, slots=True)
class Searched:
    """How a search ended."""

    certified: bool
    fooled: bool
    lower: float
    """a lower bound of the smallest margin over the region"""
    domains: int
    """how many were bounded"""


@dataclass(slots=True)
class BranchAndBound:
    """Branch and bound of one problem."""

    problem: Problem
    tried: Callable[[Tensor], bool]
    """told points of the region, B × C × H × W: whether one of them, or one near, fools"""
    over: Callable[[], bool]
    """whether the time is up"""
    waiting: list[tuple[float, int, Domains]] = field(default_factory=list)
    """by bound, lowest first"""
    order: "count[int]" = field(default_factory=count)
    stuck: float = float("inf")
    """lowest bound of the domains without a neuron left that are not decided"""
    closed: float = float("inf")
    """lowest bound of those that are"""
    bounded: int = 0

    def run(self) -> Searched:
        """Halve the domain of the lowest bound until none is left, one fools, or the time is up."""
        fooled = self._bound(self.problem.whole(), ROOT_STEPS)
        while self.waiting and not fooled and not self.over() and self._fits():
            some = [heappop(self.waiting)[2] for _ in range(min(AT_ONCE, len(self.waiting)))]
            domains = Domains.joined(some)
            undecided = domains.open.any(1)
            fooled = self._leaves(domains.take((~undecided).nonzero()[:, 0]))
            domains = domains.take(undecided.nonzero()[:, 0])
            if len(domains) and not fooled:
                halves = domains.split(choose(self.problem, domains, self.over))
                fooled = self._bound(self._tightened(halves), STEPS)
        first = self.waiting[0][0] if self.waiting else float("inf")
        lower = min(first, self.stuck, self.closed)
        return Searched(lower > 0 and not fooled, fooled, lower, self.bounded)

    def _bound(self, domains: Domains, steps: int) -> bool:
        """Bound domains and keep those that are still open; whether one has a counterexample.

        When the time is up those that are left keep the bound of what they are parts of. The very
        first are bounded all the same.
        """
        for part in _parts(domains, self.problem.at_once):
            if self.bounded and self.over():
                self._keep(domains.take(part))
                continue
            found = ascend(self.problem, domains.take(part), steps, self.over)
            self.bounded += len(part)
            open_ = found.domains.lower <= 0
            if not bool(open_.all()):
                self.closed = min(self.closed, float(found.domains.lower[~open_].min()))
            left = open_.nonzero()[:, 0]
            self._keep(found.domains.take(left))
            points = self.problem.region.corner(found.slopes[left])
            if len(left) and self.tried(points):
                return True
        return False

    def _tightened(self, domains: Domains) -> Domains:
        stale = (domains.stale >= STALE).nonzero()[:, 0]
        if len(stale) == 0:
            return domains
        rest = (domains.stale < STALE).nonzero()[:, 0]
        found = [domains.take(rest)]
        for part in torch.split(stale, self.problem.at_once):
            found.append(tighten(self.problem, domains.take(part), self.over))
        return Domains.joined(found)

    def _keep(self, domains: Domains) -> None:
        for k in range(len(domains)):
            one = domains.take(torch.tensor([k], device=domains.rival.device))
            heappush(self.waiting, (float(one.lower), next(self.order), one))

    def _leaves(self, domains: Domains) -> bool:
        """Domains whose signs are all presumed: there the network is linear."""
        for k in range(len(domains)):
            one = domains.take(torch.tensor([k], device=domains.rival.device))
            if self.over():
                self._keep(one)
                continue
            lower, point = solve(self.problem, one)
            if lower > 0:
                self.closed = min(self.closed, lower)
                continue
            self.stuck = min(self.stuck, lower)
            if point is not None and self.tried(point):
                return True
        return False

    def _fits(self) -> bool:
        return len(self.waiting) * 3 * max(1, len(self.problem.neurons)) < MEMORY


def _parts(domains: Domains, size: int) -> tuple[Tensor, ...]:
    """Rows of so many at a time."""
    return torch.split(torch.arange(len(domains), device=domains.rival.device), size)


def until(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds from now are up."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end
