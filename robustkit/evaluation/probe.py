"""A few images through a model before any work: whether and how it can be evaluated."""

from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from robustkit.attacks.company import FEW
from robustkit.attacks.contract import PASSES, Contract, check_contract
from robustkit.attacks.victim import VOTES
from robustkit.checkpoint.adapter import Classifier, Flipped, OneByOne
from robustkit.checkpoint.logits import heads
from robustkit.checkpoint.readings import listed
from robustkit.data import Dataset
from robustkit.errors import DataError, InputError, NetworkFailed
from robustkit.evaluation.model import EVALUATED
from robustkit.evaluation.slopes import arrival, doubts, without_at_ends
from robustkit.network import answer, trains
from robustkit.parsing import in_percent
from robustkit.protocol import Protocol
from robustkit.seeding import seeded
from robustkit.statistics.estimate import counted

ROUNDED = 1e-4
"""of a sum of probabilities, as they come in float32 from many classes"""
VANISHED = 1e-30
"""of a loss's gradient in the logits: on its way through a network it comes to 0 in float32"""
STEPPED = 8
"""images at which a step is taken along it"""
PER_CENT = 100.0
"""what such outputs add up to at most"""


@dataclass(frozen=True, slots=True)
class NetworkTraits:
    """What a user should know of a model that can be evaluated."""

    random: bool
    """whether passes over the same image differ"""
    idle: bool
    """whether random numbers are drawn all the same"""
    missing: int = 0
    """images of `asked` at which no gradient arrives at the pixels"""
    beside: tuple[str, ...] = ()
    """what it does at a pass beside answering, in words"""
    probabilities: bool = False
    """whether it answers with those instead of logits"""
    undefined: float = 0.0
    """share of pixels at which the gradient is NaN or infinite"""
    vanishing: int = 0
    """images of `asked` at which the gradient of the loss that all attacks ascend is 0"""
    asked: int = 0
    converted: tuple[str, ...] = ()
    """of a network that was converted from a graph, how it compares with the original, in words"""
    doubts: tuple[str, ...] = ()
    """what is wrong with its gradient, in words"""
    logits: Tensor | None = field(default=None, compare=False, repr=False)
    """of the images that were passed; None: they differ from pass to pass"""

    @property
    def warnings(self) -> list[str]:
        """As sentences."""
        found = list(self.converted)
        if self.random:
            found.append(
                f"the network is randomised: verdicts rest on mean logits over {VOTES} "
                "passes, and attacks need averaged gradients (autoattack-rand, eot)"
            )
        if self.idle:
            found.append(
                f"the network draws random numbers in a forward pass, which changed nothing in "
                f"{PASSES} passes: it is taken for deterministic"
            )
        if self.missing:
            found.append(
                f"no gradient reaches the pixels of {self.missing} of "
                f"{counted(self.asked, 'image')}: gradient attacks fail or find nothing there, "
                "which is not robustness; square and hopskipjump need no gradients"
            )
        if self.probabilities:
            found.append(
                "the network returns probabilities, not logits: where they are 0 or 1 to rounding, "
                "gradient attacks find nothing, which is not robustness; return what goes into "
                "its softmax or sigmoid"
            )
        if self.undefined:
            found.append(
                f"the gradient is no finite number at {in_percent(self.undefined)} of the pixels: "
                "attacks that follow it leave those as they are, which is not robustness; a square "
                "root or logarithm of 0 has no gradient, and a small number added inside mends "
                "that; square and hopskipjump need no gradients"
            )
        if self.vanishing:
            found.append(
                f"the cross-entropy has no gradient, to rounding, at {self.vanishing} of "
                f"{counted(self.asked, 'image')}, so far apart are the logits: attacks that ascend "
                "it find nothing there, which is not robustness; pgd-margin and autoattack ascend "
                "other losses"
            )
        found += self.doubts
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
    losses: Collection[str] = (),
    batch: int | None = None,
) -> NetworkTraits:
    """What is found of a model that gives one image the same logits, whoever shares its batch.

    Args:
        model: frozen, from pixels in [0, 1] to logits.
        data: a few of its images are passed.
        device: the model's.
        instead: what a refusal says can be done where the network stays as it is.
        gradients: whether to ask for them.
        losses: that the attacks ascend, as `losses_away` has them.
        batch: how many images will be passed at once, where that is known.

    Raises:
        DataError: the model does not take the images, or has other classes.
        InputError: its logits depend on the batch, on what was passed before, or it seeds the
            random generators that others draw from.
    """
    images, labels = few_images(data, device), torch.from_numpy(data.labels[:FEW])
    source, advice = f" of {data.name}", "; see --resize, --crop and --channels"
    contract = check_contract(model, images, instead, source, advice, batch)
    _check_classes(contract.classes, data)
    if _guessed(data):
        _check_head(model, images, labels.to(device))
    return traits(model, images, labels, contract, gradients=gradients, losses=losses)


def traits(
    model: torch.nn.Module,
    images: Tensor,
    labels: Tensor,
    contract: Contract,
    *,
    gradients: bool = True,
    losses: Collection[str] = (),
) -> NetworkTraits:
    """What is found of a model that keeps the contract, of whose classes the labels are.

    Args:
        model: frozen, from pixels in [0, 1] to logits.
        images: a few, N × C × H × W, on the model's device.
        labels: theirs, N.
        contract: what is known of the model.
        gradients: as for `probe`.
        losses: as for `probe`.
    """
    with seeded(0, images.device):  # and global generators are left as they were
        beside = _beside(model, images[:1])
        outputs = _outputs(model, images)
        found = NetworkTraits(
            contract.random,
            contract.idle,
            beside=beside,
            converted=_converted(model, images),
            logits=None if contract.random else outputs,
        )
        if not gradients:
            return found
        arrived = arrival(model, images)
        missing, probabilities = arrived.missing.cpu(), _are_probabilities(outputs)
        of_gradient = doubts(model, images[:STEPPED], random=contract.random)
        if not missing.all():
            of_gradient += without_at_ends(model, images)
            if probabilities:  # which says why it is missing
                missing = torch.zeros_like(missing)
        blind = set(losses) == {"cross-entropy"}
        return replace(
            found,
            missing=int(missing.sum()),
            probabilities=probabilities,
            undefined=arrived.undefined,
            vanishing=_vanishing(outputs.cpu()[~missing], labels[~missing]) if blind else 0,
            asked=len(images),
            doubts=of_gradient,
        )


def few_images(data: Dataset, device: torch.device) -> Tensor:
    """The images that are passed."""
    return torch.from_numpy(data.images(0, min(FEW, len(data)))).to(device)


def _check_classes(classes: int, data: Dataset) -> None:
    """Nothing, if a model of so many classes fits the data.

    Raises:
        DataError: it does not.
    """
    if _classes_fit(classes, data):
        return
    instead = ""
    if len(data.classes) == classes + 1 and int(data.labels.min()) == 1:
        instead = "; if its labels are numbered from 1, subtract 1: they are counted from 0"
    held = set(data.labels.tolist())
    empty = [name for label, name in enumerate(data.classes) if label not in held]
    if len(data.classes) > classes and empty and not _guessed(data):
        instead = f"; no images in {listed(empty)}: remove what is no class"
    if len(data.classes) < classes:
        instead = (
            "; if these are a subset of them, say which with --classes (in Python classes=…, here "
            "or of load_dataset)"
        )
    raise DataError(
        f"the model has {classes} classes, but the data set {data.name} has "
        f"{len(data.classes)}{instead}"
    )


def _check_head(model: torch.nn.Module, images: Tensor, labels: Tensor) -> None:
    """Nothing, if a network says the labels nowhere as well as in what was taken for its logits.

    That is its output for as many classes as there are labels, which need not reach their number.

    Raises:
        InputError: one does.
    """
    holder = _inside(model)
    if not isinstance(holder, Classifier):
        return
    right, taken = Counter[tuple[int, int]](), 0
    size = 1 if isinstance(model, OneByOne) else len(images)
    with torch.no_grad():
        for rows in torch.arange(len(images)).chunk(len(images) // size):
            x, y = images[rows], labels[rows]
            logits = model(x)
            taken += int((logits.argmax(1) == y).sum())
            for place, head in enumerate(heads(answer(holder.network, holder.pixels(x)), len(x))):
                if head.shape[1] != logits.shape[1]:
                    right[place, head.shape[1]] += int((head.argmax(1) == y).sum())
    for (_, other), said in right.items():
        if said > max(taken, len(images) // 2):
            shapes = f"{len(images)}×{logits.shape[1]} and {len(images)}×{other}"
            raise InputError(
                f"the model returns {shapes} outputs, and the labels, up to {int(labels.max())}, "
                "fit both: it is ambiguous which are the logits; return only those, name them "
                "logits, or give the data's classes by name"
            )


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


def _outputs(model: torch.nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(images).float()
    return found


def _are_probabilities(outputs: Tensor) -> bool:
    """Whether outputs, N × K, are those of a softmax (Croce and Hein 2020), or of sigmoids.

    None is negative, and either each is at most 1 or all images' add up to the same, as per cents.
    Outputs that are the same for all images, as of one, say so only by adding up to 1.
    """
    sums = outputs.sum(1)
    if not bool((outputs >= 0).all()):
        return False
    if bool((outputs == outputs[:1]).all()):
        return abs(float(sums[0]) - 1) < ROUNDED
    alike = bool(((sums - sums[0]).abs() <= ROUNDED * sums[0].abs()).all())
    in_all = float(sums.max()) <= PER_CENT * (1 + ROUNDED)
    return (alike and in_all) or float(outputs.max()) <= 1


def losses_away(protocol: Protocol) -> list[str]:
    """The loss of each attack that takes images away from their own class; "" for any other."""
    away = protocol.target == "none"
    return [
        getattr(attack, "loss", "") if away and getattr(attack, "targets", 0) == 0 else ""
        for attack in protocol.attacks
    ]


def _vanishing(logits: Tensor, labels: Tensor) -> int:
    """At how many of N images, N × K, the cross-entropy of their own class has no gradient."""
    if logits.shape[1] < 2:
        return 0
    gradient = logits.softmax(1)
    gradient[torch.arange(len(logits)), labels.to(logits.device)] -= 1
    return int((gradient.abs().amax(1) < VANISHED).sum())


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
        before = any(map(trains, self.modules()))
        output = self.network(x)
        found = {
            "modifies its input": not torch.equal(x.detach(), given),
            "switches itself to training mode": not before and any(map(trains, self.modules())),
            "switches gradients on or off": torch.is_grad_enabled() != grad,
            "changes the default data type": torch.get_default_dtype() != dtype,
        }
        self.seen |= dict.fromkeys(words for words, happened in found.items() if happened)
        return output


def _classes_fit(count: int, data: Dataset) -> bool:
    """Whether a model of so many classes fits; where numbers alone are known, it may have more."""
    more = count > len(data.classes) and (_guessed(data) or _given_by_number(data))
    return more or count == len(data.classes)


def _given_by_number(data: Dataset) -> bool:
    """Whether classes were given the network's numbers, the largest of which is all that is known.

    So it is of a module in memory, or a checkpoint that does not say how many it has.
    """
    given = data.source.get("class_map", {})
    largest = max(given.get("numbers", {}).values(), default=-1)
    return given.get("by") == "number" and largest == len(data.classes) - 1


def _guessed(data: Dataset) -> bool:
    """Whether nothing but the labels says how many classes there are."""
    numbers = tuple(map(str, range(len(data.classes))))
    return "origin" not in data.source and data.classes == numbers
