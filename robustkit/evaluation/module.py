"""A module in memory as what is evaluated."""

from contextlib import suppress
from functools import partial
from typing import Any

import torch

from robustkit import checkpoint as checkpoints
from robustkit.checkpoint.adapter import freeze, replica
from robustkit.checkpoint.checkpoint import ADAPTER
from robustkit.checkpoint.normalising import normalising_layer, numbers_in, unscaled
from robustkit.checkpoint.readings import normalisation_in
from robustkit.evaluation.model import (
    ALONE,
    CHECKPOINT_KEYS,
    ONE_BY_ONE,
    EvaluatedModel,
    one_by_one,
)
from robustkit.evaluation.outputs import on_noise
from robustkit.evaluation.tree import Unreadable, tree_of, weights_of
from robustkit.keys import ModuleKey
from robustkit.results.records import COMPUTED

FEW = 4
"""numbers at most of a buffer that may be a mean or a standard deviation of channels"""
DIVIDE = "divide its mean and std by 255, unless it multiplies pixels by 255 itself"


def from_module(
    module: torch.nn.Module,
    name: str | None,
    classes: int | None = None,
    *,
    image_by_image: bool = False,
) -> EvaluatedModel:
    """A module in memory as what is evaluated, known by its tree, its weights and its outputs.

    One of which something cannot be read is evaluated anew each time. The module is copied.

    Args:
        module: takes float32 N × C × H × W in [0, 1] and returns logits N × K.
        name: under which its record is kept.
        classes: of the data, by which the logits are told where it returns several tensors.
        image_by_image: its images never share a batch.

    Raises:
        InputError: the module cannot be copied.
    """
    load = partial(_wrapped, module, classes)
    # of the copy that is evaluated: in eval mode, whatever the module's own mode is
    copied = freeze(replica(module))
    weights, tree, computed = _read(copied)
    # of few numbers, as a mean and a standard deviation are: others need not be read at all
    few = {name: value for name, value in copied.named_buffers() if value.numel() <= FEW}
    sizes = {name: value.numel() for name, value in few.items()}
    own = normalisation_in(sizes, lambda name: numbers_in(few[name])) or normalising_layer(copied)
    kind = type(module).__qualname__
    key = ModuleKey(
        module=kind,
        name=name,
        adapter=ADAPTER,
        weights=weights,
        tree=tree,
        image_by_image=image_by_image or None,
    )
    header: dict[str, Any] = {
        **dict.fromkeys(CHECKPOINT_KEYS),
        "path": name or f"<{kind}>",
        "weights": weights,
        COMPUTED: computed,
        "preprocessing": "in the module",
        "notes": [],
        "warnings": [],
        **(ALONE if image_by_image else {}),
    }
    loaded = one_by_one(load) if image_by_image else load
    readable = weights and tree
    return EvaluatedModel(
        key.plain(),
        header,
        (
            *((f"{unscaled(own)}: {DIVIDE}",) if own is not None and own.of_bytes else ()),
            *((ONE_BY_ONE,) if image_by_image else ()),
        ),
        loaded,
        outputs=lambda shape, device: on_noise(loaded, shape, device) if readable else None,
    )


def _wrapped(module: torch.nn.Module, classes: int | None, device: torch.device) -> torch.nn.Module:
    return checkpoints.wrap(module, classes).to(device)


def _read(module: torch.nn.Module) -> tuple[str, str, str]:
    """Digests of weights, tree and network; "" for what cannot be read."""
    weights = tree = computed = ""
    with suppress(Unreadable):
        weights = weights_of(module)
    with suppress(Unreadable, RecursionError):
        tree, computed = tree_of(module)
    return weights, tree, computed
