"""What is trained on: a part held out, a fraction of the rest, and label noise in both.

Each choice is a beginning of an order that follows from the seed and the images' ids, in which the
classes take turns: the 10 % fraction lies inside the 20 %, and at every length each class has its
share, rounded up or down.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from robustkit.data.dataset import Dataset
from robustkit.data.draws import Positions, numbers, shuffled
from robustkit.data.noise import LabelNoise, NoisyLabels, apply_label_noise, written
from robustkit.data.pixels import Labels
from robustkit.errors import InputError
from robustkit.files import canonical, digest
from robustkit.parsing import fraction as fraction_of_text

HOLD_OUT, FRACTION = "hold-out/1", "data fraction/1"
"""purposes of draws"""
Exact = Fraction | int | str
"""an exact number, perhaps still as text; a float is none"""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some images of a data set, with the labels that they are given."""

    positions: Positions
    """in the data set, rising, [N], read-only"""
    noisy_labels: NoisyLabels
    ids: str
    """a digest of the images' ids"""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def labels(self) -> Labels:
        """The given ones, [N], read-only."""
        return self.noisy_labels.labels

    def record(self) -> dict[str, Any]:
        """Counts and digests, as JSON."""
        return {"images": len(self), "ids": self.ids, "noise": self.noisy_labels.record()}


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """What is trained on, and what is held out for every choice that has to be made."""

    train: Part
    held_out: Part | None
    asked: dict[str, Any]
    """hold-out, fraction, seed, and whether the held-out labels are clean"""

    def record(self) -> dict[str, Any]:
        """Everything that was asked, and the realised counts, as JSON."""
        held_out = self.held_out.record() if self.held_out else None
        return {**self.asked, "train": self.train.record(), "held_out": held_out}


def held_out_doubles(dataset: Dataset, parts: TrainingData) -> int:
    """How many held-out images have the pixels of one that is trained on."""
    if parts.held_out is None:
        return 0
    held, trained = (
        [dataset.ids[position].partition(":")[0] for position in part.positions.tolist()]
        for part in (parts.held_out, parts.train)
    )
    seen = {*held}.intersection(trained)
    return sum(one in seen for one in held)


def prepare_training_data(
    dataset: Dataset,
    *,
    hold_out: Exact = 0,
    fraction: Exact = 1,
    noise: LabelNoise | None = None,
    seed: int = 0,
    clean_selection: bool = False,
) -> TrainingData:
    """Hold out, take a fraction of the rest, and corrupt the labels of both.

    Args:
        dataset: the training split.
        hold_out: how many images, or below 1 what share of them, rounded down.
        fraction: of the images not held out, above 0 and at most 1, rounded down.
        noise: exact within each of the two parts; None for none.
        seed: of every choice.
        clean_selection: whether the held-out labels stay clean.

    Raises:
        InputError: numbers out of range, a fraction that leaves a class without an image, or
            noise that does not go with the data.
    """
    noise = noise or LabelNoise()
    hold_out, fraction = exact(hold_out, "hold-out"), exact(fraction, "data fraction")
    held = choose_held_out(dataset, hold_out, seed)
    rest = np.setdiff1d(np.arange(len(dataset)), held, assume_unique=True)
    train = choose_fraction(dataset, rest, fraction, seed)
    asked = {
        "hold_out": written(hold_out),
        "fraction": written(fraction),
        "seed": seed,
        "selection": "clean labels" if clean_selection else "labels corrupted as in training",
    }
    held_noise = LabelNoise() if clean_selection else noise
    return TrainingData(
        _part(dataset, train, noise, seed),
        _part(dataset, held, held_noise, seed) if len(held) else None,
        asked,
    )


def size(total: int, hold_out: Fraction, fraction: Fraction) -> int:
    """How many of so many images are trained on."""
    return int(fraction * (total - _held_out(total, hold_out)))


def _held_out(total: int, amount: Fraction) -> int:
    return int(amount if amount >= 1 else amount * total)


def exact(value: Exact, where: str) -> Fraction:
    """A number as it was meant; `where` begins the message.

    Raises:
        InputError: no number, or a float, which has lost the exactness.
    """
    return value if isinstance(value, Fraction) else fraction_of_text(value, where)


def choose_held_out(dataset: Dataset, amount: Fraction, seed: int) -> Positions:
    """Positions of the held-out images, rising; every class keeps at least one for the training.

    Its last image in the order of the choice is set aside, and each class's share is that of its
    other images.

    Args:
        dataset: the training split.
        amount: how many images, or below 1 what share of them, rounded down.
        seed: of the choice.

    Raises:
        InputError: not a whole number or a share, or more images than can be spared.
    """
    if amount < 0 or (amount >= 1 and amount.denominator != 1):
        raise InputError(f"hold-out: expected a number of images or a share below 1, got {amount}")
    count = _held_out(len(dataset), amount)
    keys = numbers(HOLD_OUT, seed, dataset.ids)
    order = np.lexsort((keys, dataset.labels))
    last = np.append(np.diff(dataset.labels[order]) != 0, True)
    spare = order[~last]
    if count > len(spare):
        raise InputError(
            f"hold-out: cannot hold out {count} of {len(dataset)} images; every class has "
            f"to keep one, so at most {len(spare)} can be held out"
        )
    chosen = shuffled(keys[spare], dataset.labels[spare], stratified=True)[:count]
    return np.sort(spare[chosen])


def choose_fraction(
    dataset: Dataset, positions: Positions, fraction: Fraction, seed: int
) -> Positions:
    """The positions of a fraction of some images, rising: `floor(fraction * N)` of them.

    Rounded down, since 0.125 % of MNIST's 55,000 training images is known as 68.

    Args:
        dataset: the training split.
        positions: of the images to choose from, rising, [N].
        fraction: above 0 and at most 1.
        seed: of the choice.

    Raises:
        InputError: out of range, or a class is left without an image; the message has the
            smallest fraction that leaves none so.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"data fraction: expected above 0 and at most 1, got {fraction}")
    if fraction == 1:
        return positions
    labels = dataset.labels[positions]
    ids = (dataset.ids[position] for position in positions.tolist())
    order = shuffled(numbers(FRACTION, seed, ids), labels, stratified=True)
    count = int(fraction * len(positions))
    classes, first = np.unique(labels[order], return_index=True)
    if count <= (needed := first.max()):
        raise InputError(
            f"data fraction: {written(fraction)} of {len(positions)} images is {count}, too "
            f"few for one image of each of {len(classes)} classes; the smallest fraction is "
            f"{needed + 1}/{len(positions)}"
        )
    return positions[np.sort(order[:count])]


def _part(dataset: Dataset, positions: Positions, noise: LabelNoise, seed: int) -> Part:
    positions.setflags(write=False)
    ids = digest(canonical([dataset.ids[position] for position in positions.tolist()]))
    return Part(positions, apply_label_noise(dataset, positions, noise, seed), ids)
