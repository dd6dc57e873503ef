"""Three ways to test a difference against any value, each inverted to its interval.

A pivot has `lower(alpha)`, the lower end of its two-sided 1 − alpha interval, and its inverse
`p_above(theta)`, the smallest alpha at which that end lies above theta (1 where none does). All
else follows by `mirrored`, so that intervals and p values cannot disagree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, sqrt
from typing import NamedTuple, Protocol, Self

from scipy.special import bdtrc, ndtr, ndtri, stdtrit

from robustkit.statistics.estimate import exact_lower, exact_upper

_LOG_SMALLEST_P = -230.0  # 1e-100; scipy's t quantiles fail further out


class Pivot(Protocol):
    """What is known of one difference."""

    def lower(self, alpha: float) -> float:
        """Lower end of the two-sided 1 − alpha interval."""

    def p_above(self, theta: float) -> float:
        """Two-sided p of "not above theta": the smallest alpha with `lower(alpha)` > theta."""

    def mirrored(self) -> Self:
        """The same for the difference with its sign turned."""


def interval(pivot: Pivot, alpha: float) -> tuple[float, float]:
    """Both ends."""
    return pivot.lower(alpha), -pivot.mirrored().lower(alpha)


def p_of(pivot: Pivot, theta: float) -> float:
    """Two-sided p of "the difference is theta"."""
    return min(pivot.p_above(theta), pivot.mirrored().p_above(-theta))


def p_within(pivot: Pivot, delta: float) -> float:
    """Smallest alpha at which the 1 − alpha interval lies inside ±delta."""
    return max(pivot.p_above(-delta), pivot.mirrored().p_above(-delta))


class Term(NamedTuple):
    """One independent part of a variance, and the degrees of freedom of its estimate."""

    variance: float
    df: float


@dataclass(frozen=True, slots=True)
class Student:
    """A mean whose variance is a sum of terms with different degrees of freedom.

    The critical value is the mean of the terms' own t quantiles, weighted by the terms (Cochran
    and Cox 1957, section 4.14). Satterthwaite's single t is shorter, but with 3 seeds that bring
    most of the variance it covers 92.2 % instead of 95 %, and 96.5 % instead of the 99 % that
    families need. This one covers at least what it says where the terms are independent and normal;
    with shares of images, 93.0 % and more of 95 % were measured (tests/benchmarks/coverage.py).
    """

    centre: float
    terms: Sequence[Term]

    @property
    def variance(self) -> float:
        """Of the mean."""
        return sum(term.variance for term in self.terms)

    def critical(self, alpha: float) -> float:
        """How many standard errors reach to either end."""
        parts = (t.variance * -stdtrit(t.df, alpha / 2) for t in self.terms if t.variance)
        return float(sum(parts)) / (self.variance or 1.0)

    def lower(self, alpha: float) -> float:  # noqa: D102
        return max(-1.0, self.centre - self.critical(alpha) * sqrt(self.variance))

    def p_above(self, theta: float) -> float:  # noqa: D102
        if self.centre <= theta:
            return 1.0
        if not self.variance:
            return 0.0
        # a mean of t quantiles with different degrees of freedom has no inverse in closed form
        t = (self.centre - theta) / sqrt(self.variance)
        return smallest_alpha(lambda alpha: t - self.critical(alpha))

    def mirrored(self) -> "Student":  # noqa: D102
        return Student(-self.centre, self.terms)


@dataclass(frozen=True, slots=True)
class Score:
    """A paired difference of shares by its score test (Tango 1998); at 0 it is McNemar's.

    Of n pairs a alone is right in `wins` and b alone in `losses`.
    """

    wins: int
    losses: int
    n: int

    def z(self, theta: float) -> float:
        """Score statistic of "the difference is theta", positive where more was seen."""
        # the variance is that under theta: it takes the share q of losses most likely there, the
        # root of 2n q² + B q − losses θ (1 − θ) = 0, B being `linear` (Tango 1998). Wald's interval
        # takes q as seen, and where no pair was lost its variance is too small
        wins, losses, n = self.wins, self.losses, self.n
        linear = (2 * n - wins + losses) * theta - wins - losses
        root = sqrt(max(linear**2 + 8 * n * losses * theta * (1 - theta), 0.0))
        share = (root - linear) / (4 * n)  # of losses, most likely under theta
        variance = n * (2 * share + theta * (1 - theta))
        excess = wins - losses - n * theta
        if variance > 0:
            return excess / sqrt(variance)
        return inf if excess > 0 else 0.0

    def lower(self, alpha: float) -> float:  # noqa: D102
        critical = float(-ndtri(alpha / 2))
        # at −1 itself the variance is 0
        start, stop = -1 + 1e-12, (self.wins - self.losses) / self.n
        if critical <= 0:
            return stop
        if stop <= start or self.z(start) <= critical:
            return -1.0
        from scipy.optimize import brentq  # takes a third of a second to import

        return float(brentq(lambda theta: self.z(theta) - critical, start, stop, xtol=1e-15))

    def p_above(self, theta: float) -> float:  # noqa: D102
        if (self.wins - self.losses) / self.n <= theta:
            return 1.0
        return 2 * float(ndtr(-self.z(max(theta, -1.0)))) if theta > -1 else 0.0

    def mirrored(self) -> "Score":  # noqa: D102
        return Score(self.losses, self.wins, self.n)


@dataclass(frozen=True, slots=True)
class Exact:
    """The same difference where few pairs differ; at 0 it is the exact McNemar test.

    The end is (2π − 1) ψ: π the end of Clopper and Pearson's interval for the share of wins among
    the pairs that differ, ψ the share of pairs that differ, at whichever end of its own such
    interval puts the product further out. The sign is π's alone.
    """

    wins: int
    losses: int
    n: int

    def lower(self, alpha: float) -> float:  # noqa: D102
        differ = self.wins + self.losses
        lean = 2 * exact_lower(self.wins, differ, alpha) - 1
        if abs(lean) < 1e-12:  # rounding must not tell a sign that p does not
            return 0.0
        # the smaller product: few pairs that differ where a leads, many where it trails
        end = exact_lower if lean > 0 else exact_upper
        return lean * end(differ, self.n, alpha)

    def p_above(self, theta: float) -> float:  # noqa: D102
        if theta == 0:
            # given how many pairs differ, wins are fair coins: the exact test in closed form
            differ = self.wins + self.losses
            return min(1.0, 2 * float(bdtrc(self.wins - 1, differ, 0.5))) if self.wins else 1.0
        return smallest_alpha(lambda alpha: self.lower(alpha) - theta)

    def mirrored(self) -> "Exact":  # noqa: D102
        return Exact(self.losses, self.wins, self.n)


def smallest_alpha(excess: Callable[[float], float]) -> float:
    """The alpha at which a rising `excess(alpha)` passes 0; 1 where it never does."""
    if excess(1.0) <= 0:
        return 1.0
    if excess(exp(_LOG_SMALLEST_P)) > 0:
        return 0.0
    # on the logarithm: p values span a hundred orders of magnitude, and all must be right
    from scipy.optimize import brentq  # as above

    root = brentq(lambda log: excess(exp(log)), _LOG_SMALLEST_P, 0.0, xtol=1e-14, rtol=1e-14)
    return exp(root)
