"""Attack a network stage by stage; what no stage has fooled is what survives."""

import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from robustkit import evaluation
from robustkit import protocol as protocols
from robustkit.attacks import draws_at_random
from robustkit.attacks.draws import seed_of
from robustkit.auditing.outcome import Family, Level, Stage
from robustkit.auditing.plan import AuditPlan, StageSpec, no_version
from robustkit.auditing.wording import counted
from robustkit.data import Dataset
from robustkit.device import devices
from robustkit.errors import EvaluationFailed, InputError, ProtocolError, first_line
from robustkit.evaluation import EvaluatedModel, RunOptions
from robustkit.evaluation.speed import unsuited
from robustkit.protocol import (
    Attack,
    Boundary,
    Epsilon,
    HopSkipJump,
    Noise,
    Norm,
    Protocol,
    SparseRS,
    SpatialGrid,
    SpatialRandom,
    Square,
    labels_of,
)
from robustkit.protocol.words import attack_in_words, attacks_in_words
from robustkit.record import Evaluation, Example, mean_passes
from robustkit.record.columns import integers
from robustkit.seeding import seeded
from robustkit.statistics import proportion

Bools = npt.NDArray[np.bool_]
Begin = Callable[[str, int], Callable[[float], None]]
"""told a part of the audit and how many images it has; returns what is told the images done"""
BLACK_BOX = (Square, SparseRS, HopSkipJump, Boundary, SpatialGrid, SpatialRandom)
KNOWING: tuple[Family, ...] = ("white box", "black box", "floor")
"""families by how much their attacks know of the network: one of several attacks is of the first"""
EXAMPLES = 12
"""how many of the smallest successful perturbations are kept for looking at"""


class OutOfTime(Exception):
    """The minutes of the audit are up; what is finished is kept."""


TIME_UP = "the audit's time was up"


@dataclass(frozen=True, slots=True)
class ThreatModel:
    """What the audit attacks within."""

    norm: Norm
    judged: Epsilon
    budgets: tuple[Epsilon, ...]
    """rising, the judged one among them"""
    seed: int


@dataclass(frozen=True, slots=True)
class StageSettings:
    """Where and how stages run."""

    out: Path
    """folder of the evaluations' records"""
    options: RunOptions
    begin: Begin
    over: Callable[[], bool] = lambda: False
    """whether the audit's minutes are up"""


@dataclass(slots=True)
class AttackedImages:
    """What is known of each image, N in all; stages can only add successes."""

    data: Dataset
    threat: ThreatModel
    right: Bools
    """without an attack"""
    fooled: dict[str, Bools]
    """at each budget, by any stage or without one"""
    by: list[str]
    """the stage that fooled an image first at the judged budget; "" where none did"""
    taken_for: npt.NDArray[np.int64]
    """its class then; of the others the class of the clean image"""
    stages: list[Stage] = field(default_factory=list)
    alone: dict[str, Bools] = field(default_factory=dict)
    """still right after one stage alone, of stages that attacked every image"""
    families: dict[str, Family] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    toml: dict[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    """of the record of the clean images"""
    precisions: set[str] = field(default_factory=set)
    """that the stages' attacks searched in"""
    plain: dict[str, Protocol] = field(default_factory=dict)
    """the stages that make the plain evaluation, with the protocol of each; where a plan has none
    (then a claim is given), its other stages of that attack, which indicators examine"""

    @property
    def precision(self) -> str:
        """In which the stages' attacks searched."""
        return ", ".join(sorted(self.precisions)) or "float32"

    @property
    def judged(self) -> str:
        """The judged budget, as it was written."""
        return self.threat.judged.text

    @property
    def survivors(self) -> Bools:
        """Still right at the judged budget."""
        return ~self.fooled[self.judged]

    def after(self, *families: Family) -> Bools:
        """Still right at the judged budget if only these kinds of attack had run."""
        own = [name for name, family in self.families.items() if family in families]
        right = self.right & ~np.isin(self.by, own)
        for name in own:
            if name in self.alone:  # it met every image, also those that others had fooled first
                right &= self.alone[name]
        return right

    def add(
        self, name: str, family: Family, rows: Sequence[int], found: Evaluation
    ) -> tuple[int, dict[str, int]]:
        """Count a stage's successes; how many were new, and by which attack."""
        self.families[name] = family
        self.precisions.add(found.header.get("precision", "float32"))
        places, broken = np.asarray(rows, int), found.broken_at
        judged = float(self.threat.judged)
        new = (broken <= judged) & ~self.fooled[self.judged][places]
        taken, who = found.table["fooled_as"].to_pylist(), found.table["fooled_by"].to_pylist()
        for row in np.flatnonzero(new):
            self.by[places[row]] = name
            self.taken_for[places[row]] = taken[row]
        for epsilon in self.threat.budgets:
            self.fooled[epsilon.text][places[broken <= float(epsilon)]] = True
        known = {e.index for e in self.examples}
        shown = [replace(e, index=int(places[e.index])) for e in found.examples]
        self.examples += [e for e in shown if e.index not in known]
        self.examples = sorted(self.examples, key=lambda e: (e.distance, e.index))[:EXAMPLES]
        return int(new.sum()), dict(Counter(str(who[row]) for row in np.flatnonzero(new)))

    def level(self, epsilon: Epsilon) -> Level:
        """Worst case over all stages so far, at a budget."""
        left = int((~self.fooled[epsilon.text]).sum())
        return Level(epsilon.text, float(epsilon), proportion(left, len(self.data), "exact"))


def run_stages(
    model: EvaluatedModel,
    data: Dataset,
    threat: ThreatModel,
    plan: AuditPlan,
    settings: StageSettings,
    surrogate: EvaluatedModel | None = None,
) -> AttackedImages:
    """Every stage of a plan in turn. What fails is a failed stage, never a robust image.

    Raises:
        InputError: checkpoint and data do not fit.
        EvaluationFailed: the model breaks without any attack.
    """
    attacked = without_attack(model, data, threat, settings)
    runner = _StageRunner(model, threat, settings, attacked, plain_stages(plan, threat.norm))
    random = any(spec.random for spec in plan.stages) and _is_random(model, data, settings)
    named: Counter[str] = Counter()
    for spec in plan.stages:
        if (random or not spec.random) and spec.meant(threat.norm):
            named[spec.attack] += 1
            runner.protocol(spec, named[spec.attack])
    if surrogate is not None:
        runner.transfer(surrogate)
    return attacked


def without_attack(
    model: EvaluatedModel, data: Dataset, threat: ThreatModel, settings: StageSettings
) -> AttackedImages:
    """What is known of each image before any stage.

    Raises:
        InputError: checkpoint and data do not fit, or the network cannot be evaluated.
        EvaluationFailed: the model breaks.
    """
    protocol = evaluation.resolve_protocol("clean", data, seed=threat.seed)
    # a model that draws at random draws alike when the audit is repeated
    with seeded(seed_of(threat.seed, "audit", "clean"), devices(settings.options.device)[0]):
        options = replace(settings.options, precision="float32")
        found = evaluation.run(model, data, protocol, settings.out, options)
    right = found.broken_at > 0
    return AttackedImages(
        data,
        threat,
        right,
        {e.text: ~right for e in threat.budgets},
        ["" for _ in range(len(data))],
        integers(found.table["predicted"]),
        warnings=found.header["warnings"],
    )


def look_at_others(
    others: Mapping[str, EvaluatedModel],
    model: EvaluatedModel,
    data: Dataset,
    threat: ThreatModel,
    settings: StageSettings,
) -> list[str]:
    """What is warned of other networks than the audited one, before hours are spent on it.

    Raises:
        InputError, EvaluationFailed: one of them, or the audited one, cannot be evaluated.
    """
    if others:  # what is wrong with the audited one is said first
        without_attack(model, data, threat, settings)
    told = []
    for name, other in others.items():
        try:
            found = without_attack(other, data, threat, settings)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        told += [f"{name}: {text}" for text in found.warnings if text not in data.warnings]
    return told


@torch.no_grad()
def _is_random(model: EvaluatedModel, data: Dataset, settings: StageSettings) -> bool:
    device = devices(settings.options.device)[0]
    network, few = model.load(device), torch.from_numpy(data.images(0, min(32, len(data))))
    with seeded(0, device):
        return draws_at_random(network(few.to(device)), network(few.to(device)))


@dataclass(slots=True)
class _StageRunner:
    model: EvaluatedModel
    threat: ThreatModel
    settings: StageSettings
    attacked: AttackedImages
    plain: Sequence[StageSpec]
    """what counts as the plain evaluation"""

    def protocol(self, spec: StageSpec, count: int) -> None:
        """Each attack of a protocol as a stage of its own, so that each has its record.

        `count` says how often the plan has named the protocol: each time it is a stage of its own.
        """
        attack, norm = spec.attack, self.threat.norm
        name = attack if count == 1 else f"{attack} ({count})"
        if norm not in protocols.norms_of(attack):
            self._skip(name, spec)
            return
        whole = protocols.load_protocol(attack, spec.set, norm)
        for one, word in zip(whole.attacks, labels_of(whole.attacks), strict=True):
            own = name if len(whole.attacks) == 1 else f"{name}: {word}"
            protocol = self._resolved(replace(whole, attacks=(one,)), spec)
            if spec in self.plain or (not self.plain and attack == plain_attack(norm)):
                self.attacked.plain[own] = protocol
            taken = {stage.title for stage in self.attacked.stages}
            self._stage(own, _title(whole, one, spec, own, taken), protocol, spec, _family(one))

    def transfer(self, surrogate: EvaluatedModel) -> None:
        """The plain evaluation's protocol by another network's gradients."""
        plain = plain_protocol(self.attacked)
        self._stage(
            "transfer",
            f"Transfer from {surrogate.header['path']}: {attacks_in_words(plain.attacks)}",
            plain,
            StageSpec(plain_attack(self.threat.norm), "all", required=False),
            "transfer",
            surrogate,
        )

    def _resolved(self, protocol: Protocol, spec: StageSpec) -> Protocol:
        budgets = self.threat.budgets if spec.budgets == "all" else (self.threat.judged,)
        return replace(protocol, epsilons=budgets, seed=self.threat.seed)

    def _skip(self, name: str, spec: StageSpec) -> None:
        """Say that the norm has no such attack; required where the plan does not know it."""
        norm, whole = self.threat.norm, protocols.load_protocol(spec.attack)
        own = [_family(attack) for attack in whole.attacks]
        family = next(family for family in KNOWING if family in own)
        needed, reason = spec.required_in(norm), no_version(norm)
        self.attacked.stages.append(Stage(name, whole.title, family, needed, "skipped", reason))

    def _stage(
        self,
        name: str,
        title: str,
        protocol: Protocol,
        spec: StageSpec,
        family: Family,
        surrogate: EvaluatedModel | None = None,
    ) -> None:
        attacked = self.attacked
        everything = spec.budgets == "all"
        open_ = np.arange(len(attacked.data)) if everything else attacked.survivors.nonzero()[0]
        rows = open_[: spec.survivors].tolist() if spec.survivors else open_.tolist()
        stage = Stage(name, title, family, spec.required, "complete", images=len(rows))
        if not rows:
            attacked.stages.append(self._completed(replace(stage, seconds=0.0), protocol))
            attacked.families[name] = family
            return
        try:
            found = self._run(rows, protocol, name, surrogate)
        except OutOfTime:
            attacked.stages.append(replace(stage, status="skipped", reason=TIME_UP))
        except (EvaluationFailed, ProtocolError, RuntimeError) as error:
            attacked.stages.append(replace(stage, status="failed", reason=first_line(error)))
        else:
            attacked.toml[name] = protocols.protocol_toml(found.header["protocol"])
            first, by = attacked.add(name, family, rows, found)
            if everything:
                attacked.alone[name] = found.broken_at > float(self.threat.judged)
            cost = mean_passes(found.table)
            stage = replace(
                stage,
                first=first,
                found_by=by,
                forward=None if cost is None else cost.forward,
                backward=None if cost is None else cost.backward,
                seconds=found.run["seconds"],
                digest=found.digest,
            )
            levels = _levels(found) if everything else ()
            attacked.stages.append(self._completed(stage, protocol, levels))

    def _completed(self, stage: Stage, protocol: Protocol, levels: tuple[Level, ...] = ()) -> Stage:
        """A completed stage with the accuracy after it."""
        attacked = self.attacked
        now = attacked.level(self.threat.judged)
        attacked.toml.setdefault(
            stage.name, protocols.protocol_toml(evaluation.protocol_header(protocol))
        )
        return replace(stage, robust=levels or (now,), so_far=now.accuracy)

    def _run(
        self,
        rows: Sequence[int],
        protocol: Protocol,
        name: str,
        surrogate: EvaluatedModel | None,
    ) -> Evaluation:
        if self.settings.over():
            raise OutOfTime
        watch = self.settings.begin(name, len(rows))

        def progress(done: float, total: int) -> None:
            watch(done)
            if self.settings.over():
                raise OutOfTime

        options = replace(self.settings.options, progress=progress)
        if unsuited(protocol, transfer=surrogate is not None):
            options = replace(options, precision="float32")
        whole = self.attacked.data
        data = whole if len(rows) == len(whole) else whole.take(rows)
        device = devices(options.device)[0]
        with seeded(seed_of(self.threat.seed, "audit", name), device):
            return evaluation.run(self.model, data, protocol, self.settings.out, options, surrogate)


def plain_attack(norm: Norm) -> str:
    """The protocol of the evaluation that is judged where no claim is given."""
    return {"l0": "sparse", "l0-features": "sparse", "patch": "patch", "spatial": "spatial"}.get(
        norm, "pgd"
    )


def plain_stages(plan: AuditPlan, norm: Norm) -> list[StageSpec]:
    """The stages that make a plan's plain evaluation: of its attack, on all images of any network.

    A further stage of that attack on what survived, or for random networks alone, is not of it.
    """
    own = [s for s in plan.stages if s.attack == plain_attack(norm) and s.meant(norm)]
    return [spec for spec in own if spec.budgets == "all" and not spec.random]


def check_plain(plan: AuditPlan, norm: Norm) -> None:
    """Nothing, if a plan runs the plain evaluation, on all images.

    Raises:
        InputError: it does not.
    """
    plain = plain_attack(norm)
    if plain_stages(plan, norm):
        return
    raise InputError(
        f"without --claim an audit judges what {plain} finds, and the plan {plan.name} does not "
        f'run {plain} on all images; give --claim, or add a stage of {plain} with budgets = "all"'
    )


def plain_protocol(attacked: AttackedImages) -> Protocol:
    """The plain evaluation at the judged budget: as the plan ran it, or as it is on the shelf."""
    threat, ran = attacked.threat, list(attacked.plain.values())
    if ran:
        # with what the plan changed: whoever examines another attack says nothing of this one
        whole = replace(ran[0], attacks=tuple(a for one in ran for a in one.attacks))
    else:
        whole = protocols.load_protocol(plain_attack(threat.norm), norm=threat.norm)
    return replace(whole, epsilons=(threat.judged,), seed=threat.seed)


def _family(attack: Attack) -> Family:
    if isinstance(attack, Noise):
        return "floor"
    return "black box" if isinstance(attack, BLACK_BOX) else "white box"


def _title(
    whole: Protocol, attack: Attack, spec: StageSpec, name: str, taken: Container[str]
) -> str:
    """An attack's name and numbers; where another stage has them, whose attack it is."""
    words = attack_in_words(attack)
    on = f", on {counted(spec.survivors, 'survivor')}" if spec.survivors else ""
    starts = words, f"{words} ({whole.name})", f"{words} ({name})"
    return next((s + on for s in starts if s not in taken and s + on not in taken), starts[-1] + on)


def _levels(found: Evaluation) -> tuple[Level, ...]:
    points = found.robust("exact")
    return tuple(Level(p.epsilon.text, float(p.epsilon), p.accuracy) for p in points)


def minutes(limit: float | None) -> Callable[[], bool]:
    """Whether so many minutes from now are up; never without a limit."""
    started = time.monotonic()
    return lambda: limit is not None and time.monotonic() - started > 60 * limit
