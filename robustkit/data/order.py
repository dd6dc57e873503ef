"""The order of images: whether those of a class stand together, and how they are shuffled then."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from robustkit.data.pixels import Labels
from robustkit.files import digest

SALT = "order/1"


def is_grouped(labels: Labels) -> bool:
    """Whether images of one class stand together, so that the first images are of a few classes.

    In an order by chance, N images of which n_c are of class c have 1 + N - Σ n_c²/N runs of one
    class on average. A quarter of that is grouped, as of sorted shards one after the other. Where
    each class is a single run two thirds are enough, and in the order of the labels any number.
    """
    sizes = np.unique(labels, return_counts=True)[1]
    steps = np.diff(labels)
    runs = 1 + np.count_nonzero(steps)
    by_chance = 1 + len(labels) - float(sizes @ sizes) / len(labels)
    ascending = bool(np.all(steps >= 0))
    most = by_chance * (2 / 3 if runs == len(sizes) else 1 / 4)
    return len(sizes) > 1 and (ascending or bool(runs <= most))


def shuffled_by(keys: Sequence[str]) -> npt.NDArray[np.int64]:
    """Positions in the order of the salted digests of their keys."""
    order = sorted(range(len(keys)), key=lambda p: order_key(keys[p]))
    return np.array(order, np.int64)


def order_key(key: str) -> str:
    """What an image is shuffled by."""
    return digest(SALT, key)
