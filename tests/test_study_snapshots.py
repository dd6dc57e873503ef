"""Studies that look along a training: at chosen passes, and at the one that held-out labels choose."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers.studies import Here, begin, found

from robustkit import data, spec
from robustkit.analysis.evidence import collect
from robustkit.analysis.judge import judge_study
from robustkit.checkpoint import read_checkpoint
from robustkit.errors import InputError
from robustkit.files import canonical
from robustkit.study import exchange
from robustkit.study.findings import findings_of_store
from robustkit.study.selection import best_pass
from robustkit.study.store import StudyStore

ALONG = """
[[analysis]]
name        = "passes"
factor      = "passes"
levels      = ["1", "2"]
label_noise = "0.4"
delta       = 1.0

[[analysis]]
name   = "chosen"
factor = "label_noise"
levels = ["0.4"]
passes = "chosen"

[[claim]]
name     = "3"
text     = "The hinge is better where training stops early."
source   = "nobody"
analysis = "chosen"
says     = "better"
a        = "wide hinge"
b        = "cross-entropy"
delta    = 1.0
reason   = "a test"
"""
KEPT = "batch_size = 1950\nprecision  = 'bf16'\nsnapshots  = [2, 1]"
"""two updates a pass"""
LEVEL = 'levels = ["0.4"]'


@pytest.fixture(scope="module")
def along(tiny):
    """The tiny study with labels wrong and 4 updates, kept after 1 and 2 passes."""
    text = tiny.read_text().replace("batch_size = 16", KEPT)
    choices = [line for line in text.splitlines() if line.startswith(("[tuning]", "choose"))]
    for line in choices:
        text = text.replace(line, "")
    text = text.replace('seed = 7\nat   = ["0.4"]', "").replace('levels = ["0", "0.4"]', LEVEL)
    before, _, after = text.partition('[[analysis]]\nname      = "transfer"')
    text = before + after[after.index("[[claim]]") :]
    path = tiny.parent / "along.toml"
    path.write_text(text + ALONG)
    return path


@pytest.fixture(scope="module")
def worked_out(along, tmp_path_factory):
    """Its run, its plan and its folder."""
    folder = tmp_path_factory.mktemp("along")
    run = begin(along, folder)
    return run, run.finish(Here(folder)), folder


@pytest.mark.thorough
def test_a_network_is_judged_by_its_weights_after_a_pass(worked_out, along):
    _, plan, folder = worked_out
    panels = {panel.name: panel for panel in found(along, folder).panels}
    test = data.load_dataset("mnist5k", split="test", limit=60)
    for line in panels["passes"].lines:
        for value in line.values:
            expected = []
            for seed in (0, 1):
                (cell,) = {w.cell for w in plan.wanted if (w.method, w.seed) == (line.method, seed)}
                path = folder / "checkpoints" / f"{cell}-pass{value.level}.safetensors"
                model = f"{along.parent / 'net.py'}:net"
                network = read_checkpoint(path, model=model).load()
                logits = network(_images(test)).argmax(1).numpy()
                expected.append(float((logits == test.labels).mean()))
            assert value.each == pytest.approx(expected)
        assert len({value.each for value in line.values}) > 1
    # the last pass is the end of the training
    ends = {line.method: line.values for line in panels["label-noise"].lines}
    for line in panels["passes"].lines:
        assert line.values[-1].each == ends[line.method][-1].each
        assert line.area is not None
    assert panels["passes"].factor == "passes over the data"


def _images(dataset):
    import torch

    return torch.from_numpy(dataset.images(0, len(dataset)))


@pytest.mark.thorough
def test_held_out_labels_choose_a_pass_for_each_network(worked_out, along):
    run, plan, folder = worked_out
    outcome = found(along, folder)
    panels = {panel.name: panel for panel in outcome.panels}
    for wanted in plan.wanted:
        if wanted.analysis != "chosen":
            continue
        kept = run.store.cell(wanted.cell)["snapshots"]
        assert list(kept) == ["1", "2"]
        best = max(("1", "2"), key=lambda n: kept[n]["held_out"])
        assert (
            run.store.test(wanted.test)["passes"]
            == best
            == best_pass({"status": "done", "snapshots": kept}, None)
        )
        there = {line.method: line.values for line in panels["passes"].lines}[wanted.method]
        here = {line.method: line.values for line in panels["chosen"].lines}[wanted.method]
        (value,) = [value for value in there if value.level == best]
        assert here[0].each[wanted.seed] == value.each[wanted.seed]
    assert any("Passes selected by held-out accuracy in chosen" in note for note in outcome.notes)
    (judged,) = [one for one in outcome.judgements if one.name == "3"]
    assert "after the pass that held-out labels chose" in judged.sentence


@pytest.mark.thorough
def test_the_table_of_trainings_has_accuracies_of_networks_as_they_ended(
    worked_out, along, tmp_path
):
    run, plan, folder = worked_out
    backwards = replace(plan, wanted=plan.wanted[::-1])
    shutil.copytree(folder, tmp_path / "out")
    store = StudyStore(tmp_path / "out")
    store.keep_plan(backwards)
    ends = {test.cell: test.key for test in plan.tests.values() if not test.passes}

    def cleans():
        return {row.key: row.clean for row in findings_of_store(run.study, store, "").cells}

    assert cleans() == {cell: store.test(key)["clean"] for cell, key in ends.items()}
    for key in ends.values():
        store.forget("test", key)
    assert set(cleans().values()) == {None}


def test_of_passes_that_are_equally_good_the_first_is_taken():
    kept = {number: {"held_out": score} for number, score in (("16", 0.9), ("2", 0.9), ("4", 0.1))}
    assert best_pass({"status": "done", "snapshots": kept}, None) == "2"


@pytest.mark.thorough
def test_an_outcome_along_a_training_is_rebuilt_from_its_evidence(worked_out, along):
    run, _, folder = worked_out
    study = spec.load_study(str(along))
    command = "robustkit report tiny"
    kept = collect(study, findings_of_store(study, run.store, command))
    assert judge_study(kept.study, kept.findings) == found(along, folder)


def test_a_training_keeps_what_its_study_asks_for(worked_out):
    run, plan, folder = worked_out
    for key, cell in plan.cells.items():
        assert (cell.asked["precision"], cell.asked["snapshots"]) == ("bf16", [1, 2])
        made = run.store.cell(key)
        record = read_checkpoint(folder / made["checkpoint"]).extra["training"]
        assert record["precision"] == "bf16"
        assert [(folder / name).exists() for name in exchange.network(made)] == [True] * 3


def test_a_study_that_keeps_nothing_is_the_study_that_it_was(tiny):
    study = spec.load_study(str(tiny))
    said = canonical([study.digest, *(cell.asked for cell in begin_plan(tiny).values())])
    assert "snapshots" not in said
    assert "precision" not in said


def begin_plan(tiny):
    from robustkit.study.run import Run, StudyOptions
    from robustkit.study.store import StudyStore

    run = Run(spec.load_study(str(tiny)), StudyStore(tiny.parent / "none"), StudyOptions())
    return run.plan().cells


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('levels      = ["1", "2"]', 'levels = ["1", "3"]', "unknown passes '3'"),
        ('levels      = ["1", "2"]', 'levels = ["1", "chosen"]', "unknown passes 'chosen'"),
        ('levels      = ["1", "2"]', "levels = []", "levels are missing"),
        ('levels      = ["1", "2"]', 'levels = ["1"]\npasses = "2"', "do not go with"),
        ('passes = "chosen"', 'passes = "choosen"', "unknown passes 'choosen'"),
        ("snapshots  = [2, 1]", "", "passes need [train] snapshots"),
        ("snapshots  = [2, 1]", "snapshots = [1, 2, 0]", "numbered from 1"),
        ("snapshots  = [2, 1]", "snapshots = [1, 2, 2]", "2 occurs 2 times"),
        ("snapshots  = [2, 1]", "snapshots = [1, 2, 3]", "3: the training ends after 2 passes"),
        ("precision  = 'bf16'", "precision = 'int8'", "precision: unknown value 'int8'"),
        ('hold_out   = "100"', 'hold_out = "0"', "without held-out images no pass is chosen"),
        ('hold_out   = "100"', 'hold_out = "0.0"', "without held-out images no pass is chosen"),
    ],
)
def test_passes_that_make_no_sense_are_told_in_one_line(along, tmp_path, old, new, message):
    text = along.read_text()
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError) as caught:
        begin(path, tmp_path / "out").plan()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_area_under_passes_is_taken_along_the_passes(worked_out, along):
    panels = {panel.name: panel for panel in found(along, worked_out[2]).panels}
    for line in panels["passes"].lines:
        assert line.area.value == pytest.approx(np.mean([v.estimate.value for v in line.values]))
