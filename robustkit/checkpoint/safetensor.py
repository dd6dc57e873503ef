"""safetensors files, and robustkit's own self-describing ones, whose header says what they are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised

from robustkit.checkpoint.header import KEY, decode_metadata
from robustkit.errors import CheckpointError
from robustkit.files import canonical, write_atomic


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors, and robustkit's metadata without its prefix.

    Raises:
        CheckpointError: damaged, or metadata that is no JSON.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: a damaged safetensors file: {error}") from error
    return state, decode_metadata(metadata, str(path))


def write_safetensors(
    path: Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write tensors and metadata; the same content gives the same bytes.

    Raises:
        EvaluationFailed: the file cannot be written.
    """
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    texts = {f"{KEY}{name}": canonical(value) for name, value in metadata.items()}
    data = serialised(plain, texts)
    # the library writes its metadata in the order of a hash map: order the header ourselves
    size = 8 + int.from_bytes(data[:8], "little")
    header = canonical(json.loads(data[8:size])).encode()
    header += b" " * (-len(header) % 8)
    write_atomic(path, [len(header).to_bytes(8, "little"), header, data[size:]])
