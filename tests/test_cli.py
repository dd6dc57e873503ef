import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from helpers import schemas, warm

from robustkit.cli.commands import ONCE, _commands
from robustkit.cli.terminal import show
from robustkit.models import build
from robustkit.record import frame

ROOT = Path(__file__).parent.parent
FAST = ["--attack", "fgsm", "--limit", "20"]


def command(*arguments, cwd, **options):
    """Run a command in a process of its own."""
    return subprocess.run(
        [*warm.command(), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_the_main_job_prints_a_table_and_writes_what_was_asked(robustkit, tmp_path):
    status, out, err = robustkit(
        "evaluate", "lenet5-mnist5k", *FAST, "--json", "a.json", "--html", "a.html"
    )
    assert status == 0
    assert err == ""
    assert re.search(r"clean\b.*100\.0\s%|clean\b.*\d+\.\d\s%", out)
    assert "0.3" in out
    assert "record: runs/" in out
    objects = json.loads((tmp_path / "a.json").read_text())
    jsonschema.validate(objects, schemas.EVALUATIONS)
    assert objects[0]["status"] == "complete"
    assert objects[0]["clean"]["n"] == 20
    assert "<svg" in (tmp_path / "a.html").read_text()
    assert len(frame("runs")) == 20


def test_json_alone_on_stdout(robustkit):
    status, out, err = robustkit("evaluate", "lenet5-mnist5k", *FAST, "--json", "-")
    assert (status, err) == (0, "")
    jsonschema.validate(json.loads(out), schemas.EVALUATIONS)


def test_options_reach_the_record(robustkit):
    status, out, _ = robustkit(
        "evaluate",
        "lenet5-mnist5k",
        "--attack",
        "pgd",
        "--limit",
        "4",
        "--epsilon",
        "8/255",
        "--epsilon",
        "0.3",
        "--set",
        "steps=3",
        "--set",
        "restarts=1",
        "--seed",
        "7",
        "--target",
        "next",
        "--batch-size",
        "3",
        "--out",
        "elsewhere",
        "--json",
        "-",
    )
    assert status == 0
    (found,) = json.loads(out)
    assert [r["epsilon"] for r in found["robust"]] == ["8/255", "0.3"]
    assert found["protocol"]["targeted"] == "next"
    assert any("overstated" in w for w in found["warnings"])
    from robustkit.record import read

    stored = read(next(Path("elsewhere").glob("*.parquet")))
    assert stored.header["protocol"]["resolved"]["seed"] == 7
    assert stored.run["batch_size"] == 3


def test_one_bad_checkpoint_of_several_does_not_stop_the_others(robustkit, tmp_path):
    (tmp_path / "bad.pt").write_text("<html>not found</html>")
    status, out, err = robustkit(
        "evaluate", "bad.pt", "lenet5-mnist5k", *FAST, "--json", "a.json", "--html", "a.html"
    )
    assert status == 3
    assert err.count("\n") == 1
    assert "bad.pt" in err
    assert "record:" in out
    bad, good = json.loads((tmp_path / "a.json").read_text())
    assert (bad["status"], good["status"]) == ("failed", "complete")
    jsonschema.validate([bad, good], schemas.EVALUATIONS)


NETWORK = """
import time
from pathlib import Path
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


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A network of the user's, with something that it does, in a checkpoint for each bias."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(forward, **biases):
        (tmp_path / "net.py").write_text(NETWORK.replace("FORWARD", forward))
        for name, bias in biases.items():
            state = {"fc.weight": torch.randn(10, 784), "fc.bias": torch.full((10,), bias)}
            torch.save(state, tmp_path / f"{name}.pt")
        paths = [f"{name}.pt" for name in biases]
        return ["evaluate", *paths, "--model", "net.py:build", "--data", "mnist5k"]

    return make


@pytest.mark.thorough
def test_several_checkpoints_at_a_time_give_the_same_answers_and_none_stops_another(robustkit, own):
    arguments = own("if self.fc.bias[0] == 2: raise SystemExit(0)", net1=0.0, bad=2.0, net2=1.0)
    arguments += [*FAST, "--json", "-"]
    found = []
    for options in (("--out", "a"), ("--out", "b", "--workers", "2")):
        status, out, err = robustkit(*arguments, *options)
        assert status == 3
        assert "SystemExit: 0" in err
        assert err.count("robustkit: error: ") == 1
        found.append(json.loads(out))
    for first, second in zip(*found, strict=True):
        assert first.get("rows_digest") == second.get("rows_digest")
        assert first["status"] == second["status"]
    assert [o["status"] for o in found[1]] == ["complete", "failed", "complete"]
    assert [found[1][i]["checkpoint"]["path"] for i in (0, 2)] == ["net1.pt", "net2.pt"]
    assert found[1][0]["rows_digest"] != found[1][2]["rows_digest"]


@pytest.mark.thorough
def test_a_plain_state_dict_is_told_what_it_was_taken_for(robustkit, tmp_path):
    torch.save(
        {"state_dict": build("lenet5").state_dict(), "epoch": np.float64(3)}, tmp_path / "net.pt"
    )
    status, _, err = robustkit("evaluate", "net.pt", *FAST, "--data", "mnist5k")
    assert status == 0
    assert re.search(r"^warning: recognised as lenet5 .*--model lenet5", err, re.M)
    status, out, _ = robustkit("describe", "net.pt", "--sidecar")
    assert status == 0
    assert re.search(r"^model +lenet5$", out, re.M)
    assert "state_dict" in out
    assert (tmp_path / "net.pt.toml").is_file()
    status, out, err = robustkit("evaluate", "net.pt", *FAST, "--data", "mnist5k", "--fresh")
    assert status == 0
    assert "training images of mnist" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nothing.pt"], "nothing.pt: no such file"),
        (["evaluate", "lenet5-mnist5k", "--attack", "pdg"], "did you mean 'pgd'"),
        (["evaluate", "lenet5-mnist5k", "--data", "mnist5"], "did you mean 'mnist5k'"),
        (["evaluate", "lenet5-mnist5k", "--model", "lenet"], "did you mean 'lenet5'"),
        (["evaluate", "lenet5-mnist5k", "--epsilon", "-1"], "above 0"),
        (["evaluate", "lenet5-mnist5k", "--epsilon", "big"], "expected a number"),
        (["evaluate", "lenet5-mnist5k", "--split", "tset"], "test"),
        (["evaluate", "lenet5-mnist5k", "--batch-size", "0"], "--batch-size 0"),
        (["evaluate", "lenet5-mnist5k", "--mean", "a"], "--mean a"),
        (["evaluate", "lenet5-mnist5k", "--set", "steps"], "expected key=value"),
        (["evaluate", "lenet5-mnist5k", "--device", "tpu9"], "--device tpu9"),
        (["evaluate", "lenet5-mnist5k", "--html", "."], "is a folder"),
        (["evaluate", "lenet5-mnist5k", "--channels", "3", "--attack", "fgsm"], "channels"),
        (["evaluate", "empty.pt"], "empty"),
        (["evaluate", "net.pt", "--attack", "fgsm"], "--data"),
        (["evaluate", "nan.pt", "--data", "mnist5k"], "NaN|not finite"),
        (["evaluate", "lenet5-mnist5k", "--frob"], "No such option"),
        (["list", "nothing"], "nothing"),
        (["describe"], "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_status_2(robustkit, tmp_path, arguments, message):
    (tmp_path / "empty.pt").touch()
    state = build("lenet5").state_dict()
    torch.save(state, tmp_path / "net.pt")
    torch.save({k: v * float("nan") for k, v in state.items()}, tmp_path / "nan.pt")
    status, out, err = robustkit(*arguments)
    assert status == 2
    assert re.search(message, err)
    assert "Traceback" not in err
    assert out == ""
    if "No such option" not in err and "Usage" not in err:
        assert err.count("\n") == 1
        assert err.startswith("robustkit: error: ")
    assert not list(tmp_path.glob("runs/*.parquet"))


@pytest.mark.parametrize("name", ONCE)
def test_what_two_options_ask_for_is_not_half_forgotten(robustkit, name):
    takers = [
        command
        for command, one in _commands().commands.items()
        if any(name in option.opts and not option.multiple for option in one.params)
    ]
    assert takers
    for command in takers:
        for typed in ((name, "a", name, "b"), (f"{name}=a", f"{name}=a")):
            status, out, err = robustkit(command, "nothing.pt", *typed)
            assert (status, out, err.count("\n")) == (2, "", 1)
            assert f"{name} is given twice" in err


def test_a_knob_that_is_turned_twice_stays_where_it_was_turned_last(robustkit):
    status, out, _ = robustkit("evaluate", "lenet5-mnist5k", *FAST, "--limit", "7", "--json", "-")
    assert (status, json.loads(out)[0]["clean"]["n"]) == (0, 7)


def test_an_evaluation_that_fails_is_status_3(robustkit, own, tmp_path):
    status, _, err = robustkit(*own("x = x / (x.sum() < 0)", net=1.0), *FAST)
    assert status == 3
    assert "NaN or infinite" in err
    assert not list(tmp_path.glob("runs/*.parquet"))


def test_a_folder_that_cannot_be_written_is_one_line(robustkit, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = robustkit("evaluate", "lenet5-mnist5k", *FAST, "--out", "file/runs")
    assert status in (2, 3)
    assert err.count("\n") == 1
    assert "file/runs" in err


def test_what_a_newer_version_wrote_is_refused(robustkit, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "robustkit.json").write_text('{"format": 99}')
    status, _, err = robustkit("evaluate", "lenet5-mnist5k", *FAST)
    assert status == 2
    assert "newer robustkit" in err


def test_quick_answers_import_no_torch(tmp_path):
    # each in a process of its own, forked from one that has imported nothing else
    code = """
import os, sys, robustkit.cli
for line in sys.argv[1:]:
    if os.fork() == 0:
        sys.argv = ["robustkit", *line.split()]
        try:
            robustkit.cli.main()
        except SystemExit as error:
            status = error.code or 0
        heavy = {"torch", "torchvision", "foolbox", "pandas", "seaborn", "scipy"} & set(sys.modules)
        print("ended:", line, status, *heavy, flush=True)
        os._exit(0)
    os.wait()
"""
    lists = [f"list {what}" for what in ("attacks", "data", "models", "reports")]
    lines = ["--help", "--version", *lists]
    done = subprocess.run(
        [sys.executable, "-c", code, *lines], cwd=tmp_path, capture_output=True, text=True
    )
    said = re.split(r"^ended: (.*)\n", done.stdout, flags=re.MULTILINE)
    assert said[1::2] == [f"{line} 0" for line in lines], done.stderr
    assert all(said[:-1:2])


def test_the_lists_hold_what_can_be_named(robustkit):
    assert re.search(r"^pgd +linf, l2, l1 +FGSM, then PGD", robustkit("list", "attacks")[1], re.M)
    assert re.search(r"^mnist5k ", robustkit("list", "data")[1], re.M)
    assert re.search(r"^lenet5 ", robustkit("list", "models")[1], re.M)


def test_foolbox_imports_where_there_is_no_git(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "GIT_PYTHON_REFRESH"} | {
        "PATH": str(tmp_path)
    }
    code = "import robustkit.attacks"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_keeps_blocks_and_says_so(tmp_path, own, number, status):
    kept = "runs/*.partial/block-*.parquet"
    # once a block is kept, the network waits to be interrupted
    arguments = own(f"while list(Path().glob({kept!r})): time.sleep(0.01)", net=0.0)
    process = subprocess.Popen(
        [*warm.command(), *arguments, "--attack", "fgsm"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob(kept)) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert "what is finished is kept" in err
    assert "Traceback" not in err
    assert list(tmp_path.glob("runs/*.partial/block-*.parquet"))


@pytest.mark.slow
def test_ten_runs_killed_at_random_moments_resume_to_the_same_rows(tmp_path):
    question = [
        "evaluate",
        "lenet5-mnist5k",
        "--attack",
        "fgsm",
        "--set",
        "loss=margin",
        "--json",
        "-",
    ]
    undisturbed = json.loads(command(*question, "--out", "whole", cwd=tmp_path).stdout)[0]
    source, killed = np.random.default_rng(), 0
    for attempt in range(10):
        arguments = [sys.executable, "-m", "robustkit", *question, "--out", f"run{attempt}"]
        process = subprocess.Popen(
            arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(source.uniform(3, 12))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        resumed = json.loads(command(*question, "--out", f"run{attempt}", cwd=tmp_path).stdout)[0]
        assert resumed["rows_digest"] == undisturbed["rows_digest"]
    assert killed


def test_readme_and_ci_name_the_same_commands():
    readme = (ROOT / "README.md").read_text()
    for mark in ("<!-- main job -->", "<!-- tests -->"):
        assert re.search(re.escape(mark) + r"\n```sh\n.+\n```", readme)
    assert "<!-- tests -->" in (ROOT / ".ci" / "run").read_text()


def test_the_table_shows_clean_and_each_budget(capsys):
    from helpers.evaluations import evaluation

    made = evaluation("a[bold]path.pt", epsilons=("8/255", "1/10"), warnings=["mind [red]this"])
    show(made, "exact")
    out, err = capsys.readouterr()
    assert "a[bold]path.pt" in out
    assert re.search(r"8/255 .*%.*\d to \d", out)
    assert "mind [red]this" in err
    assert "by transfer" not in out
    made.header["surrogate"] = {"path": "b[bold].pt"}
    show(made, "exact")
    assert "pgd by transfer from b[bold].pt, ℓ∞" in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["60", "80"])
def test_the_list_of_commands_shows_whole_descriptions(robustkit, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    status, out, _ = robustkit("--help")
    listed = " ".join(out.partition("Commands:")[2].split())
    assert status == 0
    assert "..." not in listed
    for name, command in _commands().commands.items():
        first = command.help.partition("\n\n")[0]
        assert f"{name} {' '.join(first.split())}" in listed
