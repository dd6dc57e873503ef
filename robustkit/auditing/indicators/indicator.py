"""What an indicator is, and what it says of one context."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from robustkit.auditing.adaptive import AdaptiveAttack
from robustkit.auditing.context import AuditContext
from robustkit.auditing.outcome import IndicatorResult, IndicatorStatus
from robustkit.protocol import BALLS, Norm


class Unexaminable(Exception):
    """What an indicator needs was asked for and did not come; says why."""


class NotApplicable(Exception):
    """Nobody gave what an indicator needs, or the network cannot be asked; says why."""


@dataclass(frozen=True, slots=True)
class IndicatorEvidence:
    """What an indicator saw."""

    value: float
    sentence: str
    flagged: Tensor | None = None
    """images that are suspect, Boolean N on the CPU; None for all"""
    fooled: Tensor | None = None
    """images that looking has fooled at the judged budget, verified, likewise"""
    n: int | None = None
    """images that it looked at; None for all"""


@dataclass(frozen=True, slots=True)
class Indicator:
    """One sign that a robustness number is not what it seems."""

    name: str
    title: str
    """what it asks, in words"""
    source: str
    """who defined it, and what was chosen here"""
    look: Callable[[AuditContext, float], IndicatorEvidence]
    """of a context and the threshold; raises Unexaminable or NotApplicable"""
    adaptive_attacks: tuple[AdaptiveAttack, ...] = ()
    """tried in turn when it fires, where they are made for the threat"""
    fires: Literal["above", "below"] = "above"
    attacks: bool = False
    """whether looking is itself an attack, whose finds decide where no adaptive attack is made for
    the threat; without either, what fired stays unresolved"""
    threats: Literal["all", "gradients", "balls"] = "all"
    """of which threats it asks: of all; of those whose attacks go by gradients; or of balls alone,
    whose plain evaluation climbs the cross-entropy of points of the ball"""

    @property
    def asks_training(self) -> bool:
        """Whether it looks at the images that the network was trained on."""
        return "unseen" in self.adaptive_attacks

    def unasked(self, norm: Norm) -> str:
        """Why it does not ask of the threat; "" where it does."""
        if self.threats == "balls" and norm not in BALLS:
            return f"it needs a ball around the image and cross-entropy; the threat is {norm}"
        if self.threats == "gradients" and norm == "spatial":
            return "no attack by rotation and translation uses gradients"
        return ""

    def fired(self, value: float, threshold: float) -> bool:
        """Whether a value lies beyond the threshold; not where it equals it."""
        return value > threshold if self.fires == "above" else value < threshold

    def without_result(
        self, reason: str, status: IndicatorStatus = "not examined"
    ) -> IndicatorResult:
        """What is said of it where it was not examined, or does not apply."""
        return IndicatorResult(
            self.name, self.title, self.source, status, fires=self.fires, evidence=reason
        )


def share(mask: Tensor) -> float:
    """Part of a Boolean tensor that is True; 0 where it is empty."""
    return float(mask.double().mean()) if mask.numel() else 0.0


def counted(mask: Tensor, what: str = "images") -> str:
    """How many, as in: 3 of 200 images."""
    return f"{int(mask.sum())} of {mask.numel()} {what}"
