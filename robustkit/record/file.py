"""A record's file: written with digests of all that is in it, read only where they fit.

`rows_digest` in `robustkit.run` is over the rows, `robustkit.digest` over the rest. Files written
before there were these are read without them, and checked for what else cannot be.
"""

import json
import stat
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from robustkit.errors import RecordError, unreadable
from robustkit.files import canonical, given_path
from robustkit.record.checks import (
    changed,
    check_header,
    check_rows,
    check_version,
    completed,
    metadata_digest,
)
from robustkit.record.evaluation import SCHEMA, Evaluation, Example, rows_digest
from robustkit.record.examples import decode_examples

SEALED = 3
"""the first format whose files have a digest over what they say"""
Metadata = Mapping[bytes, bytes]
NONE = "not a robustkit evaluation"
UNREADABLE = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
    MemoryError,
    pa.ArrowException,
)
"""what reading a file that is no record, or a damaged one, may raise"""


class Header(NamedTuple):
    """What a record's file says beside its rows."""

    header: dict[str, Any]
    run: dict[str, Any]
    outputs: bytes | None
    sealed: bool
    """whether a digest covers it"""


def read(path: Path | str) -> Evaluation:
    """An evaluation from its file.

    Raises:
        RecordError: no such file, not one of ours, changed since it was written, or written by a
            newer version.
    """
    path = given_path(path, "a record, a .parquet file")
    found, rows = read_table(path)
    outputs = decode_array(found.outputs)
    return Evaluation(found.header, found.run, rows, examples(path), path, outputs)


def read_table(path: Path) -> tuple[Header, pa.Table]:
    """What a record's file says, and its rows.

    Raises:
        RecordError: as `read`.
    """
    try:
        # of the bytes that are there now: a file that is overwritten meanwhile is damaged at most
        file = pq.ParquetFile(pa.BufferReader(_existing(path).read_bytes()))
        found = _header(file.schema_arrow.metadata or {}, path)
        # by this thread: one of Arrow's that lets go of the bytes as Python ends would abort it
        stored = file.read(use_threads=False).replace_schema_metadata(None)
        check_rows(found.header, found.run, stored, path)
        return found, completed(stored).select(SCHEMA.names).cast(SCHEMA)
    except UNREADABLE as error:
        raise RecordError(unreadable(path, error, NONE)) from error


def read_header(path: Path) -> Header:
    """What a record's file says beside its rows, which are not read.

    Raises:
        RecordError: as `read`, and an evaluation that has not finished.
    """
    try:
        if path.with_suffix(".partial").is_dir() and not path.is_file():
            raise RecordError(
                f"{path}: not finished; run its robustkit evaluate again, which goes on"
            )
        return _header(pq.read_schema(_existing(path)).metadata or {}, path)
    except UNREADABLE as error:
        raise RecordError(unreadable(path, error, NONE)) from error


def _existing(path: Path) -> Path:
    """The path of a regular file: a pipe of that name would be waited for.

    Raises:
        OSError: there is none.
        RecordError: something else.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise RecordError(f"{path}: {NONE}: not a regular file")
    return path


def _header(metadata: Metadata, path: Path) -> Header:
    texts = metadata[b"robustkit.header"], metadata[b"robustkit.run"]
    header, run = map(json.loads, texts)
    outputs = metadata.get(b"robustkit.outputs")
    version = check_version(str(header["schema"]).removeprefix("robustkit.evaluation/"), path)
    seal = metadata.get(b"robustkit.digest")
    if seal is None and version >= SEALED:
        raise changed(path, "its digest is missing")
    if seal is not None and seal.decode() != metadata_digest(*texts, outputs):
        raise changed(path, "its header does not match its digest")
    check_header(header, path)
    if not isinstance(run, dict):
        raise ValueError("it does not say how it was run")
    return Header(header, run, outputs, seal is not None)


def encode(
    header: Mapping[str, Any], run: Mapping[str, Any], rows: pa.Table, outputs: bytes | None
) -> bytes:
    """The bytes of a record's file, with digests of all that is in it."""
    said = canonical(header).encode()
    how = canonical({**run, "rows_digest": rows_digest(rows)}).encode()
    metadata = {"robustkit.header": said, "robustkit.run": how}
    if outputs is not None:
        metadata["robustkit.outputs"] = outputs
    metadata["robustkit.digest"] = metadata_digest(said, how, outputs).encode()
    return parquet_bytes(rows.replace_schema_metadata(metadata))


def parquet_bytes(rows: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    sink = BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()


def examples(path: Path) -> list[Example]:
    """The examples beside an evaluation's file; none where they are missing or changed."""
    return decode_examples(beside(path, "examples"))


def beside(path: Path, what: str) -> Path:
    """The file of that kind beside a record's."""
    return path.with_suffix(f".{what}.npz")


def encode_array(array: npt.NDArray[Any]) -> bytes:
    """An array as the bytes of an .npy file."""
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def decode_array(content: bytes | None) -> npt.NDArray[Any] | None:
    """An array from its bytes; None where there are none, or damaged ones."""
    if content is None:
        return None
    try:
        return np.asarray(np.load(BytesIO(content), allow_pickle=False))
    except Exception:  # NumPy's header parser raises nearly anything on broken bytes
        return None
