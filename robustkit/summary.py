"""Numbers from an evaluation: the JSON object that pipelines read, its schema, and breakdowns.

Arithmetic on rows; no drawing, no torch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robustkit.protocol import Epsilon, labels_of, parse_protocol
from robustkit.record import CLEAN, Evaluation, MeanPasses, Point, mean_passes, passes_of
from robustkit.record.columns import integers
from robustkit.results.rows import searched_up_to
from robustkit.statistics import Estimate, Method, proportion

SCHEMA_NAME = "robustkit.evaluation/1"

_CHECKPOINT = (
    "path", "sha256", "weights", "model", "loss", "label_noise", "data_fraction", "seed",
)  # fmt: skip
_SURROGATE = ("path", "weights")
_DATA = ("name", "split", "n", "digest")
_SOURCE = ("class_map", "corruption", "severity")
_PROTOCOL = ("name", "norm", "digest")
_ESTIMATE = ("accuracy", "low", "high", "n")


COST_OF_A_GRADIENT = 2
"""passes forward that a pass backward counts as"""
STEPS = 200
"""of a curve, at most"""


class ClassAccuracy(NamedTuple):
    """Accuracy on the images of one class."""

    name: str
    clean: Estimate
    robust: Estimate


def summarise(evaluation: Evaluation, method: Method = "wilson") -> dict[str, Any]:
    """The JSON object of one evaluation; see `schema` for what each key means.

    Shares are fractions of all images, clean mistakes included; unknown is None, never NaN.
    """
    header = evaluation.header
    clean = evaluation.clean(method)
    return {
        "schema": SCHEMA_NAME,
        "status": "complete",
        "error": None,
        "warnings": list(header["warnings"]),
        "digest": evaluation.digest,
        "rows_digest": evaluation.rows_digest,
        "checkpoint": {key: header["checkpoint"].get(key) for key in _CHECKPOINT},
        "surrogate": _surrogate(header),
        "data": {key: header["data"][key] for key in _DATA}
        | {key: header["data"]["source"].get(key) for key in _SOURCE},
        "protocol": {key: header["protocol"][key] for key in _PROTOCOL}
        | {"targeted": header["protocol"]["resolved"]["target"]},
        "precision": header.get("precision", "float32"),
        "interval": clean.method,
        "clean": _fractions(clean),
        "robust": [_point(p) for p in robust_points(evaluation, method)],
        "certified": [_point(p) for p in certified_points(evaluation, method)],
        "prove": header.get("prove"),
        "fooled_by": found_by(evaluation),
        "median_distance": median_distance(evaluation),
        "passes": _passes(evaluation),
    }


def failure(path: str, error: str) -> dict[str, Any]:
    """The same object for a checkpoint whose evaluation failed: what is unknown is None."""
    return {
        "schema": SCHEMA_NAME,
        "status": "failed",
        "error": error,
        "warnings": [],
        "digest": None,
        "rows_digest": None,
        "checkpoint": {**dict.fromkeys(_CHECKPOINT), "path": path},
        "surrogate": None,
        "data": dict.fromkeys((*_DATA, *_SOURCE)),
        "protocol": dict.fromkeys((*_PROTOCOL, "targeted")),
        "precision": None,
        "interval": None,
        "clean": dict.fromkeys(_ESTIMATE),
        "robust": [],
        "certified": [],
        "prove": None,
        "fooled_by": {},
        "median_distance": None,
        "passes": None,
    }


def robust_points(evaluation: Evaluation, method: Method = "wilson") -> tuple[Point, ...]:
    """Robust accuracy at each budget, by rising budget."""
    return tuple(sorted(evaluation.robust(method), key=lambda point: point.epsilon.value))


def certified_points(evaluation: Evaluation, method: Method = "wilson") -> tuple[Point, ...]:
    """Certified accuracy at each budget, likewise; empty where nothing was to be proved."""
    return tuple(sorted(evaluation.certified(method), key=lambda point: point.epsilon.value))


def reference(points: Sequence[Point]) -> Point:
    """The point to quote where there is room for one: the middle budget, of two the larger."""
    return points[len(points) // 2]


def found_by(evaluation: Evaluation) -> dict[str, int]:
    """Images fooled within the largest budget, by what found their smallest perturbation.

    First `clean`, for clean mistakes, then the protocol's attacks, those that found nothing with 0.
    """
    names = evaluation.table["fooled_by"].filter(evaluation.table["fooled_at"].is_valid())
    counts = Counter(names.to_pylist())
    attacks = attack_labels(evaluation.header["protocol"])
    return {name: counts[name] for name in dict.fromkeys([CLEAN, *attacks, *sorted(counts)])}


def attack_labels(protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """The names by which the rows call the attacks of a header's protocol."""
    table = {"title": protocol["title"], "norm": protocol["norm"]}
    attacks = {"attack": protocol["resolved"]["attacks"]}
    return labels_of(parse_protocol(table | attacks, protocol["name"], protocol["name"]).attacks)


def median_distance(evaluation: Evaluation) -> float | None:
    """Median smallest verified distance of the images that are right without attack.

    An image that nothing fooled lies beyond every distance; None where the median image is such a
    one, where it is not known (`median_is_hidden`), or where no image is right. Of two middle
    values the smaller.
    """
    least, most = _medians(evaluation)
    return most if least == most < inf else None


def median_is_hidden(evaluation: Evaluation) -> bool:
    """Whether the median hangs on images that were proved at the largest budget.

    These were not attacked, so that an attack which looks beyond the budgets, too, has no distance
    of them.
    """
    least, most = _medians(evaluation)
    return least < most


def _medians(evaluation: Evaluation) -> tuple[float, float]:
    """The median distance at least and at most, by where unattacked images may lie."""
    right, known = evaluation.broken_at > 0, searched_up_to(evaluation.header)
    found = evaluation.table["distance"].to_pylist()
    most = np.array([inf if distance is None else distance for distance in found])
    least = np.where(evaluation.certified_at >= known, known, most)
    middle = ceil(right.sum() / 2) - 1
    if middle < 0:
        return inf, inf
    low, high = (float(np.sort(distances[right])[middle]) for distances in (least, most))
    return low, high


def passes_by_attack(evaluation: Evaluation) -> dict[str, MeanPasses]:
    """Passes an image of the clean pass and of each attack; empty where the record has none."""
    found = passes_of(evaluation.table)
    if found is None:
        return {}
    names = (CLEAN, *attack_labels(evaluation.header["protocol"]))
    means = zip(*found.mean(1).tolist(), strict=True)
    return {name: MeanPasses(*mean) for name, mean in zip(names, means, strict=True)}


def accuracy_by_passes(
    evaluation: Evaluation, epsilon: Epsilon
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Robust accuracy at a budget, were an image given no more than so many passes.

    A backward pass counts as two. An image that is fooled counts as right until all that it cost is
    spent, also after it was fooled: the curve is an upper bound, exact where there is one budget
    and no attack goes on after a success, as those for the smallest perturbation do.

    Returns:
        rising numbers of passes, and the accuracy from each on; None where the record has none.
    """
    found = passes_of(evaluation.table)
    if found is None:
        return None
    cost = found[0].sum(1) + COST_OF_A_GRADIENT * found[1].sum(1)
    fooled = evaluation.broken_at <= float(epsilon)
    places, counts = np.unique(cost[fooled], return_counts=True)
    # as many steps as a line can show, at the same shares of the images
    shown = np.unique(np.linspace(0, len(places) - 1, min(len(places), STEPS)).astype(int))
    left = (len(cost) - counts.cumsum()) / len(cost)
    x = np.concatenate([[1.0], places[shown], [cost.max()]])
    y = np.concatenate([[1.0], left[shown]])
    return x, np.append(y, y[-1])


def class_accuracy(
    evaluation: Evaluation, epsilon: Epsilon, method: Method = "wilson"
) -> list[ClassAccuracy]:
    """Clean and robust accuracy of each class that has images, in the data set's order."""
    label = integers(evaluation.table["label"])
    broken_at = evaluation.broken_at
    result = []
    for number in np.unique(label):
        own = broken_at[label == number]
        clean, robust = (
            proportion(int((own > bound).sum()), len(own), method) for bound in (0, float(epsilon))
        )
        result.append(ClassAccuracy(class_name(evaluation, int(number)), clean, robust))
    return result


def class_name(evaluation: Evaluation, number: int) -> str:
    """The name of a class; its number where the data set has no name for it."""
    names = evaluation.header["data"]["classes"]
    return str(names[number]) if number < len(names) else str(number)


def _surrogate(header: Mapping[str, Any]) -> dict[str, Any] | None:
    """The network that a transfer attack was crafted on; None where it was none."""
    other = header.get("surrogate")
    return None if other is None else {key: other.get(key) for key in _SURROGATE}


def _passes(evaluation: Evaluation) -> dict[str, Any] | None:
    whole = mean_passes(evaluation.table)
    if whole is None:
        return None
    by_attack = passes_by_attack(evaluation)
    return {**whole._asdict(), "by_attack": {n: m._asdict() for n, m in by_attack.items()}}


def _point(point: Point) -> dict[str, Any]:
    epsilon = {"epsilon": point.epsilon.text, "epsilon_value": float(point.epsilon)}
    return epsilon | _fractions(point.accuracy)


def _fractions(estimate: Estimate) -> dict[str, Any]:
    values = (estimate.value, estimate.low, estimate.high, estimate.n)
    return dict(zip(_ESTIMATE, values, strict=True))
