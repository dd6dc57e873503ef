"""What a protocol plans to spend on an image that withstands it, in passes of the network.

A pass back counts as two, as is usual.
"""

from math import sqrt

from robustkit.attacks.build import build_search
from robustkit.protocol import (
    CW,
    DDN,
    FMN,
    Attack,
    Boundary,
    DeepFool,
    HopSkipJump,
    Norm,
    Protocol,
)

STEP = 3
"""passes of a step by the gradient"""


def planned_passes(protocol: Protocol, classes: int) -> float:
    """Passes of all attacks on one image at one budget, none of them successful."""
    return sum(_of(attack, protocol.norm, classes) for attack in protocol.attacks)


def searched_passes(protocol: Protocol, classes: int) -> float:
    """Passes over one image at most of the attacks that the engine steps itself, at all budgets."""
    norm = protocol.norm
    each = [_of(attack, norm, classes) for attack in protocol.attacks if build_search(attack, norm)]
    return max(1, len(protocol.epsilons)) * sum(each)


def _of(attack: Attack, norm: Norm, classes: int) -> float:
    search = build_search(attack, norm)
    if search is None:
        return _minimal_norm(attack)
    step = STEP * search.eot if search.gradient else 1
    return len(search.attempts(classes)) * (search.steps * (step + search.needs_outcome) + 1)


def _minimal_norm(attack: Attack) -> float:
    """Of attacks that foolbox drives, whatever the budgets."""
    match attack:
        case DeepFool(steps, candidates):
            return steps * (2 * candidates - 1)
        case DDN(steps) | FMN(steps):
            return steps * STEP
        case CW(steps, search_steps):
            return steps * search_steps * STEP
        case HopSkipJump(steps):
            # 100 √t directions at step t, at most 10,000 (Chen et al. 2020, section IV)
            return sum(min(10_000, 100 * sqrt(t)) for t in range(1, steps + 1))
        case Boundary(steps):
            return steps
        case _:
            return 0
