"""Whether a claim of robust accuracy can be believed, and where a claim comes from. No torch.

What survived an audit is an upper bound: a stronger attack may find more. So "overstated" needs
nothing but perturbations that were verified, while "believable" needs every required attack, every
indicator, and so many images that a claim too high by Δ would have been noticed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from robustkit.auditing.doubts import against, incomplete, not_applicable, stopped
from robustkit.auditing.outcome import (
    PLAIN_CLAIM,
    ClaimVerdict,
    IndicatorResult,
    RobustnessClaim,
    Stage,
)
from robustkit.auditing.stored import of_one_set
from robustkit.auditing.wording import (
    at_most,
    budget,
    counted,
    least_points,
    sentence,
    shares,
    tolerance,
)
from robustkit.errors import InputError, ProtocolError
from robustkit.files import read_json
from robustkit.parsing import in_percent
from robustkit.protocol import Epsilon, parse_epsilon, parse_norm
from robustkit.record import Evaluation, read
from robustkit.statistics import Estimate
from robustkit.statistics.estimate import MOST_IMAGES, images_to_settle
from robustkit.summary import SCHEMA_NAME, summarise

_FORM = 'write NORM:EPSILON=ACCURACY, for example "linf:8/255=0.45"'


def judge(
    claim: RobustnessClaim,
    survived: Estimate | None,
    stages: Sequence[Stage],
    indicators: Sequence[IndicatorResult],
    *,
    delta: float,
    images: int,
    looked: int,
    available: int | None = None,
) -> ClaimVerdict:
    """The verdict on a claim, with its reasons.

    *Overstated*: the interval of `survived`, the accuracy that all attacks together left at the
    claim's budget, ends below the claim. *Believable*: it begins above the claim less `delta`, and
    not above the claim plus `delta`; every required attack completed; every indicator that applies
    was examined, on enough images, and none stayed unresolved. *Not established*: everything else.

    Both may hold of many images: a claim that is proved to be too high, and by less than `delta`.
    It is overstated, since that is proved, and the reasons say by how little.

    `survived` is None where no attack completed. Its interval should be exact (Clopper and Pearson
    1934) with 2.5 % on either side: then of claims that lie `delta` or more above the truth at most
    2.5 % are called believable, and of true ones at most 2.5 % overstated. With Wilson's interval
    it would be 5 % of true claims near 100 % (`tests/benchmarks/verdicts.py`).

    Args:
        claim: what is judged.
        survived: see above.
        stages: what was run.
        indicators: what was looked for.
        delta: by how much less a claim may lie above the truth and still be believed, a share.
        images: how many were audited.
        looked: on how many of them indicators were examined.
        available: how many the data set has; None if unknown.
    """
    none = f"no attack completed on the {counted(images, 'image')}"
    if claim.number is None:
        text = sentence(
            f"No claim was given and the plain evaluation, {_plain(claim)}, did not complete, so "
            f"that nothing is established: {none if survived is None else _left(survived)}"
        )
        reasons = [stopped(s) for s in stages if s.status != "complete"]
        reasons += against(stages, indicators, delta, looked)
        return ClaimVerdict("not established", text, tuple(dict.fromkeys(reasons)), delta)
    # by the upper end, not by the number itself: that is a sample's, and lies below the truth half
    # of the time, so that half of all true claims would be called overstated
    if survived is not None and survived.high < claim.accuracy:
        return _overstated(claim, survived, stages, delta)
    if survived is None:
        reasons = [sentence(none), *against(stages, indicators, delta, looked)]
        text = sentence(_claimed(claim), "is not established:", none)
        return ClaimVerdict("not established", text, tuple(reasons), delta)
    undecided = _undecided(claim, survived, delta, available)
    doubted = [
        *_conservative(claim, survived, delta),
        *against(stages, indicators, delta, looked),
    ]
    if undecided is None and not doubted:
        return _believable(claim, survived, stages, indicators, delta, looked)
    short = undecided.short if undecided else f"but {_first_small(doubted[0])}"
    return ClaimVerdict(
        "not established",
        sentence(f"{_claimed(claim)} is not established: {_left(survived)},", short),
        (*(undecided.reasons if undecided else ()), *doubted),
        delta,
        needed=undecided.needed if undecided else None,
    )


def believed_above(claim: RobustnessClaim, delta: float) -> float:
    """The claim less `delta`, above which the interval of what survived must begin."""
    # 0.48 − 0.03 is not quite 0.45, and sentences show as many digits as tell numbers apart
    return round(claim.accuracy - delta, 12)


def _overstated(
    claim: RobustnessClaim, survived: Estimate, stages: Sequence[Stage], delta: float
) -> ClaimVerdict:
    by = claim.accuracy - survived.high
    claimed, *left = shares(claim.accuracy, survived.low, survived.value, survived.high)
    reasons = [
        f"The claim of {claimed} lies above the interval, {least_points(by)} or more above its "
        f"upper end, {left[-1]}.",
        "Every image that counts as fooled was verified: the perturbed image lies within ε, and "
        "the model misclassifies it.",
    ]
    if survived.low > believed_above(claim, delta):
        reasons.append(
            f"It is overstated by less than Δ\u00a0=\u00a0{tolerance(delta)}: the interval begins "
            "above the claim less Δ. So small a difference may not matter, but it is there."
        )
    if missing := incomplete(stages):
        reasons += [*missing, "What did not complete could only have lowered the accuracy further."]
    text = (
        f"{_claimed(claim, claimed)} is overstated by {least_points(by)} or more: "
        f"{_left(survived, left)}, under the attacks of this audit."
    )
    return ClaimVerdict("overstated", text, tuple(reasons), delta, by)


def _believable(
    claim: RobustnessClaim,
    survived: Estimate,
    stages: Sequence[Stage],
    indicators: Sequence[IndicatorResult],
    delta: float,
    looked: int,
) -> ClaimVerdict:
    required = [stage.title for stage in stages if stage.required]
    examined = [r for r in indicators if r.examined]
    low, least = shares(survived.low, believed_above(claim, delta))
    reasons = [
        f"The interval begins at {low}, above the claim less Δ, {least}: if the claim is too high, "
        f"then by less than Δ\u00a0=\u00a0{tolerance(delta)}.",
        f"Every required attack completed ({len(required)}): {at_most(required, 12)}.",
        f"{counted(len(examined), 'indicator')} of a failing attack examined on "
        f"{counted(looked, 'image')}, none unresolved.",
        *not_applicable(indicators),
        *[stopped(s) for s in stages if not s.required and s.status != "complete"],
        "What survived is an upper bound: no audit rules out an attack that finds more.",
    ]
    if claim.accuracy <= delta:
        reasons.insert(1, "A claim of no more than Δ is believed of any network: it says little.")
    text = (
        f"{_claimed(claim)} is believable within {tolerance(delta)}: {_left(survived)}, every "
        "required attack completed, and no indicator of a failing attack stayed unresolved."
    )
    return ClaimVerdict("believable", text, tuple(reasons), delta)


class _Undecided(NamedTuple):
    """Why too few images say nothing, and how many would."""

    short: str
    """the end of the verdict's sentence"""
    reasons: tuple[str, ...]
    needed: int | None


def _undecided(
    claim: RobustnessClaim, survived: Estimate, delta: float, available: int | None
) -> _Undecided | None:
    """What is missing where the interval reaches from the claim less `delta` or below to the claim.

    None where it does not.
    """
    least, seen = believed_above(claim, delta), survived.value
    if survived.low > least:
        return None
    needed = images_to_settle(seen, above=least, below=claim.accuracy)
    low, high, bound, claimed = shares(survived.low, survived.high, least, claim.accuracy)
    reasons = [
        f"The interval, {low} to {high}, begins below the claim less "
        f"Δ\u00a0=\u00a0{tolerance(delta)}, {bound}, so that the claim may be too high by more "
        f"than that, and does not end below the claim, {claimed}, so that it may be true."
    ]
    many = counted(needed, "image") if needed else f"more than {MOST_IMAGES:,} images"
    if available is not None and (needed is None or needed > available):
        many += f", more than the {available:,} of the data set,"
    side = _side(seen, least, claim.accuracy)
    reasons.append(f"If the same share survives, {many} settle it: {side}.")
    short = (
        f"which does not decide it within {tolerance(delta)}; {many} would, if the same share "
        "survives"
    )
    return _Undecided(short, tuple(reasons), needed)


def _side(seen: float, least: float, claimed: float) -> str:
    """How a claim would be judged on many images of which the share `seen` survives."""
    if seen >= claimed:
        return "it would be believable"
    if seen <= least:
        return "it would be overstated"
    low, value, high = shares(least, seen, claimed)
    return (
        f"{value} lies in the indifference zone from {low} to {high}, where the claim is too high, "
        "but by less than Δ, and either verdict may come"
    )


def _conservative(claim: RobustnessClaim, survived: Estimate, delta: float) -> list[str]:
    """That attacks left far more than the claim: it may know of better ones."""
    if survived.low <= claim.accuracy + delta:
        return []
    claimed, low = shares(claim.accuracy, survived.low)
    return [
        f"The claim of {claimed} lies more than {tolerance(delta)} below the interval, which "
        f"begins at {low}: the attacks that were tried did not bring the accuracy down that far; "
        "they may be too weak, or the claim is conservative."
    ]


def _claimed(claim: RobustnessClaim, told: str = "") -> str:
    """The claim in words; `told` is its number, where others that stand beside it decide on digits.

    The quantity is named once, then only its number.
    """
    quantity = f"{told or in_percent(claim.accuracy)} robust accuracy"
    at = f"at {budget(claim.norm, claim.epsilon)}"
    if PLAIN_CLAIM in claim.source:
        return f"The {quantity} that plain {_plain(claim)} finds {at}"
    return f"The claim of {quantity} {at}"


def _plain(claim: RobustnessClaim) -> str:
    """The attack of the plain evaluation, which makes the claim where the user makes none."""
    return claim.source.partition(",")[0].removeprefix("plain ").replace("pgd", "PGD")


def _left(survived: Estimate, told: Sequence[str] = ()) -> str:
    """What survived in words; `told` are low end, value and high end, likewise."""
    low, value, high = told or map(in_percent, (survived.low, survived.value, survived.high))
    low, high = (end.removesuffix("\u00a0%") for end in (low, high))
    return (
        f"of {counted(survived.n, 'image')}, {value} are still classified correctly "
        f"(95\u00a0% CI {low} to {high})"
    )


def _first_small(reason: str) -> str:
    """A reason as the end of a sentence; names of attacks keep their capital."""
    first = reason.split(" ", 1)[0]
    return reason[:1].lower() + reason[1:] if first in ("The", "No", "With") else reason


def parse_claim(text: str) -> RobustnessClaim:
    """A claim from "linf:8/255=0.45" or "l2:0.5=45%".

    Raises:
        InputError: anything else; the message says which part is wrong.
    """
    threat, equals, accuracy = text.rpartition("=")
    norm, colon, size = (part.strip() for part in threat.partition(":"))
    if not equals or not colon:
        raise InputError(f"claim {text!r}: {_FORM}")
    chosen = parse_norm(norm, f"claim {text!r}")
    right = _accuracy(accuracy.strip(), text)
    return RobustnessClaim(chosen, _budget(size, text).text, right, "given")


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
        InputError: unreadable, failed, targeted, by transfer, of several checkpoints, or without
            that budget.
    """
    summary, where = _summary_of(source)
    return _claim_of(summary, size, where)


def claimed_elsewhere(
    source: Evaluation | Path, checkpoint: Mapping[str, Any], data: Mapping[str, Any]
) -> list[str]:
    """Warnings where an evaluation's claim is of other weights or images than those of a header."""
    summary, where = _summary_of(source)
    told = []
    with _whole(where):
        network, images = summary["checkpoint"], summary["data"]
        # weights in memory have digests of their own, and older summaries that of the file alone
        alike = (network["sha256"] is None) == (checkpoint["sha256"] is None)
        key = "weights" if network.get("weights") else "sha256"
        if alike and network[key] != checkpoint[key]:
            told.append(f"the claim in {where} is of other weights than audited: {network['path']}")
        same = of_one_set(_images_of(source) or images, data)
        what = f"{images['name']} {images['split']} ({images['n']:,} images)"
        if same is None:
            told.append(f"the claim in {where} may be of other images than audited: {what}")
        elif not same:
            told.append(f"the claim in {where} is of other images than audited: {what}")
    return told


def _images_of(source: Evaluation | Path) -> Mapping[str, Any]:
    """What a record says of its images, with their ids; empty for a summary, which has none."""
    if isinstance(source, Path):
        if source.suffix != ".parquet":
            return {}
        source = read(source)
    return {**source.header["data"], "ids": source.table["sample"].to_pylist()}


def _summary_of(source: Evaluation | Path) -> tuple[Mapping[str, Any], str]:
    """What an evaluation found, and how it is called."""
    if isinstance(source, Evaluation):
        return summarise(source), str(source.path or source.header["checkpoint"]["path"])
    found = summarise(read(source)) if source.suffix == ".parquet" else _one_summary(source)
    return found, str(source)


def _one_summary(path: Path) -> Mapping[str, Any]:
    found = read_json(path)
    entries = found if isinstance(found, list) else [found]
    if not all(isinstance(e, dict) and e.get("schema") == SCHEMA_NAME for e in entries):
        raise InputError(f"{path}: not a summary of evaluations ({SCHEMA_NAME})")
    if len(entries) != 1:
        raise InputError(f"{path}: {len(entries)} checkpoints; a claim is made by exactly one")
    return dict(entries[0])


def _claim_of(summary: Mapping[str, Any], size: str | None, where: str) -> RobustnessClaim:
    with _whole(where):
        if summary["status"] != "complete":
            raise InputError(f"{where}: the evaluation failed, so it claims nothing")
        protocol = summary["protocol"]
        if protocol["targeted"] != "none":
            raise InputError(f"{where}: a targeted evaluation; a claim is of untargeted attacks")
        if (other := summary.get("surrogate")) is not None:
            by = f"{where}: a transfer attack, crafted on {other['path']}"
            raise InputError(f"{by}; a claim is of attacks on the network itself")
        known = [(str(e["epsilon"]), float(e["accuracy"])) for e in summary["robust"]]
        text, accuracy = _at(known, size, where)
        return RobustnessClaim(parse_norm(protocol["norm"], where), text, accuracy, where)


@contextmanager
def _whole(where: str) -> Iterator[None]:
    """Raises InputError where a summary lacks something."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a whole summary of an evaluation: {error!r}") from error


def _at(known: Sequence[tuple[str, float]], size: str | None, where: str) -> tuple[str, float]:
    """The budget, as the evaluation wrote it, and the accuracy there."""
    names = ", ".join(text for text, _ in known) or "none"
    if size is None:
        if len(known) != 1:
            raise InputError(f"{where}: name the budget of the claim; attacked at: {names}")
        return known[0]
    wanted = parse_epsilon(size, "the budget of the claim").exact
    for text, accuracy in known:
        if parse_epsilon(text, where).exact == wanted:
            return text, accuracy
    raise InputError(f"{where}: not attacked at ε = {size}; attacked at: {names}")
