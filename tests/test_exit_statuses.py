"""A table of situations and statuses, for every command: what the documentation lists, and nothing else."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from helpers import warm
from typer.main import get_command

from robustkit.cli.commands import app
from robustkit.errors import EvaluationFailed, InputError
from robustkit.models import build

LISTED = Path(__file__).parent.parent / "docs/pages/reference/exit-statuses.md"
FAST = ("--attack", "fgsm", "--limit", "4", "--device", "cpu")
STEPS = ("--steps", "1", "--batch-size", "8", "--device", "cpu", "--out", "a.safetensors")
HAND = ("--delta", "1", "--seed-sd", "1", "--discordant", "3", "--images", "100")
RANKED = ("--at", "0.3", "--attack", "fgsm")

COMMANDS = {
    "evaluate": ("lenet5-mnist5k", *FAST),
    "audit": ("lenet5-mnist5k", "--budget", "0.0001", "--limit", "3", "--device", "cpu"),
    "certify": ("lenet5-mnist5k", "--epsilon", "0.001", "--limit", "2", "--time-limit", "0"),
    "train": ("--model", "lenet5", "--data", "mnist5k", *STEPS),
    "report": ("STUDY", "--out", "FOLDER", "--only-report"),
    "compare": ("a.pt", "b.pt", *RANKED),
    "power": HAND,
    "rank": ("'{loss}_{data}.pt'",),
    "leaderboard": ("a.pt", "b.pt"),
    "describe": ("lenet5-mnist5k",),
    "verify": ("FOLDER",),
    "list": ("attacks",),
}
"""one that succeeds of each command, but for `rank`, whose records take too long to make"""
READERS = ("compare", "rank", "leaderboard")
"""commands on evaluations that there must be"""
MISTAKES = {
    "evaluate": ("lenet5-mnist5k", "--attack", "pdg"),
    "audit": ("lenet5-mnist5k", "--budget", "quik"),
    "certify": ("lenet5-mnist5k", "--epsilon", "0"),
    "train": ("--model", "lenet", "--data", "mnist5k"),
    "report": ("none.toml",),
    "compare": ("a.pt", "none.pt"),
    "power": ("--delta", "0"),
    "rank": ("none.pt",),
    "leaderboard": ("none.pt",),
    "describe": ("none.pt",),
    "verify": ("none",),
    "list": ("nothing",),
}
WORK = {
    "evaluate": "robustkit.evaluation.run",
    "audit": "robustkit.calls.audit.run_audit",
    "certify": "robustkit.calls.certify.certify_images",
    "train": "robustkit.training.train",
    "report": "robustkit.analysis.judge.judge_study",
    "compare": "robustkit.calls.compare.compare_sides",
    "power": "robustkit.analysis.needs.plan",
    "rank": "robustkit.calls.compare.ranked",
    "leaderboard": "robustkit.calls.leaderboard.ordered",
    "describe": "robustkit.checkpoint.describe",
    "verify": "robustkit.calls.verify.check_files",
    "list": "robustkit.shelves.list_names",
}
"""where the work of a command is done, to let it fail there"""


def _signal(number):
    os.kill(os.getpid(), number)


def _raise(error):
    raise error


FAULTS = {
    "bad input at work": (lambda: _raise(InputError("it\nis \x1b[31mbad")), 2),
    "a failure at work": (lambda: _raise(EvaluationFailed("no\nsuch luck")), 3),
    "what nobody foresaw": (lambda: _raise(KeyError("x")), 3),
    "the end of the process": (lambda: _raise(SystemExit(0)), 3),
    "a full disk": (lambda: _raise(OSError(errno.ENOSPC, "No space left on device", "f")), 3),
    "no memory": (lambda: _raise(MemoryError()), 3),
    "Ctrl-C": (lambda: _signal(signal.SIGINT), 130),
    "termination": (lambda: _signal(signal.SIGTERM), 143),
}


@pytest.fixture
def command(robustkit, request, tmp_path, monkeypatch):
    """Run a command as a table above has it, without drawing: status, stdout, stderr."""
    for shown in ("audit", "study"):
        monkeypatch.setattr(f"robustkit.reporting.{shown}.svg", lambda *_: "<svg></svg>")
    monkeypatch.setattr("robustkit.reporting.study.render", lambda *_, **__: {"svg": b""})

    def run(name, table):
        arguments = list(table[name])
        if "FOLDER" in arguments:
            store, out = request.getfixturevalue("ended")[2], tmp_path / "out"
            shutil.copytree(store, out / "work", dirs_exist_ok=True)
            known = {"STUDY": request.getfixturevalue("small"), "FOLDER": out}
            arguments = [known.get(one, one) for one in arguments]
        if "a.pt" in arguments and table is COMMANDS:
            for seed, path in enumerate(("a.pt", "b.pt")):
                torch.manual_seed(seed)
                torch.save(build("lenet5").state_dict(), tmp_path / path)
            made = robustkit("evaluate", "a.pt", "b.pt", "--data", "mnist5k", *FAST)
            assert made[0] == 0
        return robustkit(name, *arguments)

    return run


def told(err):
    """The lines in which a command says why it ended."""
    return [line for line in err.splitlines() if line.startswith("robustkit: ")]


def test_every_command_stands_in_the_table():
    names = {one.name for one in app.registered_commands}
    assert names == set(COMMANDS) == set(MISTAKES) == set(WORK)


FULL = Path("/dev/full")


@pytest.mark.one_of_many(9)
@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"rank"}))
def test_what_succeeds_is_0_but_for_a_stdout_that_is_full_and_one_that_is_closed_changes_nothing(
    command, monkeypatch, name
):
    status, out, err = command(name, COMMANDS)
    assert status == 0, err
    assert out
    assert told(err) == []
    if name in READERS:
        return

    def into(stdout):
        with stdout:
            for stream in ("stdout", "__stdout__"):
                monkeypatch.setattr(sys, stream, stdout)
            status, _, err = command(name, COMMANDS)
        return status, told(err)

    if FULL.exists():
        words = "robustkit: error: cannot write to stdout: No space left on device"
        assert into(FULL.open("w")) == (3, [words])
    reading, writing = os.pipe()
    os.close(reading)
    assert into(os.fdopen(writing, "w")) == (0, [])


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_a_mistake_is_status_2_in_one_line(command, name):
    status, out, err = command(name, MISTAKES)
    assert (status, out) == (2, "")
    assert len(told(err)) == len(err.splitlines()) == 1
    assert err.startswith("robustkit: error: ")


def _dealt():
    """Every fault at the work of every command; by default each fault and each command by turns."""
    for i, name in enumerate(sorted(WORK)):
        for j, fault in enumerate(FAULTS):
            slow = name != "list" and (i + j) % 3 > 0
            yield pytest.param(name, fault, marks=[pytest.mark.slow] * slow)


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize(("name", "fault"), list(_dealt()))
def test_a_fault_at_work_is_one_line_and_its_status(command, monkeypatch, name, fault):
    happens, expected = FAULTS[fault]
    module, _, function = WORK[name].rpartition(".")
    arrived = []

    def broken(*arguments, **options):
        arrived.append(1)
        happens()

    table = COMMANDS if name not in READERS else {name: ("a", "b")}
    monkeypatch.setattr("robustkit.calls.compare._sides", lambda *rest: ())
    if name == "leaderboard":
        monkeypatch.setattr("robustkit.results.finder.Finder.networks", lambda self, names: [])
    monkeypatch.setattr(import_module(module), function, broken)
    status, out, err = command(name, table)
    assert arrived
    assert (status, out) == (expected, "")
    assert len(told(err)) == 1
    assert "Traceback" not in err
    assert "\x1b" not in err


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["evaluate", "train"])
def test_a_disk_that_fills_up_is_status_3_in_one_line(tmp_path, name):
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
        "from robustkit import cli; cli.main()"
    )
    done = subprocess.run(
        [*warm.command(), "-c", code, name, *COMMANDS[name]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 3
    assert len(told(done.stderr)) == len(done.stderr.splitlines()) == 1
    assert "cannot write" in done.stderr
    assert "File too large" in done.stderr


def test_the_documentation_lists_the_statuses_that_there_are():
    text = LISTED.read_text(encoding="utf-8")
    (table,) = re.findall(r"\| exit status \|.*?\n\n", text, re.DOTALL)
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert listed == {0, 1, 2, *(status for _, status in FAULTS.values())}


HOSTILE_VALUES = ("", "²", "9" * 25, "1e999", "nan", "-1", "a\x1b[31m\n", "x" * 10_000, "folder")


@pytest.mark.thorough
@pytest.mark.parametrize("third", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2))])
@pytest.mark.parametrize("name", sorted(WORK))
def test_no_value_of_an_option_ends_in_what_nobody_foresaw(
    command, monkeypatch, tmp_path, name, third
):
    """Three of the values an option, other ones from option to option and command to command."""
    (tmp_path / "folder").mkdir()
    module, _, function = WORK[name].rpartition(".")
    # values that are taken end here: the work itself is other tests'
    monkeypatch.setattr(
        import_module(module), function, lambda *rest, **more: _raise(EvaluationFailed("no work"))
    )
    parameters = get_command(app).commands[name].params
    base = [] if name in ("report", "verify", *READERS) else list(COMMANDS[name])
    for place, parameter in enumerate(parameters, sorted(WORK).index(name) + third):
        option = next((text for text in parameter.opts if text.startswith("--")), "")
        if parameter.is_flag if option else False:
            continue
        for value in HOSTILE_VALUES[place % 3 :: 3]:
            given = [*base, option, value] if option else [value, *base[1:]]
            status, out, err = command(name, {name: given})
            assert status in (0, 2, 3), given
            assert "unforeseen" not in err, given
            assert "Traceback" not in err, given
            assert "\x1b" not in out + err, given
            assert len(told(err)) == (status > 0), given
            assert max(map(len, err.splitlines()), default=0) < 1100, given
