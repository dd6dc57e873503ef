import errno
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from helpers.evaluations import evaluation

from robustkit import record
from robustkit.auditing.stored import read_audit
from robustkit.errors import EvaluationFailed, RecordError
from robustkit.record import read_header
from robustkit.record.certification import (
    SCHEMA,
    CertifiedImage,
    certification_name,
    encode_certification,
    read_certification,
)
from robustkit.record.checks import check_rows
from robustkit.record.examples import SEAL, decode_examples, encode_examples, examples_state
from robustkit.record.file import decode_array, encode_array
from robustkit.results.records import open_record
from robustkit.results.rows import Files, distances, read_rows
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
    proved = replace(
        made,
        header=made.header | {"prove": {"on": True}},
        table=column("certified_at", ["0.1"] * 30 + [None] * 20)(made.table),
    )
    shares = [proportion(k, 50, method) for k in (30, 0, 0)]
    assert [point.accuracy for point in proved.certified(method)] == shares


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
        ("certified_at", "0.1"),
        ("forward", [1, 2, 3]),
        ("backward", [0, 9, 9]),
    ]:
        changed = {**columns, name: [value, *columns[name][1:]]}
        digests.add(record.rows_digest(record.table(changed)))
    assert len(digests) == 10


@pytest.mark.parametrize(("format_", "later"), [(1, record.ADDED), (2, record.ADDED[1:])])
def test_a_record_of_an_older_format_is_read_without_what_it_did_not_keep(tmp_path, format_, later):
    path = stored(tmp_path, "a" * 64, n=30).path
    old = pq.read_table(path)
    header, run = (json.loads(old.schema.metadata[b"robustkit." + k]) for k in (b"header", b"run"))
    rows = old.drop_columns(list(later)).replace_schema_metadata(None)
    metadata = {
        "robustkit.header": json.dumps({**header, "schema": f"robustkit.evaluation/{format_}"}),
        "robustkit.run": json.dumps({**run, "rows_digest": record.rows_digest(rows)}),
    }
    pq.write_table(rows.replace_schema_metadata(metadata), path)
    found = record.read(path)
    assert all(found.rows[name].isna().all() for name in later)
    assert format_ == 1 or found.rows_digest == found.run["rows_digest"]
    assert found.table.schema.names == record.SCHEMA.names


def test_all_records_of_a_folder_make_one_tidy_frame(tmp_path):
    stored(tmp_path, "a" * 64, n=30, checkpoint={"loss": "hinge", "label_noise": 0.4, "seed": 1})
    stored(tmp_path, "b" * 64, n=20, checkpoint={"loss": None, "label_noise": None})
    frame = record.frame(tmp_path)
    assert len(frame) == 50
    assert set(record.SCHEMA.names) - set(frame.columns) == {"forward", "backward", "transform"}
    passes = record.frame(tmp_path, columns=["sample", "forward"])
    assert {len(one) for one in passes.forward} == {3}
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
        "weights": "c" * 64,
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
        "weights": "c" * 64,
        "model": "lenet5",
        "loss": "hinge",
        "label_noise": 0.4,
        "data_fraction": 0.5,
        "seed": 7,
        "data": "mnist5k",
        "split": "test",
        "images": found.header["data"]["digest"],
        "corruption": None,
        "severity": None,
        "protocol": "pgd",
        "attack": found.header["protocol"]["digest"],
        "norm": "linf",
        "budgets": ", ".join(e.text for e in found.epsilons),
        "targeted": found.header["protocol"]["resolved"]["target"],
        "surrogate": None,
        "precision": "float32",
        "revision": found.header["engine"]["revision"],
    }
    assert list(frame.columns) == ["index", *constant]
    first = frame[frame.evaluation == "a" * 64]
    nothing = ["corruption", "severity", "surrogate"]
    assert frame[nothing].isna().all(axis=None)
    first = first.drop(columns=nothing)
    constant = {name: value for name, value in constant.items() if name not in nothing}
    assert first.drop(columns="index").to_dict("records") == [constant] * 3
    assert first["index"].tolist() == [0, 1, 2]
    second = frame[frame.evaluation == "b" * 64]
    unknown = ["checkpoint", "weights", "model", "loss", "label_noise", "data_fraction", "seed"]
    assert second[unknown].isna().all(axis=None)
    assert second.drop(columns=[*unknown, *nothing]).notna().all(axis=None)
    # what is unknown of every network has the type that it would have, too
    (tmp_path / f"{'a' * 32}.parquet").unlink()
    kinds = record.frame(tmp_path, columns=["index"])[unknown].dtypes
    numbers = {"label_noise", "data_fraction", "seed"}
    for name in unknown:
        assert (kinds[name] == np.float64) == (name in numbers)
        assert isinstance(kinds[name], pd.CategoricalDtype) == (name not in numbers)


FOG = {"corruption": "fog", "severity": 3}


@pytest.mark.parametrize(
    ("part", "told", "column", "value"),
    [
        (None, {"surrogate": {"path": "other.pt"}}, "surrogate", "other.pt"),
        (None, {"precision": "bf16"}, "precision", "bf16"),
        ("data", {"digest": "d" * 64}, "images", "d" * 64),
        ("data", {"source": FOG}, "corruption", "fog"),
        ("data", {"source": FOG}, "severity", 3),
        ("engine", {"revision": 99}, "revision", 99),
    ],
)
def test_evaluations_that_another_attack_or_other_images_tell_apart_differ_in_the_frame(
    tmp_path, part, told, column, value
):
    made = stored(tmp_path, "a" * 64, n=3)
    header = made.header | (told if part is None else {part: made.header[part] | told})
    with record.Store(tmp_path).claim("b" * 64, str) as blocks:
        blocks.finish(header | {"digest": "b" * 64}, made.run, made.table)
    frame = record.frame(tmp_path, columns=["index"])
    one, other = (frame[frame.evaluation == name * 64] for name in "ab")
    assert other[column].tolist() == [value] * 3
    assert value not in one[column].tolist()


def test_an_empty_folder_is_an_empty_frame_and_none_is_an_error(tmp_path):
    frame = record.frame(tmp_path)
    assert frame.empty
    full = record.frame(stored(tmp_path / "full").path.parent)
    assert frame.dtypes.index.equals(full.dtypes.index)
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
    store = record.Store(tmp_path / "runs")
    assert store.find("a" * 64) is None
    with pytest.raises(EvaluationFailed, match=r"cannot write .*runs"), store.claim("a" * 64, str):
        pass


def test_what_a_newer_version_wrote_is_refused(tmp_path):
    found = stored(tmp_path)
    (tmp_path / "robustkit.json").write_text(json.dumps({"format": record.VERSION + 1}))
    told = (
        f"written by a newer robustkit (format {record.VERSION + 1}, this one reads "
        f"{record.VERSION}); "
        "upgrade, or choose another --out"
    )
    for attempt in (lambda: record.Store(tmp_path), lambda: record.frame(tmp_path)):
        with pytest.raises(RecordError) as caught:
            attempt()
        assert str(caught.value) == f"{tmp_path}: {told}"
    header = json.dumps({**found.header, "schema": f"robustkit.evaluation/{record.VERSION + 1}"})
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
    assert str(caught.value).startswith(f"{marker}: cannot be read: ")


def test_a_folders_marker_that_cannot_be_read_is_named(tmp_path):
    marker = tmp_path / "robustkit.json"
    marker.mkdir()
    with pytest.raises(RecordError) as caught:
        record.Store(tmp_path)
    assert str(caught.value) == f"{marker}: cannot be read: Is a directory"


def test_a_folder_keeps_the_marker_of_an_older_version_and_a_new_one_gets_one(tmp_path):
    marker = tmp_path / "runs" / "robustkit.json"
    store = record.Store(tmp_path / "runs")
    assert not marker.parent.exists(), "who only looks leaves nothing behind"
    with store.claim("a" * 64, str):
        assert json.loads(marker.read_text()) == {"format": record.VERSION}
    marker.write_text('{"format": 1}')
    with store.claim("a" * 64, str):
        assert marker.read_text() == '{"format": 1}'


@pytest.mark.parametrize("content", [b"", b"PAR1 nothing PAR1", b"<html>"])
def test_what_is_no_record_is_one_line(tmp_path, content):
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"x\.parquet: not a robustkit evaluation") as caught:
        record.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [record.read, read_header, read_certification, read_audit])
def test_a_file_that_is_not_there_or_not_allowed_is_told_apart_from_a_damaged_one(
    tmp_path, read, monkeypatch
):
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("gone", "link", "file/inside"):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(RecordError, match=rf"{name}: no such file$"):
            read(tmp_path / name)

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    for how in ("stat", "read_bytes", "open"):
        monkeypatch.setattr(Path, how, forbidden)
    with pytest.raises(RecordError, match=r"file: cannot be read: Permission denied$"):
        read(tmp_path / "file")


def test_a_damaged_block_counts_as_missing(tmp_path):
    blocks = record.Blocks(tmp_path / "x.parquet")
    made = evaluation("net.pt", n=10)
    blocks.write(0, made.table, [])
    assert blocks.done(0, 0, 10).rows.equals(made.table)
    assert blocks.done(0, 1, 10) is None, "other images"
    assert blocks.done(0, 0, 11) is None, "not all images"
    path = next(blocks.folder.glob("block-*.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    assert blocks.done(0, 0, 10) is None
    assert blocks.done(1, 0, 10) is None


def test_a_block_of_another_schema_counts_as_missing(tmp_path):
    blocks = record.Blocks(tmp_path / "x.parquet")
    made = evaluation("net.pt", n=10)
    lists = pa.array([[0.5]] * 10)
    place = made.table.schema.names.index("distance")
    for rows in (
        made.table.drop_columns(["fooled_as"]),
        made.table.set_column(place, "distance", lists),
    ):
        blocks.write(0, made.table, [])
        path = next(blocks.folder.glob("block-*.parquet"))
        pq.write_table(rows.replace_schema_metadata(pq.read_schema(path).metadata), path)
        assert blocks.done(0, 0, 10) is None


def test_an_unfinished_run_has_the_files_that_earlier_versions_go_on_from(tmp_path):
    made = evaluation("net.pt", n=10)
    store = record.Store(tmp_path)
    with store.claim("a" * 64, lambda: None) as blocks:
        blocks.plan({})
        blocks.keep_outputs(np.zeros((1, 2)))
        images = np.zeros((10, 1, 2, 2), np.float32)
        blocks.write(12, made.table, made.examples, images=images)
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
    blocks.write(0, evaluation("net.pt", n=2).table, [], images=images)
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
    np.savez(tmp_path / "sealed.npz", **{SEAL: trap})
    assert examples_state(tmp_path / "sealed.npz") == "changed"
    np.savez(tmp_path / "certification.npz", record=trap, perturbed=trap, seal=trap)
    with pytest.raises(RecordError, match="not a robustkit certification"):
        read_certification(tmp_path / "certification.npz")
    assert not opened.exists()


def test_examples_without_a_digest_are_told(tmp_path):
    (tmp_path / "old.npz").write_bytes(encode_examples(two_examples()))
    assert examples_state(tmp_path / "old.npz") == "no digest"
    np.savez(tmp_path / "less.npz", label=np.zeros(1))
    assert examples_state(tmp_path / "less.npz") == "changed"


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


# --- headers and rows that no run can have written ---------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda h: h["data"].update(n="20"), "its header has data.n = '20'"),
        (lambda h: h["protocol"]["epsilons"][0].update(epsilon="?"), "{path}: budget: "),
    ],
)
def test_a_header_without_sense_is_named(tmp_path, change, told):
    path = tampered(stored(tmp_path).path, header=change, drop=("robustkit.digest",))
    with pytest.raises(RecordError) as caught:
        record.read(path)
    assert told.format(path=path) in str(caught.value)


def test_a_run_that_says_nothing_is_named(tmp_path):
    path = stored(tmp_path).path
    old = pq.read_table(path)
    metadata = {k: v for k, v in old.schema.metadata.items() if k != b"robustkit.digest"}
    pq.write_table(old.replace_schema_metadata(metadata | {b"robustkit.run": b"[]"}), path)
    for attempt in (record.read, record.read_header):
        with pytest.raises(RecordError, match="evaluation: it does not say how it was run"):
            attempt(path)


@pytest.mark.parametrize("budget", [0.3, 8.0])
@pytest.mark.parametrize(("excess", "holds"), [(0.9, True), (1.1, False)])
def test_a_distance_may_exceed_its_budget_by_rounding_alone(budget, excess, holds):
    """By 1e-4, of the budget where that is above 1."""
    text = str(budget)
    header = {"data": {"n": 1}, "protocol": {"epsilons": [{"epsilon": text}]}}
    distance = budget + excess * 1e-4 * max(budget, 1)
    row = {"sample": "a", "index": 0, "label": 1, "predicted": 1, "fooled_by": "pgd"}
    row |= {"fooled_at": text, "distance": distance, "fooled_as": 2}
    rows = pa.Table.from_pylist([row])
    if holds:
        check_rows(header, {}, rows, Path("x"))
    else:
        with pytest.raises(RecordError, match="row 0 contradicts itself"):
            check_rows(header, {}, rows, Path("x"))


# --- records that are not what was written ------------------------------------------------------


def tampered(path, rows=lambda table: table, header=None, drop=()):
    """A record's file written again with other rows or another header, and the same digests."""
    old = pq.read_table(path)
    metadata = {k: v for k, v in old.schema.metadata.items() if k.decode() not in drop}
    if header is not None:
        told = json.loads(metadata[b"robustkit.header"])
        header(told)
        metadata[b"robustkit.header"] = json.dumps(told).encode()
    new = rows(old.replace_schema_metadata(None))
    pq.write_table(new.replace_schema_metadata(metadata), path)
    return path


def column(name, values):
    """Puts values into a column, keeping its type."""

    def put(rows):
        place = rows.schema.names.index(name)
        whole = values if isinstance(values, list) else [values] * len(rows)
        return rows.set_column(place, name, pa.array(whole, record.SCHEMA.field(name).type))

    return put


CHANGES = {
    "nothing was fooled": (column("fooled_at", None), "rows do not match"),
    "three of the rows": (lambda rows: rows.slice(0, 3), "3 rows, and its header says 20"),
    "a row more": (lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "21 rows"),
    "another order": (lambda rows: rows.take(list(range(19, -1, -1))), "rows do not match"),
    "another distance": (column("distance", 0.25), "rows do not match"),
    "another class": (column("fooled_as", 3), "rows do not match"),
    "other images": (column("sample", "x"), "rows do not match"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_whose_rows_were_changed_is_refused_in_one_line(tmp_path, change):
    rows, told = CHANGES[change]
    path = tampered(stored(tmp_path, n=20).path, rows)
    with pytest.raises(RecordError, match=told) as caught:
        record.read(path)
    assert str(caught.value).startswith(f"{path}: changed or damaged since it was written: ")
    assert str(caught.value).endswith("remove it and evaluate again")
    assert "\n" not in str(caught.value)
    with pytest.raises(RecordError, match=told):
        record.Store(tmp_path).find("a" * 64)
    with pytest.raises(RecordError, match=told):
        read_rows(path)
    with pytest.raises(RecordError, match=told):
        distances(path)


@pytest.mark.parametrize(
    "header",
    [
        lambda h: h["checkpoint"].update(label_noise=0.9),
        lambda h: h["data"].update(name="cifar10"),
        lambda h: h["protocol"]["epsilons"].pop(),
        lambda h: h["engine"].update(revision=99),
        lambda h: h.update(warnings=["none of ours"]),
    ],
)
def test_a_record_whose_header_was_changed_is_refused_before_its_rows_are_read(tmp_path, header):
    path = tampered(stored(tmp_path, n=20).path, header=header)
    for attempt in (record.read, record.read_header, open_record, read_rows):
        with pytest.raises(RecordError, match=": its header does not match its digest;"):
            attempt(path)


def test_a_record_of_this_format_without_its_digest_is_refused(tmp_path):
    made = stored(tmp_path, n=20)

    def newest(header):
        header["schema"] = f"robustkit.evaluation/{record.VERSION}"

    path = tampered(made.path, header=newest, drop=["robustkit.digest"])
    with pytest.raises(RecordError, match="its digest is missing"):
        record.read(path)


def without_digests(path, rows):
    """A record as it would have been written before there were digests, with other rows."""
    run = json.loads(pq.read_schema(path).metadata[b"robustkit.run"])
    del run["rows_digest"]
    path = tampered(path, rows, drop=["robustkit.digest"])
    old = pq.read_table(path)
    metadata = old.schema.metadata | {b"robustkit.run": json.dumps(run).encode()}
    pq.write_table(old.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (column("fooled_at", None), "contradicts itself"),
        (column("fooled_at", "0.7"), "contradicts itself"),
        (column("distance", 0.0), "contradicts itself"),
        (column("distance", float("nan")), "contradicts itself"),
        (column("predicted", 11), "contradicts itself"),
        (column("fooled_by", "clean"), "contradicts itself"),
        (column("certified_at", "0.3"), "contradicts itself"),
        (column("certified_at", "0.7"), "contradicts itself"),
        (column("forward", 20 * [[1, 2]]), "contradicts itself"),
        (column("backward", 20 * [[0, 2, -1]]), "contradicts itself"),
        (column("label", None), "its column label has gaps"),
        (column("index", list(range(1, 21))), ": its rows are not in the order of the images;"),
        (lambda rows: rows.slice(0, 3), "3 rows, and its header says 20"),
        (lambda rows: rows.drop_columns(["predicted"]), "not a robustkit evaluation"),
        (lambda rows: rows.drop_columns(["fooled_at"]), "not a robustkit evaluation"),
    ],
)
def test_a_record_without_digests_is_read_but_must_be_consistent(tmp_path, rows, told):
    made = stored(tmp_path, n=20)
    path = without_digests(made.path, lambda rows: rows)
    assert record.read(path).table.equals(made.table)
    with pytest.raises(RecordError, match=told):
        record.read(without_digests(stored(tmp_path / "again", n=20).path, rows))


def test_a_record_under_the_name_of_another_is_refused(tmp_path):
    stored(tmp_path, "a" * 64, n=20)
    stored(tmp_path, "b" * 64, n=20, seed=1).path.replace(tmp_path / f"{'a' * 32}.parquet")
    with pytest.raises(
        RecordError, match=f"contains another evaluation \\({'b' * 32}\\)"
    ) as caught:
        record.Store(tmp_path).find("a" * 64)
    assert str(caught.value).endswith(
        "than its name says; restore its name, or remove it and evaluate again"
    )
    elsewhere = tmp_path / "mine.parquet"
    (tmp_path / f"{'a' * 32}.parquet").rename(elsewhere)
    assert record.read(elsewhere).digest == "b" * 64, "a copy under a name of one's own is fine"


@pytest.mark.parametrize("change", ["rows", "digest", "block", "evaluation"])
def test_a_block_that_is_not_what_this_run_wrote_is_attacked_again(tmp_path, change):
    blocks, made = record.Blocks(tmp_path / "x.parquet"), evaluation("net.pt", n=10)
    blocks.write(0, made.table, [])
    path = next(blocks.folder.glob("block-*.parquet"))
    assert blocks.done(0, 0, 10) is not None
    if change == "rows":
        tampered(path, column("fooled_at", None))
    elif change == "digest":
        tampered(path, drop=["robustkit.digest"])
    elif change == "block":
        path = path.rename(blocks.folder / "block-000001.parquet")
        assert blocks.done(1, 0, 10) is None
    else:
        other = record.Blocks(tmp_path / "y.parquet")
        other.folder.mkdir()
        path.rename(other.folder / path.name)
        assert other.done(0, 0, 10) is None
    assert blocks.done(0, 0, 10) is None


def test_changed_perturbed_images_of_a_block_are_none(tmp_path):
    blocks, made = record.Blocks(tmp_path / "x.parquet"), evaluation("net.pt", n=2)
    images = np.ones((2, 1, 3, 3), np.float32)
    blocks.write(0, made.table, [], images=images)
    np.testing.assert_array_equal(blocks.images(0), images)
    np.save(next(blocks.folder.glob("*.npy")), images * 2)
    assert blocks.images(0) is None


def test_changed_examples_are_not_shown(tmp_path):
    found = stored(tmp_path, n=30)
    path = tmp_path / f"{'a' * 32}.examples.npz"
    assert examples_state(path) == "sound"
    with np.load(path) as arrays:
        columns = {name: arrays[name] for name in arrays}
    columns["perturbed"] = columns["perturbed"] / 2
    np.savez(path, **columns)
    assert examples_state(path) == "changed"
    assert found.examples
    assert record.read(found.path).examples == []


def two_examples():
    pictures = np.linspace(0, 1, 16, dtype=np.float32).reshape(2, 2, 1, 2, 2)
    return [record.Example(k, 3, 5, 0.5, *pictures[k]) for k in range(2)]


def a_certification():
    row = dict.fromkeys(f.name for f in fields(CertifiedImage)) | {"outcome": "fooled"}
    header = {"schema": SCHEMA, "digest": "a" * 64}
    return encode_certification(header, {}, [row], np.zeros((1, 1, 2, 2), np.float32))


def flips(content, start, stop, bit):
    """The bytes with one bit changed, at each place in turn."""
    for place in range(start, stop):
        yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def directory_entry(content, number):
    """From where to where an entry of a zip's directory reaches."""
    starts = [found.start() for found in re.finditer(b"PK\x01\x02|PK\x05\x06", content)]
    return starts[number], [*starts, len(content)][number + 1]


@pytest.mark.one_of_many
@pytest.mark.parametrize("entry", range(8))
@pytest.mark.parametrize("bit", range(8))
def test_examples_with_a_flipped_bit_in_their_directory_are_those_or_none(tmp_path, bit, entry):
    content = encode_examples(two_examples(), sealed=True)
    path = tmp_path / "x.examples.npz"
    for flipped in flips(content, *directory_entry(content, entry), bit):
        path.write_bytes(flipped)
        found = decode_examples(path)  # of a changed date, say, they are whole
        assert not found or encode_examples(found, sealed=True) == content
        assert examples_state(path) == "changed" or found


@pytest.mark.one_of_many
@pytest.mark.parametrize("entry", range(4))
@pytest.mark.parametrize("bit", range(8))
def test_a_certification_with_a_flipped_bit_in_its_directory_is_that_or_one_line(
    tmp_path, bit, entry
):
    content, path = a_certification(), tmp_path / certification_name("a" * 64)
    for flipped in flips(content, *directory_entry(content, entry), bit):
        path.write_bytes(flipped)
        with suppress(RecordError):
            assert len(read_certification(path).rows) == 1


@pytest.mark.parametrize("bit", range(8))
def test_an_array_with_a_flipped_bit_in_its_header_is_one_or_none(bit):
    content = encode_array(np.ones((2, 4)))
    for flipped in flips(content, 0, 128, bit):  # NumPy tokenises the header: it may lack a bracket
        found = decode_array(flipped)
        assert found is None or found.size <= 8


@pytest.mark.parametrize("plan", ['{"batch_size": 0, "block_size": 3, "events": []}', "7", "[]"])
def test_a_changed_plan_is_made_anew(tmp_path, plan):
    blocks = record.Blocks(tmp_path / "x.parquet")
    blocks.plan({"batch_size": 8})
    (blocks.folder / "plan.json").write_text(plan)
    assert blocks.plan({"batch_size": 16}) == {"batch_size": 16}


def test_rows_are_read_anew_where_the_file_was_written_anew(tmp_path):
    made = stored(tmp_path, n=20)
    before = Files().rows(made.path)
    assert Files().rows(made.path) is before
    stored(tmp_path, n=20, strength=3.0)
    assert (Files().rows(made.path).broken != before.broken).any()


@pytest.mark.thorough
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="no /proc")  # noqa: PTH110
def test_no_thread_is_left_with_a_records_bytes_when_python_ends(tmp_path):
    """It would abort the process, now and then, after all was done."""
    path = stored(tmp_path, n=20).path
    code = (
        "import os, sys; from robustkit import record; before = os.listdir('/proc/self/task'); "
        "record.read(sys.argv[1]); assert os.listdir('/proc/self/task') == before"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_of_a_records_name_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.parquet")
    for attempt in (record.read, record.read_header):
        with pytest.raises(RecordError, match="not a regular file"):
            attempt(tmp_path / "x.parquet")
