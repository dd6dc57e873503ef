"""A surrogate, and what an audit compares with: networks that no option of the command describes."""

import re
from pathlib import Path

import pytest
import torch

from robustkit import models
from robustkit.cli.options import CheckpointOptions, TakenWeights
from robustkit.cli.others import read_other
from robustkit.errors import InputError

CODE = """
from pathlib import Path
import torch
Path(__file__).with_name("ran").touch()
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(784, 10)
    def forward(self, x):
        return self.layer(x.flatten(1))
def build():
    return Net()
def wide():
    return Net()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two networks of one's own architecture, as bare state dicts, and the code of both."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CODE)
    for name in ("a.pt", "b.pt"):
        torch.manual_seed(len(list(tmp_path.iterdir())))
        layer = torch.nn.Linear(784, 10)
        torch.save({f"layer.{key}": value for key, value in layer.state_dict().items()}, name)
    return tmp_path


def first(model=None):
    return CheckpointOptions.parse(
        model=model,
        num_classes=None,
        mean=None,
        std=None,
        trust_program=False,
        taken=TakenWeights(),
    )


def beside(text):
    """The second network's sidecar."""
    Path("b.pt.toml").write_text(text)


def other_code(place, code=CODE):
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_text(code)


@pytest.mark.parametrize(
    ("said", "model"),
    [
        ("", "net.py:build"),  # nobody says, and it fits
        ('model = "net.py:build"\n', "net.py:build"),
        ('model = "net.py:build"\nmean = [0.5]\nstd = [0.5]\n', "./net.py:build"),
        ('model = "gone/net.py:build"\n', "net.py:build"),  # made where the file stood elsewhere
        ('model = "same/net.py:build"\n', "net.py:build"),
    ],
)
def test_the_code_that_runs_anyhow_makes_the_other_network_too(said, model, folder):
    other_code("same/net.py")
    if said:
        beside(said)
    found = read_other("b.pt", first(model))
    assert found.load()(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert (found.mean == (0.5,)) == ("mean" in said)
    (warned,) = [text for text in found.warnings if "pass --mean and --std" in text] or [""]
    assert ("mean" in said) == (not warned)
    if warned:
        assert warned.endswith("its sidecar, robustkit describe b.pt … --sidecar")


@pytest.mark.parametrize(
    ("said", "model"),
    [
        ('model = "net.py:build"\n', None),
        ('model = "net.py:wide"\n', "net.py:build"),
        ('model = "net.py:build"\n', "lenet5"),
        ('model = "else/net.py:build"\n', "net.py:build"),
        ("", None),
        ("", "lenet5"),
        ("", "net.py:small"),
    ],
)
def test_what_is_not_known_of_another_network_is_told_of_it_and_not_asked_of_the_first(
    said, model, folder
):
    other_code("else/net.py", CODE + "\n# another\n")
    other_code("net.py", CODE + "\ndef small():\n    return torch.nn.Linear(2, 2)\n")
    if said:
        beside(said)
    with pytest.raises(InputError) as error:
        read_other("b.pt", first(model))
    told = str(error.value)
    assert told.startswith("b.pt: ")
    assert told.endswith(
        "; but here such options are the first network's: give this one's to its sidecar, "
        "robustkit describe b.pt … --sidecar, or FILE.py:FUNCTION to "
        "robustkit.read_checkpoint('b.pt', model=…) in Python"
    )
    assert not Path("else/ran").exists(), "no code runs because a file names it"
    assert Path("ran").exists() == (model == "net.py:small")


def test_what_its_sidecar_says_of_another_network_is_taken(folder):
    torch.save({"module": models.build("lenet5").state_dict()}, "b.pt")
    beside('model = "lenet5"\n')
    assert read_other("b.pt", first("net.py:build")).model == "lenet5"
    sets = {name: models.build(name).state_dict() for name in ("lenet5", "lenet5-prelu")}
    torch.save(sets, "c.pt")
    with pytest.raises(InputError, match=r"--weights.*give this one's to its sidecar, .*c\.pt"):
        read_other("c.pt", first("net.py:build"))
    Path("c.pt.toml").write_text('weights_key = "lenet5"\n')
    assert read_other("c.pt", first("net.py:build")).model == "lenet5"


def test_a_network_that_a_library_builds_may_be_like_the_first_too(folder):
    pytest.importorskip("torchvision")
    name = "torchvision:squeezenet1_1"
    torch.save(models.build(name, num_classes=7).state_dict(), "b.pt")
    assert read_other("b.pt", first(name)).num_classes == 7


def test_a_surrogate_of_ones_own_architecture_attacks(folder, robustkit):
    asked = ("--model", "net.py:build", "--data", "mnist5k", "--limit", 4, "--epsilon", "0.1")
    status, out, err = robustkit(
        "evaluate", folder / "a.pt", "--attack", "fgsm", *asked, "--surrogate", folder / "b.pt"
    )
    assert status == 0, err
    assert re.search(r"fgsm by transfer from \S*b\.pt", out)


def test_an_audit_compares_with_networks_of_ones_own_architecture(folder, robustkit, monkeypatch):
    asked = {}

    def audited(network, **given):
        asked.update(given)
        raise InputError("enough")

    monkeypatch.setattr("robustkit.calls.audit.audit", audited)
    others = ("--against", folder / "b.pt", "--surrogate", folder / "b.pt")
    _, _, err = robustkit("audit", folder / "a.pt", "--model", "net.py:build", *others)
    assert err.endswith("enough\n")
    (against,) = asked["against"].values()
    assert against.identity == asked["surrogate"].identity
    assert against.has_architecture
