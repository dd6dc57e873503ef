"""Which file or folder is meant, and which format it has, by its first bytes."""

import os
import re
from io import BufferedReader
from pathlib import Path

from robustkit.checkpoint.fingerprints import known_names
from robustkit.checkpoint.foreign import (
    TENSORFLOW,
    foreign_archive,
    foreign_file,
    foreign_head,
)
from robustkit.checkpoint.header import is_safetensors
from robustkit.errors import BadFile, CheckpointError, UnknownName
from robustkit.files import is_file, shipped
from robustkit.unpickling import read_directory

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx", ".pkl", ".toml", ".py")
PROGRAMS = ("TorchScript", "torch.export")
"""formats whose files run code of their own"""


def find_checkpoint(path: str | Path) -> Path:
    """The file or folder of a checkpoint: a path, or the name of a shipped one.

    Raises:
        CheckpointError: no such file.
    """
    file = Path(path)
    if is_file(file) or os.path.isdir(file):  # noqa: PTH112 - a name too long is none
        return file
    if file.name == str(path) and not file.suffix:
        known = [item.stem for item in shipped("data").glob("*.safetensors")]
        fetched = [spec for spec in known_names() if spec.partition(":")[2] == file.name]
        if file.name in known:
            return shipped("data") / f"{file.name}.safetensors"
        advice = "or give a file's path"
        if fetched:
            advice += f"; {max(fetched)} downloads published weights"
        raise CheckpointError(str(UnknownName("checkpoint", str(path), known, advice)))
    if is_file(Path(f"{path}.index")):  # TensorFlow names a checkpoint by what its files share
        raise CheckpointError(f"{path}: {TENSORFLOW}")
    raise CheckpointError(f"{path}: no such file{_published(str(path))}")


def _published(text: str) -> str:
    """What would fetch something, where a text looks as if that was meant."""
    address = re.fullmatch(r"https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/(.+)", text)
    rest = re.split(r"/(?:tree|blob|resolve)/|[?#]", address[1])[0].strip("/") if address else text
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", rest, re.ASCII):
        if address or not rest.endswith(SUFFIXES):
            return f"; Hugging Face repositories are written hf:{rest}"
    elif re.match(r"https?:/", text):
        return "; download it and name the file"
    return ""


def detect_format(path: Path, file: BufferedReader, *, alone: bool = True) -> str:
    """A file's format, by its first bytes and, of a zip, by its directory.

    Args:
        path: its name tells more where it is named `alone`, and not one of a folder's files.
        file: opened.
        alone: whether it is.

    Raises:
        CheckpointError: no checkpoint.
        BadFile: a damaged zip.
    """
    file.seek(0)
    head = file.read(512)
    named = foreign_file(path.name, head) if alone else ""
    if reason := named or foreign_head(head) or _no_checkpoint(head, path):
        raise CheckpointError(f"{path}: {reason}")
    if is_onnx(path, head):
        return "ONNX"
    if head[:4] == b"PK\x03\x04":
        return _sniff_zip(file)
    if is_safetensors(path, head, file.seek(0, 2)):
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    raise CheckpointError(
        f"{path}: unknown format; supported are torch's .pt and .pth, Lightning's .ckpt, "
        "safetensors, ONNX, TorchScript and .pt2"
    )


def is_onnx(path: Path, head: bytes) -> bool:
    """Whether a file is ONNX's by its name or, saved under another, by its first bytes.

    It has no magic number; exporters write the version first, and then who they are or the graph.
    """
    named = path.name.endswith((".onnx", ".onnx.gz"))
    return named or (
        head[:1] == b"\x08" and 3 <= head[1] <= 20 and head[2:3] in b"\x12\x3a\x42\x72"
    )


def _no_checkpoint(head: bytes, path: Path) -> str:
    """Why the first bytes cannot be a checkpoint's, or ""."""
    text = head.lstrip().lower()
    if not head:
        return "the file is empty; download or save it again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page, not weights; download it again"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights; download them with: git lfs pull"
    if head[257:262] == b"ustar":
        return (
            "torch's tar format from before version 0.2; load it with an old torch and save it "
            "again"
        )
    if head[:2] == b"\x1f\x8b" and not path.name.endswith(".onnx.gz"):
        return "compressed with gzip; unpack it first"
    if head[:4] == b"PK\x05\x06":
        return "an empty zip archive"
    return ""


def _sniff_zip(file: BufferedReader) -> str:
    names = [entry.filename for entry in read_directory(file)]
    if reason := foreign_archive(names):
        raise BadFile(reason)
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "TorchScript"
    exported = ("archive_format", "serialized_exported_program.json", "models/model.json")
    if any(name in inner or name in names for name in exported):
        return "torch.export"
    return "torch zip"
