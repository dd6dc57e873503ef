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
from helpers import warm

from robustkit import summary
from robustkit.cli.commands import _commands
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
    jsonschema.validate(objects, summary.schema())
    assert objects[0]["status"] == "complete"
    assert objects[0]["clean"]["n"] == 20
    assert "<svg" in (tmp_path / "a.html").read_text()
    assert len(frame("runs")) == 20


def test_json_alone_on_stdout(robustkit):
    status, out, err = robustkit("evaluate", "lenet5-mnist5k", *FAST, "--json", "-")
    assert (status, err) == (0, "")
    jsonschema.validate(json.loads(out), summary.schema())


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
    jsonschema.validate([bad, good], summary.schema())


def test_several_checkpoints_at_a_time_give_the_same_answers(robustkit, tmp_path):
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.save(build("lenet5").state_dict(), tmp_path / f"net{seed}.pt")
    options = [*FAST, "--data", "mnist5k", "--json", "-"]
    one = robustkit("evaluate", "net1.pt", "net2.pt", *options, "--out", "a")
    two = robustkit("evaluate", "net1.pt", "net2.pt", *options, "--out", "b", "--workers", "2")
    assert one[0] == two[0] == 0
    first, second = json.loads(one[1]), json.loads(two[1])
    assert [o["rows_digest"] for o in first] == [o["rows_digest"] for o in second]
    assert [o["checkpoint"]["path"] for o in second] == ["net1.pt", "net2.pt"]


def test_a_plain_state_dict_is_told_what_it_was_taken_for(robustkit, tmp_path):
    torch.save(
        {"state_dict": build("lenet5").state_dict(), "epoch": np.float64(3)}, tmp_path / "net.pt"
    )
    status, _, err = robustkit("evaluate", "net.pt", *FAST, "--data", "mnist5k")
    assert status == 0
    assert re.search(r"^note: .*lenet5", err, re.M)
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


def test_an_evaluation_that_fails_is_status_3(robustkit, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = torch.nn.Linear(784, 10)\n"
        "    def forward(self, x):\n"
        "        return self.fc(x.flatten(1)) / (x.sum((1, 2, 3)) < 0)[:, None]\n"
        "def build():\n"
        "    return Net()\n"
    )
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    torch.save({"fc.weight": torch.ones(10, 784), "fc.bias": torch.ones(10)}, tmp_path / "net.pt")
    status, _, err = robustkit(
        "evaluate", "net.pt", "--model", "net.py:build", "--data", "mnist5k", *FAST
    )
    sys.dont_write_bytecode = before
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


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *(["list", w] for w in ("attacks", "data", "models", "reports"))],
)
def test_quick_answers_import_no_torch(arguments, tmp_path):
    code = (
        "import sys, robustkit.cli; sys.argv = ['robustkit', *sys.argv[1:]]\n"
        "try: robustkit.cli.main()\n"
        "except SystemExit as error: status = error.code\n"
        "heavy = {'torch', 'torchvision', 'foolbox', 'pandas', 'seaborn', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or done.stderr


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


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_keeps_blocks_and_says_so(tmp_path, number, status):
    process = subprocess.Popen(
        [
            *warm.command(),
            "evaluate",
            "lenet5-mnist5k",
            "--attack",
            "pgd",
            "--epsilon",
            "0.3",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("runs/*.partial/block-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    if process.returncode == 0:
        pytest.skip("it was done before the signal came")
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
