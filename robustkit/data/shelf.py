"""The shelf `data/`: what a data set's TOML file says. Read without numpy or torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from robustkit.errors import DataError, InputError
from robustkit.files import build, find, read_toml
from robustkit.protocol import NORMS, Norm, parse_epsilon

UNIT = (Fraction(0), Fraction(1))
Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"]
"""as Pillow names them; all but nearest with antialiasing"""
Budgets = dict[Norm, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """The content of a data set's file."""

    title: str
    source: str
    """"torchvision:NAME", or a path (folder, .npz, .parquet) relative to the file"""
    licence: str = ""
    origin: str = ""
    """where the images come from: an address, a paper"""
    splits: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    """names in the order of the labels; empty where the source names them"""
    folders: tuple[str, ...] = ()
    """names of the class folders in the order of the labels, where they are not the classes"""
    shape: tuple[int, ...] = ()
    """C, H, W of the source's images; empty where they differ"""
    bounds: tuple[Fraction, ...] = UNIT
    budgets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    """by file name; of the unpacked bytes where the file is gzipped"""
    all_training_images_of: str = ""
    """a data set of whose training images these are a part"""
    jpeg: bool = False
    """the originals themselves are JPEG files"""
    resize: int | None = None
    interpolation: Interpolation | None = None
    crop: int | None = None
    channels: int | None = None


def read_dataset_spec(name: str) -> DatasetSpec:
    """What the file of a data set says; `name` stands on the shelf or ends in `.toml`.

    Raises:
        UnknownName: no such data set.
        DataError: the file's content makes no sense; the message names the key.
    """
    path = find("data", name)
    try:
        found = build(DatasetSpec, read_toml(path), str(path))
    except InputError as error:
        raise DataError(str(error)) from error
    checked_budgets(found.budgets, str(path))
    _check(found, str(path))
    return found


def checked_budgets(budgets: Mapping[Any, Sequence[str]], where: str) -> Budgets:
    """Usual budgets per norm, each a number above 0 written as text.

    Raises:
        DataError: an unknown norm, or a budget that is no such number.
    """
    checked: Budgets = {}
    for norm in NORMS:
        checked[norm] = tuple(budgets.get(norm, ()))
        for text in checked[norm]:
            try:
                parse_epsilon(text, f"{where}: budgets.{norm}")
            except InputError as error:
                raise DataError(str(error)) from error
    if unknown := sorted(set(budgets) - set(checked)):
        raise DataError(f"{where}: budgets: unknown norm {unknown[0]!r}; known: {', '.join(NORMS)}")
    return {norm: texts for norm, texts in checked.items() if texts}


def _check(found: DatasetSpec, where: str) -> None:
    if found.bounds != UNIT:
        raise DataError(f'{where}: bounds: images are always evaluated on ["0", "1"]; rescale them')
    if found.shape and (len(found.shape) != 3 or min(found.shape) < 1):
        raise DataError(f"{where}: shape: expected [channels, height, width]")
    if found.folders and len(found.folders) != len(found.classes):
        raise DataError(
            f"{where}: folders: {len(found.folders)} names for {len(found.classes)} classes"
        )


def path_given(title: str, source: Mapping[str, Any]) -> str | None:
    """The path that images were asked for by, as it was given; None of a name, or of memory.

    Args:
        title: of the data set; of what is read by its path without a file, that path.
        source: where its images come from, as it is on record.
    """
    path = source.get("path")
    if str(path).endswith(".toml"):  # which has a title of its own
        return str(path)
    return title if title in (path, source.get("folder"), source.get("file")) else None


def resolved_path(title: str, source: Mapping[str, Any]) -> str | None:
    """That path from the root on, as a training keeps it; arguments as of `path_given`."""
    path = path_given(title, source)
    return None if path is None else str(Path(path).resolve())
