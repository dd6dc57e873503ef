"""What can be known of a checkpoint's making, each item once.

From the fields follow what a sidecar and a self-describing file may say, how flags, sidecar and
file are merged, what `describe` shows and what a record keeps. Needs no torch.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, SupportsFloat, get_args

from robustkit.data.shelf import Interpolation
from robustkit.errors import CheckpointError, InputError, quoted
from robustkit.files import build

LARGEST = 4096
"""side of an image that a file may ask for"""
MOST_CLASSES = 10_000_000
"""rows of a last layer that is built on a file's word"""
DEEPEST = 30
"""levels of tables in what a file says of its making"""
NO_LISTS = (str, bytes, bytearray, Mapping, Set)
"""what can be gone through, and is no list of numbers"""


def _item(label: str = "", *, optional: bool = False, recorded: bool = True) -> Any:
    """A field that may be unknown; `describe` shows it under a label, if it has one.

    An optional one is shown only where it is known; a recorded one stands in the header of every
    record of an evaluation.
    """
    return field(
        default=None, metadata={"label": label, "optional": optional, "recorded": recorded}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointMetadata:
    """What a file, its sidecar or a user says of a network. Unknown is None."""

    model: str | None = _item("model")
    """as given, recorded or recognised"""
    num_classes: int | None = _item("classes", recorded=False)
    input_shape: tuple[int, int, int] | None = _item("input shape", recorded=False)
    """C, H, W"""
    resize: int | None = _item("resize", optional=True, recorded=False)
    """how the training images were made, as the data's own: shorter side"""
    interpolation: str | None = _item("interpolation", optional=True, recorded=False)
    """that it is resized by"""
    crop: int | None = _item("crop", optional=True, recorded=False)
    """then a central square"""
    channels: int | None = _item("channels", optional=True, recorded=False)
    mean: tuple[float, ...] | None = _item("preprocessing")
    std: tuple[float, ...] | None = _item()
    normalised: bool | None = _item(recorded=False)
    """False: known to take [0, 1] pixels as they are"""
    loss: str | None = _item("loss")
    label_noise: float | None = _item("label noise")
    """share of training labels that were flipped"""
    data_fraction: float | None = _item("data fraction")
    """share of the training data that was used"""
    seed: int | None = _item("seed")
    trained_on: str | None = _item("trained on")
    """name of the data set"""
    recorded_accuracy: float | None = _item("recorded accuracy")
    """as a fraction, on data of the trainer's choice"""
    weights_key: str | None = _item(recorded=False)
    """which set of weights was asked for, in a file with several"""
    ignore: tuple[str, ...] | None = _item("left out", optional=True)
    """patterns of the names of weights that are no part of the network"""
    rename: tuple[str, ...] | None = _item("renamed", optional=True)
    """OLD=NEW: what names begin with in the file, and in the network"""
    sha256: str | None = _item()
    """of the file that this is said of"""

    def known(self) -> dict[str, Any]:
        """The fields that say something."""
        pairs = ((name, getattr(self, name)) for name in NAMES)
        return {name: value for name, value in pairs if value is not None}

    @property
    def states_pixels(self) -> bool:
        """Whether this says how pixels are normalised, or that they are not."""
        return self.mean is not None or self.normalised is False

    def over(self, other: Self) -> Self:
        """What this says and, where it says nothing, the other."""
        if self.states_pixels:
            # that there is none is as much of a word as a mean
            other = replace(other, mean=None, std=None, normalised=None)
        return replace(other, **self.known())

    def shown(self) -> dict[str, str]:
        """Labels by name of the fields that are shown."""
        return {
            item.name: item.metadata["label"]
            for item in fields(CheckpointMetadata)
            if item.metadata["label"]
            and not (item.metadata["optional"] and getattr(self, item.name) is None)
        }


NAMES = tuple(item.name for item in fields(CheckpointMetadata))
RECORDED = tuple(item.name for item in fields(CheckpointMetadata) if item.metadata["recorded"])
"""what the header of an evaluation's record says"""


def parse_metadata(table: Mapping[str, Any], where: str) -> CheckpointMetadata:
    """Metadata from a TOML table or a header's metadata.

    Raises:
        CheckpointError: an unknown key, a wrong type, a number that makes no sense.
    """
    try:
        made = build(CheckpointMetadata, {k: v for k, v in table.items() if v is not None}, where)
    except InputError as error:
        raise CheckpointError(str(error)) from error
    for name, value in made.known().items():
        if isinstance(value, str) and not value.isprintable():
            raise CheckpointError(f"{where}: {name} contains line breaks or control characters")
    shape = made.input_shape
    if shape is not None and (len(shape) != 3 or min(shape) < 1 or max(shape) > LARGEST):
        raise CheckpointError(
            f"{where}: input_shape: expected [C, H, W], each up to {LARGEST}, "
            f"got {str(list(shape))[:60]}"
        )
    if made.num_classes is not None and not 2 <= made.num_classes <= MOST_CLASSES:
        raise CheckpointError(
            f"{where}: num_classes must be from 2 to {MOST_CLASSES}, got "
            f"{str(made.num_classes)[:40]}"
        )
    for name in ("resize", "crop", "channels"):
        value = getattr(made, name)
        if value is not None and not 1 <= value <= LARGEST:
            raise CheckpointError(f"{where}: {name} must be from 1 to {LARGEST}, got {value}")
    if made.interpolation not in (None, *get_args(Interpolation)):
        known = ", ".join(get_args(Interpolation))
        raise CheckpointError(
            f"{where}: interpolation must be one of {known}, got {quoted(made.interpolation)}"
        )
    check_normalisation(made.mean, made.std, where)
    return made


def parse_normalisation(mean: object, std: object) -> dict[str, list[float] | None]:
    """A mean and std as a call gives them, as numbers per channel; one may stand for all channels.

    Raises:
        CheckpointError: neither a number nor a list, tuple or array of them.
    """
    found = {"mean": _per_channel(mean, "mean"), "std": _per_channel(std, "std")}
    sizes = [len(value) for value in found.values() if isinstance(value, list)]
    return {
        name: [value] * max(sizes, default=1) if isinstance(value, float) else value
        for name, value in found.items()
    }


def _per_channel(given: Any, name: str) -> float | list[float] | None:
    """One number, or one per channel, whatever the library that they are of."""
    if given is None:
        return None
    # of NumPy and torch, maybe with dimensions for height and width
    dimensions = getattr(given, "ndim", None)
    plain = given.reshape(-1).tolist() if dimensions else given
    # text is no list of its characters, and a set has no order
    several = isinstance(plain, Iterable) and not isinstance(plain, NO_LISTS)
    single = dimensions == 0 or not several
    try:
        numbers = [_number(value) for value in ([plain] if single else plain)]
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{name}: expected a number, or one per channel, such as [0.485, 0.456, 0.406], got "
            f"{quoted(given)}"
        ) from error
    return numbers[0] if single else numbers


def _number(value: Any) -> float:
    """A number of Python's or, as an array of no dimension, of a library's.

    Raises:
        TypeError: none, as text and a truth value are.
        OverflowError: larger than a floating-point number can be.
    """
    plain = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(plain, bool) or not isinstance(plain, SupportsFloat):
        raise TypeError(f"{type(value).__name__} is no number")
    return float(plain)


def checked_extra(extra: object, where: str) -> dict[str, Any]:
    """What a self-describing file says besides, by name; None counts as nothing.

    Raises:
        CheckpointError: no table, or nested too deeply.
    """
    if extra is None:
        return {}
    if not isinstance(extra, dict) or _is_deep(extra, DEEPEST):
        raise CheckpointError(
            f"{where}: robustkit metadata: extra: expected a table, not too deeply nested"
        )
    return extra


def _is_deep(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(
        _is_deep(item, levels - 1) for item in inner if isinstance(item, dict | list)
    )


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
    if right := rescaled(mean, std):
        raise CheckpointError(
            f"{where}: mean {_listed(mean)}, std {_listed(std)} are on a scale of 0 to 255, but "
            "pixels here are in [0, 1]; divided by 255 they are "
            f"mean {_listed(right[0])}, std {_listed(right[1])}"
        )


def rescaled(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std for pixels in [0, 1] where they, or one of them, are of 0 to 255; else None.

    No pixel's mean lies outside of [0, 1], nor its deviation above 1/2; -1 to 1 and up to 2 are let
    pass, since a network may scale its input so. A std from 1 on beside a mean of 0 to 255 is of
    that scale, too: it is how such pixels are centred and no more.
    """
    large_mean = max(map(abs, mean)) > 1
    large_std = max(std) > 2 or (large_mean and max(std) >= 1)
    if not large_mean and not large_std:
        return None
    return (
        tuple(value / 255 for value in mean) if large_mean else mean,
        tuple(value / 255 for value in std) if large_std else std,
    )


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.6g}" for value in values)
