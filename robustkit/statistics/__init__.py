"""Arrays in, estimates and comparisons out. No files, no drawing, no torch."""

from robustkit.statistics.accuracy import median_over_seeds, over_seeds
from robustkit.statistics.comparison import Comparison, Verdict
from robustkit.statistics.contrast import (
    Contrast,
    compare_images,
    compare_seeds,
    compare_unpaired,
)
from robustkit.statistics.curves import Curve, curve
from robustkit.statistics.estimate import (
    Estimate,
    Method,
    mean_over_seeds,
    median_distance,
    outperforming,
    proportion,
    ratio,
)
from robustkit.statistics.families import Member, family
from robustkit.statistics.power import Components, Power, PowerRow, components, plan
from robustkit.statistics.ranks import Ranks, friedman
from robustkit.statistics.resampling import SecondaryTest

__all__ = [
    "Comparison",
    "Components",
    "Contrast",
    "Curve",
    "Estimate",
    "Member",
    "Method",
    "Power",
    "PowerRow",
    "Ranks",
    "SecondaryTest",
    "Verdict",
    "compare_images",
    "compare_seeds",
    "compare_unpaired",
    "components",
    "curve",
    "family",
    "friedman",
    "mean_over_seeds",
    "median_distance",
    "median_over_seeds",
    "outperforming",
    "over_seeds",
    "plan",
    "proportion",
    "ratio",
]
