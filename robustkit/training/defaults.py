"""What a training is set to where its user says nothing: by loss and data set. Needs no torch."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple

from robustkit.data.subset import size
from robustkit.errors import InputError, UnknownName
from robustkit.training.recipe import Augment, Recipe, check_played, checked, updates


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe in full, and the loss's settings as soon as the number of images is known."""

    loss: str
    data: str
    recipe: Recipe
    given: Mapping[str, Any] = field(default_factory=dict)
    """settings of the loss that the user chose"""
    published: Mapping[str, Any] | None = None
    """those of its paper, where these are asked for"""

    def settings(self, images: int = 0, fraction: Fraction = Fraction(1)) -> dict[str, Any]:
        """The loss's settings that are not its own defaults.

        Args:
            images: in the data set; where the recipe says how many updates there are, any number.
            fraction: of the images that are not held out.
        """
        if self.published is not None:
            return {**self.published, **self.given}
        length = updates(self.recipe, size(images, self.recipe.hold_out, fraction))
        return {**default_settings(self.loss, self.data, length, self.given), **self.given}


def resolve(
    loss: str,
    data: str,
    model: str = "",
    *,
    settings: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    paper: bool = False,
) -> Resolved:
    """The recipe and settings of a training: the defaults of loss and data, and what is changed.

    Args:
        loss: its name.
        data: the data set's name.
        model: the architecture's name, which the paper's settings must fit.
        settings: of the loss, other than the default.
        changes: fields of the recipe, other than the default.
        paper: start from what was published with the loss, not from this project's defaults.

    Raises:
        InputError: a field that there is not or a number that makes no sense; nothing published.
    """
    given, changed = dict(settings or {}), dict(changes or {})
    for key in changed:
        if key not in Recipe.__dataclass_fields__:
            raise UnknownName("field of a recipe", key, Recipe.__dataclass_fields__)
    if {"steps", "epochs"} <= changed.keys():
        raise InputError("--steps and --epochs both set the length of the training; give one")
    from_paper = published(loss, data, model, given) if paper else None
    base = from_paper.recipe if from_paper else default_recipe(loss, data)
    # a change takes with it what only makes sense beside the value it replaces
    if "epochs" in changed:
        base = replace(base, steps=None)
    if "schedule" in changed:
        base = replace(base, milestones=())
    if changed.get("optimizer") == "adamw":
        base = replace(base, clip_decay=False)
    if changed.get("momentum") == 0:
        base = replace(base, nesterov=False)
    recipe = checked(replace(base, **changed))
    check_played(recipe, changed)
    return Resolved(loss, data, recipe, given, from_paper.settings if from_paper else None)


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
    clip_decay=True,
)
"""The code published with Elsayed et al. 2018, for the large margin on MNIST.

What differs: margins are summed over layers, not averaged; the convolutions of `mnist-cnn-bn` have
a bias; and the stabiliser.
"""

PAPER_SETTINGS: dict[str, Any] = {
    "norm": "linf",
    "layers": ["input", "bn1", "bn2"],
    "gamma": 10000.0,
    "alpha": 4.0,
    "on": "probabilities",
    "normalise": True,
}
"""Likewise, of the loss; the layers are what leaves each pool and batch norm of `WITH_LAYERS`."""
WITH_LAYERS = ("mnist-cnn", "mnist-cnn-bn")

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
    recipe = Recipe()
    if data in ("mnist", "fashion-mnist"):
        recipe = replace(recipe, hold_out=Fraction(1, 12))  # 5,000, as the fractions' papers do
    if data in COLOUR:
        flips: tuple[Augment, ...] = ("crop",) if data == "svhn" else ("flip", "crop")
        recipe = replace(recipe, epochs=30, learning_rate=0.1, nesterov=True, augment=flips)
    if loss == "large-margin":
        recipe = replace(recipe, learning_rate=0.01, clip=5.0)
    return recipe


def published(loss: str, data: str, model: str, given: Collection[str] = ()) -> Published:
    """The published recipe and settings; held out is what this project holds out.

    Raises:
        InputError: none are known, or they name layers that the model may not have and that are
            not among the settings given.
    """
    match = PUBLISHED.get((loss, data))
    if match is None:
        known = ", ".join(f"{loss} on {data}" for loss, data in PUBLISHED)
        raise InputError(
            f"--recipe paper: the paper's settings for {loss} on {data} were not found; "
            f"known: {known}"
        )
    if "layers" in match.settings.keys() - given and model not in WITH_LAYERS:
        raise InputError(
            "--recipe paper puts margins at the input and after each pooling and batch norm, there "
            f"bn1 and bn2; name those of {model} with --set layers=input,..., or use a "
            f"model that has these: {', '.join(WITH_LAYERS)}"
        )
    held_out = default_recipe(loss, data).hold_out
    return match._replace(recipe=replace(match.recipe, hold_out=held_out))


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
