"""Losses by name. Importing this package imports no torch; `build` does.

A loss is a name of the registry below, or the user's own `FILE.py:FUNCTION`, which is imported and
called, so a caller must never pass what a file said.
"""

import importlib
import inspect
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from robustkit import files
from robustkit.errors import InputError, UnknownName
from robustkit.files import digest
from robustkit.models import names_code
from robustkit.models.imported import source_digest

if TYPE_CHECKING:
    from robustkit.losses.loss import Loss

__all__ = ["LOSSES", "LossEntry", "build", "parse_settings", "source", "spell"]


@dataclass(frozen=True, slots=True)
class LossEntry:
    """One loss of the registry."""

    title: str
    module: str
    """file in this package, without .py"""
    cls: str
    """the frozen dataclass of its settings"""


LOSSES: dict[str, LossEntry] = {
    "cross-entropy": LossEntry(
        "cross-entropy, with label smoothing if wanted", "cross_entropy", "CrossEntropy"
    ),
    "hinge": LossEntry("the SVM's hinge loss, Crammer–Singer or one-vs-rest", "hinge", "Hinge"),
    "large-margin": LossEntry(
        "distance to the boundary at any layers (Elsayed et al. 2018)",
        "large_margin",
        "LargeMargin",
    ),
    "large-margin-softmax": LossEntry(
        "angular margin at the last layer (Liu et al. 2016)",
        "large_margin_softmax",
        "LargeMarginSoftmax",
    ),
    "generalised-cross-entropy": LossEntry(
        "between cross-entropy and mean absolute error (Zhang and Sabuncu 2018)",
        "generalised_cross_entropy",
        "GeneralisedCrossEntropy",
    ),
    "symmetric-cross-entropy": LossEntry(
        "cross-entropy and its reverse (Wang et al. 2019)",
        "symmetric_cross_entropy",
        "SymmetricCrossEntropy",
    ),
    "soft-margin-softmax": LossEntry(
        "softmax with a margin taken off the target logit (Liang et al.)",
        "soft_margin_softmax",
        "SoftMarginSoftmax",
    ),
    "adversarial": LossEntry(
        "cross-entropy of images attacked by PGD (Madry et al. 2018)",
        "adversarial",
        "Adversarial",
    ),
    "trades": LossEntry(
        "cross-entropy and the divergence under attack (Zhang et al. 2019)", "trades", "Trades"
    ),
}
CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "none": None}


def build(name: str, settings: Mapping[str, Any] | None = None) -> "Loss":
    """The loss of that name, with settings other than its defaults.

    Raises:
        UnknownName: no such loss.
        InputError: a setting's name, type or range; the user's file fails; the message says which.
    """
    given = dict(settings or {})
    if names_code(name):
        custom = importlib.import_module("robustkit.losses.custom")
        made: Loss = custom.load_custom(name, given)
        return made
    if name not in LOSSES:
        raise UnknownName("loss", name, LOSSES, "or FILE.py:FUNCTION")
    entry = LOSSES[name]
    cls = getattr(importlib.import_module(f"robustkit.losses.{entry.module}"), entry.cls)
    return files.build(cls, _fitted(cls, given, name), name)  # type: ignore[no-any-return]


def _fitted(cls: type, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings as a TOML file would give them; those that are none are left out.

    A TOML file, which has no word for it, says "none" as the command line does.
    """
    hints = get_type_hints(cls)
    optional = {field.name for field in fields(cls) if field.default is None}
    return {
        key: _fit(hints.get(key), value, f"{where}: {key}")
        for key, value in settings.items()
        if not (key in optional and value in (None, "none"))
    }


def _fit(kind: Any, value: Any, where: str) -> Any:
    """One number as a list of one, a name such as 0 of a Sequential's layers as text."""
    if get_origin(kind) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return [_fit(get_args(kind)[0], item, where) for item in items]
    if kind is Fraction and isinstance(value, float | Fraction):
        return str(value)
    if kind is str and type(value) is int:
        return str(value)
    if kind is str and isinstance(value, float):
        # 0.10 and 0.1 are two layers but one number
        raise InputError(f'{where}: {value} reads as a number; put the name in quotes: "0.10"')
    return value


def spell(loss: "Loss") -> dict[str, Any]:
    """Every setting of a loss, defaults included, as plain JSON.

    `build` takes back those of a named loss.
    """
    return loss.spell()


def parse_settings(texts: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """`key=value` from a command line as typed values; `option` begins messages.

    A value is a number, true, false, none, a list with commas, or text; text in double quotes is
    text whatever it looks like.

    Raises:
        InputError: no equals sign, or the same key twice.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"{option} {text}: expected key=value")
        if key.strip() in settings:
            raise InputError(f"{option} {text}: {key.strip()} is set twice; lists take commas")
        settings[key.strip()] = _value(value)
    return settings


def _value(text: str) -> Any:
    if "," in text:
        return [_value(item) for item in text.split(",") if item.strip()]
    text = text.strip()
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def source(name: str) -> str:
    """What identifies the code behind a name: a digest of this package, or of the user's file.

    The latter covers modules of the user's that it imports, as `robustkit.models.source` does.

    Raises:
        UnknownName: no such loss.
        InputError: the user's file cannot be read.
    """
    if names_code(name):
        path, _, function = name.rpartition(":")
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; --loss takes FILE.py:FUNCTION")
        return f"{function} {source_digest(Path(path))}"
    if name not in LOSSES:
        raise UnknownName("loss", name, LOSSES, "or FILE.py:FUNCTION")
    folder = Path(inspect.getfile(build)).parent
    return digest(name, *(path.read_bytes() for path in sorted(folder.glob("*.py"))))
