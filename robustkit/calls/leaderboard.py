"""`robustkit.leaderboard`: everything that was evaluated, the most robust first."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from robustkit.analysis.leaderboard import AuditMark, Leaderboard
from robustkit.analysis.leaderboard import leaderboard as ordered
from robustkit.auditing.stored import read_audit
from robustkit.calls.given import record_name
from robustkit.errors import InputError, RobustkitError, first_line
from robustkit.files import write_atomic
from robustkit.record import Evaluation
from robustkit.reporting.leaderboard import page
from robustkit.results.finder import Finder
from robustkit.results.records import Record, RecordQuery, identity_of, open_record


def leaderboard(
    *names: Evaluation | Path | str,
    runs: Path | str = "runs",
    each: bool = False,
    audits: Path | str | Sequence[Path | str] = (),
    html: Path | str | None = None,
) -> Leaderboard:
    """List evaluated networks by robust accuracy: a row per method, a board per data and attack.

        robustkit.leaderboard()                                  # everything in runs/
        robustkit.leaderboard("nets/*.pt", audits="audits", html="board.html")

    Args:
        names: evaluations, evaluated checkpoints, or patterns of them or of records; everything in
            `runs` where none is given.
        runs: folder with the records.
        each: a row per network, not per method over its seeds.
        audits: folders of audits whose verdicts are shown.
        html: file for the page, sortable and searchable.

    Raises:
        InputError: nothing evaluated is there, or no audit in a folder.
    """
    given = [audits] if isinstance(audits, Path | str) else audits
    records, unread = _records(names, Path(runs))
    found = ordered(records, audits=list(_marks(map(Path, given))), by_method=not each)
    found = replace(found, notes=(*found.notes, *unread))
    if html is not None:
        write_atomic(Path(html), page(found, "Leaderboard").encode())
    return found


def _records(
    names: Sequence[Evaluation | Path | str], runs: Path
) -> tuple[list[Record], tuple[str, ...]]:
    """The records that names mean, or all of the folder; and which of them cannot be read."""
    if names:
        held = [one for one in names if isinstance(one, Evaluation)]
        texts = [record_name(one) for one in names if not isinstance(one, Evaluation)]
        networks = Finder(runs, RecordQuery()).networks(texts) if texts else ()
        named = (record for _, own in networks for network in own for record in network.records)
        return [*(Record(one.header, one) for one in held), *named], ()
    if not os.path.isdir(runs):  # noqa: PTH112 - a name too long is none
        raise InputError(f"--runs {runs}: no such folder; robustkit evaluate makes it")
    found, unread = [], []
    for path in sorted(runs.glob("*.parquet")):
        try:
            record = open_record(path)
            record.rows  # noqa: B018 - read now, since they may be damaged, too
            found.append(record)
        except RobustkitError as error:
            unread.append(f"Left out: {first_line(error)}")
    if not found:
        raise InputError(f"--runs {runs}: contains no evaluations; run robustkit evaluate first")
    return found, tuple(unread)


def _marks(folders: Iterable[Path]) -> Iterator[AuditMark]:
    """What the audits in folders say, each folder an audit's or one of many."""
    for folder in folders:
        there = os.path.isdir(folder)  # noqa: PTH112 - a name too long is none
        files = sorted([*folder.glob("audit.json"), *folder.glob("*/audit.json")]) if there else []
        if not files:
            raise InputError(
                f"--audits {folder}: contains no audit.json; robustkit audit writes it"
            )
        for path in files:
            audit = read_audit(path)
            yield AuditMark(
                str(audit.checkpoint.get("weights")),
                audit.norm,
                audit.epsilon,
                audit.claim.number,
                audit.verdict.word,
                str(path),
                str(audit.data.get("name")),
                str(audit.data.get("split")),
                identity_of(audit.checkpoint),
            )
