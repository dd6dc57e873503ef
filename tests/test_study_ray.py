import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from helpers.crews import FakeRay, nodes
from helpers.studies import Apart, digits, site

from robustkit import record, spec
from robustkit.errors import EvaluationFailed, InputError
from robustkit.parallel import cluster
from robustkit.parallel.crew import LOST
from robustkit.study import ray as crews
from robustkit.study.ray import Demand, Exchange, attend
from robustkit.study.run import Run, StudyOptions
from robustkit.study.store import StudyStore
from robustkit.study.work import Job, WorkerConfig, carry_out

STUDY = """
title    = "Two losses on a few digits"
question = "Do rows depend on who works them out?"
baseline = "cross-entropy"

[train]
model      = "{model}"
data       = "{data}"
seeds      = {seeds}
steps      = {steps}
batch_size = 32

[test]
data  = "mnist5k"
limit = 100

[tuning]
seed = 1000

[[method]]
name = "cross-entropy"
loss = "cross-entropy"

[[method]]
name = "hinge"
loss = "hinge"

[[analysis]]
name   = "label-noise"
factor = "label_noise"
levels = ["0", "0.4"]
"""
TRANSFER = """
[[analysis]]
name      = "transfer"
factor    = "epsilon"
protocol  = "fgsm"
surrogate = "cross-entropy"
levels    = ["0.1"]
methods   = ["cross-entropy"]
seeds     = [0]
"""


class Here:
    """The executor that all others are held against: this process, one job after the other."""

    def __init__(self, folder):
        self.config = WorkerConfig(folder)

    def execute(self, jobs, began):
        for job in jobs:
            began(job)
            carry_out(job, self.config)
            yield job


@cache
def few():
    return digits(Path(tempfile.mkdtemp(), "digits.npz"))


def study(folder, *, model="lenet5", seeds=(0, 1), steps=3, more=""):
    path = folder / "little.toml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(STUDY.format(model=model, data=few(), seeds=list(seeds), steps=steps) + more)
    return Run(spec.load_study(str(path)), StudyStore(folder / "work"), StudyOptions())


def found(run):
    """What a finished study holds: digests of rows and of weights, by what they are of."""
    plan = run.plan()
    weights, rows = {}, {}
    for key in plan.cells:
        cell = run.store.cell(key)
        assert cell["status"] == "done", cell["reason"]
        weights[key] = cell["training"], cell["held_out"]
        assert (run.store.folder / cell["checkpoint"]).is_file()
    for key in plan.tests:
        test = run.store.test(key)
        assert test["status"] == "done", test["reason"]
        evaluation = record.read(run.store.runs / f"{test['evaluation'][:32]}.parquet")
        rows[key] = test["evaluation"], evaluation.rows_digest, len(evaluation.examples)
    assert not run.missing(plan)
    return weights, rows


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    run = study(tmp_path_factory.mktemp("reference"), seeds=[0], more=TRANSFER)
    run.finish(Here(run.store.folder))
    return found(run)


# --- what a worker does, in this process ----------------------------------------------------------


@pytest.fixture
def little(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return study(tmp_path, seeds=[0], more=TRANSFER)


@pytest.mark.thorough
def test_rows_that_went_through_a_url_are_the_same(little, tmp_path, reference):
    url = (tmp_path / "elsewhere").as_uri()
    little.finish(Apart(little, url))
    assert found(little) == reference
    assert not list((tmp_path / "elsewhere").rglob("*.tmp"))


@pytest.mark.thorough
def test_what_stands_at_the_url_is_not_worked_out_again(little, tmp_path, reference):
    url = (tmp_path / "elsewhere").as_uri()
    little.finish(Apart(little, url))
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "elsewhere").glob("*/*.*")}
    assert len(stamps) > 10
    again = study(tmp_path / "again", seeds=[0], more=TRANSFER)
    again.finish(Apart(again, url))
    assert found(again) == reference
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


@pytest.mark.thorough
def test_what_is_done_here_is_offered_to_those_who_build_on_it(little, tmp_path, reference):
    first = little.missing(little.plan())
    for job in first:
        carry_out(replace(job, tests=()), WorkerConfig(little.store.folder))
    executor = Apart(little, (tmp_path / "elsewhere").as_uri())
    before = {p: p.read_bytes() for p in little.store.folder.glob("cells/*.json")}
    little.finish(executor)
    assert found(little) == reference
    assert {p: p.read_bytes() for p in before} == before  # trained once


def test_results_are_put_after_all_that_they_speak_of(little, tmp_path, monkeypatch):
    order = []
    put = Exchange.put
    monkeypatch.setattr(
        Exchange, "put", lambda self, name, data: (order.append(name), put(self, name, data))
    )
    job = little.missing(little.plan())[0]
    assert job.tests
    assert attend(job, site(little, tmp_path / "elsewhere")) == ""
    kinds = [name.split("/")[0] for name in order[1:]]
    assert kinds.index("tests") > max(kinds.index("runs"), kinds.index("checkpoints"))
    assert kinds[-1] == "cells"


@pytest.mark.thorough
def test_a_second_one_that_was_slower_changes_nothing(little, tmp_path, monkeypatch):
    job, place = little.missing(little.plan())[0], site(little, tmp_path / "elsewhere")
    work = crews.carry_out

    def overtaken(job, config):
        monkeypatch.setattr(crews, "carry_out", work)
        assert attend(job, place) == ""
        stands.update({p: p.read_bytes() for p in (tmp_path / "elsewhere").rglob("*.*")})
        work(job, config)

    stands: dict[Path, bytes] = {}
    monkeypatch.setattr(crews, "carry_out", overtaken)
    assert attend(job, place) == ""
    assert len(stands) >= 5
    assert {p: p.read_bytes() for p in (tmp_path / "elsewhere").rglob("*.*")} == stands


@pytest.mark.thorough
def test_rows_belong_to_the_network_that_was_there_first(little, tmp_path, monkeypatch):
    job, place = little.missing(little.plan())[0], site(little, tmp_path / "elsewhere")
    work = crews.carry_out

    def overtaken(asked, config):
        monkeypatch.setattr(crews, "carry_out", work)
        assert attend(replace(job, tests=()), place) == ""
        stands.append(place.exchange.result("cell", job.cell.key))
        work(asked, config)

    stands: list[object] = []
    monkeypatch.setattr(crews, "carry_out", overtaken)
    assert attend(job, place) == ""
    assert [place.exchange.result("cell", job.cell.key)] == stands
    assert all(place.exchange.done("test", test.key) for test in job.tests)


def test_files_go_through_any_file_system():
    shared = Exchange("memory://somewhere/deep")
    assert shared.get("cells/a.json") is None
    assert shared.result("cell", "a") is None
    shared.put("cells/a.json", b"not JSON")
    with pytest.raises(InputError, match=r"memory://somewhere/deep: cells/a\.json is damaged"):
        shared.result("cell", "a")
    shared.put("cells/a.json", b'{"status": "failed"}')
    assert shared.result("cell", "a") == {"status": "failed"}
    assert shared.done("cell", "a") is None
    shared.drop("cells/a.json")
    shared.drop("cells/a.json")
    assert shared.get("cells/a.json") is None


def test_a_failure_is_a_result_that_names_the_studys_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def net():\n    raise ValueError('nothing')\n")
    run = study(tmp_path, model="net.py:net", seeds=[0])
    job = run.missing(run.plan())[0]
    shared = Exchange(str(tmp_path / "elsewhere"))
    assert attend(job, site(run, shared.url)) == ""
    failed = shared.result("cell", job.cell.key)
    assert failed["status"] == "failed"
    assert "nothing" in failed["reason"]
    assert "robustkit-" not in failed["reason"]
    assert shared.done("cell", job.cell.key) is None


def test_a_diverged_training_is_told_by_its_place_in_the_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method = (
        '\n[[method]]\nname = "wild"\nloss = "cross-entropy"\nrecipe = { learning_rate = 1e30 }\n'
    )
    run = study(tmp_path, seeds=[0], steps=30, more=method)
    job = next(job for job in run.missing(run.plan()) if job.cell.method == "wild")
    list(Apart(run, tmp_path / "elsewhere").execute([job], lambda job: None))
    failed = run.store.cell(job.cell.key)
    assert failed["status"] == "failed"
    assert failed["reason"].startswith(
        f"checkpoints/{job.cell.key}.safetensors: the loss became NaN"
    )


def test_a_state_that_a_reason_speaks_of_goes_with_it(little):
    job = little.missing(little.plan())[0]
    state = f"checkpoints/{job.cell.key}.safetensors.partial/state.pt"
    failed = {"status": "failed", "reason": f"the last good state is kept in /x/work/{state}"}
    results = {("cell", job.cell.key): failed}
    names = crews.files(job, lambda kind, key: results.get((kind, key)))
    assert names == [state, f"cells/{job.cell.key}.json"]


def test_a_crash_brings_its_traceback(little, tmp_path, monkeypatch):
    def broken(*arguments):
        raise ArithmeticError("no")

    monkeypatch.setattr("robustkit.study.work._train", broken)
    job = little.missing(little.plan())[0]
    list(Apart(little, tmp_path / "elsewhere").execute([job], lambda job: None))
    failed = little.store.cell(job.cell.key)
    assert "ArithmeticError" in failed["reason"]
    log = little.store.folder / "cells" / f"{job.cell.key}.log"
    assert "Traceback" in log.read_text()


@pytest.mark.thorough
def test_one_that_is_still_at_work_is_waited_for(little, monkeypatch):
    job, place = little.missing(little.plan())[0], site(little)
    work, inside, go_on = crews.carry_out, threading.Event(), threading.Event()
    at_once = []

    def slow(job, config):
        at_once.append(1)
        inside.set()
        assert go_on.wait(60)
        assert len(at_once) == 1
        work(job, config)
        at_once.pop()

    monkeypatch.setattr(crews, "carry_out", slow)
    said = []
    first, second = (
        threading.Thread(target=lambda: said.append(attend(job, place))) for _ in range(2)
    )
    first.start()
    assert inside.wait(60)
    second.start()
    time.sleep(0.3)
    go_on.set()
    first.join(120)
    second.join(120)
    assert said == ["", ""]
    assert little.store.cell(job.cell.key)["status"] == "done"


# --- what a machine may lack ----------------------------------------------------------------------


def test_a_machine_that_sees_another_place_says_so(little, tmp_path):
    job = little.missing(little.plan())[0]
    unseen = replace(site(little), mark="another")
    said = attend(job, unseen)
    assert said.startswith(f"{platform.node()}: does not see the study's folder")
    assert "--shared URL" in said
    elsewhere = replace(site(little, tmp_path / "elsewhere"), mark="another")
    assert "--shared that all reach" in attend(job, elsewhere)
    assert little.store.cell(job.cell.key) is None


def test_a_machine_without_the_data_says_so_and_records_no_failure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = study(tmp_path, seeds=[0])
    job = run.missing(run.plan())[0]
    asked = job.cell.asked | {"data": job.cell.asked["data"] | {"name": "cifar10"}}
    job = replace(job, cell=replace(job.cell, asked=asked))
    said = attend(job, site(run, data_root=tmp_path / "absent"))
    assert "absent: no such folder; every machine reads the data from its own disk" in said
    assert "--data-root must be valid there" in said
    assert run.store.cell(job.cell.key) is None


def test_a_machine_with_other_images_says_so(little):
    job = little.missing(little.plan())[0]
    asked = job.cell.asked | {"data": {"name": "mnist5k", "digest": "0" * 64}}
    said = attend(replace(job, cell=replace(job.cell, asked=asked)), site(little))
    assert "mnist5k: differs from the images that the study began with" in said


def test_a_machine_without_a_network_made_elsewhere_says_so(little, tmp_path):
    job = little.missing(little.plan())[0]
    asked = {"checkpoint": str(tmp_path / "gone.pt"), "model": None}
    said = attend(Job(replace(job.cell, asked=asked), ()), site(little))
    assert "gone.pt: not on this machine" in said


def test_a_missing_surrogate_is_told(little, tmp_path):
    test = next(t for t in little.plan().tests.values() if t.surrogate)
    job = Job(little.plan().cells[test.cell], (test,))
    assert f"lacks the network {test.surrogate}" in attend(job, site(little, tmp_path / "url"))


def test_a_url_of_an_unknown_kind_is_one_line(little):
    with pytest.raises(InputError, match=r"^nowhere://x: ValueError: Protocol not known: nowhere"):
        Exchange("nowhere://x").put("a", b"")


# --- Ray itself -----------------------------------------------------------------------------------


def open_cluster(run, **demand):
    return crews.cluster(WorkerConfig(run.store.folder), Demand(**demand))


def test_without_ray_the_extra_is_named(little, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'robustkit\[ray\]'"), open_cluster(little):
        pass


def test_an_address_where_nothing_answers_is_told_at_once(little):
    pytest.importorskip("ray")
    with (
        pytest.raises(InputError, match=r"--ray 127\.0\.0\.1:1: no answer"),
        open_cluster(little, address="127.0.0.1:1"),
    ):
        pass


def executor(run, ray):
    return crews.RayExecutor(cluster.Cluster(ray, "auto", 1, 0.0), site(run))


def test_a_lost_machine_is_no_failure_of_a_cell(little, monkeypatch):
    monkeypatch.setattr(cluster, "PAUSE", 0.0)
    errors, job = FakeRay.exceptions, little.missing(little.plan())[0]
    monkeypatch.setattr(crews, "attend", lambda job, site: carry_out(job, site.config) and "")
    mishaps = [errors.NodeDiedError("no")] * LOST + [errors.WorkerCrashedError("no")] * (LOST - 1)
    begun = []
    ended = executor(little, FakeRay([*mishaps, *mishaps[:LOST]])).execute([job], begun.append)
    assert list(ended) == [job]
    assert len(begun) == 3 * LOST
    with pytest.raises(InputError, match=rf"lost {LOST} workers each.*WorkerCrashedError"):
        list(executor(little, FakeRay(mishaps[LOST:] * 2)).execute([job], begun.append))


@pytest.mark.thorough
def test_a_cluster_that_is_gone_is_waited_for_and_then_told(little, monkeypatch):
    monkeypatch.setattr(cluster, "PAUSE", 0.0)
    monkeypatch.setattr(cluster, "WAIT", 0.2)
    jobs = little.missing(little.plan())
    # Ray goes on to count a machine as there whose agent is gone
    cut_off = FakeRay([FakeRay.exceptions.LocalRayletDiedError("no")] * 50)
    for ray in (cut_off, FakeRay(machines=lambda: [False])):
        with pytest.raises(EvaluationFailed, match="--ray auto: the cluster is gone") as told:
            list(executor(little, ray).execute(jobs, lambda job: None))
        assert told.value.exit_status == 3
        assert "for 0 seconds" in str(told.value)
    begun = time.monotonic()
    looks = iter([False] * 3)
    ray = FakeRay(machines=lambda: [next(looks, True)])  # one comes back in time
    monkeypatch.setattr(cluster, "WAIT", 30.0)
    monkeypatch.setattr(crews, "attend", lambda job, site: carry_out(job, site.config) and "")
    assert len(list(executor(little, ray).execute(jobs[:1], lambda job: None))) == 1
    assert time.monotonic() - begun < 20


def at_work(node):
    """The processes of a node that carry out a job."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    names = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, name in names.items() if name.startswith(b"ray::attend")]


class Counted:
    """An executor that counts how often a job has begun."""

    def __init__(self, executor):
        self.executor, self.begun = executor, []

    def execute(self, jobs, began):
        return self.executor.execute(
            jobs, lambda job: (self.begun.append(job.cell.key), began(job))
        )

    def repeated(self):
        return len(self.begun) - len(set(self.begun))


class Mishap:
    """Does something once, as soon as a node is at work on a training."""

    def __init__(self, node, act, states):
        self.node, self.act, self.states = node, act, states
        self.happened = []
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self):
        for _ in range(6000):
            # the lock of a training that has begun
            if (pids := at_work(self.node)) and list(self.states.glob("*.partial/lock")):
                self.happened.append(pids[0])
                self.act(pids[0])
                return
            time.sleep(0.02)


@pytest.fixture(scope="module")
def long_reference(tmp_path_factory):
    run = study(tmp_path_factory.mktemp("reference"), steps=60)
    run.finish(Here(run.store.folder))
    return found(run)


@pytest.mark.slow
def test_a_killed_worker_costs_no_row(tmp_path, long_reference):
    run = study(tmp_path, steps=60)
    with nodes(1) as (made, (node,)), open_cluster(run, address=made.address) as executor:
        mishap = Mishap(
            node, lambda pid: os.kill(pid, signal.SIGKILL), run.store.folder / "checkpoints"
        )
        mishap.thread.start()
        run.finish(counted := Counted(executor))
    assert mishap.happened
    assert counted.repeated() == 1
    assert found(run) == long_reference


@pytest.mark.slow
def test_a_removed_node_costs_no_row(tmp_path, long_reference):
    run = study(tmp_path, steps=60)
    with nodes(2) as (made, (node, _)), open_cluster(run, address=made.address) as executor:
        mishap = Mishap(
            node,
            lambda pid: made.remove_node(node, allow_graceful=False),
            run.store.folder / "checkpoints",
        )
        mishap.thread.start()
        assert executor.lanes() == 3
        run.finish(counted := Counted(executor))
        mishap.thread.join(60)
        until = time.monotonic() + 60  # Ray sees only at its next checks that a node is gone
        while executor.lanes() == 3 and time.monotonic() < until:
            time.sleep(0.2)
        assert executor.lanes() == 2
    assert mishap.happened
    assert counted.repeated() >= 1
    assert found(run) == long_reference


@pytest.mark.slow
def test_an_agent_that_is_killed_ends_the_study_with_what_is_done_and_it_goes_on(
    tmp_path, monkeypatch, long_reference
):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(cluster, "WAIT", 5.0)
    run = study(tmp_path, steps=60)
    with open_cluster(run) as executor:
        own = executor.cluster.ray._private.worker._global_node
        (agent,) = own.all_processes["raylet"]
        Cells(run.store.folder / "cells", agent.process.pid).thread.start()
        with pytest.raises(EvaluationFailed, match="the cluster is gone"):
            run.finish(executor)
    assert 1 <= len(list((run.store.folder / "cells").glob("*.json"))) < 8
    with open_cluster(run) as executor:
        run.finish(executor)
    assert found(run) == long_reference


class Cells:
    """Kills a process when the first cell of a study is done."""

    def __init__(self, folder, pid):
        self.folder, self.pid = folder, pid
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        while not list(self.folder.glob("*.json")):
            time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL)


@pytest.mark.slow
def test_workers_with_nothing_in_common_but_a_url(tmp_path, reference):
    run = study(tmp_path, seeds=[0], more=TRANSFER)
    shared = (tmp_path / "elsewhere").as_uri()
    with (
        nodes(1) as (made, _),
        open_cluster(run, address=made.address, shared=shared, most=2) as executor,
    ):
        run.finish(executor)
    assert found(run) == reference
    assert not list((tmp_path / "elsewhere").glob(".seen-*"))


@pytest.mark.slow
def test_a_cell_that_ends_every_worker_is_given_up_and_the_others_are_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deadly.py").write_text(
        "import os, pathlib\n"
        "def build():\n"
        "    pathlib.Path(f'tried-{os.getpid()}').touch()\n"
        "    os._exit(9)\n"
    )
    bad = study(tmp_path / "bad", model=f"{tmp_path}/deadly.py:build", seeds=[0])
    good = study(tmp_path, seeds=[0])
    deadly = bad.missing(bad.plan())[0]
    fine = good.missing(good.plan())
    done = []
    with nodes(1) as (made, _), open_cluster(good, address=made.address) as executor:
        with pytest.raises(InputError, match=f"lost {LOST} workers each.*WorkerCrashedError"):
            done.extend(executor.execute([deadly, *fine], lambda job: None))
        assert {job.cell.key for job in done} == {job.cell.key for job in fine}
    assert len(list(tmp_path.glob("tried-*"))) == LOST


@pytest.mark.slow
def test_a_cluster_without_room_is_told(little):
    with (
        nodes(0) as (made, _),
        pytest.raises(InputError, match="no machine has 7 CPUs and 0 GPUs for a cell"),
        open_cluster(little, address=made.address, cpus=7),
    ):
        pass


@pytest.mark.slow
def test_fractions_of_gpus_are_lanes(little):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 8, "num_gpus": 2, "object_store_memory": 80 * 2**20}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    try:
        with open_cluster(little, address=made.address, gpus=0.25) as executor:
            assert executor.lanes() == 8
            assert executor.site.config.device == "cuda"
        with open_cluster(little, address=made.address, gpus=0.25, cpus=2) as executor:
            assert executor.lanes() == 4
            assert executor.site.config.threads == 2
        with open_cluster(little, address=made.address) as executor:
            assert executor.lanes() == 2
        with open_cluster(little, address=made.address, gpus=0) as executor:
            assert executor.lanes() == 8
            assert executor.site.config.device == "cpu"
    finally:
        made.shutdown()


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--shared=s3://x", "--gpus-per-cell=0.5", "--cpus-per-cell=2"])
def test_what_is_for_ray_goes_with_ray(robustkit, option):
    status, _, err = robustkit("report", "elsayed2018-mnist-small", option)
    assert status == 2
    assert f"{option.split('=')[0]} goes with --ray" in err


def test_the_command_tells_of_an_address_where_nothing_answers(robustkit, tmp_path):
    pytest.importorskip("ray")
    study(tmp_path)
    status, out, err = robustkit("report", "little.toml", "--ray", "localhost:1", "--device", "cpu")
    assert (status, out) == (2, "")
    assert "--ray localhost:1: no answer" in err


@pytest.mark.slow
def test_an_interrupted_command_goes_on_quietly_to_the_same_rows(tmp_path, long_reference):
    pytest.importorskip("ray")
    run = study(tmp_path, steps=60)
    command = [sys.executable, "-m", "robustkit", "report", "little.toml", "--out", "."]
    command += ["--device", "cpu", "--ray", "auto"]
    environment = {key: text for key, text in os.environ.items() if key != "RAY_ADDRESS"}

    def begin():
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True
        )

    first = begin()
    while first.poll() is None and not list(run.store.folder.glob("cells/*.json")):
        time.sleep(0.05)
    first.terminate()
    out, err = first.communicate(timeout=120)
    assert first.returncode == 143, err
    assert "what is finished is kept" in err
    kept = {p: p.read_bytes() for p in run.store.folder.glob("cells/*.json")}
    assert 0 < len(kept) < 8

    second = begin()
    out, err = second.communicate(timeout=400)
    assert second.returncode == 0, err
    assert out == "report: report.html\n"
    assert all("cells" in line for line in err.splitlines())  # progress, and no word of Ray
    assert found(run) == long_reference
    assert {p: p.read_bytes() for p in kept} == kept
