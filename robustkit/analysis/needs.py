"""How many seeds and images a comparison takes, by the spread of the evaluations there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from robustkit.analysis.compare import family_of, levels_of
from robustkit.analysis.contrast import pair, unlike_note
from robustkit.errors import InputError
from robustkit.results.records import CLEAN
from robustkit.results.replicates import Replicates
from robustkit.results.sides import Side
from robustkit.showing import Shown
from robustkit.statistics import Components, Power, components, plan


@dataclass(frozen=True, slots=True)
class Needs:
    """What one comparison takes."""

    a: str
    b: str
    level: str
    power: Power

    @property
    def in_words(self) -> str:
        """Which comparison."""
        where = self.level if self.level == CLEAN else f"ε = {self.level}"
        return f"{self.a} and {self.b}, {where}"


@dataclass(frozen=True, slots=True, repr=False)
class PowerAnalysis(Shown):
    """How many seeds and images the comparisons of several methods take."""

    comparisons: tuple[Needs, ...]
    notes: tuple[str, ...] = ()
    """what of the networks bears on it"""

    @property
    def hardest(self) -> tuple[Needs, Needs]:
        """The comparisons that take most seeds: to show a difference, and to show equivalence.

        One and the same where it takes most for both.
        """

        def seeds(one: Needs) -> tuple[float, float]:
            return one.power.seeds_difference or inf, one.power.seeds_equivalence or inf

        difference = max(self.comparisons, key=seeds)
        return difference, max(self.comparisons, key=lambda one: seeds(one)[::-1])

    @property
    def sentence(self) -> str:
        """What it comes to; two comparisons are named where each takes most for one of both."""
        difference, equivalence = self.hardest
        if difference is equivalence:
            return difference.power.sentence()
        first = difference.power.to_show_difference(f" ({difference.in_words})")
        second = equivalence.power.to_show_equivalence(f" ({equivalence.in_words})")
        return f"{first}; {second}."


def needs(
    sides: Sequence[Side],
    *,
    delta: float,
    at: Sequence[str] = (),
    power: float = 0.8,
    level: float = 0.95,
    members: int | None = None,
    images: int | None = None,
) -> PowerAnalysis:
    """How many seeds and images each comparison takes, by an upper bound of the observed spread.

    Args:
        sides: as for `compare_sides`; at least two seeds that are matched.
        delta: the difference to show, and the margin of equivalence, as a share.
        at: budgets and "clean"; everything that is on file where empty.
        power: probability to show it.
        level: of confidence, of the family.
        members: size of the family; by default all levels on file, as in a comparison.
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
            paired = _several(other, baseline, where)
            if paired is None:
                raise InputError(
                    f"{other.name} and {baseline.name}: the spread over seeds takes at least two "
                    "seeds of both that match; without them, give --seed-sd and --discordant"
                )
            spread = components(*(side.right for side in paired))
            size = members or len(family_of(sides, at))
            found = plan(spread, delta=delta, power=power, level=level, family=size, images=images)
            planned.append(Needs(other.name, baseline.name, where, found))
    notes = (note for side in sides for note in unlike_note(side.name, side.checkpoints))
    return PowerAnalysis(tuple(planned), tuple(notes))


def can_plan(a: Side, b: Side, level: str) -> bool:
    """Whether there is a spread over seeds, on which `needs` rests."""
    return _several(a, b, level) is not None


def _several(a: Side, b: Side, level: str) -> tuple[Replicates, Replicates] | None:
    """Both at a level by the seeds they share; None where these are fewer than two."""
    paired = pair(a.at(level), b.at(level))
    return paired if paired is not None and len(paired[0].seeds) > 1 else None


def needs_of_bounds(
    seed_sd: float,
    discordant: float,
    images: int,
    *,
    delta: float,
    power: float,
    level: float,
    members: int,
) -> PowerAnalysis:
    """How many seeds and images a comparison takes, by bounds that the user knows; all as shares.

    Args:
        seed_sd: of how the paired difference varies over seeds.
        discordant: of the images that one network of a pair gets right and the other wrong.
        images: to plan on.
        delta: as for `needs`, and so are power, level and members.
        power: likewise.
        level: likewise.
        members: likewise.
    """
    # all of an image's variance is taken to be the same for every seed: no seeds take it away
    bounds = Components(seed_sd**2, discordant, 0.0, 0, images)
    found = plan(bounds, delta=delta, power=power, level=level, family=members)
    return PowerAnalysis((Needs("a", "b", "", found),))
