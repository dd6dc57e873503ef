"""What `--classes` says: a network's classes, or which of them each class of the data is."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustkit.data.source import MOST_CLASSES
from robustkit.errors import DataError, InputError, quoted
from robustkit.files import file_digest, is_file, read_json, read_text
from robustkit.parsing import whole

SYNSET = re.compile(r"n\d{8}(?![0-9A-Za-z])", re.ASCII)
"""an id of WordNet's, as ImageNet's class folders are called"""
PAIR = re.compile(r"(.+?)\s*[=:,;\t ]\s*(\d{1,7})", re.ASCII)
"""NAME=NUMBER and the like"""
BY_NUMBER = "number"
"""says that the data's classes are called by the network's numbers, as ImageNetV2's folders"""
BY_NAME = "name"
"""says that the data's labels are what the network calls its classes, numbers though they are"""
Names = tuple[str, ...]
"""all that a class is called"""


@dataclass(frozen=True, slots=True)
class ClassList:
    """The entries of `--classes`, in their order."""

    where: str
    """how messages name it"""
    by_number: bool = False
    """whether the data's classes are called by the network's numbers"""
    by_name: bool = False
    """whether they are called by the network's names, which may be numbers"""
    sha256: str | None = None
    """of the file, if it is one"""
    numbers: tuple[int, ...] = ()
    """of the network's classes, one for each of the data's"""
    names: tuple[Names, ...] = ()
    """of the network's classes, or one for each of the data's"""
    pairs: Mapping[str, str] | None = None
    """from the data's classes to the number or name of the network's"""
    complete: bool = False
    """whether `names` are all of the network's, by number, whatever their count"""


def read_class_list(text: str) -> ClassList:
    """The file of that path, or entries with commas between them.

    A file has one number or name a line, a synset's id before its names, or `NAME=NUMBER`; or it is
    JSON: a list, a table by number as `imagenet_class_index.json`, a table by name, or a file with
    `id2label`.

    Raises:
        DataError: it cannot be read, or is none of these.
    """
    path = Path(text)
    where = f"--classes {text}"
    if text in (BY_NUMBER, BY_NAME):
        return ClassList(where, by_number=text == BY_NUMBER, by_name=text == BY_NAME)
    if not is_file(path):
        entries = [part.strip() for part in text.split(",")]
        if len(entries) == 1 and whole(text) is None:
            raise DataError(f"{where}: no such file; or give numbers or names: 0,217,482")
        if not all(entries):
            raise DataError(
                f"{where}: an empty entry between two commas; each needs a number or a name"
            )
        return _of_lines(entries, where, None)
    try:
        sha256 = file_digest(path)
        if path.suffix.lower() == ".json":
            return _of_json(read_json(path), where, sha256)
        lines = [line.strip() for line in read_text(path).lstrip("\ufeff").splitlines()]
    except InputError as error:
        raise DataError(str(error)) from error
    return _of_lines([line for line in lines if line], where, sha256)


def synonyms(text: str) -> Names:
    """What one entry calls a class: all of it, and the names between its commas.

    A synset's id in front stands for itself.
    """
    found = SYNSET.match(text)
    rest = text[found.end() :].strip(" \t,;:=-_") if found else text
    parts = [part.strip() for part in rest.split(",")]
    return tuple(dict.fromkeys(name for name in (rest, *parts, found and found[0]) if name))


def _of_lines(entries: Sequence[str], where: str, sha256: str | None) -> ClassList:
    if not entries:
        raise DataError(f"{where}: no entries; expected one number or name per line")
    numbers = [number for entry in entries if (number := whole(entry)) is not None]
    if len(numbers) == len(entries):
        return ClassList(where, sha256=sha256, numbers=tuple(numbers))
    names = tuple(synonyms(entry) for entry in entries)
    found = [PAIR.fullmatch(entry) for entry in entries]
    pairs = {pair[1].strip(): pair[2] for pair in found if pair}
    return ClassList(where, sha256=sha256, names=names, pairs=pairs if all(found) else None)


def _of_json(table: Any, where: str, sha256: str) -> ClassList:
    for key in ("id2label", "label2id", "label_names"):
        if isinstance(table, dict) and isinstance(table.get(key), dict | list):
            table = table[key]
            break
    if isinstance(table, list) and all(isinstance(entry, str) for entry in table):
        return _of_lines([entry.strip() for entry in table], where, sha256)
    if isinstance(table, list) and all(type(entry) is int and entry >= 0 for entry in table):
        return ClassList(where, sha256=sha256, numbers=tuple(table))
    if isinstance(table, list):
        return ClassList(where, sha256=sha256, names=tuple(_entry(e, where) for e in table))
    if not isinstance(table, dict) or not table:
        raise DataError(f"{where}: expected a list of names, or a mapping by number or by name")
    keys = [whole(key) for key in table]
    if None not in keys:
        return ClassList(where, sha256=sha256, names=_by_number(table, where), complete=True)
    values = {key: value for key, value in table.items() if type(value) in (int, str)}
    if len(values) < len(table):
        odd = next(key for key in table if key not in values)
        raise DataError(
            f"{where}: {quoted(odd)}: expected a number or the name of a class of the network"
        )
    return ClassList(where, sha256=sha256, pairs={key: str(value) for key, value in values.items()})


def _by_number(table: Mapping[str, Any], where: str) -> tuple[Names, ...]:
    """The names in a table whose keys are the numbers from 0 on."""
    by_number = {whole(key): value for key, value in table.items()}
    count = len(table)
    missing = next((n for n in range(count) if n not in by_number), None)
    if missing is not None or count > MOST_CLASSES:
        raise DataError(f"{where}: {count:,} entries, but none for {missing}; number them from 0")
    return tuple(_entry(by_number[number], where) for number in range(count))


def _entry(value: object, where: str) -> Names:
    """The names that an entry of JSON gives a class: a text, or a list of texts."""
    texts = value if isinstance(value, list) else [value]
    found = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    if not texts or len(found) < len(texts):
        raise DataError(f"{where}: {quoted(value)}: expected a name, or a list of names")
    names = dict.fromkeys(name for text in found for name in synonyms(text))
    return tuple(sorted(names, key=lambda name: SYNSET.fullmatch(name) is not None))
