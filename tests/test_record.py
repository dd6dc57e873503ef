import json
from dataclasses import fields

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from helpers.evaluations import evaluation

from robustkit import record
from robustkit.errors import EvaluationFailed, RecordError
from robustkit.statistics import proportion


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
    assert found.run == {**made.run, "rows_digest": made.rows_digest}
    assert found.outputs is None
    assert len(found.examples) == len(made.examples)
    for ours, theirs in zip(found.examples, made.examples, strict=True):
        for field in fields(ours):
            np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    assert not list(tmp_path.glob("*.partial"))


def test_an_evaluation_that_was_never_on_file_has_no_path_no_outputs_and_no_examples():
    made = evaluation("net.pt", n=3)
    bare = record.Evaluation(made.header, made.run, made.table)
    assert bare.path is None
    assert bare.outputs is None
    assert list(bare.examples) == []


@pytest.mark.parametrize("method", ["wilson", "exact"])
def test_intervals_are_of_the_method_that_is_asked_for(method):
    made = evaluation("net.pt", n=50)
    right = [int((made.broken_at > e).sum()) for e in (0, 0.1, 0.2, 0.3)]
    expected = [proportion(k, 50, method) for k in right]
    assert [made.clean(method), *(p.accuracy for p in made.robust(method))] == expected
    assert (made.clean() == expected[0]) == (method == "wilson")


def test_curves_fall_and_count_every_image(tmp_path):
    made = evaluation("net.pt", n=200, epsilons=("1/20", "1/10", "1/5"))
    rows = made.rows
    values = [p.accuracy.value for p in made.robust()]
    assert values == sorted(values, reverse=True)
    assert values[0] <= made.clean().value
    assert made.clean().value == (rows.label == rows.predicted).mean()
    assert set(rows.fooled_by[rows.label != rows.predicted]) == {record.CLEAN}
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


def test_every_image_of_the_frame_is_told_where_it_comes_from(tmp_path):
    """In the order of the columns; the values are those of the header, each of another kind."""
    known = {
        "path": "net.pt",
        "model": "lenet5",
        "loss": "hinge",
        "label_noise": 0.4,
        "data_fraction": 0.5,
        "seed": 7,
    }
    found = stored(tmp_path, "a" * 64, n=3, checkpoint=known)
    stored(tmp_path, "b" * 64, n=2, checkpoint=dict.fromkeys(known))
    frame = record.frame(tmp_path, columns=["index"])
    constant = {
        "evaluation": "a" * 64,
        "checkpoint": "net.pt",
        "model": "lenet5",
        "loss": "hinge",
        "label_noise": 0.4,
        "data_fraction": 0.5,
        "seed": 7,
        "data": "mnist5k",
        "split": "test",
        "protocol": "pgd",
        "norm": "linf",
        "targeted": found.header["protocol"]["resolved"]["target"],
    }
    assert list(frame.columns) == ["index", *constant]
    first = frame[frame.evaluation == "a" * 64]
    assert first.drop(columns="index").to_dict("records") == [constant] * 3
    assert first["index"].tolist() == [0, 1, 2]
    second = frame[frame.evaluation == "b" * 64]
    unknown = ["checkpoint", "model", "loss", "label_noise", "data_fraction", "seed"]
    assert second[unknown].isna().all(axis=None)
    assert second.drop(columns=unknown).notna().all(axis=None)
    # what is unknown of every network has the type that it would have, too
    (tmp_path / f"{'a' * 32}.parquet").unlink()
    kinds = record.frame(tmp_path, columns=["index"])[unknown].dtypes
    numbers = {"label_noise", "data_fraction", "seed"}
    for name in unknown:
        assert (kinds[name] == np.float64) == (name in numbers)
        assert isinstance(kinds[name], pd.CategoricalDtype) == (name not in numbers)


def test_an_empty_folder_is_an_empty_frame_and_none_is_an_error(tmp_path):
    frame = record.frame(tmp_path)
    assert frame.empty
    assert list(frame.columns) == record.SCHEMA.names
    assert isinstance(frame.dtypes["sample"], pd.CategoricalDtype)
    assert frame.dtypes["distance"] == np.float64
    assert frame.dtypes["label"] == np.int32
    with pytest.raises(RecordError, match="no such folder"):
        record.frame(tmp_path / "nothing")


def test_the_folder_that_is_read_unless_another_is_named_is_runs(tmp_path, monkeypatch):
    stored(tmp_path / "runs", n=3)
    monkeypatch.chdir(tmp_path)
    assert len(record.frame()) == 3


def test_a_file_in_place_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(EvaluationFailed, match=r"cannot write .*runs"):
        record.Store(tmp_path / "runs")


def test_what_a_newer_version_wrote_is_refused(tmp_path):
    found = stored(tmp_path)
    (tmp_path / "robustkit.json").write_text(json.dumps({"format": 3}))
    told = (
        "written by a newer robustkit (format 3, this one reads 2); "
        "upgrade, or choose another --out"
    )
    for attempt in (lambda: record.Store(tmp_path), lambda: record.frame(tmp_path)):
        with pytest.raises(RecordError) as caught:
            attempt()
        assert str(caught.value) == f"{tmp_path}: {told}"
    header = json.dumps({**found.header, "schema": "robustkit.evaluation/3"})
    pq.write_table(
        found.table.replace_schema_metadata({"robustkit.header": header, "robustkit.run": "{}"}),
        found.path,
    )
    with pytest.raises(RecordError) as caught:
        record.read(found.path)
    assert str(caught.value) == f"{found.path}: {told}"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"formats": 2}'])
def test_a_folders_marker_that_says_nothing_is_named(tmp_path, content):
    marker = tmp_path / "robustkit.json"
    marker.write_text(content)
    with pytest.raises(RecordError) as caught:
        record.Store(tmp_path)
    assert str(caught.value).startswith(f"{marker}: not readable: ")


def test_a_folder_keeps_the_marker_of_an_older_version_and_a_new_one_gets_one(tmp_path):
    marker = tmp_path / "runs" / "robustkit.json"
    record.Store(tmp_path / "runs")
    assert json.loads(marker.read_text()) == {"format": record.VERSION}
    marker.write_text('{"format": 1}')
    record.Store(tmp_path / "runs")
    assert marker.read_text() == '{"format": 1}'


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


def test_a_block_of_another_schema_counts_as_missing(tmp_path):
    blocks = record.Blocks(tmp_path / "x.parquet")
    made = evaluation("net.pt", n=10)
    lists = pa.array([[0.5]] * 10)
    place = made.table.schema.names.index("distance")
    for rows in (
        made.table.drop_columns(["fooled_as"]),
        made.table.set_column(place, "distance", lists),
    ):
        blocks.write(0, rows, [])
        assert blocks.done(0) is None


def test_an_unfinished_run_has_the_files_that_earlier_versions_go_on_from(tmp_path):
    made = evaluation("net.pt", n=10)
    store = record.Store(tmp_path)
    with store.claim("a" * 64, lambda: None) as blocks:
        blocks.plan({})
        blocks.keep_outputs(np.zeros((1, 2)))
        blocks.keep_images(12, np.zeros((1, 1, 2, 2), np.float32))
        blocks.write(12, made.table, made.examples)
        assert {path.name for path in (tmp_path / f"{'a' * 32}.partial").iterdir()} == {
            "plan.json",
            "outputs.npy",
            "block-000012.npy",
            "block-000012.parquet",
            "best.examples.npz",
        }
        assert store.find("a" * 64) is None
        blocks.finish({**made.header, "digest": "a" * 64}, made.run, made.table)
        blocks.drop()  # there is nothing left to drop
    assert store.find("a" * 64).table.equals(made.table)


def test_images_and_outputs_that_are_missing_or_damaged_are_none(tmp_path):
    blocks = record.Blocks(tmp_path / "x.parquet")
    images, outputs = np.ones((2, 1, 3, 3), np.float32), np.ones((2, 4)) / 3
    assert blocks.images(0) is None
    assert blocks.outputs() is None
    blocks.keep_images(0, images)
    blocks.keep_outputs(outputs)
    np.testing.assert_array_equal(blocks.images(0), images)
    np.testing.assert_array_equal(blocks.outputs(), outputs)
    assert blocks.images(0).dtype == np.float32
    assert blocks.images(1) is None
    files = [path for path in blocks.folder.iterdir() if path.suffix == ".npy"]
    assert len(files) == 2
    for content in (b"", b"no array", b"\x93NUMPY"):
        for path in files:
            path.write_bytes(content)
        assert blocks.outputs() is None
        assert blocks.images(0) is None


def test_the_outputs_of_a_module_stand_in_its_record(tmp_path):
    made, outputs = evaluation("net.pt", n=10), np.arange(6.0).reshape(2, 3) / 7
    store = record.Store(tmp_path)
    with store.claim("a" * 64, lambda: None) as blocks:
        blocks.keep_outputs(outputs)
        blocks.write(0, made.table, [])
        blocks.finish({**made.header, "digest": "a" * 64}, made.run, made.table)
    np.testing.assert_array_equal(store.find("a" * 64).outputs, outputs)


def test_rows_are_kept_compressed(tmp_path):
    """A million rows of digests and budgets are to stay small."""
    group = pq.ParquetFile(stored(tmp_path).path).metadata.row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


def test_who_finds_a_record_claimed_says_so_and_waits(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waits before it says so"))
    store, waited = record.Store(tmp_path), []
    other = FileLock(tmp_path / f"{'a' * 32}.lock")
    other.acquire()

    def waiting():
        waited.append(True)
        other.release()

    with store.claim("b" * 64, waiting):
        assert not waited, "another record is another claim"
    with store.claim("a" * 64, waiting) as blocks:
        assert waited == [True]
        assert blocks.folder == tmp_path / f"{'a' * 32}.partial"
    with store.claim("a" * 64, waiting):
        assert waited == [True], "a claim ends with its work"


def test_the_first_plan_stays_until_it_has_to_change(tmp_path):
    blocks = record.Blocks(tmp_path / "x.parquet")
    assert blocks.plan({"batch_size": 8}) == {"batch_size": 8}
    assert blocks.plan({"batch_size": 99}) == {"batch_size": 8}
    blocks.replan({"batch_size": 4})
    assert blocks.plan({"batch_size": 99}) == {"batch_size": 4}
    (blocks.folder / "plan.json").write_text('{"batch_')
    assert blocks.plan({"batch_size": 16}) == {"batch_size": 16}
    assert blocks.plan({"batch_size": 99}) == {"batch_size": 16}


class Trap:
    """Pickled, it is a call of a program."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_examples_and_arrays_are_never_unpickled(tmp_path):
    found, opened = stored(tmp_path), tmp_path / "opened"
    trap = np.array([Trap(opened)], dtype=object)
    np.savez(
        tmp_path / f"{'a' * 32}.examples.npz",
        **{field.name: trap for field in fields(record.Example)},
    )
    assert record.read(found.path).examples == []
    blocks = record.Blocks(tmp_path / "x.parquet")
    blocks.folder.mkdir()
    for name in ("outputs.npy", "block-000000.npy"):
        np.save(blocks.folder / name, trap, allow_pickle=True)
    assert blocks.outputs() is None
    assert blocks.images(0) is None
    assert not opened.exists()


def test_missing_examples_do_not_matter(tmp_path):
    found = stored(tmp_path)
    for path in tmp_path.glob("*.examples.npz"):
        path.unlink()
    assert record.read(found.path).examples == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda name, array: array[1:] if name == "label" else array, id="a row short"),
        pytest.param(lambda name, array: array[0] if name == "label" else array, id="no list"),
    ],
)
def test_examples_whose_columns_do_not_fit_together_do_not_matter(tmp_path, damage):
    found = stored(tmp_path)
    (path,) = tmp_path.glob("*.examples.npz")
    with np.load(path) as arrays:
        columns = {name: damage(name, arrays[name]) for name in arrays.files}
    np.savez(path, **columns)
    assert record.read(found.path).examples == []
