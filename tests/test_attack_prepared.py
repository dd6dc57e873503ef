"""The copy that a search steps by: the same function at less cost, or the network itself."""

import numpy as np
import pytest
import torch
from helpers.attacked import Small, images, make, right
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

import robustkit
from robustkit.attacks import SearchNetwork, attack_block, in_budget, search_network
from robustkit.attacks.pooling import max_pool
from robustkit.attacks.prepared import PreparedNetwork, pays, prepare
from robustkit.attacks.rewriting import rewritten
from robustkit.checkpoint.adapter import Classifier, freeze, replica, wrap
from robustkit.network import answer, gradient
from robustkit.seeding import seeded

PGD = {"kind": "pgd", "steps": 10, "relative_step": "1/4"}


class Normed(nn.Module):
    """Convolutions and linear layers with BatchNorm behind, before and between."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(5, torch.device("cpu")):
            self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(16)
            self.conv2 = nn.Conv2d(16, 8, 3, padding=1)
            self.norm2 = nn.BatchNorm2d(8)
            self.after = nn.BatchNorm2d(8)
            self.pool = nn.MaxPool2d(2)
            self.fc1 = nn.Linear(32, 12)
            self.norm3 = nn.BatchNorm1d(12)
            self.fc2 = nn.Linear(12, 3)
            for part in self.modules():
                if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                    part.running_mean.normal_()
                    part.running_var.uniform_(0.2, 3)
                    nn.init.normal_(part.weight, 1)
                    nn.init.normal_(part.bias)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(x))
        x = self.pool(self.after((y + self.conv2(x)).relu()))  # conv2 is used twice
        return self.fc2(self.norm3(self.fc1(x.view(-1, 32))).relu())


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x * 20).round() / 20

    @staticmethod
    def backward(ctx, signal):
        return signal


class Rounding(Small):
    """Its gradient is not that of its operations."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(Straight.apply(x))


class Stopped(Small):
    """Likewise: a part is computed without gradients, which no operation tells."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            still = super().forward(x)
        return still + super().forward(x) * 0.5


class TwoFaced(Small):
    """Says something else where nobody asks for gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 if torch.is_grad_enabled() else -1)


class Overwriting(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(0.5))


class Branching(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0.5 else 1 - x)


def hooked() -> nn.Module:
    net = Small()
    net.conv.register_forward_hook(lambda module, given, output: output * 2)
    return net


def scripted() -> nn.Module:
    return torch.jit.trace(Small(), images(2, side=8))


class Pooling(nn.Module):
    """A pool behind a ReLU, with one beside it that no pool takes from."""

    def __init__(self, pool, rectify, shared: bool = False) -> None:
        super().__init__()
        with seeded(6, torch.device("cpu")):
            self.conv, self.last = nn.Conv2d(1, 6, 3), nn.LazyLinear(3)
        self.pool, self.rectify, self.shared = pool, rectify, shared
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        before = self.conv(x)
        x = self.rectify(before)
        left = before.mean((1, 2, 3))[:, None] if self.shared else 0
        return self.last(self.pool(x).flatten(1)) + left


def halved(x: Tensor) -> Tensor:
    return max_pool2d(x, 2)


POOLS = {
    "module": (True, nn.MaxPool2d(2), nn.ReLU(), False),
    "function": (True, halved, relu, False),
    "method": (True, lambda x: max_pool2d(x, (3, 3), stride=3), lambda x: x.relu(), False),
    "behind no ReLU": (True, nn.MaxPool2d(2), torch.sin, False),
    "read twice": (True, halved, nn.ReLU(inplace=True), True),
    "overlapping": (False, nn.MaxPool2d(3, 2), nn.ReLU(), False),
    "padded": (False, nn.MaxPool2d(2, padding=1), nn.ReLU(), False),
    "oblong": (False, nn.MaxPool2d((2, 1)), nn.ReLU(), False),
    "rounded up": (False, nn.MaxPool2d(2, ceil_mode=True), nn.ReLU(), False),
}


@pytest.mark.parametrize(("side_by_side", "pool", "rectify", "shared"), POOLS.values(), ids=POOLS)
def test_pools_come_before_their_relus_and_give_the_same(side_by_side, pool, rectify, shared):
    model, x = Pooling(pool, rectify, shared), images(5, side=11)
    model(x)  # the last layer takes what comes
    copy = rewritten(replica(freeze(model)))
    found = []
    for net in (model, copy):
        pixels = x.clone().requires_grad_()
        logits = answer(net, pixels)
        with torch.no_grad():
            alone = answer(net, x)
        found.append((logits.detach(), gradient(logits.logsumexp(1).sum(), pixels), alone))
    for own, other in zip(*found, strict=True):
        assert torch.allclose(own, other, atol=1e-6)
    assert (max_pool in {node.target for node in copy.graph.nodes}) == side_by_side


def test_batchnorm_is_folded_and_the_copy_says_and_sends_back_the_same():
    model, x = wrap(Normed()), images(12, side=8)
    copy = prepare(model, x[:4])
    norms = [p for p in copy.modules() if isinstance(p, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 2  # behind a layer that is used twice, and behind none
    found = []
    for net in (model, copy):
        pixels = x.clone().requires_grad_()
        logits = answer(net, pixels)
        found.append((logits.detach(), gradient(logits.logsumexp(1).sum(), pixels)))
    for own, other in zip(*found, strict=True):
        assert torch.allclose(own, other, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(answer(copy, x), found[0][0], rtol=1e-4, atol=1e-5)
    assert any(isinstance(part, nn.BatchNorm2d) for part in model.modules())


def test_normalisation_and_stride_padding_and_windows_are_kept():
    for padding, stride, side, window in [(2, 1, 9, 5), (0, 2, 10, 3), (1, 3, 11, (2, 4))]:
        with seeded(1, torch.device("cpu")):
            conv = nn.Conv2d(2, 64, window, stride=stride, padding=padding)
            net = nn.Sequential(conv, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 3))
        model = freeze(Classifier(net, (0.3, 0.5), (0.2, 0.7)))
        x = torch.rand(5, 2, side, side + 1, generator=torch.Generator().manual_seed(0))
        copy = prepare(model, x)
        assert isinstance(copy, PreparedNetwork)
        assert "ImageConvolution" in str(copy)
        pairs = []
        for one in (model, copy):
            pixels = x.clone().requires_grad_()
            pairs.append(gradient((answer(one, pixels)[:, 0] ** 2).sum(), pixels))
        assert torch.allclose(*pairs, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*jit")
@pytest.mark.parametrize(
    "make_network",
    [Rounding, Stopped, TwoFaced, Overwriting, Branching, hooked, scripted],
)
def test_a_network_that_may_do_more_than_its_operations_is_left_alone(make_network):
    model = make_network().eval()
    assert prepare(model, images(4, side=8)) is model


class Counting(nn.Module):
    """Counts the images that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x.flatten(1)[:, :3]


@pytest.mark.parametrize(("side", "compared"), [(8, 16), (96, 9), (224, 4)])
def test_of_large_images_fewer_are_compared(side, compared, monkeypatch):
    model, x = Counting(), torch.rand(16, 3, side, side)
    monkeypatch.setattr("robustkit.attacks.prepared.rewritten", lambda network: network)
    assert prepare(model, x) is not model
    # images, images with noise and noise, with a way back and without
    assert model.seen == 2 * 3 * compared
    assert pays(x, 1e6)
    assert pays(x, 100) == (side == 8)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    ("side", "attack", "made"),
    [(136, "fgsm", False), (8, "ddn", False), (8, "fgsm", True), (136, "pgd", True)],
)
def test_a_copy_is_made_where_it_saves_more_than_it_costs(side, attack, made, monkeypatch):
    built = []
    monkeypatch.setattr(
        "robustkit.attacks.step_model.prepare", lambda model, x: built.append(x) or model
    )
    x = np.random.default_rng(0).random((2, 1, side, side), np.float32)
    settings = {"pgd": ["steps=60", "restarts=1"], "ddn": ["steps=3"]}.get(attack, [])
    model = nn.Sequential(nn.MaxPool2d(side // 8), nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        labels = model(torch.from_numpy(x)).argmax(1).numpy()
    asked = {"norm": "l2", "epsilon": ["1/1000"], "settings": settings, "device": "cpu"}
    robustkit.evaluate(model, (x, labels), attack, **asked)
    assert bool(built) == made


def test_the_model_judges_whatever_the_search_network_says():
    class Liar(Small):
        """Takes every image that was moved for another class."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.tensor([1.0, -1.0, 1.0])

    model, x = Small(), images(30, side=8)
    own, protocol = right(model, x), make("linf", PGD, epsilon=["1/50"])
    alone = attack_block(model, own, protocol, 30)
    lied = attack_block(model, own, protocol, 30, search_by=SearchNetwork(Liar()))
    moved = in_budget(lied.distance, 1 / 50)
    assert moved.sum() <= in_budget(alone.distance, 1 / 50).sum()
    assert (model(lied.perturbed[moved]).argmax(1) != own.labels[moved]).all()
    assert (lied.perturbed_class[moved] == model(lied.perturbed[moved]).argmax(1)).all()


@pytest.mark.thorough
def test_a_search_by_the_copy_finds_what_one_by_the_network_finds():
    model, x = wrap(Normed()), images(40, side=8)
    own, protocol = (
        right(model, x),
        make("linf", PGD, {"kind": "fab", "steps": 5}, epsilon=["1/300"]),
    )
    network = search_network(model, x[:8])
    assert network.exact is not model
    one, other = (attack_block(model, own, protocol, 16, search_by=n) for n in (None, network))
    assert 0 < in_budget(one.distance, 1 / 300).sum() < 40
    assert torch.equal(in_budget(one.distance, 1 / 300), in_budget(other.distance, 1 / 300))
    assert (one.distance - other.distance).abs().max() < 1e-4
