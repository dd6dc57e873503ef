"""A checkpoint of torch.distributed.checkpoint: pieces of tensors in a file a process.

`.metadata` is a pickle that tells, for each name, type and shape and, for each piece of it, its
place in the tensor and in one of the files. A piece is a file of torch's own inside that file. The
pickle is read as data, like every other.

Source: torch/distributed/checkpoint, metadata.py and filesystem.py.
"""

from collections.abc import Mapping
from functools import partial
from io import BufferedReader, BytesIO
from typing import Any, NamedTuple, cast

import numpy as np

from robustkit.checkpoint.boundary import boundary
from robustkit.checkpoint.folder.files import FolderFiles
from robustkit.checkpoint.folder.finding import METADATA, WeightFiles
from robustkit.errors import BadFile
from robustkit.unpickling import (
    Contents,
    Global,
    Placeholder,
    StoredTensor,
    checked_shape,
    mapping,
    read_torch,
)
from robustkit.unpickling.tensors import TYPES, TensorReader, contiguous

LONGEST_OBJECT = 2**20
"""bytes of what is no tensor, such as a count of epochs"""
DEEPEST = 40
"""keys that lead to a name"""


class _Piece(NamedTuple):
    """A part of a tensor, and where in the files it is."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    home: str
    start: int
    length: int


def read_distributed(found: WeightFiles, reader: TensorReader) -> Contents:
    """What the processes saved together, as the tree that it was before it was flattened.

    Raises:
        BadFile: damaged, incomplete, or compressed.
    """
    files = found.files
    with boundary(files.path / METADATA):
        index = read_torch(files.open(METADATA), reader.budget, _name_of_index)
        table = _fields(index.root, "Metadata")
        places = mapping(table.get("storage_data")) or {}
        paths = mapping(table.get("planner_data")) or {}
        root: dict[object, object] = {}
        for name, item in (mapping(table.get("state_dict_metadata")) or {}).items():
            reader.budget.visit()
            if isinstance(name, str) and isinstance(item, Placeholder):
                value = _value(name, item, places, files, reader)
                _put(root, paths.get(name), name, value)
    return Contents("torch distributed", root, (), index.warnings)


def _name_of_index(key: Placeholder) -> object:
    """A text for a `MetadataIndex`, which names a piece; other objects are kept under none."""
    fields = mapping(key) or {}
    name, offsets = fields.get("fqn"), fields.get("offset")
    return _piece_name(name, offsets) if isinstance(name, str) else key


def _piece_name(name: str, offsets: object) -> str:
    return name if offsets is None else f"{name}\0{','.join(map(str, _sizes(offsets)))}"


def _fields(value: object, kind: str) -> Mapping[object, object]:
    """The fields of an object of one of the format's classes."""
    fields = mapping(value)
    if not isinstance(value, Placeholder) or not value.name.endswith(f".{kind}") or fields is None:
        raise BadFile(f"damaged, or written by another version of torch: a {kind} is missing")
    return fields


def _sizes(value: object) -> tuple[int, ...]:
    try:
        return checked_shape(value)
    except ValueError as error:
        raise BadFile("damaged: an invalid shape or offset") from error


def _value(
    name: str,
    item: Placeholder,
    places: Mapping[object, object],
    files: FolderFiles,
    reader: TensorReader,
) -> object:
    """A tensor whose numbers are read when they are needed, or another object."""
    if not item.name.endswith(".TensorStorageMetadata"):
        piece = _piece((), (), places.get(name), name)
        if piece.length > LONGEST_OBJECT:
            return None
        return _read_piece(piece, files, reader)
    fields = _fields(item, "TensorStorageMetadata")
    shape, chunks = _sizes(fields.get("size")), fields.get("chunks")
    kind = _kind(fields.get("properties"), name)
    pieces = []
    for chunk in chunks if isinstance(chunks, list) else ():
        where = _fields(chunk, "ChunkStorageMetadata")
        offsets, sizes = _sizes(where.get("offsets")), _sizes(where.get("sizes"))
        place = places.get(_piece_name(name, offsets))
        pieces.append(_piece(offsets, sizes, place, name))
    return contiguous(kind, shape, partial(_assembled, name, kind, shape, pieces, files, reader))


def _kind(properties: object, name: str) -> str:
    """The type of a tensor's numbers, by torch's name."""
    state = properties.state if isinstance(properties, Placeholder) else None
    first = state[0] if isinstance(state, tuple) and state else None
    kind = first.name.removeprefix("torch.") if isinstance(first, Global) else ""
    if kind not in TYPES.values():
        raise BadFile(f"{name[:80]!r} has the type {kind[:20]!r}, which is not supported")
    return kind


def _piece(offsets: tuple[int, ...], sizes: tuple[int, ...], place: object, name: str) -> _Piece:
    if place is None:
        raise BadFile(f"incomplete: the location of a piece of {name[:80]!r} is missing")
    fields = _fields(place, "_StorageInfo")
    home, start, length = (fields.get(key) for key in ("relative_path", "offset", "length"))
    if fields.get("transform_descriptors"):
        raise BadFile(
            "its pieces are compressed; save it without extensions, or convert it with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
        )
    if not isinstance(home, str) or type(start) is not int or type(length) is not int:
        raise BadFile(f"damaged: {name[:80]!r} has an invalid location")
    return _Piece(offsets, sizes, home, start, length)


def _read_piece(piece: _Piece, files: FolderFiles, reader: TensorReader) -> object:
    file = files.open(piece.home)
    if not 0 <= piece.start <= piece.start + piece.length <= files.size(piece.home):
        raise BadFile(f"truncated: {piece.home[:80]} is shorter than the metadata says")
    file.seek(piece.start)
    content = BytesIO(file.read(piece.length))
    # a BytesIO reads, seeks and tells as an open file does
    return read_torch(cast(BufferedReader, content), reader.budget).root


def _assembled(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    pieces: list[_Piece],
    files: FolderFiles,
    reader: TensorReader,
) -> bytearray:
    """The bytes of a tensor, of pieces that are each there and do not overlap."""
    whole: Any = None
    seen = np.zeros(shape, bool)
    for piece in pieces:
        part = _read_piece(piece, files, reader)
        place = tuple(slice(o, o + s) for o, s in zip(piece.offsets, piece.sizes, strict=False))
        inside = len(piece.offsets) == len(piece.sizes) == len(shape) and all(
            o + s <= size for o, s, size in zip(piece.offsets, piece.sizes, shape, strict=True)
        )
        if not isinstance(part, StoredTensor) or part.shape != piece.sizes or not inside:
            raise BadFile(f"damaged: a piece of {name[:80]!r} does not match the metadata")
        if reader.kind(part) != kind or seen[place].any():
            raise BadFile(f"damaged: pieces of {name[:80]!r} overlap or differ in type")
        # a reader of its own: it knows storages by their identity, and this one is gone at once
        numbers = TensorReader(reader.where, reader.budget).read(part, name)
        if numbers is None:
            raise BadFile(f"damaged: a piece of {name[:80]!r} holds no numbers")
        whole = np.empty(shape, numbers.dtype) if whole is None else whole
        whole[place], seen[place] = numbers, True
    if whole is None or not seen.all():
        raise BadFile(f"incomplete: a piece of {name[:80]!r} is missing")
    return bytearray(_as_stored(whole, kind).tobytes())


def _as_stored(numbers: Any, kind: str) -> Any:
    """Numbers as their type is stored; NumPy has no bfloat16, the upper half of a float32."""
    if kind == "bfloat16":
        return (numbers.view(np.uint32) >> 16).astype(np.uint16)
    return numbers


def _put(root: dict[object, object], path: object, name: str, value: object) -> None:
    """Enter a value where it stood before the state was flattened."""
    keys = path if isinstance(path, tuple) and 0 < len(path) <= DEEPEST else (name,)
    node = root
    for key in keys[:-1]:
        inner = node.setdefault(key, {}) if isinstance(key, str | int) else None
        if not isinstance(inner, dict):
            raise BadFile(f"damaged: {name[:80]!r} has an invalid location")
        node = inner
    node[keys[-1] if isinstance(keys[-1], str | int) else name] = value
