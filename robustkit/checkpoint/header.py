"""What a safetensors file says of itself, read without its tensors and without torch.

Source: the format's description, huggingface/safetensors, README: eight bytes of length, then JSON.
"""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from robustkit.checkpoint.boundary import boundary
from robustkit.errors import BadFile, CheckpointError
from robustkit.files import canonical
from robustkit.seals import SealState

KEY = "robustkit."
"""our keys in the header's metadata begin so; their values are JSON"""
LONGEST = 2**23
"""bytes of a header; that of 50,000 tensors has fewer"""


SEAL = "robustkit-digest"
"""key of the header's metadata that holds a digest over all else in the file"""
PIECE = 2**22
"""bytes that are digested at a time"""


class SafetensorsHeader(NamedTuple):
    """What stands before the tensors."""

    entries: dict[str, Any]
    """by the names of tensors, as JSON has them"""
    metadata: dict[str, str]
    start: int
    """where in the file the tensors' bytes begin"""


def is_safetensors(path: Path, head: bytes, size: int) -> bool:
    """Whether a file is one by its name or, saved under another, by its first nine bytes."""
    length = int.from_bytes(head[:8], "little")
    return path.suffix == ".safetensors" or (head[8:9] == b"{" and length <= size)


def open_header(file: BufferedReader) -> SafetensorsHeader:
    """The header of an open safetensors file.

    Raises:
        BadFile: it is cut off, of absurd length, or not what it should be.
    """
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    text = file.read(length) if length <= LONGEST else b""
    if not text or len(text) < length:
        raise BadFile("truncated, or not a safetensors file: its header is incomplete")
    try:
        table = json.loads(text.decode(), object_pairs_hook=_named_once)
    except (ValueError, RecursionError) as error:
        raise BadFile("a damaged safetensors file: its header is invalid") from error
    metadata = table.pop("__metadata__", None) or {} if isinstance(table, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadFile("a damaged safetensors file: its header is invalid")
    return SafetensorsHeader(table, metadata, 8 + length)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a duplicate name")
    return made


def seal_of(
    entries: Mapping[str, Any], metadata: Mapping[str, str], tensors: Iterable[bytes]
) -> str:
    """SHA-256 over a header, but for the seal in it, and the tensors' bytes in pieces."""
    others = {key: text for key, text in metadata.items() if key != SEAL}
    total = sha256(canonical([dict(entries), others]).encode())
    for piece in tensors:
        total.update(piece)
    return total.hexdigest()


def seal_state(file: BufferedReader) -> SealState:
    """Whether an open safetensors file is as robustkit wrote it; the file is left anywhere.

    Raises:
        BadFile: as `open_header`.
    """
    header = open_header(file)
    if (seal := header.metadata.get(SEAL)) is None:
        return "no digest"
    file.seek(header.start)
    pieces = iter(lambda: file.read(PIECE), b"")
    return "sound" if seal_of(header.entries, header.metadata, pieces) == seal else "changed"


def decode_metadata(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """Our part of a header's metadata, without its prefix.

    Raises:
        CheckpointError: it is no JSON.
    """
    texts = {key.removeprefix(KEY): v for key, v in metadata.items() if key.startswith(KEY)}
    try:
        return {key: json.loads(text) for key, text in texts.items()}
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: its robustkit metadata is not JSON: {error}") from error


def read_header(path: Path) -> dict[str, Any]:
    """Our metadata in a file; nothing, where it is no safetensors file.

    Raises:
        CheckpointError: it cannot be read, is damaged, or has metadata that is no JSON.
    """
    with boundary(path), path.open("rb") as file:
        if not is_safetensors(path, file.read(9), file.seek(0, 2)):
            return {}
        return decode_metadata(open_header(file).metadata, str(path))
