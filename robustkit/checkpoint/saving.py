"""Writing robustkit's own self-describing files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialised

from robustkit.checkpoint.header import KEY, SEAL, seal_of
from robustkit.checkpoint.metadata import NAMES, parse_metadata, parse_normalisation
from robustkit.files import canonical, write_atomic


def save_checkpoint(
    path: str | Path, module: torch.nn.Module, *, model: str, **metadata: Any
) -> None:
    """Write robustkit's self-describing safetensors; the same content gives the same bytes.

    A mean and std that are not given are recorded as none: the network takes [0, 1] pixels.

    Args:
        path: the file to write.
        module: the network itself, without a classifier around it.
        model: the architecture's name.
        metadata: the fields of `CheckpointMetadata`; other names are kept as extra.

    Raises:
        CheckpointError: metadata of a wrong type.
        EvaluationFailed: the file cannot be written.
    """
    table = {key: value for key, value in metadata.items() if key in NAMES} | {"model": model}
    table |= parse_normalisation(table.get("mean"), table.get("std"))
    table = {key: list(v) if isinstance(v, tuple) else v for key, v in table.items()}
    table.setdefault("normalised", table.get("mean") is not None)
    known = parse_metadata(table, str(path)).known()
    extra = {key: value for key, value in metadata.items() if key not in NAMES}
    write_safetensors(Path(path), module.state_dict(), known | ({"extra": extra} if extra else {}))


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
    entries = json.loads(data[8:size])
    said = entries.pop("__metadata__", {})
    said[SEAL] = seal_of(entries, said, [data[size:]])
    header = canonical({**entries, "__metadata__": said}).encode()
    header += b" " * (-len(header) % 8)
    write_atomic(path, [len(header).to_bytes(8, "little"), header, data[size:]])
