"""A network that changes from pass to pass, or mixes its images in large batches alone."""

import pytest
import torch
from helpers.crews import TakingTurns
from torch import Tensor, nn

import robustkit
from robustkit.attacks.contract import check_contract
from robustkit.attacks.lasting import FirstAnswers
from robustkit.certification import SmoothingNoise, smooth
from robustkit.corruption import measure
from robustkit.data import from_arrays
from robustkit.errors import InputError
from robustkit.evaluation import blocks, spreading
from robustkit.evaluation.blocks import Attacker
from robustkit.evaluation.probe import probe

IMAGES = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
CPU = torch.device("cpu")


class Net(nn.Module):
    """A small network of fixed weights, with a state."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        source = torch.Generator().manual_seed(0)
        for weight in self.net.parameters():
            weight.data = torch.randn(weight.shape, generator=source) / 3
        self.register_buffer("state", torch.zeros(1))
        self.count = 0
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Drifts(Net):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        self.state.mul_(1 - self.rate).add_(self.rate * 5 * x.detach().mean())
        return self.net(x - self.state)


class DriftsToANewTensor(Drifts):
    def forward(self, x):
        self.state = (1 - self.rate) * self.state + self.rate * 5 * x.detach().mean()
        return self.net(x - self.state)


class DriftsWithNoise(Drifts):
    def forward(self, x):
        return super().forward(x + 0.05 * torch.randn_like(x))


class Learns(Drifts):
    def forward(self, x):
        self.net[3].weight.data.mul_(1 - self.rate)
        return self.net(x)


class CountsInABuffer(Net):
    def forward(self, x):
        self.state += 1
        return self.net(x) * (-1) ** self.state


class CountsForNobody(Net):
    def forward(self, x):
        self.state += 1
        return self.net(x)


class FillsABuffer(Net):
    def forward(self, x):
        self.state = x.detach().clone()
        return self.net(self.state if not x.requires_grad else x)


class DrawsIntoABuffer(Net):
    def forward(self, x):
        return self.net(x + 0.05 * self.state.resize_(x.shape[1:]).normal_())


class DrawsForItself(Net):
    def __init__(self):
        super().__init__()
        self.source = torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.net(x + 0.05 * self.state.copy_(torch.randn(1, generator=self.source)))


class Turns(Net):
    """It answers otherwise from some pass on; nothing but Python knows of it."""

    def __init__(self, when):
        super().__init__()
        self.when = when

    def forward(self, x):
        self.count += 1
        return self.net(x) if self.count < self.when else -self.net(x)


@pytest.mark.parametrize("rate", [1e-2, 1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("network", [Drifts, DriftsToANewTensor, DriftsWithNoise, Learns])
def test_a_state_that_decides_on_later_logits_is_refused(network, rate):
    given = network(rate)
    before = {name: t.clone() for name, t in given.state_dict().items()}
    with pytest.raises(InputError, match="keeps a state between passes"):
        robustkit.evaluate(given, (IMAGES, torch.zeros(24, dtype=torch.int64)), "clean")
    assert all(torch.equal(t, before[name]) for name, t in given.state_dict().items())


def test_so_is_a_counter_in_a_buffer():
    with pytest.raises(InputError, match="keeps a state between passes"):
        check_contract(CountsInABuffer(), IMAGES, "")


@pytest.mark.parametrize(
    ("network", "random"),
    [(CountsForNobody, 0), (FillsABuffer, 0), (DrawsIntoABuffer, 1), (DrawsForItself, 1)],
)
def test_a_state_that_decides_on_nothing_is_none(network, random):
    assert check_contract(network(), IMAGES, "").random == random


@pytest.mark.parametrize("when", [3, 5, 10, 15])
def test_one_that_answers_otherwise_from_some_pass_on_is_not_taken_for_random(when):
    with pytest.raises(InputError, match="keeps a state between passes"):
        check_contract(Turns(when), IMAGES, "")


def test_one_that_answers_otherwise_after_its_work_is_refused():
    data = from_arrays(IMAGES.numpy(), torch.arange(24).numpy() % 3, name="arrays")
    network = Turns(500)
    first = FirstAnswers(network, IMAGES[:16], False, probe(network, data, CPU).logits)
    first.check()
    for image in IMAGES.repeat(20, 1, 1, 1).split(1):
        network(image)
    with pytest.raises(InputError, match="keeps a state between passes"):
        first.check()


class Mixes(Net):
    """It takes off the mean of a batch that is larger than that, as some draw their noise."""

    def __init__(self, size, noise=0.0):
        super().__init__()
        self.size, self.noise = size, noise

    def forward(self, x):
        if self.noise:
            x = x + self.noise * torch.randn_like(x)
        return self.net(x - 0.9 * x.mean(0) if len(x) > self.size else x)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("size", [1, 16, 32, 33, 64, 127])
def test_a_network_that_mixes_larger_batches_alone_is_refused(size, noise):
    with pytest.raises(InputError, match="depend on the rest of its batch"):
        robustkit.evaluate(
            Mixes(size, noise), (IMAGES, torch.zeros(24, dtype=torch.int64)), "clean"
        )


@pytest.mark.parametrize("size", [200, 500])
def test_batches_are_as_large_as_will_be_passed_where_that_is_known(size):
    network = Mixes(size)
    check_contract(network, IMAGES, "")
    with pytest.raises(InputError, match=f"in a batch of {size + 1} they differ"):
        check_contract(network, IMAGES, "", batch=size + 1)
    check_contract(network, IMAGES, "", batch=size)


def first_piece(net, x, size):
    """A piece of the batch at a time, but always the first."""
    return torch.cat([net(x[:size]) for _ in x.split(size)])[: len(x)]


def carries(net, x, size):
    """A piece of the batch at a time, less what the one before it was."""
    pieces = x.split(size)
    before = [torch.zeros(1), *(piece.mean((0, 1)) for piece in pieces)]
    return torch.cat([net(one - last) for one, last in zip(pieces, before, strict=False)])


def exchanges(net, x, size):
    """Every so many-th image at a time, whose logits stay in that order."""
    return torch.cat([net(x[start::size]) for start in range(min(size, len(x)))])


def in_pieces(net, x, size):
    return torch.cat([net(piece) for piece in x.split(size)])


class Divides(Net):
    """It takes a batch apart, by a way of its own, and puts it together."""

    def __init__(self, way, size, noise):
        super().__init__()
        self.way, self.size, self.noise = way, size, noise

    def forward(self, x):
        if self.noise:
            x = x + self.noise * torch.randn_like(x)
        return self.way(self.net, x, self.size)


@pytest.mark.one_of_many(5)
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("count", [1, 3, 24])
@pytest.mark.parametrize(
    ("way", "size"),
    [
        *((first_piece, size) for size in (32, 33, 64, 96, 100)),
        *((carries, size) for size in (32, 64, 96)),
        *((exchanges, size) for size in (2, 3, 16)),
    ],
)
def test_a_batch_that_is_put_together_wrongly_is_refused(way, size, count, noise):
    with pytest.raises(InputError, match="depend on the rest of its batch"):
        check_contract(Divides(way, size, noise), IMAGES[:count], "")


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("size", [1000, 1024])
def test_so_is_one_of_many_images_whatever_the_pieces(size, noise):
    with pytest.raises(InputError, match="depend on the rest of its batch"):
        check_contract(Divides(first_piece, size, noise), IMAGES, "", batch=2048)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("count", [1, 3, 24])
@pytest.mark.parametrize("size", [32, 33])
def test_a_batch_that_is_put_together_rightly_is_not(size, count, noise):
    found = check_contract(Divides(in_pieces, size, noise), IMAGES[:count], "", batch=300)
    assert found.random == bool(noise)


LARGE = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(2))
NAMES = [f"image {i}" for i in range(300)]


def attack_in_a_smaller_batch_first(net, size):
    attack = robustkit.attack(net, "fgsm", epsilon=0.1)
    for images in (LARGE[:24], LARGE[:size]):
        attack(images, torch.zeros(len(images), dtype=torch.int64))


LARGER = {
    "evaluate": lambda net, size: robustkit.evaluate(
        *(net, (LARGE, torch.zeros(300, dtype=torch.int64)), "clean"), batch_size=size
    ),
    "attack": attack_in_a_smaller_batch_first,
    "measure": lambda net, size: measure(
        *(net, lambda a, b: LARGE[a:b], torch.zeros(300, dtype=torch.int64), NAMES, size),
        **{"names": ["contrast"], "severities": [1]},
    ),
    "smooth": lambda net, size: smooth(
        *(net, LARGE[:2], NAMES[:2], SmoothingNoise(0.1, n0=4, n=size)), batch_size=size
    ),
}


@pytest.mark.one_of_many(3)
@pytest.mark.filterwarnings("ignore:the network is randomised")
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("call", LARGER)
def test_every_call_asks_with_as_many_images_as_it_passes_at_once(call, noise):
    LARGER[call](Mixes(250, noise), 250)
    with pytest.raises(InputError, match=r"batch \((in a batch of 260|with the same seed)"):
        LARGER[call](Mixes(250, noise), 260)


def test_a_batch_is_no_larger_than_the_data():
    labels = torch.zeros(300, dtype=torch.int64)
    robustkit.evaluate(Mixes(300), (LARGE, labels), "clean", batch_size=1000)


class Flips(Net):
    """It answers otherwise from some moment on, wherever it stands."""

    turned = False

    def forward(self, x):
        return -self.net(x) if Flips.turned else self.net(x)


class Interrupted(Exception):
    """A run that is cut off."""


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_a_network_that_turns_while_it_is_attacked_has_no_row(device, block, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "block_size", lambda data, device: 8)
    monkeypatch.setattr(spreading, "Processes", TakingTurns())
    labels, attack = Net()(IMAGES).argmax(1), Attacker.attack
    asked = {"epsilon": ["0.05"], "name": "a", "out": tmp_path, "device": device}

    def turning(attacker, span, progress):
        monkeypatch.setattr(Flips, "turned", span.number >= block)
        return attack(attacker, span, progress)

    def cut_off(done, total):
        if done >= 8 * (block + 1):
            raise Interrupted

    monkeypatch.setattr(Attacker, "attack", turning)
    with pytest.raises(InputError, match="keeps a state between passes"):
        robustkit.evaluate(Flips(), (IMAGES, labels), "fgsm", **asked, progress=cut_off)
    assert not [*tmp_path.rglob("*.parquet")]
    monkeypatch.setattr(Attacker, "attack", attack)
    monkeypatch.setattr(Flips, "turned", False)
    found = robustkit.evaluate(Flips(), (IMAGES, labels), "fgsm", **asked)
    assert found.clean().value == 1, "of blocks that were on file none is left"
