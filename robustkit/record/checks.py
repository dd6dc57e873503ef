"""Whether a record can be what was written: it fits its digests, its header, and itself."""

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from robustkit.errors import ProtocolError, RecordError
from robustkit.files import digest
from robustkit.protocol import parse_epsilon
from robustkit.record.evaluation import ADDED, CLEAN, SCHEMA, VERSION, rows_digest

KEYS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "checkpoint": {"path": (str, NoneType)},
    "data": {"name": str, "split": str, "digest": str, "n": int},
    "protocol": {"name": str, "norm": str, "digest": str, "resolved": dict, "epsilons": list},
    "engine": {"revision": int},
}
"""what every header has, and of which type"""
SLACK = 1e-4
"""of a budget, by which a distance may exceed it: above what the engine allows for rounding"""
NEVER_NULL = ("sample", "index", "label", "predicted")
NAME = 32
"""letters of a digest that name a file"""


def metadata_digest(header: bytes, run: bytes, outputs: bytes | None) -> str:
    """SHA-256 over all that a record's file says beside its rows; `run` holds that of the rows."""
    return digest(header, run, b"" if outputs is None else outputs)


def changed(where: Path | str, what: str) -> RecordError:
    """That a file is not as it was written."""
    return RecordError(
        f"{where}: changed or damaged since it was written: {what}; restore the file, or remove it "
        "and evaluate again"
    )


def check_version(text: str, where: Path) -> int:
    """The number of a format, if this version reads it.

    Raises:
        RecordError: it is newer.
    """
    if int(text) > VERSION:
        raise RecordError(
            f"{where}: written by a newer robustkit (format {text}, this one reads {VERSION}); "
            "upgrade, or choose another --out"
        )
    return int(text)


def check_header(header: Any, path: Path) -> None:
    """Nothing, if a header has what every header has, and is the one that its file is named by.

    Raises:
        RecordError: it has not, or the record is another one.
        KeyError, ValueError: it is no header of ours.
    """
    check_version(str(header["schema"]).removeprefix("robustkit.evaluation/"), path)
    name = str(header["digest"])
    for part, keys in KEYS.items():
        for key, kind in keys.items():
            if not isinstance(header[part][key], kind):
                raise ValueError(f"its header has {part}.{key} = {header[part][key]!r:.40}")
    for entry in header["protocol"]["epsilons"]:
        try:
            parse_epsilon(entry["epsilon"], f"{path}: budget")
        except ProtocolError as error:
            raise RecordError(str(error)) from error
    stem = path.stem
    if len(stem) == NAME and not set(stem) - set("0123456789abcdef") and not name.startswith(stem):
        raise RecordError(
            f"{path}: contains another evaluation ({name[:NAME]}) than its name says; "
            "restore its name, or remove it and evaluate again"
        )


def check_rows(header: Mapping[str, Any], run: Mapping[str, Any], rows: pa.Table, at: Path) -> None:
    """Nothing, if rows fit their digest, their header and one another.

    Raises:
        RecordError: they do not; the message says how.
    """
    if (n := header["data"]["n"]) != len(rows):
        raise changed(at, f"it has {len(rows)} rows, and its header says {n} images")
    if (digest := run.get("rows_digest")) is not None and digest != rows_digest(rows):
        raise changed(at, "its rows do not match their digest")
    names = [name for name in NEVER_NULL if rows[name].null_count]
    if names:
        raise changed(at, f"its column {names[0]} has gaps")
    if rows["index"].to_pylist() != list(range(n)):
        raise changed(at, "its rows are not in the order of the images")
    if (row := _contradiction(header, rows)) is not None:
        said = rows.slice(row, 1).to_pylist()[0]
        told = ", ".join(
            f"{key} {said[key]}"
            for key in ("label", "predicted", "fooled_at", "distance", "fooled_by")
        )
        raise changed(at, f"its row {row} contradicts itself ({told})")


def _contradiction(header: Mapping[str, Any], rows: pa.Table) -> int | None:
    """The first row that no run can have written; None where there is none."""
    texts = [entry["epsilon"] for entry in header["protocol"]["epsilons"]]
    budgets = [0.0, *(float(parse_epsilon(text)) for text in texts), np.inf]
    place = {"0": 0} | {text: i for i, text in enumerate(texts, 1)} | {None: len(budgets) - 1}
    places = np.array([place.get(text, -1) for text in rows["fooled_at"].to_pylist()], int)
    # by lists: to_numpy() and fill_null() import pandas, which takes longer than all the rest
    known = [np.inf if d is None else d for d in rows["distance"].to_pylist()]
    distance = np.array(known, float)
    label, predicted = (np.array(rows[name].to_pylist()) for name in ("label", "predicted"))
    by = rows["fooled_by"]
    clean = np.array([name == CLEAN for name in by.to_pylist()], bool)
    at, below = np.array(budgets)[places], np.array([-1.0, *budgets[:-1]])[places]
    wrong = places < 0
    wrong |= ~((distance <= at + SLACK * np.maximum(at, 1)) & (distance > below))
    wrong |= (label != predicted) != clean
    wrong |= clean & (places != 0)
    wrong |= ~_certified_fits(rows, place, places) | ~_passes_fit(header, rows)
    wrong |= np.array(by.is_null().to_pylist()) != np.array(rows["distance"].is_null().to_pylist())
    found = np.flatnonzero(wrong)
    return int(found[0]) if len(found) else None


def _certified_fits(
    rows: pa.Table, place: Mapping[str | None, int], fooled: npt.NDArray[np.int_]
) -> npt.NDArray[np.bool_]:
    """Whether nothing fools a row at the budget that it is certified at, which is one of these."""
    if "certified_at" not in rows.column_names:
        return np.ones(len(rows), bool)
    at = np.array([0 if t is None else place.get(t, -1) for t in rows["certified_at"].to_pylist()])
    fits: npt.NDArray[np.bool_] = (at == 0) | ((at > 0) & (at < fooled))
    return fits


def _passes_fit(header: Mapping[str, Any], rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Whether each row has as many counts, none negative, as the protocol has attacks, and one."""
    fits = np.ones(len(rows), bool)
    for name in ("forward", "backward"):
        if name in rows.column_names:
            count = 1 + len(header["protocol"]["resolved"]["attacks"])
            listed = rows[name].to_pylist()
            fits &= [p is None or (len(p) == count and min(p) >= 0) for p in listed]
    return fits


def completed(rows: pa.Table) -> pa.Table:
    """Rows of an older format: what it did not keep is null."""
    for field in SCHEMA:
        if field.name not in rows.column_names and field.name in ADDED:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows
