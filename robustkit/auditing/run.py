"""An audit from its request to its outcome, in rising order of cost; what is done is kept."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from robustkit import evaluation
from robustkit import protocol as protocols
from robustkit.analysis.contrast import judge_levels
from robustkit.auditing import counts, stored, thresholds, wording
from robustkit.auditing.adaptive_stage import (
    AdaptiveSuccess,
    add_adaptive,
    attack_rest,
    doubted_attacks,
)
from robustkit.auditing.annex import annex
from robustkit.auditing.branching import branch
from robustkit.auditing.cache import Parts, masks
from robustkit.auditing.certified import certificate, kept, smoothed_levels
from robustkit.auditing.checklist import fill
from robustkit.auditing.context import AuditContext
from robustkit.auditing.corruptions import CorruptionRun
from robustkit.auditing.indicators import INDICATORS, Indicator
from robustkit.auditing.indicators.run import IndicatorRun, run_indicators
from robustkit.auditing.outcome import (
    Audit,
    Certificate,
    ClaimVerdict,
    Corruptions,
    IndicatorResult,
    RobustnessClaim,
    SmoothedAccuracy,
    SmoothedLevel,
)
from robustkit.auditing.plan import AuditPlan, Smoothing
from robustkit.auditing.policy import Policy, judge_policy
from robustkit.auditing.request import TrainingImages, notes_on
from robustkit.auditing.stages import (
    TIME_UP,
    AttackedImages,
    Bools,
    OutOfTime,
    StageSettings,
    ThreatModel,
    check_plain,
    look_at_others,
    plain_protocol,
    run_stages,
)
from robustkit.auditing.trained import Recorded
from robustkit.auditing.verdict import judge
from robustkit.certification import REVISION as PROVED
from robustkit.certification import SmoothingNoise, attack_smoothed, certify_rising, smooth
from robustkit.data import Dataset
from robustkit.device import devices, in_float32
from robustkit.errors import RobustkitError, first_line
from robustkit.evaluation import EvaluatedModel
from robustkit.files import digest
from robustkit.protocol.norms import symbol
from robustkit.statistics import Comparison, Contrast, Estimate, compare_images, proportion

BATCH = 64
"""images a pass in indicators, corruptions and bounds, where the user names no other number"""
BROKE = (OutOfTime, RobustkitError, RuntimeError, TypeError, ValueError, IndexError)
"""what ends a part of the audit, and not the audit"""
SURROGATE = "the surrogate"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """What is audited, against what, and how hard."""

    model: EvaluatedModel
    data: Dataset
    threat: ThreatModel
    plan: AuditPlan
    claim: RobustnessClaim | None = None
    """None: the plain evaluation that the audit runs itself"""
    against: Mapping[str, EvaluatedModel] = field(default_factory=dict)
    """other networks on the same images, by name"""
    surrogate: EvaluatedModel | None = None
    policy: Policy | None = None
    budget: str
    """as the audit shall name its effort"""
    command: str
    training: TrainingImages = field(default_factory=TrainingImages)
    """what the network was trained on"""
    published: Sequence[Callable[[], Dataset]] = ()
    """each gives a level of a set of corrupted images; none: corruptions are made here"""


def run_audit(request: AuditRequest, settings: StageSettings) -> Audit:
    """Everything that the plan says, then the verdict; of images that are alike, the first.

    Raises:
        InputError: checkpoint and data do not fit, or the plan runs nothing to judge.
        EvaluationFailed: the model breaks without any attack, or a certified image was fooled.
    """
    request.data.check_pictures("no audit is of")
    if request.claim is None:
        check_plain(request.plan, request.threat.norm)
    distinct = request.data.distinct()
    run = _AuditRun(replace(request, data=distinct), settings)
    if copies := len(request.data) - len(distinct):  # they would make intervals too narrow
        run.notes.append(f"{copies:,} duplicate images are left out")
    with in_float32():  # bounds, indicators and verdicts are float32's
        return run.audit()


def _concluded(audit: Audit, policy: Policy | None) -> Audit:
    """With what its own numbers answer: the checklist, the policy's rules, the annex."""
    audit = replace(audit, checklist=fill(audit))
    audit = replace(audit, policy=judge_policy(policy, audit) if policy else ())
    return replace(audit, annex=annex(audit))


@dataclass
class _AuditRun:
    request: AuditRequest
    settings: StageSettings
    notes: list[str] = field(default_factory=list)
    """what could not be done, and has no place of its own in the outcome"""
    sources: dict[str, str] = field(default_factory=dict)
    """of published corruptions: digests of levels and files"""

    def audit(self) -> Audit:
        """The parts in turn."""
        q = self.request
        started = datetime.now(UTC).isoformat(timespec="seconds")
        others = dict(q.against) if q.surrogate is None else {**q.against, SURROGATE: q.surrogate}
        self.notes += look_at_others(others, q.model, q.data, q.threat, self.settings)
        attacked = self._attack(q.model)
        # others meet the same stages, but no adaptive attacks: these are made for the audited one
        comparisons = self._compare(attacked)
        results = self._run_indicators(attacked)
        bounds = self._certify(attacked)
        corruptions = self._corrupt()
        smoothed = self._smooth()
        claim = q.claim or counts.plain_claim(attacked)
        robust = tuple(
            attacked.level(e) for e in q.threat.budgets if counts.tried(attacked, e.text)
        )
        at = {level.epsilon: level.accuracy for level in robust}
        header = self._header()
        audit = Audit(
            checkpoint=header["checkpoint"],
            data={**header["data"], stored.FIRST: q.data.ids[0]},
            norm=q.threat.norm,
            epsilon=q.threat.judged.text,
            budget=q.budget,
            claim=claim,
            verdict=self._verdict(claim, at.get(q.threat.judged.text), attacked, results),
            clean=proportion(int(attacked.right.sum()), len(q.data), "exact"),
            robust=robust,
            stages=tuple(attacked.stages),
            indicators=results,
            certificate=bounds,
            smoothed=smoothed,
            corruptions=corruptions,
            classes=counts.classes(attacked),
            confusion=counts.confusion(attacked),
            comparisons=comparisons,
            policy=(),
            checklist=(),
            warnings=self._warnings(attacked),
            protocols=attacked.toml,
            provenance=self._provenance(header | {"precision": attacked.precision}, started),
            command=q.command,
            examples=attacked.examples,
        )
        return _concluded(audit, q.policy)

    def _warnings(self, attacked: AttackedImages) -> tuple[str, ...]:
        q = self.request
        said = [*attacked.warnings, *notes_on(q.plan, q.threat, q.data), *q.data.changed()]
        return tuple(dict.fromkeys([*said, *self.notes]))

    def _verdict(
        self,
        claim: RobustnessClaim,
        survived: Estimate | None,
        attacked: AttackedImages,
        results: tuple[IndicatorResult, ...],
    ) -> ClaimVerdict:
        q = self.request
        return judge(
            claim,
            survived,
            attacked.stages,
            results,
            delta=q.plan.delta,
            images=len(q.data),
            looked=len(self._first(q.plan.indicators)),
            available=q.data.available,
        )

    def _header(self) -> dict[str, Any]:
        """What the record of an evaluation says of the network, the images and the engine."""
        q = self.request
        clean = evaluation.resolve_protocol("clean", q.data)
        config = evaluation.Config(q.model, q.data, clean, self._torch_device)
        return evaluation.record_header(config)

    # --- attacks --------------------------------------------------------------------------------

    def _attack(self, model: EvaluatedModel) -> AttackedImages:
        q = self.request
        return run_stages(model, q.data, q.threat, q.plan, self.settings, q.surrogate)

    def _compare(self, attacked: AttackedImages) -> tuple[Comparison, ...]:
        """Robust accuracy of the audited network less that of each other, image by image.

        Each is a family of its own, as wherever methods are compared: a further network widens no
        interval. Where an attack met only one of the two, they are not compared.
        """
        q = self.request
        compared: list[Comparison] = []
        for name, model in q.against.items():
            other = self._attack(model)
            level = f"{q.threat.norm} {q.threat.judged.text}"
            found: Contrast | str = counts.unlike(attacked, other, name)
            found = found or compare_images(attacked.survivors, other.survivors)
            compared += judge_levels(str(q.model.header["path"]), name, {level: found}, delta=None)
        return tuple(compared)

    # --- indicators -----------------------------------------------------------------------------

    def _run_indicators(self, attacked: AttackedImages) -> tuple[IndicatorResult, ...]:
        """The indicators on the first images; what adaptive attacks fool counts."""
        plan = self.request.plan
        part = self._first(plan.indicators)
        n = len(part)
        limits = thresholds.checked(plan.thresholds, f"{plan.name}: [thresholds]")
        recorded = self.request.model.header["recorded_accuracy"]
        plain = plain_protocol(attacked).digest
        key = self._parts.key("indicators", part, limits, plain, masks(attacked, n), recorded)
        told = Recorded.of(self.request.model, self.request.data)
        keys = told.keys(key, self.request.training.stamp())
        runs = self._parts.indicator_runs(keys)

        def done(run: IndicatorRun) -> None:
            runs[run.result.name] = run
            self._parts.store_indicator_run(run, keys, runs)

        def begin(indicator: Indicator) -> None:
            self._begin(f"indicator: {indicator.name}", n)

        with suppress(OutOfTime):  # what was read so far counts
            run_indicators(self._context(attacked, range(n)), limits, runs, begin, done)
        self._count_adaptive(attacked, runs.values(), n)
        read = [runs[i.name].result for i in INDICATORS if i.name in runs]
        return (*read, *(i.without_result(TIME_UP) for i in INDICATORS if i.name not in runs))

    def _count_adaptive(
        self, attacked: AttackedImages, runs: Collection[IndicatorRun], first: int
    ) -> None:
        """What adaptive attacks fooled counts; where an indicator is unresolved, they go on."""
        fooled = {
            i: AdaptiveSuccess(run.result.name, c) for run in runs for i, c in run.fooled.items()
        }
        kinds, context_of = doubted_attacks(runs), partial(self._context, attacked)
        begin, note = self._begin, self.notes.append
        try:
            rest = attack_rest(attacked, first, kinds, self._parts, context_of, begin, note)
            fooled.update(rest)
        except OutOfTime:
            note(
                f"not every adaptive attack covered the images after the first {first:,}: {TIME_UP}"
            )
        add_adaptive(attacked, fooled, tried=any(run.result.adaptive_attack for run in runs))

    def _context(self, attacked: AttackedImages, rows: Sequence[int]) -> AuditContext:
        """What indicators and adaptive attacks know of the images at these rows."""
        q, part, chosen = self.request, self.request.data.take(rows), np.asarray(rows)

        def first(mask: Bools) -> torch.Tensor:
            return torch.from_numpy(mask[chosen])

        def if_any(mask: Bools | None) -> torch.Tensor | None:
            return None if mask is None else first(mask)

        failed = [s for s in attacked.stages if s.name in attacked.plain and s.status != "complete"]
        survived = counts.alone(attacked, attacked.plain)
        families = {s.family for s in attacked.stages if s.status == "complete"}
        return AuditContext(
            self._model,
            *self._tensors(part),
            part.ids,
            plain_protocol(attacked),
            first(attacked.right),
            first(attacked.right if survived is None else survived),
            white=first(attacked.after("white box")) if "white box" in families else None,
            black=first(attacked.after("black box")) if "black box" in families else None,
            fgsm=if_any(counts.alone(attacked, [s for s in attacked.plain if s.endswith("fgsm")])),
            random=if_any(counts.floor(attacked)),
            transfer=if_any(attacked.alone.get("transfer")),
            **asdict(Recorded.of(q.model, q.data)),
            training_ids=q.training.ids,
            batch_size=self._batch,
            failed=failed[0].reason if failed else "",
            missing=counts.missing(attacked),
        )

    # --- bounds, accidents, the smoothed classifier ----------------------------------------------

    def _certify(self, attacked: AttackedImages) -> Certificate:
        """Which of the first images provably hold; none of them may have been fooled."""
        threat, part = self.request.threat, self._first(self.request.plan.certified)
        n, budgets, work = len(part), threat.budgets, self.request.plan.multiplications
        if threat.norm not in protocols.BALLS:
            return Certificate("", reason=f"there are no bounds for {symbol(threat.norm)}", n=n)

        def compute() -> dict[str, Any]:
            self._begin("certified bounds", n)
            images, values = self._tensors(part), [float(e) for e in budgets]
            return kept(certify_rising(self._model, *images, threat.norm, values, budget=work))

        key = self._parts.key("certificate", part, [str(e.value) for e in budgets], work, PROVED)
        try:
            result = self._parts.part(key, compute)
        except BROKE as error:
            return Certificate("", reason=first_line(error), n=n)
        limit = self.request.plan.branching
        result = branch(self.request.model, attacked, result, limit, self.settings)
        return certificate(result, attacked)

    def _corrupt(self) -> Corruptions:
        run = CorruptionRun(
            model=lambda: self._model,
            parts=self._parts,
            batch_size=self._batch,
            device=self._torch_device,
            seed=self.request.threat.seed,
            begin=self._begin,
            over=self.settings.over,
        )
        try:
            if self.request.published:
                return run.published(self.request.published, self.sources)
            return run.procedural(self._first(self.request.plan.corrupted))
        except BROKE as error:
            n = len(self._first(self.request.plan.corrupted))
            return Corruptions(n=n, reason=first_line(error))

    def _smooth(self) -> SmoothedAccuracy | None:
        smoothing = self.request.plan.smoothing
        if smoothing is None:
            return None
        part = self._first(smoothing.images)
        n, key = len(part), self._parts.key("smoothed", part, asdict(smoothing))
        try:
            result = self._parts.part(key, lambda: self._smoothed(part, smoothing))
        except BROKE as error:
            self.notes.append(f"no smoothed classifier: {first_line(error)}")
            return None
        levels = tuple(
            SmoothedLevel(radius, *(proportion(right, n, "exact") for right in both))
            for radius, *both in result["levels"]
        )
        if broken := result.get("contradicted", 0):  # results of before do not say
            self.notes.append(wording.contradicted_smoothing(broken, n, smoothing))
        clean, noise = proportion(result["clean"], n, "exact"), (smoothing.sigma, smoothing.draws)
        return SmoothedAccuracy(*noise, smoothing.alpha, clean, result["abstained"], levels)

    def _smoothed(self, part: Dataset, smoothing: Smoothing) -> dict[str, Any]:
        self._begin("smoothed classifier", len(part))
        images, labels = self._tensors(part)
        own = {"n": smoothing.draws, "seed": self.request.threat.seed}
        noise = SmoothingNoise(smoothing.sigma, smoothing.alpha, **own)
        smoothed = smooth(self._model, images, part.ids, noise)
        tried = {
            radius: attack_smoothed(self._model, images, labels, part.ids, radius, smoothed)
            for radius in sorted(smoothing.radii)
        }
        levels, neither = smoothed_levels(tried)
        right = smoothed.predicted == labels.cpu().numpy()
        told = {"abstained": smoothed.predicted < 0, "contradicted": neither, "clean": right}
        return {**{name: int(some.sum()) for name, some in told.items()}, "levels": levels}

    def _begin(self, part: str, n: int) -> Callable[[float], None]:
        """Say that a part of so many images begins; returns what is told the images done.

        Raises:
            OutOfTime: the audit's minutes are up.
        """
        if self.settings.over():
            raise OutOfTime(TIME_UP)
        return self.settings.begin(part, n)

    # --- what parts share -------------------------------------------------------------------------

    @property
    def _device(self) -> str:
        return self.settings.options.device

    @cached_property
    def _torch_device(self) -> torch.device:
        return devices(self._device)[0]

    @cached_property
    def _model(self) -> torch.nn.Module:
        return self.request.model.load(self._torch_device)

    @cached_property
    def _parts(self) -> Parts:
        q, device = self.request, self._torch_device
        outputs = q.model.outputs and q.model.outputs(q.data.shape, device)
        return Parts(self.settings.out, q.model, q.threat, device, outputs, self._tell)

    @property
    def _batch(self) -> int:
        size = self.settings.options.batch_size
        return BATCH if size == "auto" else size

    def _tell(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _first(self, limit: int) -> Dataset:
        """The first images; all of them for 0."""
        data = self.request.data
        return data.take(range(min(limit or len(data), len(data))))

    def _tensors(self, part: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels, on the device."""
        images, labels = part.images(0, len(part)), part.labels.copy()
        device = self._torch_device
        return torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)

    def _provenance(self, header: Mapping[str, Any], started: str) -> dict[str, dict[str, Any]]:
        plan = self.request.plan
        return {
            "Engine": header["engine"] | {"precision": header["precision"]},
            "Run": {
                "robustkit": version("robustkit"),
                "started": started,
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seed": self.request.threat.seed,
            },
            "Audit": {"name": plan.name, "title": plan.title, "digest": digest(plan.text)},
            **({"Corruptions": dict(self.sources)} if self.sources else {}),
        }
