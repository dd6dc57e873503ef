"""How many seeds and images a comparison takes, by the spread of the evaluations there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from robustkit.analysis.compare import levels_of
from robustkit.analysis.contrast import pair
from robustkit.errors import InputError
from robustkit.results.sides import Side
from robustkit.statistics import Power, components, plan


@dataclass(frozen=True, slots=True)
class Needs:
    """What one comparison takes."""

    a: str
    b: str
    level: str
    power: Power


def needs(
    sides: Sequence[Side],
    *,
    delta: float,
    at: Sequence[str] = (),
    power: float = 0.8,
    level: float = 0.95,
    members: int | None = None,
    images: int | None = None,
) -> tuple[Needs, ...]:
    """How many seeds and images each comparison takes, by an upper bound of the observed spread.

    Args:
        sides: as for `compare_sides`; at least two seeds that are matched.
        delta: the difference to show, and the margin of equivalence, as a share.
        at: budgets and "clean"; everything that is on file where empty.
        power: probability to show it.
        level: of confidence, of the family.
        members: size of the family; by default the levels, as in a comparison.
        images: to plan on; by default as many as were evaluated.

    Raises:
        InputError: fewer than two sides or two matched seeds, or a number out of range.
    """
    if len(sides) < 2:
        raise InputError(f"{sides[0].name}: give at least two; the first is the baseline")
    levels = levels_of(sides, at)
    baseline, *others = sides
    planned = []
    for other in others:
        for where in levels:
            paired = pair(other.at(where), baseline.at(where))
            if paired is None or len(paired[0].seeds) < 2:
                raise InputError(
                    f"{other.name} and {baseline.name}: the spread over seeds takes at least two "
                    "seeds of both that match; without them, give --seed-sd and --discordant"
                )
            spread = components(*(side.right for side in paired))
            size = members or len(levels)
            found = plan(spread, delta=delta, power=power, level=level, family=size, images=images)
            planned.append(Needs(other.name, baseline.name, where, found))
    return tuple(planned)


def hardest(planned: Sequence[Needs]) -> Needs:
    """The comparison that takes most."""
    return max(
        planned,
        key=lambda one: (one.power.seeds_equivalence or inf, one.power.seeds_difference or inf),
    )
