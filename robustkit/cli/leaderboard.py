"""`robustkit leaderboard`: everything that was evaluated, the most robust first."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustkit.cli.compare import Json, Runs
from robustkit.cli.output import check_files, console, say, write_json
from robustkit.errors import shown
from robustkit.parsing import in_percent

if TYPE_CHECKING:
    from robustkit.analysis.leaderboard import AuditMark, Board, BoardRow
    from robustkit.statistics import Estimate

SCHEMA = "robustkit.leaderboard/1"
SHORT = 20
"""characters of a name up to which it stands in one line, however many columns there are"""


def leaderboard(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[A B...]",
            help="Evaluated checkpoints, or in quotes patterns of them or of records; by default "
            "every record of --runs.",
        ),
    ] = None,
    runs: Runs = Path("runs"),
    each: Annotated[
        bool, typer.Option("--each", help="A row per network, not per method over its seeds.")
    ] = False,
    audits: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="Folders of audits whose verdicts are shown; repeatable."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page, sortable and searchable.")
    ] = None,
    json_: Json = None,
) -> int:
    """List evaluated networks by robust accuracy: a row per method, a board per data and attack."""
    from robustkit.calls.leaderboard import leaderboard as made

    check_files({"--json": json_, "--html": html})
    found = made(*names or (), runs=runs, each=each, audits=audits or (), html=html)
    if json_ is not None:
        write_json({"schema": SCHEMA, **asdict(found)}, json_)
    if json_ != "-":
        for board in found.boards:
            _show(board)
        for note in found.notes:
            say(note)
        if html is not None:
            say(f"page: {html}")
    return 0


def _show(board: "Board") -> None:
    from rich.table import Table

    several = any(len(row.networks) > 1 for row in board.rows)
    where = " clean and at ε" if board.levels else ""
    title = f"{shown(board.title)}: accuracy{where}, 95 % CI below"
    table = Table(title=title, title_justify="left", title_style="", show_lines=True)
    short = all(len(shown(row.name)) <= SHORT for row in board.rows)
    table.add_column("method" if several else "network", overflow="fold", no_wrap=short)
    columns = ["seeds"] * several + ["clean", *board.levels]
    columns += ["corruptions"] * any(row.corrupted is not None for row in board.rows)
    for name in columns:
        table.add_column(shown(name), justify="right")
    if audited := any(row.audits for row in board.rows):
        table.add_column("audit")
    for row in board.rows:
        cells = [shown(row.name), *_cells(row, board, columns)]
        verdicts = "; ".join(dict.fromkeys(_verdict(*one) for one in row.verdicts))
        table.add_row(*cells, *([verdicts or "–"] if audited else []))
    console().print(table)


def _verdict(audit: "AuditMark", of: str) -> str:
    claim = "no claim" if audit.claimed is None else in_percent(audit.claimed)
    return shown(f"{audit.word}, {claim} at {audit.epsilon}{f' ({of})' if of else ''}")


def _cells(row: "BoardRow", board: "Board", columns: Sequence[str]) -> Iterator[str]:
    if "seeds" in columns:
        yield str(len(row.networks))
    yield _share(row.clean)
    for level in board.levels:
        yield _share(row.robust.get(level))
    if "corruptions" in columns:
        yield "–" if row.corrupted is None else in_percent(row.corrupted)


def _share(estimate: "Estimate | None") -> Any:
    from robustkit.cli.terminal import share_cell

    return "–" if estimate is None else share_cell(estimate)
