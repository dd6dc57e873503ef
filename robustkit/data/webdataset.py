"""WebDataset: tars in which consecutive members `KEY.jpg` and `KEY.cls` are a sample.

Nothing is ever unpacked: pictures are read where they stand. Names are keys and no paths.

Source: https://github.com/webdataset/webdataset, for how a name falls into key and extension.
"""

import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from robustkit.data.encoded import SUFFIXES, is_jpeg
from robustkit.data.labels import columns_beside, number_labels, paired_labels
from robustkit.data.shards import SplitFiles, among, find_split
from robustkit.data.source import Opened, Remembered, diagnosis, digests, stamps
from robustkit.data.spans import Span, SpanSource
from robustkit.data.split import SPLITS
from robustkit.errors import DataError, InputError, quoted, shown
from robustkit.files import read_text

LABELS = ("cls", "cls.txt", "label", "label.txt", "class", "class.txt", "target")
"""extensions of members that hold a label and nothing else"""
JSON_KEYS = ("label", "cls", "class", "class_id", "target", "label_id", "class_name")
CLASS_NAMES = ("classnames.txt", "classes.txt")
"""files of a data set with a name a line, in the order of the labels"""
LONGEST = 2**20
"""bytes of a label or of JSON about a picture"""
MOST_SHARDS = 100_000
BRACES = re.compile(r"\{(\d{1,12})\.\.(\d{1,12})\}", re.ASCII)


def braced(name: str) -> list[Path]:
    """The paths that `shard-{000..009}.tar` means, as a shell would have it.

    Raises:
        DataError: more than any data set has.
    """
    parts = BRACES.split(name)
    ranges = []
    for first, last in zip(parts[1::3], parts[2::3], strict=True):
        if abs(int(last) - int(first)) >= MOST_SHARDS:
            raise DataError(f"{name}: more than {MOST_SHARDS:,} shards")
        width = len(first) if len(first) == len(last) else 0
        step = 1 if int(last) >= int(first) else -1
        ranges.append([f"{i:0{width}}" for i in range(int(first), int(last) + step, step)])
    if np.prod([len(r) for r in ranges], dtype=float) > MOST_SHARDS:
        raise DataError(f"{name}: more than {MOST_SHARDS:,} shards")
    texts = parts[::3]
    return [
        Path(texts[0] + "".join(a + b for a, b in zip(chosen, texts[1:], strict=True)))
        for chosen in itertools.product(*ranges)
    ]


def is_tars(place: Path) -> bool:
    """Whether a path that is no folder means one tar, or several in braces."""
    return place.suffix == ".tar" or bool(BRACES.search(str(place)))


def find_tars(place: Path, split: str) -> SplitFiles | None:
    """The tars of a split: in a folder, one of them, or several in braces; None if there are none.

    Raises:
        DataError: they are of other splits, or one of several is missing.
    """
    if BRACES.search(str(place)) and not place.exists():
        files = braced(str(place))
        if missing := next((path for path in files if not path.is_file()), None):
            raise DataError(f"{missing}: no such file ({len(files):,} files in {place})")
        return among(files, Path(*place.parts[: _plain(place)]), split)
    return find_split(place, ".tar", split)


def _plain(place: Path) -> int:
    """How many of a path's first parts have no braces."""
    return next(i for i, part in enumerate(place.parts) if BRACES.search(part))


class _Member(NamedTuple):
    name: str
    key: str
    extension: str
    span: Span


@dataclass(slots=True)
class _Samples:
    """What the samples so far hold."""

    names: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    """the number of a label that is a name, or the name of one that is a number; else empty"""


def open_tars(part: SplitFiles) -> Opened:
    """The tars of a split, one after the other, as a source.

    Raises:
        DataError: unreadable, links or paths inside, a picture without a label, no pictures, or
            labels beyond the names of classes.
    """
    files = part.files
    before = stamps(files)
    found = _Samples()
    for number, path in enumerate(files):
        with _opened(path) as file:
            for _, sample in itertools.groupby(_members(file, path, number), lambda m: m.key):
                _add(found, list(sample), file, path)
    if not found.spans:
        raise DataError(f"{files[0]}: no images ({', '.join(sorted(SUFFIXES))}) with labels")

    def where(position: int) -> str:
        return f"{files[found.spans[position].file]}: {shown(found.names[position])}"

    if any(found.beside):
        labels = paired_labels(found.labels, found.beside, where)
    else:
        labels = number_labels(found.labels, where)
    spans = np.array(found.spans, np.int64)
    source = SpanSource(tuple(files), spans, labels.labels, tuple(found.names))
    origin = {
        "folder": str(files[0].parent),
        "sha256": digests(files),
        "encoding": "jpeg" if is_jpeg(source.encoded(0)) else "lossless",
    }
    named = None if labels.classes else _names_file(files[0].parent, part.root)
    return Opened(
        Remembered(source),
        part.split,
        _class_names(named, source) if named else labels.classes,
        numbered=labels.numbered,
        origin=origin,
        warnings=part.warnings,
        notes=(f"classes are named by {named}",) if named else (),
        files=before,
        named=labels.named,
    )


def _opened(path: Path) -> tarfile.TarFile:
    try:
        # "r:" and not "r": what is compressed cannot be read in any order
        return tarfile.open(path, "r:")
    except (tarfile.TarError, ValueError) as error:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        why = "compressed; decompress it with gunzip first" if packed else diagnosis(path)
        raise DataError(f"{path}: cannot be read as a tar: {why}") from error


def _members(tar: tarfile.TarFile, path: Path, number: int) -> Iterator[_Member]:
    """The files in a tar whose names are not hidden.

    Raises:
        DataError: something else than files and folders is in it, or it is damaged.
    """
    size = path.stat().st_size
    while (entry := _next(tar, path)) is not None:
        name = entry.name
        place = PurePosixPath(name)
        if entry.isdir() or place.name.startswith("."):
            continue
        if not entry.isreg() or entry.issparse():
            raise DataError(f"{path}: {quoted(name)} is a link or not a regular file; refused")
        if place.is_absolute() or ".." in place.parts:
            raise DataError(f"{path}: {quoted(name)} leads out of the tar; refused")
        if entry.offset_data + entry.size > size:
            raise DataError(f"{path}: {quoted(name)} is truncated: {diagnosis(path)}")
        base, _, extension = place.name.partition(".")
        span = Span(number, entry.offset_data, entry.size)
        yield _Member(name, str(place.parent / base), extension.lower(), span)


def _next(tar: tarfile.TarFile, path: Path) -> tarfile.TarInfo | None:
    try:
        entry = tar.next()
    # a header can be broken in any way
    except (tarfile.TarError, OSError, ValueError, RecursionError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read as a tar: {diagnosis(path)}") from error
    tar.members = []  # type: ignore[attr-defined]  # else it keeps all that it has read
    return entry


def _add(found: _Samples, sample: Sequence[_Member], tar: tarfile.TarFile, path: Path) -> None:
    """Take a sample's picture and its label; one without either is passed over."""
    pictures = [m for m in sample if f".{m.extension.rpartition('.')[2]}" in SUFFIXES]
    texts = {m.extension: m for m in sample if m not in pictures}
    told = next((texts[extension] for extension in (*LABELS, "json") if extension in texts), None)
    first = f"{path}: {shown(sample[0].name)}"
    if len(texts) + len(pictures) < len(sample):
        raise DataError(f"{first}: two members with the same key and extension")
    if not pictures and (told is None or told.extension == "json"):
        return
    if len(pictures) != 1:
        raise DataError(f"{first}: {len(pictures)} images in a sample; expected one")
    if told is None:
        raise DataError(
            f"{first}: no label for the image; expected {LABELS[0]!r}, {LABELS[1]!r} or "
            "'json' with the same key right after or before it (tar --sort=name), it has: "
            f"{', '.join(texts) or 'nothing'}"
        )
    found.names.append(pictures[0].name)
    found.spans.append(pictures[0].span)
    label, beside = _label(told, tar, path)
    found.labels.append(label)
    found.beside.append(beside)


def _label(member: _Member, tar: tarfile.TarFile, path: Path) -> tuple[str, str]:
    """A sample's label, and the name or number that JSON has beside it, if it has."""
    where = f"{path}: {shown(member.name)}"
    if member.span.size > LONGEST:
        raise DataError(f"{where}: a label of {member.span.size:,} bytes")
    assert tar.fileobj is not None
    tar.fileobj.seek(member.span.start)
    content = tar.fileobj.read(member.span.size)
    try:
        text = content.decode().strip()
        if member.extension != "json":
            return text, ""
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot be read as text or JSON") from error
    entries = table if isinstance(table, dict) else {}
    key = next((key for key in JSON_KEYS if key in entries), None)
    if key is None or type(entries[key]) not in (int, str):
        raise DataError(f"{where}: no label under {', '.join(map(repr, JSON_KEYS[:3]))}")
    others = [entries[other] for other in columns_beside(entries, key)]
    texts = [other for other in others if type(other) is str]
    # numbers may be texts, in either place
    numbers = [other for other in others if type(other) is int and type(entries[key]) is str]
    return str(entries[key]).strip(), str(next(iter([*numbers, *texts]), "")).strip()


def _names_file(folder: Path, root: Path | None) -> Path | None:
    """The file that names the classes: beside the tars, or above them in the same data set.

    A data set is what stands in `root`, the folder that was asked for. Above a folder that is
    called after its split is the data set's own; what else stands above is of others.
    """
    while True:
        if found := next((folder / n for n in CLASS_NAMES if (folder / n).is_file()), None):
            return found
        inside = root is not None and folder != root and folder.is_relative_to(root)
        if not (inside or folder.name.lower() in SPLITS):
            return None
        folder = folder.parent


def _class_names(path: Path, source: SpanSource) -> tuple[str, ...]:
    """The names in a file, one a line, for each label of the source.

    Raises:
        DataError: unreadable, an empty line, or fewer names than labels need.
    """
    try:
        text = read_text(path).lstrip("\ufeff").rstrip()
    except InputError as error:
        raise DataError(str(error)) from error
    names = tuple(line.strip() for line in text.splitlines())
    if "" in names:
        raise DataError(
            f"{path}: line {names.index('') + 1} is empty; expected the name of a class in each "
            "line, in the order of the labels"
        )
    largest = int(source.labels.argmax())
    if (label := int(source.labels[largest])) >= len(names):
        raise DataError(
            f"{path}: names {len(names):,} classes, but {source.where(largest)} has label {label}; "
            "give each label from 0 on a line, or remove the file if it is of other data"
        )
    return names
