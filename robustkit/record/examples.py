"""Examples as .npz, with a digest over what is in it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.files import digest
from robustkit.record.evaluation import Example
from robustkit.seals import SealState

NAMES = tuple(field.name for field in fields(Example))
SEAL = "digest"
"""name of the array that holds the digest of the others"""


def encode_examples(examples: Sequence[Example], sealed: bool = False) -> bytes:
    """Examples as the bytes of an .npz file, sealed with a digest where nothing else covers it."""
    buffer = BytesIO()
    arrays: dict[str, Any] = {
        name: np.array([getattr(e, name) for e in examples]) for name in NAMES
    }
    if sealed:
        arrays[SEAL] = np.array(_digest(arrays))
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def decode_examples(file: Path | BytesIO) -> list[Example]:
    """Examples from their file.

    None where it is missing, damaged or changed: they are only looked at.
    """
    try:
        # as bytes: NumPy leaves a file open when the archive is broken
        content = BytesIO(file.read_bytes()) if isinstance(file, Path) else file
        with np.load(content, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in NAMES}
            seal = str(arrays[SEAL]) if SEAL in arrays else None
        if seal not in (None, _digest(found)):
            return []
        columns = [found[name] for name in NAMES]
        return [
            Example(int(i), int(label), int(predicted), float(distance), clean, perturbed)
            for i, label, predicted, distance, clean, perturbed in zip(*columns, strict=True)
        ]
    # zipfile, zlib and NumPy's header parser raise nearly anything on broken bytes
    except Exception:
        return []


def examples_state(file: Path) -> SealState:
    """Whether a file of examples is as it was written."""
    try:
        with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            found = _digest(arrays)
            if not {*NAMES, SEAL}.issuperset(arrays):
                return "changed"  # a name, perhaps that of the digest
            if SEAL not in arrays:
                return "no digest"
            return "sound" if str(arrays[SEAL]) == found else "changed"
    except Exception:  # as in `decode_examples`
        return "changed"


def _digest(arrays: Mapping[str, Any]) -> str:
    parts = [(str(a.dtype), str(a.shape), a.tobytes()) for a in (arrays[n] for n in NAMES)]
    return digest(*(part for one in parts for part in one))
