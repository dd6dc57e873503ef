"""Every call that asks a network asks first whether an image's logits are its own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustkit import protocol
from robustkit.attack import Block
from robustkit.certification import (
    SmoothedCertificates,
    SmoothingNoise,
    attack_smoothed,
    certify,
    certify_rising,
    decide,
    predict,
    smooth,
)
from robustkit.checkpoint import OneByOne
from robustkit.corruption import measure
from robustkit.errors import InputError, RobustkitError

CLASSES, SIDE = 3, 8
NOISE = SmoothingNoise(0.1, n0=4, n=20)


class Net(nn.Module):
    """A linear network of fixed weights."""

    def __init__(self, classes: int = CLASSES, side: int = SIDE) -> None:
        super().__init__()
        self.head = nn.Linear(side * side, classes)
        source = torch.Generator().manual_seed(0)
        self.head.weight.data = torch.randn(classes, side * side, generator=source) / side
        self.head.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class Mixes(Net):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class Remembers(Net):
    """Answers the first batch of a shape for ever."""

    def __init__(self):
        super().__init__()
        self.cache = {}

    def forward(self, x):
        return self.cache.setdefault(x.shape, super().forward(x))


class Raises(Net):
    def forward(self, x):
        raise AssertionError("16 × 16 images, please")


class Pair(Net):
    """Its logits are not all that it returns."""

    def forward(self, x):
        return super().forward(x), x


class Words(Net):
    def forward(self, x):
        return "three"


class Overwrites(Net):
    def forward(self, x):
        return super().forward(x.mul_(2)) / 2


def pictures(n: int = 6) -> Tensor:
    return torch.rand(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def labels(n: int = 6) -> Tensor:
    return Net().eval()(pictures(n)).argmax(1)


def names(n: int = 6) -> list[str]:
    return [f"image {i}" for i in range(n)]


def smoothed() -> SmoothedCertificates:
    return SmoothedCertificates(NOISE, labels().numpy(), np.zeros(6), np.ones(6))


def block_protocol():
    table = {"title": "", "norm": "linf", "attack": [{"kind": "fgsm"}], "epsilon": ["0.01"]}
    return protocol.parse_protocol(table, "test", "test")


CALLS = {
    "certify": lambda net: certify(net, pictures(), labels(), "linf", 0.001).robust.tolist(),
    "certify_rising": lambda net: certify_rising(net, pictures(), labels(), "l2", [0.001])[
        0
    ].robust.tolist(),
    "decide": lambda net: [
        decision.outcome
        for _, decision in decide(
            net, Block(pictures(), labels(), names(), 0), block_protocol(), time_limit=1
        )
    ],
    "smooth": lambda net: smooth(net, pictures(), names(), NOISE).predicted.tolist(),
    "predict": lambda net: predict(net, pictures(), names(), NOISE).tolist(),
    "attack_smoothed": lambda net: attack_smoothed(
        net, pictures(), labels(), names(), 0.1, smoothed(), steps=2, draws=2
    ).attacked.tolist(),
    "measure": lambda net: measure(
        *(net, lambda a, b: pictures()[a:b], labels(), names(), 2),
        names=["contrast"],
        severities=[1],
    ).tolist(),
}
BOUNDS = ("certify", "certify_rising", "decide")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("network", [Mixes, Remembers])
def test_no_call_takes_a_network_whose_logits_of_an_image_are_not_its_own(call, network):
    with pytest.raises(InputError) as refused:
        CALLS[call](network().eval())
    assert "\n" not in str(refused.value)
    words = "depend on who shares its batch" if network is Mixes else "keeps something"
    assert words in str(refused.value)
    assert ("OneByOne(model)" in str(refused.value)) == (network is Mixes and call not in BOUNDS)


@pytest.mark.parametrize("call", [call for call in CALLS if call not in BOUNDS])
def test_what_a_refusal_advises_helps(call):
    with torch.no_grad():
        alone = Net().eval()(torch.zeros(1, 1, SIDE, SIDE)).argmax(1).item()
    found = CALLS[call](OneByOne(Mixes().eval()))
    # an image alone is its own mean
    if call in ("smooth", "predict"):
        assert found == [alone] * 6
    assert len(np.ravel(found)) == 6


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("network", [Raises, Words])
def test_what_a_network_raises_or_returns_is_told_in_one_line_by_every_call(call, network):
    with pytest.raises(RobustkitError) as told:
        CALLS[call](network().eval())
    assert "\n" not in str(told.value)
    words = "16 × 16 images, please" if network is Raises else "returns str"
    assert words in str(told.value)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("network", [Pair, Overwrites])
def test_logits_among_other_outputs_and_input_written_to_change_nothing(call, network):
    assert CALLS[call](network().eval()) == CALLS[call](Net().eval())
