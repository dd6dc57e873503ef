"""Losses by name, and each against an independent float64 reference."""

import copy
import hashlib
import json
import math
import subprocess
import sys
import textwrap
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from robustkit import losses, models
from robustkit.errors import InputError, UnknownName
from robustkit.losses.attacked import in_unit_ball
from robustkit.losses.large_margin_softmax import psi
from robustkit.losses.loss import Step


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(number=0, seed=0):
    return Step(number, torch.Generator().manual_seed(seed))


def test_the_list_says_what_each_loss_is_and_whose():
    assert {name: entry.title for name, entry in losses.LOSSES.items()} == {
        "cross-entropy": "cross-entropy, with label smoothing if wanted",
        "hinge": "the SVM's hinge loss, Crammer–Singer or one-vs-rest",
        "large-margin": "distance to the boundary at any layers (Elsayed et al. 2018)",
        "large-margin-softmax": "angular margin at the last layer (Liu et al. 2016)",
        "generalised-cross-entropy": "between cross-entropy and mean absolute error "
        "(Zhang and Sabuncu 2018)",
        "symmetric-cross-entropy": "cross-entropy and its reverse (Wang et al. 2019)",
        "soft-margin-softmax": "softmax with a margin taken off the target logit (Liang et al.)",
        "adversarial": "cross-entropy of images attacked by PGD (Madry et al. 2018)",
        "trades": "cross-entropy and the divergence under attack (Zhang et al. 2019)",
    }


def softmax(row):
    return np.exp(row) / np.exp(row).sum()


def smoothed(row, y, s):
    target = np.full(len(row), s / len(row))
    target[y] += 1 - s
    return -(target * np.log(softmax(row))).sum()


def crammer_singer(row, y, m):
    return max(0, m + max(f for j, f in enumerate(row) if j != y) - row[y])


def one_vs_rest(row, y, m, power=1):
    return sum(max(0, m - (f if j == y else -f)) ** power for j, f in enumerate(row))


def symmetric(row, y, alpha, beta, a):
    p = softmax(row)
    reverse = -sum(p[j] * (0 if j == y else a) for j in range(len(row)))
    return -alpha * math.log(p[y]) + beta * reverse


def soft_margin(row, y, m):
    own = math.exp(row[y] - m)
    return -math.log(own / (own + sum(math.exp(f) for j, f in enumerate(row) if j != y)))


def row_of(name, settings, reference):
    return pytest.param(name, settings, reference, id=f"{name} {settings}")


ON_LOGITS = [
    row_of("cross-entropy", {}, lambda f, y: smoothed(f, y, 0)),
    row_of("cross-entropy", {"label_smoothing": 0.2}, lambda f, y: smoothed(f, y, 0.2)),
    row_of("hinge", {}, lambda f, y: crammer_singer(f, y, 1)),
    row_of("hinge", {"margin": 3, "squared": True}, lambda f, y: crammer_singer(f, y, 3) ** 2),
    row_of("hinge", {"kind": "one-vs-rest"}, lambda f, y: one_vs_rest(f, y, 1)),
    row_of(
        "hinge",
        {"kind": "one-vs-rest", "squared": True, "margin": 0.5},
        lambda f, y: one_vs_rest(f, y, 0.5, 2),
    ),
    row_of("generalised-cross-entropy", {}, lambda f, y: (1 - softmax(f)[y] ** 0.7) / 0.7),
    # half the absolute error between p and the one-hot label
    row_of(
        "generalised-cross-entropy",
        {"q": 1},
        lambda f, y: np.abs(softmax(f) - np.eye(len(f))[y]).sum() / 2,
    ),
    row_of("symmetric-cross-entropy", {}, lambda f, y: symmetric(f, y, 0.1, 1, -4)),
    row_of(
        "symmetric-cross-entropy",
        {"alpha": 2, "beta": 0.5, "log_zero": -6},
        lambda f, y: symmetric(f, y, 2, 0.5, -6),
    ),
    row_of("soft-margin-softmax", {"margin": 0.7}, lambda f, y: soft_margin(f, y, 0.7)),
    row_of("soft-margin-softmax", {"margin": 0}, lambda f, y: smoothed(f, y, 0)),
]


@pytest.mark.parametrize(("name", "settings", "reference"), ON_LOGITS)
def test_value_and_gradient_are_those_of_the_formula(name, settings, reference):
    loss = losses.build(name, settings)
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 5)).double()
    network[1].weight.data, network[1].bias.data = draw(5, 6, seed=1), draw(5, seed=2)
    images, labels = draw(7, 1, 2, 3), torch.arange(7) % 5

    def value():
        rows = network(images).detach().numpy()
        return np.mean([reference(f, y) for f, y in zip(rows, labels.tolist(), strict=True)])

    result = loss.backward(network, images, labels, step())
    assert result.loss.item() == pytest.approx(value(), rel=1e-12)
    assert not result.loss.requires_grad
    assert torch.equal(result.logits, network(images))
    direction, weight = draw(5, 6, seed=3), network[1].weight.data.clone()
    ends = []
    for h in (1e-6, -1e-6):
        network[1].weight.data = weight + h * direction
        ends.append(value())
    slope = (network[1].weight.grad * direction).sum().item()
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6, abs=1e-8)


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_trains_in_half_precision_arithmetic_and_on_extreme_logits(name):
    model = models.build("mnist-cnn", seed=0)
    images = draw(4, 1, 28, 28).sigmoid().float().to(memory_format=torch.channels_last)
    loss = losses.build(name).prepare(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss.backward(model, images, torch.arange(4), step())
    assert result.loss.dtype == torch.float32
    model.zero_grad()
    model.fc2.weight.data *= 1e4
    result = loss.backward(model, images, torch.arange(4), step())
    assert math.isfinite(result.loss.item())
    assert result.logits.shape == (4, 10)
    wanted = [p for p in model.parameters() if p.requires_grad]
    assert all(bool(torch.isfinite(p.grad).all()) for p in wanted)


# large-margin softmax


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_psi_is_its_piecewise_definition(m):
    for k in range(m):
        theta = np.linspace(k * math.pi / m, (k + 1) * math.pi / m, 401)[1:-1]
        wanted = (-1) ** k * np.cos(m * theta) - 2 * k
        found = psi(torch.from_numpy(np.cos(theta)), m).numpy()
        assert np.abs(found - wanted).max() < 1e-12
    # both pieces agree at the breaks, so that rounding there costs nothing
    edges = np.arange(m + 1) * math.pi / m
    ends = psi(torch.from_numpy(np.cos(edges)), m).numpy()
    assert np.abs(ends - (1 - 2 * np.arange(m + 1))).max() < 1e-12


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("number", [0, 700])
def test_large_margin_softmax_is_its_formula(m, number):
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Softplus(), nn.Linear(4, 3)).double()
    for i, parameter in enumerate(network.parameters()):
        parameter.data = draw(*parameter.shape, seed=i)
    images, labels = draw(8, 6, seed=7), torch.arange(8) % 3
    settings = {"m": m, "base": 3, "gamma": 1e-3, "power": 2, "lambda_min": 0.1}
    loss = losses.build("large-margin-softmax", settings).prepare(network, images)
    weights = [p for p in network.parameters() if p.requires_grad]
    assert network[3].bias.tolist() == [0, 0, 0]
    assert len(weights) == 3

    def value():
        share = max(0.1, 3 * (1 + 1e-3 * number) ** -2)
        features, w = network[:3](images).detach().numpy(), network[3].weight.detach().numpy()
        total = 0
        for x, y in zip(features, labels.tolist(), strict=True):
            logits, size = w @ x, np.linalg.norm(w[y]) * np.linalg.norm(x)
            theta = math.acos(logits[y] / size)
            k = min(int(theta * m / math.pi), m - 1)
            angular = size * ((-1) ** k * math.cos(m * theta) - 2 * k)
            logits[y] = (share * logits[y] + angular) / (1 + share)
            total += smoothed(logits, y, 0)
        return total / len(labels)

    result = loss.backward(network, images, labels, step(number))
    assert result.loss.item() == pytest.approx(value(), rel=1e-10)
    assert torch.equal(result.logits, network(images))
    for weight in weights:
        start, direction, ends = weight.data.clone(), draw(*weight.shape, seed=9), []
        for h in (1e-6, -1e-6):
            weight.data = start + h * direction
            ends.append(value())
        weight.data = start
        slope = (weight.grad * direction).sum().item()
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_large_margin_softmax_has_a_finite_gradient_where_features_and_weights_are_parallel(sign):
    network = nn.Sequential(nn.Linear(3, 2, bias=False)).double()
    images = sign * network[0].weight.detach()[:1]
    result = losses.build("large-margin-softmax", {"base": 0}).backward(
        network, images, torch.tensor([0]), step()
    )
    assert math.isfinite(result.loss.item())
    assert bool(torch.isfinite(network[0].weight.grad).all())


def test_annealing_follows_the_released_configuration():
    # λ of the MNIST configuration, computed from the formula published with the code
    loss = losses.build("large-margin-softmax", {"m": 4})
    found = [loss.annealing(n) for n in (0, 1000, 5000, 10000, 20000, 30000)]
    assert found == pytest.approx([1000, 421, 16.2, 0.406, 6.9e-4, 3.1e-6], rel=0.02)
    assert losses.build("large-margin-softmax", {"lambda_min": 5}).annealing(10**6) == 5


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            nn.Sequential(nn.Flatten(1), nn.Conv1d(1, 1, 1)),
            "the network has no linear layer to take angles at; choose another network",
        ),
        (
            nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)),
            "the network changes what its last linear layer gives; the logits must be that "
            "layer's output",
        ),
        (
            nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (3, 2)), nn.AvgPool1d(2), nn.Flatten()),
            "the network's last linear layer does not give its logits",
        ),
        (
            nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 3), nn.Flatten()),
            "the network's last linear layer does not give its logits",
        ),
    ],
)
def test_large_margin_softmax_refuses_networks_without_a_last_inner_product(network, message):
    with pytest.raises(InputError) as caught:
        losses.build("large-margin-softmax").prepare(network, torch.rand(2, 4))
    assert str(caught.value) == f"large-margin-softmax: {message}"


class Unused(nn.Module):
    """Its last linear layer takes no part."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.first(x)


def test_large_margin_softmax_refuses_a_last_layer_that_is_not_used():
    loss, images = losses.build("large-margin-softmax"), torch.rand(2, 4)
    for ask, told in (
        (lambda: loss.prepare(Unused(), images), "the network's last linear layer does not give"),
        (
            lambda: loss(Unused(), images, torch.arange(2), step()),
            "the network does not use its last linear layer",
        ),
    ):
        with pytest.raises(InputError) as caught:
            ask()
        assert str(caught.value).startswith(f"large-margin-softmax: {told}")
    assert str(caught.value) == f"large-margin-softmax: {told}"


def test_a_margin_that_hardly_counts_to_the_end_is_told():
    """λ after n steps is 100 / (1 + n) here: 10 at the tenth, which is the most that goes."""
    loss = losses.build("large-margin-softmax", {"base": 100, "gamma": 1, "power": 1})
    assert loss.warning(10) == ""
    assert loss.warning(9) == (
        "large-margin-softmax: λ is still 11.1 at the last of 9 updates, where the margin has a "
        "share of 8.26\u00a0%; raise gamma or power, or train for longer"
    )
    plain = losses.build("large-margin-softmax", {"base": 100, "gamma": 1, "power": 1, "m": 1})
    assert plain.warning(1) == ""


# attacked images


class Two(nn.Module):
    """Two classes whose logits differ by w·x + b, float64."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(draw(8, seed=4))

    def forward(self, x):
        z = ((x.flatten(1) - 0.5) * self.w).sum(1)
        return torch.stack([torch.zeros_like(z), z], 1)


def middle(n=6):
    return draw(n, 1, 2, 4, seed=5).sigmoid() * 0.2 + 0.4


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2)])
def test_adversarial_training_finds_the_worst_case_of_a_linear_model(norm, order):
    model, images, labels = Two(), middle(), torch.arange(6) % 2
    settings = {"norm": norm, "epsilon": "1/10", "steps": 100, "relative_step": "1/10"}
    result = losses.build("adversarial", settings)(model, images, labels, step())
    lead = (model(images)[:, 1] * (2 * labels - 1)).detach().numpy()
    worst = lead - 0.1 * np.linalg.norm(model.w.detach().numpy(), ord=order)
    assert result.loss.item() == pytest.approx(np.log1p(np.exp(-worst)).mean(), rel=1e-3)
    assert result.loss.item() < np.log1p(np.exp(-worst)).mean() * (1 + 1e-9)  # within the ball


def test_the_ball_of_adversarial_training_grows_over_the_warmup():
    model, images, labels = Two(), middle(), torch.arange(6) % 2
    settings = {"norm": "l2", "epsilon": "1/10", "steps": 100, "relative_step": "1/10"}
    lead = (model(images)[:, 1] * (2 * labels - 1)).detach().numpy()
    for taken, share in ((0, 0.25), (2, 0.75), (3, 1.0), (50, 1.0)):
        loss = losses.build("adversarial", settings | {"warmup": 4})
        worst = lead - share * 0.1 * np.linalg.norm(model.w.detach().numpy())
        found = loss(model, images, labels, step(taken)).loss.item()
        assert found == pytest.approx(np.log1p(np.exp(-worst)).mean(), rel=1e-3)


def test_trades_finds_an_end_of_the_ball_on_a_linear_model():
    model, images = Two(), middle(1)
    settings = {"epsilon": "1/10", "steps": 50, "relative_step": "1/10", "beta": 2}
    z = model(images)[0, 1].item()
    p = 1 / (1 + math.exp(-z))
    reach = 0.1 * model.w.detach().abs().sum().item()

    def value(end):
        q = 1 / (1 + math.exp(-end))
        divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        return -math.log(p) + 2 * divergence

    # the divergence is convex along the line: a random start decides which end is climbed to
    found = {
        losses.build("trades", settings)(
            model, images, torch.tensor([1]), step(seed=seed)
        ).loss.item()
        for seed in range(8)
    }
    ends = [value(z + reach), value(z - reach)]
    assert all(any(f == pytest.approx(end, rel=1e-9) for end in ends) for f in found)
    assert len(found) > 1


def test_trades_without_weight_is_cross_entropy_and_else_linear_in_it():
    model, images, labels = Two(), middle(), torch.arange(6) % 2
    plain = losses.build("cross-entropy")(model, images, labels, step()).loss.item()
    without, with_one, with_two = (
        losses.build("trades", {"beta": beta})(model, images, labels, step()).loss.item()
        for beta in (0, 1, 2)
    )
    assert without == pytest.approx(plain, rel=1e-12)
    assert with_two - without == pytest.approx(2 * (with_one - without), rel=1e-9)


def test_trades_climbs_the_divergence_from_what_is_said_of_the_image():
    weight, images, labels = draw(3, 8, seed=6), middle(), torch.arange(6) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3, bias=False)).double()
    model[1].weight.data = weight
    settings = {"norm": "l2", "epsilon": "1/20", "steps": 1, "relative_step": "1/2", "beta": 3}
    loss = losses.build("trades", settings)(model, images, labels, step(seed=2)).loss.item()
    starts = images + 0.05 * in_unit_ball(images, "l2", step(seed=2).generator)
    total = 0
    for image, start, y in zip(images, starts, labels.tolist(), strict=True):
        x, moved, w = image.flatten().numpy(), start.flatten().numpy(), weight.numpy()

        def divergence(z, w=w, x=x):
            p, q = softmax(w @ x), softmax(w @ z)
            return (p * np.log(p / q)).sum()

        slope = [divergence(moved + h) - divergence(moved - h) for h in 1e-6 * np.eye(8)]
        moved = moved + 0.025 * np.array(slope) / np.linalg.norm(slope) - x
        moved = x + moved * min(1, 0.05 / np.linalg.norm(moved))
        total += smoothed(w @ x, y, 0) + 3 * divergence(moved)
    assert loss == pytest.approx(total / 6, rel=1e-7)


@pytest.mark.parametrize("name", ["adversarial", "trades"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacked_images_stay_in_the_ball_and_the_box_and_follow_the_generator(name, norm):
    seen = []

    class Watching(Two):
        def forward(self, x):
            seen.append(x.detach().clone())
            return super().forward(x)

    model, images = Watching(), draw(5, 1, 2, 4).sigmoid().round()
    labels = torch.arange(5) % 2
    loss = losses.build(name, {"norm": norm, "epsilon": "3/10", "steps": 4})
    for seed in (0, 0, 1):
        loss(model, images, labels, step(seed=seed))
    for x in seen:
        change = (x - images).flatten(1)
        size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        assert float(size.max()) <= 0.3 * (1 + 1e-12)
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
    third = len(seen) // 3
    assert all(map(torch.equal, seen[:third], seen[third : 2 * third]))
    assert not all(map(torch.equal, seen[:third], seen[2 * third :]))


def test_random_starts_are_uniform_in_the_ball():
    like = torch.empty(20000, 1, 1, 3, dtype=torch.float64)
    radius = in_unit_ball(like, "l2", step().generator).flatten(1).norm(dim=1)
    assert (radius**3).mean().item() == pytest.approx(0.5, abs=0.01)
    assert radius.max().item() <= 1
    points = in_unit_ball(like, "linf", step().generator)
    assert points.mean().item() == pytest.approx(0, abs=0.01)
    assert points.abs().mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("name", "mode", "forwards"),
    [
        ("adversarial", "eval", 1),
        ("adversarial", "train", 3 + 1),
        ("trades", "eval", 2),  # the images, the attacked ones
        ("trades", "train", 1 + 3 + 2),  # and before them what the attack departs from
    ],
)
def test_the_attack_moves_batch_statistics_only_in_train_mode(name, mode, forwards):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 2))
    loss = losses.build(name, {"steps": 3, "attack_mode": mode})
    loss(model, middle().float(), torch.arange(6) % 2, step())
    assert model.training
    assert model[1].training
    assert int(model[1].num_batches_tracked) == forwards


# names and settings


def test_importing_the_registry_imports_no_torch():
    code = (
        "import sys; from robustkit import losses; losses.parse_settings(['a=1']); "
        "losses.source('hinge'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_from_a_command_line_are_typed():
    texts = [
        "a=1",
        "b=0.5",
        "c=true",
        "d=none",
        "e=input, 0,conv1",
        "f=8/255",
        'g="0.10"',
        "h=1e-3",
    ]
    assert losses.parse_settings(texts) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": None,
        "e": ["input", 0, "conv1"],
        "f": "8/255",
        "g": "0.10",
        "h": 0.001,
    }
    for text, value in (
        ("x=", ""),
        ("x=a=b", "a=b"),
        ("x=,", []),
        ("x=1,", [1]),
        ("x= TRUE ", True),
        ("x=False", False),
        ('x="', '"'),
        ('x=""', ""),
        ('x="1', '"1'),
        ('x="true","1"', ["true", "1"]),
        (" x =1", 1),
        ("x=1_0", 10),
        ("x=0x1", "0x1"),
    ):
        found = losses.parse_settings([text])
        assert repr(found) == repr({"x": value}), text
    for bad, message in (
        (["a"], "a: expected key=value"),
        (["=1"], "=1: expected key=value"),
        ([" =1"], " =1: expected key=value"),
        (["a=1", " a =2"], " a =2: a is set twice; lists take commas"),
    ):
        for option in ("--set", "--loss-set"):
            with pytest.raises(InputError) as caught:
                losses.parse_settings(bad, *([] if option == "--set" else [option]))
            assert str(caught.value) == f"{option} {message}"


def test_settings_are_spelt_in_full_and_taken_back():
    texts = ["layers=input,0,features.1", "gamma=2", "alpha=none", "norm=linf", "top_k=2"]
    loss = losses.build("large-margin", losses.parse_settings(texts))
    assert loss.layers == ("input", "0", "features.1")
    assert loss.gamma == (2.0,)
    for name in losses.LOSSES:
        made = losses.build(name)
        spelt = json.loads(json.dumps(losses.spell(made)))
        assert losses.build(name, spelt) == made
    assert losses.build("large-margin", losses.spell(loss)) == loss
    # a study's TOML has no null, and says none as the command line does
    assert losses.build("large-margin", {"alpha": "none"}).alpha is None
    exact = losses.build("trades", losses.parse_settings(["epsilon=0.3"]))
    assert exact.epsilon == Fraction(3, 10)
    assert losses.spell(exact)["epsilon"] == "3/10"


# "{name}: " and this
SENSELESS = [
    ("hinge", {"margn": 1}, "unknown key 'margn'; did you mean 'margin'?"),
    ("hinge", {"margin": "wide"}, "margin: expected float, got 'wide'"),
    ("hinge", {"margin": math.nan}, "margin: expected a finite number, got nan"),
    ("hinge", {"margin": math.inf}, "margin: expected a finite number, got inf"),
    ("hinge", {"margin": 0}, "margin must be above 0, got 0.0"),
    (
        "hinge",
        {"kind": "1-vs-rest"},
        "kind: unknown value '1-vs-rest'; did you mean 'one-vs-rest'?",
    ),
    (
        "cross-entropy",
        {"label_smoothing": 1},
        "label_smoothing must be at least 0 and below 1, got 1.0",
    ),
    (
        "cross-entropy",
        {"label_smoothing": -0.01},
        "label_smoothing must be at least 0 and below 1, got -0.01",
    ),
    *(
        (
            "generalised-cross-entropy",
            {"q": q},
            f"q must be above 0 and at most 1 (towards 0 it becomes cross-entropy), got {q}",
        )
        for q in (0.0, 1.01)
    ),
    ("symmetric-cross-entropy", {"log_zero": 0}, "log_zero must be below 0, got 0.0"),
    ("symmetric-cross-entropy", {"alpha": -0.1}, "alpha must be at least 0, got -0.1"),
    ("symmetric-cross-entropy", {"beta": -0.1}, "beta must be at least 0, got -0.1"),
    ("soft-margin-softmax", {"margin": -0.1}, "margin must be at least 0, got -0.1"),
    ("large-margin-softmax", {"m": 5}, "m: unknown value '5'; known: 1, 2, 3, 4"),
    *(
        ("large-margin-softmax", {key: -1e-9}, f"{key} must be at least 0, got -1e-09")
        for key in ("base", "gamma", "power", "lambda_min")
    ),
    ("large-margin", {"norm": "l3"}, "norm: unknown value 'l3'; known: l1, l2, linf"),
    ("large-margin", {"gamma": [1, 0]}, "gamma must be above 0, got 0.0"),
    ("large-margin", {"gamma": []}, "gamma must be above 0, got 0.0"),
    ("large-margin", {"gamma": math.inf}, "gamma: expected a finite number, got inf"),
    ("large-margin", {"layers": []}, "layers must name at least one, got []"),
    (
        "large-margin",
        {"layers": 0.1},
        'layers: 0.1 reads as a number; put the name in quotes: "0.10"',
    ),
    ("large-margin", {"alpha": 0}, "alpha must be above 0 or none, got 0.0"),
    ("large-margin", {"top_k": 0}, "top_k must be at least 1, got 0"),
    (
        "large-margin",
        {"cross_entropy_weight": -0.1},
        "cross_entropy_weight must be at least 0, got -0.1",
    ),
    ("large-margin", {"stabiliser": -0.1}, "stabiliser must be at least 0, got -0.1"),
    ("adversarial", {"epsilon": "0"}, "epsilon must be above 0, got 0"),
    ("adversarial", {"steps": 0}, "steps must be at least 1, got 0"),
    ("adversarial", {"relative_step": "0"}, "relative_step must be above 0, got 0"),
    ("adversarial", {"warmup": -1}, "warmup must not be negative, got -1"),
    ("trades", {"beta": -0.1}, "beta must be at least 0, got -0.1"),
    ("trades", {"relative_step": "-1/4"}, "relative_step must be above 0, got -1/4"),
]


@pytest.mark.parametrize(("name", "settings", "message"), SENSELESS)
def test_what_makes_no_sense_is_told_in_one_line(name, settings, message):
    with pytest.raises(InputError) as caught:
        losses.build(name, settings)
    assert str(caught.value) == f"{name}: {message}"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hinge", {"margin": 1e-9}),
        ("cross-entropy", {"label_smoothing": 0.999}),
        ("generalised-cross-entropy", {"q": 1e-9}),
        ("symmetric-cross-entropy", {"alpha": 0, "beta": 0, "log_zero": -1e-9}),
        ("soft-margin-softmax", {"margin": 0}),
        ("large-margin-softmax", {"m": 1, "base": 0, "gamma": 0, "power": 0, "lambda_min": 0}),
        ("large-margin", {"gamma": [1e-9], "alpha": 1e-9, "stabiliser": 0}),
        ("adversarial", {"epsilon": "1/1000", "steps": 1, "relative_step": "1/1000"}),
        ("trades", {"beta": 0, "warmup": 1}),
    ],
)
def test_the_least_that_makes_sense_is_taken(name, settings):
    spelt = losses.spell(losses.build(name, settings))
    assert spelt == spelt | settings


DEFAULTS = {
    "cross-entropy": {"label_smoothing": 0.0},
    "hinge": {"kind": "crammer-singer", "margin": 1.0, "squared": False},
    "large-margin": {
        "norm": "l2",
        "layers": ["input"],
        "gamma": [1.0],
        "alpha": None,
        "top_k": 1,
        "aggregate": "max",
        "on": "logits",
        "differentiate": False,
        "normalise": False,
        "cross_entropy_weight": 0.0,
        "stabiliser": 1e-6,
    },
    "large-margin-softmax": {
        "m": 4,
        "base": 1000.0,
        "gamma": 2.5e-5,
        "power": 35.0,
        "lambda_min": 0.0,
    },
    "generalised-cross-entropy": {"q": 0.7},
    "symmetric-cross-entropy": {"alpha": 0.1, "beta": 1.0, "log_zero": -4.0},
    "soft-margin-softmax": {"margin": 1.0},
    "adversarial": (
        attacked := {
            "epsilon": "8/255",
            "norm": "linf",
            "steps": 10,
            "relative_step": "1/4",
            "attack_mode": "eval",
            "warmup": 0,
        }
    ),
    "trades": attacked | {"beta": 6.0},
}


def test_the_defaults_are_those_of_trainings_on_file():
    """They stand in full in every digest: another default is another training."""
    assert {name: losses.spell(losses.build(name)) for name in losses.LOSSES} == DEFAULTS


def test_the_source_of_a_loss_changes_with_its_code(tmp_path):
    assert losses.source("hinge") != losses.source("trades")
    path = tmp_path / "mine.py"
    path.write_text("def f(logits, labels): ...")
    before = losses.source(f"{path}:f")
    path.write_text("def f(logits, labels): return 1")
    assert before != losses.source(f"{path}:f")
    assert losses.source(f"{path}:f") == f"f {hashlib.sha256(path.read_bytes()).hexdigest()}"
    missing = f"{tmp_path}/none.py"
    with pytest.raises(InputError) as caught:
        losses.source(f"{missing}:f")
    assert str(caught.value) == f"{missing}: no such file; --loss takes FILE.py:FUNCTION"
    for ask in (losses.source, losses.build):
        with pytest.raises(
            UnknownName, match=r"unknown loss 'hinges'; did you mean 'hinge'\?"
        ) as told:
            ask("hinges")
        assert str(told.value).endswith("? (or FILE.py:FUNCTION)")


# a user's own

MINE = """
    import torch
    from torch.nn import functional

    def on_logits(logits, labels, *, weight=2.0, kinds=("a", "b")):
        return weight * functional.cross_entropy(logits, labels)

    def on_model(model, images, labels, noise=0.0):
        return functional.cross_entropy(model(images + noise), labels)

    def idle(model, images, labels): return functional.cross_entropy(torch.zeros(len(labels), 2), labels)
    def free(logits, labels): return labels.double().mean()
    def needy(logits, labels, *, q): return q * logits.mean()
    def breaks(logits, labels): raise ValueError("first line\\nsecond")
    def silent(logits, labels): raise ValueError()
    unreadable = dict
    def vector(logits, labels): return logits.sum(1)
    def number(logits, labels): return 3.0
    def lonely(logits): return logits.mean()
    def greedy(logits, labels, **rest): return sum(rest.values()) * logits.mean()

    def by_name(logits, labels, base=functional.cross_entropy, own=free, also=(torch.relu, torch.nn.ReLU)):
        return base(logits, labels)

    def climbed(model, images, labels):
        x = images.clone().requires_grad_()
        functional.cross_entropy(model(x), labels).backward()
        return (x + 0.1 * x.grad.sign()).detach()

    def pgd(model, images, labels):
        return functional.cross_entropy(model(climbed(model, images, labels)), labels)

    def pgd_and_zero(model, images, labels):
        attacked = climbed(model, images, labels)
        model.zero_grad()
        return functional.cross_entropy(model(attacked), labels)

    def pgd_of_logits(logits, labels):
        functional.cross_entropy(logits, labels).backward(retain_graph=True)
        return functional.cross_entropy(logits, labels)
"""
LEAVES = (
    "{loss} leaves gradients in the network's weights, to which its own would be added; within a "
    "loss, as for an attack, use torch.autograd.grad(value, images) instead of value.backward()"
)


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(MINE))
    return str(path)


def test_a_users_function_of_logits_or_of_the_model_is_a_loss(mine):
    model, images, labels = Two(), middle(), torch.arange(6) % 2
    plain = losses.build("cross-entropy")(model, images, labels, step())
    own = losses.build(f"{mine}:on_logits", {"weight": 3}).prepare(model, images)
    own.try_out(model, images, labels, step())
    result = own(model, images, labels, step())
    assert result.loss.item() == pytest.approx(3 * plain.loss.item())
    assert torch.equal(result.logits, plain.logits)
    assert losses.spell(own) == {"weight": 3, "kinds": ["a", "b"]}
    own = losses.build(f"{mine}:on_model").prepare(model, images)
    result = own.backward(model, images, labels, step())
    assert result.loss.item() == pytest.approx(plain.loss.item())
    assert torch.equal(result.logits, plain.logits)
    assert model.w.grad is not None
    assert losses.spell(own) == {"noise": 0.0}
    greedy = losses.build(f"{mine}:greedy", {"a": 1, "b": 2})
    assert losses.spell(greedy) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        ("on_logit", {}, "unknown function in {file}: 'on_logit'; did you mean 'on_logits'?"),
        ("on_logits", {"wieght": 1}, "{loss}: unknown key 'wieght'; did you mean 'weight'?"),
        ("needy", {}, "{loss}: the key 'q' is missing; give it with --set q=…"),
        (
            "lonely",
            {},
            "{loss} takes 1 arguments; a loss takes (logits, labels) or (model, images, labels), "
            "and settings as keyword arguments with defaults",
        ),
        ("idle", {}, "{loss} must call the model it is given, as model(images)"),
        (
            "free",
            {},
            "{loss} returned a number that does not depend on the network; of a batch that has "
            "nothing to teach, return 0 * logits.sum()",
        ),
        ("breaks", {}, "{loss} failed: ValueError: first line"),
        ("silent", {}, "{loss} failed: ValueError"),
        ("vector", {}, "{loss} returned a tensor (6,); it must return a scalar tensor"),
        ("number", {}, "{loss} returned 3.0; it must return a scalar tensor"),
        ("unreadable", {}, "{loss}: its arguments cannot be read; wrap it in a def"),
        ("pgd", {}, LEAVES),
        ("pgd_of_logits", {}, LEAVES),
    ],
)
def test_a_users_mistakes_are_told_in_one_line(mine, function, settings, message):
    loss, labels = f"{mine}:{function}", torch.arange(6) % 2
    with pytest.raises(InputError) as caught:
        losses.build(loss, settings).try_out(Two(), middle(), labels, step())
    told = str(caught.value).removesuffix(" (tried on the first batch, 6 images)")
    assert told == message.format(file=mine, loss=loss)


def test_an_attack_within_a_users_loss_may_clear_its_gradients_and_adds_none(mine):
    model, images, labels = Two(), middle(), torch.arange(6) % 2
    own = losses.build(f"{mine}:pgd_and_zero").prepare(model, images)
    own.backward(model, images, labels, step())
    found, model.w.grad = model.w.grad, None
    x = images.clone().requires_grad_()
    value = nn.functional.cross_entropy(model(x), labels)
    (slope,) = torch.autograd.grad(value, x)
    attacked = (x + 0.1 * slope.sign()).detach()
    nn.functional.cross_entropy(model(attacked), labels).backward()
    assert torch.equal(found, model.w.grad)
    # one that leaves them is found at any step, also where there were some before
    with pytest.raises(InputError, match="leaves gradients"):
        losses.build(f"{mine}:pgd").backward(model, images, labels, step())


def test_settings_that_json_lacks_are_spelt_by_what_they_are(mine):
    def spelt(value):
        return losses.spell(losses.build(f"{mine}:greedy", {"a": value}))["a"]

    long = torch.zeros(1500)
    values = [
        torch.tensor([1.0, 1.00001]),
        torch.tensor([1.0, 1.00002]),
        torch.tensor([1.0, 1.00001], dtype=torch.bfloat16),
        torch.tensor([[1.0], [1.00001]]),
        torch.tensor(1.0),
        long,
        long.index_fill(0, torch.tensor([700]), 1),
        np.zeros(1500),
        np.arange(1500) == 700,
    ]
    found = [json.dumps(spelt(value)) for value in values]
    assert len(set(found)) == len(values)
    assert found == [
        json.dumps(spelt(v.copy() if isinstance(v, np.ndarray) else v.clone())) for v in values
    ]
    assert spelt([1, {"b": long}]) == [1, {"b": spelt(long)}]
    losses_of_torch = [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.ones(2)),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.00001])),
        nn.NLLLoss(),
    ]
    found = [json.dumps(spelt(value)) for value in losses_of_torch]
    assert len(set(found)) == len(found)
    assert found == [json.dumps(spelt(copy.deepcopy(value))) for value in losses_of_torch]
    # what says all of itself stands as in trainings so far
    assert spelt(Fraction(1, 3)) == "Fraction(1, 3)"
    assert spelt((1, "b")) == [1, "b"]
    assert losses.spell(losses.build(f"{mine}:by_name")) == {
        "base": {"code": "torch.nn.functional.cross_entropy"},
        "own": {"code": "free"},
        "also": [
            {"code": "torch._VariableFunctionsClass.relu"},
            {"code": "torch.nn.modules.activation.ReLU"},
        ],
    }


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, nn.Sequential(nn.ReLU()), np.array([None]), torch.eye(2).to_sparse()],
)
def test_a_setting_that_nothing_identifies_is_refused(mine, value):
    with pytest.raises(InputError, match="nothing identifies the value of a, of type ") as told:
        losses.spell(losses.build(f"{mine}:greedy", {"a": [value]}))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", [nn.functional.relu, [lambda x: x], {"b": nn.ReLU}])
def test_code_is_no_setting_but_a_default(mine, value):
    with pytest.raises(
        InputError, match="'a' is or holds a function or class; make it the default"
    ):
        losses.build(f"{mine}:greedy", {"a": value})


def test_a_users_missing_file_is_told_with_the_option(tmp_path):
    with pytest.raises(InputError, match="--loss takes"):
        losses.build(f"{tmp_path}/none.py:f")
    with pytest.raises(UnknownName, match=r"or FILE\.py:FUNCTION"):
        losses.build("mine")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"logits": 1}, "dict; a loss needs its logits, N × K"),
        (torch.tensor(0.0), "a scalar; a loss needs logits N × K, K at least 2"),
        (torch.zeros(2), "2; a loss needs logits N × K, K at least 2"),
        (torch.zeros(2, 1), "2 × 1; a loss needs logits N × K, K at least 2"),
        (torch.zeros(2, 3, 1), "2 × 3 × 1; a loss needs logits N × K, K at least 2"),
    ],
)
def test_a_network_without_logits_is_refused(output, message):
    class Odd(nn.Module):
        def forward(self, x):
            return output

    with pytest.raises(InputError) as caught:
        losses.build("cross-entropy").prepare(Odd(), torch.rand(2, 3))
    assert str(caught.value) == f"the network returned {message}"
