"""torch's file formats, zip and legacy, and plain pickles of tensors, read without torch.load.

What is found is a tree of plain data with `StoredTensor` leaves; `array` turns a leaf into a
torch tensor after checking that the file really holds the numbers that it claims.

Sources: torch/serialization.py (`_save`, `_legacy_save`) and caffe2/serialize for the zip layout.
"""

import io
import mmap
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from robustkit.errors import CheckpointError
from robustkit.unpickling import (
    DAMAGE,
    MAGIC,
    Global,
    Placeholder,
    Storage,
    StoredTensor,
    Unpickler,
    numpy_value,
)

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
EXTRA_DTYPES = {
    name: getattr(torch, name)
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")
}
"""dtypes that torch writes as untyped storage and a name"""
SUSPICIOUS = re.compile(
    r"(os|posix|nt|subprocess|pty|socket|sys|shutil|runpy|importlib|webbrowser|ctypes|platform)\."
    r"|builtins\.(eval|exec|compile|__import__|open|getattr|setattr)$|torch\.(hub|load|ops)"
)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds, with nothing of it run."""

    format: str
    root: object
    uncalled: tuple[str, ...] = ()
    """what the file wanted called and was not, by name"""
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Storages:
    """The storages that one pickle refers to, by key."""

    found: dict[str, Storage] = field(default_factory=dict)

    def persistent(self, pid: object) -> object:
        """The storage, or the class, behind a persistent id."""
        if not isinstance(pid, tuple) or not pid:
            raise ValueError("a persistent id that torch does not write")
        if pid[0] == "module" and len(pid) > 1:
            return pid[1]
        if pid[0] != "storage" or len(pid) < 5 or not isinstance(pid[1], Global):
            raise ValueError("a persistent id that torch does not write")
        _, kind, key, _, size, *view = pid
        if type(size) is not int or size < 0 or not isinstance(key, str):
            raise ValueError("a storage without a proper key and size")
        whole = self.found.setdefault(key, Storage(kind.name.rpartition(".")[2], size))
        return _piece(whole, view[0]) if view and view[0] else whole


def _piece(whole: Storage, view: Any) -> Storage:
    """A part of a storage, as the oldest legacy files have it."""
    _, offset, size = view
    if type(offset) is not int or type(size) is not int or min(offset, size) < 0:
        raise ValueError("a view of a storage that makes no sense")
    return Storage(whole.kind, size, parent=whole, offset=offset)


def read_zip(path: Path, archive: zipfile.ZipFile) -> Contents:
    """The contents of torch's zip format.

    Raises:
        CheckpointError: damaged, compressed, big-endian, or not torch's at all.
    """
    with path.open("rb") as file:
        # never closed by hand: the storages are views of it, read when they are needed
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    records = _Records(str(path), data, archive)
    storages = _Storages()
    unpickler = Unpickler(storages.persistent)
    root = _guarded(str(path), unpickler, io.BytesIO(records["data.pkl"]))
    for key, storage in storages.found.items():
        storage.data = records[f"data/{key}"]
    return Contents("torch zip", root, tuple(unpickler.uncalled), _alarm(unpickler.uncalled))


@dataclass
class _Records:
    """The records of a torch zip, found through the archive's directory and checked against it."""

    where: str
    data: memoryview
    archive: zipfile.ZipFile

    def __post_init__(self) -> None:
        entries = [entry for entry in self.archive.infolist() if not entry.is_dir()]
        self._check(entries)
        roots = [e.filename[: -len("data.pkl")] for e in entries if e.filename.endswith("data.pkl")]
        if not roots:
            names = ", ".join(entry.filename for entry in entries[:3])
            raise CheckpointError(
                f"{self.where}: a zip without torch's data.pkl, but with {names or 'nothing'}; "
                "if a checkpoint is packed inside, unpack it first"
            )
        self._prefix = min(roots, key=len)
        self._entries = {entry.filename: entry for entry in entries}
        order = self.get("byteorder")
        if order not in (None, b"little"):
            raise CheckpointError(
                f"{self.where}: saved on a big-endian machine; save it again on a little-endian one"
            )

    def _check(self, entries: list[zipfile.ZipInfo]) -> None:
        # both would be a way to make a small file fill the memory
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(
                f"{self.where}: a compressed zip, which torch never writes; unpack it and name the "
                "checkpoint inside"
            )
        if sum(entry.file_size for entry in entries) > len(self.data):
            raise CheckpointError(
                f"{self.where}: a zip that claims more data than the file has; refused as damaged"
            )

    def get(self, name: str) -> memoryview | None:
        return self[name] if self._prefix + name in self._entries else None

    def __getitem__(self, name: str) -> memoryview:
        if (entry := self._entries.get(self._prefix + name)) is None:
            raise CheckpointError(f"{self.where}: damaged: the record {name!r} is missing")
        # not archive.read(), which copies: the storages of a large network are views of the file.
        # The local header's own lengths count, since torch pads it for alignment
        start = entry.header_offset
        local = bytes(self.data[start : start + 30])
        if len(local) < 30 or local[:4] != b"PK\x03\x04":
            raise CheckpointError(f"{self.where}: damaged: no record {name!r} where it should be")
        start += 30 + sum(struct.unpack("<HH", local[26:30]))
        content = self.data[start : start + entry.file_size]
        if len(content) < entry.file_size:
            raise CheckpointError(f"{self.where}: truncated: the record {name!r} is cut off")
        # torch can be told to write no checksums, and then they are 0
        if entry.CRC not in (0, zlib.crc32(content)):
            raise CheckpointError(
                f"{self.where}: damaged: the checksum of {name!r} is wrong; download it again"
            )
        return content


def read_pickle(path: Path) -> Contents:
    """The contents of torch's legacy format, or of a plain pickle.

    Raises:
        CheckpointError: damaged, truncated, or from a big-endian machine.
    """
    return _stream(str(path), io.BytesIO(path.read_bytes()), nested=True)


def _stream(where: str, stream: IO[bytes], *, nested: bool) -> Contents:
    """One or several pickles in a row, and in the legacy format the numbers behind them."""
    # pickle.dump writes a storage as a legacy file of its own, as bytes inside the pickle
    rules = {"torch.storage._load_from_bytes": partial(_nested_storage, where)} if nested else {}
    storages = _Storages()
    unpickler = Unpickler(storages.persistent, rules)
    root = _guarded(where, unpickler, stream)
    if root != MAGIC:
        return Contents("pickle", root, tuple(unpickler.uncalled), _alarm(unpickler.uncalled))
    _guarded(where, Unpickler(), stream)  # the format's version
    system = _guarded(where, Unpickler(), stream)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError(
            f"{where}: saved on a big-endian machine; save it again on a little-endian one"
        )
    unpickler = Unpickler(storages.persistent)
    root = _guarded(where, unpickler, stream)
    keys = _guarded(where, Unpickler(), stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError(f"{where}: damaged: the list of storages is not one")
    for key in keys:
        _read_storage(where, stream, key, storages)
    return Contents("torch legacy", root, tuple(unpickler.uncalled), _alarm(unpickler.uncalled))


def _read_storage(where: str, stream: IO[bytes], key: str, storages: _Storages) -> None:
    """The next storage of a legacy file: a count of elements, then their bytes."""
    storage, head = storages.found.get(key), stream.read(8)
    if storage is None or storage.kind not in DTYPES or len(head) < 8:
        raise CheckpointError(f"{where}: truncated or damaged: no numbers for the storage {key!r}")
    size = int.from_bytes(head, "little") * DTYPES[storage.kind].itemsize
    content = stream.read(size) if size < 2**62 else b""
    if len(content) != size:
        raise CheckpointError(f"{where}: truncated: the numbers of the storage {key!r} are cut off")
    storage.data = content


def _nested_storage(where: str, content: bytes) -> Storage:
    found = _stream(where, io.BytesIO(content), nested=False).root
    if not isinstance(found, Storage):
        raise ValueError("no storage where one is due")
    return found


def _guarded(where: str, unpickler: Unpickler, stream: IO[bytes]) -> object:
    try:
        return unpickler.load(stream)
    except DAMAGE as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise CheckpointError(
            f"{where}: truncated or damaged, or not a checkpoint at all ({reason or 'bad pickle'})"
        ) from error


def _alarm(uncalled: dict[str, None]) -> tuple[str, ...]:
    bad = [name[:80] for name in uncalled if SUSPICIOUS.match(name)]
    if not bad:
        return ()
    return (
        f"the file asks for {', '.join(bad[:3])} to be called, as hostile files do; it was not",
    )


def count(leaf: object) -> int:
    """How many numbers a leaf claims to hold; 0 where it is no tensor."""
    return prod(leaf.shape) if isinstance(leaf, StoredTensor) else 0


def array(leaf: object, where: str) -> torch.Tensor | None:
    """The tensor that a leaf of the tree describes, with its own dtype; None where it is none.

    Raises:
        CheckpointError: it reaches outside its storage, or has a dtype that cannot be read.
    """
    if isinstance(leaf, torch.Tensor):
        return leaf
    if isinstance(leaf, Placeholder) and (values := numpy_value(leaf)) is not None:
        return torch.from_numpy(np.array(values))
    if not isinstance(leaf, StoredTensor):
        return None
    whole = _numbers(leaf.storage, leaf.dtype, where)
    # the file's word on offset, sizes and strides is checked before as_strided believes it
    last = leaf.offset + sum((n - 1) * s for n, s in zip(leaf.shape, leaf.stride, strict=True))
    if 0 in leaf.shape:
        return torch.empty(leaf.shape, dtype=whole.dtype)
    if last >= len(whole):
        raise CheckpointError(f"{where} reaches outside its storage: the file is damaged")
    return whole.as_strided(leaf.shape, leaf.stride, leaf.offset)


def _numbers(storage: Storage, dtype: str | None, where: str) -> torch.Tensor:
    """A storage's numbers as a flat tensor."""
    kind = EXTRA_DTYPES.get(dtype) if dtype else DTYPES.get(storage.kind)
    if kind is None:
        raise CheckpointError(
            f"{where} has the type {dtype or storage.kind}, which is not supported; "
            "save it as float32"
        )
    if storage.parent is not None:
        whole = _numbers(storage.parent, dtype, where)
        return whole[storage.offset : storage.offset + storage.size]
    data = storage.data or b""
    if len(data) < storage.size * DTYPES[storage.kind].itemsize:
        raise CheckpointError(
            f"{where}: its storage is shorter than it claims: the file is damaged"
        )
    usable = len(data) // kind.itemsize
    if not usable:
        return torch.empty(0, dtype=kind)
    # a copy: aligned, writable, and safe should the file change
    return torch.frombuffer(bytearray(data), dtype=kind, count=usable)
