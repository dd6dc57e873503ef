"""Images and labels as Python hands them out: data loaders, torch's data sets, lists of pairs.

They are read into memory once, in an order that must be the same each time: rows have its indices.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from heapq import nsmallest
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from robustkit.data.dataset import Dataset, assemble
from robustkit.data.npz import noted_layout
from robustkit.data.order import is_grouped, order_key
from robustkit.data.pixels import Image, Labels, canonical, fingerprint
from robustkit.data.source import (
    ROUNDING,
    WHOLE,
    ArraySource,
    Opened,
    as_array,
    checked_arrays,
    checked_labels,
    checked_pixels,
)
from robustkit.data.transform import Transform
from robustkit.data.within import KEYS, class_names, labels_within
from robustkit.errors import (
    DataError,
    InputError,
    RobustkitError,
    cut,
    one_line,
    quoted,
    shown,
)

COMPARED = 16
"""first images that are read twice, and must be the same both times"""
MOST_UNCOUNTED, MOST_BYTES = 1_000_000, 2**32
"""images, and bytes of pixels, of what has no length and may never end"""
FEW = 10
"""images of which too few can be told to stand by class"""
LONGEST_CAUSE = 400
"""characters of what a data set raises"""
_SAMPLE = "expected an image and its label"
_END = object()


def from_memory(given: Any, limit: int | None = None, *, fair: bool = False) -> Dataset:
    """Images and labels in memory, in their order.

    Args:
        given: images N × C × H × W with labels N, a data loader, a data set of torch, or a list of
            (image, label).
        limit: only the first so many images; no more are read. But where images of a class are
            known to stand together, the same so many of all as a file's would be.
        fair: refuse first images that are of a few classes, instead of a warning.

    Raises:
        InputError: nothing of that kind.
        DataError: there is no fixed order, or the images are not pixels in [0, 1].
    """
    if isinstance(given, list | tuple) and len(given) == 2 and not all(map(_is_sample, given)):
        images, labels = given
        return _dataset(_opened(images, labels, "arrays", limit), "arrays", limit)
    name = type(given).__name__
    if isinstance(given, Mapping):
        images, labels, note, _ = _image_and_label(given, name)
        opened = _opened(images, labels, name, limit)
        return _dataset(replace(opened, notes=(note, *opened.notes)), name, limit)
    samples = _Samples(given, name)
    among = 0 if limit is None else samples.standing_by_class(limit)
    pairs = samples.read(limit, among)
    opened = _opened(_stacked([i for i, _ in pairs], name), [n for _, n in pairs], name)
    notes, labels = (*samples.notes(), *opened.notes), opened.source.labels
    classes = class_names(given, labels, samples.label)
    told = "" if among or len(pairs) != limit else samples.told_of(labels, classes)
    if told and fair:
        raise DataError(f"{told}, or limit={limit} to take these")
    warnings = (*opened.warnings, *([told] if told else []))
    found = _dataset(replace(opened, classes=classes, notes=notes, warnings=warnings), name)
    return replace(found, order="digest-shuffled") if among else found


def _dataset(opened: Opened, name: str, limit: int | None = None) -> Dataset:
    return assemble(opened, name, name, {}, Transform().checked(), limit, as_given=True)


def _opened(images: Any, labels: Any, name: str, limit: int | None = None) -> Opened:
    """Arrays as a source, of images N × C × H × W or N × H × W × C; the first so many.

    All of them where images of a class stand together, so that the first would be of a few.

    Raises:
        DataError: they are none, or the images are normalised or of several types.
    """
    if isinstance(images, list | tuple):
        _check_types([image.dtype for image in images if hasattr(image, "dtype")], name)
    if limit is not None:
        _check_counts(images, labels, name)
        limit = None if _grouped(labels, name) else limit
    # cut before all else: a large array is checked in full otherwise
    pixels, numbers = (as_array(_cut(given, limit), name) for given in (images, labels))
    _check_normalised(pixels, name)
    pixels, notes = noted_layout(pixels, name)
    source = ArraySource(*checked_arrays(pixels, numbers, name), name)
    return Opened(source, WHOLE, notes=notes)


def _grouped(labels: Any, name: str) -> bool:
    """Whether labels say that images of a class stand together; not of what is none."""
    with suppress(DataError):  # told by whoever reads them
        numbers = checked_labels(labels, name)
        return bool(len(numbers)) and is_grouped(numbers)
    return False


def _check_counts(images: Any, labels: Any, name: str) -> None:
    """Nothing, unless there are more of one than of the other, which no cut may hide."""
    both = [one for one in (images, labels) if isinstance(one, list | tuple) or _dimensions(one)]
    if len(both) == 2 and len(images) != len(labels):
        raise DataError(f"{name}: {len(images)} images but {len(labels)} labels")


def _cut(given: Any, limit: int | None) -> Any:
    """The first so many of an array or a list; anything else as it is, to be told what it is."""
    if limit is None or not (isinstance(given, list | tuple) or hasattr(given, "ndim")):
        return given
    with suppress(RuntimeError):  # of a tensor that has no parts, as a sparse one
        return given[:limit]
    return given


def _check_normalised(images: Image, name: str) -> None:
    """Nothing, unless negative values say that something was subtracted from the pixels."""
    if images.size and images.dtype.kind in "if" and (low := images.min()) < -ROUNDING:
        raise DataError(
            f"{name}: images have values down to {low:.4g}: they look normalised, but attacks work "
            "on pixels in [0, 1]; remove Normalize from the transform and put it into the network: "
            "torch.nn.Sequential(torchvision.transforms.Normalize(mean, std), model)"
        )


class _Samples:
    """What is iterated, as pairs of an image and its label."""

    def __init__(self, given: Any, name: str) -> None:
        self._given, self._name = given, name
        self._keys, self._batched = "", False
        self.label = ""
        """the key of the labels, where items are dictionaries"""
        self._loader = hasattr(given, "batch_sampler") and hasattr(given, "dataset")
        self._check_kind()

    def _check_kind(self) -> None:
        given, name = self._given, self._name
        if isinstance(given, np.ndarray) or hasattr(given, "detach"):
            raise InputError(f"{name}: images need their labels; give a pair (images, labels)")
        if isinstance(given, Iterator):
            raise InputError(
                f"{name}: can be read only once, so nothing shows that its order is fixed; give a "
                "list, or what it iterates over"
            )
        by_position = hasattr(given, "__getitem__") and hasattr(given, "__len__")
        if not by_position and not isinstance(given, Iterable):
            raise InputError(
                f"{quoted(given)}: no images; give a data set, its name or path, images and "
                "labels, a data loader, or a list of (image, label)"
            )
        if self._loader and not _is_endless(given.dataset):
            self._check_order(given.batch_sampler or given.sampler)

    def _check_order(self, sampler: Iterable[Any]) -> None:
        """Nothing, if a loader's sampler gives the same order twice."""
        one, other = (list(islice(sampler, MOST_UNCOUNTED)) for _ in range(2))
        if one != other:
            raise DataError(
                f"{self._name}: shuffles its images, but rows are numbered by a fixed order; give "
                "a loader with shuffle=False, or its dataset"
            )

    def standing_by_class(self, limit: int) -> int:
        """How many there are, where images of a class are known to stand together; else 0.

        And where so many as the limit are all of them.
        """
        known = self._known_labels()
        if known is None or limit >= len(known) or not _grouped(known, self._name):
            return 0
        return len(known)

    def _known_labels(self) -> Labels | None:
        """The labels, as far as no image has to be read."""
        given, name = self._given, self._name
        if not isinstance(given, list | tuple):
            return labels_within(given)
        with suppress(DataError):  # told by whoever reads it
            several = [np.ravel(as_array(_image_and_label(one, name).label, name)) for one in given]
            return np.concatenate(several) if several else None
        return None

    def told_of(self, labels: Labels, classes: Sequence[str]) -> str:
        """What is told where the first, of which these are the labels, stand by class; else ""."""
        seen = len(np.unique(labels))
        by_class = len(labels) >= max(FEW, 2 * seen) and (seen == 1 or is_grouped(labels))
        if not by_class or self._count() == len(labels):
            return ""
        of = f"{seen:,} of {len(classes):,}" if len(classes) > seen else f"{seen:,}"
        return (
            f"{self._name}: the first {len(labels):,} images are of {of} "
            f"class{'' if of == '1' else 'es'}, since they stand by class; give them shuffled, or "
            "the path of their folder"
        )

    def _count(self) -> int | None:
        """How many there are; None where that is not known before all are read."""
        own = self._given.dataset if self._loader else self._given
        return len(own) if _has_length(own) and (self._loader or not self._batched) else None

    def read(self, limit: int | None, among: int = 0) -> list[tuple[Image, Any]]:
        """The samples; at most so many, the first or, `among` so many, those that files would have.

        Raises:
            DataError: there are none, no end, or the first are others when they are read again.
        """
        first: list[tuple[Image, Any]] = []
        each = self._keeping(first)
        if among and limit is not None:
            numbered = enumerate(islice(each, among))
            found = [pair for _, pair in nsmallest(limit, numbered, key=self._shuffled_by)]
        elif limit is not None or _has_length(self._given):
            found = list(islice(each, limit))
        else:
            found = list(self._as_long_as_it_ends(each))
        again = islice(self._each(), len(first))
        if not found:
            raise DataError(f"{self._name}: no images")
        if not all(_same(a, b) for a, b in zip(first, again, strict=False)):
            raise DataError(
                f"{self._name}: its first images are others when it is read again: it shuffles, or "
                "transforms at random; use the transforms of the test, in a fixed order"
            )
        return found

    def _keeping(self, first: list[tuple[Image, Any]]) -> Iterator[tuple[Image, Any]]:
        """The samples, of which the first are kept to be compared."""
        for pair in self._each():
            if len(first) < COMPARED:
                first.append(pair)
            yield pair

    def _shuffled_by(self, sample: tuple[int, tuple[Image, Any]]) -> str:
        """By what a sample is shuffled, as a file's images are."""
        place, (image, _) = sample
        if not image.size:  # told by whoever puts them together
            return ""
        pixels, _ = noted_layout(image[np.newaxis], self._name)
        pixels = pixels[:, np.newaxis] if pixels.ndim == 3 else pixels
        return order_key(fingerprint(canonical(checked_pixels(pixels, self._name, place)[0])))

    def _as_long_as_it_ends(self, each: Iterator[tuple[Image, Any]]) -> Iterator[tuple[Image, Any]]:
        """The samples of what has no length.

        Raises:
            DataError: they are so many that it may never end.
        """
        size = 0
        for number, (image, label) in enumerate(each):
            size += image.nbytes
            if number == MOST_UNCOUNTED or size > MOST_BYTES:
                raise DataError(
                    f"{self._name}: has no length, and no end after {number:,} images; give limit, "
                    "the number of images to take"
                )
            yield image, label

    def notes(self) -> tuple[str, ...]:
        """What was taken from where, and what a loader leaves out."""
        return tuple(filter(None, (self._keys, self._left_out())))

    def _left_out(self) -> str:
        if not (self._loader and getattr(self._given, "drop_last", False)):
            return ""
        try:
            left = len(self._given.dataset) % self._given.batch_size
        except TypeError:  # no length, or batches of its own
            return ""
        return f"{self._name}: drop_last leaves out the last {left} images" if left else ""

    def _each(self) -> Iterator[tuple[Image, Any]]:
        place, items = 0, self._items()
        while True:
            try:
                item = next(items, _END)
            except RobustkitError:
                raise
            except Exception as error:
                first = f"the batch from image {place} on" if self._loader else f"image {place}"
                raise DataError(f"{self._name}: {first}: {_cause(error)}") from error
            if item is _END:
                return
            for pair in self._of(item, place):
                yield pair
                place += 1

    def _items(self) -> Iterator[Any]:
        """What it hands out; by position where nothing else is known, as of torch's data sets."""
        given = self._given
        if isinstance(given, Iterable):
            yield from given
        else:
            yield from (given[place] for place in range(len(given)))

    def _of(self, item: Any, place: int) -> Iterator[tuple[Image, Any]]:
        """The samples of one item: a batch, or a single one."""
        images, labels, self._keys, self.label = _image_and_label(item, self._name, place)
        where = f"{self._name}: image {place}"
        pixels, numbers = as_array(images, where), as_array(labels, where)
        _check_normalised(pixels, self._name)
        by_loader = self._loader and self._given.batch_sampler is not None
        self._batched = pixels.ndim == 4 or by_loader
        if not self._batched:
            yield pixels, numbers
        elif numbers.ndim == 0 or len(pixels) != len(numbers):
            shape = "x".join(map(str, numbers.shape)) or "none"
            raise DataError(
                f"{self._name}: {len(pixels)} images from image {place} on, in one batch, have "
                f"labels of shape {shape}; expected one integer per image"
            )
        else:
            yield from zip(pixels, numbers, strict=True)


def _has_length(given: Any) -> bool:
    try:
        return len(given) >= 0
    except (TypeError, NotImplementedError):  # of a loader whose data set has none
        return False


def _cause(error: Exception) -> str:
    """What was wrong, in one line; of a loader's worker, the last line of its traceback."""
    first, *others = str(error).strip().splitlines() or [""]
    of_worker = others and "DataLoader worker" in first
    return cut(shown(others[-1]), LONGEST_CAUSE) if of_worker else one_line(error)


def _is_endless(data: Any) -> bool:
    """Whether a loader takes what this iterates, without a sampler of its own."""
    torch_data = sys.modules.get("torch.utils.data")
    return torch_data is not None and isinstance(data, torch_data.IterableDataset)


class _Found(NamedTuple):
    """The two that count of an item, or of a batch."""

    image: Any
    label: Any
    note: str = ""
    """under which keys they were, for the record"""
    key: str = ""
    """that of the label, if there is one"""


def _image_and_label(item: Any, name: str, place: int = 0) -> _Found:
    """The two that count.

    Raises:
        DataError: there is no pair, or keys of a dictionary are not understood.
    """
    where = f"{name}: the item of image {place}"
    if isinstance(item, Mapping):
        image, label = (next((key for key in known if key in item), None) for known in KEYS)
        if image is None or label is None:
            keys = ", ".join(map(str, list(item)[:8]))
            raise DataError(
                f"{where} has the keys {keys}; {_SAMPLE} under names such as 'image' and 'label'"
            )
        note = f"{name}: images are {image!r}, labels are {label!r}"
        return _Found(item[image], item[label], note, label)
    if not isinstance(item, list | tuple):
        raise DataError(f"{where} is of type {type(item).__name__}; {_SAMPLE}")
    if len(item) != 2:
        raise DataError(f"{where} has {len(item)} parts; {_SAMPLE}, and nothing else")
    return _Found(item[0], item[1])


def _stacked(images: list[Image], name: str) -> Image:
    """One array N × C × H × W.

    Raises:
        DataError: images of several sizes or types.
    """
    _check_types([image.dtype for image in images], name)
    first, *others = dict.fromkeys(image.shape for image in images)
    if others:
        place = next(n for n, image in enumerate(images) if image.shape != first)
        one, other = ("x".join(map(str, shape)) for shape in (first, others[0]))
        raise DataError(
            f"{name}: image {place} is {other}, image 0 is {one}; give all the same, with Resize "
            "and CenterCrop in the transform"
        )
    return np.stack(images)


def _check_types(types: Sequence[Any], name: str) -> None:
    """Nothing, unless images are of types whose pixels have several scales."""
    names = [str(kind).removeprefix("torch.") for kind in types]
    # bfloat16 is one, and floats of several lengths go together, as integers do
    scales = [next((k for k in ("float", "bool") if k in one), "integer") for one in names]
    place = next((n for n, scale in enumerate(scales) if scale != scales[0]), None)
    if place is not None:
        raise DataError(
            f"{name}: image {place} is of {names[place]}, image 0 of {names[0]}; give all as uint8 "
            "in 0 to 255, or all as floats in [0, 1]"
        )


def _is_sample(one: Any) -> bool:
    """Whether it is an image with its label, and not one of the two arrays."""
    if isinstance(one, Mapping):
        return True
    if not isinstance(one, list | tuple) or len(one) != 2:
        return False
    return hasattr(one[0], "getbands") or getattr(one[0], "ndim", 0) >= 2 > _dimensions(one[1])


def _dimensions(given: Any) -> int:
    return int(getattr(given, "ndim", 0))


def _same(one: tuple[Image, Any], other: tuple[Image, Any]) -> bool:
    # NaN is told by what checks pixels
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True)]
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f") for a, b in pairs
    )
