"""An assembler of pickles: any tree, with its shared parts, as the opcodes that would make it.

What Python's pickler refuses to write can be written: calls of anything, tensors of any geometry,
numbers of any size as keys. A part that stands in several places is written once and referred to
afterwards, so that trees of 2**200 leaves are a few hundred bytes.
"""

import io
import struct
import sys
import zipfile
from typing import Any, NamedTuple

PROTOCOL = b"\x80\x04"


class Name(NamedTuple):
    """Something to be imported."""

    dotted: str


class Call:
    """A call of something by name; with a state, set on its result."""

    def __init__(self, dotted: str, *arguments: Any, state: Any = None) -> None:
        self.function, self.arguments, self.state = Name(dotted), arguments, state


class Persistent(NamedTuple):
    """A persistent id."""

    id: Any


class Pairs(NamedTuple):
    """A dictionary by its entries, whose keys may be what Python cannot hash."""

    pairs: list[tuple[Any, Any]]


class Raw(NamedTuple):
    """Opcodes as they are, which leave one value."""

    opcodes: bytes


def encoded(value: Any) -> bytes:
    """The pickle of a tree."""
    writer, limit = _Writer(), sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        writer.write(value)
    finally:
        sys.setrecursionlimit(limit)
    return PROTOCOL + b"".join(writer.out) + b"."


class _Writer:
    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.memo: dict[int, int] = {}
        self.alive: list[Any] = []

    def write(self, value: Any) -> None:
        """The opcodes that push a value."""
        if id(value) in self.memo:
            self.out.append(b"j" + struct.pack("<I", self.memo[id(value)]))
            return
        match value:
            case None:
                self.out.append(b"N")
            case bool():
                self.out.append(b"\x88" if value else b"\x89")
            case int():
                self.out.append(integer(value))
            case float():
                self.out.append(b"G" + struct.pack(">d", value))
            case Raw(opcodes):
                self.out.append(opcodes)
            case Name(dotted):
                module, _, name = dotted.rpartition(".")
                self.out += [text(module), text(name), b"\x93"]
            case str():
                self._noted(value, text(value))
            case bytes():
                self._noted(value, b"B" + struct.pack("<I", len(value)) + value)
            case Persistent(pid):
                self.write(pid)
                self.out.append(b"Q")
            case _:
                self._composite(value)

    def _noted(self, value: Any, opcodes: bytes = b"") -> None:
        """Opcodes whose value can be referred to from then on."""
        self.out += [opcodes, b"\x94"]
        self.memo[id(value)] = len(self.memo)
        self.alive.append(value)

    def _composite(self, value: Any) -> None:
        if isinstance(value, list):
            self._noted(value, b"]")
            self._items(value, b"e")
        elif isinstance(value, dict | Pairs):
            self._noted(value, b"}")
            pairs = value.items() if isinstance(value, dict) else value.pairs
            self._items([part for pair in pairs for part in pair], b"u")
        elif isinstance(value, Call):
            self.write(value.function)
            self.write(value.arguments)
            self._noted(value, b"R")
            if value.state is not None:
                self.write(value.state)
                self.out.append(b"b")
        else:
            self._items(value, b"t")
            self._noted(value)

    def _items(self, items: Any, end: bytes) -> None:
        self.out.append(b"(")
        for item in items:
            self.write(item)
        self.out.append(end)


def text(value: str) -> bytes:
    """The opcode of a text, lone surrogates included."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """The opcode of an integer of any size."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) < 256:
        return b"\x8a" + bytes([len(data)]) + data
    return b"\x8b" + struct.pack("<i", len(data)) + data


def storage(
    key: Any = "0", size: Any = 4, kind: str = "torch.FloatStorage", *view: Any
) -> Persistent:
    """torch's reference to a storage, whatever it says."""
    return Persistent(("storage", Name(kind), key, "cpu", size, *view))


def tensor(of: Any = None, offset: Any = 0, shape: Any = (2, 2), stride: Any = (2, 1)) -> Call:
    """A tensor of any geometry."""
    of = storage() if of is None else of
    return Call("torch._utils._rebuild_tensor_v2", of, offset, shape, stride, False, {})


def typed(dtype: str, of: Any = None, shape: Any = (2,), stride: Any = (1,)) -> Call:
    """A tensor of a type that its storage does not say."""
    of = storage() if of is None else of
    arguments = (of, 0, shape, stride, False, {}, Name(f"torch.{dtype}"))
    return Call("torch._utils._rebuild_tensor_v3", *arguments)


def module(
    parameters: Any = None, modules: Any = None, hidden: Any = None, buffers: Any = None
) -> Call:
    """A pickled torch.nn.Module."""
    state = {"_parameters": parameters or {}, "_buffers": buffers or {}, "_modules": modules or {}}
    if hidden is not None:
        state["_non_persistent_buffers_set"] = hidden
    return Call("net.Net", state=state)


def array(shape: Any, data: Any, code: Any = "f4", order: Any = "<", fortran: Any = False) -> Call:
    """A numpy array."""
    dtype = Call("numpy.dtype", code, False, True, state=(3, order, None, None, None, -1, -1, 0))
    made = Call("numpy._core.multiarray._reconstruct", Name("numpy.ndarray"), (0,), b"b")
    made.state = (1, shape, dtype, fortran, data)
    return made


def zipped(tree: Any, storages: dict[str, bytes] | None = None, **records: bytes) -> bytes:
    """A file in torch's zip layout around a tree, or around opcodes as they are."""
    pickled = tree if isinstance(tree, bytes) else encoded(tree)
    content = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"} | records
    stored = {"0": bytes(16)} if storages is None else storages
    content |= {f"data/{key}": value for key, value in stored.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, value in content.items():
            archive.writestr(f"archive/{name}", value)
    return buffer.getvalue()
