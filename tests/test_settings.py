"""`robustkit.toml` and completion: what a file may say for a command, and what a shell is answered."""

import json
import shutil
import sys
from itertools import permutations, product

import pytest

from robustkit.cli import completion
from robustkit.cli.commands import run, with_settings
from robustkit.cli.settings import APART, OWN, TOGETHER, pairs_of
from robustkit.errors import InputError
from robustkit.files import shipped

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


ABOVE = """device = "cpu"
data = "mnist5k"
data-root = "/data"
model = "lenet5"
limit = 100
resize = 28
workers = 2
runs = "results"
epsilon = ["0.1", "0.2"]
"""


@pytest.mark.parametrize(
    ("command", "taken"),
    [
        ("describe x", "--model=lenet5"),
        (
            "describe x --labels l.csv",
            "--data=mnist5k --data-root=/data --model=lenet5 --resize=28",
        ),
        ("certify x", "--device=cpu --data=mnist5k --data-root=/data --model=lenet5 --limit=100 "
         "--resize=28"),
        ("compare x", "--data=mnist5k --runs=results"),
        ("power --seed-sd 1", "--runs=results"),
        ("power --discordant=1", "--runs=results"),
        ("power x", "--data=mnist5k --runs=results"),
        ("report x", "--device=cpu --data-root=/data --workers=2"),
        ("report x --only-report", ""),
        ("report x --runs y", ""),
    ],
)  # fmt: skip
def test_what_stands_above_all_tables_is_taken_by_whom_it_concerns(there, command, taken):
    arguments = there(ABOVE)(command.split())
    given = len(command.split()) - 1
    assert arguments[1 : len(arguments) - given] == taken.split()


def test_a_list_above_all_tables_is_for_commands_that_take_several(there):
    taken = there(ABOVE)
    assert {"--epsilon=0.1", "--epsilon=0.2"} <= {*taken(["evaluate", "x"])}
    assert not any(one.startswith("--epsilon") for one in taken(["audit", "x"]))
    # a command's own table is meant for it
    with pytest.raises(InputError, match=r"\[certify\]: epsilon: takes one value"):
        there("[certify]\nepsilon = ['0.1', '0.2']")(["certify", "x"])


def test_what_contradicts_a_claim_or_needs_an_attack_is_left_out(there):
    taken = there("norm = 'l2'\nepsilon = '8/255'\ntarget = 'next'\nsurrogate = 's.pt'\n")
    claimed = taken(["audit", "x", "--claim", "linf:0.1=0.9"])
    assert not any(one.startswith(("--norm", "--epsilon")) for one in claimed)
    assert "--norm=l2" in taken(["audit", "x"])
    clean = taken(["evaluate", "x", "--attack", "clean"])
    assert not any(one.startswith(("--target", "--surrogate", "--epsilon")) for one in clean)
    assert {"--target=next", "--surrogate=s.pt"} <= {*taken(["evaluate", "x"])}


def test_a_commands_own_table_counts_as_if_it_were_given(there):
    own = "[describe]\ndata = 'mnist5k'\n[report]\nruns = 'r'\nworkers = 2\n[power]\ndata = 'd'\n"
    assert there(own)(["describe"]) == ["describe", "--data=mnist5k"]
    assert there(own)(["report"]) == ["report", "--runs=r", "--workers=2"]
    # but what is typed wins, with all that it rules out
    assert there(own)(["report", "--only-report"])[:-1] == ["report", "--runs=r"]
    assert there(own)(["power", "--seed-sd", "1"]) == ["power", "--seed-sd", "1"]
    pages = "[evaluate]\nhtml = 'p.html'\njson = 's.json'\ndevice = 'cpu'\n"
    assert there(pages)(["evaluate", "--dry-run"]) == ["evaluate", "--device=cpu", "--dry-run"]
    # also where one of the two is a value, or another option that is there lifts the rule
    for own, command, taken in (
        ("[audit]\nclaim = 'linf:0.1=0.9'", "audit --claim-from e.parquet", ""),
        ("[audit]\nepsilon = '0.1'", "audit --claim-from e.parquet", "--epsilon=0.1"),
        ("[audit]\nclaim = 'linf:0.1=0.9'", "audit --epsilon 0.2", ""),
        ("[audit]\nclaim = 'linf:0.1=0.9'", "audit --epsilon 0.1", "--claim=linf:0.1=0.9"),
        ("[train]\nepochs = 3", "train --steps 5", ""),
        ("[train]\nrecipe-set = ['nesterov=true', 'drop=0.5']", "train --optimizer adam",
         "--recipe-set=drop=0.5"),
        ("[report]\nlimit = 9\nmodel = 'm'\nbaseline = 'b'", "report --runs r", "--baseline=b"),
        ("[report]\ncheckpoints = 'c'\nlimit = 9\nbaseline = 'b'", "report --only-report", ""),
        ("[report]\nruns = 'r'\nbaseline = 'b'", "report --only-report", "--runs=r --baseline=b"),
        ("[evaluate]\nattack = 'clean'", "evaluate --epsilon 0.1", ""),
        ("[evaluate]\nepsilon = '0.1'", "evaluate --attack clean", ""),
        ("epsilon = '0.1'\n[evaluate]\nattack = 'clean'", "evaluate", "--attack=clean"),
        ("attack = 'clean'\nepsilon = '0.1'", "evaluate", "--attack=clean"),
        ("[evaluate]\nattack = 'pgd'", "evaluate --epsilon 0.1", "--attack=pgd"),
    ):  # fmt: skip
        command, *options = command.split()
        assert there(own)([command, *options]) == [command, *taken.split(), *options]
    # an option above all tables goes with one of the command's own
    labels = "resize = 28\n[describe]\nlabels = 'l.csv'\n"
    assert there(labels)(["describe"]) == ["describe", "--resize=28", "--labels=l.csv"]
    # and a flag that is off there is off
    off = "fresh = true\n[certify]\nfresh = false\n"
    assert there(off)(["certify"]) == ["certify"]
    assert there(off)(["evaluate"]) == ["evaluate", "--fresh"]


def test_every_command_and_option_of_the_rules_is_one():
    from robustkit.cli.commands import _commands

    known = {
        name: [o for p in c.params for o in p.opts] for name, c in _commands().commands.items()
    }
    rules = [(c, {o, *others}) for c in TOGETHER for o, others in TOGETHER[c].items()]
    rules += [(c, {one.first, one.second}) for c in APART for one in pairs_of(c)]
    for command, options in [*rules, *((c, {*own}) for c, own in OWN.items())]:
        assert {f"--{one}" for one in options} <= {*known[command]}


VALUES = {
    "attack": "clean", "at": "0.1", "baseline": "b", "checkpoints": "{loss}.pt", "claim-from": "c",
    "claim": "linf:0.1=0.9", "cpus-per-cell": "1", "data": "mnist5k", "data-root": "d",
    "device": "cpu,cpu", "discordant": "1", "epochs": "1", "epsilon": "0.2", "gpus-per-cell": "1",
    "hours": "1", "html": "h", "json": "j", "limit": "9", "model": "lenet5", "momentum": "0.5",
    "noise-kind": "file:f", "norm": "l2", "optimizer": "adam", "precision": "bf16",
    "ray": "HOST:1", "runs": "r", "schedule": "cosine", "seed-sd": "1", "shared": "s", "steps": "1",
    "surrogate": "lenet5-mnist5k", "target": "next", "track": "mlflow", "workers": "2",
}  # fmt: skip
"""of options, each such that its pairs do not go together"""
RECIPE = (
    "nesterov=true", "smoothing=0.5", "start=0.5", "stabiliser=0.5", "decay=0.5", "decay_steps=2",
    "milestones=2,4", "drop=0.5",
)  # fmt: skip
BESIDE = {
    "audit": ["lenet5-mnist5k", "--limit", "2", "--budget", "quick"],
    "evaluate": ["lenet5-mnist5k", "other.pt", "--limit", "2"],
    "power": ["--delta", "1", "--images", "100", "--seed-sd", "1", "--discordant", "1"],
    "report": ["adversarial"],
    "train": ["--model", "lenet5", "--data", "mnist5k"],
}
PAIRS = [(command, pair) for command in APART for pair in pairs_of(command)]
of_pairs = pytest.mark.parametrize(
    ("command", "pair"), PAIRS, ids=[f"{c}-{pair.first}-{pair.second}" for c, pair in PAIRS]
)


def clashing(pair):
    """Both options as on a command line, with values that do not go together."""
    firsts = ("sgd", "adam") if pair.first == "optimizer" else (VALUES.get(pair.first, ""),)
    seconds = RECIPE if pair.second == "recipe-set" else (VALUES.get(pair.second, ""),)
    one, other = next((x, y) for x, y in product(firsts, seconds) if pair.clash(x, y))
    return (pair.first, one), (pair.second, other)


@of_pairs
def test_of_two_options_that_do_not_go_together_the_typed_one_wins(there, tmp_path, command, pair):
    """Whichever of them stands in the file, and wherever in it."""
    for (name, text), (other, value) in permutations(clashing(pair)):
        typed = [f"--{name}={text}" if text else f"--{name}", "--config=own.toml"]
        said = f"{other} = {json.dumps(value) if value else 'true'}\n"
        for file in (said, f"[{command}]\n{said}"):
            (tmp_path / "own.toml").write_text(file)
            assert with_settings([command, *typed]) == [command, *typed]


@of_pairs
def test_and_both_typed_are_refused(robustkit, tmp_path, command, pair):
    """In a line that names one of them: what the rules keep apart does not go together."""
    if pair.first == "claim-from":
        asked = ("evaluate", "lenet5-mnist5k", "--attack", "fgsm", "--epsilon", "0.1")
        assert robustkit(*asked, "--limit", "2", "--json", "c")[0] == 0
    shutil.copy(shipped("data") / "lenet5-mnist5k.safetensors", tmp_path / "other.pt")
    typed = [part for name, text in clashing(pair) for part in (f"--{name}", text) if part]
    status, out, err = robustkit(command, *BESIDE[command], *typed)
    assert (status, out) == (2, "")
    for line in err.splitlines():
        assert "error: " in line
        assert any(f"--{name}" in line for name in (pair.first, pair.second))


@pytest.mark.parametrize("above", ["data-root = '/data'", "resize = 28", "data = 'mnist5k'"])
def test_a_checkpoint_is_described_whatever_stands_above_all_tables(robustkit, tmp_path, above):
    (tmp_path / "robustkit.toml").write_text(f"{above}\n")
    status, out, _ = robustkit("describe", "lenet5-mnist5k")
    assert (status, "lenet5" in out) == (0, True)


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
