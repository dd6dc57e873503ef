"""Files: the three shelves, strict TOML, digests, and writes that happen whole or not at all."""

import errno
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields, is_dataclass
from fractions import Fraction
from io import BufferedReader
from math import isfinite
from operator import index
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Any,
    BinaryIO,
    Literal,
    SupportsIndex,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from robustkit.errors import CannotWrite, InputError, UnknownName, quoted, unreadable
from robustkit.parsing import checked_integer, fraction, parse_toml

Shelf = Literal["attacks", "data", "reports"]
Listed = Literal["attacks", "data", "losses", "models", "reports"]
"""what has names: the shelves, and two registries of code"""
T = TypeVar("T")
LONGEST_TEXT = 2**26
"""characters at most of a file that is read as text"""
LONGEST_NAME = 255
"""bytes of a file's name that systems take"""
LINKS = 40
"""that are followed one after the other, as by Linux"""


def shipped(shelf: Shelf) -> Path:
    """The folder of a shelf: inside an installed wheel, else at the root of the checkout."""
    package = Path(__file__).parent
    inside = package / "_shipped" / shelf
    return inside if inside.is_dir() else package.parent / shelf


def names(shelf: Shelf) -> list[str]:
    """The names on a shelf, the user's own folder of that name included."""
    folders = (Path(shelf), shipped(shelf))
    return sorted({path.stem for folder in folders for path in folder.glob("*.toml")})


def find(shelf: Shelf, name: str) -> Path:
    """The TOML file that `name` means: a path, the user's own shelf, then the shipped one.

    What has a separator is no data set's name, but the path of images, such as `./mnist`.

    Raises:
        UnknownName: nothing of that name; the message names the closest one.
        InputError: `name` is a path and there is no such file.
    """
    if name.endswith(".toml"):
        if not is_file(Path(name)):
            raise InputError(f"{name}: no such file")
        return Path(name)
    of_images = shelf == "data" and not {"/", "\\"}.isdisjoint(name)
    for folder in () if of_images else (Path(shelf), shipped(shelf)):
        path = folder / f"{name}.toml"
        # by its very letters, where a file system takes "ImageNet" for "imagenet", too
        if is_file(path) and path in path.parent.iterdir():
            return path
    what = {"attacks": "attack", "data": "data set", "reports": "report"}[shelf]
    raise UnknownName(what, name, names(shelf), "or give a path to a .toml file")


def given_path(given: object, what: str) -> Path:
    """What a Python call was given in a path's place, as a path; `what` says of what.

    Raises:
        InputError: it is none.
    """
    if isinstance(given, str | os.PathLike) and isinstance(text := os.fspath(given), str):
        return Path(text)
    raise InputError(f"{quoted(given)}: expected the path of {what}")


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that no system takes is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_own(shelf: Shelf, name: str) -> bool:
    """Whether `name` means a file of the user's, and not one that ships with robustkit.

    Raises:
        UnknownName: nothing of that name.
    """
    return find(shelf, name).resolve().parent != shipped(shelf).resolve()


def read_text(path: Path) -> str:
    """A file of text, in UTF-8.

    Raises:
        InputError: unreadable, or not UTF-8.
    """
    try:
        return _bounded(path)
    except (OSError, ValueError) as error:
        raise InputError(unreadable(path, error, "not readable as text")) from error


def read_json(path: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        InputError: unreadable, not UTF-8, or not JSON.
    """
    try:
        return json.loads(_bounded(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(unreadable(path, error, "not readable as JSON")) from error


def _bounded(path: Path) -> str:
    """A file's text; ValueError where there is no end to it, as in a device."""
    with path.open(encoding="utf-8") as file:
        text = file.read(LONGEST_TEXT + 1)
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"longer than {LONGEST_TEXT:,} characters")
    return text


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary.

    Raises:
        InputError: unreadable, not UTF-8, or not TOML; the message has line and column.
    """
    try:
        return parse_toml(_bounded(path))
    except (OSError, ValueError) as error:
        raise InputError(unreadable(path, error, "not readable as TOML")) from error


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A frozen dataclass from a TOML table: closed vocabulary, checked types, no surprises.

    Fields may be str, int, float, bool, Fraction ("8/255" or an integer), a Literal, a dataclass, a
    tuple of these, a dict from str to these, or optional. `where` begins every message.

    Raises:
        InputError: an unknown key (with a did-you-mean), a missing one, a wrong type.
    """
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise InputError(f"{where}: {UnknownName('key', key, known)}")
    for name, field in known.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{where}: the key {name!r} is missing")
    return cls(**{key: _typed(hints[key], v, f"{where}: {key}") for key, v in table.items()})


def _typed(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`, or InputError."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _typed(next(k for k in arguments if k is not NoneType), value, where)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where}: {UnknownName('value', str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where}: expected a list, got {quoted(value)}")
        return tuple(_typed(arguments[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a table, got {quoted(value)}")
        return {key: _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is Fraction:
        return fraction(value, where)
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a table, got {quoted(value)}")
        return build(kind, value, where)
    if kind is float and type(value) is int:
        value = float(checked_integer(value, where))
    if type(value) is not kind:
        raise InputError(f"{where}: expected {kind.__name__}, got {quoted(value)}")
    if kind is float and not isfinite(value):
        raise InputError(f"{where}: expected a finite number, got {value}")
    return checked_integer(value, where) if kind is int else value


def whole_number(
    value: object, where: str, least: int | None = None, error: type[InputError] = InputError
) -> int:
    """An integer, of Python's or numpy's own kind; a truth value is none.

    Raises:
        InputError: anything else, or one that is too small; of the kind `error`.
    """
    number = None
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with suppress(TypeError):  # numpy's truth values, say
            number = index(value)
    if number is None:
        raise error(f"{where} must be a whole number, got {str(value)[:40]}")
    if least is not None and number < least:
        raise error(f"{where} must be at least {least}, got {str(number)[:40]}")
    return number


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: the form that is digested."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(*parts: bytes | str) -> str:
    """SHA-256 over the parts, each preceded by its length, so that ("ab", "c") ≠ ("a", "bc")."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return open_digest(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def open_digest(file: BufferedReader) -> str:
    """SHA-256 of an open file's bytes, from its start."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into: renamed into place when all is written and synced, else left alone.

    Links are followed. What is there and no regular file cannot be replaced and is written through:
    a device, a named pipe, a descriptor of this process such as /dev/stdout.

    A reader of a pipe who has gone wants no more, and that is no error.

    Raises:
        CannotWrite: the disk is full, or the folder or the name cannot be written.
    """
    try:
        if (through := _opened_through(path)) is not None:
            with through:
                yield through
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(target) as file:
            yield file
    except BrokenPipeError:
        return
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of another once it is complete."""
    partial = aside(target, "tmp")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        sync_folder(target.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def aside(path: Path, kind: str) -> Path:
    """A name beside a file's, for this process alone, that fits wherever the file's own does."""
    return path.with_name(f".{_shortened(path.name)}.{os.getpid()}.{kind}")


def extended(name: str, ending: str) -> str:
    """A file's name with something behind it; where no system takes both, the name is shortened."""
    whole = name + ending
    return whole if len(os.fsencode(whole)) <= LONGEST_NAME else f"{_shortened(name)}{ending}"


def _shortened(name: str) -> str:
    """The beginning of a name, in bytes as systems count, and the digest of all of it."""
    encoded = os.fsencode(name)
    return f"{encoded[:100].decode(errors='ignore')}.{digest(encoded)[:8]}"


def _opened_through(path: Path) -> BinaryIO | None:
    """What a path leads to, opened, where it cannot be replaced; None where it can."""
    descriptor = _own_descriptor(path)
    if descriptor is not None:
        # a copy, not opened anew: a file behind it would be cut, and what stands in it lost
        if sys.stdout is not None:
            sys.stdout.flush()
        return os.fdopen(os.dup(descriptor), "wb")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder; give a file name")
    return None if stat.S_ISREG(mode) else path.open("wb")


def _own_descriptor(path: Path) -> int | None:
    """The number of a descriptor of this process, where a path leads to one: /dev/fd/63, say."""
    folder = re.compile(rf"(/proc/{os.getpid()}(/task/\d+)?|/dev)/fd")  # /dev: on macOS
    for _ in range(LINKS):
        if path.name.isdecimal() and folder.fullmatch(os.path.realpath(path.parent)):
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def write_atomic(path: Path, pieces: bytes | Iterable[bytes]) -> None:
    """Write, sync and rename into place: after a crash the old file stands, or the new one.

    Raises:
        CannotWrite: as `writing`.
    """
    with writing(path) as file:
        for piece in [pieces] if isinstance(pieces, bytes) else pieces:
            file.write(piece)


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write several files of a folder, all or none: what cannot be written changes nothing.

    Everything is written and synced under other names first, then renamed; where a rename fails,
    those before it are taken back. Only a crash between two renames can leave some old, some new.
    What cannot be replaced is written through, after all others.

    Raises:
        CannotWrite: the disk is full, or the folder or one of the names cannot be written.
    """
    replaced = {name: Path(os.path.realpath(folder / name)) for name in files}
    through = {name for name, path in replaced.items() if _is_special(path)}
    staged = {name: aside(replaced[name], "new") for name in files if name not in through}
    before: dict[Path, bytes | None] = {}
    try:
        for name, path in staged.items():
            write_atomic(path, files[name])
        for name, path in staged.items():
            final = replaced[name]
            old = final.read_bytes() if final.exists() else None
            path.replace(final)
            before[final] = old
        sync_folder(folder)
        for name in through:
            write_atomic(folder / name, files[name])
    except OSError as error:
        for final, old in before.items():
            _restore(final, old)
        raise CannotWrite(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        for path in staged.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """Whether there is something that is neither a file nor a folder."""
    with suppress(OSError):
        mode = path.stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def _restore(path: Path, content: bytes | None) -> None:
    with suppress(OSError, CannotWrite):
        if content is None:
            path.unlink()
        else:
            write_atomic(path, content)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlast a power cut, where the system allows it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
