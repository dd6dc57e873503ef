"""Hugging Face data sets on disk (`save_to_disk`, and its cache): streams of Arrow's IPC format.

Source: https://arrow.apache.org/docs/format/Columnar.html, and datasets/arrow_dataset.py for the
folder: `dataset_dict.json` names the splits, `state.json` the files of one, `dataset_info.json` the
columns and the names of classes.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robustkit.data.columns import (
    Columns,
    RowSplits,
    column_labels,
    features,
    find_columns,
    has_pictures,
    has_splits,
    one_naming,
    rows_of,
)
from robustkit.data.encoded import is_jpeg
from robustkit.data.shards import SplitFiles, find_split
from robustkit.data.source import (
    UNDIVIDED,
    WHOLE,
    Opened,
    Remembered,
    Reordered,
    diagnosis,
    digests,
    stamps,
)
from robustkit.data.spans import SpanSource
from robustkit.data.split import SPLITS
from robustkit.errors import DataError, InputError, quoted
from robustkit.files import read_json

DICTIONARY, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
FILE_FORMAT = b"ARROW1"
"""begins Arrow's other format, Feather"""


# -- the folder ------------------------------------------------------------------------------------


def find_arrow(place: Path, split: str) -> SplitFiles | None:
    """The Arrow files of a split, in a folder or as the file itself; None if there are none.

    Raises:
        DataError: no such split, or JSON files that lead outside or nowhere.
    """
    wanted = SPLITS.get(split, split)
    if (place / DICTIONARY).is_file():
        names = _texts(_table(place / DICTIONARY).get("splits"))
        chosen = next((name for name in names if SPLITS.get(name, name) == wanted), None)
        if chosen is None:
            raise DataError(f"{place}: no split {split!r}; it has: {', '.join(names) or 'none'}")
        return SplitFiles(_listed(_inside(place, chosen, DICTIONARY)), split)
    if not (place / STATE).is_file():
        return find_split(place, ".arrow", split, skip="cache-", divided=_has_splits)
    own = _table(place / STATE).get("_split")
    if isinstance(own, str) and SPLITS.get(own, own) == wanted:
        return SplitFiles(_listed(place), split)
    if isinstance(own, str) and own in SPLITS:
        raise DataError(f"{place}: no split {split!r}; it contains only {own!r}")
    files = _listed(place)
    if wanted not in ("test", WHOLE) and not _has_splits(files[0]):
        raise DataError(f"{place}: no split {split!r}; it {UNDIVIDED}")
    return SplitFiles(files, WHOLE)


def is_saved(folder: Path) -> bool:
    """Whether a folder's own JSON says which Arrow files are its data."""
    return any((folder / name).is_file() for name in (DICTIONARY, STATE))


def _listed(folder: Path) -> list[Path]:
    """The files of one split, in the order of its `state.json`."""
    if _table(folder / STATE).get("_indices_data_files"):
        raise DataError(
            f"{folder / STATE}: its rows are reordered by an indices mapping; save what "
            "flatten_indices() returns"
        )
    entries = _table(folder / STATE).get("_data_files")
    names = [e.get("filename") for e in entries or () if isinstance(e, Mapping)]
    files = [_inside(folder, name, STATE) for name in _texts(names)]
    if not files:
        raise DataError(f"{folder / STATE}: lists no data files")
    return files


def _inside(folder: Path, name: str, said_by: str) -> Path:
    """What a folder's own JSON names, which never leads out of it."""
    parts = PurePath(name).parts
    if len(parts) != 1 or parts[0] in ("..", "/") or "\0" in name:
        raise DataError(f"{folder / said_by}: {quoted(name)} leads out of the folder; refused")
    return folder / name


def _texts(values: object) -> list[str]:
    return [v for v in values if isinstance(v, str)] if isinstance(values, list) else []


def _table(path: Path) -> Mapping[str, Any]:
    try:
        found = read_json(path)
    except InputError as error:
        raise DataError(str(error)) from error
    return found if isinstance(found, Mapping) else {}


# -- the files -------------------------------------------------------------------------------------


def arrow_has_pictures(path: Path) -> bool:
    """Whether an Arrow file has a column of pictures; one that cannot be read may have."""
    import pyarrow as arrow

    try:
        schema = _schema(path)
        info = _info(path.parent) or features(schema)
        return has_pictures(schema, info)  # a column's name may be no text
    except (arrow.ArrowException, OSError, EOFError, ValueError):
        return True


def _has_splits(path: Path) -> bool:
    """Whether a column of an Arrow file says which rows are of which split."""
    import pyarrow as arrow

    try:
        return has_splits(_schema(path))
    except (arrow.ArrowException, OSError, EOFError, ValueError):  # told by whoever reads it
        return False


def _schema(path: Path) -> Any:
    import pyarrow as arrow

    with arrow.OSFile(str(path)) as file:
        of_file = file.read(len(FILE_FORMAT)) == FILE_FORMAT
        file.seek(0)
        read = arrow.ipc.open_file if of_file else arrow.ipc.open_stream
        return read(file).schema


class _Scan(NamedTuple):
    """What one pass over a file finds out."""

    columns: Columns
    spans: npt.NDArray[np.int64]
    """N x 3"""
    labels: Any
    """`pyarrow.ChunkedArray` of N"""
    beside: Any
    """likewise of the other column that has them; None where there is none"""
    splits: RowSplits


def open_arrow(part: SplitFiles, split: str) -> Opened:
    """The files of a split, one after the other, as a source; of a whole, the rows of `split`.

    Raises:
        DataError: unreadable, columns not understood, labels missing, or no rows of that split.
    """
    files = part.files
    before = stamps(files)
    infos = {folder: _info(folder) for folder in {path.parent for path in files}}
    scans = [_scan(path, number, infos[path.parent]) for number, path in enumerate(files)]
    spans = np.concatenate([scan.spans for scan in scans])
    if not len(spans):
        raise DataError(f"{files[0]}: no images")
    labels = column_labels([scan.labels for scan in scans], [scan.beside for scan in scans], files)
    source = SpanSource(tuple(files), spans, labels.labels)
    whole = part.split == WHOLE
    rows = rows_of([scan.splits for scan in scans], part, split) if whole else None
    origin = {
        "folder": str(files[0].parent),
        "sha256": digests(files),
        "encoding": "jpeg" if is_jpeg(source.encoded(0)) else "lossless",
    }
    named = one_naming([scan.columns.classes for scan in scans], files)
    return Opened(
        Remembered(source if rows is None else Reordered(source, rows)),
        part.split if rows is None else split,
        labels.classes or named,
        numbered=labels.numbered,
        origin=origin,
        warnings=part.warnings,
        files=before,
        named=labels.named,
    )


def _info(folder: Path) -> object:
    """The features that a folder's own JSON describes, if it does."""
    beside = folder / INFO
    return _table(beside).get("features") if beside.is_file() else None


def _scan(path: Path, number: int, info: object) -> _Scan:
    """Where the pictures of a file stand, and their labels; its batches are read one at a time."""
    # here, so that listing the shelf does not wait for it
    import pyarrow as arrow

    broken = (arrow.ArrowException, OSError, EOFError, ValueError, struct.error, MemoryError)
    try:
        with arrow.OSFile(str(path)) as file:
            if file.read(len(FILE_FORMAT)) == FILE_FORMAT:
                raise DataError(
                    f"{path}: Arrow's file format (Feather); expected the stream format of "
                    "save_to_disk, or Parquet"
                )
            file.seek(0)
            schema = arrow.ipc.read_schema(arrow.ipc.read_message(file))
            columns = find_columns(schema, info or features(schema), path)
            splits = RowSplits(schema, columns)
            where = f"{path}: column {columns.image!r}"
            marks = [name for name in (columns.label, columns.beside) if name]
            spans = [np.empty((0, 3), np.int64)]
            found: dict[str, list[Any]] = {name: [] for name in marks}
            for message in _messages(file, path, arrow):
                batch = arrow.ipc.read_record_batch(message, schema)
                pictures = batch.column(columns.image)
                pictures.validate(full=True)
                for name, parts in found.items():
                    (column := batch.column(name)).validate(full=True)
                    # a copy: a view would keep the whole batch
                    parts.append(arrow.concat_arrays([column, column[:0]]))
                for name in list(splits.words):
                    splits.add(name, batch.column(name))
                start = file.tell() - message.body.size
                places = _places(pictures, message.body, start, where, arrow.types)
                spans.append(np.insert(places, 0, number, axis=1))
    except broken as error:
        raise DataError(f"{path}: cannot be read as Arrow: {diagnosis(path)}") from error
    own = [arrow.chunked_array(found[name], schema.field(name).type) for name in marks]
    return _Scan(columns, np.concatenate(spans), own[0], own[1] if own[1:] else None, splits)


def _messages(file: Any, path: Path, arrow: Any) -> Iterator[Any]:
    """The record batches of a stream whose schema has been read."""
    while True:
        try:
            message = arrow.ipc.read_message(file)
        except EOFError:
            return
        if message.type != "record batch":
            raise DataError(
                f"{path}: a {message.type} in the stream, which save_to_disk never writes; "
                "save the data set again"
            )
        if _is_compressed(message.metadata.to_pybytes()):
            raise DataError(f"{path}: its batches are compressed; save them without compression")
        yield message


def _is_compressed(metadata: bytes) -> bool:
    """Whether a record batch's header, a flatbuffer, has the field that says so.

    Source: arrow/format/Message.fbs; field 2 of a `Message` is its header, field 3 of a
    `RecordBatch` the compression. Looked at first, since a few bytes can unpack to any number.
    """

    def field(table: int, number: int) -> int:
        """Where a field's value stands; 0 where the table has none."""
        fields = table - struct.unpack_from("<i", metadata, table)[0]
        length = struct.unpack_from("<H", metadata, fields)[0]
        place = 4 + 2 * number
        offset = struct.unpack_from("<H", metadata, fields + place)[0] if place < length else 0
        return table + offset if offset else 0

    root = struct.unpack_from("<I", metadata, 0)[0]
    header = field(root, 2)
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    return bool(field(batch, 3))


def _places(pictures: Any, body: Any, start: int, where: str, types: Any) -> Any:
    """Start and size in the file of each picture of a batch, N x 2; size 0 where there is none.

    Args:
        pictures: the column.
        body: bytes of the batch, of which the column is a view.
        start: where these stand in the file.
        where: how messages name the column.
        types: `pyarrow.types`.
    """
    column = getattr(pictures, "storage", pictures)
    kind = column.type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = column.field("bytes")
    wide = types.is_large_binary(column.type)
    if not (wide or types.is_binary(column.type)):
        raise DataError(f"{where} contains {kind}, not encoded images")
    _, ends, content = column.buffers()
    if content is None or not len(column):
        return np.zeros((len(column), 2), np.int64)
    bounds = np.frombuffer(ends, np.int64 if wide else np.int32)[column.offset :][: len(column) + 1]
    bounds = bounds.astype(np.int64)
    sizes = np.where(column.is_null().to_numpy(zero_copy_only=False), 0, np.diff(bounds))
    return np.stack([start + content.address - body.address + bounds[:-1], sizes], axis=1)
