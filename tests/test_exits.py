"""Every exit means what the documentation says: statuses, one line on stderr, whatever the streams."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from robustkit.data import load_dataset
from robustkit.errors import UnknownName

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


@pytest.mark.thorough
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_stdout_is_a_failure_in_one_line(tmp_path):
    done = run("list", "attacks", cwd=tmp_path, shell=">/dev/full")
    assert done.returncode == 3
    words = b"robustkit: error: cannot write to stdout: No space left on device\n"
    assert done.stderr == words
    assert run("list", "nothing", cwd=tmp_path, shell=">/dev/full 2>/dev/full").returncode == 2


@pytest.mark.thorough
def test_closed_streams_are_no_error(tmp_path):
    assert run("list", "attacks", cwd=tmp_path, shell=">&-").returncode == 0
    assert run("list", "attacks", cwd=tmp_path, shell="2>&-").returncode == 0
    assert run("list", "nothing", cwd=tmp_path, shell=">&- 2>&-").returncode == 2


@pytest.mark.one_of_many
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        pytest.param(
            {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            marks=pytest.mark.slow,
        ),
        {"PYTHONIOENCODING": "ascii"},
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.slow),
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


@pytest.mark.one_of_many
@pytest.mark.parametrize(
    ("number", "wait"), [(signal.SIGINT, 0.15), (signal.SIGTERM, 0.4), (signal.SIGINT, 1.2)]
)
def test_an_interruption_while_torch_is_imported_is_one_line(tmp_path, number, wait):
    command = [sys.executable, "-m", "robustkit", "evaluate", "lenet5-mnist5k"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background processes ignore it until they listen themselves
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
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


ITSELF = """
import os, signal, sys, time
import robustkit.shelves

def interrupted(*arguments):
    os.kill(os.getpid(), int(number))
    time.sleep(0.1)
    return robustkit.shelves.Listing("attacks", {"fgsm": "went on"})

number = sys.argv.pop()
robustkit.shelves.list_names = interrupted
from robustkit.cli import start
start()
"""
WORKER = """
import os, signal, sys, time
from robustkit.parallel.processes import end_with

end_with(os.getppid())
os.kill(os.getpid(), int(sys.argv[-1]))
time.sleep(0.1)
print("went on")
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("code", "number", "ignored", "heard"),
    [
        pytest.param(ITSELF, signal.SIGINT, 0, 130, id="a script's background process"),
        pytest.param(ITSELF, signal.SIGTERM, 0, 143, id="SIGTERM"),
        pytest.param(ITSELF, signal.SIGHUP, 0, -signal.SIGHUP, id="nohup"),
        pytest.param(WORKER, signal.SIGINT, 0, -signal.SIGINT, id="a worker of it"),
        # by which its parent ends it, whatever that ignores
        pytest.param(WORKER, signal.SIGTERM, -signal.SIGTERM, -signal.SIGTERM, id="its end"),
    ],
)
def test_a_signal_that_is_ignored_from_the_start_stays_ignored(
    tmp_path, code, number, ignored, heard
):
    for handler, status in ((signal.SIG_IGN, ignored), (signal.SIG_DFL, heard)):
        done = subprocess.run(
            [sys.executable, "-c", code, "list", "attacks", str(int(number))],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=lambda handler=handler: signal.signal(number, handler),
        )
        assert done.returncode == status, done.stderr
        assert ("went on" in done.stdout) == (status == 0)


HELD = """
import os, signal, sys, time, weakref
import robustkit.shelves

class Thing:
    pass

def interrupted(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0)

def in_a_callback(*arguments):
    thing = Thing()
    reference = weakref.ref(thing, interrupted)
    del thing
    time.sleep(2)
    print("went on")

def in_a_library(*arguments):
    try:
        interrupted()
    except:
        pass
    return robustkit.shelves.Listing("attacks", {"fgsm": ""})

robustkit.shelves.list_names = locals()[sys.argv.pop(1)]
from robustkit.cli import start
start()
"""


@pytest.mark.thorough
@pytest.mark.parametrize("where", ["in_a_callback", "in_a_library"])
def test_an_interruption_that_python_or_a_library_keeps_ends_the_command(tmp_path, where):
    done = subprocess.run(
        [sys.executable, "-c", HELD, where, "list", "attacks"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert "went on" not in done.stdout
    assert done.stderr.startswith("robustkit: interrupted; what is finished is kept")
    assert done.stderr.count("\n") == 1


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

    monkeypatch.setattr("robustkit.shelves.list_names", broken)
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

    monkeypatch.setattr("robustkit.shelves.list_names", broken)
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

    monkeypatch.setattr("robustkit.shelves.list_names", broken)
    status, _, err = robustkit("list", "attacks")
    assert status == 130
    assert "interrupted" in err


# --- networks that raise --------------------------------------------------------------------------

NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(784, 10)

    def forward(self, x):
        FORWARD
        return self.fc(x.flatten(1))

def build():
    return Net()
"""
BEFORE = {
    "assertion": ("raise AssertionError('Wrong image height!')", "AssertionError: Wrong image"),
    "silent": ("assert x.shape[2] == 224", "AssertionError)"),
    "key": ("{}['mask']", "KeyError: 'mask'"),
    "type": ("x.fit(1, 2)", "AttributeError: 'Tensor' object has no attribute 'fit'"),
    "exit": ("raise SystemExit(0)", "SystemExit: 0"),
    "lines": ("raise ValueError('one\\n\\x1b[31mtwo')", "ValueError: one)"),
}
SOME = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in ("silent", "exit", "lines")))
    for name in BEFORE
]


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A checkpoint whose network does something before it answers."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(forward):
        (tmp_path / "net.py").write_text(NETWORK.replace("FORWARD", forward))
        label = load_dataset("mnist5k", limit=1).labels[0]  # so that one image is attacked
        bias = torch.eye(10)[int(label)]
        state = {"fc.weight": torch.full((10, 784), 1e-6), "fc.bias": bias}
        torch.save(state, tmp_path / "net.pt")
        return ["net.pt", "--model", "net.py:build", "--data", "mnist5k", "--limit", "12"]

    return make


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("name", BEFORE)
def test_a_network_that_takes_no_image_is_bad_input_in_its_own_words(robustkit, broken, name):
    forward, words = BEFORE[name]
    for command in (["evaluate", "--attack", "fgsm"], ["audit", "--budget", "quick"]):
        status, out, err = robustkit(*command, *broken(forward))
        assert (status, out) == (2, "")
        assert words in err
        assert err.startswith("robustkit: error: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize("name", SOME)
def test_a_network_that_fails_at_work_is_status_3_in_its_own_words(robustkit, broken, name):
    forward, words = BEFORE[name]
    at_work = f"if x.requires_grad: {forward}"
    status, out, err = robustkit("evaluate", "--attack", "fgsm", *broken(at_work))
    assert (status, out) == (3, "")
    assert words.rstrip(")") in err
    assert err.count("\n") == 1
    assert not list(Path("runs").glob("*.parquet"))


BACKWARD = """
        class Broken(torch.autograd.Function):
            @staticmethod
            def forward(context, x):
                return x.clone()

            @staticmethod
            def backward(context, gradient):
                raise KeyError('no way back')

        x = Broken.apply(x)
"""


@pytest.mark.parametrize(
    "attack",
    ["fgsm", "deepfool", *(pytest.param(a, marks=pytest.mark.slow) for a in ("cw", "ddn"))],
)
def test_a_network_that_fails_on_the_way_back_is_status_3(robustkit, broken, attack):
    status, out, err = robustkit("evaluate", *broken(BACKWARD.strip()), "--attack", attack)
    assert (status, out) == (3, "")
    assert "KeyError: 'no way back'" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_of_several_checkpoints_the_others_are_done(robustkit, broken, tmp_path, workers):
    arguments = broken("if self.fc.bias[0] == 2: raise SystemExit(0)")
    shutil.copy(tmp_path / "net.pt", tmp_path / "good.pt")
    bad = {"fc.weight": torch.randn(10, 784), "fc.bias": torch.full((10,), 2.0)}
    torch.save(bad, tmp_path / "net.pt")
    options = [*arguments, "--attack", "fgsm", "--workers", workers]
    status, out, err = robustkit("evaluate", *options, "good.pt")
    assert status == 3
    assert "SystemExit: 0" in err
    assert err.count("robustkit: error: ") == 1
    assert "good.pt on mnist5k" in out


def test_what_nobody_foresaw_of_one_checkpoint_leaves_the_others(robustkit, broken, monkeypatch):
    module = sys.modules["robustkit.cli.evaluate"]
    real = module.evaluate_checkpoint

    def fails(path, *rest):
        if path == "net.pt":
            raise LookupError("two\nlines")
        return real(path, *rest)

    monkeypatch.setattr(module, "evaluate_checkpoint", fails)
    status, out, err = robustkit(
        "evaluate", *broken("pass"), "lenet5-mnist5k", "--model", "lenet5", "--attack", "fgsm"
    )
    assert status == 3
    assert "unforeseen LookupError: two (robustkit/cli/evaluate.py, line" in err
    assert "lenet5-mnist5k on mnist5k" in out


LONG = "a" * 300


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "lenet5-mnist5k", "--attack", LONG),
        ("evaluate", "lenet5-mnist5k", "--attack", f"{LONG}.toml"),
        ("evaluate", "lenet5-mnist5k", "--data", LONG),
        ("evaluate", "lenet5-mnist5k", "--data", f"{LONG}.npz"),
        ("evaluate", LONG),
        ("describe", LONG),
        ("verify", LONG),
        ("compare", LONG, "b"),
        ("report", f"{LONG}.toml"),
        ("audit", "lenet5-mnist5k", "--budget", LONG),
        ("evaluate", "lenet5-mnist5k", "--device", "meta"),
        ("evaluate", "lenet5-mnist5k", "--batch-size", "²"),
        ("evaluate", "lenet5-mnist5k", "--num-classes", "1" * 25),
        ("evaluate", "lenet5-mnist5k", "--attack", "square", "--set", f"queries={10**20}"),
        ("evaluate", "lenet5-mnist5k", "--epsilon", "1e999999999"),
        ("evaluate", "lenet5-mnist5k", "--epsilon", "1e400"),
        ("evaluate", "lenet5-mnist5k", "--epsilon", "1" * 400),
        ("evaluate", "lenet5-mnist5k", "--save-adversarial", "."),
    ],
    ids=lambda command: " ".join(word[:12] for word in command),
)
def test_absurd_names_and_numbers_are_one_line_and_2(robustkit, command):
    status, _, err = robustkit(*command)
    assert status == 2
    assert "unforeseen" not in err
    assert err.count("robustkit: error: ") == 1
    assert err.count("\n") == 1


# --- trainings ------------------------------------------------------------------------------------

TRAINING = ["train", "--model", "net.py:build", "--data", "mnist5k", "--steps", "4"]
TRAINING += ["--batch-size", "8", "--hold-out", "8", "--out", "a.safetensors"]


@pytest.mark.one_of_many
@pytest.mark.parametrize("name", SOME)
def test_a_network_that_cannot_be_trained_is_bad_input(robustkit, broken, name):
    forward, words = BEFORE[name]
    for where, expected in ((forward, 2), (f"if self.training: {forward}", 3)):
        broken(where)
        status, out, err = robustkit(*TRAINING)
        assert (status, out) == (expected, "")
        assert words.rstrip(")") in err
        assert err.count("\n") == 1
        assert not Path("a.safetensors.partial").exists()


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    "forward",
    [
        "if getattr(self, 'trained', False) and not self.training: raise KeyError('held out')\n"
        "        self.trained = len(x) == 8 and self.training",
        "self.passes = getattr(self, 'passes', 0) + self.training\n"
        "        if self.passes > 2: raise KeyError('held out')",
        "x = x + 0 * self.fc.bias.sum()\n" + BACKWARD.replace("no way back", "held out"),
    ],
    ids=["held-out images", "third batch", "backward"],
)
def test_a_network_that_breaks_in_training_is_status_3(robustkit, broken, forward):
    broken(forward)
    status, out, err = robustkit(*TRAINING)
    assert (status, out) == (3, "")
    assert "KeyError: 'held out', in epoch 1, by batch" in err.replace(
        "held out' in", "held out', in"
    )
    assert err.count("\n") == 1


@pytest.mark.thorough
def test_a_loss_that_breaks_in_training_is_status_3(robustkit, broken, tmp_path):
    broken("pass")
    (tmp_path / "loss.py").write_text(
        "calls = []\n"
        "def late(logits, labels):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 2:\n"
        "        raise SystemExit('enough')\n"
        "    return logits.square().mean()\n"
    )
    status, out, err = robustkit(*TRAINING, "--loss", "loss.py:late")
    assert (status, out) == (3, "")
    assert "loss.py:late failed: SystemExit: enough, in epoch 1, by batch 2" in err


def test_a_state_that_is_no_tensor_is_told_before_the_training(robustkit, broken):
    extra = "pass\n\n    def get_extra_state(self):\n        return {'a': 1}\n\n"
    extra += "    def set_extra_state(self, state):\n        pass\n\n    def rest(self, x):\n        pass"
    broken(extra)
    text = Path("net.py").read_text()
    moved = text.replace("        return self.fc(x.flatten(1))\n", "")
    moved = moved.replace("        pass\n", "        return self.fc(x.flatten(1))\n", 1)
    Path("net.py").write_text(moved)
    status, _, err = robustkit(*TRAINING)
    assert status == 2
    assert "keeps a state that is not a tensor (_extra_state)" in err


# --- names that come from files -------------------------------------------------------------------

HOSTILE = "a\x1b[31m\x9b[red]\n\u202e\udcff"
VISIBLE = r"a\x1b[31m\x9b[red]\n\u202e\udcff"


@pytest.mark.thorough
def test_a_name_is_shown_and_not_obeyed(robustkit, tmp_path):
    from robustkit.models import build

    torch.manual_seed(0)
    torch.save({"net": build("lenet5").state_dict(), HOSTILE[:-1]: 1}, tmp_path / "net.pt")
    (tmp_path / "net.pt").rename(tmp_path / f"{HOSTILE}.pt")
    text = 'title = "ti\\u001b[31mtle"\nnorm = ["linf"]\n[[attack]]\nkind = "fgsm"\n'
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / f"{HOSTILE}.toml").write_text(text)
    (tmp_path / "bad.toml").write_text(text + '"k\\u001b[31m\\n" = 1\n')
    options = ["--data", "mnist5k", "--limit", "4", "--html", "a.html"]
    for arguments, expected in (
        (["evaluate", f"{HOSTILE}.pt", "--attack", HOSTILE, *options], 0),
        (["describe", f"{HOSTILE}.pt"], 0),
        (["list", "attacks"], 0),
        (["evaluate", f"{HOSTILE}.none"], 2),
        (["evaluate", f"{HOSTILE}.pt", "--model", HOSTILE, *options], 2),
        (["evaluate", f"{HOSTILE}.pt", "--attack", "fgsm", "--set", HOSTILE], 2),
        (["evaluate", f"{HOSTILE}.pt", "--data", HOSTILE], 2),
        ([HOSTILE], 2),
        (["list", f"--{HOSTILE}"], 2),
        (["evaluate", f"{HOSTILE}.pt", "--limit", HOSTILE], 2),
    ):
        status, out, err = robustkit(*arguments)
        assert status == expected, err
        assert not set("\x1b\x9b\u202e\udcff") & set(out + err), arguments
        assert r"\x1b[31m" in out + err
        if expected:
            assert err.count("\n") == 1
    status, _, err = robustkit("evaluate", f"{HOSTILE}.pt", "--attack", "bad.toml", *options)
    assert (status, err.count("\n")) == (2, 1)
    assert r"k\x1b[31m\n" in err
    page = Path("a.html").read_text(encoding="utf-8")
    assert VISIBLE in page
    assert not set("\x1b\x9b\u202e") & set(page)


@pytest.mark.one_of_many
@pytest.mark.parametrize("length", [300, pytest.param(10_000, marks=pytest.mark.slow), 1_000_000])
def test_a_refused_value_is_cut_to_a_line(robustkit, length):
    long = "x" * length
    for arguments in (
        ["evaluate", long],
        ["evaluate", "lenet5-mnist5k", "--attack", long],
        ["evaluate", "lenet5-mnist5k", "--data", long],
        ["evaluate", "lenet5-mnist5k", "--model", long],
        ["evaluate", "lenet5-mnist5k", "--epsilon", long],
        ["evaluate", "lenet5-mnist5k", "--limit", long],
        ["evaluate", "lenet5-mnist5k", "--set", long],
        ["evaluate", "lenet5-mnist5k", "--json", long],
        ["list", long],
        [long],
    ):
        status, _, err = robustkit(*arguments)
        assert status == 2
        assert err.count("\n") == 1
        assert len(err) < 700, arguments[:4]


def test_an_unknown_name_travels_from_a_worker():
    error = UnknownName("loss", "hing\x1b", ["hinge"], "or FILE.py:FUNCTION")
    again = pickle.loads(pickle.dumps(error))
    text = r"unknown loss 'hing\x1b'; did you mean 'hinge'? (or FILE.py:FUNCTION)"
    assert str(again) == str(error) == text
    assert (again.name, again.close) == (error.name, error.close)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero")  # noqa: PTH110
@pytest.mark.parametrize("option", ["--policy", "--claim-from"])
def test_a_device_without_end_is_refused(robustkit, monkeypatch, option):
    monkeypatch.setattr("robustkit.files.LONGEST_TEXT", 2**16)
    status, _, err = robustkit("audit", "lenet5-mnist5k", option, "/dev/zero")
    assert status == 2
    assert "/dev/zero: not readable as" in err
    assert "longer than 65,536 characters" in err


def test_json_without_end_of_brackets_is_refused(robustkit, tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    status, _, err = robustkit("audit", "lenet5-mnist5k", "--claim-from", "deep.json")
    assert (status, err.count("\n")) == (2, 1)
    assert "deep.json: not readable as JSON: " in err
