"""What a network may not do to the evaluation: write into it, remember it, or mix its images."""

import copy
import random
import warnings
from dataclasses import fields, replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustkit import evaluate, protocol
from robustkit.attacks import APGD, PGD, Block, attack_block
from robustkit.attacks.contract import check_contract
from robustkit.data import from_arrays
from robustkit.errors import InputError
from robustkit.evaluation.probe import probe
from robustkit.files import names
from robustkit.protocol import kind_of, load_protocol, norms_of, parse_epsilon

EPSILONS = {"pgd": "0.05", "square": "0.05", "fmn": "0.4", "boundary": "0.4", "hopskipjump": "0.4"}
SETTINGS = {
    "pgd": ["steps=5"],
    "square": ["queries=30"],
    "fmn": ["steps=10"],
    "boundary": ["steps=20"],
    "hopskipjump": ["steps=1"],
}


class Net(nn.Module):
    """A small network of fixed weights; subclasses misbehave around it."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        for weight in self.net.parameters():
            weight.data = torch.randn(weight.shape, generator=source) / 3

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Normalises(Net):
    def forward(self, x):
        return self.net(x.sub(0.5).div(0.5))


class NormalisesInPlace(Net):
    def forward(self, x):
        return self.net(x.sub_(0.5).div_(0.5))


class NormalisesInAView(Net):
    def forward(self, x):
        x.view(len(x), -1).sub_(0.5).div_(0.5)
        return self.net(x)


class Shifts(Net):
    def forward(self, x):
        return self.net(x - 0.5)


class ShiftsItsData(Net):
    def forward(self, x):
        x.data.sub_(0.5)
        return self.net(x)


class AsksForGradients(Net):
    def forward(self, x):
        x.requires_grad_()
        return self.net(x)


class OneBuffer(Net):
    """The same tensor comes out of every pass over so many images."""

    def __init__(self):
        super().__init__()
        self.out = {}

    def forward(self, x):
        logits = self.net(x)
        out = self.out.setdefault(len(x), torch.empty(len(x), 3))
        return out.detach_().copy_(logits)


class TurnsOnTraining(Net):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout()

    def forward(self, x):
        logits = self.net(self.drop(x))
        self.train()
        return logits


class TurnsOffGradients(Net):
    def forward(self, x):
        logits = self.net(x)
        torch.set_grad_enabled(False)
        return logits


class TurnsOnGradients(Net):
    def forward(self, x):
        logits = self.net(x)
        torch.set_grad_enabled(True)
        return logits


class TurnsToDouble(Net):
    def forward(self, x):
        logits = self.net(x)
        torch.set_default_dtype(torch.float64)
        return logits


HARMLESS = [
    *((bad, Normalises) for bad in (NormalisesInPlace, NormalisesInAView)),
    (ShiftsItsData, Shifts),
    *((bad, Net) for bad in (AsksForGradients, OneBuffer, TurnsOnTraining)),
    *((bad, Net) for bad in (TurnsOffGradients, TurnsToDouble)),
]


class Batch(Net):
    """BatchNorm on the batch's own statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)

    def forward(self, x):
        return self.net(self.norm(x))


class NoisyBatch(Batch):
    def forward(self, x):
        return super().forward(x + 0.05 * torch.randn_like(x))


class SoftmaxOverTheBatch(Net):
    def forward(self, x):
        return self.net(x).softmax(0)


class Attends(Net):
    def forward(self, x):
        flat = x.flatten(1)
        return self.net(((flat @ flat.T).softmax(1) @ flat).view_as(x))


class Sorts(Net):
    def forward(self, x):
        return self.net(x[x.flatten(1).sum(1).argsort()])


class TakesAHundredthOfTheMean(Net):
    def forward(self, x):
        return self.net(x + 0.01 * x.mean(0))


class Counts(Net):
    """Its logits depend on the size of the batch alone."""

    def forward(self, x):
        return self.net(x) + torch.tensor([0.2 * len(x), 0, 0])


class OneAtATime(Net):
    def forward(self, x):
        assert len(x) == 1, "one image at a time"
        return self.net(x)


MIXED = [
    *(Batch, NoisyBatch, SoftmaxOverTheBatch, Attends, Sorts),
    *(TakesAHundredthOfTheMean, Counts, OneAtATime),
]


class Remembers(Net):
    """Answers the first batch of a shape for ever."""

    def __init__(self):
        super().__init__()
        self.cache = {}

    def forward(self, x):
        if x.shape not in self.cache:
            self.cache[x.shape] = self.net(x)
        return self.cache[x.shape]


class Flattened(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(64, track_running_stats=False)

    def forward(self, x):
        return self.net(self.norm(x.flatten(1)).view_as(x))


class Seeds(Net):
    def forward(self, x):
        torch.manual_seed(0)
        return self.net(x) + torch.randn(1)


class Noisy(Net):
    def forward(self, x):
        return self.net(x + 0.05 * torch.randn_like(x))


class VeryNoisy(Net):
    def forward(self, x):
        return self.net(x + 0.3 * torch.randn_like(x))


class OwnNoise(Net):
    def __init__(self):
        super().__init__()
        self.source = torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.net(x + 0.05 * torch.randn(x.shape, generator=self.source))


class Alternates(Net):
    passes = 0

    def forward(self, x):
        self.passes += 1
        return self.net(x) * (1 + self.passes % 2)


class Detached(Net):
    def forward(self, x):
        return self.net(x).detach()


class Rounded(Net):
    def forward(self, x):
        return self.net((8 * x).round() / 8)


def images(n=24):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def evaluated(network, attack="pgd", truth=None, n=24, **options):
    x = images(n)
    with torch.no_grad():
        labels = (truth or network)(x.clone()).argmax(1)
    norm = "linf" if attack in ("pgd", "square") else "l2"
    return evaluate(
        network.eval(),
        (x.numpy(), labels.numpy()),
        attack,
        norm=norm,
        epsilon=[EPSILONS[attack]],
        settings=SETTINGS[attack],
        **options,
    )


@cache
def undisturbed(network, attack):
    return evaluated(network(), attack, n=8).table


def often(bad, attack):
    """Whether it is tried by default: all under one attack, and two under the others."""
    return attack == "pgd" or bad in (NormalisesInPlace, TurnsToDouble)


@pytest.mark.one_of_many(23)
@pytest.mark.parametrize(
    ("bad", "good", "attack"),
    [
        pytest.param(*pair, attack, marks=[pytest.mark.slow] * (not often(pair[0], attack)))
        for pair in HARMLESS
        for attack in EPSILONS
    ],
)
def test_what_a_network_does_beside_answering_changes_no_row(bad, good, attack):
    found = evaluated(bad(), attack, truth=good().eval(), n=8)
    assert found.table.equals(undisturbed(good, attack))
    assert found.clean().value == 1
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.one_of_many(7)
@pytest.mark.parametrize("image_by_image", [False, True])
@pytest.mark.parametrize(
    ("network", "words"),
    [
        (NormalisesInPlace, "modifies its input"),
        (NormalisesInAView, "modifies its input"),
        (ShiftsItsData, "modifies its input"),
        (TurnsOnTraining, "switches itself to training mode"),
        (TurnsOffGradients, "switches gradients on or off"),
        (TurnsOnGradients, "switches gradients on or off"),
        (TurnsToDouble, "changes the default data type"),
        (Net, None),
        (Noisy, None),
    ],
)
def test_what_a_network_does_beside_answering_is_told(network, words, image_by_image):
    found = evaluated(network(), truth=Net(), image_by_image=image_by_image)
    told = [text for text in found.header["warnings"] if "in a forward pass" in text]
    assert len(told) == (words is not None)
    if words:
        assert f"the network {words} in a forward pass" in told[0]
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_a_torchscript_network_is_asked_what_it_does_beside_answering():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but files of it are about
        network = torch.jit.trace(NormalisesInPlace().eval().requires_grad_(False), images(2))
    found = evaluated(network, truth=Normalises())
    assert any("modifies its input" in text for text in found.header["warnings"])


@pytest.mark.thorough
@pytest.mark.parametrize("attack", ["boundary", "hopskipjump"])
@pytest.mark.parametrize("network", [Noisy, VeryNoisy])
def test_attacks_by_decisions_fool_a_network_that_draws_at_random(attack, network):
    # among the images are some that a single pass gets wrong, and where the noise begins
    found = evaluated(network(), attack, truth=Net(), n=10)
    right = [d for d in found.table["distance"].to_pylist() if d != 0]
    assert len(right) > 5
    # where a single answer ends the search, the mean of 20 says otherwise: it holds farther out
    assert sum(d is not None for d in right) >= len(right) - 1


@pytest.mark.one_of_many
@pytest.mark.parametrize("surrogate", [None, Noisy])
def test_what_the_probe_found_holds_for_every_block(surrogate, monkeypatch):
    monkeypatch.setattr("robustkit.evaluation.blocks.block_size", lambda data, device: 8)
    monkeypatch.setattr("robustkit.attacks.clean.draws_at_random", lambda a, b: False)
    given = {} if surrogate is None else {"surrogate": surrogate().eval()}
    found = evaluated(Noisy() if surrogate is None else Net(), truth=Net(), **given)
    asked = [clean for clean, *_ in found.table["forward"].to_pylist()]
    # verdicts on a network that does not draw itself take one pass, whatever its surrogate does
    assert asked == [20 if surrogate is None else 2] * 24


@pytest.mark.parametrize("bad", [NormalisesInPlace, OneBuffer])
def test_surrogates_are_asked_with_the_same_care(bad):
    good = Normalises() if bad is NormalisesInPlace else Net()
    x, model = images(), Net().eval()
    with torch.no_grad():
        block = Block(x, model(x).argmax(1), [str(i) for i in range(len(x))], 0)
    # its steps depend on the clean logits, too
    attack = {"kind": "mifgsm", "steps": 3, "relative_step": "1/2"}
    attack["loss"] = "rescaled-cross-entropy"
    table = {"title": "", "norm": "linf", "attack": [attack], "epsilon": ["0.1"]}
    made = protocol.parse_protocol(table, "test", "test")
    expected, found = (
        attack_block(model, block, made, 8, surrogate=net.eval().requires_grad_(False))
        for net in (good, bad())
    )
    assert torch.equal(found.perturbed, expected.perturbed)
    assert torch.isfinite(found.distance).any()


@pytest.mark.one_of_many
@pytest.mark.parametrize("network", MIXED)
def test_a_network_that_mixes_its_batch_is_refused_or_evaluated_image_by_image(network):
    with pytest.raises(InputError, match="--image-by-image") as refused:
        evaluated(network(), truth=Net())
    assert "\n" not in str(refused.value)
    rows = [
        evaluated(network(), truth=Net(), n=8, image_by_image=True, batch_size=size)
        for size in (1, 8)
    ]
    for one in rows:
        assert one.header["checkpoint"]["image_by_image"] is True
        assert any("one image at a time" in text for text in one.header["warnings"])
    if network is not NoisyBatch:  # whose draws are others
        assert rows[0].table.equals(rows[1].table)
        with torch.no_grad():
            alone = torch.cat([network().eval()(one) for one in images(8).split(1)]).argmax(1)
        assert rows[0].table["predicted"].to_pylist() == alone.tolist()
    assert rows[0].digest != evaluated(Net(), truth=Net()).digest


def scaled_by_its_brightest(x):
    return x / x.amax()


def scaled_by_both_extremes(x):
    return (x - x.amin()) / (x.amax() - x.amin())


def moved_by_its_darkest(x):
    return x - x.amin()


@pytest.mark.parametrize(
    "scaled", [scaled_by_its_brightest, scaled_by_both_extremes, moved_by_its_darkest]
)
@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize("n", [1, 24])
def test_a_batch_scaled_by_its_extremes_is_refused_though_every_image_has_both(scaled, noise, n):
    # clean images all have the same extremes: numbers would mix under attack alone
    x = images(n)
    x[:, :, 0, 0], x[:, :, 0, 1] = 0.0, 1.0

    class Scaled(Net):
        def forward(self, x):
            return self.net(scaled(x)) + noise * torch.randn(3)

    with pytest.raises(InputError, match="depend on the rest of its batch"):
        check_contract(Scaled().eval(), x, "; or so")


@pytest.mark.thorough
@pytest.mark.skipif(
    torch.backends.quantized.engine == "none", reason="torch was built without int8 kernels"
)
def test_ranges_of_int8_are_taken_over_the_batch_or_image_by_image():
    class Dense(Net):
        def __init__(self):
            super().__init__()
            source = torch.Generator().manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
            for weight in self.net.parameters():
                weight.data = torch.randn(weight.shape, generator=source) / 4

    exact = Dense().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but networks made so are about
        network = torch.ao.quantization.quantize_dynamic(exact, {nn.Linear}, torch.qint8)
    with pytest.raises(InputError, match="depend on the rest of its batch"):
        evaluated(network, "square", truth=exact)
    one, many = (
        evaluated(
            *(network, "square"),
            truth=exact,
            image_by_image=True,
            batch_size=size,
        )
        for size in (1, 24)
    )
    assert one.table.equals(many.table)
    assert one.clean().value > 0.9
    assert any("one image at a time" in text for text in one.header["warnings"])


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Flattened, "not a single one"),
        (Remembers, "keeps a state between passes"),
        (Seeds, "seeds the global random generator"),
    ],
)
@pytest.mark.parametrize("image_by_image", [False, True])
def test_no_option_helps_a_network_that_no_image_can_be_asked_of(network, words, image_by_image):
    with pytest.raises(InputError) as refused:
        evaluated(network(), truth=Net(), image_by_image=image_by_image)
    assert "\n" not in str(refused.value)
    if not image_by_image:
        assert words in str(refused.value)


@pytest.mark.parametrize(
    "odd",
    [
        lambda x: bool((x.mean((1, 2, 3)) > 0.5).any()),
        lambda x: bool((x.amin((1, 2, 3)) > 0.1).any()),
    ],
    ids=["light ones", "without black"],
)
def test_a_network_that_refuses_other_pixels_is_told_so(odd):
    class Checks(Net):
        def forward(self, x):
            if odd(x):
                raise ValueError("no picture of ours")
            return super().forward(x)

    images = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1)) / 3
    images[:, :, 0] = 0
    with pytest.raises(InputError) as caught:
        evaluate(Checks(), (images, torch.arange(24) % 3), "fgsm", epsilon=["0.05"])
    assert "accepts these images, but not their negatives" in str(caught.value)
    assert "ValueError: no picture of ours" in str(caught.value)


@pytest.mark.parametrize("size", [2, 8, 128])
def test_a_network_that_was_made_for_a_fixed_batch_is_told_so(size):
    class Fixed(Net):
        def forward(self, x):
            return self.net(x.view(size, *x.shape[1:]))

    with pytest.raises(InputError, match=f"accepts {size} images at once.*of that size; export"):
        evaluated(Fixed(), truth=Net())


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("network", [Noisy, OwnNoise, Alternates])
def test_networks_that_draw_at_random_are_no_breach_but_a_warning(network):
    found = evaluated(network(), truth=Net())
    assert any("is randomised" in text for text in found.header["warnings"])


@pytest.mark.parametrize("network", [Detached, Rounded])
def test_missing_gradients_are_no_breach_but_a_warning(network):
    found = evaluated(network(), "square", truth=Net())
    assert any("no gradient reaches" in text for text in found.header["warnings"])


@pytest.mark.parametrize(
    ("ending", "told"), [(torch.nn.Softmax(1), True), (torch.nn.LogSoftmax(1), False)]
)
def test_probabilities_instead_of_logits_are_a_warning(ending, told):
    found = evaluated(torch.nn.Sequential(Net(), ending), truth=Net()).header["warnings"]
    assert any("returns probabilities, not logits" in text for text in found) == told


class Percents(nn.Module):
    def forward(self, x):
        return 100 * x.softmax(1)


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize("ending", [nn.Sigmoid(), Percents()])
def test_what_looks_like_probabilities_is_a_warning_though_it_adds_up_to_something_else(ending):
    found = evaluated(nn.Sequential(Net(), ending), truth=Net()).header["warnings"]
    assert any("returns probabilities, not logits" in text for text in found)


@pytest.mark.parametrize(("factor", "loss", "told"), [(1, "", 0), (1e4, "", 1), (1e4, "margin", 0)])
def test_logits_too_far_apart_for_the_loss_that_is_ascended_are_a_warning(factor, loss, told):
    x = images(24)
    net = nn.Sequential(Net(), Scaled(factor)).eval()
    settings = ["steps=5", *([f"loss={loss}"] if loss else [])]
    labels = net(x).argmax(1)
    found = evaluate(net, (x, labels), "pgd", epsilon=["0.05"], settings=settings)
    warned = [text for text in found.header["warnings"] if "cross-entropy has no gradient" in text]
    assert len(warned) == told


@pytest.mark.parametrize(
    ("attack", "target", "told"),
    [(PGD(5), "none", 1), (PGD(5), "next", 0), (APGD(5, targets=2), "none", 0)],
)
def test_towards_another_class_the_cross_entropy_has_a_gradient(attack, target, told):
    x, net = images(24), nn.Sequential(Net(), Scaled(1e4)).eval()
    labels = net(x).argmax(1)
    found = evaluate(net, (x, labels), attack, epsilon=["0.05"], target=target)
    warned = [text for text in found.header["warnings"] if "cross-entropy has no gradient" in text]
    assert len(warned) == told


def test_only_images_that_are_right_are_without_a_gradient():
    x, net = images(24), nn.Sequential(Net(), Scaled(1e4)).eval()
    labels = net(x).argmax(1)
    labels[:3] = (labels[:3] + 1) % 3
    found = evaluate(net, (x, labels), PGD(5), epsilon=["0.05"]).header["warnings"]
    assert any("no gradient, to rounding, at 13 of 16 images" in text for text in found)


class Root(Net):
    """The root of a square is the pixel itself, but its gradient at a black one is no number."""

    def forward(self, x):
        return self.net((x * x).sqrt())


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_gradient_that_is_no_number_is_a_warning_and_moves_nothing(norm):
    x = images(24)
    x[:, :, :3] = 0
    labels = Net()(x).argmax(1)
    how = {"norm": norm, "epsilon": ["0.5"], "settings": ["steps=3"]}
    found = evaluate(Root().eval(), (x, labels), "pgd", **how)
    (warning,) = [text for text in found.header["warnings"] if "no finite number" in text]
    assert "not robustness" in warning
    assert found.robust()[-1].accuracy.value < 1
    plain = evaluate(Net().eval(), (x, labels), "pgd", **how)
    assert not any("no finite number" in text for text in plain.header["warnings"])


@pytest.mark.parametrize("where", [0, 9, 15])
def test_all_images_are_asked_for_a_gradient_that_is_no_number(where):
    class Scaled(Net):
        """By the length of the image's upper part, which has no slope where that is black."""

        def forward(self, x):
            return self.net(x) * (1 + (x[:, :, :3] ** 2).sum((1, 2, 3)).sqrt())[:, None]

    x = images(24)
    x[where, :, :3] = 0.0
    x[:, :, :3] += 0.6 * (x[:, :, :3] > 0) * (1 - x[:, :, :3])  # also after rounding
    network = Scaled().eval()
    found = evaluate(network, (x, network(x).argmax(1)), "fgsm", epsilon=["0.05"])
    assert any("no finite number" in text for text in found.header["warnings"])


BY_VALUES = {"boundary", "hopskipjump", "square", "sparse-rs", "noise"}
"""attacks without gradients"""
CHEAP = {"steps": 20, "search_steps": 4, "restarts": 1, "queries": 20, "trials": 2, "eot": 1}


def cheap(attack):
    """An attack at little effort."""
    own = {field.name for field in fields(attack)} & set(CHEAP)
    return replace(attack, **{name: min(getattr(attack, name), CHEAP[name]) for name in own})


def on_the_shelf():
    """Each kind of attack in each of its norms: a cheap protocol of it alone."""
    for name, norm in [(a, n) for a in names("attacks") for n in norms_of(a)]:
        protocol = load_protocol(name, norm=norm)
        for attack in protocol.attacks:
            yield (kind_of(attack), norm), replace(protocol, attacks=(cheap(attack),))


@pytest.mark.thorough
def test_such_a_gradient_ends_no_attack_and_others_move_their_pixels():
    x = images(12)
    x[:, :, :3] = 0
    x[0] = 0  # no pixel of it has a gradient
    labels = Net()(x).argmax(1)
    data, asked = Block(x, labels, [str(i) for i in range(12)], 0), dict(on_the_shelf())
    assert {("deepfool", "linf"), ("ddn", "l2"), ("cw", "l2"), ("sigma-zero", "l0")} < set(asked)
    for (kind, norm), shelved in asked.items():
        if kind in BY_VALUES or norm == "spatial":
            continue
        budget = parse_epsilon({"linf": "1/2", "l2": "3", "patch": "5"}.get(norm, "20"))
        alone = replace(shelved, epsilons=(budget,), target="none")
        found, plain = (
            attack_block(net.eval().requires_grad_(False), data, alone, 12).distance.isfinite()
            for net in (Root(), Net())
        )
        assert int(found.sum()) >= int(plain.sum()) / 2 > 0, (kind, norm)


class Sometimes(Net):
    """Another answer with some probability, by a generator of its choice."""

    def __init__(self, draw, probability):
        super().__init__()
        self.draw, self.probability = draw, probability

    def forward(self, x):
        return self.net(x.flip(-1) if self.draw() < self.probability else x)


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    "draw",
    [
        lambda: float(torch.rand(1)),
        lambda: float(np.random.rand()),
        random.random,
    ],
    ids=["torch", "numpy", "python"],
)
def test_a_network_that_draws_now_and_then_is_found_out(draw, probability):
    found = evaluated(Sometimes(draw, probability), truth=Net())
    assert any("is randomised" in text for text in found.header["warnings"])


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("probability", [0.3, 0.5, 0.7])
def test_one_that_draws_from_a_generator_of_its_own_is_found_out(probability):
    found = evaluated(Sometimes(random.Random(0).random, probability), truth=Net())
    assert any("is randomised" in text for text in found.header["warnings"])


def test_a_network_that_draws_for_nothing_is_told():
    found = evaluated(Sometimes(lambda: float(torch.rand(1)), 0.0), truth=Net())
    assert any("changed nothing in 60 passes" in text for text in found.header["warnings"])
    assert not any("is randomised" in text for text in found.header["warnings"])


# --- copies ---------------------------------------------------------------------------------------


def by_hook(net):
    store = {}
    net.net[3].register_forward_hook(lambda layer, given, out: store.__setitem__("f", out))
    net.forward = lambda x: net.net(x) * 0.5 + store["f"] * 0.5
    return store


def by_default(net, store=None):
    store = [] if store is None else store

    def hook(layer, given, out, *, kept=store):
        kept[:] = [out]

    net.net[3].register_forward_hook(hook)
    net.forward = partial(lambda whole, x: whole.net(x) * 0.5 + store[0] * 0.5, net)
    return store


def by_global(net):
    exec("net.forward = lambda x: net.net(x)", {"net": net})
    return {}


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("way", [by_hook, by_default, by_global])
def test_a_copy_has_hooks_and_forwards_of_its_own(way):
    net = Net().eval()
    store = way(net)
    before = copy.copy(store)
    found = evaluated(net, truth=Net())
    assert found.clean().value == 1
    assert found.table["fooled_at"].equals(evaluated(Net()).table["fooled_at"])
    assert type(store)(store) == before, "the module's own was written to"


def test_a_patched_forward_in_training_mode_leaves_the_module_alone():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3))
    net.forward = lambda x: net[3](net[2](net[1](net[0](x))))
    state = copy.deepcopy(net.state_dict())
    labels = torch.zeros(24, dtype=torch.int64)
    evaluate(net.train(), (images(24), labels), "clean")
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert net.training


class NoSelf(Net):
    def train(self, mode=True):
        super().train(mode)

    def eval(self):
        super().eval()
        return self


class OddBuffers(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("learned", torch.ones(2, requires_grad=True))
        self.register_buffer("complex", torch.ones(2, dtype=torch.complex64))
        self.kept = {"last": self.net(torch.zeros(1, 1, 8, 8))}


@pytest.mark.parametrize("network", [NoSelf, OddBuffers])
def test_odd_but_harmless_modules_are_evaluated(network):
    assert evaluated(network(), truth=Net()).clean().value == 1


def test_a_traced_program_is_evaluated_as_it_is():
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):  # by torch's version
            warnings.simplefilter("ignore", kind)
        program = torch.jit.trace(Net().eval(), images(1))
    assert evaluated(program, truth=Net()).clean().value == 1


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_rounding_is_no_dependence_on_the_batch(dtype):
    class Cast(Net):
        def forward(self, x):
            return self.net(x.to(dtype)).float()

    warnings = evaluated(Cast().to(dtype), truth=Net()).header["warnings"]
    assert not any("is randomised" in text or "gradient" in text for text in warnings)


def test_a_probe_leaves_global_generators_as_they_were():
    data = from_arrays(images().numpy(), np.arange(24) % 3, name="arrays")
    network = Noisy().eval()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert probe(network, data, torch.device("cpu")).random
    assert torch.equal(torch.rand(3), expected)
