"""Random choices among images that depend on their ids, never on their order.

Every image has a number per purpose and seed, from a digest that includes its id. Whatever has to
be chosen is the beginning of an order of the images, so a smaller choice lies inside a larger one.
"""

import heapq
from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from robustkit.data.pixels import Labels
from robustkit.files import digest

Numbers = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


def numbers(purpose: str, seed: int, ids: Iterable[str]) -> Numbers:
    """64 random bits per id, [N]; the same for an id whatever stands around it."""
    # a digest for each image, and no stream of random numbers: what an image draws cannot depend on
    # how many come before it, nor the beginning of an order on how much of it is taken
    start = digest(purpose, str(seed))
    return np.frombuffer(
        b"".join(sha256(f"{start}{name}".encode()).digest()[:8] for name in ids), "<u8"
    )


def uniform(purpose: str, seed: int, ids: Iterable[str]) -> npt.NDArray[np.float64]:
    """A number in [0, 1) per id, [N], a multiple of 2**-53."""
    # 53 bits are what a float64 holds exactly; of 64, some would round up to 1
    return (numbers(purpose, seed, ids) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(purpose: str, seed: int, name: object) -> np.random.Generator:
    """A generator seeded by names, for draws that belong to no image."""
    return np.random.default_rng(int(digest(purpose, str(seed), str(name)), 16))


def shuffled(keys: Numbers, labels: Labels, *, stratified: bool) -> Positions:
    """An order of N images by their keys, [N]; each beginning of it is a random choice.

    Stratified, a beginning of length m holds m·n/N images of a class of n, rounded up or down.
    """
    if not stratified:
        return np.argsort(keys)
    classes, inverse = np.unique(labels, return_inverse=True)
    lowest = np.full(len(classes), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(lowest, inverse, keys)
    # classes stand in the order of their lowest keys, so that a tie between them falls at random
    grouped = np.lexsort((keys, lowest[inverse]))
    sizes = np.unique(lowest[inverse], return_counts=True)[1]
    # classes take turns, each in proportion to its size; whose turn it is, and which of its images,
    # are settled for the whole order, so that every beginning of it lies inside every longer one
    turns = interleave(sizes.tolist(), len(labels))
    order = np.empty(len(labels), np.int64)
    order[np.argsort(turns, kind="stable")] = grouped
    return order


def interleave(weights: Sequence[int], length: int) -> Positions:
    """Whose turn it is, [length]: after h turns, a party has had its share of h, up to rounding.

    Its share is h times its weight over the sum of all, rounded up or down. Such a sequence exists
    for all weights (Tijdeman 1980, The chairman assignment problem); a party's j-th turn then has
    an earliest and a latest place, and the earliest deadline first finds a sequence that keeps all.
    A tie goes to the party named first. At least one weight must be above 0.
    """
    total = sum(weights)
    waiting = [(0, party, 1) for party, weight in enumerate(weights) if weight]
    ready: list[tuple[int, int, int]] = []
    turns = np.empty(length, np.int64)
    for place in range(length):
        # a turn is due no sooner than the share has begun, and no later than it is complete
        while waiting and waiting[0][0] <= place:
            _, party, turn = heapq.heappop(waiting)
            heapq.heappush(ready, (-(-turn * total // weights[party]), party, turn))
        _, party, turn = heapq.heappop(ready)
        turns[place] = party
        heapq.heappush(waiting, (turn * total // weights[party], party, turn + 1))
    return turns
