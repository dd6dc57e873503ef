"""Run every indicator in rising order of cost, and adaptive attacks for those that fire."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustkit.auditing import adaptive
from robustkit.auditing.adaptive import AdaptiveAttack
from robustkit.auditing.context import AuditContext
from robustkit.auditing.indicators import (
    INDICATORS,
    Indicator,
    IndicatorEvidence,
    NotApplicable,
    Unexaminable,
)
from robustkit.auditing.indicators.claims import overlapping
from robustkit.auditing.indicators.indicator import share
from robustkit.auditing.outcome import IndicatorResult, IndicatorStatus
from robustkit.auditing.wording import shares
from robustkit.errors import EvaluationFailed, first_line
from robustkit.protocol.norms import symbol

BROKE = (EvaluationFailed, RuntimeError, TypeError, ValueError, IndexError)
"""what an unusual model may raise; it costs one result, not the audit"""


@dataclass(frozen=True, slots=True)
class IndicatorRun:
    """A result and the images that it fooled: all that resuming needs, as plain values."""

    result: IndicatorResult
    fooled: Mapping[str, int] = field(default_factory=dict)
    """by id, each verified on the model at the judged budget: the class that it is taken for then;
    -1 where a stage alone fooled it, which knows the class"""


def run_indicators(
    context: AuditContext,
    limits: Mapping[str, float],
    known: Mapping[str, IndicatorRun],
    begin: Callable[[Indicator], None],
    done: Callable[[IndicatorRun], None],
) -> None:
    """Run every indicator, and let adaptive attacks answer those that fire.

    Args:
        context: the network, its images and what attacks did to them.
        limits: thresholds by indicator, see `thresholds.checked`.
        known: runs of an interrupted audit of the same context, by indicator.
        begin: told each other indicator before it is worked out.
        done: told its run as soon as it is there, so that it can be kept.
    """
    runner = _IndicatorRunner(context, limits)
    for indicator in INDICATORS:
        if indicator.name not in known:
            begin(indicator)
            done(runner.run(indicator))


@dataclass(slots=True)
class _IndicatorRunner:
    """An adaptive attack is not tried again on images that it met for another indicator."""

    context: AuditContext
    limits: Mapping[str, float]
    tried: dict[AdaptiveAttack, Tensor] = field(default_factory=dict)
    fooled: dict[AdaptiveAttack, Tensor] = field(default_factory=dict)

    def run(self, indicator: Indicator) -> IndicatorRun:
        limit = self.limits[indicator.name]
        if why := indicator.unasked(self.context.norm):
            return IndicatorRun(indicator.without_result(why, "not applicable"))
        try:
            evidence = indicator.look(self.context, limit)
        except NotApplicable as error:
            return IndicatorRun(indicator.without_result(str(error), "not applicable"))
        except Unexaminable as error:
            return IndicatorRun(indicator.without_result(str(error)))
        except BROKE as error:
            what = "plain attack" if self.context.failed else "model"
            reason = f"the {what} failed: {first_line(error)}"
            return IndicatorRun(indicator.without_result(reason))
        if not indicator.fired(evidence.value, limit):
            # what looking has fooled counts, whether or not it is enough to fire
            return self._run(indicator, evidence, limit, "passed", self._caught(evidence))
        return self._treated(indicator, evidence, limit)

    def _caught(self, evidence: IndicatorEvidence) -> Tensor:
        nothing = torch.zeros(len(self.context), dtype=torch.bool)
        return nothing if evidence.fooled is None else evidence.fooled

    def _treated(
        self, indicator: Indicator, evidence: IndicatorEvidence, limit: float
    ) -> IndicatorRun:
        context, doubted = self.context, self._left()
        # only what the other attacks left counts: the question is whether they missed something
        caught = self._caught(evidence) & doubted
        suspects = doubted if evidence.flagged is None else doubted & evidence.flagged
        fooled = caught & suspects
        kinds = self._kinds(indicator)
        said = [evidence.sentence, *self._beyond_plain()]
        if indicator.adaptive_attacks and not kinds:
            said.append(f"no adaptive attack is made for {symbol(context.norm)}")
        answered = bool(kinds) or indicator.attacks
        for kind in kinds:
            if kind == "unseen":
                continue
            try:
                fooled |= self._tried(kind, suspects & ~fooled)
            except BROKE as error:
                answered = False
                said.append(f"{adaptive.TITLES[kind]} failed: {first_line(error)}")
        before = float(doubted.double().mean())
        after = float((doubted & ~fooled).double().mean())
        # no attack at all: accuracy on the unseen images stands in for "after"
        if "unseen" in kinds:
            unseen = ~overlapping(context)
            after = float(doubted[unseen].double().mean()) if unseen.any() else 0.0
        lost = round((before - after) * len(context))
        # a single image may be rounding's doing, however few there are
        little = lost <= 1 or lost < self.limits["settled"] * len(context)
        status: IndicatorStatus = "resolved" if little and answered else "unresolved"
        # what looking has fooled elsewhere counts, too, and says nothing of what fired
        fooled = fooled | caught
        told = "; ".join(said)
        return self._run(
            indicator, evidence, limit, status, fooled, told, before=before, after=after
        )

    def _left(self) -> Tensor:
        """What the audit's attacks by gradients left: whether they missed anything is asked of it.

        The plain evaluation alone may have failed where others, on other losses, did not.
        """
        context = self.context
        return context.plain if context.white is None else context.plain & context.white

    def _kinds(self, indicator: Indicator) -> list[AdaptiveAttack]:
        """The adaptive attacks that answer an indicator and are made for the threat."""
        return adaptive.made_for(self.context.norm, indicator.adaptive_attacks)

    def _beyond_plain(self) -> list[str]:
        """That the plain evaluation alone left more; nothing where it did not."""
        plain, left = self.context.plain, self._left()
        if plain.equal(left):
            return []
        alone, all_ = shares(share(plain), share(left))
        return [f"the plain evaluation left {alone}, all white-box attacks together {all_}"]

    def _tried(self, kind: AdaptiveAttack, suspects: Tensor) -> Tensor:
        """Which of these images an adaptive attack fools, of which some may be known already."""
        nothing = torch.zeros(len(self.context), dtype=torch.bool)
        tried, fooled = self.tried.get(kind, nothing), self.fooled.get(kind, nothing)
        rows = (suspects & ~tried).nonzero()[:, 0]
        fresh = nothing.clone()
        fresh[rows] = adaptive.run_adaptive_attack(kind, self.context, rows)
        self.tried[kind], self.fooled[kind] = tried | suspects, fooled | fresh
        return self.fooled[kind] & suspects

    def _run(
        self,
        indicator: Indicator,
        evidence: IndicatorEvidence,
        limit: float,
        status: IndicatorStatus,
        fooled: Tensor,
        sentence: str = "",
        before: float | None = None,
        after: float | None = None,
    ) -> IndicatorRun:
        fired = status != "passed"
        kinds = self._kinds(indicator)
        result = IndicatorResult(
            indicator.name,
            indicator.title,
            indicator.source,
            status,
            evidence.value,
            limit,
            indicator.fires,
            sentence or evidence.sentence,
            "; ".join(adaptive.TITLES[kind] for kind in kinds) if fired else "",
            before,
            after,
            len(self.context) if evidence.n is None else evidence.n,
        )
        context, rows = self.context, fooled.nonzero()[:, 0]
        taken_for = zip(rows.tolist(), context.taken_for[rows].tolist(), strict=True)
        return IndicatorRun(result, {context.ids[row]: label for row, label in taken_for})
