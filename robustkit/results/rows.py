"""Rows of many evaluations, as small arrays: which budget, if any, broke each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from robustkit.errors import RecordError
from robustkit.protocol import BEYOND, KINDS, budget_key
from robustkit.record import Example, MeanPasses, examples, mean_passes, read_table

UNBROKEN = np.int8(127)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """One evaluation."""

    header: Mapping[str, Any]
    broken: npt.NDArray[np.int8]
    """[N]: place of the smallest budget that fools the image, from 1 on; 0 for a clean mistake,
    `UNBROKEN` where nothing was found"""
    epsilons: tuple[str, ...]
    """budgets as written, rising"""
    passes: MeanPasses | None = None
    """an image; None where the record does not say"""

    def right(self, epsilon: str = "") -> npt.NDArray[np.bool_]:
        """Which images are still right at a budget, however written, or without any attack, [N].

        Raises:
            RecordError: the evaluation did not try that budget.
        """
        if not epsilon:
            return self.broken > 0
        there = list(map(budget_key, self.epsilons))
        if budget_key(epsilon) not in there:
            raise RecordError(
                f"{self.header['checkpoint']['path']}: was not attacked at ε = {epsilon}, only at "
                f"{', '.join(self.epsilons) or 'none'}"
            )
        return self.broken > there.index(budget_key(epsilon)) + 1


class Records(Protocol):
    """Wherever the evaluations of a study are kept; `path` is how it knows one of them."""

    def rows(self, path: Path) -> Rows:
        """The rows of an evaluation."""

    def distances(self, path: Path) -> npt.NDArray[np.float64]:
        """The smallest perturbation that fools each image, [N]; see `distances`."""

    def examples(self, path: Path) -> Sequence[Example]:
        """Its examples; none where they are missing."""


@dataclass(frozen=True, slots=True)
class Files:
    """Evaluations in files of their own."""

    def rows(self, path: Path) -> Rows:
        """The rows of an evaluation's file; the last ones are kept."""
        return _kept(path, _stamp(path))

    def distances(self, path: Path) -> npt.NDArray[np.float64]:
        """The distances in the file."""
        return distances(path)

    def examples(self, path: Path) -> Sequence[Example]:
        """The examples beside it."""
        return examples(path)


def _stamp(path: Path) -> tuple[int, int, int]:
    """What is another for a file that was written anew; 0 where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=64)
def _kept(path: Path, stamp: tuple[int, int, int]) -> Rows:
    return read_rows(path)


def read_rows(path: Path) -> Rows:
    """The rows of an evaluation's file, as small as they can be.

    Raises:
        RecordError: no such file, not one of ours, or changed since it was written.
    """
    found, table = read_table(path)
    epsilons = budgets(found.header)
    column = table["fooled_at"].combine_chunks().dictionary_encode()
    return Rows(found.header, _places(column, epsilons), epsilons, mean_passes(table))


def budgets(header: Mapping[str, Any]) -> tuple[str, ...]:
    """The budgets of an evaluation as written, rising."""
    return tuple(entry["epsilon"] for entry in header["protocol"]["epsilons"])


def searched_up_to(header: Mapping[str, Any]) -> float:
    """The largest distance up to which an evaluation has surely looked at every image.

    Images proved at the largest budget are not attacked: of an attack that keeps what it finds
    beyond the budgets, too, nothing is known of them there. Of other evaluations infinity.
    """
    protocol = header["protocol"]
    kinds = (KINDS.get(attack["kind"]) for attack in protocol["resolved"]["attacks"])
    if not header.get("prove", {}).get("on") or not any(kind in BEYOND for kind in kinds):
        return float("inf")
    return max(float(entry["value"]) for entry in protocol["epsilons"])


def distances(path: Path) -> npt.NDArray[np.float64]:
    """The smallest perturbation that fools each image, [N].

    0 for a clean mistake, infinite where nothing was found; see `searched_up_to`.

    Raises:
        RecordError: no such file, not one of ours, or changed since it was written.
    """
    column = read_table(path)[1]["distance"]
    found: npt.NDArray[np.float64] = column.fill_null(np.inf).to_numpy()
    return found


def _places(column: pa.Array, epsilons: Sequence[str]) -> npt.NDArray[np.int8]:
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else column.type.wrap_array([])
    place = {"0": 0} | {text: i for i, text in enumerate(epsilons, 1)}
    known = np.array([place[text] for text in column.dictionary.to_pylist()] or [0], np.int8)
    indices = column.indices
    codes = indices.fill_null(0).to_numpy(zero_copy_only=False)
    result: npt.NDArray[np.int8] = known[codes]
    result[indices.is_null().to_numpy(zero_copy_only=False)] = UNBROKEN
    return result
