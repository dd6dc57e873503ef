"""A network that turns late, after every check at the start: whoever works with it asks again."""

import pytest
import torch
from helpers.crews import TakingTurns
from torch import nn

import robustkit
from robustkit.attacks.lasting import NetworkChanged, unchanged
from robustkit.certification import SmoothingNoise, attack_smoothed, smooth
from robustkit.checkpoint import read_checkpoint
from robustkit.corruption import measure
from robustkit.errors import EvaluationFailed, InputError
from robustkit.evaluation import blocks, spreading
from robustkit.evaluation.blocks import Attacker

IMAGES = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
NAMES = [f"image {i}" for i in range(24)]
NOISE = SmoothingNoise(0.1, n0=20, n=40)
NEVER = 10**9
pytestmark = pytest.mark.filterwarnings("ignore:the network (is randomised|draws)")


class Late(nn.Module):
    """A small network that answers otherwise from some pass on; its copies count, too."""

    passed, when = 0, NEVER

    def __init__(self, noise=0.0):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        source = torch.Generator().manual_seed(0)
        for weight in self.net.parameters():
            weight.data = torch.randn(weight.shape, generator=source) / 3
        self.noise = noise
        self.eval().requires_grad_(False)

    def turned(self):
        Late.passed += 1
        return Late.passed >= Late.when

    def forward(self, x):
        turned = self.turned()
        if self.noise:
            x = x + self.noise * torch.randn_like(x)
        return -self.net(x) if turned else self.net(x)


class LateNoise(Late):
    """It draws from some pass on."""

    def forward(self, x):
        return self.net(x + 0.5 * torch.randn_like(x) if self.turned() else x)


class Other(Late):
    """It answers otherwise from some moment on, wherever it stands."""

    late = False

    def turned(self):
        return Other.late


class DrawsForItself(Late):
    """It draws at every n-th pass, from a generator that no seed of others reaches."""

    def __init__(self, every):
        super().__init__()
        self.every, self.source, self.count = every, torch.Generator().manual_seed(0), 0

    def forward(self, x):
        self.count += 1
        drawn = torch.randn(x.shape, generator=self.source) if self.count % self.every == 0 else 0
        return self.net(x + 0.3 * drawn)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(Late, "passed", 0)
    monkeypatch.setattr(Late, "when", NEVER)


LABELS = Late()(IMAGES).argmax(1)
GIVEN = (IMAGES[:4], NAMES[:4])


def smoothed_under_attack(net):
    found = smooth(Late(), *GIVEN, NOISE)
    attack_smoothed(net, IMAGES[:4], LABELS[:4], NAMES[:4], 0.1, found, steps=2, draws=2)


CALLS = {
    "attack": lambda net: robustkit.attack(net, "fgsm", epsilon=0.1)(IMAGES, LABELS),
    "measure": lambda net: measure(
        *(net, lambda a, b: IMAGES[a:b], LABELS, NAMES, 8),
        **{"names": ["contrast"], "severities": [1, 3]},
    ),
    "smooth": lambda net: smooth(net, *GIVEN, NOISE),
    "attack_smoothed": smoothed_under_attack,
}
NETWORKS = {"plain": Late, "noisy": lambda: Late(0.05), "noise later": LateNoise}


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("call", CALLS)
def test_a_network_that_turns_at_the_end_of_its_work_is_refused(call, network, monkeypatch):
    CALLS[call](NETWORKS[network]())
    monkeypatch.setattr(Late, "when", Late.passed - 2)
    monkeypatch.setattr(Late, "passed", 0)
    with pytest.raises(NetworkChanged, match="keeps a state between passes"):
        CALLS[call](NETWORKS[network]())


def test_an_attack_asks_at_every_call(monkeypatch):
    attack = robustkit.attack(Late(), "fgsm", epsilon=0.1)
    attack(IMAGES, LABELS)
    before = Late.passed
    attack(IMAGES, LABELS)
    monkeypatch.setattr(Late, "when", 2 * Late.passed - before - 2)
    with pytest.raises(InputError, match="keeps a state between passes"):
        attack(IMAGES, LABELS)


@pytest.mark.parametrize("every", [1, 2, 7])
def test_a_network_with_draws_of_its_own_is_not_taken_for_one_that_turned(every):
    net = DrawsForItself(every)
    for _ in range(every + 1):
        with unchanged(net, IMAGES, random=True):
            net(IMAGES)


def test_what_breaks_in_the_work_is_told_as_it_is():
    def works():
        with unchanged(Late(), IMAGES, random=False):
            Late.when = 0
            raise EvaluationFailed("it broke")

    with pytest.raises(EvaluationFailed, match="it broke"):
        works()


def test_images_that_are_overwritten_during_the_work_are_no_change():
    images = IMAGES.clone()
    with unchanged(Late(), images, random=False):
        images.zero_()


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("noise", [0.05, 0.0])
@pytest.mark.parametrize("whose", ["surrogate", "model"])
@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_an_evaluation_asks_surrogates_and_networks_that_draw(
    device, whose, noise, tmp_path, monkeypatch
):
    monkeypatch.setattr(Other, "late", False)
    monkeypatch.setattr(blocks, "block_size", lambda data, device: 12)
    monkeypatch.setattr(spreading, "Processes", TakingTurns())
    asked = {"epsilon": ["0.05"], "name": "a", "out": tmp_path, "device": device}
    networks = {"model": Late(), "surrogate": Late()} | {whose: Other(noise)}
    attack = Attacker.attack

    def turning(attacker, span, progress):
        Other.late = span.number == 1
        return attack(attacker, span, progress)

    monkeypatch.setattr(Attacker, "attack", turning)
    said = "^the surrogate: " if whose == "surrogate" else "^the network's logits"
    with pytest.raises(InputError, match=said + ".*keeps a state between passes"):
        robustkit.evaluate(
            networks["model"], (IMAGES, LABELS), "fgsm", surrogate=networks["surrogate"], **asked
        )
    assert not [*tmp_path.rglob("*.parquet")]


@pytest.mark.parametrize("kept", [0.0, 1e9])
def test_a_certification_is_asked_before_it_is_kept(kept, tmp_path, monkeypatch):
    monkeypatch.setattr("robustkit.evaluation.certifying.OFTEN", kept)
    code = tmp_path / "late.py"
    code.write_text(CODE)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).state_dict(), tmp_path / "late.pt")
    checkpoint = read_checkpoint(tmp_path / "late.pt", model=f"{code}:late")
    data = (IMAGES, LABELS)
    asked = {"epsilon": "0.01", "time_limit": 0, "out": tmp_path / "runs"}

    def turn(done, total):
        if done == 20:
            torch.turned_late = True

    monkeypatch.setattr(torch, "turned_late", False, raising=False)
    with pytest.raises(InputError, match="keeps a state between passes"):
        robustkit.certify(checkpoint, data, progress=turn, **asked)
    assert not [*(tmp_path / "runs").rglob("*.npz")]
    torch.turned_late = False
    assert len(robustkit.certify(checkpoint, data, **asked).rows) == 24


CODE = """
import torch

class Late(torch.nn.Sequential):
    def forward(self, x):
        found = super().forward(x)
        return -found if torch.turned_late else found

def late(num_classes=3):
    return Late(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))
"""
