"""From the name or path of a data set to a `Dataset`."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from robustkit.data.arrow import arrow_has_pictures, find_arrow, is_saved, open_arrow
from robustkit.data.classes import WantedClasses
from robustkit.data.corrupted import asked_levels, find_levels, open_level
from robustkit.data.dataset import Dataset, assemble
from robustkit.data.described import check_digests, names_in_order, under_its_classes
from robustkit.data.encoded import Reading
from robustkit.data.folder import has_class_folders, open_folder
from robustkit.data.npy import find_npy, open_npy
from robustkit.data.npz import open_npz
from robustkit.data.originals import (
    PREFIX,
    check_no_original,
    open_original,
    original_files,
)
from robustkit.data.pairs import LIST, PAIRS, PairSource, is_pairs, open_pairs
from robustkit.data.parquet import find_parquet, open_parquet, parquet_has_pictures
from robustkit.data.pipeline import Pipeline
from robustkit.data.shelf import DatasetSpec, checked_budgets, read_dataset_spec
from robustkit.data.source import (
    UNDIVIDED,
    WHOLE,
    FileStamp,
    Opened,
    diagnosis,
    files_in,
    read_as,
    stamps,
)
from robustkit.data.split import SPLITS
from robustkit.data.table import ADDRESS, open_table, read_rows
from robustkit.data.tensors import open_tensors
from robustkit.data.transform import Transform
from robustkit.data.webdataset import braced, find_tars, is_tars, open_tars
from robustkit.errors import DataError, UnknownName
from robustkit.files import find, names

FILES = (".npz", ".npy", ".parquet", ".arrow", ".tar", ".csv", ".tsv", ".pt", ".pth")
"""ends of the names of files that are data sets"""
ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def load_dataset(
    name: str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    root: Path | str | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    crop: int | None = None,
    channels: int | None = None,
    classes: WantedClasses | str | Path | None = None,
    pipeline: Pipeline | None = None,
) -> Dataset:
    """A data set, with an id for each image; images themselves are read block by block later.

    Args:
        name: a name on the shelf `data/`, or a path: a `.toml` file, a folder of class folders,
            files of one of `FILES` or a folder of them, tars with braces in their name. What has
            a separator, as `./mnist`, and a `Path` are no names.
        split: must be one that the source has; a source without splits is "all".
        limit: only the first so many images.
        root: where the files of a known data set stand; downloads go elsewhere, to a cache.
        resize: length of the shorter side.
        interpolation: how it is resized, by Pillow; bilinear where nothing is given.
        crop: side of the square then cut from the centre.
        channels: 1 or 3.
        classes: those of the network that the images are for, whose numbers the labels become; a
            text is that of `--classes`.
        pipeline: that of a library, in place of resize, crop and channels; published corruptions of
            the crop's size are not resized, unless `resize` is given, too.

    Raises:
        UnknownName: no such name, and no such path.
        DataError: files missing or broken, no such split, images or labels out of range, or
            classes that are not the network's.
    """
    file = _shelf_file(name)
    # what is on record of a path is no name when it is read again
    on_shelf = file is None and isinstance(name, Path) and str(name) in names("data")
    name = f"./{name}" if on_shelf else str(name)
    wanted = WantedClasses(given=str(classes)) if isinstance(classes, str | Path) else classes
    root = None if root is None else Path(root)
    asked = Transform(resize, crop, channels, interpolation)
    known = read_dataset_spec(name) if file else DatasetSpec(title=name, source=name)
    try:
        opened = _described(known, file, split, root) if file else _at_path(name, split)
        if name.endswith(".toml"):  # another of that name may stand on the shelf
            opened = replace(opened, origin={**opened.origin, "path": name})
        elif file and _is_folder(name):
            told = f"{name}: read as the data set of that name; the folder here is ./{name}"
            opened = replace(opened, notes=(*opened.notes, told))
        if isinstance(opened.source, PairSource):
            _check_undivided(name, split, wanted)
            # their classes are no network's, and channels are converted picture by picture
            opened = replace(opened, source=replace(opened.source, channels=asked.channels))
            asked, wanted, pipeline = replace(asked, channels=None), None, None
        if pipeline is not None:
            opened = _prepared(opened, pipeline)
        return assemble(
            opened,
            file.stem if file else Path(name).resolve().stem,
            known.title,
            checked_budgets(known.budgets, name),
            pipeline or asked.over(_usual(known)).checked(),
            limit,
            wanted=wanted,
            # as the benchmark itself reads them
            as_published=resize is None and "corruption" in opened.origin,
        )
    except OSError as error:
        raise DataError(f"{error.filename or name}: cannot be read: {error.strerror}") from error


def _check_undivided(name: str, split: str, wanted: WantedClasses | None) -> None:
    """Nothing, unless a split or classes are asked for of pairs, which have none."""
    if SPLITS.get(split, split) not in ("test", WHOLE):
        raise DataError(f"{name}: no split {split!r}; the list of pairs {UNDIVIDED}")
    if wanted and wanted.given is not None:
        raise DataError(
            f"--classes {wanted.given}: {name} has pairs of images, which are of none of a "
            "network's classes; leave it out"
        )


def _usual(known: DatasetSpec) -> Transform:
    return Transform(known.resize, known.crop, known.channels, known.interpolation)


def _prepared(opened: Opened, pipeline: Pipeline) -> Opened:
    """The source with its pictures read as the pipeline's loader does."""
    source = read_as(opened.source, Reading(pipeline.upright, pipeline.on_white))
    return replace(opened, source=source)


def corruption_splits(name: str | Path, split: str) -> list[str]:
    """The splits of a set of corrupted images that one asks for; empty for all other data.

    Raises:
        DataError: the set's files don't go together.
    """
    if _shelf_file(name) is not None or not _is_folder(name):
        return []
    try:
        return asked_levels(find_levels(Path(name)), split)
    except OSError:  # told by whoever reads the data
        return []


def _at_path(name: str, split: str) -> Opened:
    """What stands at a path, with the path on record where it is not plain from the rest."""
    if ADDRESS.match(name):
        raise DataError(f"{name}: a web address; download the files and name the local path")
    opened = open_path(Path(name), split)
    if name in (opened.origin.get("folder"), opened.origin.get("file")):
        return opened
    return replace(opened, origin=opened.origin | {"path": name})


def file_stamps(name: str, split: str, root: Path | None) -> tuple[FileStamp, ...]:
    """Stamps of the files behind a data set, which `load_dataset` reads with these arguments."""
    file = _shelf_file(name)
    paths = [Path(name)] if file is None else [file]
    if file is not None:
        spec = read_dataset_spec(name)
        if spec.source == PAIRS:
            return stamps([root / LIST] if root else [])
        if spec.source.startswith(PREFIX):
            paths += original_files(file.stem, spec, split, root)
        else:
            paths.append(file.parent / spec.source)
    return stamps(one for path in paths for one in _files_behind(path, split))


def _files_behind(path: Path, split: str) -> Iterable[Path]:
    """The files that `open_path` reads, and perhaps others beside them."""
    try:
        if path.is_dir():
            return files_in(path, links=True)
        match path.suffix.lower():
            case ".csv" | ".tsv":
                return [path, *(row.path for row in read_rows(path, split).rows)]
            case ".npy":  # labels stand beside the images
                return sorted({path, *path.parent.glob("*.npy")})
        return braced(str(path))
    except OSError:  # told by whoever reads the data
        return []


def open_path(path: Path, split: str, names: Sequence[str] = ()) -> Opened:
    """What stands at a path, whatever the format; class folders in the order of `names`, if given.

    Raises:
        DataError: nothing there, or no format that is known.
    """
    if path.is_dir():
        return _open_folder(path, split, names)
    if tars := find_tars(path, split) if is_tars(path) else None:
        return open_tars(tars)
    if not path.is_file():
        raise DataError(f"{path}: {diagnosis(path)}")
    match path.suffix.lower():
        case ".parquet" if part := find_parquet(path, split):
            return open_parquet(part, split)
        case ".arrow" if part := find_arrow(path, split):
            return open_arrow(part, split)
        case ".npz":
            return open_npz(path, split)
        case ".npy" if pair := find_npy(path, split):
            return open_npy(pair)
        case ".pt" | ".pth":
            return open_tensors(path, split)
        case ".csv" | ".tsv":
            return open_table(path, split)
    check_no_original(path)
    packed = "; extract the archive" if path.suffix.lower() in ARCHIVES else ""
    raise DataError(f"{path}: expected a folder, {', '.join(FILES[:-1])} or {FILES[-1]}{packed}")


def _open_folder(folder: Path, split: str, names: Sequence[str]) -> Opened:
    """What a folder holds: files of one of the formats, else class folders."""
    if is_pairs(folder):
        return open_pairs(folder)
    if level := open_level(folder, split):
        return level
    tables = _tables(folder)
    if aside := _without_pictures(folder, tables):
        opened = open_folder(folder, split, names)
        return replace(opened, notes=(*opened.notes, aside))
    if tables and (part := find_parquet(folder, split)):
        return open_parquet(part, split)
    if (tables or is_saved(folder)) and (part := find_arrow(folder, split)):
        return open_arrow(part, split)
    if not has_class_folders(folder):
        if part := find_tars(folder, split):
            return open_tars(part)
        if pair := find_npy(folder, split):
            return open_npy(pair)
        check_no_original(folder)
    return open_folder(folder, split, names)


def _tables(folder: Path) -> list[Path]:
    """The Parquet and Arrow files in a folder, but for hidden ones; one walk, of names alone."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in files
            if name.endswith((".parquet", ".arrow")) and not name.startswith(".")
        ]
    return sorted(path for path in found if path.is_file())


def _without_pictures(folder: Path, tables: Sequence[Path]) -> str:
    """What is told where class folders have the pictures and tables have none; else ""."""
    if not tables or is_saved(folder) or any(map(_holds_pictures, tables)):
        return ""
    if not has_class_folders(folder):
        return ""
    first = tables[0].relative_to(folder)
    more = f" and {len(tables) - 1:,} more" if len(tables) > 1 else ""
    return f"{folder}: the images are those of class folders; {first}{more} has no images"


def _holds_pictures(path: Path) -> bool:
    return (parquet_has_pictures if path.suffix == ".parquet" else arrow_has_pictures)(path)


def _shelf_file(name: str | Path) -> Path | None:
    """The TOML file of a data set; None if `name` is, or can only have been meant as, a path."""
    if isinstance(name, Path) and not name.name.endswith(".toml"):
        _check_not_meant(name, "as text it is")
        return None
    name = str(name)
    try:
        return find("data", name)
    except UnknownName:
        meant = "/" in name or "\\" in name or Path(name).suffix in FILES
        if meant or _exists(Path(name)):
            _check_not_meant(Path(name), f"{Path(name)} alone is")
            return None
        advice = f"or give the path of a folder, {', '.join(FILES)} or .toml"
        raise UnknownName("data set", name, names("data"), advice) from None


def _check_not_meant(path: Path, which: str) -> None:
    """Nothing, unless there is no such file, and a data set of that name."""
    if not _exists(path) and str(path) in names("data"):
        raise DataError(f"{path}: no such file or folder; {which} the name of a data set")


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - of a name too long, too


def _is_folder(name: str | Path) -> bool:
    return os.path.isdir(name)  # noqa: PTH112 - which raises nothing


def _described(known: DatasetSpec, file: Path, split: str, root: Path | None) -> Opened:
    """The source that a data set's file names, held against what the file says of it."""
    if known.splits and split not in known.splits:
        raise DataError(f"{file.stem}: no split {split!r}; it has: {', '.join(known.splits)}")
    place: Path | None = file.parent / known.source
    if known.source == PAIRS:
        if (place := root) is None:
            raise DataError(f"{file.stem}: give the folder of {LIST} with --data-root")
        opened = open_pairs(place)
    elif known.source.startswith(PREFIX):
        # its digests are those of the original files, of which there may be a copy
        opened, place = open_original(file.stem, known, split, root), None
    else:
        opened = _beside(known, file, split)
    check_digests(opened, known, file, place)
    opened = under_its_classes(opened, known, file)
    facts = {"licence": known.licence, "origin": known.origin}
    facts["all_training_images_of"] = known.all_training_images_of
    origin = {key: value for key, value in facts.items() if value} | opened.origin
    classes = known.classes or opened.classes
    numbered = opened.numbered or bool(known.classes)
    if known.classes:
        opened = replace(opened, named=None)
    return replace(opened, classes=classes, numbered=numbered, shape=known.shape, origin=origin)


def _beside(known: DatasetSpec, file: Path, split: str) -> Opened:
    """A source given by its path, relative to the data set's file."""
    path = file.parent / known.source
    opened = open_path(path, split, known.folders)
    if known.folders:
        return opened
    if path.is_dir() and (own := names_in_order(opened, known, file)):
        # class folders are numbered in any order that one gives
        again = open_path(path, split, own)
        return again if again.classes == own else opened
    of_file = known.classes if opened.numbered else opened.classes
    if opened.classes != of_file and sorted(opened.classes) == sorted(of_file):
        raise DataError(
            f"{path}: its classes stand in another order than in {file}; give them there in the "
            f"order of the labels, {', '.join(map(repr, opened.classes[:5]))} first"
        )
    return opened
