"""What was recognised of a checkpoint, in words."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from math import isfinite
from typing import Any

from robustkit.checkpoint.checkpoint import Checkpoint
from robustkit.data.pipeline import Pipeline
from robustkit.errors import shown

LABELS = 6
"""names of classes that are shown"""


def describe(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """What was recognised, as rows of a label and a text, warnings last."""
    c = checkpoint
    rows: list[tuple[str, object]] = [
        ("file", c.path),
        ("sha256", c.sha256),
        ("format", c.format),
        ("container", c.container or "none"),
        ("prefix", c.prefix or "none"),
        ("weights", c.weights),
        *((label, _text(c, name)) for name, label in c.shown().items()),
        *(("images", pipeline.described()) for pipeline in [c.pipeline] if pipeline),
        *(("labels", _some(names)) for names in [c.label_names] if names),
        *(row for name, value in c.extra.items() for row in _rows(name, value)),
        *(("hint", hint) for hint in [c.hint] if hint),
        *(("note", note) for note in c.notes),
        *(("warning", warning) for warning in c.warnings),
    ]
    return [
        (shown(label), "unknown" if value is None else shown(str(value))) for label, value in rows
    ]


def as_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """What was recognised, by field, as JSON has it; unknown is null."""
    return {
        field.name: _plain(getattr(checkpoint, field.name))
        for field in fields(checkpoint)
        if not field.name.startswith("_") and field.name not in ("identity", "normalised")
    }


def _plain(value: object) -> object:
    """A value as JSON; what JSON has no word for, such as a number that is not finite, as text."""
    if isinstance(value, Pipeline):
        return asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    return value if isinstance(value, float) and isfinite(value) else str(value)


def _some(names: tuple[str, ...]) -> str:
    """The first names, and how many there are."""
    more = f", … ({len(names)} in all)" if len(names) > LABELS else ""
    return ", ".join(name[:40] for name in names[:LABELS]) + more


def _text(c: Checkpoint, name: str) -> object:
    """What is shown of a field of the metadata."""
    match name:
        case "model" if c.format == "ONNX":
            return "the file's own graph"
        case "model":
            return c.model or "unknown: name it with --model"
        case "input_shape":
            return "×".join(map(str, c.input_shape)) if c.input_shape else None
        case "mean" if c.mean and c.std:
            return f"{c.preprocessing} (mean {_numbers(c.mean)}, std {_numbers(c.std)})"
        case "mean":
            return c.preprocessing
        case "ignore" | "rename":
            return ", ".join(getattr(c, name))
        case _:
            return getattr(c, name)


def _rows(name: str, value: object) -> list[tuple[str, object]]:
    """Nested tables as dotted names; of a list of tables, such as a history, the last."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        name, value = f"{name}.{len(value)}", value[-1]
    if isinstance(value, dict) and value:
        return [row for key, item in value.items() for row in _rows(f"{name}.{key}", item)]
    return [(name, "none" if value is None or value == [] else value)]


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
