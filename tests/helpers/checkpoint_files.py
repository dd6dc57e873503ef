"""Builders of checkpoint files: ordinary, odd, broken and hostile."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from robustkit import models

PROTOCOL = b"\x80\x02"


def network(name="lenet5", seed=0, **options):
    """A registry network in eval mode."""
    return models.build(name, seed=seed, **options).eval()


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class SetsState:
    """Pickles as an object whose state is a hostile one."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return SetsState, (None,), self.state

    def __setstate__(self, state):
        raise AssertionError("ran")


def torch_zip(
    path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **records: bytes
):
    """A file in torch's zip layout around a given data.pkl."""
    content = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"} | records
    content |= {f"data/{key}": value for key, value in (storages or {}).items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, value in content.items():
            archive.writestr(f"archive/{name}", value)
    return path


def short(text: str) -> bytes:
    """A pickle opcode that pushes a text."""
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """A pickle opcode that pushes an integer of at most 8 bytes."""
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def tensor(
    key: str, count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> bytes:
    """Opcodes that rebuild a float tensor from a storage, with any numbers, sensible or not."""
    storage = (
        b"(" + short("storage") + b"ctorch\nFloatStorage\n" + short(key) + short("cpu")
        + integer(count) + b"tQ"
    )  # fmt: skip
    sizes = b"(" + b"".join(map(integer, shape)) + b"t"
    steps = b"(" + b"".join(map(integer, stride)) + b"t"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset) + sizes + steps
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def state_dict(*entries: tuple[str, bytes]) -> bytes:
    """A pickled dictionary from names to opcodes."""
    return PROTOCOL + b"}(" + b"".join(short(name) + value for name, value in entries) + b"u."


def saved(value, **options) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def exported(path: Path, hostile: bytes | None = None) -> Path:
    """A .pt2 with a batch of 3; with `hostile`, every pickled sample input is replaced by it."""
    sample = torch.zeros(3, 1, 28, 28)
    program = torch.export.export(network(), (sample,))
    torch.export.save(program, path)
    if hostile is not None:
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, value in records.items():
                archive.writestr(name, hostile if "sample_inputs" in name else value)
    return path


def safetensors_header(header: object, data: bytes = b"") -> bytes:
    """A safetensors file around any header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def touching(sentinel: Path) -> str:
    """A shell command that leaves a trace."""
    return f"touch {sentinel}"


def hostile_files(folder: Path, sentinel: Path) -> dict[str, Path]:
    """Files which, loaded carelessly, would create `sentinel`, or eat memory or time."""
    return {name: make(folder / f"{name}.pt", sentinel) for name, make in HOSTILE.items()}


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _runs(sentinel):
    return Calls(os.system, touching(sentinel))


def _code(sentinel):
    return f"open({str(sentinel)!r}, 'w').close()"


def _with_weights(**beside):
    return {"state_dict": network().state_dict(), **beside}


def _deep(sentinel):
    hidden = _runs(sentinel)
    for _ in range(50):
        hidden = {"a": [hidden], "b": (hidden,)}
    return hidden


def _posix(sentinel: Path) -> bytes:
    command = touching(sentinel).encode()
    return b"cposix\nsystem\n(V" + command + b"\ntR."


def _memo_bomb() -> bytes:
    """Tuples of tuples: 2**200 leaves in a few hundred bytes, used as a dictionary's key."""
    return PROTOCOL + b"}" + short("x") + b"2\x86" * 200 + b"Ns."


def _sharing_bomb() -> bytes:
    """Containers of one container each, under twenty usual names, many levels deep."""
    names = ("state_dict", "model", "net", "network", "weights", "best", "last", "module", "ema")
    level = b"}q\x00"
    for depth in range(1, 40):
        level += b"0}(" + b"".join(short(n) + b"h" + bytes([depth - 1]) for n in names) + b"uq"
        level += bytes([depth])
    return PROTOCOL + level + b"."


def _many_views() -> bytes:
    """One storage claimed by thousands of tensors: little on disk, much in memory."""
    one = tensor("0", 1_000_000, 0, (1_000_000,), (1,))
    return state_dict(*((f"w{i}", one) for i in range(5000)))


HOSTILE: dict[str, Callable[[Path, Path], Path]] = {
    "system-alone": lambda p, s: _write(p, pickle.dumps(_runs(s))),
    "system-protocol-0": lambda p, s: _write(p, b"\x80\x00" + _posix(s)),
    "eval": lambda p, s: _write(p, pickle.dumps(Calls(eval, _code(s)))),
    "exec-in-zip": lambda p, s: _write(p, saved(Calls(exec, _code(s)))),
    "in-metadata": lambda p, s: _write(p, saved(_with_weights(args=_runs(s)))),
    "in-optimizer": lambda p, s: _write(p, saved(_with_weights(optimizer={"state": [_runs(s)]}))),
    "as-a-key": lambda p, s: _write(p, saved(_with_weights(log={_runs(s): 1}))),
    "deep": lambda p, s: _write(p, saved(_with_weights(log=_deep(s)))),
    "among-weights": lambda p, s: _write(p, saved({**network().state_dict(), "x": _runs(s)})),
    "instead-of-a-weight": lambda p, s: _write(
        p, saved({**network().state_dict(), "conv1.weight": _runs(s)})
    ),
    "setstate": lambda p, s: _write(p, saved(_with_weights(log=SetsState(_runs(s))))),
    "legacy": lambda p, s: _write(
        p, saved(_with_weights(log=_runs(s)), _use_new_zipfile_serialization=False)
    ),
    "getattr-chain": lambda p, s: _write(
        p, pickle.dumps(Calls(getattr, Calls(__import__, "os"), "system"))
    ),
    "newobj": lambda p, s: _write(
        p, b"\x80\x02csubprocess\nPopen\n(" + short(touching(s)) + b"t\x81."
    ),
    "inst": lambda p, s: _write(p, b"\x80\x02(" + short(touching(s)) + b"ios\nsystem\n."),
    "obj": lambda p, s: _write(p, b"\x80\x02(cos\nsystem\n" + short(touching(s)) + b"o."),
    "extension": lambda p, s: _write(p, b"\x80\x02\x82\x01)R."),
    "reconstructor": lambda p, s: _write(
        p,
        b"\x80\x02ccopyreg\n_reconstructor\n(cos\n_wrap_close\ncbuiltins\nobject\nNtR"
        + b"}"
        + short("cmd")
        + short(touching(s))
        + b"sb.",
    ),
    "storage-from-bytes": lambda p, s: _write(
        p, pickle.dumps(Calls(torch.storage._load_from_bytes, saved(_runs(s))))
    ),
    "storage-from-legacy-bytes": lambda p, s: _write(
        p,
        pickle.dumps(
            Calls(
                torch.storage._load_from_bytes,
                saved(_runs(s), _use_new_zipfile_serialization=False),
            )
        ),
    ),
    "persistent-id": lambda p, s: torch_zip(
        p, PROTOCOL + b"cos\nsystem\n" + short("x") + b"\x86Q."
    ),
    "offset-outside": lambda p, s: torch_zip(
        p, state_dict(("w", tensor("0", 4, 10**6, (2, 2), (2, 1)))), {"0": b"\0" * 16}
    ),
    "stride-outside": lambda p, s: torch_zip(
        p, state_dict(("w", tensor("0", 4, 0, (2, 2), (10**9, 1)))), {"0": b"\0" * 16}
    ),
    "negative-stride": lambda p, s: torch_zip(
        p, state_dict(("w", tensor("0", 4, 3, (2, 2), (-2, 1)))), {"0": b"\0" * 16}
    ),
    "storage-shorter-than-claimed": lambda p, s: torch_zip(
        p, state_dict(("w", tensor("0", 10**12, 0, (2, 2), (2, 1)))), {"0": b"\0" * 16}
    ),
    "huge-expanded": lambda p, s: torch_zip(
        p, state_dict(("w", tensor("0", 4, 0, (10**8, 10**7), (0, 0)))), {"0": b"\0" * 16}
    ),
    "many-views": lambda p, s: torch_zip(p, _many_views(), {"0": b"\0" * 4_000_000}),
    "missing-storage": lambda p, s: torch_zip(p, state_dict(("w", tensor("0", 4, 0, (4,), (1,))))),
    "huge-bytearray": lambda p, s: _write(
        p, b"\x80\x05\x96" + (2**60).to_bytes(8, "little") + b"."
    ),
    "huge-bytes": lambda p, s: _write(p, b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x."),
    "bytearray-call": lambda p, s: _write(
        p, b"\x80\x02cbuiltins\nbytearray\n" + integer(2**40) + b"\x85R."
    ),
    "next-buffer": lambda p, s: _write(p, b"\x80\x05\x97."),
    "recursion": lambda p, s: _write(p, b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."),
    "self-reference": lambda p, s: _write(p, b"\x80\x02}q\x00" + short("model") + b"h\x00s."),
    "memo-bomb": lambda p, s: _write(p, _memo_bomb()),
    "sharing-bomb": lambda p, s: _write(p, _sharing_bomb()),
    "stack-underflow": lambda p, s: _write(p, b"\x80\x02aaaa."),
    "no-stop": lambda p, s: _write(p, b"\x80\x02]"),
    "random": lambda p, s: _write(p, b"\x80" + bytes(i * 37 % 251 for i in range(5000))),
    "zip-of-zips": lambda p, s: _zip_of_zips(p),
    "compressed-zip": lambda p, s: _compressed(p),
    "big-endian": lambda p, s: torch_zip(p, state_dict(), byteorder=b"big"),
    "safetensors-bad-header": lambda p, s: _write(
        p.with_suffix(".safetensors"), (50).to_bytes(8, "little") + b"{" + b"x" * 60
    ),
    "safetensors-huge-header": lambda p, s: _write(
        p.with_suffix(".safetensors"), (2**62).to_bytes(8, "little") + b"{}"
    ),
    "safetensors-outside": lambda p, s: _write(
        p.with_suffix(".safetensors"),
        safetensors_header(
            {"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, b"\0" * 4
        ),
    ),
}


def _zip_of_zips(path: Path) -> Path:
    inner = saved(network().state_dict())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/checkpoint.pt", inner)
    return path


def _compressed(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", b"\0" * 50_000_000)
    return path
