"""What an audit runs: its file, by name or path. No torch."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from robustkit import protocol as protocols
from robustkit.auditing import thresholds
from robustkit.errors import InputError, UnknownName
from robustkit.files import build, read_text, read_toml, shipped
from robustkit.parsing import parse_fraction
from robustkit.protocol import BALLS, Norm

DEFAULT = "standard"


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One protocol of the plan; each of its attacks becomes a stage."""

    attack: str
    """the protocol's name; where it lacks the audit's norm, the stage is skipped, and said"""
    budgets: Literal["all", "judged"]
    """all: every image at every budget; judged: at the judged budget, what survived so far"""
    required: bool
    set: tuple[str, ...] = ()
    """changes to the protocol's attacks: "queries=1000" """
    survivors: int = 0
    """only the first so many images that survived so far; 0 for all"""
    random: bool = False
    """only for a model that draws at random"""
    norms: tuple[Norm, ...] = ()
    """those that the plan has it for; () for all"""

    def meant(self, norm: Norm) -> bool:
        """Whether it is for this kind of threat: one for balls says that it lacks one of them."""
        has = protocols.norms_of(self.attack)
        if norm in has:
            return self._named(norm)
        return norm in BALLS and any(own in BALLS for own in has)

    def required_in(self, norm: Norm) -> bool:
        """Whether a verdict of "believable" needs it: not where the plan says it has no such."""
        return self.required and self._named(norm)

    def _named(self, norm: Norm) -> bool:
        return not self.norms or norm in self.norms


@dataclass(frozen=True, slots=True)
class Smoothing:
    """The smoothed classifier of Cohen et al. 2019, an object of its own."""

    images: int
    sigma: float
    draws: int
    alpha: float = 0.001
    radii: tuple[float, ...] = ()
    """none: half of sigma, sigma and twice sigma, as far as so many draws reach"""


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """What is run, in rising order of cost. Numbers of images are the first so many; 0 is all."""

    name: str
    title: str
    images: int
    delta: float
    """a claim above the truth by less, a share, may be believed"""
    stages: tuple[StageSpec, ...]
    indicators: int
    certified: int
    multiplications: float
    """that linear relaxation may take for a certified image"""
    branching: float
    """seconds that branch and bound may take for an image that is open; 0 leaves it out"""
    corrupted: int
    smoothing: Smoothing | None
    thresholds: Mapping[str, Any]
    """changes to the shipped thresholds of indicators"""
    text: str
    """the file's own text, for the record"""


@dataclass(frozen=True, slots=True)
class _StageTable:
    attack: str
    required: bool
    budgets: Literal["all", "judged"] = "judged"
    set: tuple[str, ...] = ()
    survivors: int = 0
    random: bool = False
    norms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _PlanFile:
    title: str
    images: int
    delta: float
    indicators: int
    certified: int
    multiplications: float
    corrupted: int
    stage: tuple[dict, ...]  # type: ignore[type-arg]
    branching: float = 0.0
    smoothing: dict | None = None  # type: ignore[type-arg]
    thresholds: dict | None = None  # type: ignore[type-arg]


def plan_names() -> list[str]:
    """The shipped plans."""
    folder = shipped("reports") / "audit"
    return sorted(path.stem for path in folder.glob("*.toml") if path.stem != "thresholds")


def load_plan(name: str) -> AuditPlan:
    """A plan by name, or from a file.

    Raises:
        UnknownName: no shipped plan of that name.
        InputError: a key, type or number that makes no sense, in a stage's protocol, too; the
            message names file and key.
    """
    path = Path(name) if name.endswith(".toml") else shipped("reports") / "audit" / f"{name}.toml"
    if not name.endswith(".toml") and name not in plan_names():
        raise UnknownName("budget", name, plan_names())
    where = str(path)
    file = build(_PlanFile, read_toml(path), where)
    for key in ("images", "indicators", "certified", "corrupted"):
        if getattr(file, key) < 0:
            raise InputError(f"{where}: {key} must not be negative; 0 means all")
    if not 0 < file.delta < 1:
        raise InputError(
            f"{where}: delta must lie between 0 and 1, 0.05 for 5 points, got {file.delta:.6g}"
        )
    if not 0 <= file.multiplications < inf:
        raise InputError(f"{where}: multiplications must be a number from 0, 2e9 for example")
    if not 0 <= file.branching < inf:
        raise InputError(f"{where}: branching must be a number of seconds from 0")
    stages = tuple(_stage(t, f"{where}: [[stage]] {i}") for i, t in enumerate(file.stage, 1))
    smoothing = None if file.smoothing is None else _smoothing(file.smoothing, where)
    thresholds.checked(file.thresholds or {}, f"{where}: [thresholds]")
    return AuditPlan(
        path.stem,
        file.title,
        file.images,
        file.delta,
        stages,
        file.indicators,
        file.certified,
        file.multiplications,
        file.branching,
        file.corrupted,
        smoothing,
        file.thresholds or {},
        read_text(path),
    )


def _smoothing(table: Mapping[str, Any], where: str) -> Smoothing:
    where = f"{where}: [smoothing]"
    found = build(Smoothing, table, where)
    if found.images < 0:
        raise InputError(f"{where}: images must not be negative; 0 means all")
    if not found.sigma > 0:
        raise InputError(f"{where}: sigma must be above 0, in pixels of [0, 1]")
    if found.draws < 1:
        raise InputError(f"{where}: draws must be 1 or more")
    if not 0 < found.alpha < 1:
        raise InputError(f"{where}: alpha must lie between 0 and 1, 0.001 for example")
    # the largest radius there can be, if all draws agree (Cohen et al. 2019, section 3.2.2)
    most = found.sigma * NormalDist().inv_cdf(found.alpha ** (1 / found.draws))
    usual = tuple(r for r in (found.sigma / 2, found.sigma, 2 * found.sigma) if r < most)
    radii = found.radii or usual or (found.sigma / 2,)
    if min(radii) <= 0:
        raise InputError(f"{where}: radii must be numbers above 0")
    if max(radii) >= most:
        raise InputError(
            f"{where}: no network can be certified at radius {max(radii):g}: {found.draws} draws "
            f"reach {max(most, 0):.3g}; give more draws, a larger sigma, or smaller radii"
        )
    return replace(found, radii=radii)


def _stage(table: Mapping[str, Any], where: str) -> StageSpec:
    stage = build(_StageTable, table, where)
    if stage.survivors < 0:
        raise InputError(f"{where}: survivors must not be negative; 0 means all")
    if stage.budgets == "all" and stage.survivors:
        raise InputError(f'{where}: survivors goes with budgets = "judged"')
    norms = tuple(protocols.parse_norm(norm, f"{where}: norms") for norm in stage.norms)
    _check_protocol(stage, norms, where)
    return StageSpec(
        stage.attack,
        stage.budgets,
        stage.required,
        stage.set,
        stage.survivors,
        stage.random,
        norms,
    )


def _check_protocol(stage: _StageTable, norms: Sequence[Norm], where: str) -> None:
    """Nothing, if a stage's attack can be carried out: what is wrong is said before any work.

    Where a stage does not say for which norms it is, a change may concern some of them alone.

    Raises:
        InputError: no such attack, no such norm of it, or a change to it that makes no sense.
    """
    try:
        has = [protocols.parse_norm(norm, where) for norm in protocols.norms_of(stage.attack)]
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    refused = []
    for norm in norms or has:
        try:
            protocols.load_protocol(stage.attack, stage.set, norm)
        except InputError as error:
            refused.append(error)
    if refused and (norms or len(refused) == len(has)):
        raise InputError(f"{where}: {refused[0]}") from refused[0]


def no_version(norm: str) -> str:
    """Why a stage is skipped whose attack is not for a norm."""
    return f"it has no {norm} version"


def out_of_reach(plan: AuditPlan, norm: Norm) -> list[str]:
    """Why no claim can come out believable, whatever the network: to be said before any work."""
    found = []
    for spec in plan.stages:
        has = protocols.norms_of(spec.attack)
        if norm not in has and spec.meant(norm) and spec.required_in(norm):
            of = "of a network that draws at random " if spec.random else ""
            found.append(
                f"the plan {plan.name} requires {spec.attack}, which has no {norm} version: no "
                f"claim {of}will be called believable; where another stage does its work in "
                f"{norm}, give it norms = {json.dumps(has)}"
            )
    return found


def parse_budget(text: str) -> tuple[AuditPlan, float | None]:
    """The plan that `--budget` names, and its minutes, where it gives some: "20", "20min".

    Raises:
        InputError: minutes of 0, or a plan that cannot be read.
    """
    number = text.removesuffix("min").strip()
    limit = None
    with suppress(ValueError):
        limit = float(parse_fraction(number))
    if limit is not None and limit <= 0:
        raise InputError(f"--budget {text}: minutes must be above 0")
    return load_plan(DEFAULT if limit is not None else text), limit
