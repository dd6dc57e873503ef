"""Studies: what is planned, chosen, worked out, judged, and kept through interruptions."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from fractions import Fraction
from hashlib import sha256
from html import unescape
from importlib import import_module
from itertools import product

import numpy as np
import pytest
import torch
from evaluations import evaluation

from robustkit import checkpoint, losses, machine, record
from robustkit import data as datasets
from robustkit.cli.terminal import StudyTable
from robustkit.data.subset import prepare
from robustkit.errors import EvaluationFailed, InputError, RecordError
from robustkit.files import digest, names
from robustkit.models import MODELS
from robustkit.protocol import KINDS, load
from robustkit.protocol import kind as kind_of
from robustkit.study import spec, work
from robustkit.study.analysis import Findings, Number, outcome
from robustkit.study.brought import matches
from robustkit.study.cells import Cell, Context, question
from robustkit.study.cells import Test as Asked
from robustkit.study.findings import _histories, of_runs, of_store
from robustkit.study.forecast import forecast, looks, passes
from robustkit.study.grid import gaps
from robustkit.study.pace import Pace, timed
from robustkit.study.run import Options, Run, in_words
from robustkit.study.store import Store
from robustkit.training.engine import Engine, Progress
from robustkit.training.examples import gather
from robustkit.training.recipe import Recipe, spell

command = import_module("robustkit.cli.report")  # robustkit.cli.report is the function

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
        ("seeds      = [0, 1]", "seeds = [0, -1]", "[train] seeds: -1 must not be negative"),
        ("seed = 7", "seed = -7", "[tuning] seed: -7 must not be negative"),
        ("steps      = 4", "steps = 4000000000", "must be at most 100,000,000"),
        ("limit = 60", "limit = 0", "[test] limit 0: must be above 0"),
        ("limit     = 20", "limit = -1", "analysis 'transfer': limit -1: must be above 0"),
        ('levels = ["0", "0.4"]', 'levels = ["0.4", "0.40"]', "0.4 and 0.40 are the same number"),
        ('levels = ["0", "0.4"]', 'levels = ["0.4", "1"]', "level 1: label noise must be from 0"),
        ('levels = ["0", "0.4"]', 'levels = ["-0.1", "0.4"]', "label noise must be from 0"),
        ('"0.1"]\nlimit', '"0.1"]\ndata_fraction = "0"\nlimit', "must be above 0 and at most 1"),
        ('"0.1"]\nlimit', '"0.1"]\ndata_fraction = "1.5"\nlimit', "must be above 0 and at most 1"),
        ('levels    = ["0.05", "0.1"]', 'levels = ["0", "0.1"]', "a budget must be above 0"),
        ('levels    = ["0.05", "0.1"]', 'levels = ["-0.1"]', "a budget must be above 0"),
        ('reason   = "a test"', 'reason = "a"\nlevels = ["0.4", "2/5"]', "are the same number"),
        ("delta  = 1.0", "delta = -1.0", "analysis 'label-noise': delta -1"),
        ("delta  = 1.0", "delta = nan", "analysis 'label-noise': delta nan"),
        ("delta    = 1.0", "delta = inf", "claim '1': delta inf"),
        ("delta    = 1.0", "delta = nan", "claim '1': delta nan"),
        ("delta    = 1.0", "delta = -1", "delta -1: must be a number of points from 0 on"),
        ('says     = "better"', 'says = "ratio"\nbounds = [1.0, 2.0]', "has accuracies"),
        ("bounds   = [0.9, 1.1]", "bounds = [1.1, 0.9]", "the lowest first"),
        ("bounds   = [0.9, 1.1]", "bounds = [1.1, inf]", "must be above 0, finite"),
        ("bounds   = [0.9, 1.1]", "bounds = [nan, 1.1]", "must be above 0, finite"),
        ("bounds   = [0.9, 1.1]", "bounds = [0.0, 1.1]", "must be above 0, finite"),
        ('b        = "cross-entropy"', 'b = "wide hinge"', "compares 'wide hinge' with itself"),
        ('analysis = "label-noise"', 'analysis = "label-nosie"', "did you mean 'label-noise'"),
        ('factor = "label_noise"\n', 'factor = "cost"\n', "has times"),
        ('hold_out   = "100"', 'hold_out = "-1"', "must not be negative"),
        ("question = ", 'figures = ["curve"]\nquestion = ', "did you mean 'curves'"),
        ("question = ", 'tables = ["claim"]\nquestion = ', "did you mean 'claims'"),
        ("question = ", 'tables = ["cost", "cost"]\nquestion = ', "cost stands there 2 times"),
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
        ('data       = "mnist5k"', 'data = "mnist5"', "[train] data: unknown data set 'mnist5'"),
        ('data       = "mnist5k"', 'data = "mnist5"', "did you mean 'mnist5k'"),
        ('data  = "mnist5k"', 'data = "mnist5"', "[test] data: unknown data set 'mnist5'"),
        ("limit = 60", 'limit = 60\nprotocol = "cleen"', "[test] protocol: unknown attack 'cleen'"),
        ('"fgsm"', '"fgms"', "analysis 'transfer': unknown attack 'fgms'; did you mean 'fgsm'"),
        ('"fgsm"', '"clean"', "analysis 'transfer': the protocol 'clean' attacks nothing"),
        ('loss     = "hinge"', 'loss = "hing"', "method 'wide hinge': unknown loss 'hing'"),
        ("margin = 2.0", "margin = -2.0", "method 'wide hinge': hinge"),
        ("margin = 2.0", 'margin = "2"', "hinge: margin: expected float, got '2'"),
        ("{ margin = 2.0 }", "3", "method 'wide hinge': settings: expected a table"),
        ("steps      = 4", 'steps = 4\nnoise_kind = "pare"', "[train] noise_kind: unknown kind"),
        ("steps      = 4", 'steps = 4\nnoise_kind = "matrix:no.csv"', "no.csv: no such file"),
    ],
)
def test_a_plan_that_makes_no_sense_is_told_in_one_line(file, tmp_path, old, new, message):
    with pytest.raises(InputError) as caught:
        begin(path := changed(file, tmp_path, old, new), tmp_path / "out").plan()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["lenet6", "torchvision:resnet17"])
def test_a_model_that_there_is_not_is_told_before_anything_is_trained(file, tmp_path, name):
    path = tmp_path / "other.toml"
    path.write_text(STUDY.replace("NET", name))
    with pytest.raises(InputError, match=r"other\.toml: \[train\] model: unknown .*did you mean"):
        begin(path, tmp_path / "out")


def test_a_claim_about_an_analysis_of_another_study_is_none_misspelt(file, tmp_path):
    other = changed(file, tmp_path, 'analysis = "label-noise"', 'analysis = "cifar10-label-noise"')
    assert spec.load(str(other)).claims[0].analysis == "cifar10-label-noise"


def test_a_claims_level_is_a_number_however_it_is_written(file, tmp_path):
    levels = 'reason = "a"\nlevels = ["0.40"]'
    study = spec.load(str(changed(file, tmp_path, 'reason   = "a test"', levels)))
    assert study.claims[0].levels == ("0.40",)


def test_what_is_no_table_is_no_table_with_an_option_either(file, tmp_path):
    path = changed(file, tmp_path, '[test]\ndata  = "mnist5k"\nlimit = 60', "")
    path.write_text(f"test = 3\n{path.read_text()}")
    with pytest.raises(InputError, match="test: expected dict, got 3"):
        spec.load(str(path), {"test": {"limit": 5}})


def test_label_noise_of_every_kind_has_a_level_without_any(file, tmp_path):
    path = changed(file, tmp_path, "steps      = 4", 'steps = 4\nnoise_kind = "pair"')
    run, crew = begin(path, tmp_path / "out"), Here(tmp_path / "out", 7)
    with pytest.raises(KeyboardInterrupt):
        run.finish(crew)
    cells = [(job.cell.context.label_noise, run.store.cell(job.cell.key)) for job in crew.done]
    assert {level for level, _ in cells} == {"0", "0.4"}
    assert {cell["status"] for _, cell in cells} == {"done"}


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
        ("question = ", 'figures = ["curves"]\ntables = []\nquestion = ', True),
    ]:
        digest = spec.load(str(changed(file, tmp_path, old, new))).digest
        assert (digest == base) is same, new


def test_a_shipped_studys_digest_stays_what_it_was_when_it_was_run():
    study = spec.load("elsayed2018-mnist")
    assert study.digest == "23bdc73676126ad3113e4de8033f6e4504200b2d6e6140d44f492f1826910db9"
    assert spec.of_text(study.text, "other", "elsewhere.toml", {}).digest == study.digest
    assert spec.load("elsayed2018-mnist", {"test": {"limit": 5}}).digest != study.digest


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
    for shelf in ("cells", "tests"):
        (copy / shelf).symlink_to(folder / shelf)
    (copy / "study.json").write_bytes(asked)
    run = begin(other, copy, amend=True)
    run.store.keep_plan(run.plan())
    findings = of_store(run.study, run.store, "")
    notes = " ".join(findings.notes)
    assert "changed after 13 cells were done" in notes
    assert "not fixed beforehand: claim '1', delta: 1.0 became 0.5." in notes
    told = findings.provenance["Study"]
    assert told["claims fixed"] == "changed later, see the notes"
    assert told["digest"] == spec.load(str(other)).digest
    assert told["digest as first asked"] == spec.load(str(file)).digest
    assert told["digest of amendment 1"] == f"{told['digest']}, after 13 cells"


def done(folder, tmp_path):
    """A copy of a study's folder in which all its cells are done."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for kind in ("cells", "tests", "runs"):
        (copy / kind).symlink_to(folder / kind)
    for name in ("study.json", "plan.json"):
        (copy / name).write_bytes((folder / name).read_bytes())
    return copy


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            'text     = "The hinge is better."',
            'text = "The hinge is no worse."',
            """claim '1', text: "The hinge is better." became "The hinge is no worse.\"""",
        ),
        ('source   = "nobody"', 'source = "me"', """claim '1', source: "nobody" became "me\""""),
        ('reason   = "a test"', 'reason = "it fits"', 'became "it fits"'),
    ],
)
def test_the_words_of_a_claim_are_fixed_with_the_first_cell(
    finished, file, tmp_path, old, new, told
):
    copy, other = done(finished[2], tmp_path), changed(file, tmp_path, old, new)
    with pytest.raises(InputError) as caught:
        begin(other, copy)
    assert told in str(caught.value)
    assert "--amend" in str(caught.value)
    run = begin(other, copy, amend=True)
    (note,) = [n for n in of_store(run.study, run.store, "").notes if "was changed after" in n]
    assert told in note
    begin(other, copy)  # what was amended stands
    assert len(run.store.asked()["amendments"]) == 1
    begin(other, tmp_path / "new")  # and before the first cell words are free
    begin(file, tmp_path / "new")


def test_an_amendment_is_told_by_what_it_added_removed_and_changed(finished, file, tmp_path):
    copy = done(finished[2], tmp_path)
    text = file.read_text()
    claim = text[text.rindex("[[claim]]") :]
    changes = [
        (claim, claim.replace('"2"', '"3"')),
        ("batch_size = 16\n", ""),
        ("limit = 60", 'limit = 60\nprotocol = "clean"'),
        ('levels    = ["0.05", "0.1"]', 'levels    = ["0.1"]'),
    ]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    other = tmp_path / file.name
    other.write_text(text)
    begin(other, copy, amend=True)
    note = of_store(spec.load(str(other)), Store(copy), "").notes[0]
    for told in (
        "claim '2' was removed",
        "claim '3' was added",
        "[train] batch_size: 16 became nothing",
        '[test] protocol: nothing became "clean"',
        """analysis 'transfer', levels: ["0.05", "0.1"] became ["0.1"]""",
    ):
        assert told in note


def test_results_say_on_which_data_and_machine_they_were_made(finished, monkeypatch):
    run, _, _ = finished
    told = of_store(run.study, run.store, "").provenance
    train, test = (work.loaded("mnist5k", split, None, None) for split in ("train", "test"))
    few = work.loaded("mnist5k", "test", 60, None)
    assert len(test) > 60
    assert told["Data"]["mnist5k, train"] == f"{len(train):,} images, digest {train.digest}"
    assert f"60 images, digest {few.digest}" in told["Data"]["mnist5k, test"]
    assert "20 images" in told["Data"]["mnist5k, test"]
    assert told["Cells"]["threads"] == "1"
    assert told["Cells"]["processors"] == machine.processor()

    def older(kind):
        return lambda store, key: {
            k: v for k, v in original[kind](store, key).items() if k not in ("data", "processor")
        }

    original = {"cell": Store.cell, "test": Store.test}
    for kind in original:
        monkeypatch.setattr(Store, kind, older(kind))
    old = of_store(run.study, run.store, "").provenance
    assert old["Cells"]["processors"] == "unknown"
    assert old["Data"]["mnist5k, train"] == f"digest {train.digest}"
    assert old["Data"]["mnist5k, test"] == told["Data"]["mnist5k, test"]  # as the rows say


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


def test_whoever_watches_a_study_is_told_of_each_cell_once(file, tmp_path, monkeypatch, capsys):
    run = begin(file, tmp_path / "out")
    train, evaluate = work._train, work._evaluate

    def breaks(cell, store, means):
        if cell.method == "wide hinge" and cell.seed == 1:
            raise ValueError("the loss is no longer a number")
        return train(cell, store, means)

    def refuses(test, store, means):
        if store.cell(test.cell)["wrong_labels"] and test.protocol == "clean":
            raise InputError("no such image")
        return evaluate(test, store, means)

    monkeypatch.setattr(work, "_train", breaks)
    monkeypatch.setattr(work, "_evaluate", refuses)
    crew, told = Here(tmp_path / "out"), []
    screen = StudyTable("tiny")

    def watch(standing):
        told.append(standing)
        screen.progress(standing)

    plan = run.finish(crew, watch)
    ended = [standing.ended for standing in told if standing.ended]
    assert [one.cell for one in ended] == [in_words(job.cell) for job in crew.done]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(crew.done)
    for line, one, job in zip(lines, ended, crew.done, strict=True):
        assert one.cell in line
        broken = (job.cell.method, job.cell.seed) == ("wide hinge", 1)
        refused = job.cell.context.label_noise == "0.4" and job.cell.seed != 7 and not broken
        assert ("no longer a number" in one.reason) == broken
        assert ("evaluation by clean: no such image" in one.reason) == refused
        assert bool(one.reason) == (broken or refused)
        assert one.reason in line
        assert ("failed: " in line) == (broken or refused)
    # at every moment each cell is in one place, those included that follow a choice
    assert {standing.total for standing in told} == {len(plan.cells)}
    assert all(len(s.running) == sum(t.running for t in s.tallies) for s in told)
    begun = [standing for standing in told if standing.running]
    assert begun[0].running[0].cell == in_words(crew.done[0].cell)
    last = {tally.method: tally for tally in told[-1].tallies}
    assert last["cross-entropy"][1:] == (5, 0, 2, 0)
    assert last["wide hinge"][1:] == (3, 0, 3, 0)
    resumed = []
    begin(file, tmp_path / "out").finish(Here(tmp_path / "out"), resumed.append)
    assert resumed == []


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
    assert result.provenance["Study"]["claims fixed"] == (
        "before the first evaluation here; the networks were made elsewhere"
    )
    assert "50 images" in result.provenance["Data"]["mnist5k, test"]
    # the same from the records alone, by what the records say; these say nothing of the loss
    with pytest.raises(RecordError, match="no evaluation in it fits"):
        of_runs(run.study, tmp_path / "out" / "runs", "")


def test_a_method_that_no_network_is_of_is_told(file, nets, tmp_path):
    path = brought(file, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    claim = (
        CLAIM.format(says="better").replace('a = "a"', 'a = "l1"').replace('b = "b"', 'b = "l2"')
    )
    path.write_text(path.read_text().replace('baseline = "ce"', 'baseline = "xent"') + claim)
    run = begin(path, tmp_path / "out")
    run.store.keep_plan(run.plan())
    notes = of_store(run.study, run.store, "").notes
    assert "No network of method xent, the baseline, was found; methods found: ce, l2." in notes
    assert (
        "No network of method l1 was found, of which claim better speaks; methods found: ce, l2."
    ) in notes
    assert not any("method l2 was" in note for note in notes)


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


# --- what is on record of networks made elsewhere ---------------------------------------------------


def trained(rate="0.4", *, gamma=2.0, learning_rate=0.1):
    """The record of a training, as far as a study looks at it."""
    return {
        "data": {"train": {"noise": {"rate": rate}}},
        "loss": {"settings": {"gamma": [gamma], "stabiliser": 1e-6, "norm": "l2"}},
        "recipe": {"learning_rate": learning_rate, "stabiliser": 1e-8, "steps": 30},
    }


def keep(path, seed=0, **metadata):
    """A safetensors file of a linear network, with what is said to be recorded in it."""
    import torch

    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    checkpoint.save(path, net, model="net.py:net", seed=seed, **metadata)
    return path


def aside(path, text):
    path.with_name(f"{path.name}.toml").write_text(text)


@pytest.fixture
def silent(tmp_path):
    """Networks whose names say nothing: two losses, two shares of wrong labels, two seeds."""
    for place in product(("ce", "l2"), (0.0, 0.36), (0, 1)):
        loss, noise, seed = place
        asked = trained("0.4" if noise else "0")
        path = tmp_path / f"{digest(str(place))[:8]}.safetensors"
        keep(path, seed, loss=loss, label_noise=noise, training=asked)
    return tmp_path


def planned(file, nets, tmp_path, pattern, change=("", "")):
    """The numbers that are wanted, each with its file."""
    tmp_path.mkdir(exist_ok=True)
    path = brought(file, nets, tmp_path, pattern)
    path.write_text(path.read_text().replace(*change))
    plan = begin(path, tmp_path / "out").plan()
    files = {key: cell.asked["checkpoint"] for key, cell in plan.cells.items()}
    return {(w.method, w.level, w.seed): files[w.cell] for w in plan.wanted}, plan


def reported(tmp_path):
    """What the report says of what was planned."""
    return found(tmp_path / "brought.toml", tmp_path / "out")


def refused(file, nets, tmp_path, pattern, change=("", "")):
    """Why nothing can be planned, in one line."""
    with pytest.raises(InputError) as caught:
        planned(file, nets, tmp_path, pattern, change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()  # a corrected pattern is no other study
    return str(caught.value)


def test_what_names_do_not_say_is_taken_from_the_files(file, silent, tmp_path):
    found, plan = planned(file, silent, tmp_path, "*.safetensors")
    # the share of wrong labels that was asked for, not the one that the draws came to
    assert set(found) == set(product(("ce", "l2"), ("0", "0.4"), (0, 1)))
    assert all(
        digest(str((loss, 0.36 if level == "0.4" else 0.0, seed)))[:8] in path
        for (loss, level, seed), path in found.items()
    )
    assert {cell.context.label_noise for cell in plan.cells.values()} == {"0", "0.4"}
    begin(tmp_path / "brought.toml", tmp_path / "out").finish(Here(tmp_path / "out"))
    result = reported(tmp_path)
    assert [c.unit for c in result.panels[0].comparisons] == ["2 paired seeds, 50 images"] * 2
    assert not result.notes


def test_what_names_do_not_say_is_taken_from_sidecars(file, nets, tmp_path):
    for i, path in enumerate(sorted(nets.glob("*_seed0.pt"))):
        (tmp_path / f"{i}.pt").write_bytes(path.read_bytes())
        loss, noise = ("ce", "l2")[i // 2], (0.4, 0)[i % 2]
        aside(tmp_path / f"{i}.pt", f'loss = "{loss}"\nlabel_noise = {noise}\nseed = 3')
    assert set(planned(file, tmp_path, tmp_path, "*.pt")[0]) == set(
        product(("ce", "l2"), ("0", "0.4"), (3,))
    )
    # the name goes first, and of what a name and a sidecar say the method alone is not compared
    assert set(planned(file, tmp_path, tmp_path / "b", "{loss}.pt")[0]) == {
        ("0", "0.4", 3), ("1", "0", 3), ("2", "0.4", 3), ("3", "0", 3)
    }  # fmt: skip


@pytest.mark.parametrize(("said", "level"), [("0.2", "0.2"), ("0.36", "0.4"), (None, "0.4")])
def test_a_sidecar_goes_before_the_file(file, tmp_path, said, level):
    keep(tmp_path / "a.safetensors", 1, loss="ce", label_noise=0.36, training=trained("0.4"))
    # one that was written from the file repeats the share that the draws came to
    aside(tmp_path / "a.safetensors", f"label_noise = {said}" if said else 'trained_on = "mnist"')
    assert set(planned(file, tmp_path, tmp_path, "*.safetensors")[0]) == {("ce", level, 1)}


@pytest.mark.parametrize(
    ("factor", "levels"),
    [
        ("gamma", {"1", "2.5"}),
        ("loss.gamma", {"1", "2.5"}),
        ("learning_rate", {"0.1", "0.02"}),
        ("recipe.stabiliser", {"1e-08"}),
        ("loss.stabiliser", {"1e-06"}),
        ("width", {"3", "4"}),
    ],
)
def test_any_number_on_record_can_be_a_factor(file, tmp_path, factor, levels):
    for i, (gamma, rate) in enumerate([(1.0, 0.1), (2.5, 0.02)]):
        record = trained("0", gamma=gamma, learning_rate=rate)
        keep(tmp_path / f"{i}.safetensors", i, loss="l2", width=3 + i, training=record)
    change = ('factor = "label_noise"', f'factor = "{factor}"')
    found, _ = planned(file, tmp_path, tmp_path, "*.safetensors", change)
    assert {level for _, level, _ in found} == levels


def test_a_factor_that_is_not_on_record_is_told(file, silent, tmp_path):
    def ask(factor):
        change = ('factor = "label_noise"', f'factor = "{factor}"')
        return refused(file, silent, tmp_path, "*.safetensors", change)

    assert "has loss.stabiliser and recipe.stabiliser on record" in ask("stabiliser")
    assert "its name has no width, and nothing on record says it" in ask("width")
    assert "the file itself says norm 'l2', no number" in ask("norm")


@pytest.mark.parametrize("name", ["0.4", "0.40", "0.36", "0.402"])
def test_a_name_may_say_what_the_file_says(file, tmp_path, name):
    path = tmp_path / f"ce_noise{name}_seed01.safetensors"
    keep(path, 1, loss="cross-entropy", label_noise=0.36, training=trained())
    pattern = "{loss}_noise{label_noise}_seed{seed}.safetensors"
    assert set(planned(file, tmp_path, tmp_path, pattern)[0]) == {("ce", name, 1)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ce_noise0_seed1", "its name says label_noise 0, but the file itself says 0.4; rename it"),
        ("ce_noise0.41_seed1", "leave {label_noise} out of the pattern"),
        ("ce_noise0.4_seed2", "its name says seed 2, but the file itself says 1"),
        ("ce_noisehigh_seed1", "label_noise in its name is 'high', no number"),
        ("ce_noise1e999999999_seed1", "no number"),
        ("ce_noise0.4_seed²", "seed '²' is no whole number"),
    ],
)
def test_a_name_is_not_believed_over_the_file(file, tmp_path, name, message):
    keep(tmp_path / f"{name}.safetensors", 1, label_noise=0.4, training=trained())
    said = refused(file, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.safetensors")
    assert message in said
    assert f"{name}.safetensors" in said
    # what is left out of the pattern is read from the file
    if "seed1" in name:
        found, _ = planned(file, tmp_path, tmp_path, "{loss}_*_seed{seed}.safetensors")
        assert set(found) == {("ce", "0.4", 1)}


def test_a_name_is_not_believed_over_a_sidecar(file, nets, tmp_path):
    for path in nets.glob("*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    aside(tmp_path / "l2_noise0_seed1.pt", "label_noise = 0.2")
    said = refused(file, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    assert "l2_noise0_seed1.pt: its name says label_noise 0, but its sidecar says 0.2" in said


def test_a_name_is_not_believed_over_what_a_pt_file_says_inside(file, nets, tmp_path):
    import torch

    for path in nets.glob("*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = torch.load(tmp_path / "l2_noise0_seed1.pt")
    settings = {"seed": 1, "label_noise": 0.2}
    torch.save({"state_dict": state, "args": settings}, tmp_path / "l2_noise0_seed1.pt")
    path = brought(file, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    begin(path, tmp_path / "out").finish(Here(tmp_path / "out"))
    failed = [c for c in found(path, tmp_path / "out").cells if c.status == "failed"]
    assert [(c.method, c.seed) for c in failed] == [("l2", 1)]
    assert "its name says label_noise 0, but the file itself says 0.2" in failed[0].reason


def test_one_number_in_two_ways_to_write_it_is_one_level(file, nets, tmp_path):
    for seed, noise in enumerate(("0.4", "0.40")):
        source = nets / f"ce_noise0.40_seed{seed}.pt"
        (tmp_path / f"ce_noise{noise}_seed{seed}.pt").write_bytes(source.read_bytes())
    pattern = "{loss}_noise{label_noise}_seed{seed}.pt"
    found, _ = planned(file, tmp_path, tmp_path, pattern)
    assert len({level for _, level, _ in found}) == 1


ATTACKED = (
    'factor = "label_noise"',
    'factor = "epsilon"\nprotocol = "fgsm"\nlevels = ["0.1"]\n[[analysis]]\n'
    'name = "again"\nfactor = "epsilon"\nprotocol = "fgsm"\nlevels = ["0.1"]',
)


def test_networks_that_an_analysis_leaves_out_are_told(file, silent, tmp_path):
    found, plan = planned(file, silent, tmp_path, "*.safetensors", ATTACKED)
    assert set(found) == {(loss, "", seed) for loss in ("ce", "l2") for seed in (0, 1)}
    (note,) = plan.notes
    assert note == (
        "Not in the analyses label-noise and again: 4 of 8 networks, trained with other label "
        "noise than 0."
    )
    run = begin(tmp_path / "brought.toml", tmp_path / "out")
    run.store.keep_plan(plan)
    assert reported(tmp_path).notes[0] != note  # that the cells are missing is told first
    assert note in reported(tmp_path).notes
    change = (ATTACKED[0], ATTACKED[1] + '\nlabel_noise = "0.2"\ndata_fraction = "0.5"')
    _, plan = planned(file, silent, tmp_path / "b", "*.safetensors", change)
    assert plan.notes[1] == (
        "Not in the analysis again: 8 of 8 networks, trained with other label noise than 0.2."
    )


def test_nothing_to_compare_is_no_report(file, silent, tmp_path):
    change = (ATTACKED[0], 'factor = "data_fraction"\nlabel_noise = "0.2"')
    for path in silent.glob("*.safetensors"):
        aside(path, "data_fraction = 1")
    said = refused(file, silent, tmp_path, "*.safetensors", change)
    assert "nothing to compare: Not in the analysis label-noise: 8 of 8 networks" in said


def test_networks_that_the_full_grid_lacks_are_told(file, nets, tmp_path):
    for path in nets.glob("*.pt"):
        if path.name not in ("l2_noise0.40_seed1.pt", "ce_noise0_seed0.pt"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    path = brought(file, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    run = begin(path, tmp_path / "out")
    run.store.keep_plan(run.plan())
    assert reported(tmp_path).notes[-1] == (
        "Missing from the full grid of methods, levels and seeds of label-noise: ce at 0, seed 0; "
        "l2 at 0.40, seed 1."
    )


def test_a_grid_has_the_levels_that_were_asked_for_and_names_a_few():
    there = [("noise", (method, "0.40", 0)) for method in "abcdef"]
    assert list(gaps(there, {})) == []
    (said,) = gaps(there, {"noise": ("0.4", "0.6")})
    assert "a at 0.6, seed 0; b at 0.6" in said
    assert said.endswith("e at 0.6, seed 0; and 1 more.")
    twice = [(name, ("a", "", seed)) for name in ("x", "y") for seed in (0, 1)]
    assert list(gaps([*twice, ("x", ("b", "", 0)), ("y", ("b", "", 0))], {})) == [
        "Missing from the full grid of methods, levels and seeds of x and y: b, seed 1."
    ]


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


def spoilt(path, text):
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: cut(path, 0), "its header is cut off"),
        (lambda path: cut(path, 50), "its header is cut off"),
        (lambda path: spoilt(path, "{nonsense"), "its header is not what it should be"),
        (lambda path: spoilt(path, "[1, 2]"), "its header is not what it should be"),
        (lambda path: spoilt(path, '{"__metadata__": 3}'), "its header is not what it should be"),
        (
            lambda path: spoilt(path, '{"__metadata__": {"robustkit.seed": "{"}}'),
            "its robustkit metadata is not JSON",
        ),
        (
            lambda path: spoilt(path, '{"__metadata__": {"robustkit.label_noise": "[]"}}'),
            "label_noise: expected float",
        ),
        (lambda path: aside(path, "label_noise = = 1"), "not readable as TOML"),
        (lambda path: aside(path, "label_nose = 1"), "did you mean 'label_noise'?"),
        (lambda path: aside(path, 'label_noise = "high"'), "expected float, got 'high'"),
        (lambda path: path.unlink(), "no checkpoint matches"),
    ],
)
def test_a_bad_file_is_told_in_one_line(robustkit, file, tmp_path, spoil, message):
    spoil(keep(tmp_path / "one.safetensors", label_noise=0.4))
    path = brought(file, tmp_path, tmp_path, "*.safetensors")
    status, out, err = robustkit("report", str(path), "--out", str(tmp_path / "out"))
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert "one.safetensors" in err or "no checkpoint" in err


def test_a_damaged_file_whose_name_says_enough_is_a_failed_cell(file, silent, tmp_path):
    for seed in (0, 1):
        keep(tmp_path / f"ce_noise0_seed{seed}.st.safetensors", seed, label_noise=0.0)
    cut(tmp_path / "ce_noise0_seed1.st.safetensors", 50)
    path = brought(file, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.st.safetensors")
    begin(path, tmp_path / "out").finish(Here(tmp_path / "out"))
    cells = found(path, tmp_path / "out").cells
    assert sorted((c.seed, c.status) for c in cells) == [(0, "done"), (1, "failed")]


def test_a_file_that_cannot_be_read_is_told(file, nets, tmp_path, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("robustkit.study.brought.file_digest", fail)
    said = refused(file, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    assert said.endswith(".pt: cannot be read: Input/output error")


def test_networks_are_planned_without_torch(file, silent, tmp_path):
    path = brought(file, silent, tmp_path, "*.safetensors")
    code = (
        "import sys\n"
        "from robustkit.study import spec\n"
        "from robustkit.study.brought import Gatherer\n"
        f"study = spec.load({str(path)!r})\n"
        "plan = Gatherer(study, study.brought, lambda limit: '').plan({})\n"
        "sys.exit('torch' in sys.modules or len(plan.wanted) != 8)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_share_may_be_written_as_a_fraction():
    cell = Cell("ce", Context("1/3", "1/64"), 0, 0, {})
    assert in_words(cell) == "ce, 33% label noise, 0.01562 of the data, configuration 1, seed 0"


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


def drawn(tmp_path, seeds, levels=("0", "0.4")):
    """Numbers of methods a and b, each with some seeds at every level; a is a little better."""
    rng = np.random.default_rng(1)
    numbers = []
    for level in levels:
        for method, own in seeds.items():
            for seed in own:
                right = rng.random(2000) < (0.8 if method == "b" else 0.83)
                name = f"{method}{level}{seed}".replace(".", "x")
                path = rows(tmp_path, name, right, loss=method)
                numbers.append(Number("label-noise", method, level, seed, path))
    return numbers


def test_a_comparison_has_one_interval_wherever_it_stands(tmp_path):
    numbers = drawn(tmp_path, dict.fromkeys("ab", (0, 1, 2)), levels=("0", "0.2", "0.4"))
    path = tmp_path / "claims.toml"
    some = CLAIM.format(says="better").replace("delta", 'levels = ["0.40", "0"]\ndelta')
    turned = CLAIM.format(says="equivalent").replace('a = "a"\nb = "b"', 'a = "b"\nb = "a"')
    path.write_text(CLAIMS + some + turned)
    times = {"cost": {"a": [1.5, 1.6], "b": [1.0, 1.0]}}
    result = outcome(spec.load(str(path)), Findings(numbers, times))
    shown = {c.level: c.difference for c in result.panels[0].comparisons}
    better, equivalent = result.judgements
    assert [c.level for c in better.comparisons] == ["0.4", "0"]
    for one in better.comparisons:
        assert one.correction == "Bonferroni over 3 levels"
        assert one.difference == shown[one.level]
    for one in equivalent.comparisons:
        assert one.difference.low == pytest.approx(-shown[one.level].high)
    (cost,) = result.costs
    assert cost.gain == shown["0.4"]


def test_a_claim_at_a_level_without_data_does_not_hold(tmp_path):
    numbers = drawn(tmp_path, dict.fromkeys("ab", (0, 1, 2, 3, 4)), levels=("0.4",))
    path = tmp_path / "claims.toml"
    for levels, verdict in ('["0.4"]', "holds"), ('["0.4", "0.8"]', "undecided"):
        claim = CLAIM.format(says="better").replace("delta", f"levels = {levels}\ndelta")
        path.write_text(CLAIMS + claim)
        (judged,) = outcome(spec.load(str(path)), Findings(numbers)).judgements
        assert judged.verdict == verdict


@pytest.mark.parametrize(
    ("seeds", "test", "unit", "note"),
    [
        ({"a": (1, 2), "b": (0, 1)}, "two-way Welch t", "2 and 2 unpaired seeds", "not matched"),
        ({"a": (0, 1, 2), "b": (1, 2, 3)}, "two-way t", "2 paired seeds", "seeds 0."),
        ({"a": (1,), "b": (0, 1)}, "McNemar", "1 pair of", "one network each"),
    ],
)
def test_how_seeds_pair_networks_is_told(tmp_path, seeds, test, unit, note):
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS)
    panel = outcome(spec.load(str(path)), Findings(drawn(tmp_path, seeds, levels=("0",)))).panels[0]
    (one,) = panel.comparisons
    assert test in one.test
    assert unit in one.unit
    assert any(note in text for text in panel.notes)


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
    assert result.provenance["Study"]["claims fixed"].startswith("not known")
    assert result.provenance["Data"] == {"d, d": "500 images, digest d"}
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


# --- how long it takes ----------------------------------------------------------------------------


def test_what_is_to_come_is_counted_before_anything_is_chosen(finished, file, tmp_path):
    last = finished[1]
    first = begin(file, tmp_path / "out").plan()
    assert not first.tests
    assert len(first.cells) + sum(first.later.values()) == len(last.cells)
    assert len(first.pending) == len(last.tests)
    assert not last.later
    assert not last.pending


def test_a_forecast_is_what_is_missing_times_what_it_takes(file, tmp_path):
    path = changed(file, tmp_path, "hold_out   = ", "noise_kind = 'symmetric-any'\nhold_out   = ")
    run = begin(path, tmp_path / "out")
    pace = Pace(1000.0, {"cross-entropy": 1.0, "wide hinge": 2.0}, 100.0, 10.0, 0.5, 0.25)
    expected = forecast(run, run.plan(), pace)
    # a training: 4 updates, and one look at 100 held-out images, beside the rest
    each = {"cross-entropy": 100 + 4 * 1 + 100 * 0.5, "wide hinge": 100 + 4 * 2 + 100 * 0.5}
    cells = {"cross-entropy": (2, 5), "wide hinge": (2, 4)}
    for row in expected.rows:
        assert (row.now, row.later) == cells[row.method]
        assert row.seconds == pytest.approx(sum(cells[row.method]) * each[row.method])
    # 60 images for each of 8 networks; 20 for 4, with a step at 2 budgets and a look at the end
    clean, attacked = 10 + 60 * 0.5, 10 + 20 * (0.5 + 2 * (0.25 + 0.5))
    assert (expected.evaluations, expected.pending) == (0, 8 + 4)
    assert expected.evaluating == pytest.approx(8 * clean + 4 * attacked)
    total = sum(row.seconds for row in expected.rows) + expected.evaluating
    assert expected.seconds(2) == pytest.approx(3 * 1000 + total / 2)
    assert expected.seconds(1000) == pytest.approx(3 * 1000 + total / 13)
    slow = replace(pace, steps={"cross-entropy": 1.0, "wide hinge": None})
    assert [row.seconds is None for row in forecast(run, run.plan(), slow).rows] == [False, True]


def test_a_finished_study_needs_no_time(finished):
    run, plan, _ = finished
    pace = Pace(0, {}, 100.0, 10.0, 0.5, 0.25)
    assert forecast(run, plan, pace).seconds(1) == 0


@pytest.mark.parametrize(
    ("steps", "batch", "share", "hold_out"),
    [(4, 16, "1", "100"), (90, 16, "0.02", "1/10"), (7, 64, "0.02", "0"), (70, 50, "0.02", "0.5")],
)
def test_looks_at_held_out_images_are_foreseen(steps, batch, share, hold_out):
    data = datasets.load("mnist5k", split="train")
    asked = Recipe(steps=steps, batch_size=batch, hold_out=Fraction(hold_out))
    training = prepare(data, hold_out=asked.hold_out, fraction=Fraction(share))
    engine = Engine(
        *(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)),) * 2,
        losses.build("cross-entropy", {}),
        asked,
        gather(data, training.train, torch.device("cpu")),
        None,
        0,
    )
    engine.run(lambda: None, 1e9, Progress())
    held = 0 if training.held_out is None else len(training.held_out.labels)
    spelled = {"recipe": spell(asked), "fraction": share}
    assert looks(spelled, len(data)) == (held, len(engine.history))


def test_every_attack_has_its_passes():
    every = {kind_of(a): a for name in names("attacks") for a in load(name).attacks}
    assert set(every) == set(KINDS)
    for attack in every.values():
        gradients, forwards = passes(attack, 3, 10)
        assert gradients + forwards > 0
    pgd = load("pgd").attacks[-1]
    assert passes(pgd, 3, 10) == (3 * pgd.restarts * pgd.steps, 3 * pgd.restarts)
    assert passes(load("square").attacks[0], 2, 10) == (0, 2 * load("square").attacks[0].queries)


def test_what_cannot_be_timed_is_told_apart(file, tmp_path):
    broken = "recipe   = { learning_rate = 1e30, clip = 1e30 }"
    path = changed(file, tmp_path, "recipe   = { learning_rate = 0.1 }", broken)
    run = begin(path, tmp_path / "out")
    cells = {cell.method: cell for cell in run.plan().cells.values()}
    one = Asked("", "clean", (), 1, "mnist5k", "test", run.tested(1))
    _, pace = timed([*cells.values()][::-1], one, work.Means(tmp_path / "out"))
    assert pace.steps["cross-entropy"] > 0
    assert pace.steps["wide hinge"] is None
    assert min(pace.cell, pace.evaluation, pace.forward, pace.gradient) > 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["study.json"]


def test_where_nothing_can_be_timed_the_work_goes_on(file, tmp_path, capsys, monkeypatch):
    def fails(cells, test, means):
        raise EvaluationFailed("cannot be timed")

    monkeypatch.setattr("robustkit.study.forecast.measure", fails)
    command._work(begin(file, tmp_path / "out"), 0, None)
    err = capsys.readouterr().err
    assert err.splitlines() == [
        "tiny: 4 cells known, 4 to work on, 9 after a choice; how long that takes cannot be told"
    ]


def test_a_study_without_anything_missing_announces_nothing(finished, capsys):
    command._work(finished[0], None, None)
    assert capsys.readouterr().err == ""


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
    assert "4 to work on, 9 after a choice, 12 evaluations; about" in planned[1]
    for line in ("cross-entropy", "wide hinge"):
        assert re.search(rf"{line} +│ +2 │ +[45] │ +[\d.]+ │ +\d+ (s|min) │", planned[1])
    assert re.search(r"evaluations +│ +0 │ +12 │", planned[1])
    assert not (tmp_path / "a" / "report.html").exists()
    (tmp_path / "taken").write_text("")
    taken = robustkit("report", str(file), "--out", str(tmp_path / "taken"))
    assert taken[0] == 2
    assert "is a file; give the name of a folder" in taken[2]
    for hours in ("-1", "nan", "inf"):
        refused = robustkit("report", str(file), f"--hours={hours}", "--out", str(tmp_path / "b"))
        assert refused[0] == 2
        assert f"--hours {hours}: expected a number of hours" in refused[2]
        assert len(refused[2].splitlines()) == 1
    unknown = robustkit("report", "elsayed2018-minst", "--plan")
    assert unknown[0] == 2
    assert "did you mean" in unknown[2]


def contents(folder):
    """Every file of a report, by its name."""
    found = (p for p in folder.rglob("*") if p.is_file() and "work" not in p.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_report_is_rebuilt_from_its_evidence_alone(finished, tmp_path, robustkit):
    pytest.importorskip("seaborn")
    shutil.copytree(finished[2], tmp_path / "out" / "work")
    (tmp_path / "out" / "evidence.parquet").write_text("whatever was there before")
    assert robustkit("report", "tiny", "--only-report", "--out", "out")[0] == 0
    built = contents(tmp_path / "out")
    listed = json.loads(built["manifest.json"])["files"]
    assert listed["evidence.parquet"] == sha256(built["evidence.parquet"]).hexdigest()
    evidence = tmp_path / "published" / "evidence.parquet"
    evidence.parent.mkdir()
    evidence.write_bytes(built["evidence.parquet"])
    status, out, _ = robustkit("report", "tiny", "--only-report", "--out", "published")
    assert (status, out) == (0, "report: published/report.html\n")
    assert contents(tmp_path / "published") == built
    evidence.write_bytes(built["evidence.parquet"][:-100])
    status, _, told = robustkit("report", "tiny", "--only-report", "--out", "published")
    assert status == 2
    assert "published/evidence.parquet: damaged" in told
    assert len(told.splitlines()) == 1
    (tmp_path / "empty").mkdir()
    status, _, told = robustkit("report", "tiny", "--only-report", "--out", "empty")
    assert status == 2
    assert "holds neither work/ nor evidence.parquet" in told


def test_the_command_on_the_page_asks_the_same_again(file, nets, tmp_path, robustkit):
    pytest.importorskip("seaborn")
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = folder / "own.toml"
    path.write_text(BROUGHT.replace("PATTERN", "none").replace("NET", f"{file.parent}/net.py:net"))
    pattern = str(nets / "{loss}_noise{label_noise}_seed{seed}.pt")
    out = ("--out", str(tmp_path / "out"))
    options = ("--checkpoints", pattern, "--limit", "30", "--baseline", "l2")
    asked = ("report", str(path), *options, *out, "--device", "cpu", "--workers", "1")
    assert robustkit(*asked)[0] == 0
    page = unescape((tmp_path / "out" / "report.html").read_text())
    (command,) = re.findall(r"<code>(robustkit report .*)</code>", page)
    again = robustkit(*shlex.split(command)[1:], *out, "--plan")
    assert again[0] == 0
    assert "8 cells known, 0 to work on" in again[1]
    for change in ("[test] limit = 30", "baseline = l2", f"[checkpoints] pattern = {pattern}"):
        assert f"<code>{change}</code>" in page
    assert "before the first training" not in page
    rebuilt = robustkit("report", str(path), *out, "--only-report")
    assert rebuilt[0] == 0
    assert command in unescape((tmp_path / "out" / "report.html").read_text())
    assert "has changed" not in rebuilt[2]
    path.write_text(path.read_text().replace('question = "?"', 'question = "!"'))
    (line,) = robustkit("report", str(path), *out, "--only-report")[2].splitlines()
    assert line == (f"{path}: has changed since; the report is of the study as it was asked")
    assert "<p>?</p>" in (tmp_path / "out" / "report.html").read_text()


def test_methods_that_are_missing_are_told_on_the_terminal(file, nets, tmp_path, robustkit):
    path = brought(file, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    path.write_text(path.read_text().replace('baseline = "ce"', 'baseline = "xent"'))
    told = robustkit("report", str(path), "--plan", "--out", str(tmp_path / "out"))
    assert told[0] == 0
    assert "No network of method xent, the baseline, was found" in told[2]


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
