"""What is on the screen while something is at work, in a pseudo-terminal."""

import io
import os
import re
import subprocess
import sys
from threading import Event
from types import SimpleNamespace

import pytest
from helpers import warm

from robustkit.cli import output
from robustkit.display.pace import Pace
from robustkit.display.progress import AuditBar, Bar, TrainingBar
from robustkit.evaluation import RunOptions
from robustkit.training.progress import Progress

pty = pytest.importorskip("pty")

TINY = """
title    = "Tiny"
question = "What is on the screen?"
baseline = "cross-entropy"
figures  = []

[train]
model      = "lenet5"
data       = "mnist5k"
seeds      = [0]
steps      = 3
batch_size = 16
hold_out   = "100"

[test]
data  = "mnist5k"
limit = 5

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


@pytest.mark.thorough
def test_a_training_shows_its_updates(terminal, tmp_path):
    few = ("--steps", 3, "--batch-size", 16, "--device", "cpu", "--out", "a.safetensors")
    status, shown = terminal("train", "--model", "lenet5", "--data", "mnist5k", *few)
    assert "Traceback" not in shown
    assert status == 0
    assert "3 of 3 updates" in shown
    assert (tmp_path / "a.safetensors").is_file()


@pytest.mark.thorough
@pytest.mark.slow
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


@pytest.mark.thorough
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


def test_a_bar_says_which_of_several_it_is_and_how_long_the_rest_takes(on_screen, monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("robustkit.display.pace.time.monotonic", lambda: seconds[0])
    with on_screen, Bar("a.pt", "2 of 9") as bar:
        options = bar.attach(RunOptions())
        options.stage("checking the network")
        seconds[0] = 30
        options.began(0.0)
        seconds[0] = 50
        options.progress(64, 256)
    shown = on_screen.shown
    assert "a.pt (2 of 9): checking the network" in shown
    assert "a.pt (2 of 9)" in shown
    assert re.search("25\u00a0%.*60 s to go", shown)
    assert "of 256" not in shown


@pytest.fixture
def paced(monkeypatch):
    """What is read at a second of shares that were told at seconds."""
    now = [0.0]
    monkeypatch.setattr("robustkit.display.pace.time.monotonic", lambda: now[0])

    def begin(done=0.0):
        now[0] = 0.0
        pace = Pace(done)

        def at(second, share=None):
            now[0] = second
            if share is not None:
                pace.tell(share)
            return f"{100 * pace.share:.0f} %", pace.to_go

        return at

    return begin


def test_between_two_passes_the_bar_moves_and_the_time_to_go_falls(paced):
    at = paced()
    assert at(10, 0.1) == ("10 %", "2 min to go") == at(10)
    assert at(20, 0.2) == ("20 %", "80 s to go")
    assert at(25) == ("25 %", "75 s to go")


def test_a_pass_that_takes_longer_than_any_before_holds_the_bar_up(paced):
    at = paced()
    for second in range(1, 21):
        at(4 * second, second / 50)
    assert at(82) == ("41 %", "2 min to go")
    assert at(84) == at(3000) == ("42 %", "2 min to go")
    at = paced()
    at(10, 0.5)
    at(19, 0.95)
    assert at(60) == ("99 %", "0 s to go")
    assert at(61, 1.0) == ("100 %", "0 s to go")


def test_first_passes_do_not_run_far_ahead(paced):
    at = paced()
    at(10, 0.4)
    assert at(12) == ("45 %", "14 s to go") == at(19)


def test_the_bar_never_falls_back(paced):
    at = paced()
    at(10, 0.2)
    assert at(20) == ("25 %", "38 s to go")
    assert at(24, 0.22) == ("25 %", "85 s to go")
    assert at(25) == ("25 %", "84 s to go")
    assert at(34, 0.5) == ("50 %", "34 s to go")


def test_what_was_done_before_is_not_taken_for_speed(paced):
    at = paced(done=0.8)
    assert at(0, 0.8) == ("80 %", "")
    assert at(30, 0.85) == ("85 %", "2 min to go")


def test_a_run_that_goes_on_tells_the_time_that_the_rest_takes(on_screen, monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("robustkit.display.pace.time.monotonic", lambda: seconds[0])
    with on_screen, Bar("a.pt") as bar:
        options = bar.attach(RunOptions())
        options.began(0.5)
        seconds[0] = 20
        options.progress(192, 256)
    assert re.search("75\u00a0%.*20 s to go", on_screen.shown)


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


def test_so_are_lines_of_an_audit_and_of_a_training(monkeypatch, capsys):
    seconds = [0.0]
    monkeypatch.setattr("robustkit.display.progress.time.monotonic", lambda: seconds[0])
    with AuditBar() as bar:
        done = bar.begin("pgd", 300)
        for now in range(0, 150, 7):
            seconds[0] = now
            done(now)
    assert capsys.readouterr().err.splitlines() == [
        "pgd: 300 images",
        "robustkit: pgd: 21\u00a0%, 4 min to go",
        "robustkit: pgd: 42\u00a0%, 3 min to go",
    ]
    seconds[0] = 0
    with TrainingBar("a.safetensors") as bar:
        for now in range(0, 150, 7):
            seconds[0] = now
            seen = {"loss": 0.25, "accuracy_given": 0.5}
            bar.callbacks.step(Progress(150 + now, 450, 2, 5, seen))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    # 63 of the 300 that were left are done in 63 s
    assert lines[0] == (
        "robustkit: a.safetensors: 47\u00a0%, 4 min to go, epoch 2/5, loss 0.25, accuracy 50.0\u00a0%"
    )


def test_an_audit_and_a_training_show_the_time_to_go(on_screen, monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("robustkit.display.pace.time.monotonic", lambda: seconds[0])
    with on_screen, AuditBar() as bar:
        done = bar.begin("pgd", 24)
        seconds[0] = 30
        done(6)
    assert re.search("6 of 24 images.*90 s to go|6 of 24 images.*2 min to go", on_screen.shown)


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


class Console(io.RawIOBase):
    """As of Windows: it takes letters by an interface of its own, and bytes for another's."""

    def __init__(self):
        self.got = b""

    def writable(self):
        return True

    def write(self, content):
        self.got += bytes(content)
        return len(content)


def test_a_console_that_takes_letters_is_written_to_as_it_was():
    raw = Console()
    stream = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8")
    guarded = output._guarded(stream, "backslashreplace")
    assert guarded is stream
    guarded.write("ε ≤ ℓ∞ \ud800\n")
    guarded.flush()
    assert raw.got.decode() == "ε ≤ ℓ∞ \\ud800\n"
