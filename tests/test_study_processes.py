"""Cells that several processes train together."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from helpers.studies import NET, Here, begin

from robustkit import spec
from robustkit.checkpoint import read_checkpoint
from robustkit.errors import InputError, ProcessLost
from robustkit.study import work
from robustkit.study.checks import check
from robustkit.study.together import processes_of
from robustkit.training import run as training_run

STUDY = """
title    = "Together"
question = "Does it run?"
baseline = "one"

[train]
model      = "MODEL"
data       = "mnist5k"
seeds      = [0]
steps      = 3
batch_size = 16
hold_out   = "100"

[test]
data  = "mnist5k"
limit = 20

[[method]]
name   = "one"
loss   = "cross-entropy"

[[method]]
name   = "two"
loss   = "cross-entropy"
recipe = { compress = "one-bit", processes = 2 }

[[analysis]]
name   = "label-noise"
factor = "label_noise"
levels = ["0"]
"""
FAILING = """[[method]]
name   = "diverges"
loss   = "cross-entropy"
recipe = { learning_rate = 1e38, processes = 2 }

[[method]]
name   = "dies"
loss   = "FOLDER/loss.py:loss"
recipe = { processes = 2 }

[[analysis]]
"""
LOSS = """
import os
from torch.nn.functional import cross_entropy

def loss(logits, labels):
    if os.environ.get("RANK") == "1":
        os._exit(9)
    return cross_entropy(logits, labels)
"""
ENDLESS = """
import time
from pathlib import Path

def loss(logits, labels):
    Path(__file__).with_name("begun").touch()
    time.sleep(300)
"""
UNDER_TORCHRUN = """
import json, sys
from pathlib import Path
import torch
from robustkit import training
from robustkit.study.work import WorkerConfig, training_config

torch.set_num_threads(1)
asked = json.loads(Path("asked.json").read_text())
options = training.TrainingOptions(device="cpu")
training.train(training_config(asked, WorkerConfig(Path())), "by-torchrun.safetensors", options)
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The study's file."""
    folder = tmp_path_factory.mktemp("together")
    for name, text in {"net.py": NET, "loss.py": LOSS}.items():
        (folder / name).write_text(text)
    path = folder / "together.toml"
    path.write_text(STUDY.replace("MODEL", f"{folder}/net.py:net"))
    return path


@pytest.fixture(scope="module")
def together(asked):
    """The study's file, and the run after it has ended."""
    run = begin(asked, asked.parent / "out")
    run.finish(Here(asked.parent / "out"))
    return asked, run


def results(run):
    cells = run.plan().cells
    return {cells[key].method: run.store.cell(key) for key in cells}


@pytest.mark.thorough
def test_two_processes_train_a_cell(together):
    _, run = together
    done = results(run)["two"]
    record = read_checkpoint(run.store.folder / done["checkpoint"]).extra["training"]
    assert record["processes"] == record["communication"]["world_size"] == 2
    assert record["communication"]["scheme"] == "one-bit"


@pytest.mark.slow
def test_a_cell_of_two_processes_has_the_bytes_of_one_under_torchrun(together, tmp_path):
    _, run = together
    done = results(run)["two"]
    (cell,) = [cell for cell in run.plan().cells.values() if cell.method == "two"]
    (tmp_path / "asked.json").write_text(json.dumps(cell.asked))
    (tmp_path / "script.py").write_text(UNDER_TORCHRUN)
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "script.py"),
        ],
        cwd=tmp_path,
        check=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    one = (run.store.folder / done["checkpoint"]).read_bytes()
    assert one == (tmp_path / "by-torchrun.safetensors").read_bytes()


@pytest.mark.slow
def test_of_processes_that_fail_the_first_says_why(together, tmp_path):
    path = changed(
        together[0], "[[analysis]]\n", FAILING.replace("FOLDER", str(together[0].parent))
    )
    run = begin(path, tmp_path)
    with pytest.raises(ProcessLost, match=r"^one of the 2 processes of a training died"):
        run.finish(Here(tmp_path))
    done = results(run)
    assert done["one"]["status"] == "done"
    assert done["diverges"]["status"] == "failed"
    assert done["dies"] is None  # a process that was killed says nothing of the method
    assert "NaN or infinite" in done["diverges"]["reason"]
    assert "ended early" not in done["diverges"]["reason"]


def changed(path, before, after):
    text = path.read_text()
    assert before in text
    other = path.with_name("changed.toml")
    other.write_text(text.replace(before, after))
    return str(other)


@pytest.mark.parametrize("said", ["0", "65", "true", '"two"', "1.5"])
def test_a_number_of_processes_is_a_small_whole_number(asked, said):
    study = spec.load_study(changed(asked, "processes = 2", f"processes = {said}"))
    with pytest.raises(InputError, match=r"'two'.*processes: expected 1 to 64, got"):
        check(study)


def test_what_several_processes_cost_is_no_cost_of_a_loss(asked):
    cost = '[[analysis]]\nname = "cost"\nfactor = "cost"\n[[analysis]]\nname   = "label-noise"'
    study = spec.load_study(changed(asked, '[[analysis]]\nname   = "label-noise"', cost))
    with pytest.raises(InputError, match=r"'two'.*leave it out of the methods"):
        check(study)
    apart = cost.replace('"cost"\n[[', '"cost"\nmethods = ["one"]\n[[')
    check(spec.load_study(changed(asked, '[[analysis]]\nname   = "label-noise"', apart)))


def test_several_processes_train_on_a_processor():
    assert processes_of({}, "cuda:0") == 1
    with pytest.raises(InputError, match="not on cuda:0; give --device cpu"):
        processes_of({"processes": 2}, "cuda:0")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [["--plan"], []])
@pytest.mark.parametrize(
    ("number", "all_of_them"), [(signal.SIGINT, True), (signal.SIGTERM, False)]
)
def test_an_interruption_leaves_no_temporary_files(number, all_of_them, asked, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "loss.py").write_text(ENDLESS)
    study = STUDY.replace("MODEL", f"{tmp_path}/net.py:net")
    one = study[
        study.index('[[method]]\nname   = "one"') : study.index('[[method]]\nname   = "two"')
    ]
    study = study.replace(one, "").replace('baseline = "one"', 'baseline = "two"')
    study = study.replace("cross-entropy", f"{tmp_path}/loss.py:loss")
    (tmp_path / "endless.toml").write_text(study)
    temporary = tmp_path / "temporary [1]+é%20"  # as some queues name it; no part of a URL
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "robustkit", "report", "endless.toml", *asked, "--out", "out"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    while not (tmp_path / "begun").exists() and process.poll() is None:
        time.sleep(0.1)
    (os.killpg if all_of_them else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert err.splitlines()[-1].startswith("robustkit: interrupted; what is finished is kept")
    assert "leaked" not in err
    assert list(temporary.iterdir()) == []


LEAVING = """
import os, pathlib, signal
from robustkit.parallel.processes import in_order
with in_order():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # a pool that breaks ends its workers, too
        pathlib.Path("left").touch()
"""


def test_a_second_signal_does_not_stop_a_worker_from_cleaning_up(tmp_path):
    ended = subprocess.run([sys.executable, "-c", LEAVING], cwd=tmp_path, check=False)
    assert ended.returncode == -signal.SIGTERM
    assert (tmp_path / "left").exists()


@pytest.mark.thorough
def test_what_a_step_takes_is_timed_of_the_training_alone_whoever_was_timed_before(
    tmp_path, monkeypatch
):
    """Compressed gradients need a group, of which neither a later method nor a training knows."""
    (tmp_path / "net.py").write_text(NET)
    path = tmp_path / "timed.toml"
    text = STUDY.replace("MODEL", f"{tmp_path}/net.py:net").replace(", processes = 2", "")
    path.write_text(text)
    cells = begin(path, tmp_path / "out").plan().cells.values()
    compressed, plain = sorted(cells, key=lambda cell: "compress" not in cell.asked)
    seen, real = [], training_run.wrapped

    def wrapped(*given, **named):
        seen.append(type(model := real(*given, **named)).__name__)
        return model

    monkeypatch.setattr(training_run, "wrapped", wrapped)
    config = work.WorkerConfig(tmp_path)
    times = work.time_steps([compressed, plain], config, rounds=1, steps=1)
    assert list(times) == [compressed.method, plain.method]
    assert seen == ["DistributedDataParallel", "Sequential"]
    assert not torch.distributed.is_initialized()
    broken = replace(plain, asked=plain.asked | {"model": "no-such-network"})
    with pytest.raises(InputError, match="no-such-network"):
        work.time_steps([compressed, broken], config, rounds=1, steps=1)
    assert not torch.distributed.is_initialized()
