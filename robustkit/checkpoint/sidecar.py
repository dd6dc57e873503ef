"""CKPT.toml: what is known of a checkpoint, next to it, so that flags need not be repeated.

The sidecar of `run/best.pt` is `run/best.pt.toml`. A model of the form FILE.py:FUNCTION in it is
shown to the user, never imported.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from robustkit.errors import CheckpointError, InputError
from robustkit.files import build, read_toml, write_atomic

LARGEST = 4096
"""side of an image that a file may ask for"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file, or its sidecar, can say of itself. Everything may be unknown."""

    model: str | None = None
    num_classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    """C, H, W"""
    resize: int | None = None
    """of the training images, as the data's own: shorter side"""
    crop: int | None = None
    """then a central square"""
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalised: bool | None = None
    """False: known to take [0, 1] pixels as they are"""
    loss: str | None = None
    label_noise: float | None = None
    """share of training labels that were flipped"""
    data_fraction: float | None = None
    """share of the training data that was used"""
    seed: int | None = None
    trained_on: str | None = None
    """name of the data set"""
    recorded_accuracy: float | None = None
    """as a fraction, on data of the trainer's choice"""
    sha256: str | None = None
    """of the checkpoint that a sidecar was written for"""

    def known(self) -> dict[str, Any]:
        """The fields that say something."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value is not None}


def facts(table: Mapping[str, Any], where: str) -> Facts:
    """Facts from a TOML table or a header's metadata.

    Raises:
        CheckpointError: an unknown key, a wrong type, a number that makes no sense.
    """
    try:
        made = build(Facts, {k: v for k, v in table.items() if v is not None}, where)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    for name, value in made.known().items():
        if isinstance(value, str) and not value.isprintable():
            raise CheckpointError(f"{where}: {name}: has line breaks or control characters in it")
    shape = made.input_shape
    if shape is not None and (len(shape) != 3 or min(shape) < 1):
        raise CheckpointError(f"{where}: input_shape: expected [C, H, W], got {list(shape)}")
    if made.num_classes is not None and made.num_classes < 2:
        raise CheckpointError(f"{where}: num_classes must be at least 2, got {made.num_classes}")
    for name in ("resize", "crop", "channels"):
        value = getattr(made, name)
        if value is not None and not 1 <= value <= LARGEST:
            raise CheckpointError(f"{where}: {name} must be from 1 to {LARGEST}, got {value}")
    check_normalisation(made.mean, made.std, where)
    return made


def check_normalisation(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, where: str
) -> None:
    """Nothing, if the two go together.

    Raises:
        CheckpointError: one without the other, of different lengths, or a std that is not above 0.
    """
    if (mean is None) != (std is None):
        raise CheckpointError(f"{where}: mean and std belong together; give both or neither")
    if mean is None or std is None:
        return
    if len(mean) != len(std) or not mean:
        raise CheckpointError(f"{where}: mean has {len(mean)} numbers and std {len(std)}")
    if not all(0 < value < float("inf") for value in std) or not all(abs(m) < 1e9 for m in mean):
        raise CheckpointError(f"{where}: std must be above 0, and both finite")


def place(checkpoint: Path) -> Path:
    """Where the sidecar of a checkpoint stands."""
    return checkpoint.with_name(f"{checkpoint.name}.toml")


def read(checkpoint: Path) -> Facts:
    """What the checkpoint's sidecar says; nothing, where there is none.

    Raises:
        CheckpointError: it cannot be read or says what makes no sense.
    """
    path = place(checkpoint)
    if not path.is_file():
        return Facts()
    try:
        return facts(read_toml(path), str(path))
    except CheckpointError:
        raise
    except InputError as error:
        raise CheckpointError(str(error)) from error


def write(path: Path, known: Facts) -> None:
    """Write a sidecar.

    Raises:
        EvaluationFailed: it cannot be written.
    """
    lines = [f"{name} = {_toml(value)}" for name, value in known.known().items()]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _toml(value: object) -> str:
    """A value as TOML, which writes these like JSON."""
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")
