"""Recipes: optimiser, schedule and epochs. Needs no torch."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from robustkit.errors import InputError, UnknownName, quoted
from robustkit.files import build

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
    clip_decay: bool = False
    """whether weight decay is a part of the gradient that is clipped, or added afterwards"""
    augment: tuple[Augment, ...] = ()
    """flip: mirrored with probability a half; crop: shifted by up to 4 pixels, zeros moving in"""
    hold_out: Fraction = Fraction(1, 10)
    """images kept for watching: how many, or below 1 what share of the training images"""


LINES = 50
"""epochs at most that end in a line of history, where the number of updates is given"""
MULTISTEP = ("milestones", "drop")
FURTHER = {"nesterov", "smoothing", "start", "stabiliser", "decay", "decay_steps", *MULTISTEP}
FURTHER |= {"clip_decay"}
"""fields without an option of their own"""


GOES_WITH: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "nesterov": ("optimizer", ("sgd",)),
    "smoothing": ("optimizer", ("rmsprop",)),
    "start": ("optimizer", ("rmsprop",)),
    "stabiliser": ("optimizer", ("rmsprop", "adam", "adamw")),
    "decay": ("schedule", ("staircase",)),
    "decay_steps": ("schedule", ("staircase",)),
    "milestones": ("schedule", ("multistep",)),
    "drop": ("schedule", ("multistep",)),
}
"""by field, the one by whose value it plays a part, and the values at which it does"""


MOST = 10**9
"""updates, passes or images a batch at most: years on any machine"""


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


def follows_rate(recipe: Recipe) -> bool:
    """Whether what a compression of gradients carries over follows the learning rate.

    Its share of an update is then what it was when it was left out. An optimiser that divides by
    the size of past gradients takes that from it again; and a gradient that grows as the rate falls
    is clipped, by which most of what was carried over is lost.
    """
    return recipe.optimizer == "sgd" and recipe.clip is None


def snapshot_steps(
    passes: Iterable[int], recipe: Recipe, images: int, where: str = "--snapshots"
) -> dict[int, int]:
    """The update that each pass ends with.

    Args:
        passes: after which weights are kept, from 1 on.
        recipe: of the training.
        images: that it is of.
        where: begins a message.

    Raises:
        InputError: the training ends before.
    """
    each, steps = max(1, -(-images // recipe.batch_size)), updates(recipe, images)
    for number in passes:
        if number < 1:
            raise InputError(f"{where} {number}: passes are numbered from 1")
        if number * each > steps:
            raise InputError(
                f"{where} {number}: the training ends after {steps / each:.4g} passes over "
                "the data; leave it out, or train for longer"
            )
    return {number: number * each for number in passes}


def parse_changes(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of a recipe, as a TOML table or plain JSON has them, in their own types.

    Raises:
        InputError: no such field, or a wrong type; `where` begins the message.
    """
    given = build(Recipe, table, where)
    return {key: getattr(given, key) for key in table}


def check_types(made: object) -> None:
    """Raise InputError where a field of a dataclass is no such word, number or truth value.

    Types that Python itself does not hold anyone to; what is no plain value is left alone.
    """
    for name, kind in get_type_hints(type(made)).items():
        _check_type(f"--{name.replace('_', '-')}", getattr(made, name), kind)


def _check_type(option: str, value: object, kind: Any) -> None:
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise UnknownName(f"value of {option}", str(value), get_args(kind))
    if get_origin(kind) is UnionType and value is not None:
        _check_type(option, value, get_args(kind)[0])
    if kind in _PLAIN:
        accepted, what = _PLAIN[kind]
        # a truth value is an integer to Python
        if not isinstance(value, accepted) or isinstance(value, bool) is not (kind is bool):
            raise InputError(f"{option} must be {what}, got {quoted(value)}")


_PLAIN: Mapping[object, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
}


def checked(recipe: Recipe) -> Recipe:
    """The recipe itself.

    Raises:
        InputError: a word that there is not, or a number that makes no sense.
    """
    check_types(recipe)
    above = ("epochs", "batch_size", "learning_rate", "stabiliser", "decay", "decay_steps", "drop")
    for name in above:
        if not 0 < getattr(recipe, name) < math.inf:
            raise InputError(f"{_option_text(recipe, name)}: must be above 0")
    if recipe.steps is not None and recipe.steps < 1:
        raise InputError(f"--steps {recipe.steps}: must be above 0")
    for name in ("steps", "epochs", "batch_size"):
        if (getattr(recipe, name) or 0) > MOST:
            raise InputError(f"{_option_text(recipe, name)}: must be at most {MOST:,}")
    if recipe.clip is not None and not 0 < recipe.clip < math.inf:
        raise InputError(f"--clip {recipe.clip}: must be above 0")
    for name in ("momentum", "smoothing"):
        if not 0 <= getattr(recipe, name) < 1:
            raise InputError(f"{_option_text(recipe, name)}: must be in [0, 1)")
    for kind in recipe.augment:
        if kind not in get_args(Augment):
            raise UnknownName("augmentation", kind, get_args(Augment))
    for name in ("weight_decay", "start"):
        if not 0 <= getattr(recipe, name) < math.inf:
            raise InputError(f"{_option_text(recipe, name)}: must not be negative")
    if recipe.nesterov and recipe.optimizer == "sgd" and not recipe.momentum:
        raise InputError(
            f"{_option_text(recipe, 'nesterov')}: Nesterov's momentum needs a --momentum above 0"
        )
    if recipe.clip_decay and (recipe.clip is None or recipe.optimizer == "adamw"):
        raise InputError(
            f"{_option_text(recipe, 'clip_decay')}: needs a --clip, and an --optimizer that adds "
            "weight decay to the gradient, as adamw does not"
        )
    _check_milestones(recipe)
    return recipe


def check_played(recipe: Recipe, given: Iterable[str]) -> None:
    """Nothing, if every field that was given plays a part, or says that there is none of it.

    Raises:
        InputError: one would be ignored, and stand on record.
    """
    for name in given:
        by, values = GOES_WITH.get(name, ("", ()))
        if by and getattr(recipe, name) and getattr(recipe, by) not in values:
            raise InputError(
                f"{_option_text(recipe, name)}: plays no part with the {by} "
                f"{getattr(recipe, by)}, only with {' or '.join(values)}"
            )


def _check_milestones(recipe: Recipe) -> None:
    """Raise InputError unless there are rising milestones where, and only where, they are used."""
    told, found = _option_text(recipe, "milestones"), recipe.milestones
    if bool(found) != (recipe.schedule == "multistep"):
        raise InputError(
            f"{told}: the schedule multistep needs milestones, and no other schedule accepts them"
        )
    if any(later <= earlier for earlier, later in pairwise((0, *found))):
        raise InputError(f"{told}: must be positive and increasing")


def _option_text(recipe: Recipe, name: str) -> str:
    """A field as a command line says it."""
    value = getattr(recipe, name)
    if name not in FURTHER:
        return f"--{name.replace('_', '-')} {value}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"--recipe-set {name}={text}"


def spell(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON; what came later stands only where it applies."""
    table = {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
    for name in MULTISTEP if recipe.schedule != "multistep" else ():
        del table[name]
    if not recipe.clip_decay:
        del table["clip_decay"]
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
            # up along a cosine for three tenths of the way, then down along another; it starts and
            # ends at 4 % of the peak
            up = done / 0.3
            turn = up if up < 1 else 1 + (done - 0.3) / 0.7
            factor = 0.04 + 0.96 * (1 - math.cos(math.pi * turn)) / 2
    return recipe.learning_rate * factor
