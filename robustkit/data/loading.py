"""From the name or path of a data set to a `Dataset`."""

import os
from dataclasses import replace
from pathlib import Path

from robustkit.data.dataset import Dataset, assemble
from robustkit.data.folder import open_folder
from robustkit.data.npz import open_npz
from robustkit.data.originals import PREFIX, open_original, original_files
from robustkit.data.parquet import find_parquet, open_parquet
from robustkit.data.shelf import DatasetSpec, checked_budgets, read_dataset_spec
from robustkit.data.source import FileStamp, Opened, diagnosis, files_in, stamps
from robustkit.data.transform import Transform
from robustkit.errors import DataError, UnknownName
from robustkit.files import file_digest, find, names


def load_dataset(
    name: str,
    *,
    split: str = "test",
    limit: int | None = None,
    root: Path | str | None = None,
    resize: int | None = None,
    crop: int | None = None,
    channels: int | None = None,
) -> Dataset:
    """A data set, with an id for each image; images themselves are read block by block later.

    Args:
        name: a name on the shelf `data/`, or a path: a `.toml` file, a folder of class folders,
            a Parquet file or a folder of them, an `.npz`.
        split: must be one that the source has; a source without splits is "all".
        limit: only the first so many images.
        root: where the files of a known data set stand; downloads go elsewhere, to a cache.
        resize: length of the shorter side.
        crop: side of the square then cut from the centre.
        channels: 1 or 3.

    Raises:
        UnknownName: no such name, and no such path.
        DataError: files missing or broken, no such split, images or labels out of range.
    """
    root = None if root is None else Path(root)
    asked = Transform(resize, crop, channels)
    file = _shelf_file(name)
    known = read_dataset_spec(name) if file else DatasetSpec(title=name, source=name)
    try:
        opened = _described(known, file, split, root) if file else open_path(Path(name), split)
        return assemble(
            opened,
            file.stem if file else Path(name).resolve().stem,
            known.title,
            checked_budgets(known.budgets, name),
            asked.over(Transform(known.resize, known.crop, known.channels)),
            limit,
        )
    except OSError as error:
        raise DataError(f"{error.filename or name}: cannot be read: {error.strerror}") from error


def file_stamps(name: str, split: str, root: Path | None) -> tuple[FileStamp, ...]:
    """Stamps of the files behind a data set, which `load_dataset` reads with these arguments."""
    file = _shelf_file(name)
    paths = [Path(name)] if file is None else [file]
    if file is not None:
        spec = read_dataset_spec(name)
        if spec.source.startswith(PREFIX):
            paths += original_files(file.stem, spec, split, root)
        else:
            paths.append(file.parent / spec.source)
    return stamps(one for path in paths for one in files_in(path))


def open_path(path: Path, split: str) -> Opened:
    """What stands at a path: a folder, a Parquet file or an `.npz`.

    Raises:
        DataError: nothing there, or no format that is known.
    """
    if path.is_dir():
        return (
            open_parquet(part) if (part := find_parquet(path, split)) else open_folder(path, split)
        )
    if path.is_file() and path.suffix == ".parquet" and (part := find_parquet(path, split)):
        return open_parquet(part)
    if path.is_file() and path.suffix == ".npz":
        return open_npz(path, split)
    why = "expected a folder, .npz or .parquet" if path.is_file() else diagnosis(path)
    raise DataError(f"{path}: {why}")


def _shelf_file(name: str) -> Path | None:
    """The TOML file of a data set; None if `name` is, or can only have been meant as, a path."""
    try:
        return find("data", name)
    except UnknownName:
        meant = "/" in name or "\\" in name or Path(name).suffix in (".npz", ".parquet")
        if meant or _exists(Path(name)):
            return None
        advice = "or give the path of a folder, .npz, .parquet or .toml"
        raise UnknownName("data set", name, names("data"), advice) from None


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - of a name too long, too


def _described(known: DatasetSpec, file: Path, split: str, root: Path | None) -> Opened:
    """The source that a data set's file names, held against what the file says of it."""
    if known.splits and split not in known.splits:
        raise DataError(f"{file.stem}: no split {split!r}; it has: {', '.join(known.splits)}")
    if known.source.startswith(PREFIX):
        opened = open_original(file.stem, known, split, root)
    else:
        opened = _beside(known, file, split)
    if known.classes and opened.classes and len(opened.classes) != len(known.classes):
        raise DataError(
            f"{file.stem}: {len(opened.classes)} classes found, "
            f"but {file} names {len(known.classes)}"
        )
    facts = {"licence": known.licence, "origin": known.origin}
    facts["all_training_images_of"] = known.all_training_images_of
    origin = {key: value for key, value in facts.items() if value} | opened.origin
    classes = known.classes or opened.classes
    return replace(opened, classes=classes, shape=known.shape, origin=origin)


def _beside(known: DatasetSpec, file: Path, split: str) -> Opened:
    """A source given by its path, relative to the data set's file."""
    path = file.parent / known.source
    expected = known.sha256.get(path.name)
    if expected and path.is_file() and file_digest(path) != expected:
        raise DataError(f"{path}: its SHA-256 is not the one in {file}; the file has been changed")
    return open_path(path, split)
