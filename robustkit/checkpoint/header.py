"""What a safetensors file says of itself, read without its tensors and without torch.

Source: the format's description, huggingface/safetensors, README: eight bytes of length, then JSON.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustkit.errors import CheckpointError

KEY = "robustkit."
"""our keys in the header's metadata begin so; their values are JSON"""
LONGEST = 100_000_000
"""bytes of a header, as the library allows"""


def is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file is one by its name or, saved under another, by its first nine bytes."""
    length = int.from_bytes(head[:8], "little")
    return path.suffix == ".safetensors" or (head[8:9] == b"{" and length <= path.stat().st_size)


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
    try:
        with path.open("rb") as file:
            head = file.read(9)
            if not is_safetensors(path, head):
                return {}
            length = int.from_bytes(head[:8], "little")
            text = head[8:] + file.read(length - 1) if 0 < length <= LONGEST else b""
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if not text or len(text) < length:
        raise CheckpointError(f"{path}: truncated or no safetensors file: its header is cut off")
    return decode_metadata(_metadata(text, path), str(path))


def _metadata(text: bytes, path: Path) -> dict[str, str]:
    try:
        found = json.loads(text).get("__metadata__") or {}
        return {str(key): str(value) for key, value in found.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: a damaged safetensors file: its header is not what it should be"
        ) from error
