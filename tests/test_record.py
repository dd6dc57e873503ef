import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers.evaluations import evaluation

from robustkit import record
from robustkit.errors import RecordError


def stored(folder, name="a" * 64, **options):
    """A synthetic evaluation, written as a run writes it."""
    made = evaluation("net.pt", **options)
    header = {**made.header, "digest": name}
    store = record.Store(folder)
    with store.claim(name, lambda: None) as blocks:
        blocks.write(0, made.table, made.examples)
        blocks.finish(header, made.run, made.table)
    return store.find(name)


def test_a_record_reads_back_as_it_was_written(tmp_path):
    made, found = evaluation("net.pt"), stored(tmp_path)
    assert found.table.equals(made.table)
    assert found.rows_digest == made.rows_digest == found.run["rows_digest"]
    assert found.path == tmp_path / f"{'a' * 32}.parquet"
    assert len(found.examples) == len(made.examples)
    for ours, theirs in zip(found.examples, made.examples, strict=True):
        assert ours.index == theirs.index
        np.testing.assert_array_equal(ours.perturbed, theirs.perturbed)
    assert not list(tmp_path.glob("*.partial"))


def test_curves_fall_and_count_every_image(tmp_path):
    made = evaluation("net.pt", n=200, epsilons=("1/20", "1/10", "1/5"))
    rows = made.rows
    values = [p.accuracy.value for p in made.robust()]
    assert values == sorted(values, reverse=True)
    assert values[0] <= made.clean().value
    assert made.clean().value == (rows.label == rows.predicted).mean()
    for point in made.robust():
        robust = (rows.fooled_at != "0") & (
            rows.distance.isna() | (rows.distance > float(point.epsilon))
        )
        assert point.accuracy.value == pytest.approx(robust.mean())
        assert point.accuracy.n == 200


def test_the_rows_digest_sees_every_value():
    made = evaluation("net.pt", n=20)
    columns = made.table.to_pydict()
    digests = {record.rows_digest(made.table)}
    for name, value in [
        ("sample", "x"),
        ("label", 3),
        ("fooled_at", "9"),
        ("distance", 0.123),
        ("fooled_by", None),
        ("fooled_as", 77),
    ]:
        changed = {**columns, name: [value, *columns[name][1:]]}
        digests.add(record.rows_digest(record.table(changed)))
    assert len(digests) == 7


def test_a_record_of_the_first_format_is_read_without_what_it_did_not_keep(tmp_path):
    path = stored(tmp_path, "a" * 64, n=30).path
    old = pq.read_table(path)
    header = json.loads(old.schema.metadata[b"robustkit.header"])
    metadata = old.schema.metadata | {
        b"robustkit.header": json.dumps({**header, "schema": "robustkit.evaluation/1"}).encode()
    }
    pq.write_table(old.drop_columns(["fooled_as"]).replace_schema_metadata(metadata), path)
    found = record.read(path)
    assert found.rows.fooled_as.isna().all()
    assert found.table.schema.names == record.SCHEMA.names


def test_all_records_of_a_folder_make_one_tidy_frame(tmp_path):
    stored(tmp_path, "a" * 64, n=30, checkpoint={"loss": "hinge", "label_noise": 0.4, "seed": 1})
    stored(tmp_path, "b" * 64, n=20, checkpoint={"loss": None, "label_noise": None})
    frame = record.frame(tmp_path)
    assert len(frame) == 50
    assert set(record.SCHEMA.names) < set(frame.columns)
    counts = frame.groupby("evaluation", observed=True).size()
    assert counts.to_dict() == {"a" * 64: 30, "b" * 64: 20}
    assert frame[frame.evaluation == "a" * 64].loss.unique().tolist() == ["hinge"]
    assert frame[frame.evaluation == "b" * 64].label_noise.isna().all()
    narrow = record.frame(tmp_path, columns=["sample", "fooled_at"])
    assert "distance" not in narrow
    assert isinstance(narrow["sample"].dtype, pd.CategoricalDtype)


def test_an_empty_folder_is_an_empty_frame_and_none_is_an_error(tmp_path):
    assert record.frame(tmp_path).empty
    with pytest.raises(RecordError, match="no such folder"):
        record.frame(tmp_path / "nothing")


def test_what_a_newer_version_wrote_is_refused(tmp_path):
    found = stored(tmp_path)
    (tmp_path / "robustkit.json").write_text(json.dumps({"format": 3}))
    for attempt in (lambda: record.Store(tmp_path), lambda: record.frame(tmp_path)):
        with pytest.raises(RecordError, match="written by a newer robustkit"):
            attempt()
    header = json.dumps({**found.header, "schema": "robustkit.evaluation/3"})
    pq.write_table(
        found.table.replace_schema_metadata({"robustkit.header": header, "robustkit.run": "{}"}),
        found.path,
    )
    with pytest.raises(RecordError, match="written by a newer robustkit"):
        record.read(found.path)


@pytest.mark.parametrize("content", [b"", b"PAR1 nothing PAR1", b"<html>"])
def test_what_is_no_record_is_one_line(tmp_path, content):
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"x\.parquet: not a robustkit evaluation") as caught:
        record.read(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_block_counts_as_missing(tmp_path):
    blocks = record.Blocks(tmp_path / "x.parquet")
    made = evaluation("net.pt", n=10)
    blocks.write(0, made.table, [])
    assert blocks.done(0).equals(made.table)
    path = next(blocks.folder.glob("block-*.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    assert blocks.done(0) is None
    assert blocks.done(1) is None


def test_the_first_plan_stays_until_it_has_to_change(tmp_path):
    blocks = record.Blocks(tmp_path / "x.parquet")
    assert blocks.plan({"batch_size": 8}) == {"batch_size": 8}
    assert blocks.plan({"batch_size": 99}) == {"batch_size": 8}
    blocks.replan({"batch_size": 4})
    assert blocks.plan({"batch_size": 99}) == {"batch_size": 4}


def test_missing_examples_do_not_matter(tmp_path):
    found = stored(tmp_path)
    for path in tmp_path.glob("*.examples.npz"):
        path.unlink()
    assert record.read(found.path).examples == []
