"""Whether a claim of robust accuracy can be believed, and where a claim comes from. No torch.

What survived an audit is an upper bound: a stronger attack may find more. So "overstated" needs
nothing but perturbations that were verified, while "believable" needs every required attack, every
indicator, and an interval that says something.
"""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from robustkit.audit.outcome import ClaimVerdict, IndicatorResult, RobustnessClaim, Stage
from robustkit.audit.wording import at_most, budget, counted, in_points, sentence, share, shares
from robustkit.errors import InputError, ProtocolError
from robustkit.protocol import Epsilon, parse_epsilon, parse_norm
from robustkit.record import Evaluation, read
from robustkit.statistics import Estimate
from robustkit.summary import SCHEMA_NAME, summarise

WIDEST = 0.2
"""an interval longer than this establishes nothing: claims 20 points apart would fit as well"""
_FORM = 'write NORM:EPSILON=ACCURACY, for example "linf:8/255=0.45"'


def judge(
    claim: RobustnessClaim,
    survived: Estimate | None,
    stages: Sequence[Stage],
    indicators: Sequence[IndicatorResult],
    *,
    widest: float = WIDEST,
) -> ClaimVerdict:
    """The verdict on a claim, with its reasons.

    *Overstated*: the claim lies above the interval of `survived`, the accuracy that all attacks
    together left at the claim's budget; None where no attack completed there. *Believable*: it
    lies within (its ends included), the interval is at most `widest` long, every required attack
    completed, and of the indicators at least one was examined and none stayed unresolved. *Not
    established*: everything else.
    """
    # by the upper end, not by the number itself: that is a sample's, and lies below the truth half
    # of the time, so that half of all true claims would be called overstated
    if survived is not None and claim.accuracy > survived.high:
        return _overstated(claim, survived, stages)
    against = _against(claim, survived, stages, indicators, widest)
    if survived is None or against:
        text = sentence(_claimed(claim), "is not established:", _first_small(against[0]))
        return ClaimVerdict("not established", text, tuple(against))
    return _believable(claim, survived, stages, indicators)


def _overstated(
    claim: RobustnessClaim, survived: Estimate, stages: Sequence[Stage]
) -> ClaimVerdict:
    by = claim.accuracy - survived.high
    claimed, high = shares(claim.accuracy, survived.high)
    reasons = [
        f"The claim of {claimed} lies above the interval: {_left(survived)}, so that the claim is "
        f"{in_points(by)} above its upper end, {high}.",
        "Every image that counts as fooled was checked: the perturbed image lies within ε, and "
        "the model gives it a wrong class.",
        *_incomplete(stages),
    ]
    if len(reasons) > 2:
        reasons.append("What did not complete could only have lowered the accuracy further.")
    text = (
        f"{_claimed(claim)} is overstated by {in_points(by)} or more: {_left(survived)}, under the "
        "attacks of this audit."
    )
    return ClaimVerdict("overstated", text, tuple(reasons), by)


def _believable(
    claim: RobustnessClaim,
    survived: Estimate,
    stages: Sequence[Stage],
    indicators: Sequence[IndicatorResult],
) -> ClaimVerdict:
    required = [stage.title for stage in stages if stage.required]
    examined = [r for r in indicators if r.status != "not examined"]
    reasons = [
        f"The claim of {share(claim.accuracy)} lies within the interval: {_left(survived)}.",
        f"Every required attack completed ({len(required)}): {at_most(required, 12)}.",
        f"{counted(len(examined), 'indicator')} of a failing attack examined, none unresolved.",
        *_not_examined(indicators),
        *[_stopped(s) for s in stages if not s.required and s.status != "complete"],
        "What survived is an upper bound: no audit rules out an attack that finds more.",
    ]
    text = (
        f"{_claimed(claim)} is believable: {_left(survived)}, every required attack completed, "
        "and no indicator of a failing attack stayed unresolved."
    )
    return ClaimVerdict("believable", text, tuple(reasons))


def _against(
    claim: RobustnessClaim,
    survived: Estimate | None,
    stages: Sequence[Stage],
    indicators: Sequence[IndicatorResult],
    widest: float,
) -> list[str]:
    """All that speaks against believing a claim that is not overstated."""
    # one reason is enough, and all are said: each names what would have to be done
    reasons = []
    if survived is None:
        reasons.append(f"No attack completed at {budget(claim.norm, claim.epsilon)}.")
    elif claim.accuracy < survived.low:
        claimed, low = shares(claim.accuracy, survived.low)
        reasons.append(
            f"The claim of {claimed} lies below the interval, which begins at {low}: the attacks "
            "that were tried did not bring the accuracy down that far; they may be too weak, or "
            "the claim is conservative."
        )
    if survived is not None and survived.high - survived.low > widest:
        low, high = shares(survived.low, survived.high)
        reasons.append(
            f"With {counted(survived.n, 'image')} the interval reaches from {low} to {high}: any "
            f"claim in it would fit as well. At most {in_points(widest)} from end to end are asked "
            "for; audit more images."
        )
    reasons += _incomplete(stages)
    if not any(stage.required for stage in stages):
        reasons.append("No attack that a verdict needs was run.")
    if unresolved := [r for r in indicators if r.status == "unresolved"]:
        stay = "indicator stayed" if len(unresolved) == 1 else "indicators stayed"
        names = at_most([_with_number(r) for r in unresolved])
        reasons.append(sentence(f"{len(unresolved)} {stay} unresolved: {names}"))
    if all(r.status == "not examined" for r in indicators):
        reasons.append(
            "No indicator of a failing attack was examined, so that an attack that failed would "
            "not have been noticed."
        )
    return reasons


def _incomplete(stages: Sequence[Stage]) -> list[str]:
    return [_stopped(s) for s in stages if s.required and s.status != "complete"]


def _stopped(stage: Stage) -> str:
    """Why a stage has no result, as a sentence."""
    what = "did not complete" if stage.status == "failed" else "was skipped"
    return sentence(f"{stage.title} {what}: {stage.reason or 'no reason recorded'}")


def _not_examined(indicators: Sequence[IndicatorResult]) -> list[str]:
    titles = [r.title for r in indicators if r.status == "not examined"]
    if not titles:
        return []
    return [sentence(f"{counted(len(titles), 'indicator')} not examined: {at_most(titles)}")]


def _with_number(result: IndicatorResult) -> str:
    if result.value is None or result.threshold is None or not isfinite(result.value):
        return result.title
    return f"{result.title} ({result.value:.3g}, threshold {result.threshold:.3g})"


def _claimed(claim: RobustnessClaim) -> str:
    # the quantity is named once, then only its number
    return (
        f"The claim of {share(claim.accuracy)} robust accuracy at "
        f"{budget(claim.norm, claim.epsilon)}"
    )


def _left(survived: Estimate) -> str:
    value, low, high = (share(v) for v in (survived.value, survived.low, survived.high))
    return (
        f"of {counted(survived.n, 'image')} {value} are still classified right "
        f"(95\u00a0% interval {low} to {high})"
    )


def _first_small(reason: str) -> str:
    """A reason as the end of a sentence; names of attacks keep their capital."""
    first = reason.split(" ", 1)[0]
    return reason[:1].lower() + reason[1:] if first in ("The", "No", "With") else reason


def parse_claim(text: str, source: str = "given") -> RobustnessClaim:
    """A claim from "linf:8/255=0.45" or "l2:0.5=45%".

    Raises:
        InputError: anything else; the message says which part is wrong.
    """
    threat, equals, accuracy = text.rpartition("=")
    norm, colon, size = (part.strip() for part in threat.partition(":"))
    if not equals or not colon:
        raise InputError(f"claim {text!r}: {_FORM}")
    chosen = parse_norm(norm, f"claim {text!r}")
    return RobustnessClaim(
        chosen, _budget(size, text).text, _accuracy(accuracy.strip(), text), source
    )


def _budget(size: str, text: str) -> Epsilon:
    try:
        return parse_epsilon(size, f"claim {text!r}")
    except ProtocolError as error:
        raise InputError(str(error)) from error


def _accuracy(written: str, text: str) -> float:
    try:
        value = float(written.removesuffix("%")) / (100 if written.endswith("%") else 1)
    except ValueError:
        raise InputError(f"claim {text!r}: {written!r} is no accuracy; {_FORM}") from None
    if not 0 <= value <= 1:  # NaN, too
        hint = f"; did you mean {written}%?" if 1 < value <= 100 else ""
        raise InputError(f"claim {text!r}: an accuracy lies between 0 and 1{hint}")
    return value


def claim_from(source: Evaluation | Path, size: str | None = None) -> RobustnessClaim:
    """The claim that an evaluation makes: its robust accuracy at the budget `size`.

    `source` is an evaluation, the path of its record (`.parquet`), or the path of what `robustkit
    evaluate --json` wrote, of one checkpoint. Without `size` it must have a single budget.

    Raises:
        InputError: unreadable, failed, targeted, of several checkpoints, or without that budget.
    """
    if isinstance(source, Evaluation):
        where = str(source.path or source.header["checkpoint"]["path"])
        return _claim_of(summarise(source), size, where)
    if source.suffix == ".parquet":
        return _claim_of(summarise(read(source)), size, str(source))
    return _claim_of(_one_summary(source), size, str(source))


def _one_summary(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from error
    entries = found if isinstance(found, list) else [found]
    if not all(isinstance(e, dict) and e.get("schema") == SCHEMA_NAME for e in entries):
        raise InputError(f"{path}: not a summary of evaluations ({SCHEMA_NAME})")
    if len(entries) != 1:
        raise InputError(f"{path}: {len(entries)} checkpoints; a claim is made by exactly one")
    return dict(entries[0])


def _claim_of(summary: Mapping[str, Any], size: str | None, where: str) -> RobustnessClaim:
    try:
        if summary["status"] != "complete":
            raise InputError(f"{where}: the evaluation failed, so it claims nothing")
        protocol = summary["protocol"]
        if protocol["targeted"] != "none":
            raise InputError(f"{where}: a targeted evaluation; a claim is of untargeted attacks")
        known = [(str(e["epsilon"]), float(e["accuracy"])) for e in summary["robust"]]
        text, accuracy = _at(known, size, where)
        return RobustnessClaim(parse_norm(protocol["norm"], where), text, accuracy, where)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a whole summary of an evaluation: {error!r}") from error


def _at(known: Sequence[tuple[str, float]], size: str | None, where: str) -> tuple[str, float]:
    """The budget, as the evaluation wrote it, and the accuracy there."""
    names = ", ".join(text for text, _ in known) or "none"
    if size is None:
        if len(known) != 1:
            raise InputError(f"{where}: name the budget of the claim; attacked at: {names}")
        return known[0]
    wanted = parse_epsilon(size, "the budget of the claim").value
    for text, accuracy in known:
        if parse_epsilon(text, where).value == wanted:
            return text, accuracy
    raise InputError(f"{where}: not attacked at ε = {size}; attacked at: {names}")
