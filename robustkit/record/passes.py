"""What rows say of passes through the network: means an image, of each attack and of all."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa


class MeanPasses(NamedTuple):
    """Passes an image, on average; each image in each call of the network is one."""

    forward: float
    backward: float


def passes_of(rows: pa.Table) -> npt.NDArray[np.int64] | None:
    """Passes [2, N, 1 + attacks], first forward, then backward, first of the clean pass.

    None where a row does not say, as in records of older formats.
    """
    if not len(rows) or any(rows[name].null_count for name in ("forward", "backward")):
        return None
    # by lists: to_numpy() imports pandas, for which an answer on file must not wait
    return np.array([rows[name].to_pylist() for name in ("forward", "backward")], np.int64)


def mean_passes(rows: pa.Table) -> MeanPasses | None:
    """Of the clean pass and all attacks together; None where a row does not say."""
    found = passes_of(rows)
    return None if found is None else MeanPasses(*map(float, found.sum(2).mean(1)))
