"""safetensors files, and robustkit's own self-describing ones, whose header says what they are.

Read from the open file, not through the library, which maps it into memory: what is overwritten
meanwhile would end the process, and its header would cost whatever it asks for.
"""

import json
from collections.abc import Mapping
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as serialised

from robustkit.checkpoint.header import KEY, SEAL, decode_metadata, open_header, seal_of, seal_state
from robustkit.errors import BadFile
from robustkit.files import canonical, write_atomic
from robustkit.unpickling import Budget, checked_shape

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


class _Entry(NamedTuple):
    """Where the bytes of a tensor are, checked against its type and shape."""

    start: int
    stop: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def read_safetensors(
    file: BufferedReader, where: str, budget: Budget
) -> tuple[dict[str, object], dict[str, Any]]:
    """The tensors by name, and robustkit's metadata without its prefix.

    Raises:
        CheckpointError: metadata that is no JSON.
        BadFile: damaged, or over its budget.
    """
    if seal_state(file) == "changed":
        raise BadFile(
            "changed since robustkit wrote it, by its own digest: what it says of its training is "
            "not of these weights; restore it, or save it without robustkit's metadata"
        )
    header = open_header(file)
    budget.visit(len(header.entries))
    entries = {name: _entry(name, entry) for name, entry in header.entries.items()}
    # tensors that overlap would claim any number of bytes; the format has neither those nor gaps
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.stop)):
        if entry.start != end:
            raise BadFile("a damaged safetensors file: its tensors overlap, or leave gaps")
        end = entry.stop
    if header.start + end != file.seek(0, 2):
        raise BadFile("truncated, or a damaged safetensors file: of another length than it says")
    state: dict[str, object] = {}
    for name, entry in entries.items():
        file.seek(header.start + entry.start)
        state[budget.name(name)] = _tensor(bytearray(file.read(entry.stop - entry.start)), entry)
    return state, decode_metadata(header.metadata, where)


def _entry(name: str, entry: Any) -> _Entry:
    """An entry of the header.

    Raises:
        BadFile: it is not what the format has, or of a type that is not supported.
    """
    shown = repr(name[:80])
    try:
        kind, (start, stop), shape = entry["dtype"], entry["data_offsets"], entry["shape"]
        sizes = checked_shape(tuple(shape) if isinstance(shape, list) else shape)
    except (TypeError, ValueError, KeyError) as error:
        raise BadFile(f"a damaged safetensors file: no sense in the entry {shown}") from error
    if not isinstance(kind, str) or kind not in DTYPES:
        raise BadFile(
            f"{shown} has the type {str(kind)[:20]!r}, which is not supported; save it as float32"
        )
    dtype = DTYPES[kind]
    if type(start) is not int or type(stop) is not int or start < 0:
        raise BadFile(f"a damaged safetensors file: no sense in the entry {shown}")
    if stop - start != prod(sizes) * dtype.itemsize:
        raise BadFile(f"a damaged safetensors file: {shown} has too few bytes or too many")
    return _Entry(start, stop, dtype, sizes)


def _tensor(content: bytearray, entry: _Entry) -> torch.Tensor:
    if not content:
        return torch.empty(entry.shape, dtype=entry.dtype)
    if entry.dtype == torch.bool:  # a byte of 2 is no truth value
        return (torch.frombuffer(content, dtype=torch.uint8) != 0).view(entry.shape)
    return torch.frombuffer(content, dtype=entry.dtype).view(entry.shape)


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
