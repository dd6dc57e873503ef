"""Examine a case: every indicator in rising order of cost, and a remedy for each that fires."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustkit.audit import remedies, thresholds
from robustkit.audit.case import Case
from robustkit.audit.indicators import INDICATORS, Indicator, Symptom, Unexaminable
from robustkit.audit.indicators.claims import overlapping
from robustkit.audit.outcome import Reading, Standing
from robustkit.audit.remedies import Remedy
from robustkit.errors import EvaluationFailed, UnknownName, first_line

BROKE = (EvaluationFailed, RuntimeError, TypeError, ValueError, IndexError)
"""what an unusual model may raise; it costs one reading, not the audit"""


@dataclass(frozen=True, slots=True)
class Finding:
    """A reading and the images that it fooled: all that resuming needs, as plain values."""

    reading: Reading
    fooled: tuple[str, ...] = ()
    """ids, each verified on the model at the judged budget"""


@dataclass(frozen=True, slots=True)
class Examination:
    """What the indicators said of a case."""

    findings: tuple[Finding, ...]
    remedied: Tensor
    """still right after all white-box attacks of the case and all remedies, Boolean N"""

    @property
    def readings(self) -> tuple[Reading, ...]:
        """One an indicator, in their order."""
        return tuple(f.reading for f in self.findings)


def examine(
    case: Case,
    limits: Mapping[str, float | bool] | None = None,
    done: Callable[[Finding], None] = lambda finding: None,
    known: Mapping[str, Finding] | None = None,
    begin: Callable[[Indicator], None] = lambda indicator: None,
) -> Examination:
    """Read every indicator, and let remedies answer those that fire.

    Args:
        case: the network, its images and what attacks did to them.
        limits: thresholds by indicator, above the shipped ones; False leaves one out.
        done: told each finding as soon as it is there, so that it can be kept.
        known: findings of an interrupted examination of the same case, by indicator.
        begin: told each indicator before it is worked out.

    Raises:
        UnknownName: a threshold for no indicator.
    """
    shipped: dict[str, float | bool] = dict(thresholds.load())
    for name in limits or {}:
        if name not in shipped:
            raise UnknownName("threshold", name, shipped)
    bench = _Bench(case, shipped | dict(limits or {}))
    findings = []
    for indicator in INDICATORS:
        finding = (known or {}).get(indicator.name)
        if finding is None:
            begin(indicator)
            finding = bench.read(indicator)
            done(finding)
        findings.append(finding)
    fooled = {i for finding in findings for i in finding.fooled}
    doubted = case.plain if case.white is None else case.white & case.plain
    left = torch.tensor([i not in fooled for i in case.ids], dtype=torch.bool)
    return Examination(tuple(findings), doubted & left)


@dataclass(slots=True)
class _Bench:
    """Remedies that were tried already need not be tried again on the same images."""

    case: Case
    limits: Mapping[str, float | bool]
    tried: dict[Remedy, Tensor] = field(default_factory=dict)
    fooled: dict[Remedy, Tensor] = field(default_factory=dict)

    def read(self, indicator: Indicator) -> Finding:
        threshold = self.limits[indicator.name]
        if threshold is False:
            return self._unread(indicator, "switched off by a threshold of false")
        limit = float(threshold)
        try:
            symptom = indicator.look(self.case, limit)
        except Unexaminable as error:
            return self._unread(indicator, str(error))
        except BROKE as error:
            what = "plain attack" if self.case.failed else "model"
            return self._unread(indicator, f"the {what} broke off: {first_line(error)}")
        if not indicator.fired(symptom.value, limit):
            # what looking has fooled counts, whether or not it is enough to fire
            return self._finding(indicator, symptom, limit, "quiet", self._caught(symptom))
        return self._treated(indicator, symptom, limit)

    def _unread(self, indicator: Indicator, reason: str) -> Finding:
        reading = Reading(
            indicator.name,
            indicator.title,
            indicator.source,
            "not examined",
            fires=indicator.fires,
            evidence=reason,
        )
        return Finding(reading)

    def _caught(self, symptom: Symptom) -> Tensor:
        nothing = torch.zeros(len(self.case), dtype=torch.bool)
        return nothing if symptom.fooled is None else symptom.fooled

    def _treated(self, indicator: Indicator, symptom: Symptom, limit: float) -> Finding:
        case = self.case
        doubted = (
            case.white if indicator.doubts == "white" and case.white is not None else case.plain
        )
        fooled = self._caught(symptom) & doubted
        suspects = doubted if symptom.flagged is None else doubted & symptom.flagged
        broke = []
        for remedy in indicator.remedies:
            if remedy == "unseen":
                continue
            try:
                fooled |= self._tried(remedy, suspects & ~fooled)
            except BROKE as error:
                broke.append(f"{remedies.TITLES[remedy]} broke off: {first_line(error)}")
        before = float(doubted.double().mean())
        after = float((doubted & ~fooled).double().mean())
        if "unseen" in indicator.remedies:
            unseen = ~overlapping(case)
            after = float(doubted[unseen].double().mean()) if unseen.any() else 0.0
        lost = round((before - after) * len(case))
        # a single image may be rounding's doing, however few there are
        little = lost <= 1 or lost < float(self.limits["settled"]) * len(case)
        standing: Standing = (
            "noted" if little and not broke and indicator.remedies else "unresolved"
        )
        evidence = "; ".join([symptom.evidence, *broke])
        return self._finding(
            indicator, symptom, limit, standing, fooled, evidence, before=before, after=after
        )

    def _tried(self, remedy: Remedy, suspects: Tensor) -> Tensor:
        """Which of these images a remedy fools, of which some may be known already."""
        nothing = torch.zeros(len(self.case), dtype=torch.bool)
        tried, fooled = self.tried.get(remedy, nothing), self.fooled.get(remedy, nothing)
        rows = (suspects & ~tried).nonzero()[:, 0]
        fresh = nothing.clone()
        fresh[rows] = remedies.run(remedy, self.case, rows)
        self.tried[remedy], self.fooled[remedy] = tried | suspects, fooled | fresh
        return self.fooled[remedy] & suspects

    def _finding(
        self,
        indicator: Indicator,
        symptom: Symptom,
        limit: float,
        standing: Standing,
        fooled: Tensor,
        evidence: str = "",
        before: float | None = None,
        after: float | None = None,
    ) -> Finding:
        fired = standing != "quiet"
        reading = Reading(
            indicator.name,
            indicator.title,
            indicator.source,
            standing,
            symptom.value,
            limit,
            indicator.fires,
            evidence or symptom.evidence,
            "; ".join(remedies.TITLES[r] for r in indicator.remedies) if fired else "",
            before,
            after,
            len(self.case) if symptom.n is None else symptom.n,
        )
        ids = tuple(self.case.ids[i] for i in fooled.nonzero()[:, 0].tolist())
        return Finding(reading, ids)
