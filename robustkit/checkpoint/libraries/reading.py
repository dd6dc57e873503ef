"""From a folder's JSON to what it declares, and from that to a network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustkit.checkpoint.boundary import boundary
from robustkit.checkpoint.libraries import hf, table, timm, torchvision
from robustkit.checkpoint.libraries.declared import Declared
from robustkit.checkpoint.libraries.processing import Processing, read_processing
from robustkit.checkpoint.metadata import check_normalisation
from robustkit.checkpoint.readings import StateReading
from robustkit.errors import CheckpointError, RobustkitError, one_line
from robustkit.unpickling.tensors import State

if TYPE_CHECKING:
    import torch

WRAPPED = "timm_model."
"""before the names of timm's network in transformers' wrapper"""
OUTSIDE = ("module.", "_orig_mod.", "_module.", "model.", "net.", "network.")
"""before all names, of training code; no library's network for images is called so as a whole"""
WRAPPER, MOST_WRAPPED = ".module.", 2
"""what DDP puts inside the names of parts, and how many parts are taken to be wrapped"""
HEADS = (
    "classifier.bias", "classifier.1.bias", "head.bias", "head.fc.bias", "fc.bias",
    "cls_classifier.bias", "distillation_classifier.bias", "head_dist.bias",
    "classifier.linear.bias", "classifier_distill.linear.bias", "head.linear.bias",
    "head_dist.linear.bias", "last_linear.bias",
)  # fmt: skip
"""biases of last layers; a distilled network has two"""


def read_declared(words: Mapping[str, Mapping[str, Any]], where: str) -> Declared | None:
    """What a folder's JSON says of its network; None where it names no library's.

    Args:
        words: the tables of its JSON files, by file name.
        where: the folder, for messages.

    Raises:
        CheckpointError: a value that makes no sense, or by which something would be fetched or run.
    """
    said = words.get(hf.CONFIG)
    if said is None:
        return None
    config = f"{where}: {hf.CONFIG}"
    if timm.is_config(said):
        found = _of_timm(said, config)
    elif hf.is_config(said):
        found = _of_transformers(said, read_processing(words, where), config)
    else:
        return None
    check_normalisation(found.known.mean, found.known.std, where)
    return found


def read_prepared(words: Mapping[str, Mapping[str, Any]], where: str) -> Declared | None:
    """What a folder's JSON says of its pictures alone, whatever the network; None: nothing.

    Raises:
        CheckpointError: as `read_declared`.
    """
    if (processing := read_processing(words, where)) is None:
        return None
    found = _of_processing({}, processing, where)
    check_normalisation(found.known.mean, found.known.std, where)
    return found


def _of_timm(said: Mapping[str, Any], where: str) -> Declared:
    name = timm.architecture(said, where)
    return Declared(
        library="timm",
        architecture=name,
        arguments=timm.arguments(said, where),
        num_classes=timm.num_classes(said, where),
        label_names=timm.label_names(said, where),
        normalisation=timm.normalisation(said, where),
        input_shape=timm.input_shape(said, where),
        pipeline=timm.pipeline(said, where),
    )


def _of_transformers(
    said: Mapping[str, Any], processing: Processing | None, where: str
) -> Declared:
    return replace(
        _of_processing(said, processing, where),
        architecture=hf.architecture(said, where),
        arguments=hf.arguments(said, where),
        num_classes=hf.num_classes(said, where),
        label_names=hf.label_names(said, where),
    )


def _of_processing(said: Mapping[str, Any], processing: Processing | None, where: str) -> Declared:
    channels = table.side(said.get("num_channels", 3), "num_channels", where)
    size = processing.output if processing else None
    return Declared(
        library="transformers",
        architecture="",
        arguments={},
        num_classes=None,
        label_names=(),
        normalisation=processing.normalisation if processing else None,
        input_shape=(channels, *size) if size else None,
        pipeline=processing.pipeline(channels) if processing else None,
    )


def reading_of(declared: Declared, variants: Sequence[StateReading]) -> StateReading:
    """How the file's names are read: without what stands in front of all of them."""
    plain = variants[0]
    fronts = (*OUTSIDE, WRAPPED) if declared.library == "timm" else OUTSIDE
    outside = re.compile(f"({'|'.join(map(re.escape, fronts))})*")
    whole = [r for r in variants if r.mean is None and len(r.state) == len(plain.state)]
    found = [r for r in whole if outside.fullmatch(r.prefix)]
    # LeViT calls what is within its residual layers so; training code wraps a part or two
    parents = {n[: n.index(WRAPPER)] for n in plain.state if WRAPPER in n}
    if len(parents) > MOST_WRAPPED:
        found = [r for r in found if any(WRAPPER in name for name in r.state)] or found
    return found[-1]


def rows_of_head(state: State) -> int | None:
    """How many classes the last layer of a file has, by the names that libraries give it."""
    found = {len(state[name]) for name in HEADS if name in state and state[name].ndim == 1}
    return found.pop() if len(found) == 1 else None


def check_buildable(declared: Declared, where: str) -> None:
    """Nothing, if a library is installed and knows the architecture; no network is built.

    Raises:
        CheckpointError: it is not, or does not.
    """
    if declared.unmet:
        raise CheckpointError(f"{where}: {declared.unmet}")
    place = f"{where}: {hf.CONFIG}"
    if declared.library == "transformers":
        hf.class_name(declared.arguments, place)
    elif declared.library == "timm":
        timm.check_known(declared.architecture, place)


def build(
    declared: Declared, state: State, where: Path, device: "str | torch.device"
) -> "torch.nn.Module":
    """The network that a folder declares, frozen, with the file's weights in it.

    Raises:
        CheckpointError: the library is not installed, cannot build it, or the weights are not its
            own.
    """
    if declared.unmet:
        raise CheckpointError(f"{where}: {declared.unmet}")
    from robustkit.checkpoint.adapter import Flipped, freeze  # torch

    said, place = declared.arguments, f"{where}: {hf.CONFIG}"
    if declared.library == "torchvision":
        place = str(where)
    with boundary(where):
        try:
            if declared.library == "timm":
                made = timm.build(declared.architecture, said, state, place)
            elif declared.library == "torchvision":
                made = torchvision.build(declared.architecture, state, place)
            else:
                made = hf.build(said, state, place)
        except (RobustkitError, MemoryError, RecursionError):
            raise
        except Exception as error:  # a library raises nearly anything on numbers that do not fit
            raise CheckpointError(
                f"{place}: {declared.library} {declared.version} cannot build "
                f"{declared.architecture} from it ({one_line(error)})"
            ) from error
        return freeze(Flipped(made) if declared.flipped else made).to(device)
