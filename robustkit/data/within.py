"""What the data sets of Python's libraries say of themselves: names of classes, labels unread."""

import sys
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

from robustkit.data.columns import IMAGE_COLUMNS, LABEL_COLUMNS
from robustkit.data.pixels import Labels
from robustkit.data.source import checked_labels

KEYS = ((*IMAGE_COLUMNS, "pixel_values", "x", "data"), (*LABEL_COLUMNS, "targets"))
"""what images and labels are called in dictionaries"""
LABELS = ("targets", "labels", "_labels")
"""what torchvision's data sets call theirs"""


def labels_within(given: Any) -> Labels | None:
    """The labels of what it hands out, in that order, before any image is read; None: unknown.

    They tell which images are of one class, and not of which: a transform may number them anew.
    """
    try:
        found = _labels(given)
        return None if found is None else checked_labels(found, "")
    except Exception:  # of somebody's own data set, whose labels are then as good as unknown
        return None


def _labels(given: Any) -> Any:
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is not None:
        if isinstance(given, torch_data.IterableDataset):
            return None
        if isinstance(given, torch_data.DataLoader):
            return _in_order(given)
        if type(given) is torch_data.Subset:
            return _known(given.dataset)[np.asarray(given.indices)]
        if isinstance(given, torch_data.ConcatDataset):
            return np.concatenate([_known(part) for part in given.datasets])
        if isinstance(given, torch_data.TensorDataset):
            return given.tensors[1]
    features = getattr(given, "features", None)
    if isinstance(features, Mapping) and hasattr(given, "with_format"):  # Hugging Face's
        column = next(name for name in KEYS[1] if name in features)
        return list(given.with_format(None)[column])
    found = next((own for name in LABELS if (own := getattr(given, name, None)) is not None), None)
    return found if found is not None and len(found) == len(given) else None


def _in_order(loader: Any) -> Any:
    """The labels in the order of a loader's sampler."""
    known = _known(loader.dataset)
    items = islice(loader.batch_sampler or loader.sampler, len(loader))  # of which one may not end
    return known[np.hstack(list(items))]


def _known(given: Any) -> Labels:
    """As `labels_within`.

    Raises:
        LookupError: they are unknown.
    """
    found = labels_within(given)
    if found is None:
        raise LookupError
    return found


def class_names(given: Any, labels: Labels, label: str) -> tuple[str, ...]:
    """What a data set calls its classes, where there are as many as labels need.

    Torchvision's have a list of `classes`, Hugging Face's `features` with the names of a column.
    None are taken from within a data set of the user's, or behind a `target_transform`, which may
    number the classes otherwise.
    """
    while (inner := _within(given)) is not None:
        given = inner
    if getattr(given, "target_transform", None) is not None:
        return ()
    names = getattr(given, "classes", None) or _featured(getattr(given, "features", None), label)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names) if len(names) > int(labels.max()) else ()


def _within(given: Any) -> Any:
    """The data set of torch's own loader or subset, which hand out its labels; else None."""
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is None:
        return None
    own = isinstance(given, torch_data.DataLoader) or type(given) is torch_data.Subset
    return given.dataset if own else None


def _featured(features: Any, label: str) -> Any:
    """The names that features have for the column of labels; None where nothing is certain.

    A transform or a loader may call the column otherwise: it is then the one of a label's name.
    """
    if not isinstance(features, Mapping):
        return None
    columns = [label] if label in features else [name for name in KEYS[1] if name in features]
    named = [getattr(features[name], "names", None) for name in columns]
    found = [names for names in named if names]
    return found[0] if len(found) == 1 else None
