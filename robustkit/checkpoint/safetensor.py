"""safetensors files, and robustkit's own self-describing ones, whose header says what they are.

Read from the open file, not through the library, which maps it into memory: what is overwritten
meanwhile would end the process, and its header would cost whatever it asks for.
"""

from functools import partial
from io import BufferedReader
from math import prod
from typing import Any, NamedTuple

from robustkit.checkpoint.header import decode_metadata, open_header, seal_state
from robustkit.errors import BadFile
from robustkit.unpickling import Budget, checked_shape
from robustkit.unpickling.tensors import contiguous, item_size

KINDS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""torch's names of the format's types"""


class _Entry(NamedTuple):
    """Where the bytes of a tensor are, checked against its type and shape."""

    start: int
    stop: int
    kind: str
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
        content = bytearray(file.read(entry.stop - entry.start))
        state[budget.name(name)] = contiguous(entry.kind, entry.shape, partial(_itself, content))
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
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadFile(
            f"{shown} has the type {str(kind)[:20]!r}, which is not supported; save it as float32"
        )
    if type(start) is not int or type(stop) is not int or start < 0:
        raise BadFile(f"a damaged safetensors file: no sense in the entry {shown}")
    if stop - start != prod(sizes) * item_size(KINDS[kind]):
        raise BadFile(f"a damaged safetensors file: {shown} has too few bytes or too many")
    return _Entry(start, stop, KINDS[kind], sizes)


def _itself(content: bytearray) -> bytearray:
    return content
