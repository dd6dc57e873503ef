"""A report's evidence: what is published says all that the report says, or that it is damaged."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.evaluations import evaluation

from robustkit import record, spec
from robustkit.analysis import evidence
from robustkit.analysis.findings import Findings, Number
from robustkit.analysis.judge import judge_study
from robustkit.analysis.outcome import CellRow, History
from robustkit.errors import RecordError
from robustkit.results.rows import Rows, read_rows

STUDY = """
title = "t"
question = "q"
baseline = "b"

[checkpoints]
runs = "runs"

[test]
data = "d"

[[analysis]]
name = "attacked"
factor = "epsilon"
protocol = "pgd"

[[analysis]]
name = "cost"
factor = "cost"

[[claim]]
name = "better"
text = "a is better than b"
source = "s"
analysis = "attacked"
says = "better"
a = "a"
b = "b"
delta = 2.0
reason = "r"

[[claim]]
name = "cheap"
text = "a takes as long as b"
source = "s"
analysis = "cost"
says = "ratio"
a = "a"
b = "b"
bounds = [0.9, 1.1]
reason = "r"
"""


def keep(folder, name, **made):
    """A record of a made-up attack."""
    kept = evaluation(f"{name}.pt", **made)
    data = kept.header["data"] | {"digest": "d", "source": {"file": "/home/somebody/images"}}
    blocks = record.Blocks(folder / f"{name}.parquet")
    blocks.write(0, kept.table, kept.examples)
    blocks.finish(kept.header | {"data": data}, kept.run, kept.table)
    return folder / f"{name}.parquet"


@pytest.fixture
def study(tmp_path):
    (tmp_path / "made.toml").write_text(STUDY)
    return spec.load_study(str(tmp_path / "made.toml"))


@pytest.fixture
def findings(tmp_path):
    """One of everything."""
    numbers = [
        Number("attacked", method, "", seed, keep(tmp_path, f"{method}{seed}", seed=place))
        for place, (method, seed) in enumerate([("a", 2), ("b", 2), ("a", 1), ("b", 1)])
    ]
    cell = CellRow(
        "k", "a", "label noise", "0", 3, "failed", "ε too large", None, 7, 0.1, "", "tuning"
    )
    return Findings(
        [*numbers, Number("attacked", "a", "", 3, None, "training failed: ε too large")],
        {"cost": {"b": [0.1, 0.2, 0.15], "a": [0.11, 0.19, 0.1 + 0.2]}},
        (History("a", "0.4", (10, 20), (None, 1 / 3), (0.5, 0.6)),),
        (cell,),
        {"Study": {"name": "made", "digest": "0"}, "Cells": {"planned": "5", "done": "4"}},
        ("Unfinished.",),
        "robustkit report made",
        ({"digest": "1", "file": "before", "changes": {}},),
    )


def test_the_file_says_all_that_the_report_says(study, findings, tmp_path):
    expected = judge_study(study, findings)
    path = tmp_path / "published" / evidence.NAME
    path.parent.mkdir()
    path.write_bytes(evidence.collect(study, findings).content)
    for number in findings.numbers[:-1]:
        number.path.unlink()
        number.path.with_suffix(".examples.npz").unlink()
    found = evidence.read_evidence(path)
    result = judge_study(found.study, found.findings)
    assert result == expected
    assert [j.verdict for j in result.judgements] == [j.verdict for j in expected.judgements]
    assert list(result.provenance) == ["Study", "Cells"]
    (shown,), (before,) = result.galleries, expected.galleries
    assert shown.title.startswith("b, seed 1, under ")
    for one, other in zip(shown.examples, before.examples, strict=True):
        assert np.array_equal(one.perturbed, other.perturbed)
        assert np.array_equal(one.clean, other.clean)
        assert (one.index, one.label, one.distance) == (other.index, other.label, other.distance)


def test_the_study_stands_there_with_every_change(study, findings, tmp_path):
    changed = spec.load_study(str(tmp_path / "made.toml"), {"": {"baseline": "a"}})
    found = evidence.collect(changed, findings)
    assert found.study == changed
    assert found.study.digest == changed.digest != study.digest
    assert [one["file"] for one in found.findings.asked] == ["before", STUDY]
    again = evidence.collect(found.study, found.findings)
    assert len(again.findings.asked) == 2


def test_the_rows_are_those_of_the_records(study, findings):
    found = evidence.collect(study, findings)
    for before, number in zip(findings.numbers, found.findings.numbers, strict=True):
        assert (before.method, before.seed, before.reason) == number[1:2] + number[3:4] + number[5:]
        if before.path is None:
            assert number.path is None
            continue
        expected, rows = read_rows(before.path), found.findings.records.rows(number.path)
        assert np.array_equal(rows.broken, expected.broken)
        assert rows.epsilons == expected.epsilons
        assert rows.header["protocol"] == expected.header["protocol"]
        assert rows.header["checkpoint"] == expected.header["checkpoint"]
        assert "somebody" not in json.dumps(rows.header)


def test_the_same_findings_give_the_same_bytes(study, findings):
    found = evidence.collect(study, findings)
    assert evidence.collect(study, findings).content == found.content
    assert evidence.collect(found.study, found.findings).content == found.content


def test_any_reader_of_parquet_reads_it(study, findings, tmp_path):
    path = tmp_path / evidence.NAME
    path.write_bytes(evidence.collect(study, findings).content)
    frame = pq.read_table(path).to_pandas()
    own = frame[(frame.method == "b") & (frame.seed == 2)].iloc[0]
    expected = record.read(tmp_path / "b2.parquet")
    assert (own.broken > 0).mean() == expected.clean().value
    for place, point in enumerate(expected.robust(), 1):
        assert (own.broken > place).mean() == point.accuracy.value


def test_nothing_found_is_evidence_too(study):
    found = evidence.collect(study, Findings([]))
    assert judge_study(found.study, found.findings) == judge_study(study, Findings([]))


class Drawn:
    """Evaluations of networks that are right on 97 of 100 images."""

    def __init__(self, header):
        self.header = header

    def rows(self, path):
        wrong = np.random.default_rng(int(path.name)).random(10_000) < 0.03
        return Rows(self.header, np.where(wrong, 0, 127).astype(np.int8), ("0.1", "0.2", "0.3"))

    def examples(self, path):
        return []


def test_many_networks_take_little(study, findings):
    numbers = [Number("not attacked", "b", "0", seed, Path(str(seed))) for seed in range(100)]
    drawn = Drawn(read_rows(findings.numbers[0].path).header)
    found = evidence.collect(study, Findings(numbers, records=drawn))
    entropy = -(0.03 * np.log2(0.03) + 0.97 * np.log2(0.97))
    assert 8 * len(found.content) < 2.5 * entropy * 100 * 10_000


def refusal(path, content):
    """What is told of a file of that content; None where it is read."""
    path.write_bytes(content)
    try:
        evidence.read_evidence(path)
    except RecordError as error:
        return str(error)
    return None


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_a_file_that_was_cut_is_refused_in_one_line(study, findings, tmp_path, share):
    content = evidence.collect(study, findings).content
    told = refusal(tmp_path / "cut", content[: int(share * len(content))])
    assert told.startswith(f"{tmp_path / 'cut'}: damaged, or not the evidence of a report")
    assert "\n" not in told


def test_a_file_that_says_more_than_python_reads_is_refused_in_one_line(tmp_path):
    for said in ("[" * 10_000, '{"schema": "robustkit.evidence/2", "asked": ' + "[" * 10_000):
        table = evidence.SCHEMA.empty_table().replace_schema_metadata({"robustkit.evidence": said})
        pq.write_table(table, tmp_path / "deep")
        told = refusal(tmp_path / "deep", (tmp_path / "deep").read_bytes())
        assert told.startswith(f"{tmp_path / 'deep'}: damaged, or not the evidence of a report")


@pytest.mark.thorough
def test_no_flipped_bit_changes_what_is_read(study, findings, tmp_path):
    content, path = evidence.collect(study, findings).content, tmp_path / "flipped"
    refused = 0
    for place in range(4, len(content), 97):
        damaged = bytearray(content)
        damaged[place] ^= 0x41
        if told := refusal(path, damaged):
            assert "\n" not in told
            refused += 1
        else:  # some bytes, such as the name of the program that wrote it, say nothing
            found = evidence.read_evidence(path)
            assert evidence.collect(found.study, found.findings).content == content
    assert refused > 0.9 * len(content) / 97


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(RecordError, match="no such file"):
        evidence.read_evidence(tmp_path / "nowhere.parquet")


def test_a_newer_format_is_told(study, findings, monkeypatch, tmp_path):
    monkeypatch.setattr(evidence, "VERSION", 2)
    (tmp_path / "new").write_bytes(evidence.collect(study, findings).content)
    monkeypatch.setattr(evidence, "VERSION", 1)
    with pytest.raises(RecordError, match="written by a newer robustkit; upgrade"):
        evidence.read_evidence(tmp_path / "new")


@pytest.mark.thorough
def test_it_needs_no_torch():
    code = "import sys, robustkit.analysis.evidence; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
