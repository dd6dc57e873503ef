"""`robustkit.toml` and completion: what a file may say for a command, and what a shell is answered."""

import json
import sys

import pytest

from robustkit.cli import completion
from robustkit.cli.commands import run, with_settings

CLEAN = ("evaluate", "lenet5-mnist5k")
FILE = """device = "cpu"
data_root = "images"
[evaluate]
attack = "clean"
limit = 20
epsilon = ["1/255", 0.1]
fresh = true
image-by-image = false
[train]
seed = 3
"""


@pytest.fixture
def there(monkeypatch, tmp_path):
    """Write the working directory's file; what becomes of a command line."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="robustkit.toml"):
        (tmp_path / name).write_text(text)
        return with_settings

    return write


def test_a_file_gives_options_and_the_command_line_wins(there, capsys):
    taken = there(FILE)
    assert taken(["evaluate", "x", "--limit", "5"]) == [
        "evaluate",
        "--device=cpu",
        "--data-root=images",
        "--attack=clean",
        "--epsilon=1/255",
        "--epsilon=0.1",
        "--fresh",
        "x",
        "--limit",
        "5",
    ]
    assert capsys.readouterr().err == (
        "note: from robustkit.toml: device = cpu; data-root = images; attack = clean; epsilon = "
        "1/255, 0.1; fresh\n"
    )
    # of a list nothing is left where the command line has one of its own
    assert "--epsilon=0.1" not in taken(["evaluate", "x", "--epsilon=2/255"])
    assert taken(["train", "--device", "cuda"]) == [
        "train", "--data-root=images", "--seed=3", "--device", "cuda",
    ]  # fmt: skip
    assert taken(["list", "attacks"]) == ["list", "attacks"]
    assert taken(["evaluate", "--help"]) == ["evaluate", "--help"]
    assert taken([]) == []


def test_a_file_of_another_name_is_read_where_it_is_named(there, tmp_path):
    taken = there(FILE)
    (tmp_path / "other.toml").write_text("device = 'cuda'")
    for config in (["--config", "other.toml"], ["--config=other.toml"]):
        assert taken(["describe", "x", *config]) == ["describe", "x", *config]
        found = taken(["evaluate", "x", *config])
        assert found == ["evaluate", "--device=cuda", "x", *config]
    assert taken(["evaluate", "x", "--config", "/dev/null"])[1] == "x"


def test_a_command_is_carried_out_and_recorded_with_what_the_file_says(robustkit, tmp_path):
    (tmp_path / "robustkit.toml").write_text('[evaluate]\nattack = "clean"\nlimit = 7\n')
    status, out, err = robustkit(*CLEAN, "--device", "cpu", "--json", "-")
    assert status == 0
    assert json.loads(out)[0]["data"]["n"] == 7
    assert err.startswith("note: from robustkit.toml: attack = clean; limit = 7\n")
    # an audit's "how to reproduce" and a tracker's "command" are made of this
    assert sys.argv[1:4] == ["evaluate", "--attack=clean", "--limit=7"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devise = 'cpu'", "robustkit.toml: unknown option 'devise'; did you mean 'device'?"),
        ("[evalute]\n", "robustkit.toml: unknown command 'evalute'; did you mean 'evaluate'?"),
        ("[train]\nattack = 'pgd'", "[train]: unknown option 'attack'"),
        ("[evaluate]\nepoch = 1", "[evaluate]: unknown option 'epoch'"),
        ("debug = true", "unknown option 'debug'"),
        ("config = 'x'", "unknown option 'config'"),
        ("device = ['cpu', 'cuda']", "device: takes one value, got ['cpu', 'cuda']"),
        ("device = true", "device: expected a text or a number, got True"),
        ("[evaluate]\nfresh = 'yes'", "fresh: expected true or false, got 'yes'"),
        ("data-root = '.'\ndata_root = '.'", "data_root: is given twice"),
        ("[evaluate]\ndata.x = 3", "[evaluate]: data: expected a text or a number"),
        ("device = ", "robustkit.toml: not readable as TOML"),
    ],
)
def test_what_makes_no_sense_is_one_line_whatever_the_command(robustkit, tmp_path, text, message):
    (tmp_path / "robustkit.toml").write_text(text)
    for command in (("describe", "lenet5-mnist5k"), ("list", "attacks")):
        status, out, err = robustkit(*command)
        assert (status, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trust-program = true", "trust-program: would run code"),
        ("model = 'net.py:build'", "model: would run code"),
        ("[train]\nloss = 'mine.py:loss'", "loss: would run code"),
        ("[evaluate]\nhtml = '/etc/motd'", "html: writes outside of this folder"),
        ("[evaluate]\nout = '../runs'", "out: writes outside of this folder"),
        ("[audit]\ntrack = 'tensorboard:/tmp'", "track: writes outside of this folder"),
        ("[audit]\ntrack = 'mlflow:http://1.2.3.4'", "track: reaches another machine"),
        ("[report]\nray = 'auto'", "ray: reaches another machine"),
        ("[describe]\nsidecar-path = '/tmp/x.toml'", "sidecar-path: writes outside of this folder"),
        ("[describe]\nlabels = '../x.csv'", "labels: writes outside of this folder"),
        ("[evaluate]\nsurrogate = 'hf:other/net'", "surrogate: reaches another machine"),
        ("[audit]\nagainst = ['a.pt', 'timm:x.y']", "against: reaches another machine"),
        ("model = 'hf:other/net'", "model: reaches another machine"),
    ],
)
def test_a_file_of_somebody_elses_runs_nothing_and_writes_nothing_elsewhere(
    robustkit, tmp_path, text, message
):
    (tmp_path / "robustkit.toml").write_text(text)
    status, _, err = robustkit("list", "attacks")
    assert status == 2
    assert message in err
    # one that is named is the user's own, but code it cannot ask for, either
    (tmp_path / "robustkit.toml").rename(tmp_path / "own.toml")
    status, _, err = robustkit("list", "attacks", "--config", "own.toml")
    assert (status, message in err) == ((2, True) if "code" in message else (0, False))


def test_a_file_that_may_stay_in_its_folder_says_where_to_write(there):
    taken = there("[evaluate]\nout = 'runs/a'\ntrack = 'mlflow:here'\n[train]\ntrack = 'wandb:a/b'")
    assert taken(["evaluate"]) == ["evaluate", "--out=runs/a", "--track=mlflow:here"]
    assert taken(["train"]) == ["train", "--track=wandb:a/b"]
    taken = there("model = 'torchvision:resnet18'\n[describe]\nlabels = 'l.csv'")
    assert taken(["describe"]) == ["describe", "--model=torchvision:resnet18", "--labels=l.csv"]


# ---- completion


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("robustkit eval", ["evaluate"]),
        ("robustkit evaluate --attack pgd", ["pgd", "pgd-margin"]),
        ("robustkit evaluate len", ["lenet5-mnist5k"]),
        ("robustkit audit --data mnist5", ["mnist5k"]),
        ("robustkit train --model lene", ["lenet5", "lenet5-prelu"]),
        ("robustkit train --loss cross", ["cross-entropy"]),
        ("robustkit report liu2016-mnist-l", ["liu2016-mnist-large"]),
        ("robustkit describe --num", ["--num-classes"]),
    ],
)
def test_a_shell_is_answered_with_what_is_on_the_shelves(monkeypatch, capsys, line, found):
    monkeypatch.setenv(completion.VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    assert run(with_settings([])) == 0
    assert capsys.readouterr().out.split() == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shells_script_asks_by_the_variable_that_is_answered(monkeypatch, capsys, shell):
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    assert run(["--show-completion"]) == 0
    assert f"{completion.VARIABLE}=complete_{shell}" in capsys.readouterr().out
