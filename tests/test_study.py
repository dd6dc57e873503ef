"""Studies: what is planned, chosen, worked out, and kept through interruptions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.studies import Here, Hurried, begin, changed, found

from robustkit import machine, record, spec
from robustkit.analysis.registration import registration
from robustkit.checkpoint import read_checkpoint
from robustkit.display.studies import StudyTable
from robustkit.errors import InputError, NetworkFailed, RecordError
from robustkit.study import work
from robustkit.study.findings import findings_of_store
from robustkit.study.run import in_words
from robustkit.study.store import StudyStore


@pytest.mark.thorough
def test_every_method_chooses_among_as_many_by_corrupted_held_out_labels(ended):
    run, plan, folder = ended
    assert len(plan.candidates) == 4
    for method in ("cross-entropy", "wide hinge"):
        tried = [c for c in plan.candidates if c.method == method]
        held_out = [run.store.cell(c.cell)["held_out"] for c in tried]
        best = max(range(2), key=lambda i: held_out[i])
        taken = {where: n for where, n in plan.chosen.items() if where.startswith(method)}
        assert set(taken.values()) == {best}
    record = json.loads((folder / "cells" / f"{plan.candidates[0].cell}.json").read_text())
    assert record["wrong_labels"] == round(0.4 * 100)
    seeds = {plan.cells[c.cell].seed for c in plan.candidates}
    assert seeds == {7}


def trained(run, key, held_out):
    """As if a cell had been trained, to a held-out accuracy."""
    run.store.keep("cell", key, {"status": "done", "reason": "", "held_out": held_out})


@pytest.mark.parametrize(("at", "leads"), [('["0.4"]', ("5.00", "2.00")), ("[]", ("1.00", "1.00"))])
def test_how_close_a_choice_was_is_told(small, tmp_path, at, leads):
    path = changed(small, tmp_path, 'at   = ["0.4"]', f"at = {at}")
    run = begin(path, tmp_path / "out")
    plan = run.plan()
    for one in plan.candidates:  # the first leads by 5 or 2 points, and without noise by 1
        lead = 0.05 if one.method == "cross-entropy" else 0.02
        best = 0.5 + (0.01 if one.context.label_noise == "0" else lead)
        score = best if one.configuration == 0 else 0.5
        trained(run, one.cell, score)
    run.store.keep_plan(run.plan())
    notes = found(path, tmp_path / "out").notes
    (note,) = (note for note in notes if "Smallest lead" in note)
    for method, lead in zip(("cross-entropy", "wide hinge"), leads, strict=True):
        assert f"{method} {lead}" in note


EVERY = ('seed = 7\nat   = ["0.4"]', "seed = 7\nevery_seed = true")


def held_out(cell):
    """Made up: seed 0 prefers the first configuration, the others the second; noise turns it."""
    first = (cell.seed == 0) != (cell.context.label_noise == "0.4")
    return 0.75 if (cell.configuration == 0) == first else 0.5


def test_every_seed_may_choose_for_itself(small, tmp_path):
    path = changed(small, tmp_path, *EVERY)
    run = begin(path, tmp_path / "out")
    plan = run.plan()
    tried = {(c.method, c.context.label_noise, c.seed) for c in plan.candidates}
    compared = {
        (m, n, s) for m in ("cross-entropy", "wide hinge") for n in ("0", "0.4") for s in (0, 1)
    }
    assert tried == {*compared, ("cross-entropy", "0", 7)}  # the surrogate chooses, too
    assert plan.later == {}  # the configuration taken is trained already
    for cell in plan.cells.values():
        trained(run, cell.key, held_out(cell))
    known = run.plan()
    assert set(known.cells) == set(plan.cells)
    for entry in known.wanted:
        cell = known.cells[entry.cell]
        assert cell.seed == entry.seed
        assert held_out(cell) == 0.75
    assert {
        known.cells[test.surrogate].seed for test in known.tests.values() if test.surrogate
    } == {7}
    run.store.keep_plan(known)
    notes = " ".join(found(path, tmp_path / "out").notes)
    assert "configuration is the best of 2 by held-out accuracy, selected by each seed" in notes
    assert "except for that of a surrogate" in notes
    assert "cross-entropy: learning rate 0.01 (2), learning rate 0.1 (2)" in notes
    assert "Smallest lead" not in notes
    assert known.chosen["cross-entropy | noise 0 | fraction 1 | seed 7"] in (0, 1)


def test_levels_at_which_a_seed_does_not_choose_follow_its_choice(small, tmp_path):
    path = changed(small, tmp_path, 'at   = ["0.4"]', 'at = ["0.4"]\nevery_seed = true')
    run = begin(path, tmp_path / "out")
    plan = run.plan()
    assert {(c.context.label_noise, c.seed) for c in plan.candidates} == {
        ("0.4", 0),
        ("0.4", 1),
        ("0.4", 7),
    }
    assert plan.later == {"cross-entropy": 3, "wide hinge": 2}  # at no noise, one a surrogate
    for cell in plan.cells.values():
        trained(run, cell.key, held_out(cell))
    known = run.plan()
    at_none = [w for w in known.wanted if w.level == "0"]
    chosen = {(w.seed, known.cells[w.cell].configuration) for w in at_none}
    assert chosen == {(0, 1), (1, 0)}


def test_a_surrogate_that_nobody_compares_is_chosen_by_trying(small, tmp_path):
    path = changed(small, tmp_path, EVERY[0], "seed = 7")
    other = changed(path, tmp_path, "epsilon", 'epsilon"\nlabel_noise = "0.2')
    plan = begin(other, tmp_path / "out").plan()
    noises = {c.context.label_noise for c in plan.candidates if c.method == "cross-entropy"}
    assert noises == {"0", "0.2", "0.4"}


@pytest.mark.thorough
def test_whole_seeds_are_done_when_time_runs_out(small, tmp_path):
    path = changed(small, tmp_path, *EVERY)
    executor = Hurried(tmp_path / "out", 10 + 4)  # a seed's 8 and the surrogate's 2; what is chosen
    run = begin(path, tmp_path / "out")
    plan = run.finish(executor)
    assert {plan.cells[key].seed for key in executor.trained} == {0, 7}
    for entry in plan.wanted:
        assert entry.seed == 0
        assert run.store.test(entry.test)["status"] == "done"
    assert {entry.analysis for entry in plan.wanted} == {"label-noise", "transfer"}
    assert run.store.wanted() == list(plan.wanted)
    begin(path, tmp_path / "out").finish(Here(tmp_path / "out"))
    assert {w.seed for w in run.store.wanted()} == {0, 1}


def test_what_waits_for_a_surrogate_is_not_counted_twice(small, tmp_path):
    path = changed(small, tmp_path, 'at   = ["0.4"]', 'at = ["0.4"]\nevery_seed = true')
    run = begin(path, tmp_path / "out")
    for cell in run.plan().cells.values():
        if cell.seed != 7:
            trained(run, cell.key, 0.5)
    assert run.plan().later == {"cross-entropy": 1}


@pytest.mark.thorough
def test_a_study_whose_seeds_choose_runs_and_goes_on(small, tmp_path):
    path = changed(small, tmp_path, *EVERY)
    first, rest = Here(tmp_path / "out", 9), Here(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        begin(path, tmp_path / "out").finish(first)
    run = begin(path, tmp_path / "out")
    plan = run.finish(rest)
    assert len(plan.cells) == len(first.trained) + len(rest.trained) == 2 * 9
    for entry in plan.wanted:
        cell = plan.cells[entry.cell]
        alike = [
            run.store.cell(c.cell)["held_out"]
            for c in plan.candidates
            if (c.method, c.context, c.seed) == (cell.method, cell.context, cell.seed)
        ]
        assert run.store.cell(entry.cell)["held_out"] == max(alike)
    (judged,) = (j for j in found(path, tmp_path / "out").judgements if j.name == "1")
    assert judged.verdict != "not tested"


@pytest.mark.thorough
def test_a_cell_is_worked_on_once_whoever_needs_it(ended, small):
    run, plan, folder = ended
    # 4 tried; 2 methods × 2 levels × 2 seeds; the surrogate, at no noise and the tuning's seed
    assert len(plan.cells) == 4 + 8 + 1
    assert not run.missing(plan)
    again = Here(folder)
    begin(small, folder).finish(again)
    assert again.done == []
    steps = {run.store.cell(key)["steps"] for key in plan.cells}
    assert steps == {4}


@pytest.mark.thorough
def test_methods_to_be_compared_share_images_and_flips(ended):
    run, plan, _ = ended

    noisy = [c for c in plan.cells.values() if c.context.label_noise == "0.4" and c.seed == 0]
    made = [read_checkpoint(run.store.checkpoint(c.key), model=c.asked["model"]) for c in noisy]
    data = [m.extra["training"]["data"] for m in made]
    assert len(data) == 2
    assert data[0] == data[1]


@pytest.fixture(scope="module")
def whole(ended, small):
    """What the study came to."""
    return found(small, ended[2])


@pytest.mark.thorough
@pytest.mark.parametrize(
    "stop", [1, 11, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (0, 5))]
)
def test_an_interrupted_study_goes_on_to_the_same_outcome(ended, whole, small, tmp_path, stop):
    first, rest = Here(tmp_path, stop), Here(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        begin(small, tmp_path).finish(first)
    begin(small, tmp_path).finish(rest)
    done = found(small, tmp_path)
    assert done.panels == whole.panels
    assert done.judgements == whole.judgements
    assert sorted(first.trained + rest.trained) == sorted(ended[1].cells)


def test_claims_are_fixed_before_the_first_cell(ended, small, tmp_path):
    _, _, folder = ended
    other = changed(small, tmp_path, "delta    = 1.0", "delta = 0.5")
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
    findings = findings_of_store(run.study, run.store, "")
    notes = " ".join(findings.notes)
    assert "amended after 13 cells were done" in notes
    stands, amendments = registration(findings).of(run.study.claims[0])
    assert (stands, [one.when for one in amendments]) == ("amended", ["after 13 trainings"])
    assert not registration(findings).newer("chance")  # on record since before the first cell
    assert "not preregistered: claim '1', delta: 1.0 became 0.5." in notes
    told = findings.provenance["Study"]
    assert told["claims fixed"] == "changed later, see the notes"
    assert told["digest"] == spec.load_study(str(other)).digest
    assert told["digest as first asked"] == spec.load_study(str(small)).digest
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


@pytest.mark.one_of_many(2)
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
def test_the_words_of_a_claim_are_fixed_with_the_first_cell(ended, small, tmp_path, old, new, told):
    copy, other = done(ended[2], tmp_path), changed(small, tmp_path, old, new)
    with pytest.raises(InputError) as caught:
        begin(other, copy)
    assert told in str(caught.value)
    assert "--amend" in str(caught.value)
    run = begin(other, copy, amend=True)
    (note,) = [
        n for n in findings_of_store(run.study, run.store, "").notes if "was amended after" in n
    ]
    assert told in note
    begin(other, copy)  # what was amended stands
    assert len(run.store.asked()["amendments"]) == 1
    begin(other, tmp_path / "new")  # and before the first cell words are free
    begin(small, tmp_path / "new")


def test_an_amendment_is_told_by_what_it_added_removed_and_changed(ended, small, tmp_path):
    copy = done(ended[2], tmp_path)
    text = small.read_text()
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
    other = tmp_path / small.name
    other.write_text(text)
    begin(other, copy, amend=True)
    note = findings_of_store(spec.load_study(str(other)), StudyStore(copy), "").notes[0]
    for told in (
        "claim '2' was removed",
        "claim '3' was added",
        "[train] batch_size: 16 became nothing",
        '[test] protocol: nothing became "clean"',
        """analysis 'transfer', levels: ["0.05", "0.1"] became ["0.1"]""",
    ):
        assert told in note


def test_what_an_amendment_asked_for_is_not_said_to_have_been_so_all_along(ended, small, tmp_path):
    copy = done(ended[2], tmp_path)
    path = changed(small, tmp_path, "seed = 7", "seed = 7\ntest_last = true")
    begin(path, copy, amend=True)
    notes = findings_of_store(spec.load_study(str(path)), StudyStore(copy), "").notes
    assert "test_last: nothing became true" in notes[0]
    assert not [note for note in notes if note.startswith("No test image")]
    began = begin(path, tmp_path / "anew")
    began.store.keep_plan(began.plan())
    notes = findings_of_store(spec.load_study(str(path)), began.store, "").notes
    assert [note for note in notes if note.startswith("No test image was evaluated before every")]


@pytest.mark.parametrize(
    ("old", "new", "named", "cells", "said"),
    [
        ("", "", "another", 3, False),
        ("", "", "another", 0, True),
        ("steps      = 4", "steps      = 5", "the same", 3, False),
        ("delta    = 1.0", "delta    = 0.5", "the same", 3, True),
        ('reason   = "a test"', 'reason   = "it fits"', "the same", 3, True),
        ("delta    = 1.0", "delta    = 0.5", "another", 3, False),
    ],
)
def test_what_was_selected_before_test_images_is_not_said_after_what_selects_was_amended(
    small, tmp_path, old, new, named, cells, said
):
    """A file that the study names may be edited while the study's digest stays."""
    first = changed(small, tmp_path, "seed = 7", "seed = 7\ntest_last = true")
    run = begin(first, tmp_path / "out")
    run.store.keep_plan(run.plan())
    asked = run.store.asked()
    study = spec.load_study(str(changed(first, tmp_path, old, new)))
    files = asked["user_files"] | ({"net.py": "b" * 64} if named == "another" else {})
    asked["user_files"]["net.py"] = "a" * 64
    files.setdefault("net.py", "a" * 64)
    amended = {"digest": study.digest, "file": study.text, "user_files": files, "changes": {}}
    run.store.keep_asked(asked | {"amendments": [amended | {"cells_done": cells}]})
    notes = findings_of_store(study, run.store, "").notes
    assert f"was amended after {cells} cells" in notes[0]
    assert any(note.startswith("No test image was evaluated") for note in notes) == said


def test_another_revision_of_attacks_or_training_is_worked_out_anew(ended, monkeypatch):
    run, plan, _ = ended
    before = {key: test.protocol for key, test in plan.tests.items()}
    assert set(run.plan().tests) == set(before)
    monkeypatch.setattr("robustkit.study.cells.ATTACKS", 10**6)
    after = run.plan()
    assert {p for key, p in before.items() if key in after.tests} == {"clean"}
    assert set(after.cells) == set(plan.cells)
    monkeypatch.setattr("robustkit.study.configuration.TRAINING", 10**6)
    assert not set(run.plan().cells) & set(plan.cells)


@pytest.mark.thorough
def test_results_say_on_which_data_and_machine_they_were_made(finished, monkeypatch):
    run, _, _ = finished
    told = findings_of_store(run.study, run.store, "").provenance
    train, test = (work.load_cached("mnist5k", split, None, None) for split in ("train", "test"))
    few = work.load_cached("mnist5k", "test", 60, None)
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

    original = {"cell": StudyStore.cell, "test": StudyStore.test}
    for kind in original:
        monkeypatch.setattr(StudyStore, kind, older(kind))
    old = findings_of_store(run.study, run.store, "").provenance
    assert old["Cells"]["processors"] == "unknown"
    assert old["Data"]["mnist5k, train"] == f"digest {train.digest}"
    assert old["Data"]["mnist5k, test"] == told["Data"]["mnist5k, test"]  # as the rows say


def test_a_data_set_that_is_named_by_its_path_is_listed_once(ended):
    run, _, _ = ended
    told = findings_of_store(run.study, run.store, "").provenance["Data"]
    assert list(told) == ["digits, train", "mnist5k, test"]
    assert told["digits, train"].startswith("200 images, digest ")


def test_the_table_of_trainings_has_accuracies_on_the_same_images_whatever_was_planned_first(
    ended, tmp_path
):
    run, plan, folder = ended
    copy = done(folder, tmp_path)
    store = StudyStore(copy)
    store.keep_plan(replace(plan, wanted=plan.wanted[::-1]))
    # those by transfer are on 20 images, the others on 60
    whole = {one.cell: one.key for one in plan.tests.values() if one.limit == 60}
    assert {one.limit for one in plan.tests.values()} == {20, 60}
    for row in findings_of_store(run.study, store, "").cells:
        assert row.clean == (store.test(whole[row.key])["clean"] if row.key in whole else None)


def test_words_for_readers_may_change_and_a_rebuilt_report_has_the_new_ones(ended, small, tmp_path):
    _, _, folder = ended
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "study.json").write_bytes((folder / "study.json").read_bytes())
    written = small.read_text().replace("question = ", 'notes = ["Read this."]\nquestion = ')
    renamed = tmp_path / "another-name.toml"
    renamed.write_text(written)
    asked = begin(renamed, copy).store.asked()
    assert asked["name"] == "another-name"
    assert asked["file"] == written
    assert asked["amendments"] == []


@pytest.mark.thorough
def test_a_failed_cell_is_no_number(small, tmp_path):
    path = changed(small, tmp_path, "{ learning_rate = 0.1 }]", "{ learning_rate = 0.1 }]")
    run = begin(path, tmp_path / "out")
    executor = Here(tmp_path / "out")
    original = work._train

    def breaks(cell, store, means):
        if cell.method == "wide hinge" and cell.seed == 1:
            raise ValueError("the loss became NaN or infinite")
        return original(cell, store, means)

    work._train = breaks
    try:
        run.finish(executor)
    finally:
        work._train = original
    result = found(path, tmp_path / "out")
    failed = [cell for cell in result.cells if cell.status == "failed"]
    assert {(c.method, c.seed) for c in failed} == {("wide hinge", 1)}
    assert all("became NaN or infinite" in c.reason and c.clean is None for c in failed)
    line = next(line for line in result.panels[0].lines if line.method == "wide hinge")
    assert all(value.seeds == (0,) for value in line.values)
    assert any("2 trainings failed" in note for note in result.notes)
    retry = Here(tmp_path / "out")
    begin(path, tmp_path / "out", retry=True).finish(retry)
    assert len(retry.done) == 2
    assert not any(c.status == "failed" for c in found(path, tmp_path / "out").cells)


@pytest.mark.thorough
def test_whoever_watches_a_study_is_told_of_each_cell_once(small, tmp_path, monkeypatch, capsys):
    run = begin(small, tmp_path / "out")
    train, evaluate = work._train, work._evaluate

    def breaks(cell, store, means):
        if cell.method == "wide hinge" and cell.seed == 1:
            raise ValueError("the loss became NaN or infinite")
        return train(cell, store, means)

    def refuses(test, cell, store, config):
        if store.cell(test.cell)["wrong_labels"] and test.protocol == "clean":
            raise InputError("no such image")
        return evaluate(test, cell, store, config)

    monkeypatch.setattr(work, "_train", breaks)
    monkeypatch.setattr(work, "_evaluate", refuses)
    executor, told = Here(tmp_path / "out"), []
    screen = StudyTable("tiny")

    def watch(state):
        told.append(state)
        screen.progress(state)

    plan = run.finish(executor, watch)
    ended = [state.ended for state in told if state.ended]
    assert [one.cell for one in ended] == [in_words(job.cell) for job in executor.done]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(executor.done)
    for line, one, job in zip(lines, ended, executor.done, strict=True):
        assert one.cell in line
        broken = (job.cell.method, job.cell.seed) == ("wide hinge", 1)
        refused = job.cell.context.label_noise == "0.4" and job.cell.seed != 7 and not broken
        assert ("became NaN or infinite" in one.reason) == broken
        assert ("evaluation by clean: no such image" in one.reason) == refused
        assert bool(one.reason) == (broken or refused)
        assert one.reason in line
        assert ("failed: " in line) == (broken or refused)
    # at every moment each cell is in one place, those included that follow a choice
    assert {state.total for state in told} == {len(plan.cells)}
    assert all(len(s.running) == sum(t.running for t in s.counts) for s in told)
    begun = [state for state in told if state.running]
    assert begun[0].running[0].cell == in_words(executor.done[0].cell)
    last = {count.method: count for count in told[-1].counts}
    assert last["cross-entropy"][1:] == (5, 0, 2, 0)
    assert last["wide hinge"][1:] == (3, 0, 3, 0)
    resumed = []
    begin(small, tmp_path / "out").finish(Here(tmp_path / "out"), resumed.append)
    assert resumed == []


def test_the_outcome_is_the_arithmetic_of_its_rows(ended, whole):
    run, plan, folder = ended
    result = whole
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


def test_a_line_has_a_band_an_area_and_under_attack_a_median(ended, whole):
    run, plan, folder = ended
    noise, transfer = whole.panels[:2]
    for line in (*noise.lines, *transfer.lines):
        for value in line.values:
            assert value.band.value == pytest.approx(value.estimate.value)
            assert value.band.low <= value.estimate.low
            assert value.estimate.high <= value.band.high
            assert "simultaneous 95 % band" in value.band.method
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


def test_only_what_is_asked_for_is_in_the_folder(ended, whole, small):
    assert whole == found(small, ended[2])
    other = replace(spec.load_study(str(small)), baseline="wide hinge")
    with pytest.raises(RecordError, match="contains another study"):
        findings_of_store(other, StudyStore(ended[2]), "")


@pytest.mark.parametrize("error", [SystemExit(0), KeyError("x\ny"), NetworkFailed("it\nbroke")])
def test_whatever_ends_a_job_of_a_worker_is_kept_in_one_line(tmp_path, error):
    def broken():
        raise error

    store = StudyStore(tmp_path)
    result = work._guarded(store, "cell", "k", broken)
    assert result["status"] == "failed"
    assert "\n" not in result["reason"]
    assert store.cell("k")["reason"] == result["reason"]
    if not isinstance(error, NetworkFailed):
        assert result["reason"].startswith(type(error).__name__)
        assert "Traceback" in (tmp_path / "cells" / "k.log").read_text()


def test_what_failed_is_named_by_its_place_in_the_study(tmp_path):
    store = StudyStore(tmp_path / "work")

    def broken():
        raise InputError(f"{store.checkpoint('k')}: the loss became NaN")

    reason = work._guarded(store, "cell", "k", broken)["reason"]
    assert reason == "checkpoints/k.safetensors: the loss became NaN"


COST = """[[analysis]]
name   = "cost"
factor = "cost"

[[claim]]
name     = "1"
"""


@pytest.mark.thorough
def test_times_of_what_was_amended_are_not_judged(small, tmp_path, monkeypatch):
    """An amendment may be cut off before its steps are timed, and its folder reported on."""
    monkeypatch.setattr(
        "robustkit.study.run.time_steps", lambda cells, *_: {cell.method: [1.0] for cell in cells}
    )
    folder, nothing = tmp_path / "out", Hurried(tmp_path / "out", 0)
    path = changed(small, tmp_path, '[[claim]]\nname     = "1"\n', COST)

    def times(path):
        return findings_of_store(spec.load_study(str(path)), StudyStore(folder), "").times

    begin(path, folder).finish(nothing)
    assert times(path) == {"cost": {"cross-entropy": [1.0], "wide hinge": [1.0]}}
    begin(path, folder)
    assert times(path), "what is still asked stays"
    other = changed(path, tmp_path, "margin = 1.0", "margin = 1.5")
    with pytest.raises(InputError, match="--amend"):
        begin(other, folder)
    assert StudyStore(folder).cost("cost"), "what is refused changes nothing"
    run = begin(other, folder, amend=True)
    assert times(other) == {}
    run.finish(nothing)
    assert times(other) == {"cost": {"cross-entropy": [1.0], "wide hinge": [1.0]}}
