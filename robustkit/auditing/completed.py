"""What completed of an audit: its stages, their attacks, its indicators. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustkit.auditing.outcome import Audit, Family, IndicatorResult, Level, Stage
from robustkit.parsing import parse_toml


@dataclass(frozen=True, slots=True)
class CompletedAudit:
    """An audit without what failed, was skipped or was not examined."""

    audit: Audit
    """all of it"""
    stages: tuple[Stage, ...]
    """those that completed"""
    attacks: tuple[Mapping[str, Any], ...]
    """every attack of their protocols, as its table"""

    def family(self, *families: Family) -> list[Stage]:
        """Completed stages of these families."""
        return [stage for stage in self.stages if stage.family in families]

    def kinds(self, kinds: Sequence[str]) -> list[str]:
        """Which of these kinds of attack completed."""
        found = dict.fromkeys(str(a.get("kind")) for a in self.attacks)
        return [kind for kind in found if kind in kinds]

    def indicators(self, names: Sequence[str]) -> list[IndicatorResult]:
        """Those of these indicators that were examined."""
        results = (r for r in self.audit.indicators if r.name in names)
        return [r for r in results if r.examined]

    def largest(self, key: str) -> int:
        """The largest value of a whole number over all attacks: restarts, draws."""
        values = [a[key] for a in self.attacks if type(a.get(key)) is int]
        return max(values, default=0)

    @property
    def searches(self) -> list[tuple[str, list[Mapping[str, Any]]]]:
        """Of each stage how budgets were searched, "" where there were not several, and attacks."""
        files = [self.audit.protocols.get(stage.name, "") for stage in self.stages]
        return [(search_of(toml), attacks_of(toml)) for toml in files]

    @property
    def levels(self) -> list[Level]:
        """Accuracy at every budget that was attacked, by rising budget."""
        return sorted(self.audit.robust, key=lambda level: level.value)

    def lowest_by(self, kinds: Sequence[str]) -> float | None:
        """Lowest accuracy at the judged budget by stages of nothing but these kinds.

        Of stages that attacked every image: others are given what was fooled before them.
        """
        found = [
            level.accuracy.value
            for stage in self.stages
            if stage.images == self.audit.clean.n
            and (own := attacks_of(self.audit.protocols.get(stage.name, "")))
            and all(a.get("kind") in kinds for a in own)
            for level in stage.robust
            if level.epsilon == self.audit.epsilon
        ]
        return min(found, default=None)


def completed(audit: Audit) -> CompletedAudit:
    """What completed of an audit."""
    stages = tuple(s for s in audit.stages if s.status == "complete")
    attacks = tuple(a for s in stages for a in attacks_of(audit.protocols.get(s.name, "")))
    return CompletedAudit(audit, stages, attacks)


def attacks_of(toml: str) -> list[Mapping[str, Any]]:
    """The attacks of a protocol's file; none where it cannot be read."""
    try:
        found = parse_toml(toml).get("attack", [])
    except ValueError:
        return []
    return [a for a in found if isinstance(a, dict)] if isinstance(found, list) else []


def search_of(toml: str) -> str:
    """How a protocol's file says that its budgets are searched; "" where it says nothing."""
    try:
        return str(parse_toml(toml).get("search", ""))
    except ValueError:
        return ""


def target_of(toml: str) -> str:
    """The target of a protocol's file; "none" where attacks are untargeted or it cannot be read."""
    try:
        return str(parse_toml(toml).get("target", "none"))
    except ValueError:
        return "none"
