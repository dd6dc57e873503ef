"""The known data sets in the layout of torchvision, downloaded through it where need be."""

import contextlib
import os
import re
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from robustkit.data.folder import FileSource, open_folder
from robustkit.data.idx import find_idx, open_idx, read_idx
from robustkit.data.parquet import open_parquet
from robustkit.data.shards import SplitFiles, check_shards, find_split
from robustkit.data.shelf import DatasetSpec, read_dataset_spec
from robustkit.data.source import (
    ArraySource,
    Opened,
    Remembered,
    checked_arrays,
    checked_labels,
    files_in,
    stamps,
)
from robustkit.errors import DataError, UnknownName

PREFIX = "torchvision:"
PLACES = {
    "MNIST": ("MNIST/raw", "mnist", "."),
    "FashionMNIST": ("FashionMNIST/raw", "fashion-mnist", "."),
    "CIFAR10": ("cifar-10-batches-py",),
    "CIFAR100": ("cifar-100-python",),
    "SVHN": ("{split}_32x32.mat",),
    "LFWPeople": ("lfw-py",),
    "ImageNet": ("{split}", "imagenet/{split}"),
}
"""under the root, where each data set's files may be"""
OF_IDX = ("MNIST", "FashionMNIST")
IDX = re.compile(r".*[-.]idx\d-ubyte(\.gz)?", re.ASCII | re.DOTALL)
BY_HAND = {
    "LFWPeople": "it is no longer available for download; copy torchvision's folder lfw-py there",
    "ImageNet": "it requires a login at image-net.org; copy the split's class folders there",
}
NAMES = {
    "MNIST": "mnist",
    "FashionMNIST": "fashion-mnist",
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "SVHN": "svhn",
}
"""by which those without class folders are read"""
MARKS = {
    place.format(split=split): name
    for kind, name in NAMES.items()
    for place in PLACES[kind]
    for split in ("train", "test", "extra")
    if kind not in OF_IDX
}
"""what the folder or file of originals is called, and the data set that it is of"""
TIMEOUT = 30.0
"""seconds without an answer, after which a network counts as absent"""


def open_original(name: str, spec: DatasetSpec, split: str, root: Path | None) -> Opened:
    """A known data set: the original files under `root`, else Parquet there, else a download.

    Raises:
        DataError: damaged files, or nothing found and no network.
    """
    kind = spec.source.removeprefix(PREFIX)
    if kind not in PLACES:
        raise DataError(f"{name}: {UnknownName('torchvision data set', kind, PLACES)}")
    if root and not root.is_dir():
        raise DataError(f"--data-root {root}: no such folder")
    roots = [root, downloads()] if root else [downloads()]
    damage = ""
    for place in roots:
        try:
            found = _stored(kind, spec, split, place)
        except DataError as error:
            if place == root or kind in BY_HAND:
                raise
            found, damage = None, str(error)  # it is downloaded again
        if found or (found := _as_parquet(name, spec, split, place)):
            return found
    places = [place.format(split=split) for place in PLACES[kind] if place != "."]
    missing = (
        f"{name}: not found in {' or '.join(map(str, roots))} "
        f"(looked for {', '.join(places)} and {name}-{split}.parquet)"
    )
    if kind in BY_HAND:
        raise DataError(f"{missing}; {BY_HAND[kind]}, or name its folder with --data-root")
    if found := _downloaded(kind, spec, split, damage or missing):
        return found
    raise DataError(f"{missing}, not even after the download")


def original_files(name: str, spec: DatasetSpec, split: str, root: Path | None) -> Iterator[Path]:
    """Files and folders that `open_original` may read, of those that are there."""
    kind = spec.source.removeprefix(PREFIX)
    for folder in [*([root] if root else []), downloads()]:
        known = PLACES.get(kind, ())  # none are told of by `open_original`
        places = [folder / place.format(split=split) for place in known if place != "."]
        loose = folder.glob("*-ubyte*") if "." in known else ()
        copies = [*folder.glob(f"{name}-{split}*.parquet"), folder / name, folder / "data"]
        yield from (path for path in [*places, *sorted(loose), *sorted(copies)] if path.exists())


def check_no_original(path: Path) -> None:
    """Nothing, unless a path's files are originals, or IDX: those are read by a data set's name.

    Raises:
        DataError: they are.
    """
    found: dict[tuple[str, Path], None] = {}
    odd: DataError | None = None
    for file in map(Path.absolute, files_in(path)):  # "." has no name
        folder = file.parent
        if name := MARKS.get(file.name):
            found[name, folder] = None
        elif name := MARKS.get(folder.name):
            found[name, folder.parent] = None
        elif IDX.fullmatch(file.name) and folder not in {root for _, root in found}:
            try:
                found |= {(name, folder): None for name in _data_sets_of_idx(file)}
            except DataError as error:
                odd = odd or error
    as_given = Path if path.is_absolute() else os.path.relpath
    ways = [f"--data {name} --data-root {as_given(root)}" for name, root in found]
    if ways:
        raise DataError(
            f"{path}: original files of a known data set, which is read by its name; give "
            f"{', or '.join(ways)}"
        )
    if odd:
        raise odd


def _data_sets_of_idx(file: Path) -> list[str]:
    """The data sets of which a file of IDX can be an original.

    Raises:
        DataError: none, or it is damaged.
    """
    name, sha256 = file.name.removesuffix(".gz"), read_idx(file).sha256
    known = {NAMES[kind]: read_dataset_spec(NAMES[kind]).sha256.get(name) for kind in OF_IDX}
    if found := [one for one, expected in known.items() if expected == sha256]:
        return found
    raise DataError(
        f"{file}: IDX, of which the originals of {' and '.join(known)} are read, by their own "
        "names (t10k-images-idx3-ubyte); save other images and labels as .npz"
    )


def downloads() -> Path:
    """Where data sets are downloaded to; a root that the user names is only read."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "robustkit" / "data"


def _stored(kind: str, spec: DatasetSpec, split: str, root: Path) -> Opened | None:
    """The original files, if they are there."""
    places = [root / place.format(split=split) for place in PLACES[kind]]
    if kind in OF_IDX:
        files = find_idx(places, split)
        return open_idx(*files, split, spec.sha256) if files else None
    place = next((place for place in places if place.exists()), None)
    if place is None:
        return None
    if kind == "ImageNet":
        return open_folder(place.parent, split, spec.folders)
    return _read(kind, split, root, place)


def _as_parquet(name: str, spec: DatasetSpec, split: str, root: Path) -> Opened | None:
    """A copy in Parquet: `ROOT/NAME-SPLIT.parquet`, or `ROOT/NAME/` or `ROOT/data/` with splits."""
    part = None
    if files := sorted(root.glob(f"{name}-{split}*.parquet")):
        part = SplitFiles(files, split, warnings=check_shards(files, root))
    for place in (root / name, root / "data"):
        if part is None and place.is_dir():
            part = find_split(place, ".parquet", split)
    if part is None:
        return None
    opened = open_parquet(part, split)
    if spec.jpeg or opened.origin["encoding"] != "jpeg":
        return opened
    warning = (
        f"{name}: the images are JPEG copies; "
        "accuracies differ slightly from those on the original pixels"
    )
    return replace(opened, warnings=(*opened.warnings, warning))


def _downloaded(kind: str, spec: DatasetSpec, split: str, missing: str) -> Opened | None:
    """The original files, downloaded beside their place and put there when all of them are whole.

    One process downloads at a time; those that waited for it take what it has downloaded.
    """
    root, place = downloads(), PLACES[kind][0].format(split=split)
    partial, final = root / f".{kind}.partial", root / place
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{kind}.lock"):
            with contextlib.suppress(DataError):
                if found := _stored(kind, spec, split, root):
                    return found
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            try:
                _download(kind, split, partial, missing)
                final.parent.mkdir(parents=True, exist_ok=True)
                if final.is_dir():
                    shutil.rmtree(final)
                (partial / place).replace(final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except (OSError, NotImplementedError) as error:  # a file system without locks
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{missing}; cannot download into {root}: {reason}") from error
    return _stored(kind, spec, split, root)


def _download(kind: str, split: str, root: Path, missing: str) -> None:
    """Leave the files under `root`, checked by torchvision against their MD5."""
    try:
        _torchvision(kind, split, root, download=True)
    except Exception as error:  # urllib, http.client and tarfile raise nearly anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{missing}; the download failed: {reason[-1]}; on a machine with a connection, "
            f"torchvision.datasets.{kind}(ROOT, download=True) downloads it; then pass ROOT "
            "with --data-root"
        ) from error


def _read(kind: str, split: str, root: Path, place: Path) -> Opened:
    """What torchvision reads, after its own check of the files' MD5.

    Raises:
        DataError: not the original files.
    """
    files = stamps(files_in(place))
    try:
        found = _torchvision(kind, split, root, download=False)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{place}: incomplete or damaged, by torchvision's check; remove it and "
            "download it again"
        ) from error
    origin = {"folder": str(place), "checked": "MD5, by torchvision"}
    if kind == "LFWPeople":
        labels = checked_labels(found.targets, str(place))
        source = Remembered(FileSource(tuple(map(Path, found.data)), labels))
        return Opened(source, split, tuple(found.class_to_idx), origin=origin, files=files)
    images = found.data if kind == "SVHN" else found.data.transpose(0, 3, 1, 2)
    labels = found.labels if kind == "SVHN" else found.targets
    pair = checked_arrays(images, labels, str(place))
    arrays = ArraySource(pair.images, pair.labels, str(place))
    return Opened(arrays, split, origin=origin, files=files)


def _torchvision(kind: str, split: str, root: Path, *, download: bool) -> Any:
    """The object of torchvision, whose constructors name the split in two ways."""
    # here, since it brings torch, which takes seconds
    import torchvision.datasets as door

    part = {"split": split} if kind in ("SVHN", "LFWPeople") else {"train": split == "train"}
    with _unheard():
        return getattr(door, kind)(str(root), **part, download=download)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Keep stdout for results, NumPy's notes on old pickles unsaid, and dead networks short."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(timeout)
