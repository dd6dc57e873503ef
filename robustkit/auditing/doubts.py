"""What speaks against believing a claim, however many images there are. No torch."""

from bisect import bisect_left
from collections.abc import Sequence
from math import isfinite

from robustkit.auditing.outcome import IndicatorResult, Stage
from robustkit.auditing.wording import at_most, counted, sentence, tolerance
from robustkit.statistics.estimate import MOST_IMAGES

MISSED = 0.05
"""how often the first images may fail to show what an adaptive attack does to all"""


def against(
    stages: Sequence[Stage], indicators: Sequence[IndicatorResult], delta: float, looked: int
) -> list[str]:
    """The reasons, a sentence each; none where nothing does."""
    # one reason is enough, and all are said: each names what would have to be done
    reasons = incomplete(stages)
    if not any(stage.required for stage in stages):
        reasons.append("No attack that a verdict needs was run.")
    if unresolved := [r for r in indicators if r.status == "unresolved"]:
        stay = "indicator stayed" if len(unresolved) == 1 else "indicators stayed"
        names = at_most([_with_number(r) for r in unresolved])
        reasons.append(sentence(f"{len(unresolved)} {stay} unresolved: {names}"))
    unseen = [r for r in indicators if r.status == "not examined"]
    if not any(r.examined for r in indicators):
        reasons.append(
            "No indicator of a failing attack was examined, so that an attack that failed would "
            "not have been noticed."
        )
    elif few := too_few(looked, delta):
        reasons.append(f"The indicators were examined on {few}.")
    if unseen and len(unseen) < len(indicators):
        why = at_most([f"{r.title} ({r.evidence})" if r.evidence else r.title for r in unseen], 3)
        reasons.append(
            sentence(f"{counted(len(unseen), 'indicator')} could not be examined: {why}")
        )
    return reasons


def too_few(looked: int, delta: float) -> str:
    """Of how few images indicators say nothing, and how many it takes; "" where they are enough."""
    if looked >= (least := least_looks(delta)):
        return ""
    return (
        f"{counted(looked, 'image')}: it takes {least:,} to notice that an attack which they would "
        f"have called for takes {tolerance(delta)}"
    )


def least_looks(delta: float) -> int:
    """Images of which an attack that takes `delta` of all fools more than one, at 95 %.

    One image does not keep an indicator unresolved (`auditing/indicators/run.py`), since it may be
    rounding's doing.
    """

    def notices(n: int) -> bool:
        return (1 - delta) ** n + n * delta * (1 - delta) ** (n - 1) <= MISSED

    return bisect_left(range(1, MOST_IMAGES), True, key=notices) + 1


def incomplete(stages: Sequence[Stage]) -> list[str]:
    """Why required stages have no result, a sentence each."""
    return [stopped(s) for s in stages if s.required and s.status != "complete"]


def stopped(stage: Stage) -> str:
    """Why a stage has no result, as a sentence."""
    what = "did not complete" if stage.status == "failed" else "was skipped"
    return sentence(f"{stage.title} {what}: {stage.reason or 'no reason recorded'}")


def not_applicable(indicators: Sequence[IndicatorResult]) -> list[str]:
    """That indicators do not apply, and why: one sentence, or none."""
    found = [r for r in indicators if r.status == "not applicable"]
    if not found:
        return []
    why = at_most([f"{r.title} ({r.evidence})" if r.evidence else r.title for r in found])
    do = "does" if len(found) == 1 else "do"
    return [sentence(f"{counted(len(found), 'indicator')} {do} not apply: {why}")]


def _with_number(result: IndicatorResult) -> str:
    if result.value is None or result.threshold is None or not isfinite(result.value):
        return result.title
    return f"{result.title} ({result.value:.3g}, threshold {result.threshold:.3g})"
