"""Seeds × images: where the variance of a mean comes from, exactly and in any order of the rows."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustkit.errors import InputError
from robustkit.statistics.pivot import Student, Term

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


class MeanSquares(NamedTuple):
    """The two-way analysis of variance of x [L, S, N] without replication, for L responses at once.

    `seed`, `image` and `residual` are [L, L] mean squares and products, `mean` is [L].
    """

    mean: Floats
    seed: Floats
    image: Floats
    residual: Floats
    seeds: int
    images: int


def mean_squares(x: NDArray[Any]) -> MeanSquares:
    """Seed, image and residual mean squares of x [L, S, N], whose values are integers.

    Sums of integers are exact in float64, so that no order of seeds or images, and no BLAS, can
    change a digit.
    """
    L, S, N = x.shape
    seeds = x.sum(axis=2, dtype=np.float64)
    images = x.sum(axis=1, dtype=np.float64)
    total = seeds.sum(axis=1)
    flat = x.reshape(L, S * N).astype(np.float64)
    found = squares_of_sums(
        np.outer(total, total), seeds @ seeds.T, images @ images.T, flat @ flat.T, S, N
    )
    return MeanSquares(total / (S * N), *found, S, N)


def squares_of_sums(
    grand: Floats, by_seed: Floats, by_image: Floats, each: Floats, seeds: int, images: int
) -> tuple[Floats, Floats, Floats]:
    """Seed, image and residual mean squares, element by element.

    Args:
        grand: the square of the total.
        by_seed: the sum of squares of the seeds' totals.
        by_image: that of the images' totals.
        each: that of all values.
        seeds: their number.
        images: likewise.
    """
    scale, a, b = seeds * images, max(seeds - 1, 1), images - 1
    seed, image = seeds * by_seed - grand, images * by_image - grand
    residual = scale * each - grand - seed - image
    return seed / (scale * a), image / (scale * b), residual / (scale * a * b)


def terms(squares: MeanSquares) -> tuple[Term, Term]:
    """The variance of the only response's mean: what seeds bring, and what images add.

    The residual belongs to both mean squares and is counted once, with the seeds.
    """
    S, N = squares.seeds, squares.images
    seed, image, residual = (
        float(m[0, 0]) for m in (squares.seed, squares.image, squares.residual)
    )
    of_images = Term(added(image, residual, seed) / (S * N), N - 1)
    return Term(seed / (S * N), max(S - 1, 1)), of_images


def added(image: float, residual: float, seed: float) -> float:
    """What images add to the seeds' mean square.

    Where that is 0, because there is one seed or because all happen to tie, it is no measure of
    the residual, and images bring it.
    """
    return max(image - residual, 0.0) if seed else max(image, residual)


def student(squares: MeanSquares) -> Student:
    """The t pivot of the only response's mean."""
    return Student(float(squares.mean[0]), terms(squares))


def with_pseudo_images(x: NDArray[Any], *values: int) -> NDArray[Any]:
    """Append to x [..., N] one image for each value, the same for every seed."""
    extra = np.broadcast_to(np.array(values, x.dtype), (*x.shape[:-1], len(values)))
    return np.concatenate([x, extra], axis=-1)


def booleans(values: ArrayLike, what: str, shape: str, fewest: int = 2) -> Booleans:
    """An array of right and wrong whose axes `shape` names, "SN" for seeds × images.

    Raises:
        InputError: another number of axes, another dtype, an empty axis, or fewer images.
    """
    x = np.asarray(values)
    if x.dtype != np.bool_ or x.ndim != len(shape) or not x.size:
        want = " × ".join({"L": "levels", "S": "seeds", "N": "images"}[axis] for axis in shape)
        raise InputError(
            f"{what}: expected booleans, {want}, none of them 0; found {x.dtype} {x.shape}"
        )
    if x.shape[-1] < fewest:
        raise InputError(f"{what}: one image has no spread; give at least two")
    return x


def same_images(a: ArrayLike, b: ArrayLike, shape: str = "SN") -> tuple[Booleans, Booleans]:
    """Both as boolean arrays of one shape.

    Raises:
        InputError: they are not.
    """
    left, right = booleans(a, "a", shape), booleans(b, "b", shape)
    if left.shape != right.shape:
        raise InputError(f"a is {left.shape} and b {right.shape}; give the same seeds and images")
    return left, right
