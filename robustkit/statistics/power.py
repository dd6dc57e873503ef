"""How many seeds and images a difference of delta needs, from a bound of the observed spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, nctdtr, stdtrit

from robustkit.errors import InputError
from robustkit.statistics.estimate import MOST_IMAGES
from robustkit.statistics.spread import mean_squares, same_images, with_pseudo_images

SEEDS = range(3, 51)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Components:
    """Variances of the paired difference of one seed on one image."""

    seed: float
    image: float
    residual: float
    seeds: int
    """from which they were found"""
    images: int


@dataclass(frozen=True, slots=True)
class PowerRow:
    """What a number of seeds gives."""

    seeds: int
    difference: float
    """power to show a difference of delta, on the images of `Power`"""
    equivalence: float
    """power to show equivalence within delta where there is no difference"""
    images_difference: int | None
    """images that give the power asked for; None where no number does"""
    images_equivalence: int | None


@dataclass(frozen=True, slots=True)
class Power:
    """A plan."""

    delta: float
    power: float
    level: float
    family: int
    images: int
    components: Components
    """upper bounds, on which the plan rests"""
    rows: tuple[PowerRow, ...]

    @property
    def seeds_difference(self) -> int | None:
        """Fewest seeds that show a true difference of delta with the power asked for."""
        return next((row.seeds for row in self.rows if row.difference >= self.power), None)

    @property
    def seeds_equivalence(self) -> int | None:
        """Fewest seeds that show equivalence within delta where there is no difference."""
        return next((row.seeds for row in self.rows if row.equivalence >= self.power), None)

    @property
    def in_words(self) -> tuple[str, str]:
        """Both: "12", "more than 50"."""
        seeds, most = (self.seeds_difference, self.seeds_equivalence), self.rows[-1].seeds
        one, other = (f"more than {most}" if n is None else str(n) for n in seeds)
        return one, other

    def sentence(self) -> str:
        """Both, in a sentence fit for a paper."""
        return f"{self.to_show_difference()}; {self.to_show_equivalence()}."

    def to_show_difference(self, of: str = "") -> str:
        """The first half of the sentence; `of` is the comparison, where halves are of two."""
        return (
            f"To show a true difference of {self._points} with power {100 * self.power:.6g} % on "
            f"{self.images:,} images takes {_needs(self.seeds_difference, self)}{of}"
        )

    def to_show_equivalence(self, of: str = "") -> str:
        """The second half, likewise."""
        return (
            f"to show equivalence within ±{self._points}, if there is no difference at all, "
            f"{_needs(self.seeds_equivalence, self)}{of}"
        )

    @property
    def _points(self) -> str:
        return f"{100 * self.delta:.10g} {'point' if self.delta == 0.01 else 'points'}"


def components(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.8) -> Components:
    """Upper bounds of what makes a − b vary; `a` and `b` are [S, N], paired by seed and image.

    Each mean square is raised to its one-sided upper bound by the chi-square, after Browne (1995):
    planned on the bound, the power is at least what was asked for with that confidence. The
    observed difference itself is not used.

    Raises:
        InputError: other shapes, or one seed, which says nothing of the spread over seeds.
    """
    left, right = same_images(a, b)
    S, N = left.shape
    if S < 2:
        raise InputError("one seed says nothing of the spread over seeds; give at least two")
    d = with_pseudo_images(left.view(np.int8) - right.view(np.int8), -1, 1)
    squares = mean_squares(d[None])
    residual = float(squares.residual[0, 0])
    seed = float(squares.seed[0, 0]) * _raise(S - 1, confidence)
    image = float(squares.image[0, 0]) * _raise(N - 1, confidence)
    return Components(
        seed=max(seed - residual, 0.0) / N,
        image=max(image - residual, 0.0) / S,
        residual=residual * _raise((S - 1) * (N - 1), confidence),
        seeds=S,
        images=N,
    )


def plan(
    components: Components,
    *,
    delta: float,
    power: float = 0.8,
    level: float = 0.95,
    family: int = 1,
    images: int | None = None,
    seeds: Sequence[int] = SEEDS,
) -> Power:
    """Power of `compare_seeds` by number of seeds, and the images each number needs.

    `family` is the number of comparisons judged together, `images` those of the components
    where nothing is said.

    Raises:
        InputError: delta, power or level outside (0, 1), fewer than two seeds or two images.
    """
    n = components.images if images is None else images
    _check(delta, power, level, family, seeds, n)
    S = np.array(seeds, dtype=np.float64)
    alpha = (1 - level) / family
    found = powers(components, S, np.full(len(S), float(n)), delta, alpha)
    needed = [_images(components, S, delta, alpha, power, kind) for kind in (0, 1)]
    rows = tuple(
        PowerRow(int(s), float(d), float(e), nd, ne)
        for s, d, e, nd, ne in zip(S, *found, *needed, strict=True)
    )
    return Power(delta, power, level, family, n, components, rows)


def powers(
    components: Components, S: Floats, N: Floats, delta: float, alpha: float
) -> tuple[Floats, Floats]:
    """Power at each of S seeds on N images: of a difference of delta, of equivalence at 0.

    By the noncentral t with Satterthwaite's degrees of freedom, beyond `Student.critical`; a
    difference shown with the wrong sign does not count.
    """
    # the same two terms, and the same critical value, as the test that will be made
    over_seeds = components.seed / S + components.residual / (S * N)
    over_images = components.image / N
    variance = over_seeds + over_images
    critical = (
        -(over_seeds * stdtrit(S - 1, alpha / 2) + over_images * stdtrit(N - 1, alpha / 2))
        / variance
    )
    df = variance**2 / (over_seeds**2 / (S - 1) + over_images**2 / (N - 1))
    away = np.minimum(delta / np.sqrt(variance), 35.0)  # beyond, the power is 1
    missed = nctdtr(df, away, critical)
    # equivalence at 0 is missed at +delta or at −delta, each as likely as a difference of delta
    # is missed; where both could be at once the sum is too large and the power too small
    return 1 - missed, np.maximum(1 - 2 * missed, 0.0)


def _images(
    components: Components, S: Floats, delta: float, alpha: float, power: float, kind: int
) -> list[int | None]:
    """Fewest images that give the power with each of S seeds, by bisection."""
    low, high = np.full(len(S), 2.0), np.full(len(S), float(MOST_IMAGES))
    possible = powers(components, S, high, delta, alpha)[kind] >= power
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        enough = powers(components, S, middle, delta, alpha)[kind] >= power
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return [int(n) if ok else None for n, ok in zip(high, possible, strict=True)]


def _raise(df: int, confidence: float) -> float:
    """Upper one-sided bound of a variance over its estimate."""
    # a pilot of few seeds more often shows too little spread than too much: about half of all
    # plans on the estimate itself would fall short
    return df / float(chdtri(df, confidence))


def _needs(seeds: int | None, power: Power) -> str:
    if seeds is None:
        return f"more than {power.rows[-1].seeds} seeds"
    return f"{seeds} paired seeds"


def _check(
    delta: float, power: float, level: float, family: int, seeds: Sequence[int], images: int
) -> None:
    for name, share in (("delta", delta), ("power", power), ("level", level)):
        if not 0 < share < 1:
            raise InputError(f"{name} {share}: expected a share between 0 and 1")
    if family < 1 or not seeds or min(seeds) < 2:
        raise InputError("a plan needs a family of at least one and at least two seeds")
    if images < 2:
        raise InputError(f"a plan on {images} images: one image has no spread; give at least two")
