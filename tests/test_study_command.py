"""The command `robustkit report`."""

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
from hashlib import sha256
from html import unescape
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.studies import EXTERNAL, begin, external_study

from robustkit import spec
from robustkit.analysis.evidence import collect
from robustkit.analysis.judge import judge_study
from robustkit.study.findings import _histories, findings_of_store
from robustkit.study.store import StudyStore
from robustkit.study.throughput import Throughput


@pytest.mark.slow
def test_a_study_killed_at_random_moments_ends_in_the_same_report(tiny, tmp_path):
    asked = [sys.executable, "-m", "robustkit", "report", str(tiny), "--device", "cpu"]
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


def test_the_command_plans_works_and_writes(small, tmp_path, robustkit, monkeypatch):
    pytest.importorskip("seaborn")
    # as in a script without a guard, which workers must not run again
    script = ModuleType("__main__")
    script.__file__ = str(tmp_path / "script.py")
    Path(script.__file__).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setitem(sys.modules, "__main__", script)
    planned = robustkit("report", str(small), "--plan", "--out", str(tmp_path / "a"))
    assert planned[0] == 0
    assert "4 to run, 9 after selection, 12 evaluations; about" in planned[1]
    for line in ("cross-entropy", "wide hinge"):
        assert re.search(rf"{line} +│ +2 │ +[45] │ +[\d.]+ │ +\d+ (s|min) │", planned[1])
    assert re.search(r"evaluations +│ +0 │ +12 │", planned[1])
    assert not (tmp_path / "a" / "report.html").exists()
    (tmp_path / "taken").write_text("")
    taken = robustkit("report", str(small), "--out", str(tmp_path / "taken"))
    assert taken[0] == 2
    assert "is a file; give the name of a folder" in taken[2]
    for hours in ("-1", "nan", "inf"):
        refused = robustkit("report", str(small), f"--hours={hours}", "--out", str(tmp_path / "b"))
        assert refused[0] == 2
        assert f"--hours {hours}: expected a number of hours" in refused[2]
        assert len(refused[2].splitlines()) == 1
    unknown = robustkit("report", "elsayed2018-minst", "--plan")
    assert unknown[0] == 2
    assert "did you mean" in unknown[2]
    assert not (tmp_path / "ran").exists()


def contents(folder):
    """Every file of a report, by its name."""
    found = (p for p in folder.rglob("*") if p.is_file() and "work" not in p.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.thorough
def test_a_report_is_rebuilt_from_its_evidence_alone(ended, tmp_path, robustkit):
    pytest.importorskip("seaborn")
    shutil.copytree(ended[2], tmp_path / "out" / "work")
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
    assert "contains neither work/ nor evidence.parquet" in told


@pytest.mark.thorough
def test_an_evaluation_that_failed_ends_a_report_with_status_3_also_from_its_evidence(
    ended, tmp_path, robustkit
):
    """Its network is trained, so that no cell has failed."""
    shutil.copytree(ended[2], tmp_path / "out" / "work")
    store = StudyStore(tmp_path / "out" / "work")
    key = store.wanted()[0].test
    store.keep("test", key, {"status": "failed", "reason": "the network returned NaN"})
    told = robustkit("report", "tiny", "--only-report", "--out", "out")
    assert told[:2] == (3, "report: out/report.html\n")
    shutil.rmtree(tmp_path / "out" / "work")
    assert robustkit("report", "tiny", "--only-report", "--out", "out")[0] == 3


def test_a_surrogate_that_could_not_be_trained_leaves_nothing_to_wait_for(ended, tmp_path):
    run, plan, folder = ended
    shutil.copytree(folder, tmp_path / "work")
    store = StudyStore(tmp_path / "work")
    tests = [test for test in plan.tests.values() if test.surrogate]
    for test in tests:
        store.forget("test", test.key)
    study = replace(run.study, claims=(replace(run.study.claims[0], analysis="transfer"),))

    def told():
        outcome = judge_study(study, findings_of_store(study, store, ""))
        (judged,) = outcome.judgements
        return judged.lacking, outcome.panels[1].notes

    store.keep_asked(store.asked() | {"digest": study.digest})
    lacking, notes = told()
    assert lacking == "interim: 0 of 2 planned seeds"
    assert "cross-entropy, seed 0: not yet evaluated." in notes
    broken = {"status": "failed", "reason": "the loss became NaN or infinite"}
    store.keep("cell", tests[0].surrogate, broken)
    lacking, notes = told()
    assert lacking == "0 of 2 planned seeds; 2 failed"
    said = "the surrogate's training failed: the loss became NaN or infinite."
    assert f"cross-entropy, seed 0: {said}" in notes


def test_what_a_report_of_cached_results_would_ignore_is_refused(ended, tmp_path, robustkit):
    shutil.copytree(ended[2], tmp_path / "out" / "work")
    for options in (
        ("--plan",),
        ("--retry",),
        ("--amend",),
        ("--hours", "1"),
        ("--ray", "auto"),
        ("--baseline", "l2"),
        ("--limit", "7"),
        ("--data", "nowhere"),
        ("--checkpoints", "{loss}.pt"),
        ("--model", "lenet5"),
    ):
        status, _, told = robustkit("report", "tiny", "--only-report", "--out", "out", *options)
        assert status == 2
        assert f"{options[0]} does not go with --only-report: " in told
        assert len(told.splitlines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["work"]
    (tmp_path / "own.toml").write_text(
        EXTERNAL.replace('pattern = "PATTERN"\nmodel   = "NET"', 'runs = "runs"')
    )
    status, _, told = robustkit("report", "own.toml", "--out", "other", "--plan")
    assert (status, "--plan does not go with --runs: " in told) == (2, True)
    assert not (tmp_path / "other").exists()


@pytest.mark.thorough
def test_words_of_a_published_claim_are_amended_and_the_report_says_so(
    ended, small, tmp_path, robustkit
):
    pytest.importorskip("seaborn")
    path = tmp_path / "tiny.toml"
    figures = 'baseline = "cross-entropy"\nfigures = []'
    quiet = small.read_text().replace('baseline = "cross-entropy"', figures)
    path.write_text(quiet)
    study = spec.load_study(str(path))
    before = collect(study, findings_of_store(study, StudyStore(ended[2]), "")).content
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evidence.parquet").write_bytes(before)
    asked = ("report", str(path), "--only-report", "--out", "out")
    path.write_text(quiet.replace("The hinge is better.", "The hinge makes a difference."))
    status, _, told = robustkit(*asked)
    assert (status, "has changed since" in told) == (0, True)
    assert (tmp_path / "out" / "evidence.parquet").read_bytes() == before
    status, _, told = robustkit(*asked, "--amend")
    assert (status, told) == (0, "")
    page = unescape((tmp_path / "out" / "report.html").read_text())
    assert (
        'The hinge makes a difference. <span class="range"><a href="#amended1">amended: wording'
        in page
    )
    assert ">The hinge is better.</td>" in page
    assert "Words of claim 1 were amended; what is judged is as preregistered." in page
    again = (tmp_path / "out" / "evidence.parquet").read_bytes()
    assert again != before
    assert robustkit(*asked)[0] == 0  # and rebuilds without the option
    assert (tmp_path / "out" / "evidence.parquet").read_bytes() == again
    path.write_text(quiet.replace("delta    = 1.0", "delta    = 2.0"))
    status, _, told = robustkit(*asked, "--amend")
    assert (status, "more than words has changed" in told) == (2, True)
    assert (tmp_path / "out" / "evidence.parquet").read_bytes() == again


@pytest.fixture
def known_speed(monkeypatch):
    """A machine that need not be timed in a process of its own."""
    known = Throughput(0, {}, 1.0, 1.0, 0.001, 0.001)
    monkeypatch.setattr("robustkit.study.forecast.measure_throughput", lambda *_: known)


@pytest.mark.slow
@pytest.mark.usefixtures("known_speed")
def test_the_command_on_the_page_asks_the_same_again(tiny, nets, tmp_path, robustkit):
    pytest.importorskip("seaborn")
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = folder / "own.toml"
    text = EXTERNAL.replace("PATTERN", "none").replace("NET", f"{tiny.parent}/net.py:net")
    path.write_text(text.replace('baseline = "ce"', 'baseline = "ce"\nfigures = []'))
    pattern = str(nets / "{loss}_noise{label_noise}_seed{seed}.pt")
    out = ("--out", str(tmp_path / "out"))
    options = ("--checkpoints", pattern, "--limit", "30", "--baseline", "l2")
    asked = ("report", str(path), *options, *out, "--device", "cpu", "--workers", "1")
    assert robustkit(*asked)[0] == 0
    page = unescape((tmp_path / "out" / "report.html").read_text())
    (command,) = re.findall(r"<code>(robustkit report .*)</code>", page)
    again = robustkit(*shlex.split(command)[1:], *out, "--plan")
    assert again[0] == 0
    assert "8 cells known, 0 to run" in again[1]
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


@pytest.mark.thorough
@pytest.mark.usefixtures("known_speed")
def test_methods_that_are_missing_are_told_on_the_terminal(tiny, nets, tmp_path, robustkit):
    path = external_study(tiny, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    path.write_text(path.read_text().replace('baseline = "ce"', 'baseline = "xent"'))
    told = robustkit("report", str(path), "--plan", "--out", str(tmp_path / "out"))
    assert told[0] == 0
    assert "No network of method xent, the baseline, was found" in told[2]


@pytest.mark.slow
def test_the_width_of_all_figures_can_be_asked_for(ended, small, tmp_path, robustkit):
    pytest.importorskip("seaborn")
    shutil.copytree(ended[2], tmp_path / "out" / "work")
    asked = ("report", str(small), "--only-report", "--out", str(tmp_path / "out"))
    for width in ("single", "double"):
        status, _, err = robustkit(*asked, "--style", "icml", "--width", width)
        assert (status, err) == (0, "")
        pictures = (tmp_path / "out" / "figures").glob("*.png")
        inches = {int.from_bytes(p.read_bytes()[16:20]) / 300 for p in pictures}
        assert inches == {{"single": 3.25, "double": 6.75}[width]}
    assert robustkit(*asked, "--width", "wide")[0] == 2


def test_a_course_is_that_of_the_networks_with_most_lines(ended, small):
    _, plan, _ = ended
    few, many = (
        [{"step": step, "memorised": step / 8, "held_out_clean": 0.5} for step in steps]
        for steps in ((8,), (4, 8))
    )
    cells = {w.cell: few if w.seed == 0 else many for w in plan.wanted}
    done = {key: {"history": history} for key, history in cells.items()}
    plan = {"wanted": [asdict(w) for w in plan.wanted]}
    histories = list(_histories(spec.load_study(str(small)), plan, done))
    assert histories
    assert {(h.steps, h.memorised) for h in histories} == {((4, 8), (0.5, 1.0))}


@pytest.mark.thorough
@pytest.mark.usefixtures("known_speed")
def test_a_plan_counts_what_would_be_tried_again(small, tmp_path, robustkit):
    """Trainings and evaluations, and what is selected once they are done; the folder stays."""
    run = begin(small, folder := tmp_path / "out" / "work")
    store, failed = run.store, {"status": "failed", "reason": "the loss became NaN or infinite"}
    for key in [*run.plan().cells]:
        store.keep("cell", key, failed)
    for key in [*run.plan().cells]:  # others follow a choice
        store.keep("cell", key, failed)
    asked = ("report", str(small), "--plan", "--out", str(tmp_path / "out"), "--device", "cpu")
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    assert "13 cells known, 0 to run" in robustkit(*asked)[1]
    told = robustkit(*asked, "--retry")[1]
    assert "4 cells known, 4 to run, 9 after selection, 12 evaluations" in told
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before
    done = {"status": "done", "reason": "", "held_out": 0.5}
    for key in run.plan().cells:
        store.keep("cell", key, done)
    for key in run.plan().tests:
        store.keep("test", key, failed)
    assert "0 to run" in robustkit(*asked)[1]
    assert "13 cells known, 8 to run, 12 evaluations" in robustkit(*asked, "--retry")[1]
