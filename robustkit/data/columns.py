"""Which columns of a table hold the pictures and the labels, and what these say."""

import itertools
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robustkit.data.labels import (
    NumberedLabels,
    columns_beside,
    number_labels,
    paired_labels,
)
from robustkit.data.shards import SplitFiles
from robustkit.data.source import WHOLE, checked_labels
from robustkit.data.split import COLUMN, SPLITS, check_no_column
from robustkit.errors import DataError, quoted
from robustkit.parsing import whole

IMAGE_COLUMNS = ("image", "img", "images", "picture", "png", "jpg")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class", "y", "cls")


class Columns(NamedTuple):
    """The columns that count."""

    image: str
    label: str
    classes: tuple[str, ...]
    """names in the order of the labels; empty where the features name none"""
    beside: str | None = None
    """of the numbers of the labels' names, or of the names of their numbers"""


def find_columns(schema: Any, features: object, path: Path) -> Columns:
    """The columns of pictures and labels, by their names, else by Hugging Face's features.

    Args:
        schema: a `pyarrow.Schema`.
        features: Hugging Face's, if there are any.
        path: of the file, for messages.

    Raises:
        DataError: there are none, or several that could be meant.
    """
    names = schema.names
    kinds = features if isinstance(features, Mapping) else {}
    image = _column(names, IMAGE_COLUMNS, kinds, "Image", path)
    label = _column(names, LABEL_COLUMNS, kinds, "ClassLabel", path)
    feature = kinds.get(label)
    named = feature.get("names") if isinstance(feature, Mapping) else None
    known = isinstance(named, list) and all(isinstance(name, str) for name in named)
    if known:
        return Columns(image, label, tuple(named or ()))
    return Columns(image, label, (), _beside(schema, label))


def _beside(schema: Any, label: str) -> str | None:
    """The column of numbers beside one of names, or of names beside one of numbers."""
    from pyarrow import types

    kinds = {
        name: schema.field(name).type
        for name in columns_beside(schema.names, label)
        if schema.names.count(name) == 1
    }
    texts = [name for name, kind in kinds.items() if is_text(kind, types)]
    if not is_text(schema.field(label).type, types):
        return next(iter(texts), None)
    numbers = (n for n, kind in kinds.items() if types.is_integer(kind) or types.is_floating(kind))
    # numbers may be texts, in either column
    return next(iter([*numbers, *texts]), None)


def has_pictures(schema: Any, features: object) -> bool:
    """Whether a column of pictures' name or feature has encoded pictures.

    Args:
        schema: a `pyarrow.Schema`.
        features: Hugging Face's, if there are any.
    """
    from pyarrow import types

    kinds = features if isinstance(features, Mapping) else {}
    return any(
        is_encoded(field.type, types)
        for field in schema
        if field.name in IMAGE_COLUMNS or _kind(kinds.get(field.name)) == "Image"
    )


def is_encoded(kind: Any, types: Any) -> bool:
    """Whether a column's type is that of encoded pictures: bytes, or a struct with bytes.

    Args:
        kind: a `pyarrow.DataType`.
        types: `pyarrow.types`.
    """
    kind = getattr(kind, "storage_type", kind)
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def features(schema: Any) -> object:
    """Hugging Face's features in a schema's metadata, if there are any."""
    metadata = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        return json.loads(metadata)["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def one_naming(found: Sequence[tuple[str, ...]], paths: Sequence[Path]) -> tuple[str, ...]:
    """What the features of several files call the classes; empty where none says it.

    Raises:
        DataError: they differ, and so do their labels' meanings.
    """
    first: dict[tuple[str, ...], Path] = {}
    for names, path in zip(found, paths, strict=True):
        if names:
            first.setdefault(names, path)
    if len(first) > 1:
        (names, path), (others, other) = list(first.items())[:2]
        pairs = zip(names, others, strict=False)
        odd = next((n for n, (one, two) in enumerate(pairs) if one != two), None)
        differ = f"{len(names):,} classes there, {len(others):,} here"
        if odd is not None:
            differ = f"class {odd} is {quoted(names[odd])} there, {quoted(others[odd])} here"
        raise DataError(
            f"{other}: names its classes otherwise than {path} ({differ}), so that the two are "
            "no one data set; keep the files of one"
        )
    return next(iter(first), ())


def _column(
    names: Sequence[str], known: Sequence[str], features: Mapping[Any, Any], kind: str, path: Path
) -> str:
    found = next((name for name in known if name in names), None)
    if found is None:
        typed = [n for n in names if _kind(features.get(n)) == kind]
        if len(typed) != 1:
            raise DataError(
                f"{path}: no column {' or '.join(map(repr, known[:2]))}; it has: {', '.join(names)}"
            )
        found = typed[0]
    if names.count(found) > 1:
        raise DataError(f"{path}: several columns are called {found!r}; keep one of them")
    return found


def _kind(feature: object) -> object:
    return feature.get("_type") if isinstance(feature, Mapping) else None


def column_labels(
    columns: Sequence[Any], beside: Sequence[Any], paths: Sequence[Path]
) -> NumberedLabels:
    """The labels in the columns of several files: integers, or names of classes, or both.

    Args:
        columns: a `pyarrow.ChunkedArray` for each file.
        beside: likewise of the other column that has them; None where there is none.
        paths: of these files, for messages.

    Raises:
        DataError: a label is missing, or is neither; or as `paired_labels`.
    """
    import pyarrow as arrow

    for column, path in zip(columns, paths, strict=True):
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise DataError(f"{path}: row {row} has no label")
    starts = list(accumulate(map(len, columns), initial=0))

    def where(position: int) -> str:
        file = bisect_right(starts, position) - 1
        return f"{paths[file]}: row {position - starts[file]}"

    of_names = all(is_text(column.type, arrow.types) for column in columns)
    lacking = [path for path, column in zip(paths, beside, strict=True) if column is None]
    others = [text for column in beside if column is not None for text in _texts(column)]
    if of_names and lacking and any(whole(text) is not None for text in others):
        raise DataError(f"{lacking[0]}: has no numbers of its labels, but files beside it have")
    others = [] if lacking else others
    if of_names:
        names = [text for column in columns for text in column.to_pylist()]
        return paired_labels(names, others, where) if any(others) else number_labels(names, where)
    parts = zip(columns, paths, strict=True)
    numbers = np.concatenate([checked_labels(c.to_numpy(), str(path)) for c, path in parts])
    if not any(others):
        return NumberedLabels(numbers, ())
    return paired_labels([str(number) for number in numbers.tolist()], others, where)


def _texts(column: Any) -> Iterator[str]:
    """The values of a column of names or numbers; of whole numbers that became floats, those."""
    for value in column.to_pylist():
        rounded = int(value) if isinstance(value, float) and value.is_integer() else value
        yield "" if value is None else str(rounded).strip()


# -- splits ----------------------------------------------------------------------------------------


class RowSplits:
    """Which rows of a file are of which split, as a column of text says it.

    Either by a column that is called so, or of others that have nothing but words for splits.
    """

    def __init__(self, schema: Any, columns: Columns) -> None:
        from pyarrow import types

        own = {columns.image, columns.label, columns.beside}
        texts = [f.name for f in schema if f.name not in own and is_text(f.type, types)]
        texts = [name for name in texts if schema.names.count(name) == 1]
        called = [name for name in texts if name.lower() == COLUMN][:1]
        self.column = called[0] if called else None
        self.words: dict[str, list[Any]] = {name: [] for name in called or texts}
        """of each column that may say it, an array a batch"""

    def add(self, name: str, values: Any) -> None:
        """Take the next rows of a column, a `pyarrow.Array`, or leave it where it says nothing."""
        from pyarrow import ArrowException, types

        try:
            values.validate(full=True)
        except ArrowException:
            if self.column is not None:
                raise
            del self.words[name]
            return
        coded = values if types.is_dictionary(values.type) else values.dictionary_encode()
        plain = [str(word or "").strip().lower() for word in coded.dictionary.to_pylist()]
        words = np.array([*plain, ""], object)
        found = words[coded.indices.fill_null(len(plain)).to_numpy(zero_copy_only=False)]
        if self.column is None and not set(found) <= {"", *SPLITS}:
            del self.words[name]
            return
        self.words[name].append(found)


def rows_of(
    splits: Sequence[RowSplits], part: SplitFiles, split: str
) -> npt.NDArray[np.int64] | None:
    """The rows of a split, over all files; None where no column says which these are.

    Raises:
        DataError: there are none, or a column of another name seems to say it.
    """
    columns = {one.column for one in splits}
    if len(columns) > 1:
        raise DataError(f"{part.files[0]}: not all files beside it have a column {COLUMN!r}")
    every: dict[str, list[Any]] = {}
    for one in splits:
        for name, words in one.words.items():
            every.setdefault(name, []).extend(words)
    if (column := columns.pop()) is None:
        shared = {
            name: words for name, words in every.items() if all(name in one.words for one in splits)
        }
        found = {
            name: set(itertools.chain.from_iterable(words)) - {""} for name, words in shared.items()
        }
        check_no_column(found, split, part.files[0])
        return None
    own = np.array([SPLITS.get(w, w) for w in itertools.chain.from_iterable(every[column])], object)
    wanted = SPLITS.get(split.lower(), split.lower())
    rows = np.flatnonzero((own == wanted) | (wanted == WHOLE))
    if not len(rows):
        has = ", ".join(sorted(set(map(quoted, own))))
        raise DataError(f"{part.files[0]}: no rows in the split {split!r}; it has: {has}")
    return rows


def has_splits(schema: Any) -> bool:
    """Whether a column of a `pyarrow.Schema` says which rows are of which split."""
    from pyarrow import types

    return any(f.name.lower() == COLUMN and is_text(f.type, types) for f in schema)


def is_text(kind: Any, types: Any) -> bool:
    """Whether a column's type is that of names.

    Args:
        kind: a `pyarrow.DataType`.
        types: `pyarrow.types`.
    """
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))
