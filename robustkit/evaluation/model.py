"""What is evaluated: a checkpoint, or a module in memory."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robustkit import checkpoint as checkpoints
from robustkit.attack.contract import EVALUATED
from robustkit.checkpoint import Checkpoint
from robustkit.checkpoint.adapter import OneByOne, freeze, replica
from robustkit.checkpoint.architecture import unscaled_normalisation
from robustkit.checkpoint.checkpoint import ADAPTER
from robustkit.checkpoint.metadata import RECORDED
from robustkit.checkpoint.reading import own_normalisation
from robustkit.evaluation.outputs import Outputs, on_noise
from robustkit.evaluation.tree import Unreadable, tree_of, weights_of
from robustkit.files import shipped
from robustkit.keys import ModuleKey

Load = Callable[[torch.device], torch.nn.Module]
ALONE = {"image_by_image": True}
"""in a key and a record's header, of a network whose images never share a batch"""
CHECKPOINT_KEYS = ("path", *RECORDED, "weights", "preprocessing", "notes")
"""what a record's header says of the checkpoint"""


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """What is evaluated: a checkpoint, or a module in memory."""

    identity: Mapping[str, Any]
    """everything that can change a logit, as JSON"""
    header: Mapping[str, Any]
    """the record's `checkpoint` entry"""
    warnings: Sequence[str]
    load: Callable[[torch.device], torch.nn.Module]
    """a frozen module on pixels in [0, 1]"""
    shape: tuple[int, int, int] | None = None
    """C, H, W of the training images, where that is recorded"""
    outputs: Callable[[tuple[int, int, int], torch.device], Outputs | None] | None = None
    """of a module in memory, logits on noise of C × H × W, with which those of a record on file
    must agree; None of these: no record answers. Of a checkpoint its file says all."""
    instead: str = EVALUATED
    """where its logits depend on the batch, what can be done about it but to mend it"""


ONE_BY_ONE = (
    "evaluated image by image, as asked: beside others an image may get other logits, so these "
    "numbers hold for images that come alone"
)


def from_checkpoint(
    checkpoint: Checkpoint, classes: int | None = None, *, image_by_image: bool = False
) -> EvaluatedModel:
    """A checkpoint as what is evaluated; `classes` and `image_by_image` as with `from_module`."""
    header = {key: getattr(checkpoint, key) for key in CHECKPOINT_KEYS}
    if Path(checkpoint.path).parent == shipped("data"):
        header["path"] = Path(checkpoint.path).stem  # a shipped one goes by its name

    def load(device: torch.device) -> torch.nn.Module:
        return checkpoint.load(device, classes)

    if not image_by_image:
        return EvaluatedModel(
            checkpoint.identity, header, checkpoint.warnings, load, checkpoint.trained_shape
        )
    return EvaluatedModel(
        checkpoint.identity | ALONE,
        header | ALONE,
        (*checkpoint.warnings, ONE_BY_ONE),
        _one_by_one(load),
        checkpoint.trained_shape,
    )


def _one_by_one(load: Load) -> Load:
    return lambda device: freeze(OneByOne(load(device)))


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

    def load(device: torch.device) -> torch.nn.Module:
        return checkpoints.wrap(module, classes).to(device)

    # of the copy that is evaluated: in eval mode, whatever the module's own mode is
    copied = freeze(replica(module))
    weights, tree = _read(copied)
    buffers = {name: value.float().cpu().numpy() for name, value in copied.named_buffers()}
    unscaled = unscaled_normalisation(buffers)
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
        "preprocessing": "in the module",
        "notes": [],
        **(ALONE if image_by_image else {}),
    }
    loaded = _one_by_one(load) if image_by_image else load
    readable = weights and tree
    return EvaluatedModel(
        key.plain(),
        header,
        (
            *((own_normalisation(unscaled),) if unscaled else ()),
            *((ONE_BY_ONE,) if image_by_image else ()),
        ),
        loaded,
        outputs=lambda shape, device: on_noise(loaded, shape, device) if readable else None,
    )


def _read(module: torch.nn.Module) -> tuple[str, str]:
    """Digests of weights and tree; "" for what cannot be read."""
    weights = tree = ""
    with suppress(Unreadable):
        weights = weights_of(module)
    with suppress(Unreadable, RecursionError):
        tree = tree_of(module)
    return weights, tree
