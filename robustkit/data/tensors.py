"""Tensors that torch saved (`.pt`, `.pth`): images and labels, read as data without torch."""

from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustkit.data.npz import channels_second, keys_of
from robustkit.data.source import (
    UNDIVIDED,
    WHOLE,
    ArraySource,
    Opened,
    checked_arrays,
    diagnosis,
    stamps,
)
from robustkit.data.split import SPLITS, split_of
from robustkit.errors import DataError, InputError, first_line, shown
from robustkit.files import open_digest
from robustkit.unpickling import Placeholder, mapping, read_torch
from robustkit.unpickling.tensors import TensorReader

DATA_SETS = ("torch.utils.data.dataset.TensorDataset", "torch.utils.data.TensorDataset")
CLASSES = ("classes", "class_names", "names")


class _Leaves(NamedTuple):
    """Where in the file's tree images and labels stand."""

    images: object
    labels: object
    keys: dict[str, str]
    """what the file calls them, for the record"""
    split: str
    classes: object = None


def open_tensors(path: Path, split: str) -> Opened:
    """A pair of tensors, a dictionary of them with an archive's names, or a `TensorDataset`.

    Nothing in the file is run.

    Raises:
        DataError: unreadable, not such tensors, no such split, values out of range.
    """
    files = stamps([path])
    try:
        with path.open("rb") as file:
            images, labels, found = _read(file, path, split)
            sha256 = open_digest(file)
    except DataError:
        raise
    except InputError as error:
        text = str(error)
        raise DataError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except OSError as error:
        raise DataError(f"{path}: {diagnosis(path)}") from error
    # NumPy and zipfile raise nearly anything on hostile numbers
    except Exception as error:
        raise DataError(f"{path}: cannot be read as tensors: {first_line(error)}") from error
    laid_out, layout = channels_second(images)
    pair = checked_arrays(laid_out, labels, str(path))
    source = ArraySource(pair.images, pair.labels, str(path))
    origin = {"file": str(path), "sha256": sha256, **found.keys, "layout": layout}
    names = found.classes
    classes = tuple(map(str, names)) if isinstance(names, list | tuple) else ()
    return Opened(source, found.split, classes, origin=origin, files=files)


def _read(file: BufferedReader, path: Path, split: str) -> tuple[Any, Any, _Leaves]:
    reader = TensorReader.of(file, str(path))
    found = _find(read_torch(file, reader.budget).root, reader, split, path)
    return _numbers(found.images, reader, path), _numbers(found.labels, reader, path), found


def _numbers(leaf: object, reader: TensorReader, path: Path) -> Any:
    """The numbers of a tensor, or of a list of integers."""
    reader.budget.leaf(reader.count(leaf))
    if (found := reader.read(leaf, "a tensor")) is not None:
        return found
    if isinstance(leaf, list | tuple) and all(type(value) is int for value in leaf):
        reader.budget.visit(len(leaf))
        return np.array(leaf)
    raise DataError(f"{path}: images and labels must be tensors, got {type(leaf).__name__}")


def _find(root: object, reader: TensorReader, split: str, path: Path) -> _Leaves:
    """The images and the labels in what the file holds."""
    pair = root
    if isinstance(root, Placeholder) and root.name in DATA_SETS:
        pair = (mapping(root) or {}).get("tensors")
    # torchvision's MNIST has a third entry, empty
    if isinstance(pair, list | tuple) and len(pair) in (2, 3) and reader.is_tensor(pair[0]):
        own = split_of(Path(path.name))
        if SPLITS.get(split, split) not in (own, *(["test"] if own == WHOLE else [])):
            has = f"it {UNDIVIDED}" if own == WHOLE else f"it is {own!r}"
            raise DataError(f"{path}: no split {split!r}; {has}")
        return _Leaves(pair[0], pair[1], {"images": "0", "labels": "1"}, own)
    if isinstance(pair, Mapping):
        return _named({k: v for k, v in pair.items() if isinstance(k, str)}, reader, split, path)
    what = shown(root.name) if isinstance(root, Placeholder) else f"a {type(root).__name__}"
    raise DataError(
        f"{path}: contains {what[:80]}; expected a pair of images and labels, a dictionary "
        "of them, or a TensorDataset"
    )


def _named(entries: Mapping[str, object], reader: TensorReader, split: str, path: Path) -> _Leaves:
    """The images and the labels in a dictionary, perhaps of splits."""
    part = entries.get(split)
    if isinstance(part, list | tuple) and len(part) == 2 and reader.is_tensor(part[0]):
        keys = {"images": f"{split}.0", "labels": f"{split}.1"}
        return _Leaves(part[0], part[1], keys, split)
    if isinstance(part, Mapping):
        found = _named({k: v for k, v in part.items() if isinstance(k, str)}, reader, WHOLE, path)
        return found._replace(split=split)
    own = keys_of(entries, split, path)
    names = next((entries[key] for key in CLASSES if key in entries), None)
    return _Leaves(entries[own.images], entries[own.labels], own._asdict(), own.split, names)
