"""A call from Python in words, for a page that says what it was made by."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType, NoneType
from typing import Any

from robustkit.checkpoint import Checkpoint
from robustkit.data import Dataset


def spoken(name: str, call: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """A call as it may be written again, as far as what it was given has a name.

    Args:
        name: of the call.
        call: the function.
        given: its arguments by name, as `locals()` has them before anything else is assigned.
    """
    parts = []
    for one in inspect.signature(call).parameters.values():
        value = given.get(one.name)
        if one.kind is one.VAR_KEYWORD:
            parts += [f"{key}={_word(v)}" for key, v in (value or {}).items()]
        elif one.kind is one.VAR_POSITIONAL:
            parts += map(_word, value or ())
        elif _given(value, one.default):
            parts.append(
                f"{one.name}={_word(value)}" if one.kind is one.KEYWORD_ONLY else _word(value)
            )
    return f"robustkit.{name}({', '.join(parts)})"


def _given(value: Any, default: Any) -> bool:
    """Whether an argument is another than its default."""
    if value is default:
        return False
    kinds = (str, int, float, tuple, NoneType)
    return not (isinstance(value, kinds) and type(value) is type(default) and value == default)


def _word(value: Any) -> str:
    """A value as Python writes it; an object in memory by its name or its kind."""
    if isinstance(value, str | int | float | None):
        return repr(value)
    if isinstance(value, Checkpoint | Path):
        return repr(str(value.path if isinstance(value, Checkpoint) else value))
    if isinstance(value, FunctionType | type):
        return value.__name__
    if isinstance(value, Dataset):
        return repr(value.name)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_word(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple) and all(isinstance(one, str | Path) for one in value):
        return f"[{', '.join(map(_word, value))}]"
    return f"<{type(value).__name__}>"
