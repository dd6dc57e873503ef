"""Whether a clean accuracy can be told from guessing, and what else may have gone wrong.

Wrong class order, wrong preprocessing, pixels of another scale and outputs that are no logits of
these classes have one thing in common: on clean images the network is no better than chance.
"""

from collections.abc import Mapping as TableOf
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robustkit.data import Dataset
from robustkit.data.pixels import Labels
from robustkit.parsing import in_percent
from robustkit.statistics import Estimate, proportion

if TYPE_CHECKING:
    import torch

LARGEST = 5000
"""classes: the time of the assignment grows with their cube"""
SHOWN = 12
"""classes of a mapping that are shown"""
PIECES, PIECE = 16, 64
"""of images that a surrogate is tried on, spread over all, and how many are in each"""


class Mapping(NamedTuple):
    """Which class each output stands for, found on one half of the images, tried on the other."""

    classes: Labels
    """by output, K; its own where no image tells"""
    held_out: Estimate
    """accuracy under it on the other half"""


class Settled(NamedTuple):
    """What the checkpoint says itself, so that nobody need be told to look for it."""

    classes: bool = False
    """the data's are matched with the network's by name"""
    preprocessing: bool = False
    """mean and std, or that there are none, stand in the checkpoint or beside it"""


UNSETTLED = Settled()


def settled_by(preprocessing: str | None, source: TableOf[str, Any]) -> Settled:
    """What is settled, by a checkpoint's `preprocessing` and a data set's `source`."""
    by_name = source.get("class_map", {}).get("by") == "name"
    return Settled(by_name, preprocessing in ("recorded", "in the checkpoint"))


def chance_warnings(
    labels: Labels, predicted: Labels, classes: int, settled: Settled = UNSETTLED
) -> list[str]:
    """A warning where the 95 % interval of the clean accuracy reaches chance, with likely causes.

    Chance is what guessing one class comes to: the largest class's share, or 1/K. One, too, where
    another order of the classes explains the predictions, at chance or above.

    Args:
        labels: N.
        predicted: classes of the clean images, N.
        classes: K.
        settled: what is not among the likely causes.
    """
    counts = np.bincount(labels)
    if counts.max() == len(labels):
        return [
            f"all {len(labels)} images are of class {labels[0]}: a network that always gives this "
            "answer would be right on all of them, whatever the attack"
        ]
    clean, chance = _accuracy(labels, predicted), _chance(labels, classes)
    said = f"clean accuracy is {_percent(clean)} on {clean.n} images, "
    if (found := find_mapping(labels, predicted, classes)) is not None:
        return [
            (
                f"{said}but the classes seem to be in another order: with "
                f"{_arrows(found.classes)} it is {_percent(found.held_out)} on the half of the "
                "images that was not used to find this order; reorder the labels (--classes) "
                "or the outputs"
            )
        ]
    if clean.low > chance:
        return []
    said += (
        f"{'below' if clean.high < chance else 'no different from'} chance ({in_percent(chance)}): "
    )
    said += "more images may tell; if not, " if clean.value > chance else ""
    return [
        f"{said}likely causes are {_causes(settled)}; robust accuracy means nothing until this is "
        "settled"
    ]


def surrogate_warnings(
    surrogate: "torch.nn.Module",
    data: Dataset,
    device: "torch.device",
    preprocessing: str | None = None,
) -> list[str]:
    """What `chance_warnings` says of a surrogate, whose own rows no record has.

    One whose answers are chance leads an attack nowhere, and the model looks robust.

    Args:
        surrogate: frozen, on the device, from pixels in [0, 1] to logits.
        data: of which all images pass it once, or some of many.
        device: the surrogate's.
        preprocessing: what its checkpoint says, as for `settled_by`.
    """
    from robustkit.seeding import seeded  # torch

    starts = range(0, len(data), PIECE)
    if len(starts) > PIECES:
        starts = range(0, len(data) - PIECE, (len(data) - PIECE) // (PIECES - 1))
    places = np.concatenate([np.arange(s, min(s + PIECE, len(data))) for s in starts])
    labels = np.asarray(data.labels)[places]
    if len(set(labels.tolist())) < 2:  # of which the model's own warning tells
        return []
    with seeded(0, device):
        found = [_classes_of(surrogate, data, s, min(s + PIECE, len(data)), device) for s in starts]
    settled = settled_by(preprocessing, {})
    warnings = chance_warnings(labels, np.concatenate(found), len(data.classes), settled)
    return [f"the surrogate: {text}" for text in warnings]


def _classes_of(
    model: "torch.nn.Module", data: Dataset, start: int, stop: int, device: "torch.device"
) -> Labels:
    """The classes that a network gives images; fewer at a time where memory is short."""
    import torch

    try:
        with torch.no_grad():
            images = torch.from_numpy(data.images(start, stop)).to(device)
            found: Labels = model(images).argmax(1).cpu().numpy()
        return found
    except torch.OutOfMemoryError:
        if stop - start < 2:
            raise
    middle = (start + stop) // 2
    halves = ((start, middle), (middle, stop))
    return np.concatenate([_classes_of(model, data, *half, device) for half in halves])


def _causes(settled: Settled) -> str:
    """What may be amiss, the likeliest first."""
    found = [] if settled.classes else ["a different class order (--classes)"]
    if not settled.preprocessing:
        found.append(
            f"{'' if found else 'other '}preprocessing (--mean, --std) or a pixel scale "
            "that differs from the training's"
        )
    left = [*found, "outputs that are not the logits of these classes"]
    said = f"{', '.join(left)}, or untrained weights"
    own = [
        *(["classes are matched by name"] if settled.classes else []),
        *(["mean and std are the checkpoint's own"] if settled.preprocessing else []),
    ]
    return said + (f" ({' and '.join(own)})" if own else "")


def _assignment(weights: npt.NDArray[np.float64]) -> Labels:
    """The column of each row that makes their sum largest, each column once."""
    largest: Labels = weights.argmax(1)
    if np.array_equal(largest, np.arange(len(weights))):  # as in most networks
        return largest
    from scipy.optimize import linear_sum_assignment  # takes a third of a second to import

    assigned: Labels = linear_sum_assignment(weights, maximize=True)[1].astype(np.int64)
    return assigned


def find_mapping(labels: Labels, predicted: Labels, classes: int) -> Mapping | None:
    """The one-to-one mapping of outputs to classes that explains the predictions; None without one.

    Of K! mappings some one fits any few images: found on one half of them (by linear assignment on
    the confusion matrix), it must be better than chance, and than the predictions as they are, on
    the other.
    """
    size = max(classes, int(labels.max()) + 1, int(predicted.max()) + 1)
    if size > LARGEST:
        return None
    # every other image of each class, since the order of the images may alternate between them
    order = np.argsort(labels, kind="stable")
    confusion = np.zeros((size, size), np.int64)
    np.add.at(confusion, (predicted[order[::2]], labels[order[::2]]), 1)
    # what no image tells stays as it is
    weights = confusion.astype(np.float64) + 1e-6 * np.eye(size)
    mapping = _assignment(weights)
    labels, predicted = labels[order[1::2]], predicted[order[1::2]]
    if not len(labels) or np.array_equal(mapping, np.arange(size)):
        return None
    held_out, before = _accuracy(labels, mapping[predicted]), _accuracy(labels, predicted)
    better = held_out.low > max(_chance(labels, classes), before.high)
    return Mapping(mapping, held_out) if better else None


def _percent(accuracy: Estimate) -> str:
    return f"{in_percent(accuracy.value)} ({100 * accuracy.low:.1f} to {100 * accuracy.high:.1f})"


def _accuracy(labels: Labels, predicted: Labels) -> Estimate:
    return proportion(int((labels == predicted).sum()), len(labels))


def _chance(labels: Labels, classes: int) -> float:
    return max(1 / max(classes, 1), float(np.bincount(labels).max()) / len(labels))


def _arrows(mapping: npt.NDArray[np.int64]) -> str:
    """'output 1 as class 10, 2 as class 2', as far as they differ from what they are taken for."""
    if name := _pattern(mapping):
        return name
    moved = np.flatnonzero(mapping != np.arange(len(mapping))).tolist()
    pairs = ", ".join(f"{i} as class {mapping[i]}" for i in moved[:SHOWN])
    more = f" and {len(moved) - SHOWN} more" if len(moved) > SHOWN else ""
    return f"output {pairs}{more}"


def _pattern(mapping: Sequence[int] | npt.NDArray[np.int64]) -> str:
    """Orders that training code often has, in words; "" for others."""
    size, order = len(mapping), np.asarray(mapping)
    if np.array_equal(order, sorted(range(size), key=str)):
        return "outputs in the order of class numbers as text (0, 1, 10, 11, …)"
    for shift in (1, -1):
        if np.array_equal(order, (np.arange(size) + shift) % size):
            return f"output i as class i {'+' if shift > 0 else '-'} 1"
    return ""
