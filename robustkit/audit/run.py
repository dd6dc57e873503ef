"""An audit from its request to its outcome, in rising order of cost; what is done is kept."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustkit import corruption, evaluation
from robustkit import protocol as protocols
from robustkit.attack import REVISION as ENGINE
from robustkit.audit import thresholds
from robustkit.audit.checklist import fill
from robustkit.audit.context import AuditContext
from robustkit.audit.indicators import INDICATORS, Indicator
from robustkit.audit.indicators.run import IndicatorRun, run_indicators
from robustkit.audit.outcome import (
    Audit,
    Bound,
    Certificate,
    ClassRow,
    Corrupted,
    Corruptions,
    IndicatorResult,
    RobustnessClaim,
    SmoothedAccuracy,
    SmoothedLevel,
    Stage,
)
from robustkit.audit.plan import AuditPlan, Smoothing
from robustkit.audit.policy import Policy, judge_policy
from robustkit.audit.stages import (
    PLAIN,
    TIME_UP,
    AttackedImages,
    Bools,
    OutOfTime,
    StageSettings,
    ThreatModel,
    run_stages,
)
from robustkit.audit.verdict import judge
from robustkit.certification import SmoothingNoise, attack_smoothed, certify_rising, smooth
from robustkit.data import Dataset
from robustkit.device import device as find_device
from robustkit.errors import EvaluationFailed, RobustkitError, first_line
from robustkit.evaluation import EvaluatedModel
from robustkit.files import canonical, digest, write_atomic
from robustkit.statistics import Comparison, Member, compare_images, family, proportion

REVISION = 2
"""raised whenever a change here can change what is kept of a part; part of its digest"""
BATCH = 64
"""images a pass in indicators, corruptions and bounds, where the user names no other number"""
SMALLEST = corruption.SMALLEST
"""edge in pixels below which corruptions mean nothing"""


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """What is audited, against what, and how hard."""

    subject: EvaluatedModel
    data: Dataset
    threat: ThreatModel
    plan: AuditPlan
    claim: RobustnessClaim | None
    """None: the plain evaluation that the audit runs itself"""
    against: Mapping[str, EvaluatedModel]
    """other networks on the same images, by name"""
    surrogate: EvaluatedModel | None
    policy: Policy | None
    budget: str
    """as the audit shall name its effort"""
    command: str
    training_ids: Callable[[], frozenset[str] | None] = lambda: None
    """ids of the images that the network was trained on; None where they are not to be had"""


def run_audit(request: AuditRequest, settings: StageSettings) -> Audit:
    """Everything that the plan says, then the verdict.

    Raises:
        InputError: checkpoint and data do not fit.
        EvaluationFailed: the model breaks without any attack, or a certified image was fooled.
    """
    return _AuditRun(request, settings).audit()


@dataclass
class _AuditRun:
    request: AuditRequest
    settings: StageSettings
    notes: list[str] = field(default_factory=list)
    """what could not be done, and has no place of its own in the outcome"""

    def audit(self) -> Audit:
        """The parts in turn."""
        q = self.request
        started = datetime.now(UTC).isoformat(timespec="seconds")
        attacked = self._attack(q.subject)
        # others meet the same stages, but no adaptive attacks: these are made for the audited one
        comparisons = self._compare(attacked)
        results = self._examine(attacked)
        certificate = self._certify(attacked)
        corruptions = self._corrupt()
        smoothed = self._smooth()
        claim = q.claim or _plain_claim(attacked)
        robust = tuple(attacked.level(e) for e in q.threat.budgets if _tried(attacked, e.text))
        at = {level.epsilon: level.accuracy for level in robust}
        clean = evaluation.resolve_protocol("clean", q.data)
        header = evaluation.record_header(
            evaluation.Config(q.subject, q.data, clean, self._torch_device)
        )
        audit = Audit(
            checkpoint=header["checkpoint"],
            data=header["data"],
            norm=q.threat.norm,
            epsilon=q.threat.judged.text,
            budget=q.budget,
            claim=claim,
            verdict=judge(claim, at.get(q.threat.judged.text), attacked.stages, results),
            clean=proportion(int(attacked.right.sum()), len(q.data)),
            robust=robust,
            stages=tuple(attacked.stages),
            indicators=results,
            certificate=certificate,
            smoothed=smoothed,
            corruptions=corruptions,
            classes=_classes(attacked),
            confusion=_confusion(attacked),
            comparisons=comparisons,
            policy=(),
            checklist=(),
            warnings=(*header["warnings"], *self._adaptations(), *self.notes),
            protocols=attacked.toml,
            provenance=self._provenance(header, started),
            command=q.command,
            examples=attacked.examples,
        )
        audit = replace(audit, checklist=fill(audit))
        return replace(audit, policy=judge_policy(q.policy, audit) if q.policy else ())

    # --- attacks --------------------------------------------------------------------------------

    def _attack(self, subject: EvaluatedModel) -> AttackedImages:
        q = self.request
        return run_stages(subject, q.data, q.threat, q.plan, self.settings, q.surrogate)

    def _compare(self, attacked: AttackedImages) -> tuple[Comparison, ...]:
        """Robust accuracy of the audited network less that of each other, image by image."""
        q = self.request
        members = []
        for name, subject in q.against.items():
            other = self._attack(subject)
            level = f"{q.threat.norm} {q.threat.judged.text}"
            contrast = compare_images(attacked.survivors, other.survivors)
            members.append(Member(str(q.subject.header["path"]), name, level, contrast))
        return family(members, delta=None, over="networks") if members else ()

    # --- indicators -----------------------------------------------------------------------------

    def _examine(self, attacked: AttackedImages) -> tuple[IndicatorResult, ...]:
        """The indicators on the first images; what adaptive attacks fool counts."""
        plan = self.request.plan
        part = self._first(plan.indicators)
        n = len(part)
        limits = thresholds.checked(plan.thresholds, f"{plan.name}: [thresholds]")
        known = self._kept("indicators", part.digest, limits, _masks(attacked, n))
        runs = {k: _run_from(v) for k, v in known.get("runs", {}).items()}

        def done(run: IndicatorRun) -> None:
            runs[run.result.name] = run
            kept = {k: _run_as_dict(v) for k, v in runs.items()}
            self._keep("indicators", part.digest, {"runs": kept}, limits, _masks(attacked, n))

        def begin(indicator: Indicator) -> None:
            if self.settings.over():
                raise OutOfTime
            self.settings.begin(f"indicator: {indicator.name}", n)

        with suppress(OutOfTime):  # what was read so far counts
            run_indicators(self._context(attacked, part), limits, done, runs, begin)
        self._count_adaptive(attacked, runs.values())
        read = [runs[i.name].result for i in INDICATORS if i.name in runs]
        return (*read, *(_not_examined(i) for i in INDICATORS if i.name not in runs))

    def _context(self, attacked: AttackedImages, part: Dataset) -> AuditContext:
        q, n = self.request, len(part)

        def first(mask: Bools) -> torch.Tensor:
            return torch.from_numpy(mask[:n].copy())

        def known(mask: Bools | None) -> torch.Tensor | None:
            return None if mask is None else first(mask)

        plain = protocols.load_protocol(PLAIN, norm=q.threat.norm)
        failed = [s for s in attacked.stages if s.name in attacked.plain and s.status != "complete"]
        survived = _alone(attacked, attacked.plain)
        black = any(s.family == "black box" and s.status == "complete" for s in attacked.stages)
        recorded = q.subject.header["recorded_accuracy"]
        return AuditContext(
            self._model,
            *self._tensors(part),
            part.ids,
            replace(plain, epsilons=(q.threat.judged,), seed=q.threat.seed),
            first(attacked.right),
            first(attacked.right if survived is None else survived),
            white=first(attacked.after("white box")),
            black=first(attacked.after("black box")) if black else None,
            fgsm=known(_alone(attacked, [s for s in attacked.plain if s.endswith("fgsm")])),
            random=known(_floor(attacked)),
            transfer=known(attacked.alone.get("transfer")),
            recorded_accuracy=None if recorded is None else float(recorded),
            training_ids=q.training_ids,
            batch_size=self._batch,
            failed=failed[0].reason if failed else "",
        )

    def _count_adaptive(self, attacked: AttackedImages, runs: Collection[IndicatorRun]) -> None:
        """What looking and adaptive attacks fooled is a stage like any other."""
        places = {name: row for row, name in enumerate(attacked.data.ids)}
        fooled = {i: f.result.name for f in runs for i in f.fooled}
        rows = sorted(places[i] for i in fooled)
        if not any(f.result.adaptive_attack for f in runs) and not rows:
            return
        new = [row for row in rows if attacked.survivors[row]]
        by: dict[str, int] = {}
        for row in new:
            name = fooled[attacked.data.ids[row]]
            by[name] = by.get(name, 0) + 1
            attacked.by[row] = "adaptive"
        judged = float(attacked.threat.judged)
        for epsilon in attacked.threat.budgets:
            if float(epsilon) >= judged:
                attacked.fooled[epsilon.text][rows] = True
        attacked.families["adaptive"] = "adaptive"
        now = attacked.level(attacked.threat.judged)
        attacked.stages.append(
            Stage(
                "adaptive",
                "Adaptive attacks, on the images that indicators doubted",
                "adaptive",
                False,
                "complete",
                robust=(now,),
                so_far=now.accuracy,
                first=len(new),
                found_by=by,
            )
        )

    # --- bounds, accidents, the smoothed classifier ----------------------------------------------

    def _certify(self, attacked: AttackedImages) -> Certificate:
        """Which of the first images provably hold; none of them may have been fooled."""
        q = self.request
        part = self._first(q.plan.certified)
        n = len(part)
        asked = [str(e.value) for e in q.threat.budgets]
        kept = self._kept("certificate", part.digest, q.threat.norm, asked)
        if not kept:
            if self.settings.over():
                return Certificate("", reason=TIME_UP, n=n)
            self.settings.begin("certified bounds", n)
            budgets = [float(e) for e in q.threat.budgets]
            try:
                found = certify_rising(self._model, *self._tensors(part), q.threat.norm, budgets)
            except (RobustkitError, RuntimeError) as error:
                return Certificate("", reason=first_line(error), n=n)
            kept = {
                "method": found[0].method,
                "reason": found[0].reason,
                "robust": [one.robust.tolist() for one in found],
            }
            self._keep("certificate", part.digest, kept, q.threat.norm, asked)
        if kept["reason"]:
            return Certificate(kept["method"], reason=kept["reason"], n=n)
        levels = []
        for epsilon, robust in zip(q.threat.budgets, kept["robust"], strict=True):
            _check_sandwich(attacked, epsilon.text, np.array(robust, bool))
            share = proportion(sum(robust), n)
            levels.append(Bound(epsilon.text, float(epsilon), share))
        return Certificate(kept["method"], tuple(levels), n=n)

    def _corrupt(self) -> Corruptions:
        q = self.request
        part, (channels, height, width) = self._first(q.plan.corrupted), q.data.shape
        n = len(part)
        if channels not in (1, 3) or min(height, width) < SMALLEST:
            reason = f"images of {channels} × {height} × {width} are none they are defined for"
            return Corruptions(n=n, reason=reason)
        kept = self._kept("corruptions", part.digest)
        if not kept:
            if self.settings.over():
                return Corruptions(n=n, reason=TIME_UP)
            watch = self.settings.begin("common corruptions", n)

            def progress(done: int, total: int) -> None:
                watch(n * done / total)
                if self.settings.over():
                    raise OutOfTime

            try:
                right = corruption.measure(
                    self._model,
                    part.images,
                    part.labels,
                    part.ids,
                    self._batch,
                    seed=q.threat.seed,
                    device=self._torch_device,
                    progress=progress,
                )
            except OutOfTime:
                return Corruptions(n=n, reason=TIME_UP)
            except (RobustkitError, RuntimeError) as error:
                return Corruptions(n=n, reason=first_line(error))
            kept = {"right": right.sum(2).tolist()}
            self._keep("corruptions", part.digest, kept)
        counts = np.array(kept["right"])
        groups = {name: group for group, names in corruption.GROUPS.items() for name in names}
        rows = tuple(
            Corrupted(name, groups[name], tuple(proportion(int(k), n) for k in row))
            for name, row in zip(corruption.NAMES, counts, strict=True)
        )
        notes = corruption.notes(corruption.NAMES, height, width, channels)
        return Corruptions(rows, float(counts.mean() / n), notes, n)

    def _smooth(self) -> SmoothedAccuracy | None:
        asked = self.request.plan.smoothing
        if asked is None or self.settings.over():
            return None
        part = self._first(asked.images)
        kept = self._kept("smoothed", part.digest, asdict(asked))
        if not kept:
            self.settings.begin("smoothed classifier", len(part))
            try:
                kept = self._smoothed(part, asked)
            except (RobustkitError, RuntimeError) as error:
                self.notes.append(f"no smoothed classifier: {first_line(error)}")
                return None
            self._keep("smoothed", part.digest, kept, asdict(asked))
        n = len(part)
        levels = tuple(
            SmoothedLevel(radius, proportion(certified, n), proportion(attacked, n))
            for radius, certified, attacked in kept["levels"]
        )
        clean = proportion(kept["clean"], n)
        return SmoothedAccuracy(
            asked.sigma, asked.draws, asked.alpha, clean, kept["abstained"], levels
        )

    def _smoothed(self, part: Dataset, asked: Smoothing) -> dict[str, Any]:
        noise = SmoothingNoise(
            asked.sigma, asked.alpha, n=asked.draws, seed=self.request.threat.seed
        )
        images, labels = self._tensors(part)
        found = smooth(self._model, images, part.ids, noise)
        right = torch.as_tensor(found.predicted).cpu() == labels.cpu()
        levels = []
        for radius in asked.radii:
            tried = attack_smoothed(self._model, images, labels, part.ids, radius, found)
            levels.append((radius, int(tried.certified.sum()), int(tried.attacked.sum())))
        abstained = int((found.predicted < 0).sum())
        return {"clean": int(right.sum()), "abstained": abstained, "levels": levels}

    def _adaptations(self) -> list[str]:
        """What few classes change of the attacks."""
        q = self.request
        norm = q.threat.norm
        named = [s.attack for s in q.plan.stages if norm in protocols.norms_of(s.attack)]
        attacks = [protocols.load_protocol(name, norm=norm).attacks for name in named]
        told = [s for a in attacks for s in protocols.adaptations(a, len(q.data.classes))]
        return list(dict.fromkeys(told))

    # --- what parts share -------------------------------------------------------------------------

    @property
    def _device(self) -> str:
        return self.settings.options.device

    @cached_property
    def _torch_device(self) -> torch.device:
        return find_device(self._device)

    @cached_property
    def _model(self) -> torch.nn.Module:
        return self.request.subject.load(self._torch_device)

    @property
    def _batch(self) -> int:
        size = self.settings.options.batch_size
        return BATCH if size == "auto" else size

    def _first(self, limit: int) -> Dataset:
        """The first images; all of them for 0."""
        data = self.request.data
        return data.take(range(min(limit or len(data), len(data))))

    def _tensors(self, part: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels, on the device."""
        images, labels = part.images(0, len(part)), part.labels.copy()
        device = self._torch_device
        return torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)

    def _path(self, part: str, *asked: object) -> Path:
        names = {
            "revision": REVISION,
            "engine": ENGINE,
            "checkpoint": self.request.subject.identity,
            "seed": self.request.threat.seed,
            "epsilon": str(self.request.threat.judged.value),
            "norm": self.request.threat.norm,
            "device": self._torch_device.type,
            "torch": torch.__version__,
            "asked": [str(a) if isinstance(a, str) else a for a in asked],
        }
        return self.settings.out / f"{part}-{digest(canonical(names))[:32]}.json"

    def _kept(self, part: str, *asked: object) -> dict[str, Any]:
        """What an earlier run found of the same part; empty where there is none."""
        try:
            return dict(json.loads(self._path(part, *asked).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def _keep(self, part: str, data: str, found: Mapping[str, Any], *asked: object) -> None:
        write_atomic(self._path(part, data, *asked), json.dumps(found).encode())

    def _provenance(self, header: Mapping[str, Any], started: str) -> dict[str, dict[str, Any]]:
        plan = self.request.plan
        return {
            "Engine": header["engine"],
            "Run": {
                "robustkit": version("robustkit"),
                "started": started,
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seed": self.request.threat.seed,
            },
            "Audit": {"name": plan.name, "title": plan.title, "digest": digest(plan.text)},
        }


# --- arithmetic -----------------------------------------------------------------------------------


def _plain_claim(attacked: AttackedImages) -> RobustnessClaim:
    """What the plain evaluation says on the same images."""
    threat = attacked.threat
    left = _alone(attacked, attacked.plain)
    source = f"plain {PLAIN}, run by this audit"
    if left is None:
        left, source = attacked.right, f"{source}: it broke off and fooled nothing"
    return RobustnessClaim(threat.norm, threat.judged.text, float(left.mean()), source)


def _alone(attacked: AttackedImages, names: Sequence[str]) -> Bools | None:
    """Still right after these stages together; None where none of them completed."""
    masks = [attacked.alone[name] for name in names if name in attacked.alone]
    return np.logical_and.reduce(masks) if masks else None


def _floor(attacked: AttackedImages) -> Bools | None:
    return _alone(attacked, [n for n, family in attacked.families.items() if family == "floor"])


def _masks(attacked: AttackedImages, n: int) -> str:
    """A digest of all that the attacks said of the first n images."""
    parts = [attacked.right[:n].tobytes(), attacked.survivors[:n].tobytes()]
    parts += [name.encode() + mask[:n].tobytes() for name, mask in sorted(attacked.alone.items())]
    return digest(*parts, *attacked.by[:n])


def _tried(attacked: AttackedImages, epsilon: str) -> bool:
    """Whether any attack completed at a budget."""
    return any(
        stage.status == "complete" and any(level.epsilon == epsilon for level in stage.robust)
        for stage in attacked.stages
    )


def _check_sandwich(attacked: AttackedImages, epsilon: str, robust: Bools) -> None:
    broken = attacked.fooled[epsilon][: len(robust)] & robust
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        raise EvaluationFailed(
            f"image {row} is certified at {attacked.threat.norm} {epsilon} and was fooled there by "
            f"{attacked.by[row] or 'an attack'}: one of the two is wrong; please report it"
        )


def _classes(attacked: AttackedImages) -> tuple[ClassRow, ...]:
    labels, names = attacked.data.labels, attacked.data.classes
    rows = []
    for label in np.unique(labels):
        own = labels == label
        n = int(own.sum())
        clean, robust = (
            proportion(int(mask[own].sum()), n) for mask in (attacked.right, attacked.survivors)
        )
        rows.append(ClassRow(names[int(label)], clean, robust))
    return tuple(rows)


def _confusion(attacked: AttackedImages) -> tuple[tuple[int, ...], ...]:
    k = max(len(attacked.data.classes), int(attacked.taken_for.max()) + 1)
    table = np.zeros((k, k), np.int64)
    np.add.at(table, (attacked.data.labels, attacked.taken_for), 1)
    return tuple(tuple(row) for row in table.tolist())


def _not_examined(indicator: Indicator) -> IndicatorResult:
    return IndicatorResult(
        indicator.name,
        indicator.title,
        indicator.source,
        "not examined",
        fires=indicator.fires,
        evidence=TIME_UP,
    )


def _run_as_dict(run: IndicatorRun) -> dict[str, Any]:
    return {"result": asdict(run.result), "fooled": list(run.fooled)}


def _run_from(found: Mapping[str, Any]) -> IndicatorRun:
    known = {f.name for f in fields(IndicatorResult)}
    result = IndicatorResult(**{k: v for k, v in found["result"].items() if k in known})
    return IndicatorRun(result, tuple(found["fooled"]))
