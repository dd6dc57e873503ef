"""Studies: what is planned, chosen, worked out, judged, and kept through interruptions."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
from evaluations import evaluation

from robustkit import losses, record
from robustkit.errors import InputError, RecordError
from robustkit.files import names
from robustkit.models import MODELS
from robustkit.protocol import load
from robustkit.study import spec, work
from robustkit.study.analysis import Findings, Number, outcome
from robustkit.study.brought import matches
from robustkit.study.cells import Context, question
from robustkit.study.findings import _histories, of_runs, of_store
from robustkit.study.run import Options, Run
from robustkit.study.store import Store

STUDY = """
title    = "Tiny"
question = "Does it run?"
baseline = "cross-entropy"

[train]
model      = "NET"
data       = "mnist5k"
seeds      = [0, 1]
steps      = 4
batch_size = 16
hold_out   = "100"

[test]
data  = "mnist5k"
limit = 60

[tuning]
seed = 7
at   = ["0.4"]

[[method]]
name   = "cross-entropy"
loss   = "cross-entropy"
choose = [{ learning_rate = 0.01 }, { learning_rate = 0.1 }]

[[method]]
name     = "wide hinge"
loss     = "hinge"
recipe   = { learning_rate = 0.1 }
choose   = [{ settings = { margin = 1.0 } }, { settings = { margin = 2.0 } }]

[[analysis]]
name   = "label-noise"
factor = "label_noise"
levels = ["0", "0.4"]
delta  = 1.0

[[analysis]]
name      = "transfer"
factor    = "epsilon"
protocol  = "fgsm"
levels    = ["0.05", "0.1"]
limit     = 20
surrogate = "cross-entropy"

[[claim]]
name     = "1"
text     = "The hinge is better."
source   = "nobody"
analysis = "label-noise"
says     = "better"
a        = "wide hinge"
b        = "cross-entropy"
delta    = 1.0
reason   = "a test"

[[claim]]
name     = "2"
text     = "It is cheap on the moon."
source   = "nobody"
analysis = "moon"
says     = "ratio"
a        = "wide hinge"
b        = "cross-entropy"
bounds   = [0.9, 1.1]
reason   = "a test"
"""

NET = """
from torch import nn

def net(num_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))
"""


class Here:
    """A crew of one, in this process; it may be told to stop after some jobs."""

    def __init__(self, folder, stop=10**6):
        self.means, self.left = work.Means(folder), stop
        self.done, self.trained = [], []

    def work(self, jobs, began):
        for job in jobs:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            began(job)
            if Store(self.means.folder).cell(job.cell.key) is None:
                self.trained.append(job.cell.key)
            work.carry_out(job, self.means)
            self.done.append(job)
            yield job


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "net.py").write_text(NET)
    path = folder / "tiny.toml"
    path.write_text(STUDY.replace("NET", f"{folder / 'net.py'}:net"))
    return path


def begin(file, folder, **options):
    run = Run(spec.load(str(file)), Store(folder), Options(**options))
    run.register()
    return run


@pytest.fixture(scope="module")
def finished(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    run = begin(file, folder)
    plan = run.finish(Here(folder))
    return run, plan, folder


def changed(file, tmp_path, old, new):
    path = tmp_path / file.name
    text = file.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def found(file, folder):
    study = spec.load(str(file))
    return outcome(study, of_store(study, Store(folder), "robustkit report tiny"))


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title    = "Tiny"', "", "the key 'title' is missing"),
        ("[train]", "[trian]", "did you mean 'train'"),
        ("seeds      = [0, 1]", "seeds = [0, 0]", "0 stands there 2 times"),
        ("seeds      = [0, 1]", "seeds = [0, 7]", "seed 7 is also one of the compared"),
        ("steps      = 4", "steps = 0", "must be above 0"),
        ('baseline = "cross-entropy"', 'baseline = "cross"', "unknown baseline 'cross'"),
        ('factor = "label_noise"', 'factor = "noise"', "unknown factor 'noise'"),
        ('levels = ["0", "0.4"]', "levels = []", "levels are missing"),
        ('levels = ["0", "0.4"]', 'levels = ["0", "40 %"]', "expected a number"),
        ('protocol  = "fgsm"', "", "the factor epsilon needs a protocol"),
        ('surrogate = "cross-entropy"', 'surrogate = "me"', "unknown surrogate"),
        (", { learning_rate = 0.1 }]\n\n[[method]]", "]\n\n[[method]]", "same number of config"),
        ('a        = "wide hinge"', 'a = "hinge"', "did you mean 'wide hinge'"),
        ('reason   = "a test"', "", "give the reason"),
        ("bounds   = [0.9, 1.1]", "bounds = [0.9]", "lowest, highest"),
        ('[tuning]\nseed = 7\nat   = ["0.4"]', "", "trained with [tuning]'s seed"),
        ('at   = ["0.4"]', 'at = ["0.5"]', "unknown [tuning] at '0.5'"),
    ],
)
def test_a_study_that_makes_no_sense_is_told_in_one_line(file, tmp_path, old, new, message):
    with pytest.raises(InputError) as caught:
        spec.load(str(changed(file, tmp_path, old, new)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{ learning_rate = 0.01 }", "{ learning_rat = 0.01 }", "did you mean 'learning_rate'"),
        ("{ learning_rate = 0.01 }", "{ steps = 5 }", "is the same for all methods"),
        ("{ learning_rate = 0.01 }", "{ learning_rate = -1.0 }", "must be above 0"),
        ('hold_out   = "100"', 'hold_out = "many"', "expected a number"),
        ('data       = "mnist5k"', 'data = "mnist5"', "did you mean 'mnist5k'"),
    ],
)
def test_a_plan_that_makes_no_sense_is_told_in_one_line(file, tmp_path, old, new, message):
    with pytest.raises(InputError) as caught:
        begin(changed(file, tmp_path, old, new), tmp_path / "out").plan()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", names("reports"))
def test_shipped_studies_ask_for_what_there_is(name):
    study = spec.load(name)
    for protocol in {a.protocol for a in study.analyses} - {""}:
        load(protocol)
    if study.trained is None:
        return
    assert study.claims
    assert study.trained.model in MODELS
    assert study.trained.data in names("data")
    assert study.tested.data == study.trained.data
    images = work.loaded("mnist5k", "train", None, None)  # stands for any
    for method in study.methods:
        for number in range(len(method.choose)):
            asked = question(method, number, study.trained, images, Context("0", "1"), 0)
            losses.build(method.loss, asked["settings"])


def test_a_study_is_another_where_a_claim_is_and_not_where_its_words_are(file, tmp_path):
    base = spec.load(str(file)).digest
    for old, new, same in [
        ("Does it run?", "Does it?", True),
        ("The hinge is better.", "Better it is.", True),
        ("delta    = 1.0", "delta = 0.9", False),
        ('says     = "better"', 'says = "equivalent"', False),
        ("steps      = 4", "steps = 5", False),
        ("limit     = 20", "limit = 21", False),
    ]:
        digest = spec.load(str(changed(file, tmp_path, old, new))).digest
        assert (digest == base) is same, new


# --- planning and working -------------------------------------------------------------------------


def test_every_method_chooses_among_as_many_by_corrupted_held_out_labels(finished):
    run, plan, folder = finished
    assert len(plan.candidates) == 4
    for method in ("cross-entropy", "wide hinge"):
        tried = [c for c in plan.candidates if c.method == method]
        held_out = [run.store.cell(c.cell)["held_out"] for c in tried]
        best = max(range(2), key=lambda i: held_out[i])
        taken = {where: n for where, n in plan.chosen.items() if where.startswith(method)}
        assert set(taken.values()) == {best}
    record = json.loads((folder / "cells" / f"{plan.candidates[0].cell}.json").read_text())
    assert record["wrong_labels"] == round(0.4 * 3900)
    seeds = {plan.cells[c.cell].seed for c in plan.candidates}
    assert seeds == {7}


def test_a_cell_is_worked_on_once_whoever_needs_it(finished, file):
    run, plan, folder = finished
    # 4 tried; 2 methods × 2 levels × 2 seeds; the surrogate, at no noise and the tuning's seed
    assert len(plan.cells) == 4 + 8 + 1
    assert not run.missing(plan)
    again = Here(folder)
    begin(file, folder).finish(again)
    assert again.done == []
    steps = {run.store.cell(key)["steps"] for key in plan.cells}
    assert steps == {4}


def test_methods_to_be_compared_share_images_and_flips(finished):
    run, plan, _ = finished
    from robustkit import checkpoint

    noisy = [c for c in plan.cells.values() if c.context.label_noise == "0.4" and c.seed == 0]
    made = [checkpoint.read(run.store.checkpoint(c.key), model=c.asked["model"]) for c in noisy]
    data = [m.extra["training"]["data"] for m in made]
    assert len(data) == 2
    assert data[0] == data[1]


@pytest.mark.parametrize("stop", [0, 1, 5, 11])
def test_an_interrupted_study_goes_on_to_the_same_outcome(finished, file, tmp_path, stop):
    first, rest = Here(tmp_path, stop), Here(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        begin(file, tmp_path).finish(first)
    begin(file, tmp_path).finish(rest)
    done = found(file, tmp_path)
    whole = found(file, finished[2])
    assert done.panels == whole.panels
    assert done.judgements == whole.judgements
    assert sorted(first.trained + rest.trained) == sorted(finished[1].cells)


def test_claims_are_fixed_before_the_first_cell(finished, file, tmp_path):
    _, _, folder = finished
    other = changed(file, tmp_path, "delta    = 1.0", "delta = 0.5")
    with pytest.raises(InputError, match="other claims, margins or cells"):
        begin(other, folder)
    asked = (folder / "study.json").read_bytes()
    copy = tmp_path / "copy"
    copy.mkdir()
    for kind in ("cells", "tests"):
        (copy / kind).symlink_to(folder / kind)
    (copy / "study.json").write_bytes(asked)
    run = begin(other, copy, amend=True)
    run.store.keep_plan(run.plan())
    notes = " ".join(of_store(run.study, run.store, "").notes)
    assert "changed after 13 cells were done" in notes


def test_words_for_readers_may_change_and_a_rebuilt_report_has_the_new_ones(
    finished, file, tmp_path
):
    _, _, folder = finished
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "study.json").write_bytes((folder / "study.json").read_bytes())
    written = file.read_text().replace("question = ", 'notes = ["Read this."]\nquestion = ')
    renamed = tmp_path / "another-name.toml"
    renamed.write_text(written)
    asked = begin(renamed, copy).store.asked()
    assert asked["name"] == "another-name"
    assert asked["file"] == written
    assert asked["amendments"] == []


def test_a_failed_cell_is_no_number(file, tmp_path):
    path = changed(file, tmp_path, "{ learning_rate = 0.1 }]", "{ learning_rate = 0.1 }]")
    run = begin(path, tmp_path / "out")
    crew = Here(tmp_path / "out")
    original = work._train

    def breaks(cell, store, means):
        if cell.method == "wide hinge" and cell.seed == 1:
            raise ValueError("the loss is no longer a number")
        return original(cell, store, means)

    work._train = breaks
    try:
        run.finish(crew)
    finally:
        work._train = original
    result = found(path, tmp_path / "out")
    failed = [cell for cell in result.cells if cell.status == "failed"]
    assert {(c.method, c.seed) for c in failed} == {("wide hinge", 1)}
    assert all("no longer a number" in c.reason and c.clean is None for c in failed)
    line = next(line for line in result.panels[0].lines if line.method == "wide hinge")
    assert all(value.seeds == (0,) for value in line.values)
    assert any("2 cells failed" in note for note in result.notes)
    retry = Here(tmp_path / "out")
    begin(path, tmp_path / "out", retry=True).finish(retry)
    assert len(retry.done) == 2
    assert not any(c.status == "failed" for c in found(path, tmp_path / "out").cells)


def test_the_outcome_is_the_arithmetic_of_its_rows(finished, file):
    run, plan, folder = finished
    result = found(file, folder)
    panel = result.panels[0]
    assert [line.method for line in panel.lines] == ["cross-entropy", "wide hinge"]
    for line in panel.lines:
        for value in line.values:
            own = [
                w
                for w in plan.wanted
                if (w.analysis, w.method, w.level) == ("label-noise", line.method, value.level)
            ]
            tests = [
                run.store.test(w.test)["evaluation"] for w in sorted(own, key=lambda w: w.seed)
            ]
            rows = [record.read(folder / "runs" / f"{t[:32]}.parquet").rows for t in tests]
            each = [float((r.label == r.predicted).mean()) for r in rows]
            assert value.each == pytest.approx(each)
            assert value.estimate.value == pytest.approx(np.mean(each))
            assert value.estimate.n == 60
    compared = panel.comparisons[0]
    a, b = (line.values[0].estimate.value for line in reversed(panel.lines))
    assert compared.difference.value == pytest.approx(a - b)
    assert compared.correction.endswith("over 2 levels")
    judged = {j.name: j for j in result.judgements}
    assert judged["2"].verdict == "not tested"
    assert judged["1"].comparisons == panel.comparisons
    transfer = result.panels[1]
    assert [v.level for v in transfer.lines[0].values] == ["0", "0.05", "0.1"]
    assert all("seed of its own" in " ".join(p.notes) for p in [transfer])


def test_a_line_has_a_band_an_area_and_under_attack_a_median(finished, file):
    run, plan, folder = finished
    noise, transfer = found(file, folder).panels[:2]
    for line in (*noise.lines, *transfer.lines):
        for value in line.values:
            assert value.band.value == pytest.approx(value.estimate.value)
            assert value.band.low <= value.estimate.low
            assert value.estimate.high <= value.band.high
            assert "simultaneous 95% band" in value.band.method
        x, y = ([f(v) for v in line.values] for f in (lambda v: v.x, lambda v: v.estimate.value))
        assert line.area.value == pytest.approx(np.trapezoid(y, x) / (x[-1] - x[0]))
    assert all(line.median is None for line in noise.lines)
    for line in transfer.lines:
        own = sorted((w for w in plan.wanted if w.analysis == transfer.name), key=lambda w: w.seed)
        tests = [run.store.test(w.test)["evaluation"] for w in own if w.method == line.method]
        rows = [record.read(folder / "runs" / f"{t[:32]}.parquet").rows for t in tests]
        far = np.concatenate([r.distance.fillna(np.inf) for r in rows])
        assert line.median.value == np.median(far)
        assert line.median.low <= line.median.value <= line.median.high
    assert not any("Area" in note for note in transfer.notes)


def test_only_what_is_asked_for_is_in_the_folder(finished, file):
    result = found(file, finished[2])
    assert result == found(file, finished[2])
    other = replace(spec.load(str(file)), baseline="wide hinge")
    with pytest.raises(RecordError, match="holds another study"):
        of_store(other, Store(finished[2]), "")


# --- networks made elsewhere ----------------------------------------------------------------------

BROUGHT = """
title    = "Brought"
question = "?"
baseline = "ce"

[checkpoints]
pattern = "PATTERN"
model   = "NET"

[test]
data  = "mnist5k"
limit = 50

[[analysis]]
name   = "label-noise"
factor = "label_noise"
delta  = 1.0
"""


@pytest.fixture(scope="module")
def nets(file, tmp_path_factory):
    """Checkpoints that say nothing of themselves but by their names."""
    import torch

    folder = tmp_path_factory.mktemp("nets")
    for loss in ("ce", "l2"):
        for noise in ("0", "0.40"):
            for seed in (0, 1):
                torch.manual_seed(hash((loss, noise, seed)) % 1000)
                net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
                torch.save(net.state_dict(), folder / f"{loss}_noise{noise}_seed{seed}.pt")
    (folder / "readme.txt").write_text("not a network")
    return folder


def test_networks_are_found_by_a_pattern(nets):
    found = matches(str(nets / "{loss}_noise{label_noise}_seed{seed}.pt"))
    assert len(found) == 8
    assert found[0].fields == {"loss": "ce", "label_noise": "0.40", "seed": "0"}
    assert len(matches("{loss}_*_seed0.pt", nets)) == 4
    with pytest.raises(InputError, match="no checkpoint matches"):
        matches(str(nets / "{loss}.onnx"))
    with pytest.raises(InputError, match="stands there twice"):
        matches(str(nets / "{loss}_{loss}.pt"))


def brought(file, nets, tmp_path, pattern):
    path = tmp_path / "brought.toml"
    net = f"{file.parent / 'net.py'}:net"
    path.write_text(BROUGHT.replace("PATTERN", str(nets / pattern)).replace("NET", net))
    return path


def test_networks_made_elsewhere_become_a_report(file, nets, tmp_path):
    path = brought(file, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    run = begin(path, tmp_path / "out")
    run.finish(Here(tmp_path / "out"))
    result = found(path, tmp_path / "out")
    (panel,) = result.panels
    assert [line.method for line in panel.lines] == ["ce", "l2"]
    assert [v.level for v in panel.lines[0].values] == ["0", "0.40"]
    assert [c.unit for c in panel.comparisons] == ["2 paired seeds, 50 images"] * 2
    # the same from the records alone, by what the records say; these say nothing of the loss
    with pytest.raises(RecordError, match="no evaluation in it fits"):
        of_runs(run.study, tmp_path / "out" / "runs", "")


def test_other_images_under_the_same_name_are_tested_anew(file, nets, tmp_path):
    def write(seed):
        source = np.random.default_rng(seed)
        images = source.integers(0, 256, (50, 1, 28, 28), np.uint8)
        np.savez(tmp_path / "own.npz", images=images, labels=np.arange(50) % 10)
        work.loaded.cache_clear()

    path = brought(file, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    path.write_text(path.read_text().replace('"mnist5k"', f'"{tmp_path / "own.npz"}"'))
    write(0)
    first = begin(path, tmp_path / "out")
    first.finish(Here(tmp_path / "out"))
    assert not first.missing(first.plan())
    write(1)
    again = begin(path, tmp_path / "out")
    (job, *_) = again.missing(again.plan())
    assert job.tests
    write(2)  # and nowhere may other images than the planned ones be tested
    work.carry_out(job, work.Means(tmp_path / "out"))
    done = Store(tmp_path / "out").test(job.tests[0].key)
    assert done["status"] == "failed"
    assert "not those of the plan" in done["reason"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{loss}_noise*_seed{seed}.pt", "has no label_noise"),
        ("{loss}_noise{label_noise}_seed*.pt", "tell them apart by a field"),
        ("{kind}_noise{label_noise}_seed{seed}.pt", "has no field {loss}"),
        ("{loss}_noise{seed}_seed{label_noise}.pt", "is no whole number"),
    ],
)
def test_a_pattern_that_does_not_tell_networks_apart(file, nets, tmp_path, pattern, message):
    path = brought(file, nets, tmp_path, pattern)
    with pytest.raises(InputError) as caught:
        begin(path, tmp_path / "out").plan()
    assert message in str(caught.value)


def test_an_unreadable_network_is_a_failed_cell(file, nets, tmp_path):
    for path in nets.glob("*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "l2_noise0_seed1.pt").write_bytes(b"<html>not found</html>")
    path = brought(file, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    begin(path, tmp_path / "out").finish(Here(tmp_path / "out"))
    result = found(path, tmp_path / "out")
    failed = [cell for cell in result.cells if cell.status == "failed"]
    assert [(c.method, c.seed) for c in failed] == [("l2", 1)]
    assert result.panels[0].comparisons[0].unit.startswith("1 pair of checkpoints")


# --- verdicts -------------------------------------------------------------------------------------


def rows(folder, name, right, **made):
    """A record of made-up clean rows."""
    from robustkit import evaluation, protocol

    header = {
        "schema": "robustkit.evaluation/1",
        "digest": name.ljust(64, "0"),
        "checkpoint": dict.fromkeys(evaluation.CHECKPOINT_KEYS) | {"path": name} | made,
        "data": dict.fromkeys(evaluation.DATA_KEYS, "d") | {"n": len(right), "name": "d"},
        "protocol": {
            "name": "clean",
            "norm": "linf",
            "epsilons": [],
            "resolved": protocol.load("clean").resolved(),
        },
        "warnings": [],
    }
    columns = {
        "sample": [str(i) for i in range(len(right))],
        "index": range(len(right)),
        "label": [0] * len(right),
        "predicted": [0 if r else 1 for r in right],
        "fooled_at": [None if r else "0" for r in right],
        "distance": [None if r else 0.0 for r in right],
        "fooled_by": [None if r else "clean" for r in right],
        "fooled_as": [None] * len(right),
    }
    blocks = record.Blocks(folder / f"{name}.parquet")
    blocks.finish(header, {}, record.table(columns))
    return folder / f"{name}.parquet"


CLAIMS = """
title = "t"
question = "q"
baseline = "b"

[checkpoints]
runs = "runs"

[test]
data = "d"

[[analysis]]
name = "label-noise"
factor = "label_noise"
"""
CLAIM = """
[[claim]]
name = "{says}"
text = "a and b"
source = "s"
analysis = "label-noise"
says = "{says}"
a = "a"
b = "b"
delta = 2.0
reason = "r"
"""


@pytest.mark.parametrize(
    ("share", "better", "equivalent"),
    [
        ((0.9, 0.9), "holds", "contradicted"),
        ((0.5, 0.5), "contradicted", "holds"),
        ((0.9, 0.5), "contradicted", "contradicted"),
        ((0.2, 0.5), "contradicted", "contradicted"),
        ((0.9, None), "undecided", "contradicted"),
        ((None, None), "not tested", "not tested"),
    ],
)
def test_a_claim_is_judged_at_all_of_its_levels(tmp_path, share, better, equivalent):
    rng = np.random.default_rng(0)
    numbers = []
    for level, of_a in zip(("0", "0.4"), share, strict=True):
        for seed in range(3):
            common = rng.random(4000)
            for method, chance in (("a", of_a), ("b", 0.5)):
                name = f"{method}{level}{seed}"
                path = None
                if chance is not None:
                    right = common < chance
                    right[:3] = rng.random(3) < 0.5  # seeds differ a little
                    path = rows(tmp_path, name.replace(".", "x"), right, loss=method)
                numbers.append(Number("label-noise", method, level, seed, path, "lost"))
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS + "".join(CLAIM.format(says=s) for s in ("better", "equivalent")))
    result = outcome(spec.load(str(path)), Findings(numbers))
    judged = {j.name: j for j in result.judgements}
    assert judged["better"].verdict == better
    assert judged["equivalent"].verdict == equivalent
    if None in share:
        assert any("lost" in note for note in result.panels[0].notes)


def test_one_seed_decides_no_claim_about_methods(tmp_path):
    numbers = []
    for method, count in (("a", 1900), ("b", 1000)):
        right = np.arange(2000) < count
        path = rows(tmp_path, method, right, loss=method)
        numbers.append(Number("label-noise", method, "0", 0, path))
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS + CLAIM.format(says="better"))
    result = outcome(spec.load(str(path)), Findings(numbers))
    assert [c.verdict for c in result.panels[0].comparisons] == ["better"]
    assert result.panels[0].comparisons[0].test == "McNemar"
    (judged,) = result.judgements
    assert judged.verdict == "not tested"
    assert "one seed" in judged.sentence


def test_a_folder_of_evaluations_becomes_a_report(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    rng = np.random.default_rng(1)
    for method, chance in (("a", 0.9), ("b", 0.6)):
        for level in (0.0, 0.25):
            for seed in (0, 1, 2):
                made = {"loss": method, "label_noise": level, "seed": seed, "data_fraction": 1.0}
                name = f"{method}{int(100 * level)}s{seed}"
                rows(runs, name, rng.random(500) < chance, **made)
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS)
    study = spec.load(str(path))
    result = outcome(study, of_runs(study, runs, "command"))
    assert [v.level for v in result.panels[0].lines[0].values] == ["0", "0.25"]
    assert [c.verdict for c in result.panels[0].comparisons] == ["better", "better"]
    rows(runs, "again", rng.random(500) < 0.5, loss="a", label_noise=0.25, seed=2)
    with pytest.raises(RecordError, match="keep one of them"):
        of_runs(study, runs, "command")


def test_an_attack_shows_what_it_found_on_the_first_network_of_the_baseline(tmp_path):
    numbers = []
    for method, seed in (("a", 0), ("b", 2), ("b", 1)):
        made = evaluation(seed=seed, epsilons=("0.1", "0.2"))
        made = replace(made, header=made.header | {"data": made.header["data"] | {"digest": "d"}})
        blocks = record.Blocks(tmp_path / f"{method}{seed}.parquet")
        blocks.write(0, made.table, made.examples)
        blocks.finish(made.header, made.run, made.table)
        numbers.append(Number("attacked", method, "", seed, tmp_path / f"{method}{seed}.parquet"))
    path = tmp_path / "claims.toml"
    attacked = """
        [[analysis]]
        name = "attacked"
        factor = "epsilon"
        protocol = "pgd"
        """
    path.write_text(CLAIMS[: CLAIMS.index("[[analysis]]")] + attacked)
    study = spec.load(str(path))
    (gallery,) = outcome(study, Findings(numbers)).galleries
    assert gallery.title.startswith("b, seed 1, under ")
    expected = record.read(tmp_path / "b1.parquet").examples
    assert [e.index for e in gallery.examples] == [e.index for e in expected[:6]]
    (tmp_path / "b1.examples.npz").unlink()
    assert outcome(study, Findings(numbers)).galleries == ()


def test_different_images_are_not_compared(tmp_path):
    one = rows(tmp_path, "one", np.ones(50, bool), loss="a")
    header = json.loads(json.dumps(dict(record.read(one).header)))
    header["data"]["digest"] = "other"
    header["digest"] = "two".ljust(64, "0")
    record.Blocks(tmp_path / "two.parquet").finish(header, {}, record.read(one).table)
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS)
    numbers = [
        Number("label-noise", "a", "0", 0, one),
        Number("label-noise", "b", "0", 0, tmp_path / "two.parquet"),
    ]
    with pytest.raises(RecordError, match="evaluated on other images"):
        outcome(spec.load(str(path)), Findings(numbers))


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_killed_at_random_moments_ends_in_the_same_report(file, tmp_path):
    asked = [sys.executable, "-m", "robustkit", "report", str(file), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*asked, "--out", "whole"], cwd=tmp_path, check=True, env=environment)
    moments = np.random.default_rng(int(time.time())).uniform(1, 14, 10)
    for moment in moments:
        started = subprocess.Popen([*asked, "--out", "cut"], cwd=tmp_path, env=environment)
        time.sleep(float(moment))
        started.send_signal(signal.SIGKILL)
        started.wait()
    subprocess.run([*asked, "--out", "cut"], cwd=tmp_path, check=True, env=environment)
    for name in ("numbers.csv", "figures/label-noise.svg", "figures/transfer.pdf"):
        whole, cut = ((tmp_path / f / name).read_text(errors="replace") for f in ("whole", "cut"))
        assert steady(whole) == steady(cut), name


def steady(text):
    """Without the seconds of trainings, which no two runs share."""
    return [line for line in text.splitlines() if "seconds" not in line]


def test_the_command_plans_works_and_writes(file, tmp_path, robustkit):
    pytest.importorskip("seaborn")
    planned = robustkit("report", str(file), "--plan", "--out", str(tmp_path / "a"))
    assert planned[0] == 0
    assert "4 to work on" in planned[1]
    assert not (tmp_path / "a" / "report.html").exists()
    (tmp_path / "taken").write_text("")
    taken = robustkit("report", str(file), "--out", str(tmp_path / "taken"))
    assert taken[0] == 2
    assert "is a file; give the name of a folder" in taken[2]
    unknown = robustkit("report", "elsayed2018-minst", "--plan")
    assert unknown[0] == 2
    assert "did you mean" in unknown[2]


def test_the_width_of_all_figures_can_be_asked_for(finished, file, tmp_path, robustkit):
    pytest.importorskip("seaborn")
    shutil.copytree(finished[2], tmp_path / "out" / "work")
    asked = ("report", str(file), "--only-report", "--out", str(tmp_path / "out"))
    for width in ("single", "double"):
        status, _, err = robustkit(*asked, "--style", "icml", "--width", width)
        assert (status, err) == (0, "")
        pictures = (tmp_path / "out" / "figures").glob("*.png")
        inches = {int.from_bytes(p.read_bytes()[16:20]) / 300 for p in pictures}
        assert inches == {{"single": 3.25, "double": 6.75}[width]}
    assert robustkit(*asked, "--width", "wide")[0] == 2


def test_a_course_is_that_of_the_networks_with_most_lines(finished, file):
    _, plan, _ = finished
    few, many = (
        [{"step": step, "memorised": step / 8, "held_out_clean": 0.5} for step in steps]
        for steps in ((8,), (4, 8))
    )
    cells = {w.cell: few if w.seed == 0 else many for w in plan.wanted}
    done = {key: {"history": history} for key, history in cells.items()}
    plan = {"wanted": [asdict(w) for w in plan.wanted]}
    histories = list(_histories(spec.load(str(file)), plan, done))
    assert histories
    assert {(h.steps, h.memorised) for h in histories} == {((4, 8), (0.5, 1.0))}
