"""How long a study takes."""

from dataclasses import replace
from fractions import Fraction
from importlib import import_module

import pytest
import torch
from helpers.studies import begin, changed

from robustkit import losses
from robustkit.data import load_dataset
from robustkit.data.subset import prepare_training_data
from robustkit.errors import EvaluationFailed
from robustkit.files import names
from robustkit.protocol import KINDS, kind_of, load_protocol, most_passes
from robustkit.study import work
from robustkit.study.cells import Test as Asked
from robustkit.study.forecast import forecast, looks
from robustkit.study.throughput import Throughput, timed
from robustkit.training.engine import Engine
from robustkit.training.examples import gather
from robustkit.training.progress import Callbacks
from robustkit.training.recipe import Recipe, spell

command = import_module("robustkit.calls.report")


@pytest.mark.thorough
def test_what_is_to_come_is_counted_before_anything_is_chosen(finished, tiny, tmp_path):
    last = finished[1]
    first = begin(tiny, tmp_path / "out").plan()
    assert not first.tests
    assert len(first.cells) + sum(first.later.values()) == len(last.cells)
    assert len(first.pending) == len(last.tests)
    assert not last.later
    assert not last.pending


def test_a_forecast_is_what_is_missing_times_what_it_takes(tiny, tmp_path):
    path = changed(tiny, tmp_path, "hold_out   = ", "noise_kind = 'symmetric-any'\nhold_out   = ")
    run = begin(path, tmp_path / "out")
    throughput = Throughput(
        1000.0, {"cross-entropy": 1.0, "wide hinge": 2.0}, 100.0, 10.0, 0.5, 0.25
    )
    expected = forecast(run, run.plan(), throughput)
    # a training: 4 updates, and one look at 100 held-out images, beside the rest
    each = {"cross-entropy": 100 + 4 * 1 + 100 * 0.5, "wide hinge": 100 + 4 * 2 + 100 * 0.5}
    cells = {"cross-entropy": (2, 5), "wide hinge": (2, 4)}
    for row in expected.rows:
        assert (row.now, row.later) == cells[row.method]
        assert row.seconds == pytest.approx(sum(cells[row.method]) * each[row.method])
    # 60 images for each of 8 networks; 20 for 4, with a step and a look at the end: the larger
    # of 2 budgets succeeds at a quarter of the cost, the smaller fails
    clean, attacked = 10 + 60 * 0.5, 10 + 20 * (0.5 + 1.25 * (0.25 + 0.5))
    assert (expected.evaluations, expected.pending) == (0, 8 + 4)
    assert expected.evaluating == pytest.approx(8 * clean + 4 * attacked)
    total = sum(row.seconds for row in expected.rows) + expected.evaluating
    assert expected.seconds(2) == pytest.approx(3 * 1000 + total / 2)
    assert expected.seconds(1000) == pytest.approx(3 * 1000 + total / 13)
    slow = replace(throughput, steps={"cross-entropy": 1.0, "wide hinge": None})
    assert [row.seconds is None for row in forecast(run, run.plan(), slow).rows] == [False, True]


def test_a_finished_study_needs_no_time(ended):
    run, plan, _ = ended
    throughput = Throughput(0, {}, 100.0, 10.0, 0.5, 0.25)
    assert forecast(run, plan, throughput).seconds(1) == 0


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    ("steps", "batch", "share", "hold_out"),
    [(4, 16, "1", "100"), (90, 16, "0.02", "1/10"), (7, 64, "0.02", "0"), (70, 50, "0.02", "0.5")],
)
def test_looks_at_held_out_images_are_foreseen(steps, batch, share, hold_out):
    data = load_dataset("mnist5k", split="train")
    asked = Recipe(steps=steps, batch_size=batch, hold_out=Fraction(hold_out))
    training = prepare_training_data(data, hold_out=asked.hold_out, fraction=Fraction(share))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    engine = Engine(
        network=network,
        model=network,
        loss=losses.build("cross-entropy", {}),
        recipe=asked,
        examples=gather(data, training.train, torch.device("cpu")),
        held_out=None,
        seed=0,
    )
    engine.run(lambda: None, 1e9, Callbacks())
    held = 0 if training.held_out is None else len(training.held_out.labels)
    spelled = {"recipe": spell(asked), "fraction": share}
    assert looks(spelled, len(data)) == (held, len(engine.history))


def test_every_attack_has_its_most_passes():
    every = {kind_of(a): a for name in names("attacks") for a in load_protocol(name).attacks}
    assert set(every) == set(KINDS)
    for attack in every.values():
        gradients, forwards = most_passes(attack, 3, 10, "bisect")
        assert gradients + forwards > 0
    pgd = load_protocol("pgd").attacks[-1]
    assert most_passes(pgd, 3, 10, "scan") == (3 * pgd.restarts * pgd.steps, 3 * pgd.restarts)
    # the largest two succeed at a quarter of an attempt each, of five, and the smallest fails
    whole = pgd.restarts * pgd.steps
    assert most_passes(pgd, 3, 10, "bisect")[0] == pytest.approx((1 + 2 / 20) * whole)
    assert most_passes(load_protocol("square").attacks[0], 2, 10, "scan") == (
        0,
        2 * load_protocol("square").attacks[0].queries,
    )


@pytest.mark.thorough
def test_what_cannot_be_timed_is_told_apart(tiny, tmp_path):
    broken = "recipe   = { learning_rate = 1e30, clip = 1e30 }"
    path = changed(tiny, tmp_path, "recipe   = { learning_rate = 0.1 }", broken)
    run = begin(path, tmp_path / "out")
    cells = {cell.method: cell for cell in run.plan().cells.values()}
    one = Asked("", "clean", (), 1, "mnist5k", "test", run.tested(1))
    _, throughput = timed([*cells.values()][::-1], one, work.WorkerConfig(tmp_path / "scratch"))
    assert throughput.steps["cross-entropy"] > 0
    assert throughput.steps["wide hinge"] is None
    assert min(throughput.cell, throughput.evaluation, throughput.forward, throughput.gradient) > 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["study.json"]


@pytest.mark.thorough
def test_where_nothing_can_be_timed_the_work_goes_on(tiny, tmp_path, capsys, monkeypatch):
    def fails(cells, test, means):
        raise EvaluationFailed("cannot be timed")

    monkeypatch.setattr("robustkit.study.forecast.measure_throughput", fails)
    command._work(begin(tiny, tmp_path / "out"), 0, None, True)
    err = capsys.readouterr().err
    assert err.splitlines() == [
        "tiny: 4 cells known, 4 to run, 9 after selection; the time cannot be estimated"
    ]


def test_a_study_without_anything_missing_announces_nothing(ended, capsys):
    command._work(ended[0], None, None, True)
    assert capsys.readouterr().err == ""
