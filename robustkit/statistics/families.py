"""Comparisons that are read together: one simultaneous interval each, and the verdict from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from robustkit.errors import InputError
from robustkit.statistics.comparison import Comparison, Verdict
from robustkit.statistics.contrast import Contrast
from robustkit.statistics.estimate import Estimate, counted, percent
from robustkit.statistics.resampling import SecondaryTest


@dataclass(frozen=True, slots=True)
class Member:
    """One comparison of a family, before it is judged."""

    a: str
    b: str
    level: str = ""
    """as written: "0.8", "8/255"; "" where there is none"""
    contrast: Contrast | None = None
    """None where there are no data: it counts in the family and is not tested"""
    reason: str = ""
    """why there are none: "0.6: no checkpoint of seed 2" """


def family(
    members: Sequence[Member], *, delta: float | None, level: float = 0.95
) -> tuple[Comparison, ...]:
    """Judge comparisons together: all intervals hold at once with probability `level`.

    Bonferroni: each of k intervals at 1 − (1 − level) / k, each p times k; whatever the
    dependence. A verdict is read off the interval: inside ±delta it is equivalent, else better or
    worse where it excludes 0, else inconclusive. Every such verdict is right, and every interval
    covers, with probability `level` for the whole family, so that equivalence needs no family of
    its own. Members without data count in k: what is run later changes no other interval.

    Holm's p stands beside. It cannot decide: its last steps spend what the intervals of the
    members already decided would need, so that its sign and their size do not hold together (with
    one of 5 differences null and 4 large: 91 %; Strassburger and Bretz 2008, Guilbaud 2008).

    Raises:
        InputError: delta outside (0, 1), or level outside (0, 1).
    """
    if delta is not None and not 0 < delta < 1:
        raise InputError(f"delta {delta}: expected a share between 0 and 1, 0.005 for half a point")
    if not 0 < level < 1:
        raise InputError(f"level {level}: expected between 0 and 1")
    correction = f"Bonferroni over {len(members):,} levels" if len(members) > 1 else ""
    alpha = 1 - level
    judged = [_judged(m, len(members), delta, alpha, correction) for m in members]
    raw = [m.contrast.p if m.contrast else 1.0 for m in members]
    return tuple(replace(one, p_holm=p) for one, p in zip(judged, _holm(raw), strict=True))


def _judged(
    member: Member, k: int, delta: float | None, alpha: float, correction: str
) -> Comparison:
    contrast = member.contrast
    if contrast is None:
        return _untested(member, delta, alpha, correction)
    # the same k in all three: an interval at alpha / k excludes 0 exactly where k p < alpha
    low, high = contrast.interval(alpha / k)
    kind = "simultaneous " if correction else ""
    method = f"{contrast.test}, {kind}{percent(1 - alpha)} interval"
    within = min(1.0, k * contrast.p_equivalence(delta)) if delta is not None else None
    return Comparison(
        a=member.a,
        b=member.b,
        level=member.level,
        difference=Estimate(contrast.difference, low, high, contrast.n, method),
        p=min(1.0, k * contrast.p),
        p_equivalence=within,
        delta=delta,
        test=contrast.test,
        correction=correction,
        unit=contrast.unit,
        verdict=_verdict(low, high, delta),
        secondary=tuple(_noted(test, contrast.seeds, alpha) for test in contrast.secondary),
        outperforms=contrast.outperforms,
        confidence=1 - alpha,
    )


def _untested(member: Member, delta: float | None, alpha: float, correction: str) -> Comparison:
    return Comparison(
        a=member.a,
        b=member.b,
        level=member.level,
        difference=None,
        p=1.0,
        p_equivalence=None,
        delta=delta,
        test="",
        correction=correction,
        unit="",
        verdict="not tested",
        confidence=1 - alpha,
        reason=member.reason,
    )


def _verdict(low: float, high: float, delta: float | None) -> Verdict:
    # first, since a difference may be real and too small to count: then both would hold
    if delta is not None and -delta < low and high < delta:
        return "equivalent"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "inconclusive"


def _holm(p: Sequence[float]) -> list[float]:
    # statsmodels does the same and collects garbage for 60 ms
    order = np.argsort(p)
    # step down: the k-th smallest p is multiplied by the tests still open, and it stays as large
    # as the one before it, since no test is rejected after one that was not (Holm 1979)
    steps = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]


def _noted(test: SecondaryTest, seeds: int, alpha: float) -> SecondaryTest:
    if test.smallest < alpha:
        return test
    return replace(test, note=f"cannot decide with {counted(seeds, 'seed')}")
