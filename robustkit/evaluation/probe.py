"""A few images through a model before any work: whether and how it can be evaluated."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustkit.attacks.contract import FEW, check_contract
from robustkit.attacks.library import seeded
from robustkit.attacks.victim import VOTES
from robustkit.checkpoint.adapter import Classifier, Flipped, OneByOne
from robustkit.checkpoint.readings import listed
from robustkit.data import Dataset
from robustkit.errors import DataError, NetworkFailed
from robustkit.evaluation.model import EVALUATED
from robustkit.network import gradient

ROUNDED = 1e-4
"""of a sum of probabilities, as they come in float32 from many classes"""


@dataclass(frozen=True, slots=True)
class NetworkTraits:
    """What a user should know of a model that can be evaluated."""

    random: bool
    """whether passes over the same image differ"""
    gradient: bool | None
    """whether a gradient arrives at the pixels; None: not asked"""
    beside: tuple[str, ...] = ()
    """what it does at a pass beside answering, in words"""
    probabilities: bool = False
    """whether it answers with those instead of logits"""
    converted: tuple[str, ...] = ()
    """of a network that was converted from a graph, how it compares with the original, in words"""

    @property
    def warnings(self) -> list[str]:
        """As sentences."""
        found = list(self.converted)
        if self.random:
            found.append(
                f"the network is randomised: verdicts rest on mean logits over {VOTES} "
                "passes, and attacks need averaged gradients (autoattack-rand, eot)"
            )
        if self.gradient is False:
            found.append(
                "no gradient reaches the pixels: gradient attacks fail or find nothing, "
                "which is not robustness; square and hopskipjump need no gradients"
            )
        if self.probabilities:
            found.append(
                "the network returns probabilities, not logits: where they are 0 or 1 to rounding, "
                "gradient attacks find nothing, which is not robustness; return what goes into "
                "its softmax"
            )
        if self.beside:
            found.append(
                f"the network {' and '.join(self.beside)} in a forward pass: undone after "
                "each pass, so that no number changes, but other programs may be affected"
            )
        return found


def probe(
    model: torch.nn.Module,
    data: Dataset,
    device: torch.device,
    instead: str = EVALUATED,
    *,
    gradients: bool = True,
) -> NetworkTraits:
    """What is found of a model that gives one image the same logits, whoever shares its batch.

    Args:
        model: frozen, from pixels in [0, 1] to logits.
        data: a few of its images are passed.
        device: the model's.
        instead: what a refusal says can be done where the network stays as it is.
        gradients: whether to ask for them.

    Raises:
        DataError: the model does not take the images, or has other classes.
        InputError: its logits depend on the batch, on what was passed before, or it seeds the
            random generators that others draw from.
    """
    images = torch.from_numpy(data.images(0, min(FEW, len(data)))).to(device)
    source = f" of {data.name}; see --resize, --crop and --channels"
    classes, random = check_contract(model, images, instead, source)
    if not _classes_fit(classes, data):
        instead = ""
        if len(data.classes) == classes + 1 and int(data.labels.min()) == 1:
            instead = "; if its labels are numbered from 1, subtract 1: they are counted from 0"
        held = set(data.labels.tolist())
        empty = [name for label, name in enumerate(data.classes) if label not in held]
        if len(data.classes) > classes and empty and not _guessed(data):
            instead = f"; no images in {listed(empty)}: remove what is no class"
        if len(data.classes) < classes:
            instead = (
                f"; if these are a subset of them, pass --num-classes {classes}, and "
                "--classes to say which"
            )
        raise DataError(
            f"the model has {classes} classes, but the data set {data.name} has "
            f"{len(data.classes)}{instead}"
        )
    with seeded(0, device):  # and global generators are left as they were
        gradient = _gradient_arrives(model, images) if gradients else None
        beside = _beside(model, images[:1])
        saturates = gradients and _gives_probabilities(model, images[:1])
        return NetworkTraits(random, gradient, beside, saturates, _converted(model, images))


def _converted(model: torch.nn.Module, images: Tensor) -> tuple[str, ...]:
    """What a network that was converted from a file's graph says of itself on these images.

    Raises:
        CheckpointError: it is not what the original gives.
    """
    holder = _inside(model)
    if not isinstance(holder, Classifier):
        return ()
    network, pixels = holder.network, holder.pixels(images)
    if isinstance(network, Flipped):
        network, pixels = network.network, pixels.flip(1)
    tell: Any = getattr(network, "told", None)
    return () if tell is None else tuple(tell(pixels))


def _inside(model: torch.nn.Module) -> torch.nn.Module:
    while isinstance(model, OneByOne):
        model = model.network
    return model


def _beside(model: torch.nn.Module, image: Tensor) -> tuple[str, ...]:
    """What the network itself does beside answering, with gradients and without."""
    holder = _inside(model)
    if not isinstance(holder, Classifier):
        return ()
    network = holder.network
    # not by hooks, which TorchScript has none of
    holder.network = watched = _Watched(network)
    try:
        for grad in (False, True):
            with torch.set_grad_enabled(grad), suppress(NetworkFailed, torch.OutOfMemoryError):
                model(image)
    finally:
        holder.network = network
    return tuple(watched.seen)


def _gradient_arrives(model: torch.nn.Module, images: Tensor) -> bool:
    """Whether a gradient arrives at the pixels of an image: mostly the first, or else any."""
    parts = (images[:1], images[1:])
    return any(_has_gradient(model, part) for part in parts if len(part))


def _gives_probabilities(model: torch.nn.Module, image: Tensor) -> bool:
    """Whether an image's outputs lie in [0, 1] and add up to 1 (Croce and Hein 2020)."""
    with torch.no_grad():
        outputs = model(image).float()
    return bool((outputs >= 0).all()) and abs(float(outputs.sum()) - 1) < ROUNDED


def _has_gradient(model: torch.nn.Module, images: Tensor) -> bool:
    """Whether a gradient that is not zero everywhere arrives at the pixels."""
    x = images.clone().requires_grad_()
    try:
        with torch.enable_grad():
            logits = model(x)
            if not logits.requires_grad:
                return False
            # each with a weight of its own: probabilities sum to 1, whose gradient is zero
            weights = torch.arange(1, logits.shape[1] + 1, device=x.device)
            found = gradient((logits.float() * weights).sum(), x, allow_unused=True)
    except (NetworkFailed, torch.OutOfMemoryError):
        return False
    return found is not None and bool((found != 0).any())


class _Watched(torch.nn.Module):
    """A network, and what it leaves behind at a pass."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: dict[str, None] = {}
        self.training = False  # and the network as it is

    def forward(self, x: Tensor) -> Any:
        """As the network."""
        given, grad, dtype = x.detach().clone(), torch.is_grad_enabled(), torch.get_default_dtype()
        # an exported program's parts may say so from the start, and nothing changes it
        before = any(part.training for part in self.modules())
        output = self.network(x)
        found = {
            "modifies its input": not torch.equal(x.detach(), given),
            "switches itself to training mode": not before
            and any(part.training for part in self.modules()),
            "switches gradients on or off": torch.is_grad_enabled() != grad,
            "changes the default data type": torch.get_default_dtype() != dtype,
        }
        self.seen |= dict.fromkeys(words for words, happened in found.items() if happened)
        return output


def _classes_fit(count: int, data: Dataset) -> bool:
    """Whether a model of so many classes fits; classes guessed from labels may lack the last."""
    return count == len(data.classes) or (_guessed(data) and count > len(data.classes))


def _guessed(data: Dataset) -> bool:
    """Whether nothing but the labels says how many classes there are."""
    numbers = tuple(map(str, range(len(data.classes))))
    return "origin" not in data.source and data.classes == numbers
