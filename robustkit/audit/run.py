"""An audit from a question to its outcome, in rising order of cost; what is done is kept."""

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
from robustkit.audit.attacked import (
    PLAIN_BY_NORM,
    TIME_UP,
    Attacked,
    Bench,
    Bools,
    OutOfTime,
    Threat,
    attack,
)
from robustkit.audit.case import Case
from robustkit.audit.checklist import fill
from robustkit.audit.examine import Finding, examine
from robustkit.audit.indicators import INDICATORS, Indicator
from robustkit.audit.outcome import (
    Audit,
    Bound,
    Certificate,
    Claim,
    ClassRow,
    Corrupted,
    Corruptions,
    Reading,
    Smoothed,
    SmoothedLevel,
    Stage,
)
from robustkit.audit.plan import Plan, Smoothing
from robustkit.audit.policy import Policy, judge_policy
from robustkit.audit.verdict import judge
from robustkit.certification import SmoothingNoise, attack_smoothed, certify_rising, smooth
from robustkit.data import Dataset
from robustkit.device import device as find_device
from robustkit.errors import EvaluationFailed, RobustkitError, first_line
from robustkit.evaluation import EvaluatedModel
from robustkit.files import canonical, digest, write_atomic
from robustkit.statistics import Comparison, Member, compare_images, family, proportion

REVISION = 1
"""raised whenever a change here can change what is kept of a part; part of its digest"""
BATCH = 64
"""images a pass in indicators, corruptions and bounds, where the user names no other number"""
SMALLEST = corruption.SMALLEST
"""edge in pixels below which corruptions mean nothing"""


@dataclass(frozen=True, slots=True)
class Question:
    """What is audited, against what, and how hard."""

    subject: EvaluatedModel
    data: Dataset
    threat: Threat
    plan: Plan
    claim: Claim | None
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


def run(question: Question, bench: Bench) -> Audit:
    """Everything that the plan says, then the verdict.

    Raises:
        InputError: checkpoint and data do not fit.
        EvaluationFailed: the model breaks without any attack, or a certified image was fooled.
    """
    return _Run(question, bench).audit()


@dataclass
class _Run:
    question: Question
    bench: Bench
    notes: list[str] = field(default_factory=list)
    """what could not be done, and has no place of its own in the outcome"""

    def audit(self) -> Audit:
        """The parts in turn."""
        q = self.question
        started = datetime.now(UTC).isoformat(timespec="seconds")
        attacked = self._attack(q.subject)
        # others meet the same stages, but no remedies: these were made for the audited network
        comparisons = self._compare(attacked)
        readings = self._examine(attacked)
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
            verdict=judge(claim, at.get(q.threat.judged.text), attacked.stages, readings),
            clean=proportion(int(attacked.right.sum()), len(q.data)),
            robust=robust,
            stages=tuple(attacked.stages),
            indicators=readings,
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

    def _attack(self, subject: EvaluatedModel) -> Attacked:
        q = self.question
        return attack(subject, q.data, q.threat, q.plan, self.bench, q.surrogate)

    def _compare(self, attacked: Attacked) -> tuple[Comparison, ...]:
        """Robust accuracy of the audited network less that of each other, image by image."""
        q = self.question
        members = []
        for name, subject in q.against.items():
            other = self._attack(subject)
            level = f"{q.threat.norm} {q.threat.judged.text}"
            contrast = compare_images(attacked.survivors, other.survivors)
            members.append(Member(str(q.subject.header["path"]), name, level, contrast))
        return family(members, delta=None, over="networks") if members else ()

    # --- indicators -----------------------------------------------------------------------------

    def _examine(self, attacked: Attacked) -> tuple[Reading, ...]:
        """The indicators on the first images; what remedies fool counts."""
        plan = self.question.plan
        part = self._first(plan.indicators)
        n = len(part)
        limits = thresholds.checked(plan.thresholds, f"{plan.name}: [thresholds]")
        known = self._kept("indicators", part.digest, limits, _masks(attacked, n))
        findings = {k: _finding(v) for k, v in known.get("findings", {}).items()}

        def done(finding: Finding) -> None:
            findings[finding.reading.name] = finding
            kept = {k: _plain_finding(v) for k, v in findings.items()}
            self._keep("indicators", part.digest, {"findings": kept}, limits, _masks(attacked, n))

        def begin(indicator: Indicator) -> None:
            if self.bench.over():
                raise OutOfTime
            self.bench.begin(f"indicator: {indicator.name}", n)

        with suppress(OutOfTime):  # what was read so far counts
            examine(self._case(attacked, part), limits, done, findings, begin)
        self._count_remedies(attacked, findings.values())
        read = [findings[i.name].reading for i in INDICATORS if i.name in findings]
        return (*read, *(_unread(i) for i in INDICATORS if i.name not in findings))

    def _case(self, attacked: Attacked, part: Dataset) -> Case:
        q, n = self.question, len(part)

        def first(mask: Bools) -> torch.Tensor:
            return torch.from_numpy(mask[:n].copy())

        def known(mask: Bools | None) -> torch.Tensor | None:
            return None if mask is None else first(mask)

        plain = protocols.load(PLAIN_BY_NORM[q.threat.norm])
        failed = [s for s in attacked.stages if s.name in attacked.plain and s.status != "complete"]
        survived = _alone(attacked, attacked.plain)
        black = any(s.family == "black box" and s.status == "complete" for s in attacked.stages)
        recorded = q.subject.header["recorded_accuracy"]
        return Case(
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

    def _count_remedies(self, attacked: Attacked, findings: Collection[Finding]) -> None:
        """What looking and remedies fooled is a stage like any other."""
        places = {name: row for row, name in enumerate(attacked.data.ids)}
        fooled = {i: f.reading.name for f in findings for i in f.fooled}
        rows = sorted(places[i] for i in fooled)
        if not any(f.reading.remedy for f in findings) and not rows:
            return
        new = [row for row in rows if attacked.survivors[row]]
        by: dict[str, int] = {}
        for row in new:
            name = fooled[attacked.data.ids[row]]
            by[name] = by.get(name, 0) + 1
            attacked.by[row] = "remedies"
        judged = float(attacked.threat.judged)
        for epsilon in attacked.threat.budgets:
            if float(epsilon) >= judged:
                attacked.fooled[epsilon.text][rows] = True
        attacked.families["remedies"] = "remedy"
        now = attacked.level(attacked.threat.judged)
        attacked.stages.append(
            Stage(
                "remedies",
                "Remedies, on the images that indicators doubted",
                "remedy",
                False,
                "complete",
                robust=(now,),
                so_far=now.accuracy,
                first=len(new),
                found_by=by,
            )
        )

    # --- bounds, accidents, the smoothed classifier ----------------------------------------------

    def _certify(self, attacked: Attacked) -> Certificate:
        """Which of the first images provably hold; none of them may have been fooled."""
        q = self.question
        part = self._first(q.plan.certified)
        n = len(part)
        asked = [str(e.value) for e in q.threat.budgets]
        kept = self._kept("certificate", part.digest, q.threat.norm, asked)
        if not kept:
            if self.bench.over():
                return Certificate("", reason=TIME_UP, n=n)
            self.bench.begin("certified bounds", n)
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
        q = self.question
        part, (channels, height, width) = self._first(q.plan.corrupted), q.data.shape
        n = len(part)
        if channels not in (1, 3) or min(height, width) < SMALLEST:
            reason = f"images of {channels} × {height} × {width} are none they are defined for"
            return Corruptions(n=n, reason=reason)
        kept = self._kept("corruptions", part.digest)
        if not kept:
            if self.bench.over():
                return Corruptions(n=n, reason=TIME_UP)
            watch = self.bench.begin("common corruptions", n)

            def progress(done: int, total: int) -> None:
                watch(n * done / total)
                if self.bench.over():
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

    def _smooth(self) -> Smoothed | None:
        asked = self.question.plan.smoothing
        if asked is None or self.bench.over():
            return None
        part = self._first(asked.images)
        kept = self._kept("smoothed", part.digest, asdict(asked))
        if not kept:
            self.bench.begin("smoothed classifier", len(part))
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
        return Smoothed(asked.sigma, asked.draws, asked.alpha, clean, kept["abstained"], levels)

    def _smoothed(self, part: Dataset, asked: Smoothing) -> dict[str, Any]:
        noise = SmoothingNoise(
            asked.sigma, asked.alpha, n=asked.draws, seed=self.question.threat.seed
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
        q = self.question
        named = (spec.attack.get(q.threat.norm) for spec in q.plan.stages)
        attacks = [protocols.load(name).attacks for name in named if name]
        told = [s for a in attacks for s in protocols.adaptations(a, len(q.data.classes))]
        return list(dict.fromkeys(told))

    # --- what parts share -------------------------------------------------------------------------

    @property
    def _device(self) -> str:
        return self.bench.options.device

    @cached_property
    def _torch_device(self) -> torch.device:
        return find_device(self._device)

    @cached_property
    def _model(self) -> torch.nn.Module:
        return self.question.subject.load(self._torch_device)

    @property
    def _batch(self) -> int:
        size = self.bench.options.batch_size
        return BATCH if size == "auto" else size

    def _first(self, limit: int) -> Dataset:
        """The first images; all of them for 0."""
        data = self.question.data
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
            "checkpoint": self.question.subject.identity,
            "seed": self.question.threat.seed,
            "epsilon": str(self.question.threat.judged.value),
            "norm": self.question.threat.norm,
            "device": self._torch_device.type,
            "torch": torch.__version__,
            "asked": [str(a) if isinstance(a, str) else a for a in asked],
        }
        return self.bench.out / f"{part}-{digest(canonical(names))[:32]}.json"

    def _kept(self, part: str, *asked: object) -> dict[str, Any]:
        """What an earlier run found of the same part; empty where there is none."""
        try:
            return dict(json.loads(self._path(part, *asked).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def _keep(self, part: str, data: str, found: Mapping[str, Any], *asked: object) -> None:
        write_atomic(self._path(part, data, *asked), json.dumps(found).encode())

    def _provenance(self, header: Mapping[str, Any], started: str) -> dict[str, dict[str, Any]]:
        plan = self.question.plan
        return {
            "Engine": header["engine"],
            "Run": {
                "robustkit": version("robustkit"),
                "started": started,
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seed": self.question.threat.seed,
            },
            "Audit": {"name": plan.name, "title": plan.title, "digest": digest(plan.text)},
        }


# --- arithmetic -----------------------------------------------------------------------------------


def _plain_claim(attacked: Attacked) -> Claim:
    """What the plain evaluation says on the same images."""
    threat = attacked.threat
    left = _alone(attacked, attacked.plain)
    source = f"plain {PLAIN_BY_NORM[threat.norm]}, run by this audit"
    if left is None:
        left, source = attacked.right, f"{source}: it broke off and fooled nothing"
    return Claim(threat.norm, threat.judged.text, float(left.mean()), source)


def _alone(attacked: Attacked, names: Sequence[str]) -> Bools | None:
    """Still right after these stages together; None where none of them completed."""
    masks = [attacked.alone[name] for name in names if name in attacked.alone]
    return np.logical_and.reduce(masks) if masks else None


def _floor(attacked: Attacked) -> Bools | None:
    return _alone(attacked, [n for n, family in attacked.families.items() if family == "floor"])


def _masks(attacked: Attacked, n: int) -> str:
    """A digest of all that the attacks said of the first n images."""
    parts = [attacked.right[:n].tobytes(), attacked.survivors[:n].tobytes()]
    parts += [name.encode() + mask[:n].tobytes() for name, mask in sorted(attacked.alone.items())]
    return digest(*parts, *attacked.by[:n])


def _tried(attacked: Attacked, epsilon: str) -> bool:
    """Whether any attack completed at a budget."""
    return any(
        stage.status == "complete" and any(level.epsilon == epsilon for level in stage.robust)
        for stage in attacked.stages
    )


def _check_sandwich(attacked: Attacked, epsilon: str, robust: Bools) -> None:
    broken = attacked.fooled[epsilon][: len(robust)] & robust
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        raise EvaluationFailed(
            f"image {row} is certified at {attacked.threat.norm} {epsilon} and was fooled there by "
            f"{attacked.by[row] or 'an attack'}: one of the two is wrong; please report it"
        )


def _classes(attacked: Attacked) -> tuple[ClassRow, ...]:
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


def _confusion(attacked: Attacked) -> tuple[tuple[int, ...], ...]:
    k = max(len(attacked.data.classes), int(attacked.taken_for.max()) + 1)
    table = np.zeros((k, k), np.int64)
    np.add.at(table, (attacked.data.labels, attacked.taken_for), 1)
    return tuple(tuple(row) for row in table.tolist())


def _unread(indicator: Indicator) -> Reading:
    return Reading(
        indicator.name,
        indicator.title,
        indicator.source,
        "not examined",
        fires=indicator.fires,
        evidence=TIME_UP,
    )


def _plain_finding(finding: Finding) -> dict[str, Any]:
    return {"reading": asdict(finding.reading), "fooled": list(finding.fooled)}


def _finding(found: Mapping[str, Any]) -> Finding:
    known = {f.name for f in fields(Reading)}
    reading = Reading(**{k: v for k, v in found["reading"].items() if k in known})
    return Finding(reading, tuple(found["fooled"]))
