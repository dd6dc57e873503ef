"""torch's file formats, zip and legacy, and plain pickles of tensors, read without torch.

What is found is a tree of plain data with `StoredTensor` leaves, whose storages are read when they
are needed, as long as the file is open.

Source: torch/serialization.py, `_save` and `_legacy_save`.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from typing import Any

from robustkit.errors import BadFile
from robustkit.unpickling.archive import ArchiveRecords
from robustkit.unpickling.budget import Budget
from robustkit.unpickling.objects import Global, Placeholder, Storage, checked_integer, printable
from robustkit.unpickling.unpickler import DAMAGE, MAGIC, Unpickler

ITEM_SIZES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2,
    "LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1,
    "BoolStorage": 1, "UntypedStorage": 1, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
    "QInt32Storage": 4, "QInt8Storage": 1, "QUInt8Storage": 1, "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
}  # fmt: skip
"""bytes of a number in each of torch's classes of storages"""
SUSPICIOUS = re.compile(
    r"(os|posix|nt|subprocess|pty|socket|sys|shutil|runpy|importlib|webbrowser|ctypes|platform)\."
    r"|builtins\.(eval|exec|compile|__import__|open|getattr|setattr)$|torch\.(hub|load|ops)"
)
NESTED = 100
"""steps that opening a file within a file is worth"""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds, with nothing of it run."""

    format: str
    root: object
    uncalled: tuple[str, ...] = ()
    """what the file wanted called and was not, by name"""
    warnings: tuple[str, ...] = ()


def read_torch(
    file: BufferedReader, budget: Budget, keys: Callable[[Placeholder], object] | None = None
) -> Contents:
    """The contents of what torch.save or pickle.dump wrote. The file must stay open meanwhile.

    Args:
        file: its first bytes tell the format.
        budget: of the file.
        keys: of a plain pickle, what an object that stands as a key in a dictionary is kept under;
            entries under other objects are left out.

    Raises:
        BadFile: damaged, truncated, compressed, big-endian, not torch's, or over its budget.
    """
    file.seek(0)
    if file.read(4) == b"PK\x03\x04":
        return _read_zip(ArchiveRecords(file), budget)
    file.seek(0)
    return _read_stream(file.read(), budget, nested=True, keys=keys)


@dataclass(slots=True)
class _Storages:
    """The storages that one pickle refers to, by key."""

    found: dict[str, Storage] = field(default_factory=dict)

    def persistent(self, pid: object) -> object:
        """The storage, or the class, behind a persistent id."""
        if not isinstance(pid, tuple) or not pid:
            raise ValueError("a persistent id that torch never writes")
        if pid[0] == "module" and len(pid) > 1:
            return pid[1]
        if pid[0] != "storage" or len(pid) not in (5, 6) or not isinstance(pid[1], Global):
            raise ValueError("a persistent id that torch never writes")
        _, kind, key, _, size, *view = pid
        if not isinstance(key, str):
            raise ValueError("a storage without a proper key")
        made = Storage(kind.name.rpartition(".")[2], checked_integer(size))
        whole = self.found.setdefault(key, made)
        return _piece(whole, view[0]) if view and view[0] else whole


def _piece(whole: Storage, view: Any) -> Storage:
    """A part of a storage, as the oldest legacy files have it."""
    _, offset, size = view
    offset, size = checked_integer(offset), checked_integer(size)
    return Storage(whole.kind, size, parent=whole, offset=offset)


def _read_zip(records: ArchiveRecords, budget: Budget) -> Contents:
    storages = _Storages()
    unpickler = Unpickler(budget, storages.persistent)
    root = _guarded(unpickler, io.BytesIO(records.read("data.pkl")))
    for key, storage in storages.found.items():
        storage.read = partial(records.read, f"data/{key}")
    return Contents("torch zip", root, tuple(unpickler.uncalled), _alarm(unpickler.uncalled))


def _read_stream(
    content: bytes,
    budget: Budget,
    *,
    nested: bool,
    keys: Callable[[Placeholder], object] | None = None,
) -> Contents:
    """One or several pickles in a row, and in the legacy format the numbers behind them."""
    stream = io.BytesIO(content)
    # pickle.dump writes a storage as a legacy file of its own, as bytes inside the pickle
    rules = {"torch.storage._load_from_bytes": partial(_nested_storage, budget)} if nested else {}
    storages = _Storages()
    unpickler = Unpickler(budget, storages.persistent, rules, keys)
    root = _guarded(unpickler, stream)
    if root != MAGIC:
        return Contents("pickle", root, tuple(unpickler.uncalled), _alarm(unpickler.uncalled))
    _guarded(Unpickler(budget), stream)  # the format's version
    system = _guarded(Unpickler(budget), stream)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise BadFile("saved on a big-endian machine; save it again on a little-endian one")
    unpickler = Unpickler(budget, storages.persistent)
    root = _guarded(unpickler, stream)
    names = _guarded(Unpickler(budget), stream)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadFile("damaged: the list of storages is invalid")
    for name in names:
        _find_storage(stream, memoryview(content), name, storages)
    return Contents("torch legacy", root, tuple(unpickler.uncalled), _alarm(unpickler.uncalled))


def _find_storage(stream: io.BytesIO, content: memoryview, key: str, storages: _Storages) -> None:
    """The next storage of a legacy file: a count of elements, then their bytes."""
    storage, head, shown = storages.found.get(key), stream.read(8), repr(key[:80])
    if storage is None or storage.kind not in ITEM_SIZES or len(head) < 8:
        raise BadFile(f"truncated or damaged: the storage {shown} has no numbers")
    start, size = stream.tell(), int.from_bytes(head, "little") * ITEM_SIZES[storage.kind]
    if start + size > len(content):
        raise BadFile(f"truncated: the storage {shown} is incomplete")
    stream.seek(start + size)
    storage.read = partial(bytearray, content[start : start + size])


def _nested_storage(budget: Budget, content: bytes) -> Storage:
    budget.visit(NESTED)
    found = _read_stream(content, budget, nested=False).root
    if not isinstance(found, Storage):
        raise ValueError("a storage is missing")
    return found


def _guarded(unpickler: Unpickler, stream: io.BytesIO) -> object:
    try:
        return unpickler.load(stream)
    except DAMAGE as error:
        reason = printable((str(error).splitlines() or [""])[0])[:120]
        raise BadFile(
            f"truncated or damaged, or not a checkpoint at all ({reason or 'bad pickle'})"
        ) from error


def _alarm(uncalled: dict[str, None]) -> tuple[str, ...]:
    bad = [name[:80] for name in uncalled if SUSPICIOUS.match(name)]
    if not bad:
        return ()
    return (
        f"the file asks for {', '.join(bad[:3])} to be called, as hostile files do; it was "
        "not called",
    )
