"""What an attack costs an image at most, in passes of the network."""

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


class MostPasses(NamedTuple):
    """Passes over an image that withstands an attack; one that falls takes fewer."""

    gradients: float
    """forth and back"""
    forwards: float
    """forth alone"""


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
            return MostPasses(0, attack.steps)
        case HopSkipJump():
            # 100 √i queries for the gradient of step i (Chen et al. 2020, section IV)
            return MostPasses(0, 200 / 3 * attack.steps**1.5)
        case DeepFool():
            return MostPasses(attack.steps * min(attack.candidates, classes), 0)
        case CW():
            return MostPasses(attack.steps * attack.search_steps, 0)
        case DDN() | FMN() | SigmaZero():
            return MostPasses(attack.steps, 0)
        case Patch():
            return MostPasses(searches * (1 + attack.trials + attack.steps), searches)
    steps = getattr(attack, "steps", 1) * getattr(attack, "eot", 1)
    each = classes - 1 if isinstance(attack, FAB) and not attack.targets else 1
    return MostPasses(searches * steps * each, searches)


def _targets(attack: Attack, classes: int) -> int:
    return max(1, min(getattr(attack, "targets", 0), classes - 1))
