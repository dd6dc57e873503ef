"""`robustkit rank`: several methods over independent data sets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustkit.cli.compare import (
    Attack,
    InNorm,
    Json,
    Runs,
    Surrogate,
)
from robustkit.cli.output import check_files, console, say, write_json
from robustkit.cli.stepsummary import summarise
from robustkit.errors import InputError, shown
from robustkit.files import write_atomic
from robustkit.parsing import in_percent
from robustkit.protocol.file import target_of

if TYPE_CHECKING:
    from robustkit.analysis.rank import Ranking

SCHEMA = "robustkit.ranking/1"
KINDS = ("pdf", "svg", "png")


def rank(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="A B...",
            help="Evaluated networks in quotes, 'nets/{loss}_{data}_seed{seed}.pt', or records: "
            "'runs/*.parquet'.",
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[DATA=]EPSILON|clean",
            help="Rank at this ε, or on clean images, on all data sets or one; repeatable.",
        ),
    ] = None,
    level: Annotated[float, typer.Option(help="Confidence level of the tests.")] = 0.95,
    attack: Attack = None,
    norm: InNorm = None,
    surrogate: Surrogate = None,
    runs: Runs = Path("runs"),
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pdf", help="Draw the critical-difference diagram: pdf, svg or png."
        ),
    ] = None,
    json_: Json = None,
) -> int:
    """Rank three methods or more over independent data sets.

    By Friedman's test and Nemenyi's critical difference.
    """
    from robustkit.calls.compare import rank as ranked

    check_files({"--json": json_, "--figure": figure})
    if figure is not None and figure.suffix[1:] not in KINDS:
        raise InputError(f"--figure {figure}: give a name that ends in .pdf, .svg or .png")
    found = ranked(
        *names or (),
        at=_levels(at or ()),
        level=level,
        attack=attack,
        norm=norm,
        surrogate=surrogate,
        runs=runs,
    )
    if figure is not None:
        write_atomic(figure, _drawn(found, figure))
    if json_ is not None:
        write_json(_as_json(found), json_)
    if json_ != "-":
        _show(found)
    summarise([found])
    return 0


def _levels(texts: Sequence[str]) -> dict[str, str]:
    """Budget or "clean" by data set, "" for those not named."""
    levels: dict[str, str] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        if name in levels:
            of = f"the data set {name}" if name else "all data sets"
            raise InputError(f"--at: {levels[name]} and {value} for {of}; a ranking has one")
        levels[name] = value
    return levels


def _as_json(found: "Ranking") -> dict[str, Any]:
    told = asdict(found)
    if not isfinite(found.ranks.f_statistic):
        told["ranks"]["f_statistic"] = None  # all data sets agree; JSON has no infinity
    del told["headers"]
    tested = [_tested(*one) for one in zip(found.headers, found.levels, strict=True)]
    return {"schema": SCHEMA, **told, "tested": tested, "sentences": found.sentences}


def _tested(header: Mapping[str, Any], level: str) -> dict[str, Any]:
    """How the networks were tested on a data set, with the keys of a comparison's JSON."""
    protocol = header["protocol"]
    attack = {key: protocol[key] for key in ("name", "norm", "digest")}
    return {
        "data": {key: header["data"][key] for key in ("name", "split", "n", "digest")},
        "protocol": None if level == "clean" else attack | {"targeted": target_of(protocol)},
    }


def _drawn(found: "Ranking", file: Path) -> bytes:
    from robustkit import figures

    venue = figures.STYLES["neurips"]
    return figures.render(
        lambda ax: figures.critical_difference(ax, found.methods, found.ranks),
        file.stem,
        style="neurips",
        height=0.7 + 0.12 * len(found.methods) * venue.size / 8,
    )[file.suffix[1:]]


def _show(found: "Ranking") -> None:
    from rich.table import Table

    table = Table()
    table.add_column("method", overflow="fold")
    table.add_column("mean rank", justify="right")
    for name, where in zip(found.data, found.levels, strict=True):
        table.add_column(f"{shown(name)}\n{shown(_where(where))}", justify="right")
    for place in sorted(range(len(found.methods)), key=lambda i: found.ranks.mean_ranks[i]):
        shares = (accuracies[place] for accuracies in found.accuracies)
        table.add_row(
            shown(found.methods[place]),
            f"{found.ranks.mean_ranks[place]:.2f}",
            *map(in_percent, shares),
        )
    console().print(table)
    for text in found.sentences:
        say(text)


def _where(level: str) -> Any:
    return level if level == "clean" else f"ε = {level}"
