"""The numbers of a report, one row each."""

import csv
import re
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from io import StringIO
from itertools import chain
from math import isfinite
from typing import Literal

from robustkit.analysis.outcome import (
    CellRow,
    Cost,
    History,
    Judgement,
    Line,
    Outcome,
    Panel,
    Regret,
    TransferMatrix,
)
from robustkit.errors import shown
from robustkit.statistics import Comparison, Estimate
from robustkit.statistics.comparison import AT_CHANCE

Section = Literal[
    "estimate",
    "band",
    "seed",
    "area",
    "median",
    "comparison",
    "secondary",
    "claim",
    "history",
    "regret",
    "cost",
    "transfer",
    "cell",
]


@dataclass(frozen=True, slots=True)
class NumberRow:
    """One number with all that is known of it; the fields are the columns of `numbers.csv`.

    Accuracies and differences are shares: 0.025 is 2.5 points. What does not apply is empty, and
    so is a number that is not known, or infinite. A band's row repeats its estimate's value; its
    interval holds together with those of the line's other levels.
    """

    section: Section
    panel: str = ""
    """the panel, the claim or the matrix that the number belongs to"""
    method: str = ""
    baseline: str = ""
    """what the method is compared with; of a transferred example, the network it was made on"""
    level: str = ""
    x: float | None = None
    seed: int | None = None
    quantity: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    interval: str = ""
    """how the interval was made"""
    p: float | None = None
    p_holm: float | None = None
    p_equivalence: float | None = None
    delta: float | None = None
    test: str = ""
    correction: str = ""
    unit: str = ""
    """what was replicated, and how often; of a claim: how many planned seeds, if not all"""
    verdict: str = ""
    status: str = ""
    """of a cell: done, failed, missing, dropped"""
    note: str = ""


FORMULA = ("=", "+", "-", "@")
"""what a spreadsheet takes a cell for that begins so; the apostrophe before it says that it is text

Source: OWASP, CSV Injection.
"""
NUMBER = re.compile(r"[+-]?[\d./]+(e[+-]?\d+)?")
COLUMNS = tuple(field.name for field in fields(NumberRow))


def numbers_csv(outcome: Outcome) -> bytes:
    """The rows of an outcome as CSV in UTF-8, numbers written so that they read back exactly."""
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows(outcome):
        writer.writerow(map(_plain, astuple(row)))
    return buffer.getvalue().encode("utf-8", "replace")


def rows(outcome: Outcome) -> Iterator[NumberRow]:
    """The numbers of an outcome, in the order of the report."""
    yield from chain.from_iterable(map(_panel, outcome.panels))
    yield from chain.from_iterable(map(_judgement, outcome.judgements))
    yield from chain.from_iterable(map(_history, outcome.histories))
    yield from chain.from_iterable(map(_regret, outcome.regrets))
    yield from chain.from_iterable(map(_cost, outcome.costs))
    yield from chain.from_iterable(map(_matrix, outcome.matrices))
    yield from map(_cell, outcome.cells)


def _plain(value: object) -> object:
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return ""
    if isinstance(value, str):
        # a name from a file is text, whatever a spreadsheet would make of it
        formula = value.startswith(FORMULA) and not NUMBER.fullmatch(value)
        return f"'{shown(value)}" if formula else shown(value)
    # by way of float, since numpy's own numbers name their type
    if isinstance(value, float):
        return repr(float(value))
    return value


def _with(row: NumberRow, estimate: Estimate) -> NumberRow:
    """The row with an estimate's numbers."""
    return replace(
        row,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        interval=estimate.method,
    )


def _panel(panel: Panel) -> Iterator[NumberRow]:
    yield from chain.from_iterable(_line(panel, line) for line in panel.lines)
    yield from chain.from_iterable(_comparison(panel.name, c) for c in panel.comparisons)


def _line(panel: Panel, line: Line) -> Iterator[NumberRow]:
    for value in line.values:
        row = NumberRow("estimate", panel.name, line.method, level=value.level, x=value.x)
        row = replace(row, quantity=panel.measure)
        yield _with(row, value.estimate)
        if value.band is not None:
            yield _with(replace(row, section="band"), value.band)
        for seed, each in zip(value.seeds, value.each, strict=False):
            yield replace(row, section="seed", seed=seed, value=each)
    if line.area is not None:
        row = NumberRow("area", panel.name, line.method, quantity="area under the curve")
        yield _with(row, line.area)
    if line.median is not None:
        row = NumberRow("median", panel.name, line.method, quantity="median smallest perturbation")
        yield _with(row, line.median)


def _comparison(panel: str, comparison: Comparison) -> Iterator[NumberRow]:
    row = NumberRow(
        "comparison",
        panel,
        comparison.a,
        comparison.b,
        comparison.level,
        quantity="difference",
        delta=comparison.delta,
        verdict=comparison.verdict,
        note=AT_CHANCE if comparison.at_chance else "",
    )
    if comparison.difference is None:
        yield replace(row, note=comparison.reason)
        return
    yield replace(
        _with(row, comparison.difference),
        p=comparison.p,
        p_holm=comparison.p_holm,
        p_equivalence=comparison.p_equivalence,
        test=comparison.test,
        correction=comparison.correction,
        unit=comparison.unit,
    )
    for other in comparison.secondary:
        row = NumberRow("secondary", panel, comparison.a, comparison.b, comparison.level)
        yield replace(row, quantity="p value", p=other.p, test=other.test, note=other.note)
    if comparison.outperforms is not None:
        row = NumberRow("secondary", panel, comparison.a, comparison.b, comparison.level)
        yield _with(replace(row, quantity="probability to win"), comparison.outperforms)


def _judgement(judgement: Judgement) -> Iterator[NumberRow]:
    row = NumberRow("claim", judgement.name, delta=judgement.delta, verdict=judgement.verdict)
    row = replace(row, note=judgement.text, status=judgement.registered, unit=judgement.lacking)
    if judgement.ratio is not None:
        row = _with(replace(row, quantity="ratio"), judgement.ratio)
    yield row
    if (seeds := judgement.seeds_needed) is not None:
        row = NumberRow("claim", judgement.name, quantity="paired seeds needed, power 80 %")
        yield replace(row, value=seeds, note=judgement.needs)
    yield from chain.from_iterable(_comparison(judgement.name, c) for c in judgement.comparisons)


def _history(history: History) -> Iterator[NumberRow]:
    for quantity, values in (
        ("share of wrong labels repeated", history.memorised),
        ("accuracy on held-out images", history.held_out),
    ):
        for step, value in zip(history.steps, values, strict=True):
            if value is not None:
                row = NumberRow("history", "", history.method, level=history.level, x=step)
                yield replace(row, quantity=quantity, value=value)
    for step, mean in zip(history.steps, history.band, strict=False):
        if mean is not None:
            row = NumberRow("history", "", history.method, level=history.level, x=step)
            yield _with(replace(row, quantity="share of wrong labels repeated, over seeds"), mean)


def _regret(regret: Regret) -> Iterator[NumberRow]:
    row = NumberRow("regret", "", regret.method, level=regret.level)
    row = replace(row, quantity=f"clean held-out accuracy lost by the choice, {regret.kind}")
    if regret.estimate is not None:
        yield _with(row, regret.estimate)
    elif len(regret.each) > 1:  # all alike: no interval
        yield replace(row, value=regret.each[0], n=len(regret.each))
    for seed, value in zip(regret.seeds, regret.each, strict=True):
        yield replace(row, seed=seed, value=value)


def _cost(cost: Cost) -> Iterator[NumberRow]:
    row = NumberRow("cost", method=cost.method)
    yield _with(replace(row, quantity="training time of a step, ratio"), cost.ratio)
    yield _with(replace(row, quantity="gain", note=cost.where), cost.gain)


def _matrix(matrix: TransferMatrix) -> Iterator[NumberRow]:
    for source, values in zip(matrix.sources, matrix.values, strict=True):
        for target, value in zip(matrix.targets, values, strict=True):
            row = NumberRow("transfer", matrix.title, target, source, quantity="accuracy")
            yield replace(row, value=value)


def _cell(cell: CellRow) -> NumberRow:
    """A failed cell has its reason and no number."""
    row = NumberRow("cell", cell.factor, cell.method, level=cell.level, seed=cell.seed)
    row = replace(row, status=cell.status, note=cell.reason or cell.settings)
    done = cell.clean if cell.status == "done" else None
    return replace(row, quantity=f"accuracy, {cell.purpose}", value=done, n=None)
