"""Accuracy on a set of corrupted images as published, from the evaluations of its levels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from robustkit.corruption.tables import NAMES, SEVERITIES
from robustkit.data.corrupted import CLEAN
from robustkit.protocol import Epsilon
from robustkit.record import Evaluation
from robustkit.statistics import Estimate, Method, proportion

ALEXNET = {
    "gaussian-noise": 0.886428, "shot-noise": 0.894468, "impulse-noise": 0.922640,
    "defocus-blur": 0.819880, "glass-blur": 0.826268, "motion-blur": 0.785948,
    "zoom-blur": 0.798360, "snow": 0.866816, "frost": 0.826572, "fog": 0.819324,
    "brightness": 0.564592, "contrast": 0.853204, "elastic-transform": 0.646056,
    "pixelate": 0.717840, "jpeg-compression": 0.606500,
}  # fmt: skip
"""its mean error over the severities of ImageNet-C, by which a network's is divided; as published
with Hendrycks and Dietterich 2019"""
IMAGENET_CLASSES = 1000
IMAGENET_SIDE = 224


@dataclass(frozen=True, slots=True)
class CorruptionTable:
    """Accuracy of one network at each level."""

    rows: Mapping[str, Mapping[int | None, Estimate]]
    """by corruption, in the benchmark's order, and by severity; None where it has but one"""
    counted: tuple[str, ...]
    """the corruptions that the means are over: the benchmark's fifteen, if all are there"""
    of_imagenet: bool
    altered: bool = False
    """whether any images are others than those that were published"""

    def error(self, corruption: str) -> float:
        """Mean error over the severities."""
        levels = self.rows[corruption].values()
        return 1 - sum(level.value for level in levels) / len(levels)

    @property
    def mean_error(self) -> float | None:
        """Mean of the corruptions' errors; None where there are none, or severities differ."""
        errors = [self.error(name) for name in self.counted]
        return sum(errors) / len(errors) if errors and self.even else None

    @property
    def even(self) -> bool:
        """Whether all corruptions that are counted have the same severities."""
        return len({frozenset(self.rows[name]) for name in self.counted}) <= 1

    @property
    def is_imagenet_c(self) -> bool:
        """Whether these are all levels of ImageNet-C."""
        whole = set(self.counted) == set(NAMES) == set(ALEXNET)
        levels = all(set(self.rows[name]) == set(SEVERITIES) for name in self.counted)
        return whole and levels and self.of_imagenet

    @property
    def mce(self) -> float | None:
        """Mean corruption error as Hendrycks and Dietterich define it, each divided by AlexNet's.

        None unless these are all levels of ImageNet-C, as published.
        """
        if self.altered or not self.is_imagenet_c:
            return None
        return sum(self.error(name) / ALEXNET[name] for name in NAMES) / len(NAMES)


def is_level(record: Evaluation) -> bool:
    """Whether the images of an evaluation are a corruption's at a severity."""
    return "corruption" in record.header["data"]["source"]


def tabulate(
    records: Iterable[Evaluation], epsilon: Epsilon | None = None, method: Method = "wilson"
) -> CorruptionTable:
    """The levels of one network, without an attack or at a budget."""
    rows: dict[str, dict[int | None, Estimate]] = {}
    classes: set[int] = set()
    altered = False
    for record in records:
        source: Mapping[str, Any] = record.header["data"]["source"]
        bound = 0.0 if epsilon is None else float(epsilon)
        right = int((record.broken_at > bound).sum())
        accuracy = proportion(right, len(record.table), method)
        rows.setdefault(source["corruption"], {})[source["severity"]] = accuracy
        classes.add(len(record.header["data"]["classes"]))
        made: Mapping[str, Any] = record.header["data"]["transform"]
        size = record.header["data"]["shape"][1:]
        altered |= bool(made.get("pipeline", made).get("resize")) or size != [IMAGENET_SIDE] * 2
    table = arranged(rows, of_imagenet=classes == {IMAGENET_CLASSES})
    return replace(table, altered=altered)


def arranged(
    rows: Mapping[str, Mapping[int | None, Estimate]], *, of_imagenet: bool = False
) -> CorruptionTable:
    """The accuracies by corruption and severity, in the benchmark's order."""
    order = [*CLEAN, *NAMES]
    ranked = sorted(rows, key=lambda n: (order.index(n) if n in order else len(order), n))
    table = {name: dict(sorted(rows[name].items(), key=_severity)) for name in ranked}
    return CorruptionTable(table, counted(ranked), of_imagenet)


def _severity(item: tuple[int | None, Estimate]) -> int:
    return item[0] or 0


def counted(names: Sequence[str]) -> tuple[str, ...]:
    """Those of the corruptions that a mean is over: the benchmark's fifteen, if all are there."""
    if set(NAMES) <= set(names):
        return NAMES
    return tuple(name for name in names if name not in CLEAN)
