"""Numbers and values as a reader meets them."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from robustkit.analysis.outcome import Judgement, Panel
from robustkit.figures import level_text
from robustkit.parsing import ends_in_percent, in_percent
from robustkit.record import MeanPasses
from robustkit.statistics import Comparison, Estimate
from robustkit.statistics.comparison import faithful
from robustkit.summary import attack_labels

if TYPE_CHECKING:
    from robustkit.analysis.leaderboard import BoardRow  # slow to import

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


def with_interval(estimate: Estimate) -> str:
    """A share with its interval: '81.8 % (67.0 to 90.9)'."""
    return f"{percent(estimate.value)} ({interval(estimate)})"


def curves_in_words(panel: Panel) -> str:
    """A panel's curves for those who cannot see them."""
    told = []
    for line in panel.lines:
        levels = [level_text(value.level, panel.percent) for value in line.values]
        shares = [with_interval(value.estimate) for value in line.values]
        each = [f"{share} at {level}" for share, level in zip(shares, levels, strict=True)]
        told += [f"{line.method}: {', '.join(each)}."] if each else []
    return " ".join(told)


def board_in_words(rows: Sequence["BoardRow"]) -> str:
    """The rows of a leaderboard for those who cannot see its curves."""
    return " ".join(
        f"{row.name}: {percent(row.clean.value)} clean"
        + "".join(f", {percent(e.value)} at ε = {level}" for level, e in row.robust.items())
        + "."
        for row in rows
    )


def difference(estimate: Estimate, delta: float | None = None) -> str:
    """A difference of shares in points, with its sign; `delta` is what counts as none."""
    return signed(estimate.value, _digits(estimate, delta))


def difference_ends(estimate: Estimate, delta: float | None = None) -> str:
    """The ends of its interval in points."""
    digits = _digits(estimate, delta)
    return f"{tenths(estimate.low, digits)} to {tenths(estimate.high, digits)}"


def in_points(comparison: Comparison) -> str:
    """The difference of a comparison in points."""
    found = comparison.difference
    return NOTHING if found is None else difference(found, comparison.delta)


def ends(comparison: Comparison) -> str:
    """The ends of its simultaneous interval in points."""
    found = comparison.difference
    return NOTHING if found is None else difference_ends(found, comparison.delta)


def with_ends(comparison: Comparison) -> str:
    """The difference of a comparison in points, and its interval."""
    return f"{in_points(comparison)} ({ends(comparison)})"


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


def _digits(difference: Estimate, delta: float | None) -> int:
    """Digits of points by which the interval is seen to lie on its side of 0 and of ±Δ."""
    mark = delta or 0.0
    found = [end for end in (difference.low, difference.high) if isfinite(end)]
    return _faithful([(100 * end, 100 * at) for end in found for at in (-mark, 0.0, mark)], 1)


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
