"""The evidence of a report: all that it is made of, in one file. Needs no torch.

OUT/evidence.parquet has a row for every network of every analysis:

    analysis, method, level, seed   which network, as in the study's file
    reason                          why it has no number; "" where it has one
    header                          of its evaluation, as JSON: checkpoint, data, protocol, engine
    broken                          an int8 for every image: 0 for a clean mistake, i where the i-th
                                    budget is the smallest that fools it, 127 where none does
    distance                        a float for every image of an attack: the smallest perturbation
                                    that fools it, 0 for a clean mistake, infinite where none does
    examples                        an .npz file of the perturbations that are shown

Its metadata `robustkit.evidence` is JSON: the study as it was asked and changed, every training,
the times, courses, versions and notes; `robustkit.digest` is over all of this. A report is made of
nothing else, so whoever has the file can make it again.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from robustkit import spec
from robustkit.analysis.findings import SHOWN, Findings, Number, pictured
from robustkit.analysis.outcome import CellRow, History, Regret
from robustkit.errors import RecordError, first_line, unreadable
from robustkit.files import canonical, digest
from robustkit.record import Example, decode_examples, encode_examples
from robustkit.record.file import UNREADABLE
from robustkit.results.rows import Rows, budgets
from robustkit.spec import Study

NAME = "evidence.parquet"
VERSION = 2
"""of the layout; an older robustkit says that it cannot read a newer one"""
SCHEMA = pa.schema(
    [
        ("analysis", pa.string()),
        ("method", pa.string()),
        ("level", pa.string()),
        ("seed", pa.int64()),
        ("reason", pa.string()),
        ("header", pa.string()),
        ("broken", pa.list_(pa.int8())),
        ("distance", pa.list_(pa.float64())),
        ("examples", pa.binary()),
    ]
)
REPEATED = [
    "analysis",
    "method",
    "level",
    "reason",
    "broken.list.element",
    "distance.list.element",
]
"""columns of few values, of which Parquet keeps small numbers"""
SAID = ["analysis", "method", "level", "seed", "reason", "header"]
"""columns of few bytes"""
HELD = ["broken", "distance", "examples"]
"""columns of many bytes"""
IMAGES = 2**20
"""about as many are held at a time while the file is written"""
DAMAGED = (*UNREADABLE, IndexError)
"""what reading a damaged file may raise"""


class StudyEvidence(NamedTuple):
    """What a report is made of."""

    study: Study
    findings: Findings
    content: bytes
    """the file's"""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """The evaluations of a file, known by the number of their row."""

    table: pa.Table

    def rows(self, path: Path) -> Rows:
        """The rows of an evaluation."""
        number = int(path.name)
        header = json.loads(self.table["header"][number].as_py())
        broken = self.table["broken"][number].values.to_numpy()
        return Rows(header, broken, budgets(header))

    def distances(self, path: Path) -> npt.NDArray[np.float64]:
        """The smallest perturbation that fools each image."""
        found: npt.NDArray[np.float64] = self.table["distance"][int(path.name)].values.to_numpy()
        return found

    def examples(self, path: Path) -> Sequence[Example]:
        """Its examples; none where they are not shown."""
        content = self.table["examples"][int(path.name)].as_py()
        return [] if content is None else decode_examples(BytesIO(content))


# --- written --------------------------------------------------------------------------------------


def collect(study: Study, findings: Findings) -> StudyEvidence:
    """The evidence of what was found. Each record is read once, and few are held at a time.

    Raises:
        RecordError: rows that are missing or damaged.
    """
    text = json.dumps(_said(study, findings), separators=(",", ":"))
    sink, link = BytesIO(), digest(text)
    writer = pq.ParquetWriter(
        sink,
        SCHEMA,
        compression="zstd",
        compression_level=9,
        use_dictionary=REPEATED,
        write_statistics=False,
        store_schema=False,
    )
    with writer:
        for group in _grouped(_rows(study, findings)):
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
            for row in group:
                link = _linked(link, row, *(row[name] for name in HELD))
        writer.add_key_value_metadata({"robustkit.evidence": text, "robustkit.digest": link})
    return _evidence(sink.getvalue(), NAME)


def _said(study: Study, findings: Findings) -> dict[str, Any]:
    """All but the rows."""
    asked = [dict(one) for one in findings.asked]
    now = {"digest": study.digest, "file": study.text, "changes": study.changes}
    if not asked or any(asked[-1][key] != value for key, value in now.items()):
        asked.append(now)
    return {
        "schema": f"robustkit.evidence/{VERSION}",
        "name": study.name,
        "asked": asked,
        "command": findings.command,
        "notes": findings.notes,
        "provenance": findings.provenance,
        "times": findings.times,
        "histories": [asdict(history) for history in findings.histories],
        "cells": [asdict(cell) for cell in findings.cells],
        "regrets": [asdict(regret) for regret in findings.regrets],
    }


def _rows(study: Study, findings: Findings) -> Iterator[dict[str, Any]]:
    attacked = {a.name for a in study.analyses if a.factor == "epsilon"}
    shown = {pictured(study, analysis, findings.numbers) for analysis in study.analyses}
    for number in findings.numbers:
        row: dict[str, Any] = dict.fromkeys(SCHEMA.names) | number._asdict()
        if (path := row.pop("path")) is not None:
            rows = findings.records.rows(path)
            row |= {"header": canonical(_published(rows.header)), "broken": rows.broken}
            if number.analysis in attacked:
                row["distance"] = findings.records.distances(path)
            if number in shown and (found := findings.records.examples(path)):
                row["examples"] = encode_examples(found[:SHOWN])
        yield row


def _published(header: Mapping[str, Any]) -> dict[str, Any]:
    """A header without where this machine keeps the images; their digest stays."""
    data = {key: value for key, value in header["data"].items() if key != "source"}
    return {**header, "data": data}


def _grouped(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows in groups that are written together."""
    group: list[dict[str, Any]] = []
    images = 0
    for row in rows:
        group.append(row)
        images += 0 if row["broken"] is None else len(row["broken"])
        if images >= IMAGES:
            yield group
            group, images = [], 0
    if group:
        yield group


def _linked(
    link: str, row: Mapping[str, Any], broken: Any, distance: Any, examples: bytes | None
) -> str:
    """The digest of everything up to a row."""
    said = canonical([row[name] for name in SAID])
    arrays = [b"" if array is None else array.tobytes() for array in (broken, distance)]
    return digest(link, said, *arrays, examples or b"")


# --- read -----------------------------------------------------------------------------------------


def read_evidence(path: Path) -> StudyEvidence:
    """The evidence in a file.

    Raises:
        RecordError: no such file, damaged, or written by a newer version.
        InputError: the study in it is not one that this version understands.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(unreadable(path, error, "not readable")) from error
    return _evidence(content, str(path))


def _evidence(content: bytes, where: str) -> StudyEvidence:
    try:
        said, table = _unpacked(content, where)
        asked = said["asked"][-1]
        study = spec.study_of_text(asked["file"], said["name"], where, asked["changes"])
        return StudyEvidence(study, _findings(said, table), content)
    except DAMAGED as error:
        raise RecordError(
            f"{where}: damaged, or not the evidence of a report ({first_line(error)}); take it "
            "again from where it was published"
        ) from error


def _unpacked(content: bytes, where: str) -> tuple[dict[str, Any], pa.Table]:
    """What is said, and the rows, as they were written."""
    file = pq.ParquetFile(pa.BufferReader(content))
    metadata = file.metadata.metadata or {}
    text = metadata[b"robustkit.evidence"].decode()
    said = json.loads(text)
    if int(said["schema"].removeprefix("robustkit.evidence/")) > VERSION:
        raise RecordError(f"{where}: written by a newer robustkit; upgrade")
    # one group after the other: what Parquet unpacks at once takes nine times its bytes meanwhile
    # by this thread: one of Arrow's that lets go of the bytes as Python ends would abort it
    groups = (file.read_row_group(i, use_threads=False) for i in range(file.num_row_groups))
    table = pa.concat_tables([file.schema_arrow.empty_table(), *groups])
    if _digest(text, table) != metadata[b"robustkit.digest"].decode():
        raise ValueError("its digest does not fit")
    return said, table


def _digest(text: str, table: pa.Table) -> str:
    link = digest(text)
    columns = (table[name] for name in HELD)
    for row, *arrays, found in zip(table.select(SAID).to_pylist(), *columns, strict=True):
        broken, distance = (each.values.to_numpy() if each.is_valid else None for each in arrays)
        link = _linked(link, row, broken, distance, found.as_py())
    return link


def _findings(said: Mapping[str, Any], table: pa.Table) -> Findings:
    return Findings(
        [Number(**row) for row in _numbers(table)],
        said["times"],
        tuple(History(**_tuples(history)) for history in said["histories"]),
        tuple(CellRow(**cell) for cell in said["cells"]),
        said["provenance"],
        tuple(said["notes"]),
        said["command"],
        tuple(said["asked"]),
        _Kept(table),
        tuple(Regret(**_tuples(regret)) for regret in said.get("regrets", ())),
    )


def _numbers(table: pa.Table) -> Iterator[dict[str, Any]]:
    for place, row in enumerate(table.select(SAID).to_pylist()):
        known = row.pop("header") is not None
        yield row | {"path": Path(str(place)) if known else None}


def _tuples(value: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples, to any depth."""
    return {key: _tuple(v) for key, v in value.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
