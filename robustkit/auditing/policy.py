"""Policies: what a model must reach, as a file that a pipeline enforces. No torch.

A rule about something that the audit does not know fails, and says so: nothing passes unseen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from robustkit.auditing.doubts import too_few
from robustkit.auditing.outcome import Audit, RuleResult, Stage
from robustkit.auditing.verdict import believed_above
from robustkit.auditing.wording import (
    MOST_DIGITS,
    at_most,
    budget,
    counted,
    in_points,
    listed,
    sentence,
    shares,
    tolerance,
)
from robustkit.errors import InputError, ProtocolError, UnknownName
from robustkit.files import build, read_toml
from robustkit.parsing import in_percent
from robustkit.protocol import parse_epsilon, parse_norm
from robustkit.protocol.norms import symbol
from robustkit.statistics import Comparison, Estimate
from robustkit.statistics.comparison import faithful
from robustkit.statistics.estimate import exact_lower


@dataclass(frozen=True, slots=True)
class RobustRule:
    """Accuracy under attack at a budget."""

    robust: str
    """the threat, "linf:8/255" """
    at_least: float
    confidence: float = 0.95
    """of the one-sided lower bound that must reach `at_least`"""


@dataclass(frozen=True, slots=True)
class CertifiedRule:
    """Accuracy that a bound on the network proves at a budget."""

    certified: str
    """the threat, "linf:2/255" """
    at_least: float
    confidence: float = 0.95
    """as in `RobustRule`"""


@dataclass(frozen=True, slots=True)
class AccuracyRule:
    """Accuracy without an adversary."""

    accuracy: Literal["clean", "corruptions"]
    """on the images as they are, or the mean over corruptions and severities"""
    at_least: float
    confidence: float | None = None
    """as in `RobustRule`, 0.95 if not given; the mean over corruptions has no interval"""


@dataclass(frozen=True, slots=True)
class IndicatorRule:
    """How many indicators of a failing attack may stay unresolved, of those on enough images.

    One that applies and could not be examined counts, too: it may be one of them.
    """

    unresolved_indicators: int


@dataclass(frozen=True, slots=True)
class NotWorseRule:
    """Robust accuracy beside that of another checkpoint on the same images."""

    not_worse_than: str
    """its path, or its file's name, as it was given to the audit"""
    by_more_than: float
    """a share: 0.01 is one point. The whole interval of the difference must lie above it"""


@dataclass(frozen=True, slots=True)
class VerdictRule:
    """The verdict on the claim."""

    verdict: Literal["believable", "not overstated"]
    delta: float | None = None
    """goes with "believable": within which the claim must be believable; else the plan's"""


Requirement = RobustRule | CertifiedRule | AccuracyRule | IndicatorRule | NotWorseRule | VerdictRule
_KINDS: Mapping[str, type[Requirement]] = {
    "robust": RobustRule,
    "certified": CertifiedRule,
    "accuracy": AccuracyRule,
    "unresolved_indicators": IndicatorRule,
    "not_worse_than": NotWorseRule,
    "verdict": VerdictRule,
}
"""by the key that says what is required"""


@dataclass(frozen=True, slots=True)
class Policy:
    """A title, and rules that must all hold."""

    title: str
    require: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class _PolicyFile:
    title: str
    require: Any


def read_policy(path: Path) -> Policy:
    """A policy from its TOML file.

    Raises:
        InputError: unreadable, or what `parse_policy` raises.
    """
    return parse_policy(read_toml(path), str(path))


def parse_policy(table: Mapping[str, Any], where: str) -> Policy:
    """A policy from a TOML table; `where` begins every message.

    Raises:
        InputError: an unknown key or value (with a did-you-mean), a missing one, a number out of
            range, or no rule at all: an empty policy would let everything pass.
    """
    file = build(_PolicyFile, table, where)
    entries = file.require
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{where}: a policy needs at least one [[require]]")
    rules = [_requirement(e, f"{where}: require {i}") for i, e in enumerate(entries, 1)]
    return Policy(file.title, tuple(rules))


def _requirement(entry: object, where: str) -> Requirement:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected a table, got {entry!r}")
    named = [key for key in entry if key in _KINDS]
    if not named:
        strange = next(iter(entry), "")
        raise InputError(f"{where}: {UnknownName('requirement', strange, _KINDS)}")
    if len(named) > 1:
        raise InputError(f"{where}: one rule a table, but this one has {' and '.join(named)}")
    rule = build(_KINDS[named[0]], entry, where)
    _check(rule, where)
    return rule


def _check(rule: Requirement, where: str) -> None:
    """Numbers within their range, threats readable; else InputError."""
    for key in ("at_least", "by_more_than"):
        value = getattr(rule, key, None)
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{where}: {key}: expected a share from 0 to 1, got {value!r}")
    level = getattr(rule, "confidence", None)
    if level is not None and not 0.5 <= level < 1:
        raise InputError(f"{where}: confidence: expected from 0.5 to below 1, got {level!r}")
    match rule:
        case IndicatorRule(allowed) if allowed < 0:
            raise InputError(f"{where}: unresolved_indicators: expected 0 or more")
        case VerdictRule("not overstated", delta) if delta is not None:
            raise InputError(f'{where}: delta goes with verdict = "believable"')
        case VerdictRule(_, delta) if delta is not None and not 0 < delta < 1:
            raise InputError(f"{where}: delta: expected 0.05 for 5 points, got {delta!r}")
        case RobustRule(threat) | CertifiedRule(threat):
            parse_threat(threat, where)
        case AccuracyRule("corruptions", _, confidence) if confidence is not None:
            raise InputError(
                f"{where}: the mean over corruptions has no interval; leave confidence out"
            )


def parse_threat(text: str, where: str) -> tuple[str, str]:
    """Norm and budget from "linf:8/255"."""
    norm, colon, size = (part.strip() for part in text.partition(":"))
    if not colon:
        raise InputError(f'{where}: {text!r}: write NORM:EPSILON, for example "linf:8/255"')
    try:
        return parse_norm(norm, where), parse_epsilon(size, where).text
    except ProtocolError as error:
        raise InputError(str(error)) from error


def properties(audit: Audit) -> dict[str, str]:
    """What build servers and code hosts are told of an audit beside its rules."""
    return {
        "checkpoint": str(audit.checkpoint.get("path")),
        "sha256": str(audit.checkpoint.get("sha256") or "not recorded"),
        "threat": f"{audit.norm}:{audit.epsilon}",
        "verdict": audit.verdict.word,
    }


def judge_policy(policy: Policy, audit: Audit) -> tuple[RuleResult, ...]:
    """Each rule with whether it holds and one sentence with the numbers.

    A rule about what the audit does not know fails.
    """
    return tuple(_judged(requirement, audit) for requirement in policy.require)


def _judged(requirement: Requirement, audit: Audit) -> RuleResult:
    match requirement:
        case RobustRule():
            passed, message = _robust(requirement, audit)
        case CertifiedRule():
            passed, message = _certified(requirement, audit)
        case AccuracyRule("clean"):
            level = requirement.confidence or 0.95
            passed, message = _bound(
                audit.clean, requirement.at_least, level, "are classified correctly without attack"
            )
        case AccuracyRule():
            passed, message = _corruptions(requirement, audit)
        case IndicatorRule():
            passed, message = _indicators(requirement, audit)
        case NotWorseRule():
            passed, message = _not_worse(requirement, audit)
        case VerdictRule():
            passed, message = _believed(requirement, audit)
    return RuleResult(as_written(requirement), passed, sentence(message))


def as_written(requirement: Requirement) -> str:
    """A rule as one line of a policy's file, every value spelled out."""
    pairs = ((name, getattr(requirement, name)) for name in type(requirement).__slots__)
    return ", ".join(
        f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}"
        for name, value in pairs
        if value is not None
    )


Judged = tuple[bool, str]


def _robust(rule: RobustRule, audit: Audit) -> Judged:
    norm, size = parse_threat(rule.robust, "policy")
    if norm != audit.norm:
        return False, f"the audit attacked in {symbol(audit.norm)}, not in {symbol(norm)}"
    level = next((lv for lv in audit.robust if _same(lv.epsilon, size)), None)
    if level is None:
        return False, f"no attack completed at {budget(norm, size)}, so nothing is known there"
    if not any(stage.required for stage in audit.stages):
        return False, f"no attack that a finding at {budget(norm, size)} needs was run"
    if missing := missing_at(audit, level.epsilon):
        # what survived is an upper bound; without the required attacks it bounds next to nothing
        found, names = level.accuracy, at_most([stage.title for stage in missing])
        why = f"not all required attacks completed at {budget(norm, size)} (not: {names})"
        if all(stage.status == "complete" for stage in missing):
            why = f"required attacks ran at the judged ε = {audit.epsilon} alone ({names})"
        return False, (
            f"{why}, so that the {in_percent(found.value)} of {counted(found.n, 'image')} that are "
            f"still classified correctly at {budget(norm, size)} are no finding"
        )
    what = f"are still classified correctly at {budget(norm, size)}"
    return _bound(level.accuracy, rule.at_least, rule.confidence, what)


def complete_at(audit: Audit, size: str) -> bool:
    """Whether all that a finding at a budget needs was tried there."""
    return any(s.required for s in audit.stages) and not missing_at(audit, size)


def missing_at(audit: Audit, size: str) -> list[Stage]:
    """Required stages that left nothing at a budget: not complete, or not attacked there."""
    there = audit.stages if size == audit.epsilon else audit.attacked_at(size)
    return [s for s in audit.stages if s.required and (s.status != "complete" or s not in there)]


def _certified(rule: CertifiedRule, audit: Audit) -> Judged:
    norm, size = parse_threat(rule.certified, "policy")
    if norm != audit.norm:
        return False, f"the audit's bounds are in {symbol(audit.norm)}, not in {symbol(norm)}"
    found = _at(size, [(b.epsilon, b.certified) for b in audit.certificate.levels])
    if found is None:
        why = audit.certificate.reason or "the audit has no bound at this budget"
        return False, f"nothing is certified at {budget(norm, size)}: {why}"
    what = f"are certified at {budget(norm, size)}"
    return _bound(found, rule.at_least, rule.confidence, what)


def _at(size: str, known: Sequence[tuple[str, Estimate]]) -> Estimate | None:
    """The estimate at a budget, however the budget is written: 8/256 is 1/32."""
    return next((e for text, e in known if _same(text, size)), None)


def _same(one: str, other: str) -> bool:
    return parse_epsilon(one).exact == parse_epsilon(other).exact


def lower_bound(estimate: Estimate, confidence: float) -> float:
    """One-sided lower bound of a share (Clopper and Pearson 1934): covers at least `confidence`."""
    # by twice the risk, since `exact_lower` is one end of an interval with two
    count = round(estimate.value * estimate.n)
    return exact_lower(count, estimate.n, 2 * (1 - confidence))


def _bound(estimate: Estimate, at_least: float, confidence: float, what: str) -> Judged:
    low = lower_bound(estimate, confidence)
    passed = low >= at_least
    bound, required = shares(low, at_least)
    way = "reaches" if passed else "is below"
    return passed, (
        f"{in_percent(estimate.value)} of {counted(estimate.n, 'image')} {what}; the one-sided "
        f"{100 * confidence:.6g}\u00a0% lower bound, {bound}, {way} the {required} required"
    )


def _corruptions(rule: AccuracyRule, audit: Audit) -> Judged:
    found = audit.corruptions
    if found.mean is None:
        why = found.reason or ("severities differ" if found.rows else "they were not tried")
        return False, f"nothing is known of common corruptions: {why}"
    passed = found.mean >= rule.at_least
    mean, required = shares(found.mean, rule.at_least)
    way = "reaches" if passed else "is below"
    return passed, (
        f"the mean accuracy over {counted(found.counted, 'corruption')} and their severities on "
        f"{counted(found.n, 'image')}, {mean}, {way} the {required} required"
    )


def _indicators(rule: IndicatorRule, audit: Audit) -> Judged:
    examined = [r for r in audit.indicators if r.examined]
    if not examined:
        return False, "no indicator was examined, so nothing is known of them"
    names = [result.title for result in audit.unresolved]
    unknown = [r.title for r in audit.indicators if r.status == "not examined"]
    message = (
        f"{len(names)} of {counted(len(examined), 'examined indicator')} stayed unresolved"
        f"{_these(names)}"
    )
    if unknown:
        message += (
            f", and {counted(len(unknown), 'indicator')} that could not be examined"
            f"{_these(unknown)} may be, too"
        )
    message += f"; allowed: {rule.unresolved_indicators}"
    # a single image keeps none unresolved, so that of a few images every number would hold
    if few := too_few(max(r.n for r in examined), audit.verdict.delta):
        return False, f"{message}; but they were examined on {few}"
    return len(names) + len(unknown) <= rule.unresolved_indicators, message


def _these(names: Sequence[str]) -> str:
    return f" ({at_most(names)})" if names else ""


def _not_worse(rule: NotWorseRule, audit: Audit) -> Judged:
    found = _comparison_with(rule.not_worse_than, audit.comparisons)
    if isinstance(found, str):
        return False, found
    if found.difference is None:
        why = found.reason or "no data"
        return False, f"the comparison with {rule.not_worse_than} has no result: {why}"
    if missing := [s.title for s in audit.stages if s.required and s.status != "complete"]:
        # what did not attack the audited network makes it look better than the other
        return False, (
            f"not all required attacks completed (not: {at_most(missing)}), so that the comparison "
            f"with {rule.not_worse_than} is no finding"
        )
    d, more, limit = found.difference, _fooled_since(audit), -rule.by_more_than
    passed = d.low - more >= limit
    ends = (d.value, d.low, d.high, d.low - more)
    digits = faithful([(100 * end, 100 * limit) for end in ends], 1, MOST_DIGITS)
    digits = 1 if digits == MOST_DIGITS else digits  # on the limit, but for rounding
    value, low, high, begins = (in_points(end, digits) for end in ends)
    way = "stays at or above" if passed else "reaches below"
    names = dict.fromkeys(_called(s) for s in audit.since_comparison if s.first)
    extra = (
        f", less the {in_points(more, digits)} that {listed([*names])} took from it alone, begins "
        f"at {begins} and"
    )
    written = f"−{tolerance(rule.by_more_than)}" if rule.by_more_than else tolerance(0)
    return passed, (
        f"robust accuracy less that of {rule.not_worse_than} is {value} "
        f"({100 * found.confidence:.6g}\u00a0% CI {low} to {high}, {found.unit}): the "
        f"interval{extra if more else ''} {way} {written}"
    )


def _fooled_since(audit: Audit) -> float:
    """The share of images that only what no other network met has fooled."""
    return sum(stage.first for stage in audit.since_comparison) / audit.clean.n


def _called(stage: Stage) -> str:
    return "adaptive attacks" if stage.family == "adaptive" else stage.name


def _comparison_with(name: str, comparisons: Sequence[Comparison]) -> Comparison | str:
    """The comparison with a checkpoint, by its path as given, else by its file's name.

    A sentence where there is none, or more than one.
    """
    exact = [c for c in comparisons if c.b == name]
    alike = [c for c in comparisons if PurePath(c.b).name == PurePath(name).name]
    found = exact or alike
    if not found:
        return f"the audit was not compared with {name}"
    if len(found) > 1:
        return f"the name {name} may mean {' or '.join(c.b for c in found)}; give its path"
    return found[0]


def _believed(rule: VerdictRule, audit: Audit) -> Judged:
    verdict, survived = audit.verdict, audit.survived
    found = f"the verdict is {verdict.word}: {verdict.sentence}"
    if survived is None or audit.claim.number is None:
        return False, found
    if rule.verdict == "not overstated":
        if verdict.word == "overstated":
            return False, found
        # what noise or a single step left is no sign that a claim holds
        if not any(stage.required for stage in audit.attacked_at(audit.epsilon)):
            why = "no attack that a verdict needs completed, so nothing is known of the claim"
            return False, f"{why}; {found}"
        if missing := missing_at(audit, audit.epsilon):
            names = at_most([stage.title for stage in missing])
            why = f"not all required attacks completed (not: {names}), which may lower accuracy"
            return False, f"{why} further; {found}"
        return True, found
    if verdict.word != "believable" or rule.delta is None:
        return verdict.word == "believable", found
    bound = believed_above(audit.claim, rule.delta)
    low, least = shares(survived.low, bound)
    passed = survived.low > bound
    way = "above" if passed else "not above"
    return passed, (
        f"{found.rstrip('.')}; its interval begins at {low}, {way} the claim less "
        f"{tolerance(rule.delta)}, {least}"
    )
