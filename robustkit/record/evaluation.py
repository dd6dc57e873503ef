"""An evaluation in memory: a header, one row per test image, and how the run went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from robustkit.files import canonical, digest
from robustkit.protocol import Epsilon, parse_epsilon
from robustkit.record.columns import column
from robustkit.showing import Shown
from robustkit.statistics import Estimate, Method, proportion

if TYPE_CHECKING:
    import pandas as pd

VERSION = 5
"""2 added `fooled_as`, 3 a digest over all that a file says beside its rows, 4 passes and
`certified_at`, 5 `transform`"""
PASSES = pa.list_(pa.field("element", pa.int32(), nullable=False))
"""one number for the clean pass, then one for each attack, in the protocol's order"""
TRANSFORM = pa.list_(pa.field("element", pa.float64(), nullable=False))
SCHEMA = pa.schema(
    [
        ("sample", pa.string()),  # id of the image, from its pixels
        ("index", pa.int64()),  # place in the data set's order
        ("label", pa.int32()),
        ("predicted", pa.int32()),  # class of the clean image
        ("fooled_at", pa.string()),  # smallest budget that succeeded; "0" for a clean mistake
        ("distance", pa.float64()),  # smallest verified distance, an upper bound; 0 likewise
        ("fooled_by", pa.string()),  # the attack that found it; "clean" likewise
        ("fooled_as", pa.int32()),  # class that the model gives the image at that distance
        ("certified_at", pa.string()),  # largest budget at which it is proven that none fools
        ("forward", PASSES),  # passes of the image through the network, searching and verifying
        ("backward", PASSES),  # gradients of one number each
        ("transform", TRANSFORM),  # degrees, pixels down, pixels right, where such a thing fools
    ]
)
ADDED = ("fooled_as", "certified_at", "forward", "backward", "transform")
"""columns that older formats have not"""
LATER = ADDED[1:]
"""no part of a digest of rows where they say nothing, so that older rows keep theirs"""
SCALARS = tuple(field.name for field in SCHEMA if not pa.types.is_list(field.type))
CLEAN = "clean"
"""`fooled_by` of an image that is misclassified without any attack"""


class Point(NamedTuple):
    """Robust accuracy at one budget."""

    epsilon: Epsilon
    accuracy: Estimate


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One successful perturbation, for looking at."""

    index: int
    """place in the data set's order"""
    label: int
    predicted: int
    """class of the perturbed image"""
    distance: float
    clean: npt.NDArray[np.float32]
    """C × H × W in [0, 1]"""
    perturbed: npt.NDArray[np.float32]
    """C × H × W in [0, 1]"""


@dataclass(frozen=True, repr=False, eq=False)
class Evaluation(Shown):
    """What an evaluation found: a header, one row per image, and how the run went.

    Two that were read are two, whatever they say: `rows_digest` tells whether their rows are equal.
    """

    header: Mapping[str, Any]
    """what was asked: checkpoint, data, protocol, engine; all JSON"""
    run: Mapping[str, Any]
    """what may differ between two runs of the same question: times, batch size, threads"""
    table: pa.Table
    """rows of `SCHEMA`, in the data set's order"""
    examples: Sequence[Example] = ()
    """the smallest successful perturbations, by rising distance"""
    path: Path | None = None
    """its file; None of a module in memory without a name, of which none is kept"""
    outputs: npt.NDArray[np.float64] | None = None
    """logits on fixed noise, N × K, by which modules in memory are told from their likes; of a
    surrogate, too, they stand beside the others"""

    @property
    def digest(self) -> str:
        """The digest of the question, which names the file."""
        return str(self.header["digest"])

    @cached_property
    def rows(self) -> "pd.DataFrame":
        """The rows as a frame; missing is null."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    @cached_property
    def rows_digest(self) -> str:
        """SHA-256 of the rows: equal exactly where every value of every row is equal."""
        return rows_digest(self.table)

    @cached_property
    def epsilons(self) -> tuple[Epsilon, ...]:
        """The budgets, rising."""
        return tuple(parse_epsilon(e["epsilon"]) for e in self.header["protocol"]["epsilons"])

    @cached_property
    def broken_at(self) -> npt.NDArray[np.float64]:
        """For each image the smallest budget that fools it: 0 for a clean mistake, inf if none."""
        value = {e.text: float(e) for e in self.epsilons} | {"0": 0.0}
        texts = self.table["fooled_at"].to_pylist()
        return np.array([np.inf if text is None else value[text] for text in texts])

    @cached_property
    def certified_at(self) -> npt.NDArray[np.float64]:
        """For each image the largest budget that it provably withstands; −inf where none is known.

        Only where `proved`; otherwise nothing was tried.
        """
        value = {e.text: float(e) for e in self.epsilons}
        texts = self.table["certified_at"].to_pylist()
        return np.array([-np.inf if text is None else value[text] for text in texts])

    @property
    def proved(self) -> bool:
        """Whether images were proved before they were attacked."""
        return bool(self.header.get("prove", {}).get("on"))

    def clean(self, method: Method = "wilson") -> Estimate:
        """Accuracy on the images as they are."""
        return proportion(int((self.broken_at > 0).sum()), len(self.table), method)

    def robust(self, method: Method = "wilson") -> tuple[Point, ...]:
        """Accuracy at each budget: the share of *all* images still right, clean mistakes counted.

        It falls monotonically, and is the per-image worst case over attacks and restarts.
        """
        n = len(self.table)
        return tuple(
            Point(e, proportion(int((self.broken_at > float(e)).sum()), n, method))
            for e in self.epsilons
        )

    def certified(self, method: Method = "wilson") -> tuple[Point, ...]:
        """Share of *all* images proved at each budget, a lower bound; empty where not `proved`."""
        n = len(self.table)
        return tuple(
            Point(e, proportion(int((self.certified_at >= float(e)).sum()), n, method))
            for e in (self.epsilons if self.proved else ())
        )


def rows_digest(table: pa.Table) -> str:
    """SHA-256 over the values of all rows; file layout and compression play no part."""
    there = [name for name in SCHEMA.names if name in table.column_names]
    own = [n for n in there if n not in LATER or table[n].null_count < len(table)]
    return digest(canonical(table.select(own).to_pydict()))


def table(columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]]) -> pa.Table:
    """Rows from columns, in the fixed schema; what formats after the third added may be missing."""
    n = len(columns["index"])
    given = {name: columns.get(name, [None] * n) for name in LATER} | dict(columns)
    return pa.table([column(given[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
