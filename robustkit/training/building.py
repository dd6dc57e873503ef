"""What a training begins with: a network with its first weights, and a loss that fits it."""

import torch
from torch import nn

from robustkit import models
from robustkit.errors import InputError, NetworkFailed, TrainingFailed, one_line
from robustkit.losses.loss import Loss, Step
from robustkit.network import asked
from robustkit.seeding import generators_kept
from robustkit.training.config import TrainingConfig
from robustkit.training.examples import Batch, Examples
from robustkit.training.numerics import channels_last, lowered
from robustkit.training.recipe import updates

PROBE = 8
"""images on which a loss is fitted to the network"""


def first_network(config: TrainingConfig, examples: Examples, precision: str) -> nn.Module:
    """The architecture with its first weights, which fit images and classes.

    Raises:
        InputError: they don't.
    """
    classes, device = len(config.data.classes), examples.given.device
    seed = examples.key("weights", config.seed)
    network = models.build(config.model, num_classes=classes, seed=seed).to(device)
    if channels_last(precision, device):
        network = network.to(memory_format=torch.channels_last)
    for name, kept in network.state_dict().items():
        if not isinstance(kept, torch.Tensor):
            raise InputError(
                f"{config.model} keeps a state that is not a tensor ({name}); a "
                "checkpoint holds only tensors"
            )
    # a layer that takes its size from the first pass would draw its weights there, whatever the
    # seed, and no file of them could be read again
    models.layout_of(network)
    shape = "×".join(map(str, config.data.shape))
    few = examples.take(torch.arange(1)).images
    try:
        with asked("on an image"), generators_kept(device), torch.no_grad():
            logits = network.eval()(few)
    except NetworkFailed as error:
        raise InputError(
            f"{config.model} does not accept images of {shape}: "
            f"{one_line(error.__cause__ or error)}; choose another --model, or "
            "--resize, --crop or --channels"
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"{config.model} returns {type(logits).__name__}, not a tensor")
    if logits.shape != (1, classes):
        raise InputError(
            f"{config.model} returns {'×'.join(map(str, logits.shape))} for one image; "
            f"{config.data.name} has {classes} classes, so 1×{classes} is expected"
        )
    return network


def fitted(
    loss: Loss,
    config: TrainingConfig,
    network: nn.Module,
    examples: Examples,
    batch: Batch,
    precision: str,
) -> Loss:
    """The loss to train that network with, after a try on the first batch.

    Raises:
        InputError: they don't fit.
        TrainingFailed: the batch does not fit into memory.
    """
    device = examples.given.device
    few = examples.take(torch.arange(min(PROBE, len(examples)))).images
    first = Step(0, torch.Generator(device), updates(config.recipe, len(examples)))
    try:
        with asked("in training mode"):
            # as it will be trained: only so it shows that it couples the images of a batch
            network.train()
            loss = loss.prepare(network, few)
            with lowered(precision, device):
                loss.try_out(network, batch.images, batch.given, first)
    except NetworkFailed as error:
        raise InputError(f"{config.model} with the loss {config.loss}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise TrainingFailed(
            "out of memory on the first batch; try a smaller --batch-size"
        ) from error
    return loss
