"""One number with its interval: shares, means over seeds, ratios, medians."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri, stdtrit

from robustkit.errors import InputError

Method = Literal["wilson", "exact"]
Floats = NDArray[np.float64]
MOST_IMAGES = 10_000_000
"""beyond which no number of images is named"""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its uncertainty; the two always travel together."""

    value: float
    low: float
    """lower end of the interval"""
    high: float
    """upper end of the interval"""
    n: int
    """number of independent units: images, or seeds where the method says so"""
    method: str
    """how the interval was made, in words fit for a caption"""


def proportion(count: int, n: int, method: Method = "wilson", level: float = 0.95) -> Estimate:
    """A share with its two-sided interval.

    Wilson's score interval (Wilson 1927) or Clopper and Pearson's exact one (1934): the exact one
    covers at least `level` always, Wilson's does so on average and is shorter.

    Raises:
        ValueError: n < 1, or count outside 0..n.
    """
    if n < 1 or not 0 <= count <= n:
        raise ValueError(f"count {count} of n {n}: expected 0 <= count <= n and n >= 1")
    low, high = {"wilson": _wilson, "exact": _clopper_pearson}[method](count, n, 1 - level)
    label = {"wilson": "Wilson", "exact": "Clopper-Pearson"}[method]
    # scipy leaves rounding dust of 1e-17 at the ends
    low, high = max(0.0, min(low, count / n)), min(1.0, max(high, count / n))
    return Estimate(count / n, low, high, n, f"{label}, {percent(level)}")


def _wilson(count: int, n: int, alpha: float) -> tuple[float, float]:
    """Wilson's score interval (1927), as statsmodels has it, which takes a second to import."""
    share, z = count / n, -float(ndtri(alpha / 2))
    scale = 1 + z**2 / n
    middle = (share + z**2 / (2 * n)) / scale
    half = z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    return middle - half, middle + half


def _clopper_pearson(count: int, n: int, alpha: float) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, n, alpha=alpha, method="beta")
    return float(low), float(high)


def exact_lower(count: float, n: int, alpha: float) -> float:
    """Lower end of Clopper and Pearson's two-sided 1 − alpha interval for count of n."""
    return float(betaincinv(count, n - count + 1, alpha / 2)) if count else 0.0


def exact_upper(count: float, n: int, alpha: float) -> float:
    """Upper end of the same interval."""
    return 1.0 - exact_lower(n - count, n, alpha)


def images_to_settle(share: float, *, above: float, below: float) -> int | None:
    """Fewest images whose exact 95 % interval lies above `above`, or below `below`, at this share.

    The interval is that of `share` · n of n images, Clopper and Pearson's, continued to counts that
    are not whole. Of `above` < `below` one is always met in the end; None where it takes more than
    `MOST_IMAGES`.
    """

    def settles(n: int) -> bool:
        count, alpha = share * n, 1 - 0.95  # as in `proportion`
        return exact_lower(count, n, alpha) > above or exact_upper(count, n, alpha) < below

    # either end only comes nearer as images are added, so that what settles goes on doing so
    found = bisect_left(range(1, MOST_IMAGES + 1), True, key=settles) + 1
    return found if found <= MOST_IMAGES else None


def mean_over_seeds(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Mean of one number a seed (an area, a distance, a loss), with Student's t interval.

    `values` is [S]. Only what varies from seed to seed is in the interval; `n` counts seeds.

    Raises:
        InputError: fewer than two values, or one that is no finite number.
    """
    x = _finite(values, "values over seeds", least=2)
    half = float(-stdtrit(len(x) - 1, (1 - level) / 2)) * _standard_error(x)
    mean = float(x.mean())
    return Estimate(
        mean, mean - half, mean + half, len(x), f"t over {len(x)} seeds, {percent(level)}"
    )


def ratio(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Estimate:
    """Geometric mean of the paired ratios a/b, with a t interval made on their logarithms.

    `a` and `b` are [S], positive, in one unit (seconds a step); `n` counts pairs.

    Raises:
        InputError: different lengths, fewer than two pairs, or a value that is not positive.
    """
    top, bottom = paired(a, b, least=2)
    if min(top.min(), bottom.min()) <= 0:
        raise InputError("a ratio needs positive values; leave out what was not measured")
    logs = mean_over_seeds(np.log(top / bottom), level)
    method = f"t on logarithms of {len(top)} paired ratios, {percent(level)}"
    return Estimate(exp(logs.value), exp(logs.low), exp(logs.high), len(top), method)


def outperforming(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Estimate:
    """Probability that a run of a beats its paired run of b (Bouthillier et al. 2021).

    `a` and `b` are [S], larger is better. A tie counts half in the value; the interval is Clopper
    and Pearson's, its lower end with every tie lost and its upper end with every tie won, so that
    it covers at least `level` whatever ties mean.

    Raises:
        InputError: different lengths, none at all, or a value that is no finite number.
    """
    left, right = paired(a, b, least=1)
    n, wins, ties = len(left), int((left > right).sum()), int((left == right).sum())
    ties_note = f", {ties} {'tie' if ties == 1 else 'ties'} counted half" if ties else ""
    low, high = exact_lower(wins, n, 1 - level), exact_upper(wins + ties, n, 1 - level)
    method = f"Clopper-Pearson over {n} pairs{ties_note}, {percent(level)}"
    return Estimate((wins + ties / 2) / n, low, high, n, method)


def median_distance(distances: ArrayLike, level: float = 0.95) -> Estimate:
    """Median smallest perturbation, with the exact interval between two order statistics.

    `distances` is [N]; `inf` says that nothing was found for that image. The ends are the k-th
    smallest and k-th largest distance, k the largest for which the binomial leaves at least
    `level` between them; with five images or fewer no such k exists at 95 %, and the ends are 0
    and infinity.

    Raises:
        InputError: no distance, or one that is negative or NaN.
    """
    x = np.sort(np.asarray(distances, dtype=np.float64))
    if x.ndim != 1 or not len(x) or np.isnan(x).any() or x[0] < 0:
        raise InputError("distances: expected a list of numbers, at least 0 or inf, one an image")
    k = _order(len(x), 1 - level)
    low, high = (float(x[k - 1]), float(x[-k])) if k else (0.0, float("inf"))
    middle = float(x[(len(x) - 1) // 2]), float(x[len(x) // 2])
    # between a number and infinity lies infinity, and inf − inf must not arise
    value = middle[0] if middle[0] == middle[1] else sum(middle) / 2
    return Estimate(value, low, high, len(x), f"order statistics, {percent(level)}")


def paired(a: ArrayLike, b: ArrayLike, least: int) -> tuple[Floats, Floats]:
    """Both as [S] float arrays of one length, at least `least` and finite, or an InputError."""
    left, right = _finite(a, "the first", least), _finite(b, "the second", least)
    if len(left) != len(right):
        raise InputError(f"pairs: {len(left)} values beside {len(right)}; give one of each a seed")
    return left, right


def percent(share: float) -> str:
    """'95 %', '97.5 %'."""
    return f"{100 * share:.6g} %"


def counted(number: int, noun: str) -> str:
    """'1 image', '10,000 images'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _finite(values: ArrayLike | Sequence[Any], what: str, least: int) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < least or not np.isfinite(x).all():
        raise InputError(f"{what}: expected a list of at least {least} finite numbers")
    return x


def _standard_error(x: Floats) -> float:
    # sorted, so that the order of the seeds cannot change the last digit
    return float(np.sort(x).std(ddof=1)) / sqrt(len(x))


def _order(n: int, alpha: float) -> int:
    """Largest k with P(Binomial(n, 1/2) < k) <= alpha / 2."""
    from scipy.stats import binom

    k = int(binom.ppf(alpha / 2, n, 0.5))
    # ppf is the smallest k whose distribution function reaches alpha / 2; met exactly, the next
    # order statistic will do as well
    return k + 1 if binom.cdf(k, n, 0.5) <= alpha / 2 else k
