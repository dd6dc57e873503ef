"""Columns of a record from plain values and back.

Without pandas, which pyarrow's own conversions import: a second or more, were it for three rows.
"""

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def column(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """N values of one type: numbers, text, or lists of either; None is null."""
    there = np.array([value is not None for value in values], bool)
    valid = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    if pa.types.is_list(kind):
        inner = [() if value is None else value for value in values]
        items = column(list(chain.from_iterable(inner)), kind.value_type)
        return pa.Array.from_buffers(kind, len(values), [valid, _offsets(inner)], children=[items])
    if pa.types.is_string(kind):
        text = [b"" if value is None else value.encode() for value in values]
        buffers = [valid, _offsets(text), pa.py_buffer(b"".join(text))]
        return pa.Array.from_buffers(kind, len(values), buffers)
    numbers = np.array([0 if value is None else value for value in values], np.dtype(str(kind)))
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(numbers)])


def _offsets(parts: Sequence[Sequence[Any]]) -> pa.Buffer:
    """Where each part begins in all of them end to end, and where the last one ends."""
    return pa.py_buffer(np.array([0, *accumulate(map(len, parts))], np.int32))


def integers(values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """The whole numbers of a column without nulls, N."""
    return np.array(values.to_pylist(), np.int64)
