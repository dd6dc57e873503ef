"""Several methods over independent data sets: Friedman's test and Nemenyi's critical difference."""

from collections import Counter
from dataclasses import dataclass
from itertools import permutations
from math import factorial, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, fdtrc

from robustkit.errors import InputError

ENUMERATED = 50_000
"""ways to rank that are gone through one by one; of more, so many and twice that are drawn"""


@dataclass(frozen=True, slots=True)
class Ranks:
    """How methods rank over blocks; rank 1 is the best."""

    mean_ranks: tuple[float, ...]
    """one a method, in the order given"""
    statistic: float
    """Friedman's chi-square, corrected for ties"""
    p: float
    f_statistic: float
    """Iman and Davenport's (1980), less conservative; infinite where all blocks agree"""
    f_p: float
    permutation_p: float
    """of rank sums that far apart where each block ranks at random, whatever its size"""
    critical_difference: float
    """Nemenyi's: mean ranks further apart than this differ, all pairs together"""
    blocks: int
    level: float

    @property
    def differ(self) -> bool:
        """Whether Friedman's test finds that methods differ at all; else no pair of them does."""
        return self.permutation_p <= 1 - self.level


def friedman(scores: ArrayLike, *, level: float = 0.95) -> Ranks:
    """Compare methods by their ranks within blocks (Demšar 2006).

    `scores` is [blocks, methods], larger is better; ties share their mean rank. Blocks must be
    independent data sets. Noise levels, budgets or seeds of one data set are not: their images
    are the same, and the test would count them again and again.

    Raises:
        InputError: fewer than two blocks or three methods, a score that is no finite number, or
            level outside (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(f"level {level}: expected between 0 and 1")
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 3 or not np.isfinite(x).all():
        raise InputError(
            "scores: expected finite numbers, data sets × methods, at least 2 × 3 "
            "(two methods are compared pair by pair)"
        )
    from scipy.stats import rankdata, studentized_range  # takes a second to import

    n, k = x.shape
    ranks = rankdata(-x, axis=1)
    statistic = _friedman_statistic(x)
    left = n * (k - 1) - statistic
    f = (n - 1) * statistic / left if left > 1e-9 * n else np.inf
    quantile = float(studentized_range.ppf(level, k, np.inf)) / sqrt(2)
    return Ranks(
        mean_ranks=tuple(float(rank) for rank in ranks.mean(axis=0)),
        statistic=statistic,
        p=float(chdtrc(k - 1, statistic)),
        f_statistic=float(f),
        f_p=float(fdtrc(k - 1, (k - 1) * (n - 1), f)) if np.isfinite(f) else 0.0,
        permutation_p=_permutation_p(ranks),
        critical_difference=quantile * sqrt(k * (k + 1) / (6 * n)),
        blocks=n,
        level=level,
    )


def _friedman_statistic(x: NDArray[np.float64]) -> float:
    if (x == x[:, :1]).all():  # every block a tie: scipy divides 0 by 0
        return 0.0
    from scipy.stats import friedmanchisquare  # takes a second to import

    return float(friedmanchisquare(*x.T).statistic)


def _permutation_p(ranks: NDArray[np.float64]) -> float:
    """Share of the ways to permute ranks within blocks whose rank sums lie as far apart."""
    n, k = ranks.shape
    observed = np.square(ranks.sum(axis=0)).sum()  # exact: multiples of a quarter
    if factorial(k) ** n <= ENUMERATED:
        ways = Counter({(0.0,) * k: 1})
        for row in ranks:
            after: Counter[tuple[float, ...]] = Counter()
            for sums, count in ways.items():
                for order in permutations(row):
                    after[tuple(a + b for a, b in zip(sums, order, strict=True))] += count
            ways = after
        extreme = sum(c for sums, c in ways.items() if sum(s * s for s in sums) >= observed)
        return float(extreme / factorial(k) ** n)
    rng = np.random.default_rng(0)
    sums = np.zeros((2 * ENUMERATED, k))
    for row in ranks[np.lexsort(ranks.T)]:  # blocks in any order give the same number
        sums += rng.permuted(np.tile(row, (len(sums), 1)), axis=1)
    as_extreme = np.count_nonzero(np.square(sums).sum(axis=1) >= observed)
    return float((as_extreme + 1) / (len(sums) + 1))
