"""Files that carry a digest of their own contents: an edited or damaged one is told apart.

A seal is no signature: it shows accidents and edits by hand, not an edit that renews it.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from robustkit.errors import RecordError, first_line
from robustkit.files import canonical, digest

KEY = "content_digest"
"""under which the seal stands among the contents"""
MARK = b"robustkit.state/1 "
"""comes after sealed bytes, and before their digest"""
SealState = Literal["sound", "no digest", "changed"]


class Sealed(NamedTuple):
    """The contents of a file, without its seal."""

    contents: dict[str, Any]
    state: SealState
    """whether they are as they were written; files of earlier versions have no digest"""


def sealed(contents: Mapping[str, Any]) -> dict[str, Any]:
    """The contents as JSON has them, with their seal."""
    plain = json.loads(json.dumps(contents))
    return {**plain, KEY: digest(canonical(plain))}


def unsealed(found: Mapping[str, Any]) -> Sealed:
    """Contents that were read, and what their seal says."""
    contents = dict(found)
    seal = contents.pop(KEY, None)
    if seal is None:
        return Sealed(contents, "no digest")
    return Sealed(contents, "sound" if seal == digest(canonical(contents)) else "changed")


def read_sealed(path: Path, advice: str) -> Sealed:
    """A sealed JSON file; one of an earlier version has no seal.

    Args:
        path: the file.
        advice: what to do about one that is not as it was written.

    Raises:
        FileNotFoundError: there is none.
        RecordError: it cannot be read, is damaged, or was changed since it was written.
    """
    try:
        found = unsealed(dict(json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{path}: damaged ({first_line(error)}); {advice}") from error
    if found.state == "changed":
        raise RecordError(f"{path}: changed since it was written, by its own digest; {advice}")
    return found


def seal_of_bytes(content: bytes) -> bytes:
    """What is written after bytes that are no JSON, so that a change of them shows."""
    return MARK + sha256(content).hexdigest().encode()


def unsealed_bytes(content: bytes) -> bytes:
    """Bytes without the seal after them; those of an earlier version have none.

    Raises:
        ValueError: they are not what was written.
    """
    saved, mark, seal = content.rpartition(MARK)
    if not mark:
        return content
    if seal_of_bytes(saved) != mark + seal:
        raise ValueError("its digest does not fit")
    return saved
