"""What is on record of a network's making: in its sidecar, or in its own file. Needs no torch."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from robustkit.checkpoint.header import read_header
from robustkit.checkpoint.metadata import parse_metadata
from robustkit.checkpoint.sidecar import read_sidecar
from robustkit.errors import CheckpointError, InputError
from robustkit.files import canonical, file_digest, is_file
from robustkit.parsing import fraction
from robustkit.spec import TRAINED

PARTS = ("loss", "recipe")
"""of a training's record, whose settings can be named alone or in full: `recipe.steps`"""

NUMBER = re.compile(r"[-+]?[\d./]+(e[-+]?\d{1,3})?", re.IGNORECASE)
"""of an exponent that can be worked out"""
ROUNDED = Fraction(1, 100)
"""of a share: names are rounded, and few images have no share exactly"""
ASKED = "asked_label_noise"
"""of a record's checkpoint: the rate that its training asked for, where another share came of it"""
NAMED = ("seed", *TRAINED)
"""numbers in a file's name that must be those on record"""
ITSELF, ASIDE = "the file itself", "its sidecar"


class RecordedValue(NamedTuple):
    """What is on record of one setting."""

    text: str
    """a number wherever it is one: "0.4" """
    source: str
    """where it stands, in words"""
    actual: str | None = None
    """of label noise: the share that the labels really have, where another was asked for"""


@dataclass(frozen=True, slots=True)
class NetworkMetadata:
    """Everything on record of a network; of settings that are unknown, nothing."""

    values: Mapping[str, RecordedValue] = field(default_factory=dict)
    error: str = ""
    """why the file's own record cannot be read"""


def read_metadata(path: Path) -> NetworkMetadata:
    """What is on record of a checkpoint: its sidecar's word first, then the file's own.

    Of files that are not safetensors the sidecar alone is read.

    Raises:
        CheckpointError: the sidecar cannot be read or says what makes no sense.
    """
    aside = read_sidecar(path).known()
    try:
        metadata = read_header(path)
        extra = metadata.pop("extra", None)
        own = parse_metadata(metadata, f"{path}: robustkit metadata").known()
    except CheckpointError as error:
        return NetworkMetadata(_all(aside, None, ASIDE), str(error))
    said = _all(own, extra, ITSELF) | _all(aside, None, ASIDE)
    # a sidecar written from the file repeats the share that came of what was asked
    if aside.get("label_noise") in (None, own.get("label_noise")):
        said |= _asked_noise(said, extra)
    return NetworkMetadata(said)


@lru_cache(maxsize=1024)
def training_settings(path: Path, sha256: str) -> Mapping[str, str]:
    """How the network in a file was trained, but for seeds, images and machine: JSON by name.

    Nothing where the file is gone, has another digest, or says nothing of it.
    """
    with suppress(CheckpointError, InputError, RecursionError):
        extra = read_header(path).get("extra") if is_file(path) else None
        training = _within(extra, "training")
        if isinstance(training, dict) and file_digest(path) == sha256:
            loss = {f"loss.{name}": value for name, value in _settings(extra, "loss").items()}
            rest = {name: training.get(name) for name in ("compress", "keep")}
            rest["noise_kind"] = _within(training, "data", "train", "noise", "kind")
            told = {**_settings(extra, "recipe"), **loss, **rest}
            return {name: canonical(value) for name, value in told.items()}
    return {}


def _asked_noise(said: Mapping[str, RecordedValue], extra: object) -> dict[str, RecordedValue]:
    """Label noise as it was asked for, which is the same whatever share the draws came to."""
    asked = asked_rate(extra)
    known = said.get("label_noise")
    return (
        {"label_noise": RecordedValue(asked, known.source, known.text)} if known and asked else {}
    )


def asked_rate(extra: object) -> str | None:
    """The rate of label noise that the training asked for which a checkpoint tells."""
    return _text(_within(extra, "training", "data", "train", "noise", "rate"))


def asked_share(extra: object, label_noise: float | None) -> float | None:
    """The rate that was asked for, of which a checkpoint's label noise is what came of it.

    None: it is that share, or is not known, or the checkpoint is said to have another share.
    """
    realised = _within(extra, "training", "data", "train", "noise", "realised")
    asked = number(asked_rate(extra) or "")
    share = None if asked is None else float(asked)
    return share if label_noise is not None and label_noise == realised != share else None


def setting(made: Mapping[str, Any], name: str) -> Any:
    """What a record says of how its network was made; of label noise what was asked for.

    The share that came of it may be another with every seed, and counts where nothing else is
    known.
    """
    asked = made.get(ASKED) if name == "label_noise" else None
    return made.get(name) if asked is None else asked


def _all(facts: Mapping[str, Any], extra: object, source: str) -> dict[str, RecordedValue]:
    """Settings by name; one that stands in several parts of a record only by its full name."""
    own = extra if isinstance(extra, dict) else {}
    parts = {"": own} | {part: _settings(own, part) for part in PARTS}
    found = {(part, name): text for part in parts for name, text in _texts(parts[part])}
    often = [name for _, name in found]
    plain = {name: text for (_, name), text in found.items() if often.count(name) == 1}
    full = {f"{part}.{name}": text for (part, name), text in found.items() if part}
    return {
        name: RecordedValue(text, source)
        for name, text in {**plain, **full, **dict(_texts(facts))}.items()
    }


def _settings(extra: object, part: str) -> Mapping[str, Any]:
    keys = ("training", "loss", "settings") if part == "loss" else ("training", part)
    found = _within(extra, *keys)
    return found if isinstance(found, dict) else {}


def _within(table: object, *keys: str) -> object:
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _texts(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    pairs = ((name, _text(value)) for name, value in table.items())
    return ((name, text) for name, text in pairs if text is not None)


def _text(value: object) -> str | None:
    """A number or a word as text; of a list of one, its only item. None: anything else."""
    if isinstance(value, list | tuple) and len(value) == 1:
        return _text(value[0])
    if isinstance(value, float):
        return f"{value:.6g}" if isfinite(value) else None
    if isinstance(value, str):
        return value if value and value.isprintable() else None
    return str(value) if type(value) is int else None


def recorded_values(made: Mapping[str, Any]) -> dict[str, RecordedValue]:
    """What an evaluation's record says of how its network was trained, as far as it is known."""
    known = {name: _text(setting(made, name)) for name in NAMED}
    return {
        name: RecordedValue(text, "its record", _text(made.get(name)))
        for name, text in known.items()
        if text is not None
    }


# --- a name beside the record ---------------------------------------------------------------------


def check_name(
    path: Path, fields: Mapping[str, str], said: Mapping[str, RecordedValue], names: Iterable[str]
) -> None:
    """Nothing, if a file's name says no other numbers than what is on record.

    Args:
        path: of the file.
        fields: what the pattern found in its name.
        said: what is on record.
        names: the fields that matter.

    Raises:
        InputError: it does.
    """
    for name in names:
        if name in fields and name in said and not _agrees(name, fields[name], said[name]):
            raise InputError(
                f"{path}: its name says {name} {fields[name]}, but {said[name].source} says "
                f"{said[name].text}; rename it, or leave {{{name}}} out of the pattern"
            )


def _agrees(name: str, text: str, said: RecordedValue) -> bool:
    """Whether a name's number is one on record; what is no number is not compared."""
    own = number(text)
    known = [
        found for one in (said.text, said.actual) if one and (found := number(one)) is not None
    ]
    return own is None or not known or any(same(name, own, one) for one in known)


def same(name: str, a: Fraction, b: Fraction) -> bool:
    """Whether two numbers are one setting; shares are rounded in names."""
    return a == b or (name in TRAINED and abs(a - b) <= ROUNDED * max(abs(a), abs(b)))


def number(text: str) -> Fraction | None:
    """An exact number; None: it is none."""
    with suppress(InputError):
        return fraction(text, "") if NUMBER.fullmatch(text) else None
    return None
