"""Who normalises the pixels: what is said of a network, or the network itself.

A mean and std that the user, a sidecar or the file states are applied in any case, and a warning
says that the network does so again. Those that a library is known to have are not applied twice.
A network's own that are of pixels of 0 to 255 are told with what gives it such pixels.
"""

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit.checkpoint.checkpoint import Checkpoint
from robustkit.checkpoint.metadata import CheckpointMetadata, check_normalisation
from robustkit.checkpoint.readings import (
    MOST_CHANNELS,
    PAIRS,
    Own,
    StateReading,
    are_of_bytes,
    normalisation_in,
)
from robustkit.models import names_code

if TYPE_CHECKING:
    import torch

WITHIN = "in the checkpoint"
"""what `Checkpoint.preprocessing` is called where the network or its file normalises"""
OF_BYTES = "of pixels of 0 to 255"
"""what is added where its numbers are such, which a checkpoint's images need not be"""
TO_BYTES = "--mean 0 --std 1/255"
"""what multiplies pixels by 255"""
OF_LIBRARY = "of its library"
NORMALISER = re.compile("normali[sz]", re.IGNORECASE)
"""in the name of a layer's class, whose mean and std may be plain numbers: elsewhere those are
often a noise's"""


def normalised_within(known: Checkpoint, own: Own, whose: str = "") -> Checkpoint:
    """A checkpoint whose network normalises its input itself.

    Args:
        known: with the mean and std that are said of it, if any.
        own: what in the network does so.
        whose: mean and std they are, if nobody stated that they are to be applied.
    """
    if own.of_bytes and gives_bytes(known):
        return known
    if known.mean is not None and not whose:
        return _normalised_twice(known, own)
    warnings = known.warnings
    if known.mean is not None:
        warnings += (
            f"the mean and std {whose} are not applied, since the network normalises its input "
            f"itself ({own.name}); if it needs both, pass --mean and --std",
        )
    if own.of_bytes:
        # of a graph its steps are known, of others only their numbers
        but = "" if known.format == "ONNX" else ", unless the network itself does so"
        warnings += (f"{unscaled(own)}: pass {TO_BYTES}, which multiplies them by 255{but}",)
    within = f"{WITHIN}, {OF_BYTES}" if own.of_bytes else WITHIN
    return replace(known, mean=None, std=None, preprocessing=within, warnings=warnings)


def _normalised_twice(known: Checkpoint, own: Own) -> Checkpoint:
    takes, instead, said = "", "leave out the former", known.preprocessing
    if own.of_bytes:
        takes, instead = f", {OF_BYTES}", f"pass {TO_BYTES} instead"
        if said == "recorded":  # of which nobody should think that it is settled
            said = f"{said}, in front of the network's own {OF_BYTES}"
    warning = (
        f"pixels are normalised twice: by the mean and std that are {known.preprocessing}, "
        f"then by the network itself ({own.name}{takes}); unless it was trained so, {instead}"
    )
    return replace(known, preprocessing=said, warnings=(*known.warnings, warning))


def gives_bytes(said: CheckpointMetadata) -> bool:
    """Whether mean and std do no more than multiply pixels by 255, or by 256."""
    if said.mean is None or said.std is None:
        return False
    return not any(said.mean) and all(abs(255 * value - 1) < 0.01 for value in said.std)


def unscaled(own: Own) -> str:
    """What is said of a network whose own normalisation is of pixels of 0 to 255."""
    return (
        f"the network's own normalisation ({own.name}) is {OF_BYTES}, but it is given pixels in "
        "[0, 1]"
    )


def normalised_as_read(
    known: Checkpoint, reading: StateReading, layer: Own | None, *, inferred: bool
) -> Checkpoint:
    """A checkpoint with what its weights, read so, say of its normalisation.

    Args:
        known: with the mean and std that are said of it, if any.
        reading: of the names of its weights.
        layer: what normalises in the network that was built, if it is known.
        inferred: whether nobody but its library says how pixels are normalised.

    Raises:
        CheckpointError: the mean and std beside the weights make no sense.
    """
    whose = OF_LIBRARY if inferred else ""
    if reading.mean is not None and known.mean is not None and not inferred:
        warning = "the normalisation in the checkpoint is replaced by the one given"
        known = replace(known, warnings=(*known.warnings, warning))
    elif reading.mean is not None:
        where = f"{known.path}: the normalisation in the checkpoint (--mean and --std replace it)"
        check_normalisation(reading.mean, reading.std, where)
        known = replace(known, mean=reading.mean, std=reading.std, preprocessing=WITHIN)
        whose = "beside the weights"
    state = reading.state
    sizes = {name: value.size for name, value in state.items()}
    if own := normalisation_in(sizes, lambda name: numbers_in(state[name])) or layer:
        return normalised_within(known, own, whose)
    spec = known.model or ""
    if inferred and known.mean is not None and reading.mean is None and names_code(spec):
        warning = (
            f"the mean and std of {known.path} are applied in front of {spec}; if that normalises "
            "its input itself, pass --mean 0 --std 1"
        )
        known = replace(known, warnings=(*known.warnings, warning))
    return known


def normalising_layer(network: "torch.nn.Module") -> Own | None:
    """A mean, beside its std, that a layer of a network holds."""
    for name, layer in network.named_modules():
        # no property of a user's class is asked for, which may do anything
        held = {**vars(layer), **layer._buffers, **layer._parameters}
        named = NORMALISER.search(type(layer).__name__) is not None
        for pair in PAIRS:
            if all(_is_per_channel(held.get(key), named) for key in pair):
                mean, std = (numbers_in(held[key]) for key in pair)
                return Own(".".join(filter(None, (name, pair[0]))), are_of_bytes(mean, std))
    return None


def numbers_in(value: object) -> list[float]:
    """The few numbers of a value; none, where it has no real ones."""
    try:
        listed: Any = value.tolist() if hasattr(value, "tolist") else value
        return [float(number) for number in np.ravel(listed).tolist()]
    except (TypeError, ValueError, RuntimeError):  # complex, text, without storage, ...
        return []


def _is_per_channel(value: object, named: bool) -> bool:
    """Whether a value is a number for each channel; one for all only where that is sure."""
    if isinstance(value, int | float):
        return named
    if isinstance(value, list | tuple):
        return 1 <= len(value) <= MOST_CHANNELS
    shape = getattr(value, "shape", None)  # of tensors and arrays
    return isinstance(shape, tuple) and 1 <= math.prod(shape) <= MOST_CHANNELS
