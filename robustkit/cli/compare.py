"""`robustkit compare`: which of several evaluated networks is more accurate, as far as is known."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustkit.cli.output import check_file, console, say, tell_warnings, write_json
from robustkit.cli.stepsummary import summarise
from robustkit.errors import shown
from robustkit.protocol import Norm
from robustkit.protocol.file import target_of

if TYPE_CHECKING:
    from robustkit.analysis.compare import Compared
    from robustkit.results.sides import Side
    from robustkit.statistics import Comparison, Estimate

SCHEMA = "robustkit.comparison/1"

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="A B...",
        help="Records (runs/DIGEST.parquet), evaluated checkpoints, or a method over seeds, in "
        "quotes: 'nets/l2_seed{seed}.pt', 'runs/*.parquet'. The first is the baseline.",
    ),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        metavar="EPSILON|clean",
        help="Compare at this ε, or on clean images; repeatable; default: at all.",
    ),
]
Attack = Annotated[
    str | None,
    typer.Option(help="Only evaluations with this protocol: its name, FILE.toml or digest."),
]
InNorm = Annotated[Norm | None, typer.Option("--norm", help="Only evaluations in this norm.")]
Data = Annotated[str | None, typer.Option(help="Only evaluations on this data set.")]
Surrogate = Annotated[
    str | None, typer.Option(metavar="CKPT", help="Only transfer attacks crafted on this network.")
]
Baseline = Annotated[
    str | None,
    typer.Option(help="Method to compare the others with, where one pattern names several."),
]
Runs = Annotated[Path, typer.Option(help="Folder with the records of evaluated checkpoints.")]
Level = Annotated[float, typer.Option(help="Simultaneous confidence level of the intervals.")]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE|-", help="Write the numbers as JSON.")
]


def compare(
    names: Names = None,
    at: At = None,
    delta: Annotated[
        float | None, typer.Option(metavar="POINTS", help="Equivalence margin Δ.")
    ] = None,
    level: Level = 0.95,
    attack: Attack = None,
    norm: InNorm = None,
    data: Data = None,
    surrogate: Surrogate = None,
    baseline: Baseline = None,
    runs: Runs = Path("runs"),
    json_: Json = None,
) -> int:
    """Compare evaluated networks or methods with a baseline.

    Prints paired differences with simultaneous intervals, and what they decide.
    """
    from robustkit.calls.compare import compare as compared_by

    check_file("--json", json_)
    compared = compared_by(
        *names or (),
        at=at or (),
        delta=delta,
        level=level,
        attack=attack,
        norm=norm,
        data=data,
        surrogate=surrogate,
        baseline=baseline,
        runs=runs,
    )
    if json_ is not None:
        write_json(as_json(compared), json_)
    if json_ != "-":
        _show(compared)
    summarise([compared])
    return 0


# --- on the terminal ------------------------------------------------------------------------------


def _show(compared: "Compared") -> None:
    tell_warnings(compared.warnings)
    say(compared.condition)
    for side in compared.sides[1:]:
        console().print(_table(compared, side))
    for text in (*_sentences(compared), *_cost(compared), *_undecided(compared)):
        say(text)


def _table(compared: "Compared", side: "Side") -> Any:
    """Both sides and their difference at every level; cells of two lines, to fit 80 columns."""
    from rich.table import Table

    from robustkit.cli.terminal import share_cell
    from robustkit.reporting.wording import ends, p_value
    from robustkit.reporting.wording import in_points as difference

    confidence = f"{100 * compared.comparisons[0].confidence:.6g} %"
    baseline = compared.sides[0]
    table = Table(show_lines=True)
    table.add_column("ε", justify="right")
    for name in (baseline.name, side.name):
        table.add_column(f"{shown(name)}\n{confidence} CI", justify="right", overflow="fold")
    # by what was corrected for, not by how many are shown: --at leaves out levels of a family
    together = "simultaneous " if any(one.correction for one in compared.of(side)) else ""
    table.add_column(f"difference, points\n{together}CI", justify="right")
    table.add_column("p", justify="right")
    table.add_column("verdict")
    for one in compared.of(side):
        table.add_row(
            shown(one.level),
            *(share_cell(compared.accuracies[s.name, one.level]) for s in (baseline, side)),
            f"{difference(one)}\n{ends(one)}",
            p_value(one.p, one),
            one.word,
        )
    return table


def _cost(compared: "Compared") -> Iterable[str]:
    """What the attacks cost on each side; nothing where no record says."""
    from robustkit.reporting.wording import passes

    known = [(side.name, side.passes) for side in compared.sides if side.passes is not None]
    if known:
        told = "; ".join(f"{shown(name)} {passes(cost)}" for name, cost in known)
        yield f"Passes per image: {told}."


def _sentences(compared: "Compared") -> Iterable[str]:
    """Each comparison in words; what secondary tests cannot decide is said once, later."""
    for one in compared.comparisons:
        yield replace(one, secondary=()).sentence(where=compared.where(one.level))


def _undecided(compared: "Compared") -> Iterable[str]:
    """What cannot be decided, and what must be known of the rest."""
    from robustkit.analysis.needs import can_plan

    baseline, *others = compared.sides
    sides = {side.name: side for side in others}
    open_: dict[bool, list[str]] = {True: [], False: []}
    for one in compared.comparisons:
        # a level at chance decides nothing, however many seeds there are
        if one.verdict == "inconclusive" and not one.at_chance:
            planned = can_plan(sides[one.a], baseline, one.level)
            open_[planned].append(f"{one.a} at {_at(one.level)}")
    for planned, named in open_.items():
        if named:
            yield f"Not decided: {', '.join(named)}; {_MORE[planned]}."
    secondary = [test for one in compared.comparisons for test in one.secondary if test.note]
    for note, smallest in dict.fromkeys((test.note, test.smallest) for test in secondary):
        tests = " and ".join(dict.fromkeys(test.test for test in secondary if test.note == note))
        yield (
            f"{tests[:1].upper()}{tests[1:]} {note}: their smallest p is {smallest:.3g}. The "
            "verdicts rest on the two-way t alone."
        )
    yield from compared.notes


_MORE = {
    True: "robustkit power tells how many seeds and images it takes",
    False: "two seeds or more that both share would tell how the difference varies with training, "
    "and robustkit power how many it takes",
}
"""what helps where nothing is decided, by whether seeds are paired, of which a plan is made"""


def _at(level: str) -> str:
    from robustkit.results.records import CLEAN

    return level if level == CLEAN else f"ε = {level}"


# --- as JSON --------------------------------------------------------------------------------------


def as_json(compared: "Compared") -> dict[str, Any]:
    """Everything that was found, shares as fractions; a difference is that of a less b."""
    header, protocol = compared.header, compared.protocol
    return {
        "schema": SCHEMA,
        "baseline": compared.sides[0].name,
        "data": {key: header["data"][key] for key in ("name", "split", "n", "digest")},
        "protocol": None
        if protocol is None
        else {key: protocol[key] for key in ("name", "norm", "digest")}
        | {"targeted": target_of(protocol)},
        "sides": [_side(compared, side) for side in compared.sides],
        "comparisons": [_comparison(compared, one) for one in compared.comparisons],
        "notes": list(compared.notes),
        "warnings": list(compared.warnings),
    }


def _side(compared: "Compared", side: "Side") -> dict[str, Any]:
    return {
        "name": side.name,
        "seeds": list(side.seeds),
        "passes": None if side.passes is None else side.passes._asdict(),
        "records": [rows.header["digest"] for rows in side.rows],
        "accuracy": [
            {"level": level, **_estimate(compared.accuracies[side.name, level])}
            for level in compared.levels
        ],
    }


def _comparison(compared: "Compared", one: "Comparison") -> dict[str, Any]:
    plain = ("a", "b", "level", "verdict", "at_chance", "p", "p_holm", "p_equivalence", "delta")
    words = ("confidence", "test", "correction", "unit")
    return {
        **{key: getattr(one, key) for key in plain},
        "difference": None if one.difference is None else _estimate(one.difference),
        "outperforms": None if one.outperforms is None else _estimate(one.outperforms),
        **{key: getattr(one, key) for key in words},
        "secondary": [
            {"test": b.test, "p": b.p, "smallest": b.smallest, "note": b.note}
            for b in one.secondary
        ],
        "sentence": one.sentence(where=compared.where(one.level)),
    }


def _estimate(estimate: "Estimate") -> dict[str, Any]:
    return {key: getattr(estimate, key) for key in ("value", "low", "high", "n", "method")}
