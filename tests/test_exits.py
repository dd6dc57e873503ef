"""Every exit means what the README says: statuses, one line on stderr, whatever the streams."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors and signals of POSIX")


def run(*arguments, cwd, shell="", **environment):
    """A command in a process of its own, its streams as a shell's redirections say."""
    command = [sys.executable, "-m", "robustkit", *map(str, arguments)]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {shell}', "sh", *command],
        cwd=cwd,
        capture_output=True,
        timeout=120,
        env=os.environ | environment,
    )


# --- streams --------------------------------------------------------------------------------------


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    command = [sys.executable, "-m", "robustkit", "list", "attacks"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(command, cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_stdout_is_a_failure_in_one_line(tmp_path):
    done = run("list", "attacks", cwd=tmp_path, shell=">/dev/full")
    assert done.returncode == 3
    words = b"robustkit: error: cannot write to stdout: No space left on device\n"
    assert done.stderr == words
    assert run("list", "nothing", cwd=tmp_path, shell=">/dev/full 2>/dev/full").returncode == 2


def test_closed_streams_are_no_error(tmp_path):
    assert run("list", "attacks", cwd=tmp_path, shell=">&-").returncode == 0
    assert run("list", "attacks", cwd=tmp_path, shell="2>&-").returncode == 0
    assert run("list", "nothing", cwd=tmp_path, shell=">&- 2>&-").returncode == 2


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=lambda given: "-".join(given.values()),
)
def test_what_a_terminal_cannot_encode_is_replaced(tmp_path, environment):
    (tmp_path / "attacks").mkdir()
    text = 'title = "ε ≤ 8 ☃"\nnorm = ["linf"]\n[[attack]]\nkind = "fgsm"\n'
    (tmp_path / "attacks" / "own.toml").write_text(text, encoding="utf-8")
    done = run("list", "attacks", cwd=tmp_path, **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(b"own ")]
    assert line.endswith(b"? ? 8 ?") or "PYTHONUTF8" in environment
    done = run("list", "☃", cwd=tmp_path, **environment)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


# --- interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "wait"), [(signal.SIGINT, 0.15), (signal.SIGTERM, 0.4), (signal.SIGINT, 1.2)]
)
def test_an_interruption_while_torch_is_imported_is_one_line(tmp_path, number, wait):
    command = [sys.executable, "-m", "robustkit", "evaluate", "lenet5-mnist5k"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(wait)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    if process.returncode == -number:
        pytest.skip("Python itself was still starting")
    assert process.returncode == 128 + number
    assert out == ""
    assert err.startswith("robustkit: interrupted; what is finished is kept")
    assert err.count("\n") == 1


# --- what nobody foresaw --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("x"), "unforeseen KeyError: 'x'"),
        (ValueError("two\nlines"), "unforeseen ValueError: two"),
        (AssertionError(), "unforeseen AssertionError"),
        (SystemExit(0), "unforeseen SystemExit: 0"),
        (SystemExit("bye"), "unforeseen SystemExit: bye"),
        (MemoryError(), "out of memory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (RecursionError("maximum depth"), "unforeseen RecursionError"),
        (UnicodeEncodeError("ascii", "ε", 0, 1, "no"), "unforeseen UnicodeEncodeError"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_nobody_foresaw_is_one_line_and_status_3(robustkit, monkeypatch, error, words):
    def broken(*arguments):
        raise error

    monkeypatch.setattr("robustkit.cli.listing.names", broken)
    status, out, err = robustkit("list", "attacks")
    assert (status, out) == (3, "")
    assert words in err
    assert err.startswith("robustkit: error: ")
    assert err.count("\n") == 1
    assert "robustkit/cli/listing.py, line" in err or "memory" in words


@pytest.mark.parametrize("how", ["option", "option of the command", "environment"])
def test_debugging_shows_where_an_error_was_raised(robustkit, monkeypatch, how):
    def broken(*arguments):
        raise KeyError("x")

    monkeypatch.setattr("robustkit.cli.listing.names", broken)
    if how == "environment":
        monkeypatch.setenv("ROBUSTKIT_DEBUG", "1")
        status, _, err = robustkit("list", "attacks")
    elif how == "option":
        status, _, err = robustkit("--debug", "list", "attacks")
    else:
        status, _, err = robustkit("list", "attacks", "--debug")
    assert status == 3
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("robustkit: error: unforeseen KeyError: 'x'")


def test_a_keyboard_interrupt_that_is_raised_is_an_interruption(robustkit, monkeypatch):
    def broken(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("robustkit.cli.listing.names", broken)
    status, _, err = robustkit("list", "attacks")
    assert status == 130
    assert "interrupted" in err
