"""Cells: the trainings that a study needs, each named by the digest of all that it depends on.

A cell is trained once, whichever analyses use it, and evaluated once for each protocol. Needs no
torch: a plan can be made, shown and reported on without it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import Any

from robustkit.attacks import REVISION as ATTACKS
from robustkit.data import Dataset
from robustkit.data.noise import LabelNoise
from robustkit.data.subset import held_out_doubles, prepare_training_data, size
from robustkit.errors import InputError
from robustkit.keys import CellTestKey, short
from robustkit.parsing import in_percent
from robustkit.protocol import Norm
from robustkit.spec import (
    CHOSEN,
    TRAINED,
    Analysis,
    SearchPrecision,
    Study,
    TrainingSpec,
    Tuning,
)
from robustkit.statistics.estimate import counted
from robustkit.study.configuration import cell_config
from robustkit.study.selection import Candidate, Chooser, Context, Decisions, Scores, select
from robustkit.study.user_files import noise_of, protocol_digest, read_user_files
from robustkit.training.recipe import Recipe, snapshot_steps

FIRST = 7
"""revision of the attacks up to which keys hold none"""


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
        return short(self.asked)


def in_words(cell: Cell) -> str:
    """A cell for reading."""
    noise, share = cell.context
    parts = [cell.method]
    if noise != "0":
        parts.append(f"{in_percent(float(Fraction(noise)), 0)} label noise")
    if share != "1":
        parts.append(f"{float(Fraction(share)):.4g} of the data")
    if "recipe" in cell.asked:  # made elsewhere, there was no choice
        parts.append(f"configuration {cell.configuration + 1}")
    return ", ".join([*parts, f"seed {cell.seed}"])


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
    norm: Norm | None = None
    """none: the protocol's default"""
    resolved: str | None = None
    """digest of the protocol with its budgets; None: as it ships with robustkit"""
    passes: str = ""
    """after which the network is judged: a number, or "chosen"; none: at the end"""
    precision: SearchPrecision = "float32"
    """of the multiplications that the attack searches by"""

    @property
    def key(self) -> str:
        """The digest of what was asked, which names its file."""
        return CellTestKey(
            cell=self.cell,
            protocol=self.protocol,
            epsilons=self.epsilons,
            limit=self.limit,
            data=self.data,
            split=self.split,
            images=self.digest,
            surrogate=self.surrogate,
            norm=self.norm,
            resolved=self.resolved,
            passes=self.passes or None,
            precision=None if self.precision == "float32" else self.precision,
            attacks=None if self.protocol == "clean" or ATTACKS <= FIRST else ATTACKS,
        ).short


@dataclass(frozen=True, slots=True)
class CellRequirement:
    """What one number of an analysis needs."""

    analysis: str
    method: str
    level: str
    """of the factor; "" where the factor is epsilon, whose levels one evaluation has all"""
    seed: int
    cell: str
    test: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is to be done, as far as it is known: choices come first."""

    cells: dict[str, Cell]
    tests: dict[str, Test]
    wanted: tuple[CellRequirement, ...]
    candidates: tuple[Candidate, ...]
    chosen: dict[str, int]
    """configuration by `place(method, context)`, by seed where every seed chooses, and apart where
    a network is stopped at the best pass"""
    later: dict[str, int]
    """by method: trainings that follow when configurations have been chosen"""
    pending: tuple[Test, ...] = ()
    """the evaluations of these, whose cells have no keys yet"""
    notes: tuple[str, ...] = ()
    """what a reader must know of networks made elsewhere: which are left out"""
    pauses: dict[str, int] = field(default_factory=dict)
    """by cell: the pass at which it waits for others of its method before any goes on"""
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    """by cell: the pass after which it was given up, and its score there"""
    shares: dict[str, float] = field(default_factory=dict)
    """by cell: what is expected to be trained of it yet, where that is not all"""


def place(method: str, context: Context) -> str:
    """A method at a context, as text."""
    return f"{method} | noise {context.label_noise} | fraction {context.data_fraction}"


class Planner:
    """Makes the plan of a study whose networks are trained here."""

    def __init__(
        self,
        study: Study,
        trained: TrainingSpec,
        data: Dataset,
        tested: Callable[[int | None], str],
    ) -> None:
        self.study, self.trained, self.data = study, trained, data
        self.tested = tested  # digest of so many test images
        self.methods = {m.name: m for m in study.methods}
        self.tuning = study.tuning or Tuning()
        self.noise = noise_of(trained.noise_kind, "0").path
        names = dict.fromkeys(m.loss for m in study.methods)
        self.user_files = read_user_files(trained.model, names, self.noise)
        self.cells: dict[str, Cell] = {}
        self.tests: dict[str, Test] = {}

    def plan(self, scores: Scores | None = None) -> Plan:
        """The plan, given the scores of the tuning cells as far as they are known."""
        self.cells, self.tests = {}, {}
        candidates = tuple(self._candidates())
        tuning = self.tuning
        known = scores or Scores(rungs=({},) * len(tuning.halving))
        decisions = select(candidates, known, together=bool(tuning.at), halving=tuning.halving)
        chosen: dict[str, int] = {}
        wanted: list[CellRequirement] = []
        later: set[tuple[str, Context, int]] = set()
        pending: dict[tuple[str, Context, int, Test], Test] = {}
        for analysis in self.study.analyses:
            for method, level, seed, context in self.numbers(analysis):
                stopped = analysis.passes == CHOSEN
                cell = self._chosen(method, context, seed, decisions, chosen, stopped=stopped)
                attackers = self._attacker(analysis, context)
                cells = [self._chosen(*who, decisions, chosen, stopped=False) for who in attackers]
                if cell is None or None in cells:
                    later |= {(method, context, seed), *attackers}
                    # a method stands for its network
                    by = "".join(one.key if one else analysis.surrogate for one in cells)
                    test = evaluation_of(self.study, analysis, "", self.tested, by, level)
                    pending[method, context, seed, test] = test
                    continue
                surrogate = "".join(one.key for one in cells if one)
                key = cell.key
                test = evaluation_of(self.study, analysis, key, self.tested, surrogate, level)
                self.tests.setdefault(test.key, test)
                wanted.append(CellRequirement(analysis.name, method, level, seed, key, test.key))
        later -= {(cell.method, cell.context, cell.seed) for cell in self.cells.values()}
        counts = dict(Counter(method for method, _, _ in later))
        rest = tuple(pending.values())
        plan = Plan(self.cells, self.tests, tuple(wanted), candidates, chosen, counts, rest)
        return self._halved(plan, decisions)

    def check_images(self) -> None:
        """See that at every level there are images to train on, and to choose by.

        Raises:
            InputError: there are not, the labels cannot be made wrong as asked, or most of the
                held-out images are copies of others.
        """
        tuning, seed = self.tuning, self.trained.seeds[0]
        asked = (where for one in self.study.analyses for *_, where in self.numbers(one))
        several = any(len(method.choose) > 1 for method in self.methods.values())
        chosen = several or any(one.passes == CHOSEN for one in self.study.analyses)
        least = 2 if tuning.recorded_score else int(chosen)
        for where in dict.fromkeys(asked):
            recipe = self.cell(next(iter(self.methods)), where, 0, seed).asked["recipe"]
            noise = noise_of(self.trained.noise_kind, where.label_noise)
            parts = prepare_training_data(
                self.data,
                hold_out=Fraction(recipe["hold_out"]),
                fraction=Fraction(where.data_fraction),
                noise=LabelNoise() if noise.kind == "instance" else noise,  # that reads all pixels
                seed=seed,
            )
            held = 0 if parts.held_out is None else len(parts.held_out)
            if held < least:
                raise InputError(
                    f"hold_out {recipe['hold_out']}: holds out {counted(held, 'image')} of "
                    f"{len(self.data):,}, by which configurations or passes are to be selected; "
                    f"it takes {least} at least"
                )
            if 2 * (doubles := held_out_doubles(self.data, parts)) > held:
                raise InputError(
                    f"{doubles:,} of {counted(held, 'held-out image')} have the pixels of one that "
                    f"is trained on, so that nothing can be selected by them; remove copies from "
                    f"{self.data.name}"
                )

    def _halved(self, plan: Plan, decisions: Decisions) -> Plan:
        """The plan with what successive halving says of its cells."""
        if not self.tuning.halving:
            return plan
        at = {key: self.rungs(cell.context) for key, cell in plan.cells.items()}
        dropped = {
            key: {"pass": at[key][one.rung], "score": one.score}
            for key, one in decisions.dropped.items()
        }
        pauses = {key: at[key][number] for key, number in decisions.rungs.items()}
        return replace(plan, pauses=pauses, dropped=dropped, shares=decisions.shares)

    def rungs(self, where: Context) -> tuple[int, ...]:
        """The passes at which configurations are dropped.

        Raises:
            InputError: a training has no such passes.
        """
        steps, each = self.trained.steps, self._updates(where)
        told = f"{self.study.where}: [tuning] halving"
        passes = tuple(max(1, int(rung.after * steps / each)) for rung in self.tuning.halving)
        for earlier, later in pairwise((0, *passes, steps / each)):
            if later <= earlier:
                raise InputError(
                    f"{told}: with {steps / each:.3g} passes over the data there is no whole pass "
                    "to stop at for each rung, and one more to go on; train for longer"
                )
        return passes

    def _updates(self, where: Context) -> int:
        """Of a pass over the data."""
        recipe = self.cell(next(iter(self.methods)), where, 0, 0).asked["recipe"]
        images = size(len(self.data), Fraction(recipe["hold_out"]), Fraction(where.data_fraction))
        return max(1, ceil(images / self.trained.batch_size))

    def named(self) -> dict[str, str | None]:
        """Digests of what the study's file names for its trainings."""
        images = {f"images of {self.trained.data!r}, train": self.data.digest}
        return self.user_files.named(self.trained.model, self.noise) | images

    def numbers(self, analysis: Analysis) -> Iterator[tuple[str, str, int, Context]]:
        """Method, level, seed and context of every network that an analysis compares."""
        if analysis.factor == "cost":
            return
        levels = analysis.levels if analysis.factor in (*TRAINED, "passes") else ("",)
        # whole seeds first: where time runs out, what is done can be compared
        for seed in analysis.seeds or self.trained.seeds:
            for level in levels:
                for method in analysis.methods or tuple(self.methods):
                    yield method, level, seed, context(analysis, level)

    def _candidates(self) -> Iterator[Candidate]:
        if len(self.study.methods[0].choose) == 1:
            return
        for method, where, seed in self._tries():
            for number in range(len(self.methods[method].choose)):
                cell = self.cell(method, where, number, seed)
                self.cells.setdefault(cell.key, cell)
                yield Candidate(method, where, number, cell.key, seed)

    def _tries(self) -> Iterable[tuple[str, Context, int]]:
        """Methods, contexts and seeds with which configurations are tried."""
        at = [context(self.study.analyses[0], level) for level in self.tuning.at]
        tries = []
        for analysis in self.study.analyses:
            for method, _, seed, own in self.numbers(analysis):
                attackers = self._attacker(analysis, own)
                for name, where, by in [(method, own, self._chooser(seed)), *attackers]:
                    tries += [(name, each, by) for each in at or [where]]
        return dict.fromkeys(tries)

    def _chooser(self, seed: int) -> int:
        """The seed whose trainings choose for another."""
        own = self.tuning.seed
        return seed if own is None or self.tuning.every_seed else own

    def _chosen(
        self,
        method: str,
        where: Context,
        seed: int,
        decisions: Decisions,
        chosen: dict[str, int],
        *,
        stopped: bool,
    ) -> Cell | None:
        """The training with the configuration that is chosen, noted; None: not yet known.

        Where it is stopped at the best pass, configuration and pass are chosen together.
        """
        number, by_chooser = 0, decisions.best if stopped else decisions.end
        if by_chooser:
            who = Chooser(method, None if self.tuning.at else where, self._chooser(seed))
            if (choice := by_chooser[who]) is None:
                return None
            number = choice.configuration
        by = f" | seed {seed}" if self.tuning.every_seed else ""
        by += " | stopped" if stopped and by_chooser else ""
        chosen[place(method, where) + by] = number
        cell = self.cell(method, where, number, seed)
        return self.cells.setdefault(cell.key, cell)

    def _attacker(self, analysis: Analysis, where: Context) -> list[tuple[str, Context, int]]:
        """The network that an attack works on, where it is not the attacked itself."""
        seed = self.tuning.seed
        return [] if not analysis.surrogate or seed is None else [(analysis.surrogate, where, seed)]

    def timed(self, analysis: Analysis) -> list[Cell]:
        """The trainings whose steps are timed: each method's first configuration and seed."""
        where = Context(analysis.label_noise, analysis.data_fraction)
        names = analysis.methods or tuple(self.methods)
        return [self.cell(name, where, 0, self.trained.seeds[0]) for name in names]

    def cell(self, method: str, where: Context, configuration: int, seed: int) -> Cell:
        """The training of a method's configuration."""
        config = cell_config(
            self.methods[method],
            configuration,
            self.trained,
            self.data,
            self.user_files,
            where,
            seed,
            self.tuning.recorded_score,
        )
        length = Recipe(steps=self.trained.steps, batch_size=self.trained.batch_size)
        held = Fraction(config["recipe"]["hold_out"])
        images = size(len(self.data), held, Fraction(where.data_fraction))
        said = f"{self.study.where}: [train] snapshots"
        snapshot_steps(self.trained.snapshots, length, images, said)
        return Cell(method, where, configuration, seed, config)


def evaluation_of(
    study: Study,
    analysis: Analysis,
    cell: str,
    digest_of: Callable[[int | None], str],
    surrogate: str = "",
    level: str = "",
) -> Test:
    """What an analysis asks of a cell: its own attack, or how the study tests every network."""
    tested = study.tested
    limit = analysis.limit or tested.limit
    attacked = analysis.factor == "epsilon"
    protocol = analysis.protocol if attacked else tested.protocol
    epsilons = analysis.levels if attacked else ()
    norm = analysis.norm if attacked else tested.norm
    return Test(
        cell,
        protocol,
        epsilons,
        limit,
        tested.data,
        tested.split,
        digest_of(limit),
        surrogate,
        norm,
        protocol_digest(protocol, norm, epsilons, tested.data),
        level if analysis.factor == "passes" else analysis.passes,
        tested.precision if protocol != "clean" else "float32",
    )


def context(analysis: Analysis, level: str) -> Context:
    """What the networks of an analysis are trained on at a level."""
    where = Context(analysis.label_noise, analysis.data_fraction)
    return where._replace(**{analysis.factor: level}) if analysis.factor in TRAINED else where
