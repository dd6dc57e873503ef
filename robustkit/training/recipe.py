"""Recipes: optimiser, schedule and epochs, with defaults by loss and data set. Needs no torch."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, get_args

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
    schedule: Literal["constant", "cosine", "one-cycle", "staircase"] = "cosine"
    decay: float = 0.96
    """of the staircase: the factor"""
    decay_steps: int = 2000
    """of the staircase: updates between two factors"""
    clip: float | None = None
    """largest norm of the whole gradient"""
    augment: tuple[Augment, ...] = ()
    """flip: mirrored with probability a half; crop: shifted by up to 4 pixels, zeros moving in"""
    hold_out: Fraction = Fraction(1, 10)
    """images kept for watching: how many, or below 1 what share of the training images"""


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
"""Likewise, of the loss; the layers are those of `mnist-cnn` and `mnist-cnn-bn`."""

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


def default_settings(loss: str, data: str) -> dict[str, Any]:
    """What a loss is set to on a data set, where that is not its own default."""
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
    above = ("epochs", "batch_size", "learning_rate", "stabiliser", "decay", "decay_steps")
    for name in above:
        if not 0 < getattr(recipe, name) < math.inf:
            raise InputError(f"{_option(name)} {getattr(recipe, name)}: must be above 0")
    if recipe.steps is not None and recipe.steps < 1:
        raise InputError(f"--steps {recipe.steps}: must be above 0")
    if recipe.clip is not None and not 0 < recipe.clip < math.inf:
        raise InputError(f"--clip {recipe.clip}: must be above 0")
    for name in ("momentum", "smoothing"):
        if not 0 <= getattr(recipe, name) < 1:
            raise InputError(f"{_option(name)} {getattr(recipe, name)}: must be in [0, 1)")
    for kind in recipe.augment:
        if kind not in get_args(Augment):
            raise UnknownName("augmentation", kind, get_args(Augment))
    if not 0 <= recipe.weight_decay < math.inf:
        raise InputError(f"--weight-decay {recipe.weight_decay}: must not be negative")
    return recipe


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def spell(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON."""
    table = {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
    return table | {"augment": list(recipe.augment), "hold_out": str(recipe.hold_out)}


def rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of the update after `step` others, of `steps` in all."""
    done = step / max(1, steps)
    match recipe.schedule:
        case "constant":
            factor = 1.0
        case "staircase":
            factor = recipe.decay ** (step // recipe.decay_steps)
        case "cosine":
            factor = (1 + math.cos(math.pi * done)) / 2
        case "one-cycle":
            # up along a cosine for three tenths of the way, then down to nothing along another
            up = done / 0.3
            turn = up if up < 1 else 1 + (done - 0.3) / 0.7
            factor = 0.04 + 0.96 * (1 - math.cos(math.pi * turn)) / 2
    return recipe.learning_rate * factor
