"""Parquet with encoded pictures, in Hugging Face's layout (`image: {bytes, path}`, `label`)."""

import itertools
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from robustkit.data.columns import (
    RowSplits,
    column_labels,
    features,
    find_columns,
    has_pictures,
    has_splits,
    is_encoded,
    is_text,
    one_naming,
    rows_of,
)
from robustkit.data.encoded import AS_TORCHVISION, EncodedImage, Reading, decode, is_jpeg
from robustkit.data.packed import LARGE, check_size
from robustkit.data.pixels import Image, Labels
from robustkit.data.shards import SplitFiles, find_split
from robustkit.data.source import (
    CUT_SHORT,
    WHOLE,
    Opened,
    Remembered,
    Reordered,
    diagnosis,
    digests,
    stamps,
)
from robustkit.errors import DataError

PAGE = 128
"""rows that are read at a time"""
CACHE = 256 * 2**20
"""bytes of encoded pictures kept in memory"""
SMALLEST = 32
"""bytes of an encoded picture at least"""


class Page(NamedTuple):
    """Some consecutive rows of one row group."""

    path: Path
    group: int
    offset: int
    """pages before it in its row group"""


class ParquetSource:
    """Pictures read page by page and decoded when they are asked for.

    Files up to 256 MiB stay in memory, encoded; of larger ones, the pages used last do. Within a
    row group reading goes forward only, so a shuffled order over one huge row group is slow.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.labels: Labels
        self.classes: tuple[str, ...]
        """the labels' names, where the labels were names or the files' features have them"""
        self.numbered: bool
        """whether the labels' numbers are the files' own"""
        self.named: frozenset[int] | None
        """those that have a name, where each name has a number; None elsewhere"""
        self._reading = AS_TORCHVISION
        self._pages: list[Page] = []
        self._starts: list[int] = []
        """position of the first row of each page, and at the end the number of rows"""
        self._cache: OrderedDict[int, list[bytes | None]] = OrderedDict()
        self._cached = 0
        self._rows: Iterator[bytes | None] = iter(())
        self._next: int | None = None
        """the page at which `_rows` stands"""
        parts, beside, named, count = [], [], [], 0
        for path in files:
            table = _ParquetTable(path)
            own = table.columns
            parts.append(table.texts_or_numbers(own.label))
            beside.append(table.texts_or_numbers(own.beside) if own.beside else None)
            named.append(own.classes)
            for group, rows in enumerate(table.groups):
                for offset, start in enumerate(range(0, rows, PAGE)):
                    self._pages.append(Page(path, group, offset))
                    self._starts.append(count + start)
                count += rows
        self._starts.append(count)
        found = column_labels(parts, beside, files)
        self.labels, self.classes = found.labels, found.classes or one_naming(named, files)
        self.numbered, self.named = found.numbered, found.named

    def __getstate__(self) -> dict[str, Any]:
        # another process reads files of its own; what is open here does not travel
        nothing = {"_cache": OrderedDict(), "_cached": 0, "_rows": iter(()), "_next": None}
        return vars(self) | nothing

    def read(self, positions: Sequence[int]) -> Iterator[Image]:
        """The images at these positions, in this order."""
        pictures = (EncodedImage(self.encoded(p), self.where(p)) for p in positions)
        return decode(pictures, self._reading)

    def read_as(self, reading: Reading) -> "ParquetSource":
        """This source, whose pictures are from now on read as another library's loader does."""
        self._reading = reading
        return self

    def encoded(self, position: int) -> bytes:
        """One picture as it stands in the file."""
        page = bisect_right(self._starts, position) - 1
        picture = self._read(page)[position - self._starts[page]]
        if picture is None:
            raise DataError(f"{self.where(position)}: no image bytes in the row")
        return picture

    def where(self, position: int) -> str:
        """How a message names an image."""
        page = self._pages[bisect_right(self._starts, position) - 1]
        return f"{page.path}: image {position}"

    def _read(self, page: int) -> list[bytes | None]:
        """The rows of a page, from the cache or by reading on."""
        if page in self._cache:
            self._cache.move_to_end(page)
            return self._cache[page]
        if page != self._next:
            path, group, offset = self._pages[page]
            self._rows = itertools.islice(_ParquetTable(path).pictures(group), offset * PAGE, None)
        expected = self._starts[page + 1] - self._starts[page]
        rows = list(itertools.islice(self._rows, expected))
        if len(rows) < expected:
            raise DataError(f"{self._pages[page].path}: fewer images than it says; {CUT_SHORT}")
        follows = page + 1 < len(self._pages) and self._pages[page + 1].offset > 0
        self._next = page + 1 if follows else None
        self._keep(page, rows)
        return rows

    def _keep(self, page: int, rows: list[bytes | None]) -> None:
        self._cache[page] = rows
        self._cached += sum(map(len, filter(None, rows)))
        while self._cached > CACHE and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= sum(map(len, filter(None, dropped)))


class _ParquetTable:
    """One file, with the columns that count."""

    def __init__(self, path: Path) -> None:
        # here, so that listing the shelf does not wait for it
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        self.path = path
        self._broken = (arrow.ArrowException, OSError, ValueError)
        try:
            self._file = parquet.ParquetFile(path)
        except self._broken as error:
            raise DataError(f"{path}: cannot be read as Parquet: {diagnosis(path)}") from error
        schema = self._file.schema_arrow
        self.columns = find_columns(schema, features(schema), path)
        self._leaf = image = self.columns.image
        kind = schema.field(image).type
        if arrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            self._leaf, kind = f"{image}.bytes", kind.field("bytes").type
        if not is_encoded(kind, arrow.types):
            raise DataError(f"{path}: column {image!r} contains {kind}, not encoded images")
        metadata = self._file.metadata
        self.groups = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        self._size = path.stat().st_size
        self._check_rows(sum(self.groups))

    def _check_rows(self, rows: int) -> None:
        """Nothing, if the file can hold as many pictures as it has rows.

        Equal values of a column take no room: a few bytes can state any number of rows.

        Raises:
            DataError: it cannot.
        """
        if min(self.groups, default=0) < 0:
            raise DataError(f"{self.path}: cannot be read as Parquet: {CUT_SHORT}")
        if rows * SMALLEST > max(LARGE, self._size):
            raise DataError(
                f"{self.path}: {rows:,} rows in {self._size:,} bytes, which cannot hold as many "
                "encoded images and may be an attempt to exhaust memory"
            )

    def texts_or_numbers(self, name: str) -> Any:
        """A column of labels, a `pyarrow.ChunkedArray`.

        Raises:
            DataError: unreadable, or names that are a few bytes and would fill the memory.
        """
        import pyarrow.parquet as parquet
        from pyarrow import types

        kind = self._file.schema_arrow.field(name).type
        if not is_text(kind, types):
            if types.is_nested(kind) or is_encoded(kind, types):  # of any length in each row
                raise DataError(
                    f"{self.path}: column {name!r} contains labels of type {kind}; expected "
                    "integers from 0 on, or names"
                )
            return self._guarded(lambda: self._file.read([name]).column(0))
        # each name is read once, since a long one may stand in every row
        file = self._guarded(lambda: parquet.ParquetFile(self.path, read_dictionary=[name]))
        column = self._guarded(lambda: file.read([name]).column(0))
        self._guarded(lambda: column.validate(full=True))  # numbers in it may lead outside
        lists = (getattr(part, "dictionary", part) for part in column.chunks)
        texts = (text for one in lists for text in one.to_pylist())
        longest = max(map(len, filter(None, texts)), default=0)
        check_size(len(column) * longest, self._size, self.path)
        return column

    def splits(self) -> RowSplits:
        """Which rows are of which split; a column is left as soon as it says something else."""
        import pyarrow.parquet as parquet

        schema = self._file.schema_arrow
        found = RowSplits(schema, self.columns)
        for name in list(found.words):
            # each text once, as with labels
            file = self._guarded(partial(parquet.ParquetFile, self.path, read_dictionary=[name]))
            batches = file.iter_batches(PAGE, columns=[name])
            try:
                while name in found.words and (batch := next(batches, None)) is not None:
                    found.add(name, batch.column(0))
            except self._broken as error:
                if found.column is not None:
                    why = diagnosis(self.path)
                    raise DataError(f"{self.path}: cannot be read as Parquet: {why}") from error
                del found.words[name]
        return found

    def pictures(self, group: int) -> Iterator[bytes | None]:
        """The encoded pictures of a row group, not all at once."""
        batches = self._file.iter_batches(PAGE, row_groups=[group], columns=[self._leaf])
        while (batch := self._guarded(lambda: next(batches, None))) is not None:
            for value in batch.column(0).to_pylist():
                yield value.get("bytes") if isinstance(value, dict) else value

    def _guarded(self, read: Any) -> Any:
        try:
            return read()
        except self._broken as error:
            why = diagnosis(self.path)
            raise DataError(f"{self.path}: cannot be read as Parquet: {why}") from error


def parquet_has_pictures(path: Path) -> bool:
    """Whether a Parquet file has a column of pictures; one that cannot be read may have."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        schema = parquet.read_schema(path)
        return has_pictures(schema, features(schema))  # a column's name may be no text
    except (arrow.ArrowException, OSError, ValueError):
        return True


def find_parquet(place: Path, split: str) -> SplitFiles | None:
    """The Parquet files of a split, in a folder or as the file itself; None if there are none.

    Raises:
        DataError: as `find_split`.
    """
    return find_split(place, ".parquet", split, divided=_has_splits)


def _has_splits(path: Path) -> bool:
    """Whether a column of a Parquet file says which rows are of which split."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        return has_splits(parquet.read_schema(path))
    except (arrow.ArrowException, OSError, ValueError):  # told by whoever reads it
        return False


def open_parquet(part: SplitFiles, split: str) -> Opened:
    """The files of a split, one after the other, as a source; of a whole, the rows of `split`.

    Raises:
        DataError: unreadable, columns not understood, labels missing or not integers, or no rows of
            that split.
    """
    files = part.files
    before = stamps(files)
    source = ParquetSource(files)
    if not len(source.labels):
        raise DataError(f"{files[0]}: no images")
    rows = None
    if part.split == WHOLE:
        rows = rows_of([_ParquetTable(path).splits() for path in files], part, split)
    origin = {
        "folder": str(files[0].parent),
        "sha256": digests(files),
        "encoding": "jpeg" if is_jpeg(source.encoded(0)) else "lossless",
    }
    return Opened(
        Remembered(source if rows is None else Reordered(source, rows)),
        part.split if rows is None else split,
        source.classes,
        numbered=source.numbered,
        origin=origin,
        warnings=part.warnings,
        files=before,
        named=source.named,
    )
