"""What an audit found, as plain values: `audit.json` holds it, the page draws it, neither computes.

Shares are fractions of all audited images, clean mistakes counted as wrong. Unknown is None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robustkit.corruption.published import counted
from robustkit.record import Example
from robustkit.showing import Shown
from robustkit.statistics import Comparison, Estimate

Family = Literal["floor", "white box", "black box", "transfer", "adaptive"]
"""what an attack knows: nothing but random draws, the gradients, outputs alone, another network;
or whatever an indicator that fired made the audit try"""
Done = Literal["complete", "failed", "skipped"]
IndicatorStatus = Literal["passed", "resolved", "unresolved", "not examined", "not applicable"]
"""not applicable: it needs an input that nobody gave, or asks what the network cannot be asked;
not examined: it applies, and could not be worked out"""
PLAIN_CLAIM = "run by this audit"
"""who makes the claim where the user makes none"""
NO_CLAIM = f"{PLAIN_CLAIM}, which did not complete"
"""who then makes none, either"""
BRANCHING = "branch and bound"
"""name of its stage"""
Word = Literal["overstated", "believable", "not established"]


@dataclass(frozen=True, slots=True)
class Level:
    """Accuracy at one budget."""

    epsilon: str
    """as it was written: "8/255" """
    value: float
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class Stage:
    """One protocol of the audit, in the order in which they ran."""

    name: str
    title: str
    family: Family
    required: bool
    """whether a verdict of "believable" needs it complete"""
    status: Done
    reason: str = ""
    """why it failed or was skipped"""
    robust: tuple[Level, ...] = ()
    """by this stage alone, at the budgets that it attacked; a stage that attacked only what had
    survived is given the images fooled before it"""
    so_far: Estimate | None = None
    """at the judged budget: the worst case over this stage and all before it"""
    first: int = 0
    """images that this stage fooled at the judged budget and none before it"""
    found_by: Mapping[str, int] | None = None
    """the same images by the attack within the stage that found them"""
    forward: float | None = None
    """mean passes forward an attacked image, through whichever network was asked"""
    backward: float | None = None
    seconds: float | None = None
    digest: str = ""
    """of the evaluation's record"""
    images: int | None = None
    """that it attacked; None where unknown, as in audits made before it was kept"""


@dataclass(frozen=True, slots=True)
class Bound:
    """Certified accuracy beside attacked accuracy: the truth lies between the two."""

    epsilon: str
    value: float
    certified: Estimate
    methods: Mapping[str, int] | None = None
    """images that each method proved and the ones before it did not"""
    rounding: float | None = None
    """median of what float32's rounding took off an image's margin, in logits"""
    lost: int | None = None
    """images that are not certified for rounding alone"""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The lower side of the sandwich, for the same function, norm and images."""

    method: str
    levels: tuple[Bound, ...] = ()
    reason: str = ""
    """why there is none: "Softmax has no bound" """
    n: int = 0
    """images, the first so many of the audit's"""


@dataclass(frozen=True, slots=True)
class SmoothedLevel:
    """The smoothed classifier at one L2 radius: certified ≤ attacked ≤ clean."""

    radius: float
    certified: Estimate
    attacked: Estimate


@dataclass(frozen=True, slots=True)
class SmoothedAccuracy:
    """Randomised smoothing (Cohen et al. 2019): another classifier than the audited one."""

    sigma: float
    draws: int
    alpha: float
    clean: Estimate
    abstained: int
    levels: tuple[SmoothedLevel, ...]


@dataclass(frozen=True, slots=True)
class Corrupted:
    """Accuracy under one common corruption by rising severity: 1 to 5, or a published set's."""

    name: str
    group: str
    severities: tuple[Estimate, ...]
    at: tuple[int | None, ...] = ()
    """the severity of each, None where the corruption has but one; empty in audits made before it
    was kept, which count from 1"""

    @property
    def by_severity(self) -> Mapping[int | None, Estimate]:
        """The same, each under its severity."""
        at = self.at or range(1, len(self.severities) + 1)
        return dict(zip(at, self.severities, strict=False))


@dataclass(frozen=True, slots=True)
class Corruptions:
    """The second axis: accidents, not adversaries (Hendrycks and Dietterich 2019)."""

    rows: tuple[Corrupted, ...] = ()
    mean: float | None = None
    """over corruptions and severities"""
    notes: tuple[str, ...] = ()
    """where they differ from the published ones, or that they are those"""
    n: int = 0
    reason: str = ""
    """why there are none"""

    @property
    def counted(self) -> int:
        """How many corruptions the mean is over.

        Clean images are none, and beyond the benchmark's fifteen none counts if all are there.
        """
        return len(counted([row.name for row in self.rows]))

    @property
    def severities(self) -> tuple[int | None, ...]:
        """Those of any corruption, rising; None, of one that has no severities, first."""
        found = {severity for row in self.rows for severity in row.by_severity}
        return tuple(sorted(found, key=lambda severity: severity or 0))


@dataclass(frozen=True, slots=True)
class IndicatorResult:
    """One indicator: its number, its threshold, and what adaptive attacks changed."""

    name: str
    """"zero-gradients" """
    title: str
    """what it asks, in words"""
    source: str
    """who defined it"""
    status: IndicatorStatus
    value: float | None = None
    threshold: float | None = None
    fires: Literal["above", "below"] = "above"
    """on which side of the threshold"""
    evidence: str = ""
    """one sentence; for "not examined" and "not applicable", why"""
    adaptive_attack: str = ""
    """what was done about it"""
    before: float | None = None
    """robust accuracy by all white-box attacks; where there are none, by the plain evaluation"""
    after: float | None = None
    """the same with the adaptive attacks added"""
    n: int = 0
    """images that it looked at"""

    @property
    def examined(self) -> bool:
        """Whether it was worked out."""
        return self.status not in ("not examined", "not applicable")


@dataclass(frozen=True, slots=True)
class RobustnessClaim:
    """The number that is judged."""

    norm: str
    epsilon: str
    accuracy: float
    source: str
    """who says so: "given", a file, or what has `PLAIN_CLAIM`"""

    @property
    def number(self) -> float | None:
        """What is judged; None where the plain evaluation, which would say it, broke off."""
        return None if self.source.endswith(NO_CLAIM) else self.accuracy


@dataclass(frozen=True, slots=True)
class ClaimVerdict:
    """Whether the claim can be believed, never without its reasons."""

    word: Word
    sentence: str
    reasons: tuple[str, ...]
    delta: float
    """of the plan: a claim above the truth by less, a share, may be believed"""
    by: float | None = None
    """how far the claim lies above the upper bound of what survived; only where overstated"""
    needed: int | None = None
    """images that would settle the claim if the same share survives; None where more do not help"""


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule of a policy."""

    rule: str
    """as the policy's file says it"""
    passed: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class ClassRow:
    """Accuracy on the images of one class, at the judged budget."""

    name: str
    clean: Estimate
    robust: Estimate


def by_robustness(classes: Sequence[ClassRow]) -> list[ClassRow]:
    """Classes by accuracy under attack, then without, the lowest first."""
    return sorted(classes, key=lambda row: (row.robust.value, row.clean.value))


def worst_classes(classes: Sequence[ClassRow]) -> list[ClassRow]:
    """The class with the lowest accuracy under attack, or all that share it; the same order."""
    ordered = by_robustness(classes)
    return [row for row in ordered if row.robust.value == ordered[0].robust.value]


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the checklist of Carlini et al. 2019."""

    part: str
    text: str
    answer: Literal["done", "did not hold", "in part", "not done", "not applicable"]
    """did not hold: it was done, and what should be so is not"""
    how: str
    """with what, or why not"""


@dataclass(frozen=True, slots=True)
class FrameworkSource:
    """A published framework that the evidence annex goes through."""

    name: str
    citation: str
    read: str
    """in what form its text was read, and what of it was not"""


@dataclass(frozen=True, slots=True)
class Provision:
    """One point of a framework, and what this audit has on it."""

    framework: str
    """its name"""
    point: str
    """"15(3)" """
    asks: str
    """in short, as a paraphrase"""
    answer: Literal["covered", "in part", "not covered"]
    how: str
    """with what, or why not"""
    results: tuple[str, ...] = ()
    """keys of `audit.json` that hold it; none where nothing does"""


@dataclass(frozen=True, slots=True)
class EvidenceAnnex:
    """Which results bear on which points of published frameworks; no claim of conformity."""

    statement: str
    """what the annex is, and what it is not"""
    sources: tuple[FrameworkSource, ...]
    provisions: tuple[Provision, ...]


@dataclass(frozen=True, slots=True, repr=False)
class Audit(Shown):
    """All that `audit.html`, `audit.json` and `audit.md` say."""

    checkpoint: Mapping[str, Any]
    """the `checkpoint` entry of an evaluation's header"""
    data: Mapping[str, Any]
    """likewise `data`"""
    norm: str
    epsilon: str
    """the judged budget"""
    budget: str
    """quick, standard, thorough, or minutes"""
    claim: RobustnessClaim
    verdict: ClaimVerdict
    clean: Estimate
    robust: tuple[Level, ...]
    """worst case over all stages, at every budget that was attacked"""
    stages: tuple[Stage, ...]
    indicators: tuple[IndicatorResult, ...]
    certificate: Certificate
    smoothed: SmoothedAccuracy | None
    corruptions: Corruptions
    classes: tuple[ClassRow, ...]
    confusion: tuple[tuple[int, ...], ...]
    """images by label (row) and by class under attack at the judged budget (column)"""
    comparisons: tuple[Comparison, ...]
    """with `--against`: robust accuracy at the judged budget on the same images"""
    policy: tuple[RuleResult, ...]
    checklist: tuple[Item, ...]
    warnings: tuple[str, ...]
    protocols: Mapping[str, str]
    """the TOML of each protocol that ran, by its name, every number spelled out"""
    provenance: Mapping[str, Mapping[str, Any]]
    """by section: engine, run, audit file, digests"""
    command: str
    """asks the same again"""
    annex: EvidenceAnnex | None = None
    """None in audits made before there was one"""
    examples: Sequence[Example] = ()
    """the smallest successful perturbations; not in the JSON"""

    @property
    def survived(self) -> Estimate | None:
        """Robust accuracy at the judged budget, the worst case over all that was tried.

        None where no attack completed there: what was not attacked is unknown, not robust.
        """
        levels = (level.accuracy for level in self.robust if level.epsilon == self.epsilon)
        return next(levels, None)

    def attacked_at(self, epsilon: str) -> tuple[Stage, ...]:
        """The stages that completed and attacked at this budget, as it was written."""
        return tuple(
            stage
            for stage in self.stages
            if stage.status == "complete" and any(lv.epsilon == epsilon for lv in stage.robust)
        )

    @property
    def since_comparison(self) -> tuple[Stage, ...]:
        """The stages that the audited network alone met: they ran after it was compared."""
        return tuple(s for s in self.stages if s.family == "adaptive" or s.name == BRANCHING)

    @property
    def unresolved(self) -> tuple[IndicatorResult, ...]:
        """The indicators that fired and that no adaptive attack resolved."""
        return tuple(r for r in self.indicators if r.status == "unresolved")
