"""An audit as the JSON of `audit.json`, and back. No torch.

The keys are the names of the fields of `outcome.py`; what each means stands in the shipped schema.
Numbers that are not finite become null: JSON has no name for them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from hashlib import sha256
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from robustkit.auditing.outcome import Audit
from robustkit.data.source import WHOLE
from robustkit.errors import InputError, RecordError, UnknownName
from robustkit.files import canonical, is_file, read_json
from robustkit.protocol import Epsilon, parse_epsilon
from robustkit.results.records import Record, may_be_one
from robustkit.seals import KEY, sealed, unsealed

SCHEMA_NAME = "robustkit.audit/1"
LEFT_OUT = ("examples",)
"""fields that are not in the JSON: images, which the evaluations' records hold"""
FILES = "files"
"""under which the digests of the files beside the JSON stand, by name"""
FIRST = "first_image"
"""among an audit's data: the id of its first image, which is that of more or fewer of them, too"""
DERIVED = ("schema", "survived", FILES, KEY)
"""keys that are no fields: read again, they would say nothing new"""
_MISSING_NUMBER = {"value": float("nan"), "low": float("-inf"), "high": float("inf")}
"""what null stands for in an estimate"""


def encoded(audit: Audit, beside: Mapping[str, bytes] | None = None) -> dict[str, Any]:
    """The JSON object of an audit; see `reports/audit-1.schema.json` for what each key means.

    `beside` are the files written with it, by name: with their digests, an edit of them shows.
    """
    own = {key: value for key, value in _plain(audit).items() if key not in LEFT_OUT}
    files = {name: sha256(content).hexdigest() for name, content in (beside or {}).items()}
    head = {"schema": SCHEMA_NAME, **({FILES: files} if files else {})}
    return sealed({**head, "survived": _plain(audit.survived), **own})


def decoded(found: object, where: str) -> Audit:
    """An audit from its JSON object; `where` begins every message.

    Raises:
        RecordError: not an audit, of a newer version, with an unknown key or a wrong type.
    """
    if not isinstance(found, dict) or not str(found.get("schema")).startswith("robustkit.audit/"):
        raise RecordError(f"{where}: not an audit ({SCHEMA_NAME})")
    if found["schema"] != SCHEMA_NAME:
        raise RecordError(
            f"{where}: written by another version ({found['schema']}, this one reads "
            f"{SCHEMA_NAME}); upgrade robustkit"
        )
    state = unsealed(found).state
    # no version wrote the digests of files and not its own
    lost = state == "no digest" and FILES in found
    if state == "changed" or lost:
        why = "its own digest is gone" if lost else "by its own digest"
        raise RecordError(
            f"{where}: changed since it was written, {why}; restore the file, or run its robustkit "
            "audit again"
        )
    own = {key: value for key, value in found.items() if key not in DERIVED}
    audit: Audit = _built(Audit, own, where)
    return audit


def read_audit(path: Path) -> Audit:
    """An audit from `audit.json`; its examples are not kept there.

    Raises:
        RecordError: unreadable, or what `decoded` raises.
    """
    try:
        found = read_json(path)
    except InputError as error:
        raise RecordError(str(error)) from error
    return decoded(found, str(path))


def check_replaces(
    path: Path,
    checkpoint: Mapping[str, Any],
    data: Mapping[str, Any],
    norm: str,
    epsilon: Epsilon,
) -> None:
    """Nothing, if an audit may be written to `path`: nothing is there, or an audit of the same.

    That is of the same network, data set and budget. It may judge another claim, or with another
    effort, which takes more images of the set or fewer.

    Args:
        path: of the audit's JSON.
        checkpoint: of the audit, as its JSON is to have it.
        data: likewise.
        norm: of the judged budget.
        epsilon: that budget.

    Raises:
        RecordError: an audit of something else is there, or what is none.
    """
    if not is_file(path):
        return
    advice = "give another --out, or remove it"
    try:
        found = read_json(path)
    except InputError as error:
        raise RecordError(f"{error}; {advice}") from error
    try:
        others = list(_others(found, checkpoint, data, norm, epsilon))
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"{path}: not an audit ({SCHEMA_NAME}); {advice}") from error
    if others:
        raise RecordError(f"{path}: holds the audit {', '.join(others)}; {advice}")


def _others(
    found: Mapping[str, Any],
    checkpoint: Mapping[str, Any],
    data: Mapping[str, Any],
    norm: str,
    epsilon: Epsilon,
) -> Iterator[str]:
    """What an audit on file is of, as far as that is something else."""
    if found["schema"] != SCHEMA_NAME:
        raise ValueError
    made, images, size = found["checkpoint"], found["data"], parse_epsilon(found["epsilon"])
    readable = made["weights"] and checkpoint["weights"]
    records = [Record({"checkpoint": one}, Path()) for one in (made, checkpoint)]
    if not may_be_one(records) or not (readable or made["path"] == checkpoint["path"]):
        called = [one["path"] for one in (made, checkpoint)]
        yield f"of {'another network called ' if called[0] == called[1] else ''}{called[0]}"
    if of_one_set(images, data) is False:
        called = [f"{one['name']} {one['split']}" for one in (images, data)]
        yield f"on {'other images of ' if called[0] == called[1] else ''}{called[0]}"
    if (found["norm"], size.exact) != (norm, epsilon.exact):
        yield f"at {found['norm']} {size.text}"


def of_one_set(images: Mapping[str, Any], data: Mapping[str, Any]) -> bool | None:
    """Whether the data of two headers are the same images, or more or fewer of the same set.

    None where that is not known: "arrays" and "all" are the name and the part of anybody's images.
    There it takes `ids`, one of which holds the other, or equal ones under `FIRST`.
    """
    if images["digest"] == data["digest"]:
        return True
    alike = [images[key] == data[key] for key in ("name", "split", "n")]
    made = {canonical(one["transform"]) for one in (images, data) if "transform" in one}
    if alike != [True, True, False] or len(made) > 1:
        return False
    if data["split"] != WHOLE:
        return True
    if "ids" in images and "ids" in data:
        fewer, more = sorted((set(images["ids"]), set(data["ids"])), key=len)
        return fewer <= more
    return images[FIRST] == data[FIRST] if FIRST in images and FIRST in data else None


def _plain(value: object) -> Any:
    """A value as JSON: dataclasses by field, sequences as lists, the rest as text."""
    if is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in fields(value) if field.name not in LEFT_OUT)
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _built(cls: type, table: object, where: str) -> Any:
    if not isinstance(table, dict):
        raise RecordError(f"{where}: expected an object, got {_short(table)}")
    hints, known = _shape(cls)
    for key in table:
        if key not in known:
            raise RecordError(f"{where}: {UnknownName('key', key, known)}")
    for name, field in known.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise RecordError(f"{where}: the key {name!r} is missing")
    missing = _MISSING_NUMBER if cls.__name__ == "Estimate" else {}
    return cls(
        **{
            key: missing[key]
            if value is None and key in missing
            else _typed(hints[key], value, f"{where}: {key}")
            for key, value in table.items()
        }
    )


@cache
def _shape(cls: type) -> tuple[dict[str, Any], dict[str, Field[Any]]]:
    known = {f.name: f for f in fields(cls) if f.name not in LEFT_OUT}
    return get_type_hints(cls), known


def _typed(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`, or RecordError."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return _typed(next(k for k in arguments if k is not NoneType), value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise RecordError(f"{where}: {UnknownName('value', str(value), map(str, arguments))}")
    if origin is tuple:
        if isinstance(value, list):
            return tuple(_typed(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    elif origin is Mapping:
        if isinstance(value, dict):
            return {k: _typed(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    elif is_dataclass(kind):
        return _built(kind, value, where)  # type: ignore[arg-type]
    elif kind is float and type(value) is int:
        return float(value)
    elif type(value) is kind:
        return value
    raise RecordError(f"{where}: expected another type than {_short(value)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
