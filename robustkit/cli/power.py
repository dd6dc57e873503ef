"""`robustkit power`: how many seeds and images it takes to show a difference, or equivalence."""

from collections.abc import Sequence
from dataclasses import asdict
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustkit.cli.compare import (
    At,
    Attack,
    Baseline,
    Data,
    InNorm,
    Json,
    Level,
    Names,
    Runs,
    Surrogate,
)
from robustkit.cli.output import check_file, console, say, write_json
from robustkit.errors import shown
from robustkit.parsing import in_percent

if TYPE_CHECKING:
    from robustkit.analysis.needs import Needs, PowerAnalysis
    from robustkit.statistics import Power

SCHEMA = "robustkit.power/1"
SHOWN = (3, 4, 5, 7, 10, 15, 20, 30, 50)
"""numbers of seeds in the table"""


def power(
    names: Names = None,
    delta: Annotated[
        float, typer.Option(metavar="POINTS", help="Difference to detect, or to rule out.")
    ] = ...,  # type: ignore[assignment]
    power_: Annotated[
        float, typer.Option("--power", help="Probability of detecting it, if it exists.")
    ] = 0.8,
    at: At = None,
    level: Level = 0.95,
    family: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Comparisons judged together; default: all levels of a pair, as in `compare`.",
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=2, help="Images to plan with; default: as many as on file.")
    ] = None,
    attack: Attack = None,
    norm: InNorm = None,
    data: Data = None,
    surrogate: Surrogate = None,
    baseline: Baseline = None,
    runs: Runs = Path("runs"),
    seed_sd: Annotated[
        float | None,
        typer.Option(
            "--seed-sd",
            metavar="POINTS",
            help="Without networks: upper bound on the difference's spread over seeds.",
        ),
    ] = None,
    discordant: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            help="Without networks: upper bound on the images that one network of a pair "
            "classifies correctly and the other does not.",
        ),
    ] = None,
    json_: Json = None,
) -> int:
    """Say how many seeds and images a comparison needs.

    From the spread of evaluations on file; the observed difference plays no part.
    """
    from robustkit.calls.compare import power as planned

    check_file("--json", json_)
    found = planned(
        *names or (),
        delta=delta,
        power=power_,
        at=at or (),
        level=level,
        family=family,
        images=images,
        attack=attack,
        norm=norm,
        data=data,
        surrogate=surrogate,
        baseline=baseline,
        runs=runs,
        seed_sd=seed_sd,
        discordant=discordant,
    )
    if json_ is not None:
        write_json({"schema": SCHEMA, **asdict(found)}, json_)
    if json_ != "-":
        _show(found)
    return 0


def _show(found: "PowerAnalysis") -> None:
    difference, equivalence = found.hardest
    hardest = {" for a difference": difference, " for equivalence": equivalence}
    if difference is equivalence:
        hardest = {"": difference}
    say(_basis(difference.power))
    if several := len(found.comparisons) > 1:
        console().print(_levels(found.comparisons))
    for goal, most in hardest.items():
        if several:
            say(f"Most demanding{goal}: {most.in_words}.")
        console().print(_seeds(most.power))
    say(found.sentence)
    for note in found.notes:
        say(note)


def _basis(power: "Power") -> str:
    """On what a plan rests."""
    bound = power.components
    judged = f" for {power.family} comparisons together" if power.family > 1 else ""
    delta = f"{100 * power.delta:.10g} point{'' if power.delta == 0.01 else 's'}"
    source = (
        f"upper 80 % bounds of the spread of {bound.seeds} paired seeds on {bound.images:,} images"
        if bound.seeds
        else "the bounds given"
    )
    return (
        f"A difference of {delta}, power {100 * power.power:.6g} %, confidence "
        f"{100 * power.level:.6g} %{judged}; from {source}."
    )


def _levels(planned: Sequence["Needs"]) -> Any:
    from rich.table import Table

    table = Table(title=f"Seeds on {planned[0].power.images:,} images", title_justify="left")
    for column in ("ε", "SD over seeds, points", "for a difference", "for equivalence"):
        table.add_column(column, justify="right")
    several = len({one.a for one in planned}) > 1
    if several:
        table.add_column("of")
    for one in planned:
        row = [
            shown(one.level),
            f"{100 * _seed_sd(one.power):.2f}",
            *one.power.in_words,
        ]
        table.add_row(*row, *([shown(one.a)] if several else []))
    return table


def _seed_sd(power: "Power") -> float:
    """How a paired difference, the mean over images, varies from seed to seed; as a share."""
    bound = power.components
    return sqrt(bound.seed + bound.residual / bound.images)


def _fewest(power: "Power") -> tuple[int | None, int | None]:
    return power.seeds_difference, power.seeds_equivalence


def _seeds(power: "Power") -> Any:
    """Power by number of seeds, and the images that each number needs."""
    from rich.table import Table

    table = Table()
    for column in (
        "seeds",
        f"power, difference,\n{power.images:,} images",
        f"power, equivalence,\n{power.images:,} images",
        "images for\na difference",
        "images for\nequivalence",
    ):
        table.add_column(column, justify="right")
    for row in power.rows:
        if row.seeds in (*SHOWN, *_fewest(power)):
            table.add_row(
                str(row.seeds),
                in_percent(row.difference),
                in_percent(row.equivalence),
                _images(row.images_difference),
                _images(row.images_equivalence),
            )
    return table


def _images(count: int | None) -> str:
    return "not attainable" if count is None else f"{count:,}"
