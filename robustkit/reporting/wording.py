"""Numbers and values as a reader meets them."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any

from robustkit.analysis.outcome import Judgement
from robustkit.parsing import ends_in_percent, in_percent
from robustkit.record import MeanPasses
from robustkit.statistics import Comparison, Estimate
from robustkit.statistics.comparison import faithful
from robustkit.summary import attack_labels

NOTHING = "–"
"""where there is no number"""
MORE = 5
"""digits that may be added until a rounded number is on the right side"""


def percent(share: float | None) -> str:
    """A share in per cent, to a tenth."""
    return NOTHING if share is None or not isfinite(share) else in_percent(share)


def tenths_of_all(share: float) -> str:
    """A share in per cent without a unit; further digits where a tenth would tell none or all."""
    return in_percent(share).removesuffix("\u00a0%")


def interval(estimate: Estimate) -> str:
    """The ends of an interval of shares, in per cent."""
    if not (isfinite(estimate.low) and isfinite(estimate.high)):
        return f"{tenths(estimate.low)} to {tenths(estimate.high)}"
    return ends_in_percent(estimate.low, estimate.value, estimate.high)


def tenths(share: float, digits: int = 1) -> str:
    """A share in per cent or points without a unit, to a tenth or further."""
    if not isfinite(share):
        return NOTHING if share != share else "∞" if share > 0 else "−∞"
    # + 0.0: no "-0.0"
    return f"{round(100 * share, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(share: float, digits: int = 1) -> str:
    """A difference of shares in points, with its sign."""
    text = tenths(share, digits)
    return f"+{text}" if share > 0 and text.strip("0.") else text


def in_points(comparison: Comparison) -> str:
    """The difference of a comparison in points."""
    if comparison.difference is None:
        return NOTHING
    return signed(comparison.difference.value, _digits(comparison))


def ends(comparison: Comparison) -> str:
    """The ends of its simultaneous interval in points."""
    if comparison.difference is None:
        return NOTHING
    low, high = comparison.difference.low, comparison.difference.high
    return " to ".join(tenths(end, _digits(comparison)) for end in (low, high))


def distance(size: float) -> str:
    """The size of a perturbation, to three digits."""
    return "∞" if size == inf else f"{size:.3g}"


def distances(estimate: Estimate) -> str:
    """The ends of an interval of sizes."""
    return f"{distance(estimate.low)} to {distance(estimate.high)}"


def delta_in_points(delta: float | None) -> str:
    """A difference that counts as none, in points, every digit of it."""
    return NOTHING if delta is None else f"±{100 * delta:.10g}"


def p_value(p: float | None, comparison: Comparison) -> str:
    """A p value of a comparison, to three places or as many as show on which side of α it is."""
    if p is None or comparison.difference is None:
        return NOTHING
    alpha = round(1 - comparison.confidence, 12)  # not 0.05 and a rest of rounding
    return "< 0.001" if p < 0.001 else f"{p:.{_faithful([(p, alpha)], 3)}f}"


def _digits(comparison: Comparison) -> int:
    """Digits of points by which the interval is seen to lie where the verdict says."""
    d, delta = comparison.difference, comparison.delta or 0.0
    found = [] if d is None else [end for end in (d.low, d.high) if isfinite(end)]
    pairs = [(100 * end, 100 * mark) for end in found for mark in (-delta, 0.0, delta)]
    return _faithful(pairs, 1)


def _faithful(pairs: Sequence[tuple[float, float]], least: int) -> int:
    digits = faithful(pairs, least, least + MORE)
    return least if digits == least + MORE else digits  # on the mark, but for rounding


def verdict_in_words(judgement: Judgement) -> str:
    """The verdict on a claim, what it lacks, and what it was before a rule newer than its data."""
    before = judgement.without
    rule = f"by a rule newer than the data; before: {before}" if before else ""
    said = "; ".join(filter(None, (judgement.lacking, rule)))
    return f"{judgement.verdict} ({said})" if said else judgement.verdict


def count(number: int) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,}"


def readable(value: object) -> str:
    """A value of a record, for reading."""
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {readable(item)}" for key, item in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(readable, value)) or "none"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def attacks(protocol: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Every number of each attack of a header's protocol, by the attack's label."""
    resolved = protocol["resolved"]["attacks"]
    return {
        label: {key: readable(value) for key, value in attack.items()}
        for label, attack in zip(attack_labels(protocol), resolved, strict=True)
    }


def passes(cost: MeanPasses) -> str:
    """Passes an image, in words."""
    return f"{measured(cost.forward)} forward, {measured(cost.backward)} backward"


def measured(number: float | None) -> str:
    """A number without a unit, to four digits."""
    return NOTHING if number is None or not isfinite(number) else f"{number:,.4g}"
