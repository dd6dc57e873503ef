"""Files: the three shelves, strict TOML, digests, and writes that happen whole or not at all."""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from fractions import Fraction
from io import BufferedReader
from operator import index
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, SupportsIndex, TypeVar, Union, get_args, get_origin, get_type_hints

from robustkit.errors import EvaluationFailed, InputError, UnknownName

Shelf = Literal["attacks", "data", "reports"]
T = TypeVar("T")


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

    Raises:
        UnknownName: nothing of that name; the message names the closest one.
        InputError: `name` is a path and there is no such file.
    """
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise InputError(f"{name}: no such file")
        return Path(name)
    for folder in (Path(shelf), shipped(shelf)):
        if (path := folder / f"{name}.toml").is_file():
            return path
    what = {"attacks": "attack", "data": "data set", "reports": "report"}[shelf]
    raise UnknownName(what, name, names(shelf), "or give a path to a .toml file")


def is_own(shelf: Shelf, name: str) -> bool:
    """Whether `name` means a file of the user's, and not one that ships with robustkit.

    Raises:
        UnknownName: nothing of that name.
    """
    return find(shelf, name).resolve().parent != shipped(shelf).resolve()


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary.

    Raises:
        InputError: unreadable, not UTF-8, or not TOML; the message has line and column.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not readable as TOML: {error}") from error


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A frozen dataclass from a TOML table: closed vocabulary, checked types, no surprises.

    Fields may be str, int, float, bool, Fraction ("8/255" or an integer), a Literal, a tuple of
    these, a dict from str to these, or optional. `where` begins every message.

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
            raise InputError(f"{where}: expected a list, got {value!r}")
        return tuple(_typed(arguments[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a table, got {value!r}")
        return {key: _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is Fraction:
        return fraction(value, where)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def fraction(value: object, where: str) -> Fraction:
    """An exact number from "8/255", "0.3" or an integer; a float has already lost the exactness.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, str) or type(value) is int:
        with suppress(ValueError, ZeroDivisionError):
            return Fraction(value)
    raise InputError(
        f'{where}: expected a number such as "8/255" or "0.3" in quotes, got {value!r}'
    )


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
    """SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return open_digest(file)


def open_digest(file: BufferedReader) -> str:
    """SHA-256 of an open file's bytes, from its start."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, pieces: bytes | Iterable[bytes]) -> None:
    """Write, sync and rename into place: after a crash the old file stands, or the new one.

    Raises:
        EvaluationFailed: the disk is full or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            for piece in [pieces] if isinstance(pieces, bytes) else pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise EvaluationFailed(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write several files of a folder, all or none: what cannot be written changes nothing.

    Everything is written and synced under other names first, then renamed; where a rename fails,
    those before it are taken back. Only a crash between two renames can leave some old, some new.

    Raises:
        EvaluationFailed: the disk is full, or the folder or one of the names cannot be written.
    """
    staged = {name: folder / f".{name}.{os.getpid()}.new" for name in files}
    before: dict[Path, bytes | None] = {}
    try:
        for name, content in files.items():
            write_atomic(staged[name], content)
        for name, path in staged.items():
            final = folder / name
            old = final.read_bytes() if final.exists() else None
            path.replace(final)
            before[final] = old
        sync_folder(folder)
    except OSError as error:
        for final, old in before.items():
            _restore(final, old)
        raise EvaluationFailed(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        for path in staged.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _restore(path: Path, content: bytes | None) -> None:
    with suppress(OSError, EvaluationFailed):
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
