"""Files that say how labels are wrong: a label per image, or a matrix of class probabilities."""

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from robustkit.data.npz import read_member
from robustkit.data.packed import check_unpacked
from robustkit.data.pixels import Labels
from robustkit.data.source import checked_labels, diagnosis
from robustkit.errors import BadFile, DataError, UnknownName, first_line
from robustkit.parsing import whole
from robustkit.unpickling import (
    Budget,
    Placeholder,
    StoredTensor,
    Unpickler,
    mapping,
    numpy_value,
    read_torch,
)

TORCH = (".pt", ".pth")
LABEL_FORMATS = (".npy", ".npz", ".csv", ".json", *TORCH)
MATRIX_FORMATS = (".csv", ".json", ".npy")
CLEAN = "clean_label"
"""what CIFAR-10N calls the labels that it replaces"""
UNIT = 10**9
"""entries of a matrix are read to so many parts"""
INTEGERS = {"LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "ByteStorage": "u1"}
"""how torch calls runs of whole numbers, and NumPy"""
LARGEST = 2**30
"""bytes up to which a pickle of labels is read"""
PACKED = object()
"""stands for an array of an archive that has not been unpacked"""


def read_labels(path: Path, key: str, clean: Labels, classes: int) -> Labels:
    """A label per image of a whole split, in the order in which the split is stored, [N].

    Args:
        path: `.npy`; or `.npz`, `.csv` with a header, `.json`, or a `.pt` or `.npy` that holds a
            dictionary as those of CIFAR-10N and CIFAR-100N do, with several columns.
        key: which column; may be empty where there is only one.
        clean: the split's own labels, [N]; a column `clean_label` must equal them.
        classes: how many there are.

    Raises:
        DataError: unreadable, another length, a label outside the classes, another order.
    """
    columns = _columns(_loaded(path, LABEL_FORMATS), path)
    given = [name for name in columns if name != CLEAN]
    chosen = _named(key, given, columns, path)
    labels = _checked(_column(columns, chosen, path), path, len(clean), classes)
    if CLEAN in columns:
        own = _checked(_column(columns, CLEAN, path), path, len(clean), classes)
        _check_order(own, clean, path)
    return labels


def _named(key: str, given: Sequence[str], columns: Mapping[str, Any], path: Path) -> str:
    """The column that is meant by a key, which may be empty where one is given."""
    if key in columns:
        return key
    if key and "" in columns:
        raise DataError(f"{path}: its columns have no names; leave #{key} out")
    if key:
        raise DataError(f"{path}: {UnknownName('column', key, columns)}")
    if len(given) == 1:
        return given[0]
    known = ", ".join(columns) or "none"
    raise DataError(f"{path}: which labels? add #NAME to the path; it has: {known}")


def read_matrix(path: Path, classes: int) -> Labels:
    """Probabilities of the given label (column) by the clean label (row), [K, K], in parts of UNIT.

    Raises:
        DataError: unreadable, of another size, not numbers in [0, 1], or a row whose sum is not 1.
    """
    rows = _floats(_loaded(path, MATRIX_FORMATS), path, classes)
    if rows.shape != (classes, classes):
        raise DataError(
            f"{path}: a matrix of {'x'.join(map(str, rows.shape)) or 'nothing'}; {classes} "
            f"classes need {classes}x{classes}"
        )
    bad = np.argwhere(~((rows >= 0) & (rows <= 1)))  # NaN is neither
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{path}: row {row}, column {column} is {rows[row, column]:g}; "
            "expected probabilities in [0, 1]"
        )
    wrong = np.flatnonzero(np.abs(rows.sum(1) - 1) > 1e-6)
    if wrong.size:
        raise DataError(
            f"{path}: row {wrong[0]} sums to {rows[wrong[0]].sum():.9g}; each row must sum to 1"
        )
    return np.rint(rows * UNIT).astype(np.int64)


def _checked(values: Any, path: Path, count: int, classes: int) -> Labels:
    """Labels of a column, which CSV has as text."""
    try:
        whole = [int(v) for v in values] if path.suffix == ".csv" else values
        if not _are_numbers(whole, 2):
            raise DataError(
                f"{path}: not a list of numbers; expected one integer per image, from 0"
            )
        labels = checked_labels(whole, str(path))
    except ValueError as error:
        raise DataError(f"{path}: a label is not an integer from 0: {error}") from error
    if len(labels) != count:
        raise DataError(
            f"{path}: {len(labels)} labels; the whole split has {count} images, and each needs one"
        )
    if (bad := np.flatnonzero(labels >= classes)).size:
        raise DataError(
            f"{path}: image {bad[0]} has label {labels[bad[0]]}, but there are {classes} "
            "classes, numbered from 0"
        )
    return labels


def _are_numbers(values: Any, levels: int) -> bool:
    """Whether a value is an array, or lists of numbers alone, so many levels deep."""
    # among numbers NumPy gives each the length of the longest text
    if isinstance(values, list | tuple):
        return levels > 0 and all(_are_numbers(value, levels - 1) for value in values)
    return isinstance(values, np.ndarray | int | float)


def _check_order(own: Labels, clean: Labels, path: Path) -> None:
    if (bad := np.flatnonzero(own != clean)).size:
        raise DataError(
            f"{path}: {CLEAN} of image {bad[0]} is {own[bad[0]]}, but in the data set it is "
            f"{clean[bad[0]]}: the file belongs to another data set, or is in another order"
        )


def _loaded(path: Path, formats: Sequence[str]) -> Any:
    """What a file holds: an array, arrays by name, rows of text, or whatever the JSON says."""
    if path.suffix not in formats:
        raise DataError(f"{path}: not one of {', '.join(formats)}; save it in one of these formats")
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as text:
                return [row for row in csv.reader(text) if row]
        if path.suffix in TORCH:
            return _torch(path)
        # opened here, because NumPy leaves the file open when an archive is broken
        with path.open("rb") as file:
            if (pickled := _pickle_in_npy(file)) is not None:
                return pickled
            loaded = np.load(file, allow_pickle=False)
            # none is unpacked yet: a few bytes may be any number of arrays
            return loaded if isinstance(loaded, np.ndarray) else dict.fromkeys(loaded.files, PACKED)
    except BadFile as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}") from error
    # zipfile, zlib, NumPy's header parser and pickles raise nearly anything on broken bytes
    except Exception as error:
        why = "it holds Python objects, which are never loaded" if "Object" in str(error) else ""
        raise DataError(f"{path}: cannot be read: {why or diagnosis(path)}") from error


def _column(columns: Mapping[str, Any], name: str, path: Path) -> Any:
    """The values of a column; one of an archive is unpacked here, if it can be meant to be.

    Raises:
        DataError: it is damaged, or a few bytes that would fill the memory.
    """
    if columns[name] is not PACKED:
        return columns[name]
    try:
        with zipfile.ZipFile(path) as members:
            check_unpacked(members, [f"{name}.npy"], path)
            return read_member(members, name)
    except DataError:
        raise
    # as in `_loaded`
    except Exception as error:
        why = "it holds Python objects, which are never loaded" if "Object" in str(error) else ""
        raise DataError(f"{path}: cannot be read: {why or diagnosis(path)}") from error


def _pickle_in_npy(file: IO[bytes]) -> Any:
    """The arrays of a dictionary that `numpy.save` pickled as an array of it; None for others.

    The file is left at its start.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(version)
        shape, _, dtype = read(file) if read else (None, None, None)
        if shape != () or dtype != np.dtype(object):
            return None
        content = file.read(LARGEST)
        budget = Budget.of(len(content))
        found = Unpickler(budget).load(io.BytesIO(content))
    except ValueError:
        return None  # what is wrong with it is NumPy's to say
    finally:
        file.seek(0)
    state = found.state if isinstance(found, Placeholder) else None
    return _arrays(state[4][0], budget) if isinstance(state, tuple) else None


def _torch(path: Path) -> Any:
    """What `torch.save` or pickle wrote, of which nothing is run."""
    with path.open("rb") as file:
        if (size := file.seek(0, 2)) > LARGEST:
            raise BadFile(f"{size} bytes, too many for labels")
        budget = Budget.of(size)
        return _arrays(read_torch(file, budget).root, budget)


def _arrays(root: object, budget: Budget) -> Any:
    """A pickle's arrays by name, or its only one."""
    columns, made = mapping(root), _Arrays(budget)
    if columns is None:
        return made.array(root)
    return {budget.name(name): made.array(value) for name, value in columns.items()}


@dataclass(slots=True)
class _Arrays:
    """Arrays from a pickle's tree, each made once, however many names it has."""

    budget: Budget
    _made: dict[int, Any] = field(default_factory=dict)

    def array(self, value: object) -> Any:
        """What can be labels; None is anything else, such as lists that nest without end."""
        self.budget.visit()
        if id(value) not in self._made:
            self._made[id(value)] = self._read(value)
        return self._made[id(value)]

    def _read(self, value: object) -> Any:
        if isinstance(value, StoredTensor):
            return self._vector(value)
        if isinstance(value, Placeholder):
            return numpy_value(value)
        if not isinstance(value, list | tuple):
            return None
        self.budget.visit(len(value))
        return value if all(isinstance(item, int) for item in value) else None

    def _vector(self, tensor: StoredTensor) -> object:
        """A tensor of one dimension, from its storage."""
        storage, kind = tensor.storage, INTEGERS.get(tensor.storage.kind)
        if kind is None or tensor.dtype or storage.parent or storage.read is None:
            raise BadFile(f"labels of type {storage.kind[:40]}; save them as integers")
        if id(storage) not in self._made:
            self._made[id(storage)] = np.frombuffer(storage.read(), kind)
        numbers = self._made[id(storage)]
        stop = tensor.offset + tensor.shape[0] if len(tensor.shape) == 1 else 0
        if tensor.stride not in ((1,), (0,)) or not tensor.offset <= stop <= len(numbers):
            raise BadFile("not a list of labels")
        return numbers[tensor.offset : stop]


def _columns(loaded: Any, path: Path) -> dict[str, Any]:
    """Labels by name; a single nameless list has the name ""."""
    if path.suffix == ".csv":
        return _csv_columns(loaded, path)
    return loaded if isinstance(loaded, dict) else {"": loaded}


def _csv_columns(rows: list[list[str]], path: Path) -> dict[str, Any]:
    """The columns of a CSV file; its first row is a header unless it is all whole numbers."""
    if not rows:
        raise DataError(f"{path}: the file is empty")
    plain = all(whole(cell.strip()) is not None for cell in rows[0])
    header = [""] * len(rows[0]) if plain else [cell.strip() for cell in rows.pop(0)]
    if len(set(header)) != len(header):
        raise DataError(f"{path}: several columns need a header with their names")
    for number, row in enumerate(rows, 1 if plain else 2):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} cells, expected {len(header)}")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _floats(loaded: Any, path: Path, classes: int) -> npt.NDArray[np.float64]:
    """Rows of numbers; an array of another size as it is, since texts take a lot of memory."""
    try:
        if not isinstance(loaded, np.ndarray):
            return np.array([[float(cell) for cell in row] for row in loaded])
        if loaded.size != classes**2:
            return loaded
        # by way of text, so that a float32 0.1 becomes the number that was meant
        return loaded.astype(str).astype(np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: expected rows of numbers, one per class") from error
