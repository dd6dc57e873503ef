"""Cores and threads that a process may use."""

import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from robustkit import machine


@pytest.mark.parametrize(
    ("asked", "workers", "threads"),
    [("", 1, 8), ("", 3, 2), ("", 20, 1), ("3", 1, 3), ("3", 4, 2), ("0", 1, 8), ("x", 2, 4)],
)
def test_threads_share_the_cores_and_obey_the_user(monkeypatch, asked, workers, threads):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert machine.threads(workers) == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinities here")
def test_cores_are_those_that_the_process_may_run_on():
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{one}]); "
        "from robustkit.machine import cores; print(cores())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "1\n"


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_where_the_c_library_has_no_such_setting_nothing_is_set(monkeypatch, error):
    def library(name):
        raise error  # TypeError: of Windows, which asks for a name

    monkeypatch.setattr(machine.ctypes, "CDLL", library)
    machine.keep_memory()


FAULTS = """
import resource, sys
import numpy as np
from robustkit.machine import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    blocks = [np.ones(5_000_000) for _ in range(3)]  # 40 MB each
use()
before = faults()
for _ in range(5):
    use()
print(faults() - before)
"""


@pytest.mark.thorough
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")
def test_freed_memory_is_kept_and_not_asked_for_anew():
    def faults(how):
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < faults("leave") / 10


GNU_OPENMP = Path(find_spec("torch").origin).parent / "lib" / "libgomp.so.1"
WAIT = f"""
import ctypes
from robustkit.machine import give_way
give_way()
ctypes.CDLL({str(GNU_OPENMP)!r})
"""


@pytest.mark.skipif(not GNU_OPENMP.exists(), reason="torch with another OpenMP")
@pytest.mark.parametrize(
    ("asked", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_that_wait_give_way_unless_the_user_has_it_otherwise(asked, spins):
    others = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    environment = {**others, **asked, "OMP_DISPLAY_ENV": "VERBOSE"}
    told = subprocess.run(
        [sys.executable, "-c", WAIT], env=environment, capture_output=True, text=True, check=True
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in told.stderr


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (
            "model\t\t: 85\nmodel name\t: Some  CPU @ 2.0GHz\n\nmodel name\t: Some  CPU @ 2.0GHz\n",
            "Some CPU @ 2.0GHz",
        ),
        ("processor : 0\nModel : Some Board\n", "Some Board"),
        ("processor : 0\n", "as the system says"),
        (None, "as the system says"),
    ],
)
def test_the_processor_is_named_by_its_model(tmp_path, monkeypatch, told, name):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine.platform, "processor", lambda: "as the system says")
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    assert machine.processor() == name
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    assert machine.processor() in (name, "unknown")
