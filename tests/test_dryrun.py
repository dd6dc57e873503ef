"""`evaluate --dry-run` says what would run and writes nothing."""

import importlib
import re
import shutil
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from torch import nn

from robustkit import evaluate
from robustkit.calls.planning import plan_evaluation
from robustkit.cli import dryrun as cli_dryrun
from robustkit.errors import EvaluationFailed
from robustkit.evaluation import computing, planning
from robustkit.files import shipped
from robustkit.protocol import KINDS, MostPasses, load_protocol, most_passes
from robustkit.record import mean_passes
from robustkit.record.file import read

command = importlib.import_module("robustkit.cli.evaluate")  # not the function of that name
COMMAND = ("evaluate", "lenet5-mnist5k", "--limit", "20", "--device", "cpu")
SMALL = (*COMMAND, "--epsilon", "0.1", "--epsilon", "0.2", "--set", "pgd.steps=3")


def facts(out):
    """The lines of a plan by their labels."""
    return {
        line[2:].split("  ")[0]: line.split("  ", 2)[2].strip() for line in out.splitlines()[1:]
    }


def test_what_would_run_is_shown_and_nothing_is_written(robustkit, tmp_path):
    status, out, _ = robustkit(*SMALL, "--seed", "3", "--batch-size", "7", "--dry-run")
    assert status == 0
    assert not list(tmp_path.iterdir())
    assert out.splitlines()[0] == "lenet5-mnist5k"
    told = facts(out)
    assert told["network"] == "lenet5, 61,706 parameters"
    assert told["data"] == "mnist5k test, 20 images of 1×28×28"
    assert told["threat"] == "ℓ∞, ε = 0.1, 0.2; untargeted; seed 3"
    assert told["attack 1"] == "fgsm (loss = cross-entropy)"
    assert told["attack 2"].startswith("pgd (steps = 3, relative_step = 1/16, restarts = 5, ")
    assert told["device"].startswith("cpu, ")
    assert told["device"].endswith("; searches in float32; images per batch: 7")
    assert re.fullmatch(
        r"about [\d.]+ s if every image .* takes [\d.e-]+ ms per image", told["time"]
    )
    assert told["record"] == "none on file; it would be written to runs"


@pytest.mark.thorough
def test_no_image_takes_more_passes_than_are_told(robustkit, tmp_path):
    told = facts(robustkit(*SMALL, "--prove", "off", "--dry-run")[1])["passes"]
    forwards, both = map(int, re.match(r"at most (\d+) forward and (\d+) forward", told).groups())
    assert robustkit(*SMALL, "--prove", "off")[0] == 0
    (path,) = (tmp_path / "runs").glob("*.parquet")
    before = path.read_bytes()
    cost = mean_passes(read(path).table)
    assert 0.1 * both < cost.backward <= both
    assert cost.forward <= forwards + both
    status, out, _ = robustkit(*SMALL, "--prove", "off", "--dry-run")
    assert status == 0
    assert facts(out)["record"] == f"runs/{path.name}, on file: nothing would run"
    assert "time" not in facts(out)
    assert [p.read_bytes() for p in (tmp_path / "runs").glob("*.parquet")] == [before]


def test_without_an_attack_there_is_one_pass(robustkit):
    told = facts(robustkit(*COMMAND, "--attack", "clean", "--dry-run")[1])
    assert told["attacks"] == "none, only the images as they are"
    assert told["passes"].startswith("at most 1 forward per image")
    assert re.match(
        r"about [\d.]+ s in total: measured just now, a pass forward takes", told["time"]
    )
    # whether it is on file is known only where the answer would be looked for without measuring
    for more, record in (
        (("--fresh",), "re-run, and written to runs"),
        (("--precision", "bf16"), "found when it runs, else written to runs"),
    ):
        told = facts(robustkit(*COMMAND, "--attack", "fgsm", "--dry-run", *more)[1])
        assert told["record"] == record


def test_what_cannot_be_evaluated_is_told_and_the_others_are_planned(robustkit, tmp_path):
    status, out, err = robustkit(*COMMAND, "nowhere.pt", "--attack", "fgsm", "--dry-run")
    assert status == 3
    assert "attacks     fgsm" in out
    assert "robustkit: error: nowhere.pt: no such file" in err
    status, out, err = robustkit(
        *COMMAND, "--attack", "cw", "--surrogate", "lenet5-mnist5k", "--dry-run"
    )
    assert (status, out) == (2, "")
    assert "cannot use a surrogate" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "device", "share"),
    [
        ((), "cpu, 1 thread; searches", 600),
        (("--device", "cpu,cpu"), "cpu, cpu, 1 thread each; searches", 512),
        (("--device", "cpu,cpu,cpu,cpu"), "cpu, cpu, cpu, 1 thread each; searches", 256),
        (("--device", "cpu,cpu", "--attack", "clean"), "cpu, 1 thread; searches", 600),
        (("--ray", "HOST:1"), "a Ray cluster (HOST:1); searches", 600),
        (("other.pt", "--workers", "2"), "cpu, 1 thread; 2 checkpoints at a time; searches", 600),
    ],
)
def test_the_time_told_is_that_of_who_would_work(
    robustkit, monkeypatch, tmp_path, options, device, share
):
    """Three blocks of 256, 256 and 88 images; a pass takes a second."""
    shutil.copy(shipped("data") / "lenet5-mnist5k.safetensors", tmp_path / "other.pt")
    monkeypatch.setattr(planning, "_timed", lambda *_: MostPasses(1, 1))
    monkeypatch.setattr("robustkit.machine.threads", lambda workers=1: 1)
    monkeypatch.setattr(cli_dryrun, "span", lambda seconds: f"{seconds:.0f} seconds")
    attack = () if "clean" in options else ("--epsilon", "0.1", "--attack", "fgsm")
    asked = ("evaluate", "lenet5-mnist5k", "--limit", "600", *attack, *options, "--dry-run")
    status, out, _ = robustkit(*asked)
    passes = 3 if attack else 1
    for told in map(facts, out.split("\nother.pt\n")):
        assert told["device"].startswith(device)
        assert told["time"].startswith(f"about {share * passes} seconds")
        assert ("by one worker as fast as this machine" in told["time"]) is ("--ray" in options)
    assert status == 0


OPTIONS = {
    "precision tf32": ("--precision", "tf32"),
    "precision bf16": ("--precision", "bf16"),
    "two devices": ("--device", "cpu,cpu"),
    "no device": ("--device", "nowhere"),
    "all GPUs": ("--device", "all"),
    "ray": ("--ray", "HOST:1"),
    "surrogate": ("--surrogate", "lenet5-mnist5k"),
    "clean": ("--attack", "clean"),
    "cw": ("--attack", "cw", "--norm", "l2"),
    "fab": ("--attack", "fab"),
    "target": ("--target", "next"),
    "batch size": ("--batch-size", "0"),
    "l2": ("--norm", "l2"),
    "l0": ("--norm", "l0"),
    "steps": ("--set", "steps=2"),
    "images": ("--save-adversarial", "x.npz"),
    "workers": ("other.pt", "--workers", "2"),
    "image by image": ("--image-by-image",),
    "other data": ("--data", "cifar10"),
    "split": ("--split", "fog-3"),
}
TOLD = [
    ("precision tf32", "two devices"), ("precision bf16", "surrogate"), ("two devices", "ray"),
    ("precision bf16", "clean"), ("ray", "workers"), ("images", "workers"), ("clean", "surrogate"),
]  # fmt: skip
"""some of the pairs that are refused"""


class Attacked(EvaluationFailed):
    """The evaluation was not refused."""


@pytest.fixture
def both(robustkit, monkeypatch, tmp_path):
    """Status and lines of a command that ends where images would be attacked, and of its plan."""

    def attacked(*_):
        raise Attacked("attacked")

    def ask(*options):
        monkeypatch.setattr(computing, "_done", attacked)
        in_turn = command._evaluate_all
        monkeypatch.setattr(command, "_in_processes", lambda jobs, _, said: in_turn(jobs, 1, said))
        monkeypatch.setattr(planning, "_timed", lambda *_: MostPasses(0.1, 0.1))
        given = [part for option in options for part in OPTIONS[option]]
        device = [] if "--device" in given else ["--device", "cpu"]
        asked = ("evaluate", "lenet5-mnist5k", "--limit", "4", *device, *given)
        done = [
            (status, err) for status, _, err in (robustkit(*asked), robustkit(*asked, "--dry-run"))
        ]
        errors = [[line for line in err.splitlines() if "error: " in line] for _, err in done]
        return [status for status, _ in done], errors

    shutil.copy(shipped("data") / "lenet5-mnist5k.safetensors", tmp_path / "other.pt")
    return ask


@pytest.mark.one_of_many(20)
@pytest.mark.parametrize("pair", [pair for pair in combinations(OPTIONS, 2) if pair not in TOLD])
def test_what_any_two_options_ask_is_refused_by_both(both, pair):
    test_what_would_be_refused_is_no_plan(both, pair)


@pytest.mark.parametrize("pair", TOLD)
def test_what_would_be_refused_is_no_plan(both, pair):
    """Whatever two options do not go together, the command and its plan say the same of it."""
    (status, planned), (told, plans) = both(*pair)
    if told and all("attacked" in line for line in told):
        assert (planned, plans) == (0, [])
    else:
        assert (status, told) == (planned, plans)
    assert (status == 2) or pair not in TOLD


def test_pairs_of_faces_are_planned_as_they_are_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    lines = ["2\t2"]
    for person in ("Ann", "Bob"):
        (tmp_path / "faces" / person).mkdir(parents=True)
        for number in (1, 2):
            face = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            face.save(tmp_path / "faces" / person / f"{person}_000{number}.png")
    for _ in range(2):
        lines += ["Ann\t1\t2", "Bob\t1\t2", "Ann\t1\tBob\t1", "Ann\t2\tBob\t2"]
    (tmp_path / "faces" / "pairs.txt").write_text("\n".join(lines) + "\n")
    features = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten())
    asked = {"attack": "fgsm", "epsilon": "0.1", "surrogate": features, "device": "cpu"}
    found = plan_evaluation(features, "faces", **asked)
    assert found.model.header["verification"].startswith("cosine similarity")
    assert (len(found.data), found.parameters) == (8, 4 * 49)
    assert evaluate(features, "faces", **asked).header["checkpoint"]["verification"]


def test_the_parameters_told_are_the_networks_own_and_not_the_surrogates(tmp_path):
    draw = np.random.default_rng(0)
    arrays = draw.random((6, 1, 4, 4), dtype=np.float32), np.arange(6) % 3
    own = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 3))
    asked = {"attack": "fgsm", "epsilon": "0.1", "device": "cpu", "out": tmp_path}
    for surrogate in (None, other):
        found = plan_evaluation(own, arrays, surrogate=surrogate, **asked)
        assert found.parameters == 16 * 3 + 3


@pytest.mark.parametrize("name", ["fgsm", "pgd", "autoattack", "noise", "square", "deepfool", "cw"])
def test_more_budgets_never_cost_less(name):
    for attack in load_protocol(name).attacks:
        few, many = (most_passes(attack, budgets, 10, "scan") for budgets in (1, 4))
        assert sum(few) <= sum(many)
        assert sum(few) > 0


def test_every_kind_of_attack_has_a_price():
    unpriced = [
        kind
        for kind, cls in KINDS.items()
        if kind != "fgsm" and sum(most_passes(_made(cls), 1, 10, "scan")) <= 2
    ]
    assert unpriced == []


def _made(cls):
    try:
        return cls()
    except TypeError:
        return cls(5)
