"""Recipes: optimiser, schedule and epochs, with defaults by loss and data set. Needs no torch."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from robustkit.errors import InputError, UnknownName

Augment = Literal["flip", "crop"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained, whatever the loss."""

    epochs: int = 10
    steps: int | None = None
    """updates in all, whatever the number of images; instead of epochs"""
    batch_size: int = 128
    """images an update takes, over all processes"""
    optimizer: Literal["sgd", "rmsprop", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    """of SGD and RMSProp"""
    nesterov: bool = False
    smoothing: float = 0.9
    """of RMSProp's mean of squares"""
    start: float = 0.0
    """of that mean; TensorFlow begins at 1, torch at 0"""
    stabiliser: float = 1e-8
    """added to the denominator by RMSProp and Adam"""
    weight_decay: float = 5e-4
    """times the weights, added to the gradient (AdamW: taken off the weights)"""
    schedule: Literal["constant", "cosine", "one-cycle", "staircase", "multistep"] = "cosine"
    decay: float = 0.96
    """of the staircase: the factor"""
    decay_steps: int = 2000
    """of the staircase: updates between two factors"""
    milestones: tuple[int, ...] = ()
    """of multistep: after how many updates the rate drops, rising"""
    drop: float = 0.1
    """of multistep: the factor at each"""
    clip: float | None = None
    """largest norm of the whole gradient"""
    augment: tuple[Augment, ...] = ()
    """flip: mirrored with probability a half; crop: shifted by up to 4 pixels, zeros moving in"""
    hold_out: Fraction = Fraction(1, 10)
    """images kept for watching: how many, or below 1 what share of the training images"""


LINES = 50
"""epochs at most that end in a line of history, where the number of updates is given"""
MULTISTEP = ("milestones", "drop")
FURTHER = {"nesterov", "smoothing", "start", "stabiliser", "decay", "decay_steps", *MULTISTEP}
"""fields without an option of their own"""


class Published(NamedTuple):
    """What was published with a paper for a loss on a data set."""

    recipe: Recipe
    """but for what is held out"""
    settings: dict[str, Any]
    """of the loss"""


PAPER_MARGIN = Recipe(
    epochs=200,
    batch_size=256,
    optimizer="rmsprop",
    learning_rate=0.1,
    momentum=0.0,
    start=1.0,
    stabiliser=0.1,  # TensorFlow adds 1e-2 under the root
    schedule="staircase",
    clip=5.0,
)
"""The code published with Elsayed et al. 2018, for the large margin on MNIST."""

PAPER_SETTINGS: dict[str, Any] = {
    "norm": "linf",
    "layers": ["input", "conv1", "conv2"],
    "gamma": 10000.0,
    "alpha": 4.0,
    "on": "probabilities",
    "normalise": True,
}
"""Likewise, of the loss; the layers are the convolutions of `WITH_CONV2`."""
WITH_CONV2 = ("lenet5", "mnist-cnn", "mnist-cnn-bn")

LENGTH = 30_000
PAPER_SOFTMAX = Recipe(
    steps=LENGTH,
    learning_rate=0.1,
    schedule="multistep",
    milestones=(5000, 7500, 10_000, LENGTH),
)
"""The configuration published with Liu et al. 2016, for MNIST."""
ANNEALED: dict[str, Any] = {"base": 1000.0, "gamma": 2.5e-5, "power": 35.0}
"""Likewise, of the loss."""
FLOOR = 5.0
"""Likewise, of λ, for data sets that are hard to fit."""

_MARGIN = Published(PAPER_MARGIN, PAPER_SETTINGS)
PUBLISHED = {
    ("large-margin", "mnist"): _MARGIN,
    ("large-margin", "mnist5k"): _MARGIN,
    ("large-margin-softmax", "mnist"): Published(PAPER_SOFTMAX, {"m": 4, **ANNEALED}),
    ("large-margin-softmax", "cifar10"): Published(
        replace(PAPER_SOFTMAX, milestones=(5000, 7500, LENGTH), augment=("flip",)),
        {"m": 2, "base": 1000.0, "gamma": 2e-5, "power": 45.0},
    ),
}
"""by loss and data set"""

WARMUP = 150
"""updates over which adversarial training's ε grows to 0.3; at once, it never leaves chance where
labels are noisy"""
GREY = ("mnist", "mnist5k")
COLOUR = ("cifar10", "cifar100", "svhn")


def default_recipe(loss: str, data: str) -> Recipe:
    """The default for a loss on a data set; a start for whatever is not known."""
    found = Recipe()
    if data in ("mnist", "fashion-mnist"):
        found = replace(found, hold_out=Fraction(1, 12))  # 5,000, as the fractions' papers do
    if data in COLOUR:
        flips: tuple[Augment, ...] = ("crop",) if data == "svhn" else ("flip", "crop")
        found = replace(found, epochs=30, learning_rate=0.1, nesterov=True, augment=flips)
    if loss == "large-margin":
        found = replace(found, learning_rate=0.01, clip=5.0)
    return found


def published(loss: str, data: str, model: str, given: Collection[str] = ()) -> Published:
    """The published recipe and settings; held out is what this project holds out.

    Raises:
        InputError: none are known, or they name layers that the model may not have and that are
            not among the settings given.
    """
    found = PUBLISHED.get((loss, data))
    if found is None:
        known = ", ".join(f"{loss} on {data}" for loss, data in PUBLISHED)
        raise InputError(
            f"--recipe paper: the paper's settings for {loss} on {data} were not found; "
            f"known: {known}"
        )
    if "layers" in found.settings.keys() - given and model not in WITH_CONV2:
        raise InputError(
            "--recipe paper puts margins at the input and after each convolution, there conv1 and "
            f"conv2; name those of {model} with --set layers=input,..., or take a model that has "
            f"these: {', '.join(WITH_CONV2)}"
        )
    held_out = default_recipe(loss, data).hold_out
    return found._replace(recipe=replace(found.recipe, hold_out=held_out))


def period(steps: int, epoch: int) -> int:
    """Updates to a line of history where so many are asked for: an epoch's, or several short ones'.

    Args:
        steps: updates in all.
        epoch: updates in an epoch.
    """
    return epoch * -(-steps // (LINES * epoch))


def updates(recipe: Recipe, images: int) -> int:
    """Updates in all, of a training on so many images."""
    return recipe.steps or recipe.epochs * max(1, -(-images // recipe.batch_size))


def default_settings(
    loss: str, data: str, updates: int, given: Collection[str] = ()
) -> dict[str, Any]:
    """What a loss is set to on a data set, where that is not its own default.

    Args:
        loss: its name.
        data: the data set's.
        updates: of the training, in all.
        given: settings that are chosen anyway.
    """
    if loss == "large-margin-softmax" and not ANNEALED.keys() & set(given):
        # as far along the run as in the published one, whatever its length: in the few hundred
        # updates of a short run, the published numbers themselves would hardly anneal; and down
        # to what the published code advises where data are hard: with 40 % wrong labels and no
        # such floor, features shrink to nothing and the network stays at chance
        return {"gamma": ANNEALED["gamma"] * LENGTH / updates, "lambda_min": FLOOR}
    if loss in ("adversarial", "trades") and data in GREY:
        return {"epsilon": "0.3"} | ({"warmup": WARMUP} if loss == "adversarial" else {})
    if loss == "large-margin":
        # alone it pulls down whichever class leads where no label has the majority, as at 80 %
        # noise, and grows without bound where gradients vanish; so cross-entropy says which class
        # it is, and the margin counts where that class leads, and less where gradients are small
        return {"alpha": 1.0, "cross_entropy_weight": 10.0, "stabiliser": 1.0}
    return {}


def checked(recipe: Recipe) -> Recipe:
    """The recipe itself.

    Raises:
        InputError: a number that makes no sense.
    """
    above = ("epochs", "batch_size", "learning_rate", "stabiliser", "decay", "decay_steps", "drop")
    for name in above:
        if not 0 < getattr(recipe, name) < math.inf:
            raise InputError(f"{_told(recipe, name)}: must be above 0")
    if recipe.steps is not None and recipe.steps < 1:
        raise InputError(f"--steps {recipe.steps}: must be above 0")
    if recipe.clip is not None and not 0 < recipe.clip < math.inf:
        raise InputError(f"--clip {recipe.clip}: must be above 0")
    for name in ("momentum", "smoothing"):
        if not 0 <= getattr(recipe, name) < 1:
            raise InputError(f"{_told(recipe, name)}: must be in [0, 1)")
    for kind in recipe.augment:
        if kind not in get_args(Augment):
            raise UnknownName("augmentation", kind, get_args(Augment))
    for name in ("weight_decay", "start"):
        if not 0 <= getattr(recipe, name) < math.inf:
            raise InputError(f"{_told(recipe, name)}: must not be negative")
    _check_milestones(recipe)
    return recipe


def _check_milestones(recipe: Recipe) -> None:
    """Raise InputError unless there are rising milestones where, and only where, they are used."""
    told, found = _told(recipe, "milestones"), recipe.milestones
    if bool(found) != (recipe.schedule == "multistep"):
        raise InputError(f"{told}: the schedule multistep needs milestones, and it alone takes any")
    if any(later <= earlier for earlier, later in pairwise((0, *found))):
        raise InputError(f"{told}: must be above 0 and rise")


def _told(recipe: Recipe, name: str) -> str:
    """A field as a command line says it."""
    value = getattr(recipe, name)
    if name not in FURTHER:
        return f"--{name.replace('_', '-')} {value}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"--recipe-set {name}={text}"


def spell(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON; what multistep alone has stands only with it."""
    table = {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
    for name in MULTISTEP if recipe.schedule != "multistep" else ():
        del table[name]
    lists = {key: list(value) for key, value in table.items() if isinstance(value, tuple)}
    return table | lists | {"hold_out": str(recipe.hold_out)}


def rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of the update after `step` others, of `steps` in all."""
    done = step / max(1, steps)
    match recipe.schedule:
        case "constant":
            factor = 1.0
        case "staircase":
            factor = recipe.decay ** (step // recipe.decay_steps)
        case "multistep":
            factor = recipe.drop ** sum(step >= milestone for milestone in recipe.milestones)
        case "cosine":
            factor = (1 + math.cos(math.pi * done)) / 2
        case "one-cycle":
            # up along a cosine for three tenths of the way, then down to nothing along another
            up = done / 0.3
            turn = up if up < 1 else 1 + (done - 0.3) / 0.7
            factor = 0.04 + 0.96 * (1 - math.cos(math.pi * turn)) / 2
    return recipe.learning_rate * factor
