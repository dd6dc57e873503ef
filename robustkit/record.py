"""The record of an evaluation: one row per test image, in one Parquet file. Needs no torch.

A folder of records is content-addressed: a file's name is the digest of everything that can change
a row. While an evaluation runs, its finished blocks stand in `DIGEST.partial/`, each written whole;
the last block done, one file replaces them.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from robustkit.errors import RecordError
from robustkit.files import canonical, digest, write_atomic
from robustkit.protocol import Epsilon, parse_epsilon
from robustkit.statistics import Estimate, Method, proportion

VERSION = 2
"""2 added `fooled_as`"""
SCHEMA = pa.schema(
    [
        ("sample", pa.string()),  # id of the image, from its pixels
        ("index", pa.int64()),  # place in the data set's order
        ("label", pa.int32()),
        ("predicted", pa.int32()),  # class of the clean image
        ("fooled_at", pa.string()),  # smallest budget that succeeded; "0" for a clean mistake
        ("distance", pa.float64()),  # smallest verified distance, an upper bound; 0 likewise
        ("fooled_by", pa.string()),  # the attack that found it; "clean" likewise
        ("fooled_as", pa.int32()),  # class that the model gives the image at that distance
    ]
)
CLEAN = "clean"
"""`fooled_by` of an image that is misclassified without any attack"""


class Point(NamedTuple):
    """Robust accuracy at one budget."""

    epsilon: Epsilon
    accuracy: Estimate


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One successful perturbation, for looking at."""

    index: int
    """place in the data set's order"""
    label: int
    predicted: int
    """class of the perturbed image"""
    distance: float
    clean: npt.NDArray[np.float32]
    """C × H × W in [0, 1]"""
    perturbed: npt.NDArray[np.float32]
    """C × H × W in [0, 1]"""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found: a header, one row per image, and how the run went."""

    header: Mapping[str, Any]
    """what was asked: checkpoint, data, protocol, engine; all JSON"""
    run: Mapping[str, Any]
    """what may differ between two runs of the same question: times, batch size, threads"""
    table: pa.Table
    """rows of `SCHEMA`, in the data set's order"""
    examples: Sequence[Example] = ()
    """the smallest successful perturbations, by rising distance"""
    path: Path | None = None
    """the file it was read from"""
    outputs: npt.NDArray[np.float64] | None = None
    """logits of a module in memory on fixed noise, N × K, by which it is told from its likes"""

    @property
    def digest(self) -> str:
        """The digest of the question, which names the file."""
        return str(self.header["digest"])

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows as a frame; missing is null."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    @cached_property
    def rows_digest(self) -> str:
        """SHA-256 of the rows: equal exactly where every value of every row is equal."""
        return rows_digest(self.table)

    @cached_property
    def epsilons(self) -> tuple[Epsilon, ...]:
        """The budgets, rising."""
        return tuple(parse_epsilon(e["epsilon"]) for e in self.header["protocol"]["epsilons"])

    @cached_property
    def broken_at(self) -> npt.NDArray[np.float64]:
        """For each image the smallest budget that fools it: 0 for a clean mistake, inf if none."""
        value = {e.text: float(e) for e in self.epsilons} | {"0": 0.0}
        column = self.table["fooled_at"].to_pylist()
        return np.array([np.inf if text is None else value[text] for text in column])

    def clean(self, method: Method = "wilson") -> Estimate:
        """Accuracy on the images as they are."""
        return proportion(int((self.broken_at > 0).sum()), len(self.table), method)

    def robust(self, method: Method = "wilson") -> tuple[Point, ...]:
        """Accuracy at each budget: the share of *all* images still right, clean mistakes counted.

        It falls monotonically, and is the per-image worst case over attacks and restarts.
        """
        n = len(self.table)
        return tuple(
            Point(e, proportion(int((self.broken_at > float(e)).sum()), n, method))
            for e in self.epsilons
        )


def rows_digest(table: pa.Table) -> str:
    """SHA-256 over the values of all rows; file layout and compression play no part."""
    return digest(canonical(table.select(SCHEMA.names).to_pydict()))


def table(columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]]) -> pa.Table:
    """Rows from columns, in the fixed schema."""
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


def read(path: Path) -> Evaluation:
    """An evaluation from its file.

    Raises:
        RecordError: no such file, not one of ours, or written by a newer version.
    """
    try:
        parquet = pq.ParquetFile(path)
        metadata = parquet.schema_arrow.metadata or {}
        header = json.loads(metadata[b"robustkit.header"])
        run = json.loads(metadata[b"robustkit.run"])
        outputs = metadata.get(b"robustkit.outputs")
        _check_version(str(header["schema"]).removeprefix("robustkit.evaluation/"), path)
        rows = _completed(parquet.read().replace_schema_metadata(None)).cast(SCHEMA)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise RecordError(f"{path}: not a robustkit evaluation: {error}") from error
    return Evaluation(header, run, rows, examples(path), path, _decode_array(outputs))


def examples(path: Path) -> list[Example]:
    """The examples beside an evaluation's file; none where they are missing."""
    return decode_examples(_beside(path, "examples"))


def _completed(rows: pa.Table) -> pa.Table:
    """Rows of an older format: what it did not keep is null."""
    for field in SCHEMA:
        if field.name not in rows.column_names and field.name == "fooled_as":
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows


def _check_version(text: str, where: Path) -> None:
    if int(text) > VERSION:
        raise RecordError(
            f"{where}: written by a newer robustkit (format {text}, this one reads {VERSION}); "
            "upgrade, or choose another --out"
        )


def frame(folder: Path | str = "runs", columns: Sequence[str] = SCHEMA.names) -> pd.DataFrame:
    """All records of a folder as one tidy frame: a row per evaluation and image.

    Beside the rows' own columns (choose with `columns`) stand `evaluation`, `checkpoint`, `model`,
    `loss`, `label_noise`, `data_fraction`, `seed`, `data`, `split`, `protocol`, `norm` and
    `targeted`; unknown is null. Text columns are categorical, so that many records fit in memory.

    Raises:
        RecordError: no such folder, or a file in it that cannot be read.
    """
    if not Path(folder).is_dir():
        raise RecordError(f"{folder}: no such folder of records")
    check_folder(Path(folder))
    tables = [_tidy(read(path), columns) for path in sorted(Path(folder).glob("*.parquet"))]
    empty = pa.table({name: pa.array([], SCHEMA.field(name).type) for name in columns})
    result = pa.concat_tables(tables) if tables else empty
    tidy: pd.DataFrame = result.to_pandas(strings_to_categorical=True)
    return tidy


def _tidy(evaluation: Evaluation, columns: Sequence[str]) -> pa.Table:
    header = evaluation.header
    checkpoint, data, protocol = (header[key] for key in ("checkpoint", "data", "protocol"))
    constant = {
        "evaluation": (evaluation.digest, pa.string()),
        "checkpoint": (checkpoint["path"], pa.string()),
        "model": (checkpoint["model"], pa.string()),
        "loss": (checkpoint["loss"], pa.string()),
        "label_noise": (checkpoint["label_noise"], pa.float64()),
        "data_fraction": (checkpoint["data_fraction"], pa.float64()),
        "seed": (checkpoint["seed"], pa.int64()),
        "data": (data["name"], pa.string()),
        "split": (data["split"], pa.string()),
        "protocol": (protocol["name"], pa.string()),
        "norm": (protocol["norm"], pa.string()),
        "targeted": (protocol["resolved"]["target"], pa.string()),
    }
    result, n = evaluation.table.select(list(columns)), len(evaluation.table)
    for name, (value, kind) in constant.items():
        result = result.append_column(name, pa.repeat(pa.scalar(value, kind), n))
    return result


def check_folder(folder: Path) -> None:
    """Refuse a folder that a newer version has written to.

    Raises:
        RecordError: its marker names a newer format.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        text = (folder / "robustkit.json").read_text(encoding="utf-8")
        try:
            version = json.loads(text)["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{folder / 'robustkit.json'}: not readable: {error}") from error
        _check_version(str(version), folder)


class Store:
    """A folder of records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        check_folder(folder)
        if not (folder / "robustkit.json").exists():
            write_atomic(folder / "robustkit.json", canonical({"format": VERSION}).encode())

    def find(self, name: str) -> Evaluation | None:
        """The finished evaluation of that digest, if there is one."""
        path = self.path(name)
        return read(path) if path.exists() else None

    def path(self, name: str) -> Path:
        """Where the evaluation of that digest stands or will stand."""
        return self.folder / f"{name[:32]}.parquet"

    @contextmanager
    def claim(self, name: str, waiting: Callable[[], None]) -> Iterator["Blocks"]:
        """Hold the right to work on a digest; `waiting` is called if another process has it.

        The operating system frees the claim of a process that dies, so the next one takes over.
        """
        lock = FileLock(self.folder / f"{name[:32]}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
        try:
            yield Blocks(self.path(name))
        finally:
            lock.release()


class Blocks:
    """The finished blocks of an evaluation that still runs."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.folder = final.with_suffix(".partial")

    def plan(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The plan that the first run wrote (batch size and the like); else `wanted`, now kept."""
        path = self.folder / "plan.json"
        with suppress(FileNotFoundError, ValueError):
            return dict(json.loads(path.read_text(encoding="utf-8")))
        self.replan(wanted)
        return dict(wanted)

    def replan(self, plan: Mapping[str, Any]) -> None:
        """Keep a plan that the run had to change."""
        write_atomic(self.folder / "plan.json", canonical(plan).encode())

    def done(self, block: int) -> pa.Table | None:
        """The rows of a finished block; None where it is missing or damaged."""
        with suppress(OSError, pa.ArrowException, ValueError):
            return pq.ParquetFile(self._path(block)).read().cast(SCHEMA)
        return None

    def write(self, block: int, rows: pa.Table, examples: Sequence[Example]) -> None:
        """Keep a finished block, and the examples found so far. The rows come last: they count."""
        write_atomic(_beside(self._folder_file(), "examples"), encode_examples(examples))
        write_atomic(self._path(block), _parquet_bytes(rows))

    def keep_images(self, block: int, images: npt.NDArray[np.float32]) -> None:
        """Keep a block's perturbed images, N × C × H × W, before its rows."""
        write_atomic(self._images(block), _encode_array(images))

    def images(self, block: int) -> npt.NDArray[np.float32] | None:
        """A block's perturbed images; None where they were not kept."""
        with suppress(OSError, ValueError, EOFError):
            return np.asarray(np.load(self._images(block), allow_pickle=False))
        return None

    def keep_outputs(self, outputs: npt.NDArray[np.float64]) -> None:
        """Keep a module's logits on fixed noise, N × K, before the first block."""
        write_atomic(self.folder / "outputs.npy", _encode_array(outputs))

    def outputs(self) -> npt.NDArray[np.float64] | None:
        """The logits on fixed noise of the module whose blocks these are, where they were kept."""
        with suppress(OSError):
            return _decode_array((self.folder / "outputs.npy").read_bytes())
        return None

    def examples(self) -> list[Example]:
        """The examples of the blocks so far."""
        return decode_examples(_beside(self._folder_file(), "examples"))

    def finish(self, header: Mapping[str, Any], run: Mapping[str, Any], rows: pa.Table) -> None:
        """Write the one final file, then drop the blocks."""
        write_atomic(_beside(self.final, "examples"), encode_examples(self.examples()))
        metadata: dict[str, str | bytes] = {
            "robustkit.header": canonical(header),
            "robustkit.run": canonical({**run, "rows_digest": rows_digest(rows)}),
        }
        if (outputs := self.outputs()) is not None:
            metadata["robustkit.outputs"] = _encode_array(outputs)
        write_atomic(self.final, _parquet_bytes(rows.replace_schema_metadata(metadata)))
        self.drop()

    def drop(self) -> None:
        """Forget all blocks."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, block: int) -> Path:
        return self.folder / f"block-{block:06d}.parquet"

    def _images(self, block: int) -> Path:
        return self.folder / f"block-{block:06d}.npy"

    def _folder_file(self) -> Path:
        return self.folder / "best.parquet"


def _beside(path: Path, what: str) -> Path:
    return path.with_suffix(f".{what}.npz")


def _parquet_bytes(rows: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()


def _encode_array(array: npt.NDArray[Any]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _decode_array(content: bytes | None) -> npt.NDArray[Any] | None:
    """An array from its bytes; None where there are none, or damaged ones."""
    if content is not None:
        with suppress(ValueError, EOFError):
            return np.asarray(np.load(BytesIO(content), allow_pickle=False))
    return None


def encode_examples(examples: Sequence[Example]) -> bytes:
    """Examples as the bytes of an .npz file."""
    buffer = BytesIO()
    arrays: dict[str, Any] = {
        field.name: np.array([getattr(e, field.name) for e in examples])
        for field in fields(Example)
    }
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def decode_examples(file: Path | BytesIO) -> list[Example]:
    """Examples from their file; none where it is missing or damaged: they are only looked at."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            columns = [arrays[field.name] for field in fields(Example)]
        return [
            Example(int(i), int(label), int(predicted), float(distance), clean, perturbed)
            for i, label, predicted, distance, clean, perturbed in zip(*columns, strict=True)
        ]
    except (OSError, ValueError, TypeError, KeyError, EOFError):
        return []
