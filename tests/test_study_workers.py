"""Workers of a study in a program that has other processes, and workers that die."""

import time
from contextlib import contextmanager
from multiprocessing import get_context

import pytest
import torch
from helpers import dying

from robustkit.errors import InputError
from robustkit.parallel.crew import LOST
from robustkit.study import processes, throughput, together, work
from robustkit.study.cells import Cell, Context
from robustkit.study.work import Job, WorkerConfig
from robustkit.training import run as training_run


def jobs(*names):
    return [Job(Cell(name, Context("0", "1"), 0, 0, {"name": name}), ()) for name in names]


def done_by(config, workers, given):
    done = []
    executor = processes.ProcessExecutor(config, workers)
    try:
        done.extend(executor.execute(given, lambda job: None))
    except InputError as error:
        return done, str(error)
    return done, ""


@pytest.mark.thorough
@pytest.mark.parametrize(("attempt", "workers"), [(dying.first_kills, 1), (dying.company_kills, 2)])
def test_jobs_whose_first_workers_die_are_all_done(attempt, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "carry_out", attempt)
    given = jobs("a", "b", "c", "d")
    done, told = done_by(WorkerConfig(tmp_path), workers, given)
    assert told == ""
    assert sorted(done, key=given.index) == given


@pytest.mark.thorough
def test_a_job_that_ends_every_worker_is_given_up_and_all_others_are_done(tmp_path, monkeypatch):
    """Those that are under way each time it does so, too."""
    monkeypatch.setattr(processes, "carry_out", dying.deadly_kills)
    _, *fine = given = jobs("deadly", "long", "longer", "last")
    done, told = done_by(WorkerConfig(tmp_path), 3, given)
    assert sorted(done, key=given.index) == fine
    assert told == (
        f"lost {LOST} workers each, perhaps for lack of memory; try fewer --workers: "
        "deadly, seed 0 (its process died)"
    )


@contextmanager
def interrupting():
    yield
    raise KeyboardInterrupt


def interrupted_study(folder, monkeypatch):
    def began(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "carry_out", dying.waits)
    list(processes.ProcessExecutor(WorkerConfig(folder), 2).execute(jobs("a"), began))


def interrupted_timing(folder, monkeypatch):
    monkeypatch.setattr(throughput, "timed", dying.waits)
    monkeypatch.setattr(throughput, "without_script", interrupting)
    throughput.measure_throughput([], None, WorkerConfig(folder))


def failed_training(folder, monkeypatch):
    monkeypatch.setattr(together, "_take_part", dying.second_fails)
    monkeypatch.setattr(together, "GRACE", 0.1)
    together.together(2, 1, dying.waits)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("end", "error"),
    [
        (interrupted_study, KeyboardInterrupt),
        (interrupted_timing, KeyboardInterrupt),
        (failed_training, ValueError),
    ],
)
def test_workers_are_ended_and_a_users_own_processes_go_on(end, error, tmp_path, monkeypatch):
    own = get_context("fork").Process(target=time.sleep, args=(300,))
    own.start()
    try:
        with pytest.raises(error):
            end(tmp_path, monkeypatch)
        own.join(0.5)
        assert own.is_alive()
    finally:
        own.kill()
        own.join()


@pytest.mark.parametrize("fails", [False, True])
def test_timing_a_step_leaves_torch_its_threads(fails, tmp_path, monkeypatch):
    seen, before = [], torch.get_num_threads()

    def bench(config, device):
        if fails and seen:
            raise InputError("no bench")
        return lambda steps: seen.append(torch.get_num_threads())

    monkeypatch.setattr(training_run, "bench", bench)
    monkeypatch.setattr(work, "training_config", lambda asked, config: None)
    monkeypatch.setattr(work, "_long", lambda config: None)
    timed = [job.cell for job in jobs("a", "b")]
    config = WorkerConfig(tmp_path, threads=before + 1)
    if fails:
        seen.append(before + 1)
        with pytest.raises(InputError, match="no bench"):
            work.time_steps(timed, config, rounds=1, steps=1)
    else:
        assert list(work.time_steps(timed, config, rounds=1, steps=1)) == ["a", "b"]
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
