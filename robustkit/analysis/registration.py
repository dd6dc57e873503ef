"""Which claims were fixed before the data, and what about them was not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from robustkit.analysis.findings import ELSEWHERE, Findings
from robustkit.analysis.outcome import Amendment, Registered
from robustkit.spec import Claim
from robustkit.spec.amendments import WORDS, Change, differences

CHANCE = "chance"
RULE = "rule for the verdict"
"""what is amended, where a rule changed a verdict"""
RULES = {CHANCE: "a level at which neither method is above chance decides nothing"}
"""rules of judging that are newer than the first published results, by the name under which a
study that was asked since has them on record"""
UNKNOWN = "not known"
"""how it begins where nothing says when the claims were fixed"""
REWORDED = "Wording amended after the results were in"
"""how a note of an amended report begins; the claims say it themselves"""
AFTER = "after the results were in"
_KEYS = {"text": "wording", "source": "source", "reason": "reason", "delta": "Δ"}


@dataclass(frozen=True, slots=True)
class Registration:
    """What a study's folder or evidence has on record of the time before its data."""

    asked: Sequence[Mapping[str, Any]]
    """see `Findings.asked`"""
    known: bool
    """whether the claims were fixed before the first training, as first asked"""

    def of(self, claim: Claim) -> tuple[Registered, tuple[Amendment, ...]]:
        """How a claim stands to what was preregistered, and every change since."""
        if not self.known:
            return "not preregistered", ()
        changes = [(c, when) for c, when in self._changes() if _concerns(c, claim)]
        amendments = tuple(_amendment(change, when) for change, when in changes)
        if any(c.part == "claim" and not c.key for c, _ in changes):
            return "not preregistered", amendments
        if any(c.part != "claim" or c.key not in WORDS for c, _ in changes):
            return "amended", amendments
        return "wording amended" if changes else "preregistered", amendments

    def newer(self, rule: str) -> bool:
        """Whether a preregistered study has no record of a rule from before its data."""
        return self.known and rule not in (self.asked[0].get("rules", ()) if self.asked else ())

    def _changes(self) -> Iterator[tuple[Change, str]]:
        """All changes, and when each was made, in words."""
        for before, after in pairwise(self.asked):
            done = after.get("cells_done")
            when = AFTER if done is None else f"after {done} trainings"
            for change in differences(before, after):
                yield change, when


def registration(findings: Findings) -> Registration:
    """What the findings have on record."""
    sections = findings.provenance.items()
    told = next((keys for title, keys in sections if title.lower() == "study"), {})
    fixed = told.get("claims fixed", UNKNOWN)
    return Registration(findings.asked, not fixed.startswith(UNKNOWN) and ELSEWHERE not in fixed)


def rule_amendment(rule: str, before: str, now: str) -> Amendment:
    """A verdict that a rule changed which is newer than the data."""
    return Amendment(
        RULE,
        f"every level decides: {before}",
        f"{RULES[rule]}: {now}",
        "not on record before the first training",
    )


def _concerns(change: Change, claim: Claim) -> bool:
    """Whether a change may touch what a claim says or how it is judged."""
    match change.part:
        case "claim":
            return change.name == claim.name
        case "analysis":
            return change.name == claim.analysis
        case "method":
            return change.name in (claim.a, claim.b)
    return True


def _amendment(change: Change, when: str) -> Amendment:
    what = _KEYS.get(change.key, change.key)
    if change.part != "claim":
        what = " ".join(part for part in (change.part, change.name, what) if part)
    return Amendment(what or "claim", change.was, change.now, when)
