"""What an attack costs an image at most, in passes of the network."""

from math import sqrt
from typing import NamedTuple

from robustkit.protocol.attacks import (
    CW,
    DDN,
    FAB,
    FMN,
    Attack,
    Boundary,
    DeepFool,
    HopSkipJump,
    Noise,
    Patch,
    SigmaZero,
    SparseRS,
    SpatialGrid,
    SpatialRandom,
    Square,
)
from robustkit.protocol.order import most_searches
from robustkit.protocol.protocol import BudgetOrder

STARTS = 1100
"""points at most that are asked for one to start from: 1000 of noise and 51 on the way back to the
image, then plain colours and blots (`attacks/starting.py`)"""
BISECTED = 64
"""passes at most of a bisection by decisions, and of the search for a step size before it"""
TARGETS, HALVINGS = 9, 20
"""wrong classes towards which σ-zero tries the steepest entries, and halvings of a million"""
CANDIDATES = 100
"""likeliest wrong classes that are ordered by distance: each costs a backward pass"""


class MostPasses(NamedTuple):
    """Passes over an image that withstands an attack; one that falls takes fewer.

    In float32, of a network that draws nothing at random.
    """

    gradients: float
    """forth and back"""
    forwards: float
    """forth alone, the verdict on what an attack returns included"""


def most_passes(attack: Attack, budgets: int, classes: int, search: BudgetOrder) -> MostPasses:
    """Passes of an attack at so many budgets, which are asked in that order."""
    attempts = getattr(attack, "restarts", 1) * _targets(attack, classes)
    if isinstance(attack, Patch):
        attempts *= attack.places
    searches = attempts * (budgets if search == "scan" else most_searches(budgets, attempts))
    match attack:
        case Square() | SparseRS():
            return MostPasses(0, searches * attack.queries)
        case Noise():
            return MostPasses(0, searches * attack.draws)
        case SpatialGrid():
            return MostPasses(0, budgets * attack.angles * attack.shifts**2)
        case SpatialRandom():
            return MostPasses(0, budgets * attack.draws)
        case Boundary():
            return MostPasses(0, STARTS + attack.steps + attack.steps // 10)
        case HopSkipJump():
            # queries for the gradient of step t (Chen et al. 2020, section IV)
            queries = sum(min(10_000, 100 * sqrt(t)) for t in range(1, attack.steps + 1))
            return MostPasses(0, STARTS + queries + BISECTED * (1 + attack.steps))
        case DeepFool():
            return MostPasses(attack.steps * (min(attack.candidates, classes) - 1), 2)
        case CW():
            return MostPasses(attack.steps * attack.search_steps, 1)
        case DDN() | FMN():
            return MostPasses(attack.steps, 1)
        case SigmaZero():
            towards = min(classes - 1, TARGETS)
            return MostPasses(attack.steps + towards, 2 + towards * HALVINGS)
        case Patch():
            return MostPasses(searches * (1 + attack.trials + attack.steps), searches)
        case FAB():  # which asks the outcome of each step; without a target every class's gradient
            each = 1 if attack.targets else classes
            return MostPasses(searches * attack.steps * each, searches * (1 + attack.steps))
    eot = getattr(attack, "eot", 1)
    chosen = (
        min(classes - 1, CANDIDATES) if getattr(attack, "target_order", "") == "distance" else 0
    )
    return MostPasses(searches * getattr(attack, "steps", 1) * eot + chosen, searches * eot)


def _targets(attack: Attack, classes: int) -> int:
    return max(1, min(getattr(attack, "targets", 0), classes - 1))
