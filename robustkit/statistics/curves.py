"""Accuracy along a factor: the area under the curve, and a band that holds everywhere at once."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from robustkit.errors import InputError
from robustkit.statistics.accuracy import SMOOTHING, smoothed, wilson
from robustkit.statistics.estimate import Estimate, counted, percent
from robustkit.statistics.spread import (
    MeanSquares,
    booleans,
    mean_squares,
    student,
)

DRAWS = 20_000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """A robustness curve."""

    x: tuple[float, ...]
    """rising"""
    points: tuple[Estimate, ...]
    """accuracy at each x; all their intervals hold together"""
    area: Estimate
    """under the curve, over its span: the mean accuracy for an x drawn evenly from the span"""


def curve(
    correct: ArrayLike,
    x: ArrayLike,
    rng: Generator,
    *,
    level: float = 0.95,
    same_networks: bool = True,
) -> Curve:
    """Accuracies [L] at x [L], from `correct` [L, S, N] or [L, N], and the area by trapezoids.

    Seeds and images vary as in `over_seeds`, whose interval the area has. The band is max-t: the
    pointwise level is raised until Gaussian draws with the estimated covariance of the L
    accuracies leave the band with probability 1 − level. What seeds bring correlates where the
    same networks are asked at each x; see `covariance`.

    Raises:
        InputError: fewer than two x, one twice, or shapes that do not fit.
    """
    correct = np.asarray(correct)
    data = booleans(correct if correct.ndim == 3 else correct[:, None], "correct", "LSN")
    at = np.asarray(x, dtype=np.float64)
    if at.shape != (len(data),) or len(set(at.tolist())) < max(2, at.size):
        raise InputError(f"x: expected {len(data)} different numbers, at least two")
    order = np.argsort(at)
    at, data = at[order], data[order]
    squares = mean_squares(smoothed(data))
    shared = covariance(squares, same_networks=same_networks)
    alpha = pointwise_alpha(shared, 1 - level, rng)
    _, S, N = data.shape
    means = data.sum(axis=(1, 2), dtype=np.int64) / (S * N)
    interval = f"simultaneous {percent(level)} band"
    points = tuple(
        _estimate(float(mean), _response(squares, row), alpha, interval)
        for mean, row in zip(means, np.eye(len(at)), strict=True)
    )
    weights = _trapezoid(at)
    area = _response(squares, weights)
    value = float(weights @ means)
    return Curve(tuple(at.tolist()), points, _estimate(value, area, 1 - level, percent(level)))


def covariance(squares: MeanSquares, *, same_networks: bool) -> Floats:
    """[L, L] covariance of the means; what images add is kept positive semidefinite.

    Where each level has trainings of its own, what these bring does not correlate; by what S − 1
    differences between seeds tell, it does, with two seeds perfectly. The band of six levels, by
    seeds that vary far more than images, would cover 77 % with two of them, 84 % with three.
    """
    S, N = squares.seeds, squares.images
    if S == 1:
        return squares.image / N
    # a difference of two estimates: on a few images it can have negative variances, which would
    # make the band too short; the nearest matrix without them has these eigenvalues at 0
    values, vectors = np.linalg.eigh(squares.image - squares.residual)
    added = (vectors * np.maximum(values, 0)) @ vectors.T
    if same_networks:
        return np.asarray((squares.seed + added) / (S * N))
    # no correlation is also the widest case of Gaussians (Šidák 1967). The residual, of which the
    # seeds' mean squares have one part, rests on many images and stays as estimated
    trainings = np.maximum(np.diag(squares.seed - squares.residual), 0)
    return np.asarray((np.diag(trainings) + squares.residual + added) / (S * N))


def pointwise_alpha(covariance: Floats, alpha: float, rng: Generator) -> float:
    """Level at which L Gaussian means with this covariance all stay inside with 1 − alpha."""
    # neighbouring budgets share their images and move together, which Bonferroni would ignore: the
    # largest of correlated Gaussians (Hothorn, Bretz and Westfall 2008). What comes out is a level,
    # not a quantile, so that every point may take its own t with it
    spread = np.sqrt(np.diag(covariance))
    spread[spread == 0] = 1.0
    correlation = covariance / np.outer(spread, spread)
    np.fill_diagonal(correlation, 1.0)
    values, vectors = np.linalg.eigh(correlation)
    # the symmetric root is unique: rounding cannot turn it as it turns eigenvectors
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    largest = np.abs(rng.standard_normal((DRAWS, len(root))) @ root).max(axis=1)
    found = 2 * float(ndtr(-np.quantile(largest, 1 - alpha)))
    # between Bonferroni's level and the pointwise one, whatever the draws
    return min(max(found, alpha / len(root)), alpha)


def _trapezoid(x: Floats) -> Floats:
    """Weights of the L values in the area over its span."""
    gaps = np.diff(x)
    return np.asarray((np.append(gaps, 0) + np.append(0, gaps)) / (2 * (x[-1] - x[0])))


def _response(squares: MeanSquares, weights: Floats) -> MeanSquares:
    """Mean squares of one weighted sum of the L responses."""

    def product(matrix: Floats) -> Floats:
        return np.array([[weights @ matrix @ weights]])

    return squares._replace(
        mean=np.array([weights @ squares.mean]),
        seed=product(squares.seed),
        image=product(squares.image),
        residual=product(squares.residual),
    )


def _estimate(value: float, squares: MeanSquares, alpha: float, interval: str) -> Estimate:
    S, N = squares.seeds, squares.images - len(SMOOTHING)
    low, high = wilson(value, student(squares), alpha)
    kind = "two-way t" if S > 1 else "t over images, without training variance"
    units = f"{counted(S, 'seed')}, {counted(N, 'image')}"
    return Estimate(value, low, high, N, f"{kind}, {interval}; {units}")
