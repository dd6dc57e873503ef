"""What needs no torch does not wait for it."""

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
COMMAND = f"""
import sys
from robustkit.cli.commands import run
print(run(sys.argv[1:]), [name for name in {SLOW} if name in sys.modules])
"""
CPU = torch.device("cpu")


def last_line(*arguments):
    """What a command of a process of its own says last: its status, and what slow it imported."""
    found = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()[-1]


@pytest.fixture
def bare(tmp_path):
    """A state dict and nothing else, in torch's own format, to be recognised."""
    path = tmp_path / "bare.pt"
    torch.save({"state_dict": models.build("mnist-cnn", num_classes=7, seed=0).state_dict()}, path)
    return path


def test_help_waits_for_nothing_slow():
    assert last_line("--help") == "0 []"
    assert last_line("evaluate", "--help") == "0 []"


def test_a_checkpoint_is_described_without_torch(bare):
    assert last_line("describe", "lenet5-mnist5k") == "0 []"
    assert last_line("describe", bare) == "0 []"
    assert read_checkpoint(bare).num_classes == 7


@pytest.mark.parametrize("recognised", [False, True])
def test_an_answer_on_file_is_given_without_torch(recognised, tmp_path, monkeypatch, capsys):
    path = "lenet5-mnist5k"
    if recognised:
        network = read_checkpoint(path).load().network
        path = tmp_path / "copy.pt"
        torch.save(network.state_dict(), path)
    asked = ["evaluate", str(path), "--data", "mnist5k", "--limit", "3", "--attack", "fgsm"]
    asked += ["--device", "cpu", "--out", str(tmp_path / "runs")]
    run(asked)
    first = capsys.readouterr().out
    assert last_line(*asked) == "0 []"
    run(asked)
    assert capsys.readouterr().out == first


def test_a_fresh_evaluation_waits_for_no_library_of_tables_or_statistics(tmp_path):
    asked = ["evaluate", "lenet5-mnist5k", "--data", "mnist5k", "--limit", "3", "--attack", "pgd"]
    asked += ["--device", "cpu", "--out", tmp_path / "runs"]
    assert last_line(*asked) == "0 ['torch', 'foolbox']"


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
