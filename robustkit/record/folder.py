"""A folder of records, content-addressed.

A file's name is the digest of everything that can change a row. While an evaluation runs, its
finished blocks stand in `DIGEST.partial/`, each written whole; the last block done, one file
replaces them.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from filelock import FileLock, Timeout

from robustkit.errors import CannotWrite, RecordError, UnknownName
from robustkit.files import canonical, given_path, write_atomic
from robustkit.record.blocks import Blocks
from robustkit.record.checks import NAME, changed, check_version
from robustkit.record.evaluation import SCALARS, SCHEMA, VERSION, Evaluation
from robustkit.record.file import encode, read, read_table

if TYPE_CHECKING:
    import pandas as pd

MARKER = "robustkit.json"
"""the file that says which format a folder's records are in"""


class Store:
    """A folder of records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        check_folder(folder)

    def find(self, name: str) -> Evaluation | None:
        """The finished evaluation of that digest, if there is one. Needs no right to write.

        Raises:
            RecordError: it was changed since it was written, or cannot be read.
        """
        path = self.path(name)
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
        found = read(path)
        if found.digest != name:
            raise changed(path, "it contains another evaluation than its name says")
        return found

    def path(self, name: str) -> Path:
        """Where the evaluation of that digest stands or will stand."""
        return self.folder / f"{name[:NAME]}.parquet"

    @contextmanager
    def claim(self, name: str, waiting: Callable[[], None]) -> Iterator[Blocks]:
        """Hold the right to work on a digest; `waiting` is called if another process has it.

        The operating system frees the claim of a process that dies, so the next one takes over.
        What ends before its first block leaves nothing.

        Raises:
            CannotWrite: the folder cannot be written, or its file system knows no locks.
        """
        if not (self.folder / MARKER).exists():
            write_atomic(self.folder / MARKER, canonical({"format": VERSION}).encode())
        lock = self._lock(name)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                waiting()
                lock.acquire()
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CannotWrite(
                f"cannot lock {lock.lock_file}: {reason}; give an --out in a writable folder"
            ) from error
        blocks = Blocks(self.path(name))
        try:
            yield blocks
        finally:
            blocks.drop_unless_begun()
            lock.release()

    def renew(self, name: str, said: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        """Write a finished evaluation's header anew, as `said` has it; its rows stay as they are.

        Nothing happens where the folder cannot be written, another process is at work on that
        digest, or the record is of an older format or changed: this is no reason to fail.
        """
        hindered = suppress(CannotWrite, RecordError, Timeout, OSError, NotImplementedError)
        with hindered, self._lock(name).acquire(timeout=0):
            # as it is now: another process may have made it anew since it was read
            found, rows = read_table(self.path(name))
            header = said(found.header)
            own = header["schema"] == f"robustkit.evaluation/{VERSION}" and found.sealed
            if own and found.header["digest"] == header["digest"] == name:
                write_atomic(self.path(name), encode(header, found.run, rows, found.outputs))

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / f"{name[:NAME]}.lock")


def check_folder(folder: Path) -> None:
    """Refuse a folder that a newer version has written to.

    Raises:
        RecordError: its marker names a newer format, or cannot be read.
    """
    marker = folder / MARKER
    with suppress(FileNotFoundError, NotADirectoryError):
        try:
            version = json.loads(marker.read_text(encoding="utf-8"))["format"]
            check_version(str(version), folder)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise RecordError(f"{marker}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordError(f"{marker}: cannot be read: {error}") from error


def frame(folder: Path | str = "runs", columns: Sequence[str] = SCALARS) -> "pd.DataFrame":
    """All records of a folder as one tidy frame: a row per evaluation and image.

    Beside the rows' own columns (choose with `columns`; without that all but the passes) stand
    `evaluation`, `checkpoint` (its path), `weights` (their digest), `model`, `loss`, `label_noise`,
    `data_fraction`, `seed`, `data`, `split`, `images` (their digest), `corruption`, `severity`,
    `protocol` (its name), `attack` (the protocol's digest), `norm`, `budgets`, `targeted`,
    `surrogate` (null: the attack was on the network itself), `precision` and `revision` (of the
    attacks); unknown is null. A null `fooled_at` is an image that withstood all of `budgets`. Text
    columns are categorical, so that many records fit in memory.

    Raises:
        RecordError: no such folder, or a file in it that cannot be read.
        UnknownName: no such column.
    """
    columns = list(dict.fromkeys([columns] if isinstance(columns, str) else columns))
    for name in columns:
        if name not in SCHEMA.names:
            raise UnknownName("column", str(name), SCHEMA.names)
    folder = given_path(folder, "a folder of records")
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder of records")
    check_folder(folder)
    tables = [_tidy(read(path), columns) for path in sorted(folder.glob("*.parquet"))]
    tidy: pd.DataFrame = pa.concat_tables([_nothing(columns), *tables]).to_pandas(
        strings_to_categorical=True
    )
    return tidy


TOLD: dict[str, tuple[tuple[str, ...], pa.DataType]] = {
    "evaluation": (("digest",), pa.string()),
    "checkpoint": (("checkpoint", "path"), pa.string()),
    "weights": (("checkpoint", "weights"), pa.string()),
    "model": (("checkpoint", "model"), pa.string()),
    "loss": (("checkpoint", "loss"), pa.string()),
    "label_noise": (("checkpoint", "label_noise"), pa.float64()),
    "data_fraction": (("checkpoint", "data_fraction"), pa.float64()),
    "seed": (("checkpoint", "seed"), pa.int64()),
    "data": (("data", "name"), pa.string()),
    "split": (("data", "split"), pa.string()),
    "images": (("data", "digest"), pa.string()),
    "corruption": (("data", "source", "corruption"), pa.string()),
    "severity": (("data", "source", "severity"), pa.int64()),
    "protocol": (("protocol", "name"), pa.string()),
    "attack": (("protocol", "digest"), pa.string()),
    "norm": (("protocol", "norm"), pa.string()),
    "budgets": (("protocol", "epsilons"), pa.string()),
    "targeted": (("protocol", "resolved", "target"), pa.string()),
    "surrogate": (("surrogate", "path"), pa.string()),
    "precision": (("precision",), pa.string()),
    "revision": (("engine", "revision"), pa.int64()),
}
"""columns that say which evaluation a row is of: where the header has them, and of which type"""


def _nothing(columns: Sequence[str]) -> pa.Table:
    """No rows, with every column that a frame has."""
    kinds = {name: SCHEMA.field(name).type for name in columns}
    kinds |= {name: kind for name, (_, kind) in TOLD.items()}
    return pa.table({name: pa.array([], kind) for name, kind in kinds.items()})


def _tidy(evaluation: Evaluation, columns: Sequence[str]) -> pa.Table:
    result, n = evaluation.table.select(list(columns)), len(evaluation.table)
    for name, (place, kind) in TOLD.items():
        # older records say no precision: they searched in float32
        value: Any = {"precision": "float32", **evaluation.header}
        for key in place:
            value = (value or {}).get(key)
        if name == "budgets":
            value = ", ".join(entry["epsilon"] for entry in value or ())
        result = result.append_column(name, pa.repeat(pa.scalar(value, kind), n))
    return result
