"""A study's file: the question, the claims and every choice, fixed before anything is trained.

Needs no torch. Everything that is not text for reading goes into the study's digest.
"""

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

from robustkit.errors import InputError, UnknownName
from robustkit.files import build, canonical, digest, find, fraction, read_toml

T = TypeVar("T")
Says = Literal["better", "equivalent", "ratio"]
TRAINED = ("label_noise", "data_fraction")
"""factors that a training is asked for; `epsilon` is asked of an evaluation"""
NAMED = ("title", "question", "notes", "text", "source", "reason")
"""keys that say something to a reader and decide nothing"""


@dataclass(frozen=True, slots=True)
class Trained:
    """How the networks of a study are made, whatever the loss."""

    model: str
    data: str
    seeds: tuple[int, ...]
    steps: int
    """optimiser steps of a training: the same for every method"""
    batch_size: int = 128
    hold_out: str = ""
    """images that choices are made by; "" for the data set's usual"""
    noise_kind: str = "symmetric"


@dataclass(frozen=True, slots=True)
class Brought:
    """Networks that were made elsewhere."""

    pattern: str = ""
    """files, with fields in braces: "nets/{loss}_noise{label_noise}_seed{seed}.pt" """
    runs: str = ""
    """instead: a folder of evaluations, which know how their checkpoints were made"""
    method: str = "loss"
    """the field that tells the methods apart"""
    model: str | None = None
    """architecture, where the files don't say"""


@dataclass(frozen=True, slots=True)
class Tested:
    """What every network is tested on."""

    data: str
    split: str = "test"
    limit: int | None = None
    """only the first so many images"""
    protocol: str = "clean"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a configuration is chosen for every method: by held-out labels, corrupted alike."""

    seed: int
    """of trainings that are compared in nothing else"""
    at: tuple[str, ...] = ()
    """levels of the first analysis whose held-out accuracies are added up; none: at each level"""


@dataclass(frozen=True, slots=True)
class Method:
    """What is compared."""

    name: str
    loss: str
    settings: dict[str, Any] = field(default_factory=dict)
    """of the loss"""
    recipe: dict[str, Any] = field(default_factory=dict)
    """where it is not the default of loss and data; also `compress`, and `memory` of it"""
    choose: tuple[dict[str, Any], ...] = ({},)
    """configurations to choose from: keys of the recipe, and `settings` of the loss"""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Accuracy against one factor."""

    name: str
    factor: str
    """label_noise, data_fraction, epsilon, or for networks made elsewhere any field"""
    title: str = ""
    levels: tuple[str, ...] = ()
    """as text; none: whatever the networks made elsewhere have, or a data set's usual budgets"""
    label_noise: str = "0"
    """where it is not the factor"""
    data_fraction: str = "1"
    protocol: str = ""
    """where the factor is epsilon"""
    surrogate: str = ""
    """method whose networks, of a seed of their own, the attack works on"""
    methods: tuple[str, ...] = ()
    """none: all"""
    seeds: tuple[int, ...] = ()
    """none: all"""
    delta: float | None = None
    """difference that counts as none, in points, where no claim says so"""
    limit: int | None = None
    """only the first so many test images"""
    log: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody says, and what would count for and against it."""

    name: str
    text: str
    analysis: str
    says: Says
    a: str
    b: str
    source: str
    delta: float = 0.0
    """in points; of a ratio unused"""
    reason: str = ""
    """why this Δ, or these bounds"""
    levels: tuple[str, ...] = ()
    """none: all of the analysis"""
    bounds: tuple[float, ...] = ()
    """of a ratio: lowest and highest"""


@dataclass(frozen=True, slots=True)
class Study:
    """A question about many networks; see `parse` for its file."""

    name: str
    title: str
    question: str
    baseline: str
    tested: Tested
    analyses: tuple[Analysis, ...]
    methods: tuple[Method, ...] = ()
    trained: Trained | None = None
    brought: Brought | None = None
    tuning: Tuning | None = None
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()
    text: str = field(default="", compare=False)
    """the file's own"""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)
    """to what the file says, see `load`"""

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides: a changed claim or Δ makes another study.

        What the file is called, and what it says to readers only, is no part of it.
        """
        table = asdict(replace(self, name="", text="", changes={}))
        del table["changes"]  # they are in the study already
        return digest(canonical(_deciding(table)))


def _deciding(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _deciding(v) for k, v in value.items() if k not in NAMED}
    if isinstance(value, list | tuple):
        return [_deciding(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class _File:
    """The top level of a study's TOML."""

    title: str
    question: str
    test: dict  # type: ignore[type-arg]
    analysis: tuple[dict, ...]  # type: ignore[type-arg]
    baseline: str = ""
    notes: tuple[str, ...] = ()
    train: dict | None = None  # type: ignore[type-arg]
    checkpoints: dict | None = None  # type: ignore[type-arg]
    tuning: dict | None = None  # type: ignore[type-arg]
    method: tuple[dict, ...] = ()  # type: ignore[type-arg]
    claim: tuple[dict, ...] = ()  # type: ignore[type-arg]


def load(name: str, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Study:
    """A study by name or path.

    Args:
        name: a name on the shelf `reports/`, or a path.
        changes: keys to change by table: {"test": {"data": "mnist"}}; "" is the top level.

    Raises:
        InputError: no such file, or a key, type or number in it makes no sense.
    """
    path = find("reports", name)
    read_toml(path)  # for its message, which has line and column
    return of_text(path.read_text(encoding="utf-8"), path.stem, str(path), changes or {})


def of_text(text: str, name: str, where: str, changes: Mapping[str, Mapping[str, Any]]) -> Study:
    """A study from its file's text; see `load`."""
    table = tomllib.loads(text)
    for section, values in changes.items():
        table[section] = {**table.get(section, {}), **values}
    top = table.pop("", {})
    return replace(parse(table | top, name, where), text=text, changes=changes)


def parse(table: Mapping[str, Any], name: str, where: str) -> Study:
    """A study from the table of its file.

    Raises:
        InputError: a key, type or number makes no sense; the message names file and key.
    """
    file = build(_File, table, where)
    study = Study(
        name,
        file.title,
        file.question,
        file.baseline,
        build(Tested, file.test, f"{where}: [test]"),
        _each(Analysis, file.analysis, f"{where}: [[analysis]]"),
        _each(Method, file.method, f"{where}: [[method]]"),
        None if file.train is None else build(Trained, file.train, f"{where}: [train]"),
        None
        if file.checkpoints is None
        else build(Brought, file.checkpoints, f"{where}: [checkpoints]"),
        None if file.tuning is None else build(Tuning, file.tuning, f"{where}: [tuning]"),
        _each(Claim, file.claim, f"{where}: [[claim]]"),
        file.notes,
    )
    return _checked(study, where)


def _each(cls: type[T], tables: Sequence[Mapping[str, Any]], where: str) -> tuple[T, ...]:
    return tuple(build(cls, table, f"{where} {i}") for i, table in enumerate(tables, 1))


def _checked(study: Study, where: str) -> Study:
    """The study itself, if its parts go together.

    Raises:
        InputError: they don't; the message says which.
    """
    if (study.trained is None) == (study.brought is None):
        raise InputError(
            f"{where}: give either [train], for networks to be trained, or [checkpoints], for "
            "networks made elsewhere"
        )
    _distinct(where, "[[method]] name", [m.name for m in study.methods])
    _distinct(where, "[[analysis]] name", [a.name for a in study.analyses])
    _distinct(where, "[[claim]] name", [c.name for c in study.claims])
    for analysis in study.analyses:
        _check_analysis(study, analysis, f"{where}: analysis {analysis.name!r}")
    for claim in study.claims:
        _check_claim(study, claim, f"{where}: claim {claim.name!r}")
    if study.trained is not None:
        _check_trained(study, study.trained, where)
    return study


def _check_trained(study: Study, trained: Trained, where: str) -> None:
    if not study.methods or not trained.seeds:
        raise InputError(f"{where}: [train] needs seeds, and at least one [[method]]")
    _known(where, "baseline", study.baseline, [m.name for m in study.methods])
    _distinct(where, "[train] seeds", trained.seeds)
    if trained.steps < 1 or trained.batch_size < 1:
        raise InputError(f"{where}: [train] steps and batch_size must be above 0")
    counts = {len(m.choose) for m in study.methods}
    if len(counts) > 1:
        said = ", ".join(f"{m.name} {len(m.choose)}" for m in study.methods)
        raise InputError(
            f"{where}: every method needs the same number of configurations to choose from, but "
            f"there are {said}"
        )
    if counts == {1}:
        return
    if study.tuning is None:
        raise InputError(f"{where}: configurations to choose from need a [tuning] with its seed")
    if study.tuning.seed in trained.seeds:
        raise InputError(f"{where}: [tuning] seed {study.tuning.seed} is also one of the compared")
    for level in study.tuning.at:
        _known(where, "[tuning] at", level, study.analyses[0].levels)


def _check_analysis(study: Study, analysis: Analysis, where: str) -> None:
    _distinct(where, "levels", analysis.levels)
    names = [m.name for m in study.methods]
    for name in analysis.methods if names else ():
        _known(where, "methods", name, names)
    if study.trained is not None:
        _known(where, "factor", analysis.factor, [*TRAINED, "epsilon", "cost"])
        if analysis.factor in TRAINED and not analysis.levels:
            raise InputError(f"{where}: levels are missing")
        for seed in analysis.seeds:
            if seed not in study.trained.seeds:
                raise InputError(f"{where}: seed {seed} is not among those of [train]")
    if analysis.factor == "epsilon" and not analysis.protocol:
        raise InputError(f"{where}: the factor epsilon needs a protocol")
    for level in (*analysis.levels, analysis.label_noise, analysis.data_fraction):
        fraction(level, f"{where}: level")
    if analysis.surrogate:
        _known(where, "surrogate", analysis.surrogate, names)
        if study.tuning is None:
            raise InputError(f"{where}: a surrogate is trained with [tuning]'s seed; give one")


def _check_claim(study: Study, claim: Claim, where: str) -> None:
    analyses = {a.name: a for a in study.analyses}
    # an analysis that the file does not have is a claim without data: it is "not tested"
    if claim.analysis in analyses and study.methods:
        for name in (claim.a, claim.b):
            _known(where, "method", name, [m.name for m in study.methods])
        for level in claim.levels:
            _known(where, "level", level, analyses[claim.analysis].levels)
    if claim.delta < 0 or (claim.says == "equivalent" and not claim.delta):
        raise InputError(f"{where}: delta must be above 0 points to claim equivalence")
    if claim.says == "ratio" and len(claim.bounds) != 2:
        raise InputError(f"{where}: a ratio needs bounds = [lowest, highest]")
    if not claim.reason:
        raise InputError(f"{where}: give the reason for its delta or bounds")


def _known(where: str, what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise InputError(f"{where}: {UnknownName(what, name, known)}")


def _distinct(where: str, what: str, values: Sequence[object]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise InputError(f"{where}: {what}: {value} stands there {count} times")
