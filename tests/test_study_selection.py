"""How a study chooses: by which score, dropping what on the way, and what that cost."""

import json
import shutil
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from helpers.studies import Apart, Here, begin, changed, found
from matplotlib.figure import Figure

from robustkit import reporting, spec
from robustkit.analysis.evidence import collect
from robustkit.analysis.judge import judge_study
from robustkit.data import load_dataset
from robustkit.errors import InputError
from robustkit.reporting.illustrations import illustrations
from robustkit.spec import Halving
from robustkit.study.cells import place
from robustkit.study.findings import findings_of_store
from robustkit.study.forecast import forecast
from robustkit.study.regret import regrets
from robustkit.study.selection import (
    Candidate,
    Chooser,
    Context,
    Scores,
    best_pass,
    score_at,
    select,
)
from robustkit.study.throughput import Throughput

THERE = Context("0.8", "1")


# --- what is decided, by made-up scores -----------------------------------------------------------


def tried(configurations, context=THERE):
    return [Candidate("m", context, i, f"{context.label_noise}-{i}") for i in range(configurations)]


def known(*values, context=THERE):
    return {f"{context.label_noise}-{i}": v for i, v in enumerate(values) if v is not None}


def test_configurations_are_dropped_rung_by_rung():
    rungs = (Halving(0.2, 0.5), Halving(0.6, 0.5))
    who = Chooser("m", THERE, 0)
    first = select(tried(5), Scores(rungs=(known(1, 5, 3), {})), halving=rungs)
    assert first.end == {who: None}
    assert set(first.rungs.values()) == {0}  # all wait for the two that are not there yet
    assert not first.dropped
    # 3 of 5 go on for 0.4, and 2 of 3 to the end
    after = 3 / 5 * (0.4 + 2 / 3 * 0.4)
    assert [first.shares[f"0.8-{i}"] for i in (0, 4)] == pytest.approx([after, 0.2 + after])
    rung = known(1, 5, 3, 3, -inf)
    second = select(tried(5), Scores(rungs=(rung, known(None, 2))), halving=rungs)
    assert second.dropped == {"0.8-0": (0, 1), "0.8-4": (0, None)}
    assert second.rungs == {"0.8-1": 1, "0.8-2": 1, "0.8-3": 1}
    last = select(tried(5), Scores(rungs=(rung, known(None, 2, 4, 3))), halving=rungs)
    assert last.dropped == second.dropped | {"0.8-1": (1, 2)}
    assert not last.rungs
    assert last.shares == pytest.approx({"0.8-2": 0.4, "0.8-3": 0.4})
    end = known(None, None, 7, 6)
    done = select(
        tried(5), Scores(end, known(None, None, 1, 2), (rung, known(None, 2, 4, 3))), halving=rungs
    )
    assert done.end[who] == (2, 1)
    assert done.best[who] == (3, 1)


def test_of_equals_the_first_goes_on_and_levels_may_decide_together():
    other = Context("0.4", "1")
    both = [*tried(2), *tried(2, other)]
    rungs = (known(1, 2) | known(2, 1, context=other),)
    made = select(both, Scores(rungs=rungs), together=True, halving=[Halving(0.5, 0.5)])
    assert set(made.dropped) == {"0.8-1", "0.4-1"}
    alone = select(both, Scores(rungs=rungs), halving=[Halving(0.5, 0.5)])
    assert set(alone.dropped) == {"0.8-0", "0.4-1"}


def test_scores_are_of_the_passes_up_to_one():
    lines = [
        {"step": s, "held_out": a, "log_likelihood": b}
        for s, a, b in [(2, 0.5, -3.0), (4, 0.1, -1.0), (6, 0.2, -2.0), (8, 0.3, -2.0)]
    ]
    history = [lines[0], {"step": 3}, *lines[1:]]  # one line within a pass
    made = {"status": "done", "history": history, "snapshots": {"1": {}, "2": {}, "4": {}}}
    three, calibrated = "mean accuracy of three passes", "calibrated log-likelihood"
    assert score_at(made, "accuracy") == 0.3
    assert score_at(made, "accuracy", 2) == 0.1
    assert score_at(made, three) == pytest.approx(0.2)
    assert score_at(made, three, 2) == pytest.approx(0.3)
    assert score_at(made, calibrated, 2) == -1.0
    assert [best_pass(made, s) for s in ("accuracy", three, calibrated)] == ["1", "1", "2"]
    assert score_at({"status": "failed"}, calibrated) == -inf


# --- a study that halves --------------------------------------------------------------------------

TUNING = """[tuning]
every_seed = true
score      = "calibrated log-likelihood"
test_last  = true
halving    = { after = 0.25, keep = 0.5 }
"""
CHOOSE = """choose = [
    { learning_rate = 0.01 }, { learning_rate = 0.1 }, { learning_rate = 1e-4 }
]"""
HINGE = CHOOSE.replace("0.01", "0.02")


@pytest.fixture(scope="module")
def halving(tiny):
    """A study of 80 digits with four passes of two updates and three configurations, of which every
    seed chooses its own."""
    whole = load_dataset("mnist5k", split="train")
    spread = np.arange(0, 4000, 25)
    images, labels = whole.images(0, 4000)[spread], whole.labels[spread]
    data = tiny.parent / "digits.npz"
    parts = {"x_train": images[:120], "y_train": labels[:120]}
    np.savez(data, x_test=images[120:], y_test=labels[120:], **parts)
    text = tiny.read_text().replace('"mnist5k"', f'"{data}"').replace("limit = 60", "")
    text = text.replace("batch_size = 16", "batch_size = 40\nsnapshots = [1, 2, 4]")
    text = text.replace('hold_out   = "100"', 'hold_out = "40"').replace(
        "steps      = 4", "steps = 8"
    )
    text = text.replace('[tuning]\nseed = 7\nat   = ["0.4"]\n', TUNING)
    lines = [line for line in text.splitlines() if line.startswith("choose")]
    text = text.replace(lines[0], CHOOSE).replace(lines[1], HINGE)
    text = text.replace('levels = ["0", "0.4"]', 'levels = ["0.4"]')
    before, _, after = text.partition('[[analysis]]\nname      = "transfer"')
    path = tiny.parent / "halving.toml"
    path.write_text(before + STOPPED + after[after.index("[[claim]]") :])
    return path


STOPPED = """[[analysis]]
name   = "stopped"
factor = "label_noise"
levels = ["0.4"]
passes = "chosen"

[[analysis]]
name        = "passes"
factor      = "passes"
levels      = ["1", "2", "4"]
label_noise = "0.4"

"""


@pytest.fixture(scope="module")
def worked_out(halving, tmp_path_factory):
    """Its run, its plan and its folder, and those of the study that drops nothing."""
    made = {}
    for name, path in {"halved": halving, "whole": without(halving)}.items():
        folder = tmp_path_factory.mktemp(name)
        run, executor = begin(path, folder), Here(folder)
        made[name] = run, run.finish(executor), folder, executor
    return made


def without(halving):
    path = halving.with_name("whole.toml")
    path.write_text(halving.read_text().replace("halving ", "# halving "))
    return path


@pytest.mark.thorough
def test_what_is_dropped_and_chosen_follows_from_the_scores(worked_out):
    run, plan, _, _ = worked_out["halved"]
    whole, everything, _, _ = worked_out["whole"]
    assert set(plan.cells) == set(everything.cells)
    assert not everything.dropped
    for method in ("cross-entropy", "wide hinge"):
        for seed in (0, 1):
            cells = {
                c.configuration: c.cell
                for c in plan.candidates
                if (c.method, c.seed) == (method, seed)
            }
            lines = {i: whole.store.cell(key)["history"] for i, key in cells.items()}
            first = {i: history[0]["log_likelihood"] for i, history in lines.items()}
            worst = min(first, key=lambda i: first[i])
            assert {cells[worst]: {"pass": 1, "score": first[worst]}} == {
                key: one for key, one in plan.dropped.items() if key in cells.values()
            }
            last = {i: lines[i][-1]["log_likelihood"] for i in cells if i != worst}
            (taken,) = {
                plan.cells[w.cell].configuration
                for w in plan.wanted
                if (w.method, w.seed, w.analysis) == (method, seed, "label-noise")
            }
            assert taken == max(last, key=lambda i: last[i])
            # configuration and pass are chosen together, by the same score
            (stopped,) = [
                w
                for w in plan.wanted
                if (w.method, w.seed, w.analysis) == (method, seed, "stopped")
            ]
            best = {(lines[i][n - 1]["log_likelihood"], i, n) for i in last for n in (1, 2, 4)}
            _, number, at = max(best)
            assert stopped.cell == cells[number]
            assert run.store.test(stopped.test)["passes"] == str(at)


@pytest.mark.thorough
def test_a_training_that_waited_ends_with_the_bytes_of_one_that_did_not(worked_out):
    run, plan, folder, executor = worked_out["halved"]
    _, _, other, _ = worked_out["whole"]
    ended = [key for key in plan.cells if key not in plan.dropped]
    assert len(ended) == 8
    for key in ended:
        names = [f"{key}.safetensors", *(f"{key}-pass{n}.safetensors" for n in (1, 2, 4))]
        for name in names:
            one, two = (f / "checkpoints" / name for f in (folder, other))
            assert one.read_bytes() == two.read_bytes()
    for key in plan.dropped:
        assert not (folder / "checkpoints" / f"{key}.safetensors").exists()
        assert run.store.rung(f"{key}-pass1")["status"] == "done"
    pauses = [job for job in executor.done if job.pause]
    assert len(pauses) == 12
    assert not run.missing(run.plan())


@pytest.mark.thorough
def test_an_interrupted_study_goes_on_elsewhere_and_tests_come_last(halving, worked_out, tmp_path):
    """Paused trainings are taken up by workers that see the folder through a URL alone."""
    out = tmp_path / "out"
    run, executor = begin(halving, out), Here(out, 8)
    with pytest.raises(KeyboardInterrupt):
        run.finish(executor)
    assert not list((out / "tests").glob("*"))
    run, jobs = begin(halving, out), [*executor.done]
    apart = Apart(run, (tmp_path / "elsewhere").as_uri())
    execute = apart.execute
    apart.execute = lambda *given: (jobs.append(job) or job for job in execute(*given))
    run.finish(apart)
    last = max(i for i, job in enumerate(jobs) if not job.tests)
    assert not any(job.tests for job in jobs[: last + 1])
    assert any(job.rungs and not job.pause for job in jobs[8:])
    assert found(halving, out) == found(halving, worked_out["halved"][2])


@pytest.mark.thorough
@pytest.mark.parametrize("left_out", ["checkpoints", "*-pass2.safetensors"])
def test_a_study_by_seed_goes_on_elsewhere_without_the_networks_of_seeds_that_are_done(
    halving, worked_out, tmp_path, left_out
):
    """What is published of a study under way: everything but the networks, or some of them."""
    path = halving.with_name("by-seed.toml")
    text = without(halving).read_text().replace("test_last  = true", 'test_last = "by seed"')
    path.write_text(text)
    run, executor = begin(path, tmp_path / "here"), Here(tmp_path / "here", 11)
    with pytest.raises(KeyboardInterrupt):
        run.finish(executor)
    plan = run.plan()
    tested = {plan.cells[t.cell].seed for t in plan.tests.values() if run.store.test(t.key)}
    assert tested == {0}  # and of the other not all is trained
    untrained = {cell.seed for key, cell in plan.cells.items() if not run.store.cell(key)}
    assert 1 in untrained - tested
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "here", elsewhere, ignore=shutil.ignore_patterns(left_out))
    begin(path, elsewhere).finish(Here(elsewhere))
    outcome = found(path, elsewhere)
    assert "every configuration and pass of its seed" in " ".join(outcome.notes)
    whole = found(without(halving), worked_out["whole"][2])
    assert outcome.histories == whole.histories
    assert accuracies(outcome) == accuracies(whole)


def accuracies(outcome):
    return [
        (panel.name, line.method, value.level, value.seeds, value.each)
        for panel in outcome.panels
        for line in panel.lines
        for value in line.values
    ]


def test_only_seeds_that_choose_by_themselves_can_be_tested_one_by_one(halving):
    text = halving.read_text().replace("test_last  = true", 'test_last = "by seed"')
    text = text.replace("every_seed = true", "seed = 9").replace("halving ", "# halving ")
    path = halving.with_name("together.toml")
    path.write_text(text)
    with pytest.raises(InputError, match='"by seed": one choice holds for all seeds'):
        spec.load_study(str(path))


@pytest.mark.thorough
def test_the_report_says_what_was_dropped_and_by_which_score(worked_out, halving):
    outcome = found(halving, worked_out["halved"][2])
    notes = " ".join(outcome.notes)
    assert "is the best of 3 by the log-likelihood of held-out labels after a temperature" in notes
    assert "Successive halving: after 25 % of the updates the best 50 %" in notes
    assert "4 trainings were dropped, after pass 1" in notes
    assert "No test image was evaluated before every configuration and pass" in notes
    assert "Unfinished" not in notes
    dropped = [cell for cell in outcome.cells if cell.status == "dropped"]
    assert len(dropped) == 4
    for cell in dropped:
        score = worked_out["halved"][1].dropped[cell.key]["score"]
        said = f"{score:.5g}".replace("-", "−")
        assert f"dropped after pass 1 with a score of {said}: learning rate" in cell.reason
    kept = json.loads((worked_out["halved"][2] / "plan.json").read_text())["dropped"]
    assert set(kept) == {cell.key for cell in dropped}


def test_a_forecast_counts_what_is_dropped(halving, tmp_path):
    def seconds(path, name):
        run = begin(path, tmp_path / name)
        throughput = Throughput(0, {"cross-entropy": 1.0, "wide hinge": 1.0}, 0, 0, 0, 0)
        return [row.seconds for row in forecast(run, run.plan(), throughput).rows]

    assert seconds(without(halving), "whole") == [3 * 2 * 8] * 2
    # of three, one stops after two of eight updates
    assert seconds(halving, "halved") == pytest.approx([2 * (2 * 8 + 2)] * 2)


@pytest.mark.thorough
def test_a_study_that_says_nothing_of_scores_is_the_study_that_it_was(tiny, halving, tmp_path):
    study = spec.load_study(str(tiny))
    plain = changed(
        tiny, tmp_path, 'at   = ["0.4"]', 'at   = ["0.4"]\nscore = "accuracy"\nhalving = []'
    )
    assert spec.load_study(str(plain)).digest == study.digest
    assert "score" not in next(iter(begin(plain, tmp_path / "out").plan().cells.values())).asked
    others = {spec.load_study(str(path)).digest for path in (halving, without(halving))}
    assert len(others) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "after = 0.25",
            "after = 1.0",
            "halving after 1, keep 0.5: must be shares between 0 and 1",
        ),
        ("keep = 0.5", "keep = 0", "must be shares between 0 and 1"),
        ("after = 0.25,", "afterwards = 0.25,", "unknown key 'afterwards'"),
        ("halving    = {", "halving = 0.5 # {", "halving: expected a list, got 0.5"),
        ("log-likelihood", "likelihood", "score: unknown value 'calibrated likelihood'"),
        ('hold_out = "40"', 'hold_out = "0"', "without held-out images"),
        ("[1, 2, 4]", "[1]", "there is no whole pass"),
    ],
)
def test_a_selection_that_makes_no_sense_is_told_in_one_line(halving, tmp_path, old, new, message):
    path = changed(halving, tmp_path, old, new)
    if new == "[1]":
        text = path.read_text().replace('["1", "2", "4"]', '["1"]')
        path.write_text(text.replace("steps = 8", "steps = 2"))
    with pytest.raises(InputError) as caught:
        begin(path, tmp_path / "out").plan()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_cell_that_waits_is_not_done(halving, tmp_path):
    states = []
    with pytest.raises(KeyboardInterrupt):
        begin(halving, tmp_path).finish(Here(tmp_path, 2), states.append)
    assert [state.done for state in states if state.ended] == [0, 0]


@pytest.mark.thorough
def test_the_regret_is_what_noisy_labels_lost_by_the_clean_ones(worked_out, halving):
    run, plan, folder, _ = worked_out["halved"]
    outcome = found(halving, folder)
    assert {(r.method, r.kind, r.seeds) for r in outcome.regrets} == {
        (m, k, (0, 1)) for m in ("cross-entropy", "wide hinge") for k in ("end", "stopped")
    }
    for regret in outcome.regrets:
        for seed, value in zip(regret.seeds, regret.each, strict=True):
            tried = [c for c in plan.candidates if (c.method, c.seed) == (regret.method, seed)]
            cells = {c.cell: run.store.cell(c.cell) for c in tried if c.cell not in plan.dropped}
            name = "label-noise" if regret.kind == "end" else "stopped"
            (taken,) = [
                w
                for w in plan.wanted
                if (w.method, w.seed, w.analysis) == (regret.method, seed, name)
            ]
            if regret.kind == "end":
                clean = {(key, ""): cell["held_out_clean"] for key, cell in cells.items()}
            else:
                clean = {
                    (key, at): made["held_out_clean"]
                    for key, cell in cells.items()
                    for at, made in cell["snapshots"].items()
                }
            at = "" if regret.kind == "end" else run.store.test(taken.test)["passes"]
            assert value == pytest.approx(max(clean.values()) - clean[taken.cell, at])
        if len(set(regret.each)) > 1:
            assert regret.estimate.value == pytest.approx(np.mean(regret.each))
        else:
            assert regret.estimate is None, "nothing varies, of which an interval could tell"
    assert any(value > 0 for regret in outcome.regrets for value in regret.each)


@pytest.mark.parametrize(
    ("failed", "chosen", "regret"),
    [
        (set(), 0, 0.1),  # means of 0.6, 0.7 and 0.5
        ({(1, "0.8")}, 0, 0.0),  # its accuracy at the other level is the best of all
        ({(1, "0.8")}, 2, 0.1),
        ({(0, "0.8"), (1, "0"), (2, "0.8")}, 0, None),
        ({(i, level) for i in range(3) for level in ("0", "0.8")}, 0, None),
    ],
)
def test_what_failed_at_one_of_several_levels_is_no_best_configuration(
    tiny, failed, chosen, regret
):
    accuracies = {"0": (0.8, 0.9, 0.6), "0.8": (0.4, 0.5, 0.4)}
    study = spec.load_study(str(tiny))
    study = replace(study, tuning=replace(study.tuning, at=tuple(accuracies)))
    ones = [one for level in accuracies for one in tried(3, Context(level, "1"))]
    cells = {
        one.cell: {"status": "failed", "reason": "NaN"}
        if (one.configuration, one.context.label_noise) in failed
        else {
            "status": "done",
            "held_out_clean": accuracies[one.context.label_noise][one.configuration],
        }
        for one in ones
    }
    plan = {"chosen": {place("m", one.context): chosen for one in ones}}
    found = [
        pytest.approx(value) for one in regrets(study, plan, ones, cells) for value in one.each
    ]
    assert found == ([] if regret is None else [regret])


@pytest.mark.thorough
def test_what_a_selection_came_to_is_rebuilt_from_the_evidence_and_shown(
    worked_out, halving, tmp_path
):
    run, _, folder, _ = worked_out["halved"]
    study = spec.load_study(str(halving))
    kept = collect(study, findings_of_store(study, run.store, "robustkit report tiny"))
    outcome = judge_study(kept.study, kept.findings)
    assert outcome == found(halving, folder)
    reporting.write(replace(outcome, figures=()), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "8 done, 0 failed, 0 missing, 4 dropped on their way" in page
    assert page.count("at the selected pass</td>") == 2
    assert "An upper estimate: the best is chosen and measured on the same images" in page
    numbers = (tmp_path / "numbers.csv").read_text().splitlines()
    assert sum(line.startswith("regret,") for line in numbers) == 12
    (drawn,) = [f.curves for f in illustrations(outcome).panels if f.curves.name == "passes"]
    figure = Figure()
    drawn.draw(figure.add_subplot())
    above, below = figure.axes
    assert above.get_xlim() == below.get_xlim()
    for line, history in zip(below.lines, outcome.histories, strict=True):
        assert history.passes == (1, 2, 3, 4)
        assert list(line.get_ydata()) == list(history.memorised)
        assert [e.value for e in history.band] == pytest.approx(list(history.memorised))
    assert "repeated during each pass" in drawn.caption
