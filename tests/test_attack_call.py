"""`attack = robustkit.attack(model, ...)` in one's own loop: verified, and nothing else is changed."""

import warnings

import numpy as np
import pytest
import torch
from helpers.elsewhere import elsewhere
from torch import nn

import robustkit
from robustkit.attacks import DDN, FAB, FMN, PGD, Noise
from robustkit.errors import DataError, InputError, ProtocolError, RobustkitError

EPSILON = 8 / 255


class Net(nn.Module):
    """All that a training loop has to lose: dropout, batch statistics, an own mode of a part."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
            nn.Linear(4 * 16, 3),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(1)  # with logits that are no probabilities
        return Net()


@pytest.fixture
def batch(net):
    images = torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return images, net.eval()(images).argmax(1)


@pytest.mark.parametrize(
    "made", [PGD(steps=10), FAB(steps=5), [PGD(steps=2), FMN(steps=9)]], ids=["pgd", "fab", "fmn"]
)
def test_what_comes_back_is_within_the_budget_and_fools(net, batch, made):
    x, y = batch
    y[0] = (y[0] + 1) % 3  # wrong already
    attack = robustkit.attack(net, made, epsilon=EPSILON)
    adversarial = attack(x, y)
    assert adversarial.dtype == torch.float32
    assert not adversarial.requires_grad
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    apart = (adversarial.double() - x.double()).abs().amax((1, 2, 3))
    assert apart.max() <= EPSILON * (1 + 1e-6)
    with torch.no_grad():
        wrong = net.eval()(adversarial).argmax(1) != y
    assert torch.equal(wrong, attack.fooled)
    assert (apart[~attack.fooled] == 0).all()
    assert apart[0] == 0
    assert 2 < attack.fooled.sum() < 24


def test_it_is_as_robust_as_the_evaluation_says(net, batch):
    x, y = batch
    attack = robustkit.attack(net, PGD(), epsilon="8/255", settings={"steps": 5})
    attack(x, y)
    asked = {"epsilon": [EPSILON], "settings": ["steps=5"], "device": "cpu", "prove": "off"}
    found = robustkit.evaluate(net.eval(), (x.numpy(), y.numpy()), PGD(), **asked)
    assert abs(1 - attack.fooled.float().mean() - found.robust()[0].accuracy.value) < 0.1


def states():
    return torch.get_rng_state(), np.random.get_state()[1].copy()


def test_a_training_loop_goes_on_as_if_nothing_had_been_asked(net, batch):
    x, y = batch
    net.train()
    net.layers[1].eval()
    net.layers[0].weight.requires_grad_(False)
    net(x).sum().backward()
    modes = [part.training for part in net.modules()]
    needs = [p.requires_grad for p in net.parameters()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    torch_state, numpy_state = states()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        attack = robustkit.attack(net, [PGD(steps=3), DDN(steps=3)], epsilon=0.5, norm="l2")
        assert attack(x, y).shape == x.shape
    assert [part.training for part in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == needs
    after = net.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    now = [p.grad for p in net.parameters()]
    assert all((a is None) == (b is None) for a, b in zip(gradients, now, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients, now, strict=True) if a is not None)
    assert torch.equal(states()[0], torch_state)
    assert (states()[1] == numpy_state).all()


def test_all_is_as_it_was_after_an_error_too(net, batch):
    y = batch[1]
    net.train()
    attack = robustkit.attack(net, PGD(steps=2), epsilon=EPSILON)
    with pytest.raises(RobustkitError):
        attack(torch.rand(4, 1, 3, 3), y[:4])
    assert all(part.training for part in net.modules())
    assert all(p.requires_grad for p in net.parameters())


def test_the_network_is_attacked_as_it_is_at_each_call(net, batch):
    x, y = batch
    attack = robustkit.attack(net, PGD(steps=5), epsilon=EPSILON)
    attack(x, y)
    with torch.no_grad():
        net.layers[5].weight.mul_(0)
        net.layers[5].bias.copy_(torch.tensor([9.0, 0, 0]))
    attack(x, torch.zeros_like(y))
    assert attack.fooled.sum() == 0


def test_calls_draw_anew_and_a_seed_draws_again(net, batch):
    x, y = batch
    attack = robustkit.attack(net, Noise(draws=3), epsilon=0.4, seed=1)
    first, second = attack(x, y), attack(x, y)
    assert not torch.equal(first, second)
    assert torch.equal(attack(x, y, seed=7), attack(x, y, seed=7))
    again = robustkit.attack(net, Noise(draws=3), epsilon=0.4, seed=1)
    assert torch.equal(again(x, y), first)
    other = robustkit.attack(net, Noise(draws=3), epsilon=0.4, seed=2)
    assert not torch.equal(other(x, y), first)


def test_images_of_inference_mode_and_none_at_all_are_taken(net, batch):
    x, y = batch
    attack = robustkit.attack(net, PGD(steps=2), epsilon=EPSILON)
    with torch.inference_mode():
        shape = attack(x.clone(), y).shape
    assert shape == x.shape
    assert attack(x[:0], y[:0]).shape == (0, 1, 6, 6)
    assert attack.fooled.shape == (0,)


def test_a_target_is_headed_for(net, batch):
    x, y = batch
    attack = robustkit.attack(net, PGD(steps=20), epsilon=0.3, target="next")
    adversarial = attack(x, y)
    with torch.no_grad():
        predicted = net.eval()(adversarial).argmax(1)
    assert (predicted[attack.fooled] == (y[attack.fooled] + 1) % 3).all()
    assert attack.fooled.any()
    # one that is wrong already need not be the target's
    y = (y + torch.arange(len(y)) % 2 + 1) % 3
    adversarial = attack(x, y)
    assert torch.equal(adversarial, x)
    assert torch.equal(attack.fooled, torch.arange(len(y)) % 2 == 1)


@pytest.mark.one_of_many
@pytest.mark.parametrize("where", ["there", "here"])
def test_images_come_back_on_the_device_that_they_came_from(net, batch, where):
    x, y = batch
    here = robustkit.attack(net, PGD(steps=3), epsilon=EPSILON)(x, y)
    with elsewhere() as there:
        attack = robustkit.attack(net.to(there), PGD(steps=3), epsilon=EPSILON)
        away = attack(x.to(there), y.to(there)) if where == "there" else attack(x, y)
        assert away.device == attack.fooled.device == (there if where == "there" else x.device)
        assert torch.equal(away.cpu(), here)


class Around(nn.Module):
    """A network with something around it."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.change(self.net, x)


@pytest.mark.one_of_many(4)
@pytest.mark.parametrize(
    ("change", "epsilon", "told"),
    [
        (lambda n, x: n(x), 8, ["covers the whole range of pixels", "did you mean 8/255?"]),
        (lambda n, x: n(x), 0.6, ["all images can become the same grey image"]),
        (lambda n, x: n(x).softmax(1), EPSILON, ["the network returns probabilities"]),
        (lambda n, x: n(x.round()), EPSILON, ["no gradient reaches the pixels"]),
        (lambda n, x: n(x) + torch.rand(()) / 9, EPSILON, ["the network is randomised"]),
        (lambda n, x: n(x) + 0 * torch.rand(()), EPSILON, ["draws random numbers in a forward"]),
        (lambda n, x: n(x) * 1e6, EPSILON, ["the cross-entropy has no gradient"]),
        (lambda n, x: n((x - x).sqrt() + x), EPSILON, ["the gradient is no finite number"]),
        (lambda n, x: n(x), EPSILON, []),
    ],
)
def test_what_an_evaluation_warns_of_is_warned_of_once(net, batch, change, epsilon, told):
    x, y = batch
    attack = robustkit.attack(Around(net, change), PGD(steps=10), epsilon=epsilon)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attack(x, y)
        attack(x, y)
    texts = [str(one.message) for one in caught]
    assert tuple(texts) == attack.warnings
    assert {one.filename for one in caught} <= {__file__}
    assert all(any(text in one for one in texts) for text in told)
    assert len(texts) == min(len(told), 1)
    header = robustkit.evaluate(
        *(Around(net, change), (x.numpy(), y.numpy()), PGD(steps=10)),
        **{"epsilon": [epsilon], "device": "cpu", "prove": "off"},
    ).header
    assert set(texts) <= set(header["warnings"])


def test_a_network_exported_in_a_mode_of_its_own_is_attacked(net, batch):
    x, y = batch
    shapes = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(net.eval(), (x,), dynamic_shapes=shapes).module()
    behind = nn.Sequential(program)
    expected = robustkit.attack(net, epsilon=EPSILON)(x, y)
    for one in (program, behind):
        assert torch.allclose(robustkit.attack(one, epsilon=EPSILON)(x, y), expected, atol=1e-5)
    assert program.training  # as it says by itself
    assert behind.training


@pytest.mark.parametrize("change", ["a part", "a setting", "a method"])
def test_a_network_that_computes_something_else_now_is_looked_at_anew(change):
    class Clamps(nn.Module):
        clamps = False

        def forward(self, x):
            return torch.relu(x) if self.clamps else x

    source = torch.Generator().manual_seed(0)
    images = torch.rand(60, 1, 6, 6, generator=source).round()
    net = nn.Sequential(Clamps(), nn.Flatten(), nn.Linear(36, 3))
    net[2].weight.data = torch.randn(3, 36, generator=source)
    labels = net(images).argmax(1)
    kept = robustkit.attack(net, PGD(steps=20), epsilon=0.1)
    kept(images, labels)
    assert kept.warnings == ()
    if change == "a part":
        net[0] = nn.ReLU()
    elif change == "a setting":
        net[0].clamps = True
    else:
        net[0].forward = torch.relu
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept(images, labels, seed=0)
        new = robustkit.attack(net, PGD(steps=20), epsilon=0.1)
        new(images, labels, seed=0)
    assert kept.warnings == new.warnings != ()
    assert torch.equal(kept.fooled, new.fooled)


LAZY = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


class Stubborn(Net):
    def train(self, mode=True):
        raise ValueError("always\nlearning")


class Together(nn.Module):
    def forward(self, x):
        flat = x.flatten(1)[:, :3]
        return flat - flat.mean(0)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda n, x, y: robustkit.attack(n, "pgd"), ProtocolError, "0 budgets; give epsilon"),
        (lambda n, x, y: robustkit.attack(n, "pgf", epsilon=1), InputError, "did you mean 'pgd'?"),
        (lambda n, x, y: robustkit.attack(n, epsilon=0.1, device="cpu"), InputError, "stays where"),
        (lambda n, x, y: robustkit.attack(n, epsilon=0.1)(x * 255, y), DataError, "in [0, 1]"),
        (lambda n, x, y: robustkit.attack(n, epsilon=0.1)(x * torch.nan, y), DataError, "nan"),
        (lambda n, x, y: robustkit.attack(n, epsilon=0.1)(x, y[:2]), DataError, "24 labels"),
        (lambda n, x, y: robustkit.attack(n, epsilon=0.1)(x, y - 5), DataError, "from 0"),
        (lambda n, x, y: robustkit.attack(n, epsilon=0.1)(x, y + 5), DataError, "3 classes"),
        (lambda n, x, y: robustkit.attack(n, epsilon=0.1)(x.numpy(), y), DataError, "tensor"),
        (lambda n, x, y: robustkit.attack(Together(), epsilon=0.1)(x, y), InputError, "batch"),
        (lambda n, x, y: robustkit.attack(Stubborn(), epsilon=0.1)(x, y), InputError, "eval mode"),
        (lambda n, x, y: robustkit.attack(LAZY, epsilon=0.1)(x, y), InputError, "lazy layer"),
        (lambda n, x, y: robustkit.evaluate(LAZY, (x, y), "clean"), InputError, "lazy layer"),
    ],
)
def test_what_it_refuses_is_said_in_one_line(net, batch, call, error, said):
    with pytest.raises(error) as caught:
        call(net, *batch)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
