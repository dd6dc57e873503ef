"""Arrays in, estimates out. No files, no drawing, no torch."""

from dataclasses import dataclass
from typing import Literal

from statsmodels.stats.proportion import proportion_confint

Method = Literal["wilson", "exact"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its uncertainty; the two always travel together."""

    value: float
    low: float
    """lower end of the interval"""
    high: float
    """upper end of the interval"""
    n: int
    """number of independent units, here images"""
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
    name = {"wilson": "wilson", "exact": "beta"}[method]
    low, high = proportion_confint(count, n, alpha=1 - level, method=name)
    label = {"wilson": "Wilson", "exact": "Clopper-Pearson"}[method]
    # scipy leaves rounding dust of 1e-17 at the ends
    low, high = max(0.0, min(float(low), count / n)), min(1.0, max(float(high), count / n))
    return Estimate(count / n, low, high, n, f"{label}, {level:.0%}")
