"""Columns of a record, against Arrow's own conversions."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit.record.columns import column, integers

VALUES = {
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(),
    pa.string(): st.text(),
}
"""of each type in a record's columns"""


@pytest.mark.thorough
@given(st.data(), st.sampled_from(list(VALUES)), st.booleans())
def test_columns_are_those_that_arrow_itself_would_make(data, kind, nested):
    some = VALUES[kind]
    if nested:
        some, kind = st.lists(some), pa.list_(kind)
    values = data.draw(st.lists(st.none() | some))
    made = column(values, kind)
    made.validate(full=True)
    # as text, in which NaN equals itself
    assert repr(made.to_pylist()) == repr(pa.array(values, kind).to_pylist())
    assert (made.type, made.null_count) == (kind, values.count(None))


@given(st.lists(VALUES[pa.int64()]))
def test_whole_numbers_are_read_as_they_were_written(values):
    made = pa.chunked_array([column(values[:2], pa.int64()), column(values[2:], pa.int64())])
    assert integers(made).tolist() == values


def test_a_number_that_a_column_cannot_hold_is_not_cut_to_size():
    with pytest.raises(OverflowError):
        column([2**31], pa.int32())
