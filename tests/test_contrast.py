"""One question, one answer: the same rows give the same numbers, whoever asks."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.evaluations import evaluation

import robustkit
from robustkit import record, spec
from robustkit.analysis import evidence
from robustkit.analysis.compare import compare_sides
from robustkit.analysis.contrast import contrast, several_note
from robustkit.analysis.judge import judge_study
from robustkit.analysis.needs import needs
from robustkit.analysis.record_folder import findings_of_records
from robustkit.results.finder import Finder
from robustkit.results.records import RecordQuery
from robustkit.results.replicates import Replicates
from robustkit.results.sides import sides

STUDY = """
title    = "t"
question = "q"
baseline = "b"

[checkpoints]
runs = "runs"

[test]
data = "mnist5k"

[[analysis]]
name        = "attacked"
factor      = "epsilon"
protocol    = "pgd"
label_noise = "0.2"
delta       = 3.0

[[claim]]
name     = "1"
text     = "a is better"
source   = "s"
reason   = "r"
analysis = "attacked"
says     = "better"
a        = "a"
b        = "b"
delta    = 3.0
levels   = ["0.2"]
"""
STRENGTHS = {"b": 0.15, "a": 0.2, "c": 0.14}


def networks(seeds=range(10), epsilons=("0.1", "0.2")):
    """Evaluations of three methods, by method; enough seeds for a bootstrap."""
    return {
        method: [
            evaluation(
                f"{method}{seed}.pt",
                n=80,
                epsilons=epsilons,
                strength=strength,
                seed=seed + 100 * number,
                checkpoint={"loss": method, "seed": seed},
            )
            for seed in seeds
        ]
        for number, (method, strength) in enumerate(STRENGTHS.items())
    }


@pytest.fixture
def found():
    return networks()


@pytest.fixture
def runs(found, tmp_path):
    """The folder of their records."""
    folder = tmp_path / "runs"
    for one in (one for own in found.values() for one in own):
        blocks = record.Blocks(folder / f"{one.digest}.parquet")
        blocks.finish(one.header, one.run, one.table)
    return folder


def report(tmp_path, runs):
    """The outcome of the study, drawn from its evidence as a published report is."""
    (tmp_path / "made.toml").write_text(STUDY)
    study = spec.load_study(str(tmp_path / "made.toml"))
    kept = tmp_path / "evidence.parquet"
    kept.write_bytes(evidence.collect(study, findings_of_records(study, runs, "command")).content)
    read = evidence.read_evidence(kept)
    return judge_study(read.study, read.findings)


def plain(comparison):
    """All of a comparison, with one word for the level at which nothing is attacked."""
    return replace(comparison, level="clean" if comparison.level == "0" else comparison.level)


@pytest.mark.thorough
def test_two_methods_have_one_interval_through_every_door(found, runs, tmp_path):
    of_two = robustkit.compare(found["b"], found["a"], delta=3).comparisons
    of_three = robustkit.compare(found["b"], found["c"], found["a"], delta=3).comparisons
    result = report(tmp_path, runs)
    (panel,) = result.panels
    assert [one.level for one in of_two] == ["clean", "0.1", "0.2"]
    assert {one.correction for one in of_two} == {"Bonferroni over 3 levels"}
    assert [one for one in of_three if one.a == "a"] == list(of_two)
    shown = [plain(one) for one in panel.comparisons if one.a == "a"]
    assert shown == list(of_two)
    assert result.judgements[0].comparisons == of_two[2:]
    # every number, so that an empty part would be seen
    for one in of_two:
        assert [test.test for test in one.secondary][-1] == "bootstrap over seeds"
        assert one.outperforms is not None
        assert one.difference.low < one.difference.high


@pytest.mark.thorough
def test_a_third_method_is_a_family_of_its_own_and_that_is_told(found, runs, tmp_path):
    groups = Finder(runs, RecordQuery()).groups([str(runs / "*.parquet")])
    compared = compare_sides(sides(groups, RecordQuery(), runs))
    said = "Those of both methods hold together with at least 90 %"
    assert any(said in note for note in compared.notes)
    assert any(said in note for note in report(tmp_path, runs).panels[0].notes)
    alone = compare_sides(sides(groups[:2], RecordQuery(), runs))
    assert not any("hold together" in note for note in alone.notes)
    assert next(iter(several_note(30, "b"))).count("at least 0 %") == 1


@pytest.mark.thorough
def test_a_plan_is_for_the_family_of_a_comparison(runs):
    groups = Finder(runs, RecordQuery()).groups([str(runs / "*.parquet")])
    found = sides(groups, RecordQuery(), runs)
    for planned in (needs(found, delta=0.03).comparisons, needs(found[:2], delta=0.03).comparisons):
        assert {one.power.family for one in planned} == {3}


def test_draws_depend_on_the_rows_alone():
    rng = np.random.default_rng(0)
    a, b = (Replicates(tuple(range(10)), rng.random((10, 60)) < p) for p in (0.8, 0.75))
    assert contrast(a, b).secondary[-1].test == "bootstrap over seeds"
    assert contrast(a, b) == contrast(a, b._replace(seeds=a.seeds))


def test_seeds_pair_whatever_their_order_and_one_beside_several_is_no_pair():
    rng = np.random.default_rng(0)
    right = rng.random((3, 50)) < 0.5
    a, b = Replicates((0, 1, 2), right), Replicates((0, 1, 2), rng.random((3, 50)) < 0.6)
    assert contrast(a, b.of([2, 0, 1])) == contrast(a, b)
    assert contrast(Replicates((7,), right[:1]), b) is None
    assert contrast(Replicates((7,), right[:1]), b.of([1])).unit.startswith("1 pair")
