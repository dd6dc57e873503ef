"""A gradient that is not that of what a network answers, or is none at the ends of [0, 1]."""

import re
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import hardtanh, pad, relu

import robustkit
from robustkit import protocol
from robustkit.attacks import Block, SearchNetwork, attack_block
from robustkit.attacks.inside import stepping_inside, zero_slopes
from robustkit.data import from_arrays
from robustkit.errors import InputError
from robustkit.evaluation import RunOptions, from_module, resolve_protocol, run
from robustkit.evaluation.slopes import doubts

IMAGES = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
IMAGES[:, :, :3] = 0
IMAGES[:, :, -1] = 1


class Net(nn.Module):
    """A small network of fixed weights, behind a way of treating its input."""

    def __init__(self, before=lambda x: x, factor=1.0, after=lambda z: z) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        source = torch.Generator().manual_seed(0)
        for weight in self.net.parameters():
            weight.data = factor * torch.randn(weight.shape, generator=source) / 3
        self.before, self.after = before, after
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


def warnings_of(network, attack="fgsm"):
    with torch.no_grad():
        labels = network(IMAGES.clone()).argmax(1)
    return robustkit.evaluate(network, (IMAGES, labels), attack, epsilon=["0.05"]).header[
        "warnings"
    ]


def back(way):
    """Pixels as they are, or rounded, with a way back of their own."""

    class Way(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, levels):
            return x.clone() if levels is None else (x * levels).round() / levels

        @staticmethod
        def backward(ctx, signal):
            return way(signal), None

    return Way.apply


def shut(x):
    """Whose slope is 0 at 0 and 1, as that of a clamp to them is in newer versions of torch."""
    return x.clamp(*ENDS)


end = torch.zeros(1, requires_grad=True)
end.clamp(0, 1).backward()
ENDS = (1e-7, 1 - 1e-7) if end.grad else (0, 1)
FLAT = {
    "clamp": shut,
    "in place": lambda x: x.clamp_(*ENDS),
    "relu": relu,
    "hardtanh": lambda x: hardtanh(x, 0, 1),
    "abs": torch.abs,
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "power": lambda x: x**2.2,
    "white": lambda x: 1 - relu(1 - x),
}
SOUND = {
    "plain": lambda x: x,
    "crop": lambda x: pad(x[:, :, 2:6, 2:6], (2, 2, 2, 2)),
    "wider clamp": lambda x: x.clamp(-1e-6, 1 + 1e-6),
    "straight through": lambda x: back(lambda g: g)(x, 16),
    "straight through 8 bits": lambda x: back(lambda g: g)(x, 255),
    "scaled": lambda x: back(lambda g: 1e-3 * g)(x, None),
    "wavy": lambda x: x + torch.sin(50 * x) / 20,
}
FALSE = {
    "negated": lambda x: back(lambda g: -g)(x, None),
    "random": lambda x: back(torch.randn_like)(x, None),
    "of others": lambda x: back(lambda g: g.flip(0, 2, 3))(x, None),
}
TWO = {
    "a leaf": lambda x: -x if x.requires_grad else x,
    "grad mode": lambda x: 1 - x if torch.is_grad_enabled() else x,
    "cut off": lambda x: 0 * x + x.detach() / 2 if torch.is_grad_enabled() else x,
}


def cut_pixels(net, x):
    return net(torch.cat([x[:, :, :4].detach(), x[:, :, 4:]], 2))


def cut_branch(net, x):
    with torch.no_grad():
        beside = net(x.flip(2, 3))
    return net(x) + beside


def cut_residual(net, x):
    return net(x) + 2 * net(x.flip(3)).detach()


def cut_colours(net, x):
    """As a conversion to another colour space by way of numpy is."""
    brighter = torch.from_numpy(x.detach().numpy() ** 0.5)
    return net(x) + net(brighter)


PARTLY = {f.__name__: f for f in (cut_pixels, cut_branch, cut_residual, cut_colours)}


class Around(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.net, self.way = Net(), way

    def forward(self, x):
        return self.way(self.net, x)


def sure(z):
    """Nothing is sent back where a class is likely."""
    return torch.where(z.softmax(1).amax(1, keepdim=True) > 0.9, z.detach(), z)


CUT_OFF = {
    "tanh": (100, torch.tanh),
    "clamp": (40, lambda z: z.clamp(-5, 5)),
    "hardtanh": (8, hardtanh),
    "detached": (8, sure),
    "detached, all of one class": (8, lambda z: sure(z) + torch.tensor([1e3, 0, 0])),
    "rounded": (
        8,
        lambda z: torch.where(sure(z).detach().abs().amax(1)[:, None] > 3, z.round(), z),
    ),
}


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("way", FLAT)
def test_a_gradient_that_vanishes_at_black_or_white_pixels_is_a_warning(way):
    (warning,) = [text for text in warnings_of(Net(FLAT[way])) if "exactly 0 or 1" in text]
    assert "not robustness" in warning


@pytest.mark.thorough
@pytest.mark.parametrize("way", [way for way in FLAT if way != "power"])
def test_and_attacks_at_a_budget_find_what_they_find_without_that_operation(way):
    labels = Net()(IMAGES).argmax(1)
    asked = {"epsilon": ["0.05"], "settings": "pgd.steps=5"}
    found, plain = (
        robustkit.evaluate(net, (IMAGES, labels), "pgd", **asked).table["fooled_at"]
        for net in (Net(FLAT[way]), Net())
    )
    assert found.equals(plain)
    assert 0 < found.null_count < len(found)
    attacks = [robustkit.attack(net, "pgd", epsilon=0.05) for net in (Net(FLAT[way]), Net())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what vanishes
        for attack in attacks:
            attack(IMAGES, labels, seed=0)
    assert torch.equal(*(attack.fooled for attack in attacks))


def drawing(way):
    """What a network draws at random is so little that it changes no verdict."""
    return lambda x: way(x) + 1e-3 * torch.randn_like(x)


def the_network(net, images, labels):
    return robustkit.evaluate(net, (images, labels), "ifgsm", epsilon=["0.05"]).table["distance"]


def a_surrogate(net, images, labels):
    loaded, judged = (from_module(one, name) for one, name in ((net, "drawing"), (Net(), "plain")))
    data = from_arrays(images.numpy(), labels.numpy(), name="arrays")
    asked = resolve_protocol("ifgsm", data, ["0.05"])
    with TemporaryDirectory() as folder:
        return run(judged, data, asked, Path(folder), RunOptions(), loaded).table["distance"]


def a_call(net, images, labels):
    attack = robustkit.attack(net, "ifgsm", epsilon=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what vanishes, and that it draws
        attack(images, labels, seed=0)
    return pa.array([0.05 if fooled else None for fooled in attack.fooled.tolist()])


@pytest.mark.one_of_many
@pytest.mark.parametrize("way", ["clamp", "relu", "where", "white"])
@pytest.mark.parametrize("asked", [the_network, a_surrogate, a_call])
def test_and_so_they_do_of_a_network_that_draws_at_random(asked, way):
    images = IMAGES.round()  # no step moves a pixel without that
    labels = Net()(images).argmax(1)
    found, plain = (asked(Net(drawing(f)), images, labels) for f in (FLAT[way], SOUND["plain"]))
    assert found.is_null().equals(plain.is_null())
    assert 0 < found.null_count < len(found)


def test_a_crop_that_is_drawn_is_no_gradient_that_vanishes():
    class Crops(Net):
        def forward(self, x):
            side = 2 if torch.rand(()) < 0.6 else 8  # of seed 0 one and the other
            return self.net(pad(x[:, :, :side, :side], (0, 8 - side, 0, 8 - side)))

    assert not zero_slopes(Crops(), IMAGES).drop


@pytest.mark.parametrize("way", FALSE)
def test_a_gradient_of_another_function_is_a_warning(way):
    (warning,) = [t for t in warnings_of(Net(FALSE[way])) if "a step along the gradient" in t]
    assert "not robustness" in warning


@pytest.mark.parametrize("way", TWO)
def test_logits_that_differ_where_gradients_are_asked_for_are_a_warning(way):
    (warning,) = [t for t in warnings_of(Net(TWO[way])) if "where a gradient is asked for" in t]
    assert "not robustness" in warning


@pytest.mark.parametrize("way", PARTLY)
def test_a_part_that_sends_no_gradient_back_is_a_warning(way):
    (warning,) = [t for t in warnings_of(Around(PARTLY[way])) if "the gradient accounts for" in t]
    assert "not robustness" in warning


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", [way for way in SOUND if way != "wavy"])
def test_a_gradient_accounts_for_a_sound_networks_changes(way, dtype):
    net = Net(SOUND[way]).to(dtype)
    found = doubts(Around(lambda _, x: net(x.to(dtype)).float()), IMAGES[:8])
    assert not any("accounts for" in text for text in found)


def noisy(way):
    return lambda x: way(x + 0.05 * torch.randn_like(x))


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    ("way", "words"),
    [
        *((way, "a step along the gradient") for way in FALSE.values()),
        *((way, "where a gradient is asked for") for way in TWO.values()),
    ],
)
def test_and_so_they_are_of_a_network_that_draws_at_random(way, words):
    found = warnings_of(Net(noisy(way)))
    assert any("is randomised" in text for text in found)
    (warning,) = [text for text in found if words in text]
    assert "not robustness" in warning


class ItsOwn(Net):
    """Draws from a generator that no seed sets, beside the one of all or without it."""

    def __init__(self, beside):
        super().__init__()
        self.source, self.beside = torch.Generator().manual_seed(0), beside

    def forward(self, x):
        noise = torch.randn(x.shape, generator=self.source)
        return self.net(self.beside(x) + 0.3 * noise)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    "network",
    [
        Net(noisy(lambda x: x)),
        Net(noisy(lambda x: back(lambda g: g)(x, 16))),
        Net(noisy(lambda x: x), 1e3),
        Net(nn.Dropout(0.3).train().forward),
        Net(after=lambda z: z + 0.1 * torch.randn_like(z)),
        Net(lambda x: x.roll(int(torch.randint(3, ())), -1)),
        ItsOwn(lambda x: x),
        ItsOwn(lambda x: x + 0.05 * torch.randn_like(x)),
    ],
)
def test_a_sound_gradient_of_one_that_draws_is_no_warning(network):
    found = warnings_of(network)
    assert any("is randomised" in text for text in found)
    others = ("is randomised", "the cross-entropy")
    assert not any("gradient" in t for t in found if not any(o in t for o in others)), found


def without_gradient(network):
    """How many of the first 16 images, asked one by one, have none in any logit."""
    count = 0
    for image in IMAGES[:16].split(1):
        slope = torch.autograd.functional.jacobian(network, image)
        count += not slope.any()
    return count


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("way", CUT_OFF)
def test_a_gradient_that_is_missing_at_some_images_is_a_warning(way):
    factor, after = CUT_OFF[way]
    network = Net(after=lambda z: after(factor * z))
    count = without_gradient(network)
    assert 0 < count < 16
    (warning,) = [text for text in warnings_of(network) if "no gradient reaches" in text]
    assert f"no gradient reaches the pixels of {count} of 16 images" in warning
    assert "not robustness" in warning


def test_one_that_is_missing_is_told_once():
    net = Net(after=lambda z: 300 * (100 * z).tanh())  # whose cross-entropy has none, either
    count, told = without_gradient(net), " ".join(warnings_of(net, "pgd"))
    assert f"reaches the pixels of {count} of 16" in told
    (vanishing,) = re.findall(r"cross-entropy has no gradient, to rounding, at (\d+) of 16", told)
    assert 0 < int(vanishing) <= 16 - count
    likely = Net(after=lambda z: (300 * z).softmax(1))
    assert 0 < without_gradient(likely) < 16
    found = warnings_of(likely)
    assert not any("reaches the pixels" in text for text in found)
    assert any("probabilities" in text for text in found)


class Dead(Net):
    """A plain network whose units answer nothing to images that are black, or nearly."""

    def __init__(self, bias):
        super().__init__()
        self.net[0].bias.data[:] = bias


@pytest.mark.parametrize("bias", [-0.2, 0.0])
def test_dead_images_of_a_plain_network_are_no_warning(bias):
    images, network = IMAGES.clone(), Dead(bias)
    images[5:8] = 0  # few, behind those that are asked in black and white
    labels = network(images).argmax(1)
    x = images[4:8].requires_grad_()
    slope = torch.autograd.grad(network(x).sum(), x)[0]
    assert slope[0].any()
    assert not slope[1:].any()
    found = robustkit.evaluate(network, (images.detach(), labels), "fgsm", epsilon=["0.05"])
    assert not any("no gradient reaches" in text for text in found.header["warnings"])


@pytest.mark.one_of_many(4)
@pytest.mark.parametrize("factor", [1e-3, 1, 1e3])
@pytest.mark.parametrize("way", SOUND)
def test_a_sound_gradient_is_no_warning(way, factor):
    found = warnings_of(Net(SOUND[way], factor))
    assert not any("gradient" in text and "cross-entropy" not in text for text in found), found


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    "after",
    [
        lambda z: z + 1e6,
        lambda z: torch.cat([z, torch.full((len(z), 2), -1e9)], 1),
        lambda z: z.softmax(1),
        lambda z: (20 * z).softmax(1),
        lambda z: 1e3 * z,
    ],
)
def test_nor_is_one_behind_any_ending(after):
    found = warnings_of(Net(after=after))
    assert not any("along the gradient" in t or "asked for" in t for t in found), found


def test_one_that_rounds_and_one_that_draws_have_warnings_of_their_own():
    (found,) = warnings_of(Net(lambda x: (8 * x).round() / 8))
    assert "no gradient reaches the pixels of 16 of 16 images" in found
    (found,) = warnings_of(Net(lambda x: x + 0.05 * torch.randn_like(x)))
    assert "is randomised" in found


def constant(z):
    return 0 * z + torch.arange(3.0)


@pytest.mark.parametrize("after", [lambda z: z + 1e6, lambda z: z + 1e8, constant, lambda z: 0 * z])
def test_large_or_constant_outputs_are_no_probabilities(after):
    try:
        found = warnings_of(Net(after=after))
    except InputError as error:
        found = [str(error)]
    assert not any("probabilities" in text for text in found)


@pytest.fixture
def frozen():
    program = torch.jit.script(nn.Sequential(*Net().net))
    return torch.jit.freeze(program.eval())


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_frozen_program_is_evaluated_and_attacked(frozen):
    assert not hasattr(frozen, "training")
    labels = Net()(IMAGES).argmax(1)
    found = robustkit.evaluate(frozen, (IMAGES, labels), "pgd", epsilon=["0.05"])
    expected = robustkit.evaluate(Net(), (IMAGES, labels), "pgd", epsilon=["0.05"])
    assert found.table["fooled_at"].equals(expected.table["fooled_at"])
    attack = robustkit.attack(frozen, "pgd", epsilon=0.05)
    for _ in range(2):
        assert attack(IMAGES, labels).shape == IMAGES.shape
    assert bool(attack.fooled.any())


def fooled(network, search_by=None):
    labels = Net()(IMAGES).argmax(1)
    table = {"title": "", "norm": "linf", "attack": [{"kind": "pgd", "steps": 5}]}
    made = protocol.parse_protocol(table | {"epsilon": ["0.05"]}, "test", "test")
    block = Block(IMAGES, labels, [str(i) for i in range(len(IMAGES))], 0)
    return attack_block(network, block, made, 8, search_by=search_by).distance.isfinite()


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("way", [way for way in FLAT if way != "power"])
def test_steps_a_little_inside_find_what_they_find_without_that_operation(way):
    network = Net(FLAT[way])
    assert zero_slopes(network, IMAGES).drop
    assert not zero_slopes(Net(), IMAGES).drop
    found = fooled(network, stepping_inside(SearchNetwork(network)))
    assert torch.equal(found, fooled(Net()))
    assert found.any()
