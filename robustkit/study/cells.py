"""Cells: the trainings that a study needs, each named by the digest of all that it depends on.

A cell is trained once, whichever analyses use it, and evaluated once for each protocol. Needs no
torch: a plan can be made, shown and reported on without it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from robustkit import compression
from robustkit.data import Dataset
from robustkit.errors import InputError, UnknownName
from robustkit.files import build, canonical, digest, fraction
from robustkit.study.spec import TRAINED, Analysis, Method, Study, Trained, Tuning
from robustkit.training.recipe import Recipe, checked, default_recipe, default_settings, spell

REVISION = 1
"""raised by whatever changes what the same cell comes to"""
FIXED = ("epochs", "steps", "batch_size", "hold_out")
"""keys of a recipe that are the same for all methods"""


class Context(NamedTuple):
    """What networks are trained on, beside the loss and the seed."""

    label_noise: str
    data_fraction: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One training."""

    method: str
    context: Context
    configuration: int
    """which of the method's, from 0 on"""
    seed: int
    asked: dict[str, Any]
    """the training in full, as JSON"""

    @property
    def key(self) -> str:
        """The digest of what was asked, which names its files."""
        return digest(canonical(self.asked))[:24]


@dataclass(frozen=True, slots=True)
class Test:
    """One evaluation of a cell."""

    cell: str
    """key of the network that is judged"""
    protocol: str
    epsilons: tuple[str, ...]
    limit: int | None
    data: str
    split: str
    digest: str
    """of the images that are tested"""
    surrogate: str = ""
    """key of the network that the attack works on"""

    @property
    def key(self) -> str:
        """The digest of what was asked, which names its file."""
        return digest(canonical(asdict(self)))[:24]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one number of an analysis needs."""

    analysis: str
    method: str
    level: str
    """of the factor; "" where the factor is epsilon, whose levels one evaluation has all"""
    seed: int
    cell: str
    test: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that was tried for a method."""

    method: str
    context: Context
    configuration: int
    cell: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is to be done, as far as it is known: choices come first."""

    cells: dict[str, Cell]
    tests: dict[str, Test]
    wanted: tuple[Wanted, ...]
    candidates: tuple[Candidate, ...]
    chosen: dict[str, int]
    """configuration by `place(method, context)`"""
    later: dict[str, int]
    """by method: trainings that follow when configurations have been chosen"""


def place(method: str, context: Context) -> str:
    """A method at a context, as text."""
    return f"{method} | noise {context.label_noise} | fraction {context.data_fraction}"


class Planner:
    """Makes the plan of a study whose networks are trained here."""

    def __init__(
        self, study: Study, trained: Trained, data: Dataset, tested: Callable[[int | None], str]
    ) -> None:
        self.study, self.trained, self.data = study, trained, data
        self.tested = tested  # digest of so many test images
        self.methods = {m.name: m for m in study.methods}
        self.cells: dict[str, Cell] = {}
        self.tests: dict[str, Test] = {}

    def plan(self, held_out: Mapping[str, float]) -> Plan:
        """The plan, given the held-out accuracy of the tuning cells that are done.

        Args:
            held_out: by key; a cell that failed counts as 0.
        """
        self.cells, self.tests = {}, {}
        candidates = tuple(self._candidates())
        chosen: dict[str, int] = {}
        wanted: list[Wanted] = []
        later: set[tuple[str, Context, int]] = set()
        for analysis in self.study.analyses:
            for method, level, seed, context in self.numbers(analysis):
                found = self._choice(method, context, candidates, held_out)
                surrogate = self._surrogate(analysis, context, candidates, held_out)
                if found is None or surrogate is None:
                    later.add((method, context, seed))
                    continue
                chosen[place(method, context)] = found
                cell = self._add(self.cell(method, context, found, seed))
                test = evaluation_of(self.study, analysis, cell.key, self.tested, surrogate)
                self.tests.setdefault(test.key, test)
                wanted.append(Wanted(analysis.name, method, level, seed, cell.key, test.key))
        counts = dict(Counter(method for method, _, _ in later))
        return Plan(self.cells, self.tests, tuple(wanted), candidates, chosen, counts)

    def numbers(self, analysis: Analysis) -> Iterator[tuple[str, str, int, Context]]:
        """Method, level, seed and context of every network that an analysis compares."""
        if analysis.factor == "cost":
            return
        levels = analysis.levels if analysis.factor in TRAINED else ("",)
        # whole seeds first: where time runs out, what is done can be compared
        for seed in analysis.seeds or self.trained.seeds:
            for level in levels:
                for method in analysis.methods or tuple(self.methods):
                    yield method, level, seed, context(analysis, level)

    def _candidates(self) -> Iterator[Candidate]:
        tuning = self.study.tuning
        if tuning is None or len(self.study.methods[0].choose) == 1:
            return
        for method, where in self._places(tuning):
            for number in range(len(self.methods[method].choose)):
                cell = self._add(self.cell(method, where, number, tuning.seed))
                yield Candidate(method, where, number, cell.key)

    def _places(self, tuning: Tuning) -> list[tuple[str, Context]]:
        """Where configurations are tried."""
        if tuning.at:
            contexts = [context(self.study.analyses[0], level) for level in tuning.at]
            return [(method, c) for method in self.methods for c in contexts]
        places = [
            (method, where)
            for analysis in self.study.analyses
            for method, _, _, where in self.numbers(analysis)
        ]
        return list(dict.fromkeys(places))

    def _choice(
        self,
        method: str,
        where: Context,
        candidates: Sequence[Candidate],
        held_out: Mapping[str, float],
    ) -> int | None:
        """The configuration with the best held-out accuracy, the first of equals; None: unknown."""
        if not candidates:
            return 0
        everywhere = bool(self.study.tuning and self.study.tuning.at)
        tried = [c for c in candidates if c.method == method and (everywhere or c.context == where)]
        if any(c.cell not in held_out for c in tried):
            return None
        total = dict.fromkeys(range(len(self.methods[method].choose)), 0.0)
        for candidate in tried:
            total[candidate.configuration] += held_out[candidate.cell]
        return max(total, key=lambda number: total[number])

    def _surrogate(
        self,
        analysis: Analysis,
        where: Context,
        candidates: Sequence[Candidate],
        held_out: Mapping[str, float],
    ) -> str | None:
        """The key of the network an attack works on; "" for the attacked itself, None: unknown."""
        if not analysis.surrogate or self.study.tuning is None:
            return ""
        found = self._choice(analysis.surrogate, where, candidates, held_out)
        if found is None:
            return None
        return self._add(self.cell(analysis.surrogate, where, found, self.study.tuning.seed)).key

    def cell(self, method: str, where: Context, configuration: int, seed: int) -> Cell:
        """The training of a method's configuration."""
        asked = question(self.methods[method], configuration, self.trained, self.data, where, seed)
        return Cell(method, where, configuration, seed, asked)

    def _add(self, cell: Cell) -> Cell:
        return self.cells.setdefault(cell.key, cell)


def evaluation_of(
    study: Study,
    analysis: Analysis,
    cell: str,
    digest_of: Callable[[int | None], str],
    surrogate: str = "",
) -> Test:
    """What an analysis asks of a cell: its own attack, or how the study tests every network."""
    tested = study.tested
    limit = analysis.limit or tested.limit
    attacked = analysis.factor == "epsilon"
    return Test(
        cell,
        analysis.protocol if attacked else tested.protocol,
        analysis.levels if attacked else (),
        limit,
        tested.data,
        tested.split,
        digest_of(limit),
        surrogate,
    )


def context(analysis: Analysis, level: str) -> Context:
    """What the networks of an analysis are trained on at a level."""
    where = Context(analysis.label_noise, analysis.data_fraction)
    return where._replace(**{analysis.factor: level}) if analysis.factor in TRAINED else where


def question(
    method: Method,
    configuration: int,
    trained: Trained,
    data: Dataset,
    where: Context,
    seed: int,
) -> dict[str, Any]:
    """A training in full, as JSON; every default is spelled out.

    Raises:
        InputError: a configuration has a key that no recipe has, or a number that makes no sense.
    """
    name = f"method {method.name!r}"
    changes = {**method.recipe, **method.choose[configuration]}
    settings = changes.pop("settings", {})
    compressed = _compressed(changes, name)
    recipe = recipe_of(method.loss, trained, changes, name)
    chosen = method.settings | settings
    return compressed | {
        "model": trained.model,
        "data": {"name": trained.data, "digest": data.digest},
        "loss": method.loss,
        "settings": default_settings(method.loss, trained.data, trained.steps, chosen) | chosen,
        "recipe": spell(recipe),
        "noise": {"kind": trained.noise_kind, "rate": where.label_noise},
        "fraction": where.data_fraction,
        "seed": seed,
        "revision": REVISION,
    }


def _compressed(changes: dict[str, Any], where: str) -> dict[str, Any]:
    """What is said of compressed gradients, taken out of the changes to a recipe."""
    scheme, memory = changes.pop("compress", None), changes.pop("memory", True)
    if scheme is None:
        return {}
    if not isinstance(scheme, str) or not isinstance(memory, bool):
        raise InputError(f'{where}: expected compress = "top-k:0.01" and memory = true or false')
    return {"compress": str(compression.parse(scheme)), "memory": memory}


def recipe_of(loss: str, trained: Trained, changes: Mapping[str, Any], where: str) -> Recipe:
    """The recipe of a method: the default of its loss and data, with changes; steps are given."""
    for key in changes:
        if key in FIXED:
            raise InputError(f"{where}: {key} is the same for all methods; it stands in [train]")
        if key not in Recipe.__dataclass_fields__:
            raise InputError(f"{where}: {UnknownName('key', key, Recipe.__dataclass_fields__)}")
    given = build(Recipe, changes, where)
    recipe = replace(
        default_recipe(loss, trained.data), **{key: getattr(given, key) for key in changes}
    )
    if trained.hold_out:
        recipe = replace(recipe, hold_out=fraction(trained.hold_out, f"{where}: hold_out"))
    return checked(replace(recipe, steps=trained.steps, batch_size=trained.batch_size))
