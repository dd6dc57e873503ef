"""What is in the way of a study's work is no result of it: nothing is chosen by a full disk."""

import errno
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers.studies import Here, begin, external_study, found

from robustkit.data import load_dataset
from robustkit.errors import (
    CannotWrite,
    DataError,
    Hindered,
    InputError,
    NetworkFailed,
    ProcessLost,
    TrainingFailed,
    Unready,
)
from robustkit.study import processes, work
from robustkit.study.store import StudyStore


@pytest.mark.parametrize(
    "error",
    [
        CannotWrite("a"),
        Unready("b"),
        ProcessLost("c"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
    ids=str,
)
def test_what_is_in_the_way_is_no_result(tmp_path, error):
    def broken():
        raise error

    with pytest.raises(Hindered) as told:
        work._guarded(StudyStore(tmp_path), "cell", "k", broken)
    assert "\n" not in str(told.value)
    assert not [*tmp_path.rglob("*.json")]


def caused(error, *causes):
    """An error that comes of others, the first of which came last."""
    for before, after in pairwise((error, *causes)):
        before.__cause__ = after
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
        caused(
            TrainingFailed("a.pt: out of memory in epoch 1"),
            TrainingFailed("out of memory in epoch 1"),
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        ),
        caused(
            TrainingFailed("the network failed in training"),
            NetworkFailed("the network failed in training"),
            RuntimeError("CUDA error: out of memory"),
        ),
        caused(DataError("a.npz: cannot be read"), OSError(errno.EMFILE, "Too many open files")),
    ],
    ids=str,
)
def test_a_machine_without_memory_is_in_the_way_however_that_is_told(tmp_path, error):
    """It would decide which configuration is chosen by how many cells ran beside it."""

    def broken():
        raise error

    with pytest.raises(Hindered) as told:
        work._guarded(StudyStore(tmp_path), "cell", "k", broken)
    assert str(told.value).startswith("cell k: ")
    assert told.value.exit_status == 3
    assert not [*tmp_path.rglob("*.json")]


@pytest.mark.parametrize(
    "error",
    [
        caused(TrainingFailed("the loss became NaN"), ValueError("out of memory")),
        RuntimeError("shapes do not fit"),
        OSError(errno.ENOENT, "No such file"),
        caused(one := TrainingFailed("of itself"), one),
    ],
    ids=str,
)
def test_what_a_training_breaks_by_itself_is_its_result(tmp_path, error):
    def broken():
        raise error

    kept = work._guarded(StudyStore(tmp_path), "cell", "k", broken)
    assert kept["status"] == "failed"
    assert StudyStore(tmp_path).cell("k") == kept


def test_a_process_of_several_says_itself_that_it_had_no_memory(small, tmp_path, monkeypatch):
    """An error leaves it without its causes."""
    (job, *_) = begin(small, tmp_path).missing(begin(small, tmp_path).plan())

    def without_memory(*_):
        raise caused(TrainingFailed("out of memory"), torch.OutOfMemoryError("CUDA out of memory"))

    monkeypatch.setattr("robustkit.training.train", without_memory)
    with pytest.raises(ProcessLost, match="too little memory"):
        work._trained(job.cell.asked, work.WorkerConfig(tmp_path), tmp_path / "a.pt", None)


@pytest.mark.thorough
def test_a_training_that_another_process_is_at_decides_no_choice(small, tmp_path):
    run = begin(small, tmp_path)
    first = run.missing(run.plan())[0].cell.key
    out = run.store.checkpoint(first)
    folder = out.with_name(f"{out.name}.partial")
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"), pytest.raises(Unready, match="another process is training"):
        run.finish(Here(tmp_path))
    assert run.store.cell(first) is None
    run.finish(Here(tmp_path))
    assert run.store.cell(first)["status"] == "done"


def test_the_other_cells_are_done_before_it_is_told(small, tmp_path, monkeypatch):
    run = begin(small, tmp_path)
    jobs = run.missing(run.plan())
    done = []

    def attempt(job, config):
        if job is jobs[0]:
            raise CannotWrite("cannot write it: No space left on device")
        done.append(job)

    monkeypatch.setattr(processes, "carry_out", attempt)
    monkeypatch.setattr(processes, "ProcessPoolExecutor", lambda n, *_: ThreadPoolExecutor(n))
    executor = processes.ProcessExecutor(work.WorkerConfig(tmp_path), 2)
    yielded = []
    with pytest.raises(CannotWrite, match="No space left"):
        yielded.extend(executor.execute(jobs, lambda job: None))
    assert len(jobs) > 2
    assert {job.cell.key for job in done} == {job.cell.key for job in jobs[1:]}


def test_two_commands_do_not_work_on_one_study(robustkit, small, tmp_path):
    with StudyStore(tmp_path / "out" / "work").claimed():
        status, _, err = robustkit("report", small, "--out", tmp_path / "out")
    assert status == 2, err
    assert "another command works on this study; wait for its end, or give another --out" in err
    assert not [*(tmp_path / "out").rglob("*.json")]


@pytest.mark.one_of_many
@pytest.mark.parametrize("trained", [False, True])
def test_a_network_that_was_replaced_has_no_result(tiny, nets, tmp_path, trained):
    """Made elsewhere, it is read by its name: before its cell is done, and before its attack."""
    here = tmp_path / "nets"
    here.mkdir()
    for path in nets.glob("*_seed0.pt"):
        (here / path.name).write_bytes(path.read_bytes())
    study = external_study(tiny, here, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    run = begin(study, tmp_path / "out")
    (job, *_) = run.missing(run.plan())
    if trained:
        kept = run.store.keep
        kept(
            "cell", job.cell.key, {"status": "done", "reason": ""} | work._external(job.cell.asked)
        )
    own, other = Path(job.cell.asked["checkpoint"]), here / "l2_noise0_seed0.pt"
    before = own.read_bytes()
    own.write_bytes(other.read_bytes())
    with pytest.raises(Unready, match="changed since the study was planned"):
        work.carry_out(job, work.WorkerConfig(tmp_path / "out"))
    own.write_bytes(before)
    run.finish(Here(tmp_path / "out"))
    assert {cell.status for cell in found(study, tmp_path / "out").cells} == {"done"}


def test_a_level_that_cannot_be_is_told_by_the_networks_name(tiny, nets, tmp_path):
    for seed in (0, 1):
        path = tmp_path / f"ce_noise40_seed{seed}.pt"
        path.write_bytes((nets / f"ce_noise0_seed{seed}.pt").read_bytes())
    study = external_study(tiny, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    with pytest.raises(
        InputError, match=r"label_noise in its name is '40'; label noise must be from 0 to below 1"
    ):
        begin(study, tmp_path / "out")


@pytest.mark.thorough
def test_a_choice_that_was_made_anew_after_a_look_at_test_images_is_told(small, tmp_path):
    text = small.read_text().replace("seed = 7", "seed = 7\ntest_last = true")
    study = tmp_path / "tiny.toml"
    study.write_text(text)
    run = begin(study, tmp_path / "out")
    run.finish(Here(tmp_path / "out"))
    unseen = "No test image was evaluated before every configuration and pass was selected."
    assert unseen in found(study, tmp_path / "out").notes
    (tried, *_) = run.plan().candidates
    result = run.store.cell(tried.cell)
    run.store.keep("cell", tried.cell, result | {"status": "failed", "reason": "it broke"})
    again = begin(study, tmp_path / "out", retry=True)
    again.finish(Here(tmp_path / "out"))
    notes = found(study, tmp_path / "out").notes
    assert unseen not in notes
    assert (
        "1 training that had failed, and can change what is selected, was tried again after test "
        "images had been evaluated."
    ) in notes


def test_nothing_is_selected_by_copies_of_what_is_trained_on(small, tmp_path):
    some = load_dataset("mnist5k", split="train", limit=300)
    images, labels = some.images(0, 300)[:, 0], np.array(some.labels)
    twice = {"x_train": np.tile(images, (2, 1, 1)), "y_train": np.tile(labels, 2)}
    np.savez(tmp_path / "twice.npz", **twice, x_test=images[:60], y_test=labels[:60])
    text, before = small.read_text(), str(small.parent / "digits.npz")
    assert before in text
    study = tmp_path / "tiny.toml"
    study.write_text(text.replace(before, str(tmp_path / "twice.npz")))
    with pytest.raises(InputError, match="held-out images have the pixels of one that is trained"):
        begin(study, tmp_path / "out")
