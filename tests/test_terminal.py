"""What is on the screen while something is at work, in a pseudo-terminal."""

import os
import re
import subprocess
import sys
from threading import Event
from types import SimpleNamespace

import pytest
from helpers import warm

from robustkit.cli import output
from robustkit.display.progress import AuditBar, Bar
from robustkit.evaluation import RunOptions

pty = pytest.importorskip("pty")

TINY = """
title    = "Tiny"
question = "What is on the screen?"
baseline = "cross-entropy"

[train]
model      = "lenet5"
data       = "mnist5k"
seeds      = [0]
steps      = 3
batch_size = 16
hold_out   = "100"

[test]
data  = "mnist5k"
limit = 20

[[method]]
name = "cross-entropy"
loss = "cross-entropy"

[[method]]
name   = "broken"
loss   = "hinge"
recipe = { learning_rate = 1e30 }

[[analysis]]
name   = "label-noise"
factor = "label_noise"
levels = ["0.4"]
"""


@pytest.fixture
def terminal(tmp_path):
    """Run a command on a terminal of its own, in an empty folder: status, all that it showed."""
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}

    def run(*arguments):
        ours, its = pty.openpty()
        command = [*warm.command(), *map(str, arguments)]
        streams = {"stdin": its, "stdout": its, "stderr": its}
        with subprocess.Popen(command, cwd=tmp_path, env=environment, **streams) as process:
            os.close(its)
            shown = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
        return process.returncode, shown.decode()

    return run


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says so where the other side is closed
        return b""


class Screen:
    """A terminal as stderr of this process; `shown` is all that was on it, once it is left."""

    def __init__(self, monkeypatch):
        self.monkeypatch, self.shown = monkeypatch, ""

    def __enter__(self):
        self.ours, its = pty.openpty()
        self.monkeypatch.setenv("TERM", "xterm")
        self.monkeypatch.setenv("COLUMNS", "120")
        self.stderr = open(its, "w")  # noqa: PTH123 (a terminal has no path here)
        self.monkeypatch.setattr(sys, "stderr", self.stderr)

    def __exit__(self, *failure):
        self.monkeypatch.undo()
        self.stderr.close()
        self.shown = b"".join(iter(lambda: _read(self.ours), b"")).decode()  # in pieces
        os.close(self.ours)


@pytest.fixture
def on_screen(monkeypatch):
    return Screen(monkeypatch)


def test_a_training_shows_its_updates(terminal, tmp_path):
    few = ("--steps", 3, "--batch-size", 16, "--device", "cpu", "--out", "a.safetensors")
    status, shown = terminal("train", "--model", "lenet5", "--data", "mnist5k", *few)
    assert "Traceback" not in shown
    assert status == 0
    assert "3 of 3 updates" in shown
    assert (tmp_path / "a.safetensors").is_file()


def test_a_study_shows_where_each_method_stands_and_names_what_failed(terminal, tmp_path):
    pytest.importorskip("seaborn")
    (tmp_path / "tiny.toml").write_text(TINY)
    status, shown = terminal("report", "tiny.toml", "--device", "cpu", "--workers", 1)
    assert "Traceback" not in shown
    assert status == 3
    known = "tiny: 2 cells known, 2 to run, 2 evaluations; about"
    assert f"{known} " in shown
    assert re.search("method.*done.*running.*failed.*left", shown)
    assert re.search(r"broken +│ +0 │ +1 │ +0 │ +0 │", shown)
    assert re.search(r"broken +│ +0 │ +0 │ +1 │ +0 │", shown)
    assert re.search(r"running for \d+ s: cross-entropy, 40\u00a0% label noise", shown)
    (line,) = [line for line in shown.splitlines() if "failed: " in line]
    assert re.search("broken, 40\u00a0% label noise, .*, failed: .* became NaN or infinite", line)
    assert (tmp_path / "tiny" / "report.html").is_file()


def test_an_evaluation_shows_its_images(terminal):
    status, shown = terminal(
        "evaluate", "lenet5-mnist5k", "--attack", "fgsm", "--limit", 20, "--device", "cpu"
    )
    assert "Traceback" not in shown
    assert status == 0
    assert "100\u00a0%" in shown


def test_an_audit_shows_the_part_at_work(on_screen):
    with on_screen, AuditBar() as bar:
        bar.begin("clean", 8)(8)
        bar.begin("pgd", 24)(6)
    shown = on_screen.shown
    assert "6 of 24 images" in shown
    assert "pgd" in shown


def test_names_on_a_bar_are_shown_and_not_obeyed(on_screen):
    with on_screen, AuditBar() as bar:
        bar.begin("a[/red]\x1b[7m\nb", 8)(6)
    shown = on_screen.shown
    assert r"a[/red]\x1b[7m\nb" in shown
    assert "\x1b[7m" not in shown


def test_a_bar_says_which_of_several_it_is_and_how_long_the_rest_takes(on_screen):
    with on_screen, Bar("a.pt", "2 of 9") as bar:
        seconds = [0.0]
        bar.meter.bar.get_time = lambda: seconds[0]
        options = bar.attach(RunOptions())
        options.stage("checking the network")
        seconds[0] = 30
        options.stage("")
        seconds[0] = 50
        options.progress(64, 256)
    shown = on_screen.shown
    assert "a.pt (2 of 9): checking the network" in shown
    assert "a.pt (2 of 9)" in shown
    assert re.search("25\u00a0%.*60 s to go", shown)
    assert "of 256" not in shown


def test_off_a_terminal_a_line_a_minute_is_said_and_none_before(monkeypatch, capsys):
    seconds = [0.0]
    monkeypatch.setattr("robustkit.display.progress.time.monotonic", lambda: seconds[0])
    with Bar("a\nb.pt") as bar:
        options = bar.attach(RunOptions())
        for now in range(0, 300, 7):
            seconds[0] = now
            options.progress(now, 300)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == "robustkit: a\\nb.pt: 21\u00a0%, 4 min to go"


@pytest.mark.parametrize("loading", [True, False])
def test_a_word_is_said_where_torch_takes_more_than_a_second(loading, monkeypatch, capsys):
    torch = SimpleNamespace(__spec__=SimpleNamespace(_initializing=loading))
    monkeypatch.setitem(sys.modules, "torch", torch)
    output._watch(Event(), every=0.001, after=0.002)
    assert capsys.readouterr().err == "robustkit: loading torch …\n" * loading


def test_no_word_is_said_once_all_is_done(monkeypatch, capsys):
    torch = SimpleNamespace(__spec__=SimpleNamespace(_initializing=True))
    monkeypatch.setitem(sys.modules, "torch", torch)
    done = Event()
    done.set()
    output._watch(done, every=0.001, after=0.002)
    assert not capsys.readouterr().err
