"""CSV and TSV with the paths of pictures and their labels."""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from robustkit.data.encoded import SUFFIXES
from robustkit.data.folder import FileSource
from robustkit.data.labels import (
    LABELS,
    NUMBERS,
    number_labels,
    numbers_of,
    spelled,
    stated_labels,
)
from robustkit.data.source import (
    CUT_SHORT,
    UNDIVIDED,
    WHOLE,
    Opened,
    Remembered,
    diagnosis,
    stamps,
)
from robustkit.data.split import COLUMN, SPLITS, check_no_column
from robustkit.errors import DataError, first_line, quoted
from robustkit.files import file_digest
from robustkit.parsing import whole

PATHS = (
    "path", "file", "filename", "filepath", "image", "image_path", "img", "img_path", "picture",
    "image_name", "image_id",
)  # fmt: skip
"""columns of paths, however `spelled`"""
LONGEST_LINE = 2**16
"""characters"""
MOST_COLUMNS = 1000
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{1,20}://|data:", re.ASCII | re.IGNORECASE)


class TableRow(NamedTuple):
    """A line of the file."""

    line: int
    """from 1 on"""
    path: Path
    label: str


def open_table(path: Path, split: str) -> Opened:
    """The pictures that a file lists, as a source.

    Paths are relative to the file's folder. They may lead out of it, since the list is the user's
    own; the folders that they lead to are on record.

    Raises:
        DataError: no columns of paths and labels, an address, no such picture, no such split, a
            picture with two labels.
    """
    before = stamps([path])
    rows, own, others, numbers = read_rows(path, split)
    for row in rows:
        if not _is_file(row.path):
            raise DataError(
                f"{path}: line {row.line}: {quoted(str(row.path))}: no such file; paths are "
                "relative to the table's folder, or absolute"
            )

    def where(position: int) -> str:
        return f"{path}: line {rows[position].line}"

    texts = [row.label for row in rows]
    if numbers:
        labels = stated_labels(texts, numbers, where)
    else:
        labels = number_labels(texts, where, others)
    notes = _notes(rows, path)
    paths = tuple(row.path for row in rows)
    home = path.parent.resolve()
    outside = {str(p.parent) for p in paths if not p.resolve().is_relative_to(home)}
    origin: dict[str, Any] = {"file": str(path), "sha256": file_digest(path)}
    if outside:
        origin |= {"folders_outside": sorted(outside)}
    source = Remembered(FileSource(paths, labels.labels))
    return Opened(
        source,
        own,
        labels.classes,
        numbered=labels.numbered,
        named=labels.named,
        notes=notes,
        origin=origin,
        files=(*before, *stamps(paths)),
    )


def _notes(rows: Sequence[TableRow], path: Path) -> tuple[str, ...]:
    """What there is to say of pictures that are listed more than once.

    Raises:
        DataError: one has two labels.
    """
    first: dict[Path, TableRow] = {}
    for row in rows:
        other = first.setdefault(row.path, row)
        if other.label != row.label:
            raise DataError(
                f"{path}: line {row.line}: {quoted(str(row.path))} has the label "
                f"{quoted(row.label)}, and {quoted(other.label)} in line {other.line}; an image "
                "has one label"
            )
    more = len(rows) - len(first)
    return (f"{path}: {more} of {len(rows)} rows list a picture again, and count",) if more else ()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except ValueError:  # a null byte
        return False


class TableRows(NamedTuple):
    """The rows of a split."""

    rows: list[TableRow]
    split: str
    others: set[str]
    """labels of the rows of other splits"""
    numbers: dict[str, str]
    """of the labels of all rows, where a column of its own has them"""


def read_rows(path: Path, split: str) -> TableRows:
    """The rows of a split; without a column of splits the file is one whole.

    Raises:
        DataError: as `open_table`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(LONGEST_LINE)
            file.seek(0)
            lines = csv.reader(_bounded(file, path), delimiter=_delimiter(path, first))
            return _rows(lines, path, split)
    except UnicodeDecodeError as error:
        what = diagnosis(path)
        advice = "save it as UTF-8 (in a spreadsheet: CSV UTF-8)" if what == CUT_SHORT else what
        raise DataError(f"{path}: not UTF-8 text: {advice}") from error
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as a table: {first_line(error)}") from error


def _bounded(file: TextIO, path: Path) -> Iterator[str]:
    """The file's lines, none of which fills the memory."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(f"{path}: line {number}: longer than {LONGEST_LINE:,} characters")
        yield line


def _delimiter(path: Path, first: str) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)


class _Places(NamedTuple):
    """The columns that count, by number."""

    path: int
    labels: Sequence[int]
    """names or numbers, the most usual first"""
    split: int | None = None
    others: Mapping[int, str] = {}
    """columns that may say which rows are of which split, by number, and what they are called"""


class _Cells(NamedTuple):
    """The cells that count, of one line."""

    line: int
    path: str
    labels: Sequence[str]
    split: str


def _rows(lines: Any, path: Path, split: str) -> TableRows:
    """The rows of a split, from a `csv.reader`."""
    head = next((cells for cells in lines if cells), None)
    if head is None:
        raise DataError(f"{path}: {diagnosis(path)}")
    if len(head) > MOST_COLUMNS:
        raise DataError(f"{path}: {len(head):,} columns; expected a path and a label")
    places = _header(head, path)
    first = [(lines.line_num, head)] if places is None else []
    places = places or _without_header(head, path)
    every = itertools.chain(first, ((lines.line_num, cells) for cells in lines))
    suspects: dict[int, set[str]] = {at: set() for at in places.others}
    rows = list(_cells(every, places, len(head), path, suspects))
    label, number = _label_columns(rows, [head[at].strip() for at in places.labels], path)
    numbers = {}
    if number is not None:
        texts, given = ([row.labels[at] for row in rows] for at in (label, number))
        numbers = numbers_of(texts, given, lambda row: f"{path}: line {rows[row].line}")
    wanted, found = SPLITS.get(split.lower(), split.lower()), []
    seen: set[str] = set()
    others: set[str] = set()
    for row in rows:
        if places.split is not None:
            own = SPLITS.get(row.split, row.split)
            seen.add(own)
            if wanted not in (own, WHOLE):
                others.add(row.labels[label])
                continue
        picture = _picture(row.path, path.parent, f"{path}: line {row.line}")
        found.append(TableRow(row.line, picture, row.labels[label]))
    if places.split is None:
        words = {name: suspects[at] for at, name in places.others.items() if at in suspects}
        check_no_column(words, split, path)
    if places.split is None and wanted not in ("test", WHOLE):
        raise DataError(f"{path}: no split {split!r}; the file {UNDIVIDED}")
    if not found:
        has = f"; it has: {', '.join(sorted(seen))}" if seen else ""
        raise DataError(f"{path}: no rows in the split {split!r}{has}")
    return TableRows(found, WHOLE if places.split is None else split, others, numbers)


def _cells(
    lines: Iterable[tuple[int, Sequence[str]]],
    places: _Places,
    columns: int,
    path: Path,
    suspects: dict[int, set[str]],
) -> Iterator[_Cells]:
    """The cells that count, of each line that is not empty.

    `suspects` are columns; of them those stay, with their words, that have only words for splits.
    """
    for number, cells in lines:
        if not cells:
            continue
        if len(cells) != columns:
            raise DataError(
                f"{path}: line {number}: {len(cells)} columns where the first line has {columns}"
            )
        own = "" if places.split is None else cells[places.split].strip().lower()
        labels = [cells[at].strip() for at in places.labels]
        for at in list(suspects):
            if (word := cells[at].strip().lower()) in SPLITS:
                suspects[at].add(word)
            elif word:
                del suspects[at]
        yield _Cells(number, cells[places.path].strip(), labels, own)


def _label_columns(
    rows: Sequence[_Cells], names: Sequence[str], path: Path
) -> tuple[int, int | None]:
    """Which of the columns of labels has them, and which one the numbers of names, if any has.

    Raises:
        DataError: two are of names, or of numbers, and differ.
    """
    texts = [{row.labels[at] for row in rows} - {""} for at in range(len(names))]
    every = [at for at, filled in enumerate(texts) if filled] or list(range(len(names)))
    numbers = [at for at in every if texts[at] and None not in map(whole, texts[at])]
    # what is no number there is told with its name
    numbers = numbers or [at for at in every if spelled(names[at]) in map(spelled, NUMBERS)]
    words = [at for at in every if at not in numbers]
    for first, *others in filter(None, (words, numbers)):
        for row, other in itertools.product(rows, others):
            one, two = row.labels[first], row.labels[other]
            if one != two and not (whole(one) is not None and whole(one) == whole(two)):
                raise DataError(
                    f"{path}: line {row.line}: two columns of labels, {quoted(names[first])} and "
                    f"{quoted(names[other])}, with {quoted(one)} and {quoted(two)}; keep one"
                )
    return (words[0], numbers[0] if numbers else None) if words else (numbers[0], None)


def _header(head: Sequence[str], path: Path) -> _Places | None:
    """The columns that a header names; None where the first line is none.

    Raises:
        DataError: it names one of the two, and not the other.
    """
    names = [spelled(cell) for cell in head]
    of_path = next((names.index(name) for name in map(spelled, PATHS) if name in names), None)
    known = map(spelled, (*LABELS, *NUMBERS))
    of_labels = [at for name in known for at, own in enumerate(names) if own == name]
    if "x" in names and len(of_labels) > 1:  # a place in the picture
        of_labels = [at for at in of_labels if names[at] != "y"]
    if of_path is None and not of_labels:
        return None
    if of_path is None or not of_labels:
        missing, usual = ("paths", PATHS) if of_path is None else ("labels", LABELS)
        raise DataError(
            f"{path}: no column named {missing} ({', '.join(usual[:3])}); it has: "
            f"{', '.join(cell.strip() for cell in head[:8])}"
        )
    if COLUMN in names:
        return _Places(of_path, of_labels, names.index(COLUMN))
    others = {at: head[at].strip() for at in range(len(names)) if at not in (of_path, *of_labels)}
    return _Places(of_path, of_labels, None, others)


def _without_header(first: Sequence[str], path: Path) -> _Places:
    """The column whose first entry is a file's path, and the other one."""
    for column in (0, 1) if len(first) == 2 else ():
        if _is_file(path.parent / first[column].strip()):
            return _Places(column, [1 - column])
    raise DataError(
        f"{path}: line 1: expected a header with 'path' and 'label', or an image's path and "
        f"its label; it has: {quoted(', '.join(first[:8]))}"
    )


def _picture(text: str, folder: Path, where: str) -> Path:
    if ADDRESS.match(text):
        raise DataError(f"{where}: {quoted(text)} is a web address; download the images first")
    if not text:
        raise DataError(f"{where}: no path")
    if _is_file(folder / text):
        return folder / text
    path = folder / text.replace("\\", "/")  # as Windows has it
    # an id is a name without its ending, which means a picture if there is but one of that name
    named = [] if _is_file(path) else [Path(f"{path}{end}") for end in sorted(SUFFIXES)]
    found = [one for one in named if _is_file(one)]
    return found[0] if len(found) == 1 else path
