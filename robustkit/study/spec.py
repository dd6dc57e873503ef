"""A study's file: the question, the claims and every choice, fixed before anything is trained.

Needs no torch. Everything that is not text for reading goes into the study's digest.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, TypeVar, get_args

from robustkit.errors import InputError, UnknownName
from robustkit.files import build, canonical, digest, find, fraction, read_toml

T = TypeVar("T")
Says = Literal["better", "equivalent", "ratio"]
Figure = Literal[
    "curves", "differences", "memorisation", "held-out", "cost", "transfer", "examples"
]
Table = Literal["claims", "accuracy", "areas", "differences", "cost"]
Unit = Literal["seed", "network"]
Test = Literal["sign-flip permutation", "Wilcoxon", "bootstrap over seeds"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
TABLES: tuple[Table, ...] = get_args(Table)
TESTS: tuple[Test, ...] = get_args(Test)
TRAINED = ("label_noise", "data_fraction")
"""factors that a training is asked for; `epsilon` is asked of an evaluation"""
NAMED = ("title", "question", "notes", "text", "source", "reason")
"""keys that say something to a reader and decide nothing"""
UNASKED = ("where", "changes", "figures", "tables")
"""fields of a study that say where it came from and what is shown of it"""
MOST_STEPS = 10**8
"""of a training; more are a slip of the finger"""


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

    seed: int | None = None
    """of trainings that are compared in nothing else, surrogates among them; where every seed
    chooses, only of these"""
    at: tuple[str, ...] = ()
    """levels of the first analysis whose held-out accuracies are added up; none: at each level"""
    every_seed: bool = False
    """each compared seed chooses by its own trainings, so that intervals over seeds carry the
    choice (Bouthillier et al. 2021); else one choice, by the seed above, holds for all of them"""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What differences are judged by."""

    unit: Unit = "seed"
    """of replication: trainings, of which there are several a method, or one network each, and
    then a verdict says nothing of what training again would give"""
    tests: tuple[Test, ...] = TESTS
    """shown beside the one that decides (two-way t over seeds, McNemar's for networks), where there
    are seeds enough"""


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
    statistics: Statistics = Statistics()
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = FIGURES
    """kinds that are drawn"""
    tables: tuple[Table, ...] = TABLES
    """kinds that are written"""
    text: str = field(default="", compare=False)
    """the file's own"""
    where: str = field(default="", compare=False)
    """the file, to begin a message with"""
    changes: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False)
    """to the file, by table, as `load` takes them"""

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides: a changed claim or Δ makes another study.

        What the file is called, what it says to readers only, and what is drawn of the outcome, is
        no part of it.
        """
        table = asdict(replace(self, name=""))
        if self.statistics == Statistics():  # as it was before a file could say so
            del table["statistics"]
        if self.tuning is not None and not self.tuning.every_seed:
            del table["tuning"]["every_seed"]
        return digest(canonical(_deciding({k: v for k, v in table.items() if k not in UNASKED})))


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
    figures: tuple[Figure, ...] = FIGURES
    tables: tuple[Table, ...] = TABLES
    train: dict | None = None  # type: ignore[type-arg]
    checkpoints: dict | None = None  # type: ignore[type-arg]
    tuning: dict | None = None  # type: ignore[type-arg]
    statistics: dict | None = None  # type: ignore[type-arg]
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
    # in the order in which a study's folder keeps them
    kept = {section: dict(sorted(values.items())) for section, values in sorted(changes.items())}
    return replace(parse(merged(text, changes), name, where), text=text, changes=kept)


def merged(text: str, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The table of a study's file, with changes; see `load`."""
    table = tomllib.loads(text)
    for section, values in changes.items():
        if not section:
            table |= values
        elif isinstance(old := table.get(section, {}), dict):  # what else it may be, is refused
            table[section] = {**old, **values}
    return table


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
        build(Statistics, file.statistics or {}, f"{where}: [statistics]"),
        _each(Claim, file.claim, f"{where}: [[claim]]"),
        file.notes,
        file.figures,
        file.tables,
        where=where,
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
    if study.brought is not None and not (study.brought.pattern or study.brought.runs):
        raise InputError(f"{where}: [checkpoints] needs a pattern of files, or runs")
    if not study.analyses:
        raise InputError(f"{where}: needs at least one [[analysis]]")
    _distinct(where, "[[method]] name", [m.name for m in study.methods])
    _distinct(where, "[[analysis]] name", [a.name for a in study.analyses])
    _distinct(where, "[[claim]] name", [c.name for c in study.claims])
    _distinct(where, "figures", study.figures)
    _distinct(where, "tables", study.tables)
    _distinct(where, "[statistics] tests", study.statistics.tests)
    _check_limit(study.tested.limit, f"{where}: [test]")
    for analysis in study.analyses:
        _check_analysis(study, analysis, f"{where}: analysis {analysis.name!r}")
    for claim in study.claims:
        _check_claim(study, claim, f"{where}: claim {claim.name!r}")
    if study.tuning is not None:
        _check_tuning(study.tuning, study, where)
    if study.trained is not None:
        _check_trained(study, study.trained, where)
    return study


def _check_trained(study: Study, trained: Trained, where: str) -> None:
    if not study.methods or not trained.seeds:
        raise InputError(f"{where}: [train] needs seeds, and at least one [[method]]")
    _known(where, "baseline", study.baseline, [m.name for m in study.methods])
    _distinct(where, "[train] seeds", trained.seeds)
    _check_seeds(trained.seeds, f"{where}: [train] seeds")
    if study.statistics.unit == "network" and len(trained.seeds) > 1:
        raise InputError(
            f'{where}: [statistics] unit "network" takes one network of a method, but [train] has '
            f"{len(trained.seeds)} seeds; leave one, or leave the unit out"
        )
    _check_amounts(trained, f"{where}: [train]")
    counts = {len(m.choose) for m in study.methods}
    if len(counts) > 1:
        said = ", ".join(f"{m.name} {len(m.choose)}" for m in study.methods)
        raise InputError(
            f"{where}: every method needs the same number of configurations to choose from, but "
            f"there are {said}"
        )
    if counts == {0}:
        raise InputError(f"{where}: choose = [] leaves no configuration; leave it out")
    if counts != {1} and study.tuning is None:
        raise InputError(f"{where}: configurations to choose from need a [tuning]")


def _check_amounts(trained: Trained, where: str) -> None:
    if trained.steps < 1 or trained.batch_size < 1:
        raise InputError(f"{where} steps and batch_size must be above 0")
    if trained.steps > MOST_STEPS:
        raise InputError(f"{where} steps {trained.steps}: must be at most {MOST_STEPS:,}")
    if trained.hold_out and fraction(trained.hold_out, f"{where} hold_out") < 0:
        raise InputError(f"{where} hold_out {trained.hold_out}: must not be negative")


def _check_tuning(tuning: Tuning, study: Study, where: str) -> None:
    if tuning.seed is None and not tuning.every_seed:
        raise InputError(f"{where}: [tuning] needs a seed, or every_seed = true")
    if tuning.every_seed and all(len(m.choose) == 1 for m in study.methods):
        raise InputError(
            f"{where}: [tuning] every_seed: no method has configurations to choose from"
        )
    if tuning.seed is not None:
        _check_seeds([tuning.seed], f"{where}: [tuning] seed")
        if study.trained is not None and tuning.seed in study.trained.seeds:
            raise InputError(f"{where}: [tuning] seed {tuning.seed} is also one of the compared")
    _distinct(where, "[tuning] at", tuning.at)
    for level in tuning.at:
        _known(where, "[tuning] at", level, study.analyses[0].levels)


def _check_seeds(seeds: Sequence[int], where: str) -> None:
    for seed in seeds:
        if seed < 0:
            raise InputError(f"{where}: {seed} must not be negative")


def _check_limit(limit: int | None, where: str) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"{where} limit {limit}: must be above 0")


def _check_analysis(study: Study, analysis: Analysis, where: str) -> None:
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
    _check_delta(analysis.delta or 0.0, where)
    _check_limit(analysis.limit, f"{where}:")
    _check_levels(analysis.factor, analysis.levels, where)
    for factor in TRAINED:
        _check_levels(factor, [getattr(analysis, factor)], where)
    if analysis.surrogate:
        _known(where, "surrogate", analysis.surrogate, names)
        if study.tuning is None or study.tuning.seed is None:
            raise InputError(f"{where}: a surrogate is trained with [tuning]'s seed; give one")


def _check_levels(factor: str, levels: Sequence[str], where: str) -> None:
    """Each within the factor's range, and no number twice, however it is written."""
    seen: dict[Fraction, str] = {}
    for text in levels:
        value = fraction(text, f"{where}: level")
        if value in seen:
            raise InputError(f"{where}: levels {seen[value]} and {text} are the same number")
        seen[value] = text
        if (wrong := _outside(factor, value)) is not None:
            raise InputError(f"{where}: level {text}: {wrong}")


def _outside(factor: str, value: Fraction) -> str | None:
    """What is wrong with a level; None: nothing."""
    match factor:
        case "label_noise" if not 0 <= value < 1:
            return "label noise must be from 0 to below 1"
        case "data_fraction" if not 0 < value <= 1:
            return "a data fraction must be above 0 and at most 1"
        case "epsilon" if value <= 0:
            return "a budget must be above 0"
    return None


def _check_delta(delta: float, where: str) -> None:
    if not 0 <= delta < math.inf:
        raise InputError(f"{where}: delta {delta:g}: must be a number of points from 0 on")


def _check_claim(study: Study, claim: Claim, where: str) -> None:
    if claim.a == claim.b:
        raise InputError(f"{where}: compares {claim.a!r} with itself; a and b must differ")
    _check_delta(claim.delta, where)
    if claim.says == "equivalent" and not claim.delta:
        raise InputError(f"{where}: delta must be above 0 points to claim equivalence")
    if claim.says == "ratio":
        _check_bounds(claim.bounds, where)
    if not claim.reason:
        raise InputError(f"{where}: give the reason for its delta or bounds")
    analysis = next((a for a in study.analyses if a.name == claim.analysis), None)
    _check_levels(analysis.factor if analysis else "", claim.levels, where)
    if analysis is None:
        _check_elsewhere(study, claim, where)
    else:
        _check_tested(study, claim, analysis, where)


def _check_bounds(bounds: Sequence[float], where: str) -> None:
    if len(bounds) != 2:
        raise InputError(f"{where}: a ratio needs bounds = [lowest, highest]")
    if not 0 < bounds[0] < bounds[1] < math.inf:
        low, high = bounds
        raise InputError(
            f"{where}: bounds [{low:g}, {high:g}]: must be above 0, finite, and the lowest first"
        )


def _check_elsewhere(study: Study, claim: Claim, where: str) -> None:
    """A claim about an analysis of another study is "not tested" here; one misspelt is refused."""
    # a known name with words added, such as cifar10-label-noise, is meant as it stands
    others = [a.name for a in study.analyses if f"-{a.name}-" not in f"-{claim.analysis}-"]
    unknown = UnknownName(
        "analysis",
        claim.analysis,
        others,
        "a claim about an analysis of another study needs a name less like it",
    )
    if unknown.close is not None:
        raise InputError(f"{where}: {unknown}")


def _check_tested(study: Study, claim: Claim, analysis: Analysis, where: str) -> None:
    """What a claim says can be read off its analysis."""
    if (claim.says == "ratio") != (analysis.factor == "cost"):
        measured = "times" if analysis.factor == "cost" else "accuracies"
        fitting = '"ratio"' if analysis.factor == "cost" else '"better" or "equivalent"'
        raise InputError(
            f"{where}: says {claim.says!r}, but the analysis {analysis.name!r} has {measured}, of "
            f"which a claim says {fitting}"
        )
    if not study.methods:
        return
    for name in (claim.a, claim.b):
        _known(where, "method", name, analysis.methods or [m.name for m in study.methods])
    values = [Fraction(level) for level in analysis.levels]
    for level in claim.levels:
        if Fraction(level) not in values:
            _known(where, "level", level, analysis.levels)


def _known(where: str, what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise InputError(f"{where}: {UnknownName(what, name, known)}")


def _distinct(where: str, what: str, values: Sequence[object]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise InputError(f"{where}: {what}: {value} stands there {count} times")
