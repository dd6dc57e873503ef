"""Datasets: images, labels, and the ids on which the results of two models are paired."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from robustkit.data.classes import DataClasses, WantedClasses, map_classes
from robustkit.data.encoded import departures
from robustkit.data.npz import noted_layout
from robustkit.data.order import is_grouped, shuffled_by
from robustkit.data.pairs import PairSource
from robustkit.data.pipeline import Pipeline
from robustkit.data.pixels import Labels, canonical, fingerprint, unit
from robustkit.data.sanity import contradictions, too_dark
from robustkit.data.shelf import Budgets, checked_budgets
from robustkit.data.source import (
    WHOLE,
    ArraySource,
    FileStamp,
    Opened,
    Relabelled,
    Source,
    as_array,
    checked_arrays,
    stamps,
)
from robustkit.data.transform import Shape, Transform
from robustkit.errors import DataError, EvaluationFailed
from robustkit.files import canonical as canonical_json
from robustkit.files import digest, whole_number
from robustkit.showing import Shown

Order = Literal["as stored", "digest-shuffled"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Dataset(Shown):
    """Images that are read when they are asked for, and everything known of them."""

    name: str
    title: str
    split: str
    """"all" where the source has no splits"""
    classes: tuple[str, ...]
    """names in the order of the labels; "0", "1", … where unknown"""
    shape: tuple[int, int, int]
    """C, H, W of `images`"""
    labels: Labels
    ids: tuple[str, ...]
    """per image, a hash of its pixels before any transform, and which occurrence of them it is"""
    digest: str
    """over ids, labels, transform and how many classes there are, whatever the file or the name:
    what can change a result"""
    budgets: Budgets
    """usual budgets per norm; empty where unknown"""
    order: Order
    transform: dict[str, Any]
    """channels, resize, interpolation, crop, as far as they change an image; or the
    whole of a pipeline"""
    source: dict[str, Any]
    """licence, origin, files and their digests"""
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    """what was taken from where; nothing is amiss"""
    _source: Source
    _positions: npt.NDArray[np.int64]
    _transform: Transform | Pipeline
    _counted: dict[str, Any]
    """what of the transform is in the digest"""
    _files: tuple[FileStamp, ...]
    """as they were before any image was read"""
    _ordered: bool
    """whether their order is that of other images, too, and stays"""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fixed_channels(self) -> int:
        """How many channels of an image, the first ones, no attack may change."""
        return self.shape[0] // 2 + 1 if isinstance(self._source, PairSource) else 0

    def check_pictures(self, what: str) -> None:
        """Nothing, unless these are pairs.

        Raises:
            DataError: they are.
        """
        if self.fixed_channels:
            raise DataError(f"{self.name}: pairs of images, which {what}; use evaluate")

    @property
    def available(self) -> int:
        """How many images the source has, of which these are some."""
        return len(self._source.labels)

    def images(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """A block, N x C x H x W in [0, 1], read and decoded now, with the pixels that its ids say.

        So whatever was made of blocks before is of the images that were listed, and stays.

        Raises:
            EvaluationFailed: a file has changed or become unreadable since the images were listed.
        """
        positions = self._positions[start:stop].tolist()
        block = np.empty((len(positions), *self.shape), np.float32)
        try:
            for row, image in enumerate(self._source.read(positions)):
                pixels = canonical(image)
                if fingerprint(pixels) != _pixels_of(self.ids[start + row]):
                    where = self._source.where(positions[row])
                    raise EvaluationFailed(
                        f"{where}: changed since the images were listed; finished work is "
                        "kept; run again when nothing writes to them"
                    )
                block[row] = unit(self._transform(pixels))
        except DataError as error:
            raise EvaluationFailed(str(error)) from error
        return block

    def changed(self) -> tuple[str, ...]:
        """A warning where a file was written anew since its images were listed.

        Those that were read are as listed nonetheless, see `images`.
        """
        path = _changed(self._files)
        said = "was written to during the run; the images are as they were before"
        return (f"{path} {said}",) if path else ()

    def distinct(self) -> "Dataset":
        """Without images whose pixels have come before; this very data set where there are none."""
        pixels = list(map(_pixels_of, self.ids))
        first = {name: row for row, name in reversed(list(enumerate(pixels)))}
        return self if len(first) == len(self) else self.take(sorted(first.values()))

    def first(self, count: int | None) -> "Dataset":
        """The first so many of the images as `shuffled` has them; all where there are no more."""
        if count is None or count >= len(self):
            return self
        return self.shuffled().take(range(count))

    def shuffled(self) -> "Dataset":
        """In the order that files are read in, where images of a class stand together; else itself.

        So its first images, however many, are a fair sample.
        """
        if self._ordered or not is_grouped(self.labels):
            return self
        order = shuffled_by(list(map(_pixels_of, self.ids)))
        return replace(self.take(order.tolist()), order="digest-shuffled")

    def as_stored(self) -> "Dataset":
        """In the order in which the source has them; itself, where it was not shuffled."""
        if self.order == "as stored":
            return self
        return replace(self.take(np.argsort(self._positions).tolist()), order="as stored")

    def take(self, rows: Sequence[int]) -> "Dataset":
        """These images alone, in this order, under the ids that they have here."""
        chosen = np.asarray(rows, np.int64)
        ids = tuple(self.ids[row] for row in chosen.tolist())
        labels = self.labels[chosen]
        return replace(
            self,
            labels=labels,
            ids=ids,
            digest=_digest(ids, labels, self._counted, self.classes, self._source),
            _positions=self._positions[chosen],
        )


def _digest(
    ids: Sequence[str],
    labels: Labels,
    transform: dict[str, Any],
    classes: Sequence[str],
    source: Source,
) -> str:
    parts = {"ids": list(ids), "labels": labels.tolist(), "transform": transform}
    # An empty class changes what a network returns and what a targeted attack aims at. One before
    # the last image's class shifts labels, and so shows; only those after it have to be counted.
    # Their names do not matter: the same images in another format may have others.
    last = int(source.labels.max())
    counted = {"classes": len(classes)} if len(classes) > last + 1 else {}
    return digest(canonical_json(parts | counted))


def from_arrays(
    images: Any,
    labels: Any,
    *,
    name: str,
    classes: Sequence[str] | None = None,
    split: str = WHOLE,
    title: str = "",
    budgets: Budgets | None = None,
    limit: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    crop: int | None = None,
    channels: int | None = None,
) -> Dataset:
    """A data set from arrays, in their order, unless the first of them would be of a few classes.

    Args:
        images: N x C x H x W, N x H x W x C or N x H x W; uint8, or floats in [0, 1]. Anything that
            `numpy.asarray` takes, tensors in main memory included.
        labels: N integers from 0 on.
        name: stands in the record and in messages.
        classes: names in the order of the labels.
        split: stands in the record.
        title: one line for people.
        budgets: usual budgets per norm, as text such as "8/255".
        limit: only the first so many images; where a class's stand together, of all images as
            files have them, shuffled by their pixels' digests.
        resize: length of the shorter side.
        interpolation: how it is resized, by Pillow; bilinear where nothing is given.
        crop: side of the square then cut from the centre.
        channels: 1 or 3.

    Raises:
        DataError: shapes, types or values that make no sense.
    """
    pixels, notes = noted_layout(as_array(images, name), name)
    source = ArraySource(*checked_arrays(pixels, labels, name), name)
    opened = Opened(source, split, tuple(classes or ()), notes=notes)
    transform = Transform(resize, crop, channels, interpolation).checked()
    usual = checked_budgets(budgets or {}, name)
    return assemble(opened, name, title or name, usual, transform, limit, as_given=True)


def assemble(
    opened: Opened,
    name: str,
    title: str,
    budgets: Budgets,
    transform: Transform | Pipeline,
    limit: int | None,
    *,
    wanted: WantedClasses | None = None,
    as_given: bool = False,
    as_published: bool = False,
) -> Dataset:
    """Put a source in order, and give each image its id.

    A source that is grouped by class is shuffled by the digests of its pixels, so that its first
    images are a fair sample: the same one on every machine and from every format, and whichever
    classes of a network its own are. `as_given`: only where it is cut, and else stays as it is.
    `as_published`: images that have the size of a pipeline's crop already are not resized.

    Raises:
        DataError: a label outside the classes, images of several sizes, an unreadable image.
    """
    if limit is not None:
        whole_number(limit, "--limit", least=1, error=DataError)
    stored = opened.source.labels
    cut = limit is not None and limit < len(stored)
    shuffle = (cut or not as_given) and not opened.ordered and is_grouped(stored)
    opened = _with_classes(opened, name, wanted or WantedClasses())
    source, classes = opened.source, opened.classes
    count = len(source.labels)
    read = count if shuffle or limit is None else min(limit, count)
    scan = _scan(source, transform, read, as_published)
    if path := _changed(opened.files):
        raise DataError(f"{path}: changed while it was read; run again when nothing writes to it")
    _check_shapes(scan.shapes, opened.shape, name)
    positions = _positions(scan.hashes, shuffle)[:limit]
    ids = with_occurrence([scan.hashes[position] for position in positions])
    effective = scan.transform.effective(scan.shapes)
    pairs = {"pairs": True} if isinstance(source, PairSource) else {}
    counted = effective.counted(scan.shapes) | pairs
    labels = source.labels[positions]
    return Dataset(
        name=name,
        title=title,
        split=opened.split,
        classes=classes,
        shape=scan.output,
        labels=labels,
        ids=ids,
        digest=_digest(ids, labels, counted, classes, source),
        budgets=budgets,
        order="digest-shuffled" if shuffle else "as stored",
        transform=effective.plain() | pairs,
        source=opened.origin,
        warnings=(
            *opened.warnings,
            *too_dark(scan.brightest, name),
            *contradictions(map(_pixels_of, ids), labels.tolist(), name),
        ),
        notes=opened.notes + scan.notes,
        _source=source,
        _positions=positions,
        _transform=effective,
        _counted=counted,
        _files=opened.files,
        _ordered=opened.ordered,
    )


def _with_classes(opened: Opened, name: str, wanted: WantedClasses) -> Opened:
    """The source with its classes named and, where those of a network are known, numbered so.

    Raises:
        DataError: a label outside the classes, or classes that are not the network's.
    """
    source = opened.source
    own = opened.classes or tuple(map(str, range(int(source.labels.max()) + 1)))
    _check_classes(source, own)
    present = frozenset(source.labels.tolist())
    unnamed = not opened.classes
    classes = DataClasses(own, opened.numbered, name, opened.empty, unnamed, opened.named, present)
    found = map_classes(classes, wanted)
    if found is None:
        return replace(opened, classes=own, warnings=opened.warnings + opened.if_in_place)
    labels = np.array(found.numbers, np.int64)[source.labels]
    return replace(
        opened,
        source=Relabelled(source, labels),
        classes=found.names,
        origin=opened.origin | {"class_map": found.record},
        notes=opened.notes + ((found.note,) if found.note else ()),
    )


def _positions(hashes: Sequence[str], shuffle: bool) -> npt.NDArray[np.int64]:
    """The order of the images: as stored, or by the salted digests of their pixels."""
    return shuffled_by(hashes) if shuffle else np.arange(len(hashes))


def with_occurrence(hashes: Sequence[str]) -> tuple[str, ...]:
    """Ids "HASH:1", and "HASH:2" for the second image with the same pixels."""
    seen: Counter[str] = Counter()
    ids = []
    for value in hashes:
        seen[value] += 1
        ids.append(f"{value}:{seen[value]}")
    return tuple(ids)


def _pixels_of(name: str) -> str:
    """The fingerprint in an image's id."""
    return name.rpartition(":")[0]


def _changed(files: tuple[FileStamp, ...]) -> str | None:
    """A file that is another than it was, or gone."""
    now = {one.path: one for one in stamps(Path(one.path) for one in files)}
    return next((one.path for one in files if now.get(one.path) != one), None)


class _Scan(NamedTuple):
    """What one pass over the pixels finds out."""

    hashes: list[str]
    shapes: set[Shape]
    """all that occur, as stored"""
    output: Shape
    """of every image, transformed"""
    brightest: float
    """pixel of all images, in [0, 1]"""
    transform: Transform | Pipeline
    """that all images of the output's shape are made by"""
    notes: tuple[str, ...]


def _scan(source: Source, transform: Transform | Pipeline, count: int, as_published: bool) -> _Scan:
    """Read the first `count` images once, one at a time."""
    hashes: list[str] = []
    shapes: dict[Shape, int] = {}
    counts: Counter[int] = Counter()
    brightest, fine = 0.0, 0
    with departures() as found:
        for position, image in enumerate(source.read(range(count))):
            hashes.append(fingerprint(pixels := canonical(image)))
            brightest = max(brightest, float(unit(pixels.max())))
            shapes.setdefault(Shape(*image.shape), position)
            counts[len(image)] += 1
            fine += image.dtype != np.uint8
    transform, notes = _coloured(transform, counts)
    if isinstance(transform, Pipeline):
        made = transform.unresized(shapes) if as_published else transform
        published = "" if made == transform else ", but not resized, as they are published"
        notes += (f"images {made.described()}{published}",)
        transform = made
    notes += _finer(transform, fine, count) + found.notes
    return _Scan(
        hashes, set(shapes), _output(source, transform, shapes), brightest, transform, notes
    )


def _finer(transform: Transform | Pipeline, number: int, total: int) -> tuple[str, ...]:
    """A word on images of more than 8 bits, which no library's loader would leave as they are."""
    if not number or isinstance(transform, Transform):
        return ()
    told = f"{number:,} of {total:,} images have more than 8 bits per channel and keep them"
    return (f"{told}; {transform.library} would have clipped them at 255",)


def _coloured(
    transform: Transform | Pipeline, counts: Counter[int]
) -> tuple[Transform | Pipeline, tuple[str, ...]]:
    """The transform, by which grey images among coloured ones become RGB, and a word on it."""
    if transform.channels is not None or set(counts) != {1, 3}:
        return transform, ()
    number, total = counts[1], counts.total()
    note = (
        f"{number:,} of {total:,} images are greyscale and are converted to RGB, as in "
        "torchvision's ImageFolder"
    )
    return replace(transform, channels=3), (note,)


def _output(source: Source, transform: Transform | Pipeline, shapes: Mapping[Shape, int]) -> Shape:
    """The shape of all transformed images, from the stored ones and the first image of each."""
    outputs: dict[Shape, int] = {}
    for shape, position in shapes.items():
        outputs.setdefault(transform.output(shape, source.where(position)), position)
    (first, _), *others = outputs.items()
    if others:
        other, position = others[0]
        raise DataError(
            f"{source.where(position)}: an image of {other}, but the first is {first}; give "
            "--resize and --crop to make them equal"
        )
    return first


def _check_shapes(shapes: set[Shape], expected: tuple[int, ...], name: str) -> None:
    for shape in sorted(shapes):
        if expected and shape != expected:
            raise DataError(f"{name}: images of {shape}, expected {Shape(*expected)}")


def _check_classes(source: Source, classes: tuple[str, ...]) -> None:
    bad = np.flatnonzero(source.labels >= len(classes))
    if bad.size:
        raise DataError(
            f"{source.where(bad[0])} has label {source.labels[bad[0]]}, "
            f"but there are {len(classes)} classes, numbered from 0"
        )
