"""How long a study will take: what its plan still needs, times what the parts take. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any, NamedTuple

from robustkit import protocol as protocols
from robustkit.data import Dataset
from robustkit.protocol import most_passes
from robustkit.study.cells import Cell, Plan, Test
from robustkit.study.run import ROUNDS, STEPS, Run, worker_config
from robustkit.study.throughput import Throughput, measure_throughput
from robustkit.study.work import load_cached
from robustkit.training.recipe import period


class MethodForecast(NamedTuple):
    """The trainings of a method."""

    method: str
    now: int
    later: int
    """that follow a choice"""
    step: float | None
    """seconds of an update"""
    seconds: float | None
    """in all; None: an update cannot be timed"""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is still to be done, and how long that takes one worker."""

    rows: tuple[MethodForecast, ...]
    evaluations: int
    """of cells that are known"""
    pending: int
    """of those that follow a choice"""
    evaluating: float
    """seconds of both"""
    alone: float
    """seconds in which nothing goes side by side: start-up, and the timing of steps"""

    def seconds(self, workers: int) -> float:
        """Time until all is done, by so many workers at a time; what cannot be timed left out."""
        cells = sum(row.now + row.later for row in self.rows)
        training = sum(row.seconds or 0.0 for row in self.rows)
        return self.alone + (training + self.evaluating) / max(1, min(workers, cells))


def to_evaluate(run: Run, plan: Plan) -> list[Test]:
    """Evaluations of known cells that are missing, those that wait for a surrogate included."""
    failed = {key for key in plan.cells if (run.store.cell(key) or {}).get("status") == "failed"}
    return [
        test
        for key, test in plan.tests.items()
        if test.cell not in failed and run.store.test(key) is None
    ]


def untrained(run: Run, plan: Plan) -> list[Cell]:
    """The known cells whose training has yet to begin, or to go on to the end."""
    return [
        cell
        for key, cell in plan.cells.items()
        if key not in plan.dropped and run.store.cell(key) is None
    ]


def measured(run: Run, plan: Plan) -> Throughput:
    """This machine's throughput at what a plan still needs.

    Raises:
        EvaluationFailed: nothing of it can be timed.
    """
    missing = untrained(run, plan)
    cells = {cell.method: cell for cell in missing or list(plan.cells.values())[:1]}
    tested = run.study.tested
    one = Test("", "clean", (), 1, tested.data, tested.split, run.tested(1))
    return measure_throughput(list(cells.values()), one, worker_config(run))


def forecast(run: Run, plan: Plan, throughput: Throughput) -> Forecast:
    """What a plan still needs and how long it takes, at a machine's throughput.

    Assumed is that every search for a perturbation goes to its last step at every budget: it is
    the upper end, since one that succeeds ends there and an image has done with larger budgets.
    """
    tests = [*to_evaluate(run, plan), *plan.pending]
    rows = tuple(_rows(run, plan, throughput))
    stages = 1 + bool(plan.pending) + any(test.surrogate for test in tests)
    return Forecast(
        rows,
        len(tests) - len(plan.pending),
        len(plan.pending),
        sum(_evaluating(run, test, throughput) for test in tests),
        stages * throughput.start + _timing(run, throughput),
    )


def _rows(run: Run, plan: Plan, throughput: Throughput) -> Iterable[MethodForecast]:
    """Trainings by method; those that follow a choice take as long as those that are known."""
    missing = untrained(run, plan)
    methods = dict.fromkeys([*(cell.method for cell in missing), *plan.later])
    for method in methods:
        now = [cell for cell in missing if cell.method == method]
        later, step = plan.later.get(method, 0), throughput.steps.get(method)
        known = now or [cell for cell in plan.cells.values() if cell.method == method]
        times = [_training(run, cell, throughput) for cell in known]
        each = sum(t for t in times if t is not None) / max(1, len(times))
        # of what successive halving may cut short, the share that is expected
        whole = sum(plan.shares.get(cell.key, 1.0) for cell in now)
        seconds = None if None in times else each * (whole + later)
        yield MethodForecast(method, len(now), later, step, seconds)


def _training(run: Run, cell: Cell, throughput: Throughput) -> float | None:
    if "recipe" not in cell.asked:
        return throughput.cell
    step, recipe = throughput.steps.get(cell.method), cell.asked["recipe"]
    if step is None:
        return None
    held, times = looks(cell.asked, len(_train_data(run, cell)))
    return float(throughput.cell + recipe["steps"] * step + times * held * throughput.forward)


def _train_data(run: Run, cell: Cell) -> Dataset:
    return load_cached(cell.asked["data"]["name"], "train", None, run.options.data_root)


def looks(config: dict[str, Any], images: int) -> tuple[int, int]:
    """How many images are held out, and how often a training looks at them."""
    recipe, share = config["recipe"], Fraction(config["recipe"]["hold_out"])
    held = int(share if share >= 1 else share * images)
    trained = int((images - held) * Fraction(config["fraction"]))
    epoch = max(1, ceil(trained / recipe["batch_size"]))
    every = epoch if "score" in config else period(recipe["steps"], epoch)
    return held, ceil(recipe["steps"] / every)


def _evaluating(run: Run, test: Test, throughput: Throughput) -> float:
    """Seconds of an evaluation: clean passes, and those of attacks."""
    data = load_cached(test.data, test.split, test.limit, run.options.data_root)
    protocol = protocols.load_protocol(test.protocol, norm=test.norm)
    known = test.epsilons or protocol.epsilons or data.budgets.get(protocol.norm, ())
    gradients, forwards = 0.0, 1.0
    for attack in protocol.attacks:
        counts = most_passes(attack, len(known), len(data.classes), protocol.search)
        gradients, forwards = gradients + counts[0], forwards + counts[1]
    each = gradients * throughput.gradient + forwards * throughput.forward
    return throughput.evaluation + len(data) * each


def _timing(run: Run, throughput: Throughput) -> float:
    """Seconds in which the steps of methods are timed, for the analyses of their cost."""
    names = [m.name for m in run.study.methods]
    return sum(
        (ROUNDS + 1) * STEPS * (throughput.steps.get(name) or 0.0)
        for analysis in run.study.analyses
        if analysis.factor == "cost" and run.store.cost(analysis.name) is None
        for name in analysis.methods or names
    )
