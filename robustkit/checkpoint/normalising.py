"""Who normalises the pixels: what is said of a network, or the network itself.

A mean and std that the user, a sidecar or the file states are applied in any case, and a warning
says that the network does so again. Those that a library is known to have are not applied twice.
"""

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from robustkit.checkpoint.checkpoint import Checkpoint
from robustkit.checkpoint.metadata import check_normalisation
from robustkit.checkpoint.readings import PAIRS, StateReading, normalisation_in
from robustkit.models import names_code

if TYPE_CHECKING:
    import torch

WITHIN = "in the checkpoint"
"""what `Checkpoint.preprocessing` is called where the network or its file normalises"""
OF_LIBRARY = "of its library"
MOST_CHANNELS = 4
NORMALISER = re.compile("normali[sz]", re.IGNORECASE)
"""in the name of a layer's class, whose mean and std may be plain numbers: elsewhere those are
often a noise's"""


def normalised_within(known: Checkpoint, own: str, whose: str = "") -> Checkpoint:
    """A checkpoint whose network normalises its input itself.

    Args:
        known: with the mean and std that are said of it, if any.
        own: what in the network does so.
        whose: mean and std they are, if nobody stated that they are to be applied.
    """
    if known.mean is None:
        return replace(known, preprocessing=WITHIN)
    if whose:
        warning = (
            f"the mean and std {whose} are not applied, since the network normalises its input "
            f"itself ({own}); if it needs both, pass --mean and --std"
        )
        made = replace(known, mean=None, std=None, preprocessing=WITHIN)
    else:
        warning = (
            f"pixels are normalised twice: by the mean and std that are {known.preprocessing}, "
            f"then by the network itself ({own}); unless it was trained so, leave out the former"
        )
        made = known
    return replace(made, warnings=(*made.warnings, warning))


def normalised_as_read(
    known: Checkpoint, reading: StateReading, layer: str, *, inferred: bool
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
    sizes = {name: value.size for name, value in reading.state.items()}
    if own := normalisation_in(sizes) or layer:
        return normalised_within(known, own, whose)
    spec = known.model or ""
    if inferred and known.mean is not None and reading.mean is None and names_code(spec):
        warning = (
            f"the mean and std of {known.path} are applied in front of {spec}; if that normalises "
            "its input itself, pass --mean 0 --std 1"
        )
        known = replace(known, warnings=(*known.warnings, warning))
    return known


def normalising_layer(network: "torch.nn.Module") -> str:
    """The name of a mean, beside its std, that a layer of a network holds, or ""."""
    for name, layer in network.named_modules():
        # no property of a user's class is asked for, which may do anything
        held = {**vars(layer), **layer._buffers, **layer._parameters}
        named = NORMALISER.search(type(layer).__name__) is not None
        for pair in PAIRS:
            if all(_is_per_channel(held.get(key), named) for key in pair):
                return ".".join(filter(None, (name, pair[0])))
    return ""


def _is_per_channel(value: object, named: bool) -> bool:
    """Whether a value is a number for each channel; one for all only where that is sure."""
    if isinstance(value, int | float):
        return named
    if isinstance(value, list | tuple):
        return 1 <= len(value) <= MOST_CHANNELS
    shape = getattr(value, "shape", None)  # of tensors and arrays
    return isinstance(shape, tuple) and 1 <= math.prod(shape) <= MOST_CHANNELS
