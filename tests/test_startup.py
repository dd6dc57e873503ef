"""What needs no torch does not wait for it."""

import json
import re
import subprocess
import sys

import pytest
import torch

from robustkit import evaluation, models
from robustkit.checkpoint import read_checkpoint
from robustkit.cli.commands import run
from robustkit.data import load_dataset
from robustkit.evaluation.config import evaluation_key
from robustkit.machine import kind_of_device, torch_version

SLOW = ("torch", "foolbox", "scipy.stats", "pandas", "statsmodels")
COMMANDS = f"""
import json, os, sys
from robustkit.cli.commands import run
for arguments in json.loads(sys.argv[1]):
    if os.fork() == 0:
        status = run(arguments)
        print("\\nended:", status, [name for name in {SLOW} if name in sys.modules], flush=True)
        os._exit(0)
    os.wait()
"""
CPU = torch.device("cpu")


def ends(*commands):
    """How commands end, each in a process of its own: its status, and what slow it imported."""
    asked = json.dumps([list(map(str, arguments)) for arguments in commands])
    found = subprocess.run([sys.executable, "-c", COMMANDS, asked], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return re.findall("^ended: (.*)$", found.stdout, re.MULTILINE)


@pytest.fixture
def bare(tmp_path):
    """A state dict and nothing else, in torch's own format, to be recognised."""
    path = tmp_path / "bare.pt"
    torch.save({"state_dict": models.build("mnist-cnn", num_classes=7, seed=0).state_dict()}, path)
    return path


def test_help_waits_for_nothing_slow():
    assert ends(["--help"], ["evaluate", "--help"]) == ["0 []"] * 2


@pytest.mark.thorough
def test_a_checkpoint_is_described_without_torch(bare):
    assert ends(["describe", "lenet5-mnist5k"], ["describe", bare]) == ["0 []"] * 2
    assert read_checkpoint(bare).num_classes == 7


@pytest.mark.thorough
def test_an_answer_on_file_is_given_without_torch(tmp_path, capsys):
    recognised = tmp_path / "copy.pt"
    torch.save(read_checkpoint("lenet5-mnist5k").load().network.state_dict(), recognised)
    options = ["--data", "mnist5k", "--limit", "3", "--attack", "fgsm", "--device", "cpu"]
    options += ["--out", str(tmp_path / "runs")]
    asked = [["evaluate", str(path), *options] for path in ("lenet5-mnist5k", recognised)]
    first = []
    for arguments in asked:
        run(arguments)
        first.append(capsys.readouterr().out)
    assert ends(*asked) == ["0 []"] * 2
    for arguments, before in zip(asked, first, strict=True):
        run(arguments)
        assert capsys.readouterr().out == before


@pytest.mark.thorough
def test_a_fresh_evaluation_waits_for_no_library_of_tables_or_statistics(tmp_path):
    asked = ["evaluate", "lenet5-mnist5k", "--data", "mnist5k", "--limit", "3", "--attack", "pgd"]
    asked += ["--device", "cpu", "--out", tmp_path / "runs"]
    assert ends(asked) == ["0 ['torch', 'foolbox']"]


def test_the_key_is_the_same_with_and_without_torch():
    checkpoint = evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k"))
    data = load_dataset("mnist5k", limit=2)
    protocol = evaluation.resolve_protocol("pgd", data)
    config = evaluation.Config(checkpoint, data, protocol, CPU)
    kind = kind_of_device("cpu")
    assert evaluation_key(checkpoint, data, protocol, kind, None) == config.key
    assert evaluation.record_header(config)["digest"] == config.key.digest
    assert config.key.engine.torch == torch_version() == torch.__version__


def test_only_torch_tells_which_device_has_another_name(monkeypatch):
    assert kind_of_device("cpu") == "cpu"
    assert {kind_of_device(name) for name in ("cuda", "cpu:0", "mps", "nonsense")} == {None}
    if torch.cuda.is_available():
        assert kind_of_device("auto") is None
    for built, kind in (({"cuda": None}, "cpu"), ({"cuda": None, "hip": "6"}, None), ({}, None)):
        monkeypatch.setattr("robustkit.machine._built", lambda built=built: built)
        assert kind_of_device("auto") == kind
    monkeypatch.setattr("robustkit.machine._built", lambda: {"cuda": "13.0"})
    for fault, kind in ((OSError, "cpu"), (None, None)):

        def driver(name, fault=fault):
            if fault:
                raise fault

        monkeypatch.setattr("ctypes.CDLL", driver)
        assert kind_of_device("auto") == kind


def test_torch_is_asked_where_its_files_do_not_say_its_version(monkeypatch):
    monkeypatch.setattr("robustkit.machine._built", dict)
    assert torch_version() == torch.__version__
