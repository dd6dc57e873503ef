"""Two methods on the same images, where seeds and images both vary."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from robustkit.errors import InputError
from robustkit.statistics.estimate import Estimate, counted, outperforming
from robustkit.statistics.pivot import (
    Exact,
    Pivot,
    Score,
    Student,
    Term,
    interval,
    p_of,
    p_within,
)
from robustkit.statistics.resampling import SecondaryTest, secondary_tests
from robustkit.statistics.spread import (
    added,
    booleans,
    mean_squares,
    same_images,
    student,
    terms,
    with_pseudo_images,
)

FEW = 25
"""discordant pairs below which McNemar's test is made exact"""


@dataclass(frozen=True, slots=True)
class Contrast:
    """What is known of a − b before the family is: every level of confidence at once."""

    difference: float
    """as a share: 0.025 is 2.5 points"""
    n: int
    """images"""
    test: str
    unit: str
    """what was replicated: "5 paired seeds, 10,000 images" """
    pivot: Pivot
    secondary: tuple[SecondaryTest, ...] = ()
    seeds: int = 1
    outperforms: Estimate | None = None
    """probability that a run of a beats its paired run of b; None where no seeds are paired"""

    def interval(self, alpha: float) -> tuple[float, float]:
        """The two-sided 1 − alpha interval, in [−1, 1]; it excludes 0 exactly when p < alpha."""
        return interval(self.pivot, alpha)

    @property
    def p(self) -> float:
        """Two-sided p of "no difference"."""
        return p_of(self.pivot, 0.0)

    def p_equivalence(self, delta: float) -> float:
        """The p of "a and b differ by delta or more", on the scale of `p`.

        It is below alpha exactly when `interval(alpha)` lies inside ±delta. That makes it twice
        the p of two one-sided tests (Schuirmann 1987), whose custom is the 1 − 2 alpha interval:
        here one interval answers both questions.
        """
        return p_within(self.pivot, delta)


def compare_images(a: ArrayLike, b: ArrayLike) -> Contrast:
    """Two checkpoints on the same N images: McNemar's test and the difference of accuracies.

    `a` and `b` are [N]. With few discordant pairs the test is exact and its interval conservative,
    else both are the score test's, Tango's interval (1998). Neither carries training variance.

    Raises:
        InputError: anything but booleans of one shape.
    """
    left, right = same_images(a, b, "N")
    wins, losses = int((left & ~right).sum()), int((~left & right).sum())
    few = wins + losses < FEW
    n = len(left)
    return Contrast(
        difference=(wins - losses) / n,
        n=n,
        test="exact McNemar" if few else "McNemar",
        unit=f"1 pair of checkpoints, {counted(n, 'image')}",
        pivot=(Exact if few else Score)(wins, losses, n),
    )


def compare_seeds(a: ArrayLike, b: ArrayLike, rng: Generator) -> Contrast:
    """Two methods over S seeds on the same N images, paired by seed and by image.

    `a` and `b` are [S, N], row s of both of the same seed. The two-way t test of d = a − b
    decides; what resampling seeds says stands beside it. Two images are added, one that a alone
    gets right with every seed and one that b alone does (Bonett and Price 2012, with seeds), so
    that the interval holds where few images differ. One seed gives `compare_images`.

    Raises:
        InputError: anything but booleans of one shape.
    """
    left, right = same_images(a, b)
    S, N = left.shape
    if S == 1:
        return compare_images(left[0], right[0])
    d = left.view(np.int8) - right.view(np.int8)
    each = d.sum(axis=1, dtype=np.int64)
    return Contrast(
        difference=int(each.sum()) / d.size,
        n=N,
        test="two-way t",
        unit=f"{S} paired seeds, {counted(N, 'image')}",
        pivot=student(mean_squares(with_pseudo_images(d, -1, 1)[None])),
        secondary=secondary_tests(each, rng),
        seeds=S,
        outperforms=outperforming(each, np.zeros(S)),
    )


def compare_unpaired(a: ArrayLike, b: ArrayLike) -> Contrast:
    """Two methods on the same N images over seeds that are not matched.

    `a` is [Sa, N] and `b` [Sb, N]. Images stay paired; each side has its own seed variance and
    degrees of freedom. Two images are added as in `compare_seeds`.

    Raises:
        InputError: anything but booleans on the same images, or fewer than two seeds of a side.
    """
    left, right = booleans(a, "a", "SN"), booleans(b, "b", "SN")
    if left.shape[1] != right.shape[1]:
        raise InputError(f"a has {left.shape[1]} images and b {right.shape[1]}; use the same ones")
    if min(len(left), len(right)) < 2:
        raise InputError("seeds that are not matched: each side needs at least two")
    N = left.shape[1]
    value = int(left.sum()) / left.size - int(right.sum()) / right.size
    return Contrast(
        difference=value,
        n=N,
        test="two-way Welch t",
        unit=f"{len(left)} and {len(right)} unpaired seeds, {counted(N, 'image')}",
        pivot=_welch(
            with_pseudo_images(left.view(np.int8), 1, 0),
            with_pseudo_images(right.view(np.int8), 0, 1),
        ),
        seeds=min(len(left), len(right)),
    )


def _welch(a: NDArray[Any], b: NDArray[Any]) -> Student:
    sides = [mean_squares(x[None]) for x in (a, b)]
    seeds = [terms(side)[0] for side in sides]
    N = a.shape[1]
    # per image, in units of 1 / (Sa Sb), so that sums stay whole
    each = len(b) * a.sum(axis=0, dtype=np.int64) - len(a) * b.sum(axis=0, dtype=np.int64)
    images = float(mean_squares(each[None, None]).image[0, 0]) / (len(a) * len(b)) ** 2
    residual = sum(float(side.residual[0, 0]) / side.seeds for side in sides)
    varying = sum(term.variance for term in seeds)
    of_images = Term(added(images, residual, varying) / N, N - 1)
    # the sides' terms stay apart: as one by Satterthwaite, with 2 and 10 seeds they cover 87 and
    # 94 % instead of 95 and 99 %, apart 94 and 98
    return Student(float(sides[0].mean[0] - sides[1].mean[0]), (*seeds, of_images))
