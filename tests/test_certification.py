from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from helpers.traces import traced_once
from scipy.optimize import linprog
from scipy.stats import binomtest, norm
from torch import nn

from robustkit import protocol as protocols
from robustkit.attacks import Block, attack_block
from robustkit.attacks.draws import generator, in_ball
from robustkit.certification import (
    ABSTAIN,
    SmoothingNoise,
    attack_smoothed,
    certify,
    certify_rising,
    refine,
    smooth,
)
from robustkit.certification.bounds import intervals, lowest
from robustkit.certification.conversion import convert
from robustkit.certification.deterministic import BUDGET
from robustkit.certification.refine import refined
from robustkit.certification.region import Region, reach
from robustkit.certification.smoothing import lower_bound, predict
from robustkit.checkpoint import wrap
from robustkit.checkpoint.adapter import Classifier, freeze
from robustkit.errors import DataError, InputError, NetworkFailed
from robustkit.geometry import TOLERANCE, project

NORMS = ("linf", "l2", "l1")
DUAL = {"linf": 1, "l2": 2, "l1": float("inf")}


class Residual(nn.Module):
    """Everything that has bounds, in a few lines: odd sizes, paddings, two paths."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding="same")
        self.conv3 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 3)
        self.register_buffer("shift", torch.linspace(-0.1, 0.1, 6).view(6, 1, 1))

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(2 * x - 1)))
        x = self.act(x + self.conv2(x))
        x = self.pool(self.conv3(x)) - self.shift
        x = nn.functional.adaptive_avg_pool2d(torch.relu(x), 1)
        return self.fc(self.drop(x).view(x.size(0), -1))


def plain():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2),
        nn.ReLU(),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(6, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(49, 16), nn.ReLU(), nn.Linear(16, 3))


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(49, 3))


KINDS = {"residual": Residual, "plain": plain, "dense": dense, "linear": linear}


def made(kind, seed):
    """A frozen network with random weights and batch norm, normalisation in front."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = KINDS[kind]()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.5, 2)
                nn.init.uniform_(part.weight, -1, 1)
        return freeze(Classifier(module, [0.4], [0.5]))


def pictures(seed, n=12, side=7):
    return torch.rand(n, 1, side, side, generator=generator("pictures", seed))


def sample(x, radius, norm_name, n, source):
    """Points of the ball and the box: inside, and on the sphere where the box allows."""
    draws = torch.stack([in_ball(norm_name, x.shape[1:], source) for _ in range(n * len(x))])
    draws = draws.view(n, *x.shape)
    draws[n // 2 :] *= 1 / torch.linalg.vector_norm(
        draws[n // 2 :].flatten(2), float({"linf": "inf", "l2": 2, "l1": 1}[norm_name]), 2
    ).view(-1, len(x), 1, 1, 1)
    return (x + radius * draws).clamp(0, 1)


@cache
def trained(kind, seed=0):
    """A small network that tells where the brighter third of an image is."""
    model = made(kind, seed)
    x = pictures(seed, 300)
    y = x[:, 0, :6].reshape(-1, 3, 14).mean(2).argmax(1)
    x[torch.arange(300)[:, None], 0, (2 * y)[:, None] + torch.arange(2)] += 0.6
    x.clamp_(0, 1)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return freeze(model), x[:40], y[:40]


# -- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_name", NORMS)
def test_a_linear_model_gets_its_closed_form(norm_name):
    model, x = made("linear", 1), pictures(1, 30) * 0.5 + 0.25  # the ball stays inside the box
    labels, epsilon = model(x).argmax(1), 0.02
    weight = model.network[1].weight.double() / 0.5
    logits = model.double()(x.double())
    model.float()
    expected = torch.full((30,), torch.inf, dtype=torch.float64)
    for other in range(3):
        row = weight[labels] - weight[other]
        length = torch.linalg.vector_norm(row, DUAL[norm_name], 1)
        margin = logits.gather(1, labels[:, None])[:, 0] - logits[:, other]
        margin -= reach(epsilon) * length
        expected = torch.where(labels == other, expected, torch.minimum(expected, margin))
    result = certify(model, x, labels, norm_name, epsilon, budget=0)
    assert result.reason == ""
    assert 0 < result.robust.sum() < 30 or norm_name != "linf"
    # what is taken for rounding is a few float32 ulps of some tens of terms
    assert bool((expected - result.margin >= 0).all())
    torch.testing.assert_close(result.margin, expected, rtol=0, atol=1e-4)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("norm_name", NORMS)
def test_a_linear_function_is_least_where_an_optimiser_finds_it(norm_name):
    x = pictures(2, 3, 4).double()
    slopes = torch.randn(3, 2, 1, 4, 4, generator=generator("slopes", 2)).double()
    region = Region(norm_name, x, {"linf": 0.3, "l2": 0.9, "l1": 1.5}[norm_name])
    found = region.minimum(slopes)
    point = x[:, None].expand_as(slopes).flatten(0, 1).clone()
    budget = torch.full((6,), region.radius, dtype=torch.float64)
    for size in np.geomspace(0.1, 1e-5, 1500):
        flat = slopes.flatten(0, 1)
        point = project(point - size * flat, x.repeat_interleave(2, 0), budget, norm_name)
    best = (point * slopes.flatten(0, 1)).flatten(1).sum(1).view(3, 2)
    assert bool((found <= best + 1e-9).all())  # never above what a point reaches
    torch.testing.assert_close(found, best, rtol=0, atol={"linf": 1e-9}.get(norm_name, 0.02))


# -- sound, whatever the network ------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "norm_name"),
    [
        pytest.param(
            kind, norm, marks=[pytest.mark.slow] * (kind in ("plain", "linear") and norm != "linf")
        )
        for kind, norm in product(KINDS, NORMS)
    ],
)
def test_certified_is_at_most_attacked_at_most_clean(kind, norm_name):
    model, x = made(kind, 3), pictures(3, 8)
    labels = model(x).argmax(1)
    labels[0] = (labels[0] + 1) % 3  # one that is wrong clean
    levels = {"linf": "0.002 0.01 0.03 0.1", "l2": "0.01 0.05 0.2 0.5", "l1": "0.05 0.2 0.6 2"}
    texts = levels[norm_name].split()
    epsilons = [float(text) for text in texts]
    results = certify_rising(model, x, labels, norm_name, epsilons)
    assert {result.reason for result in results} == {""}
    table = {"kind": "pgd", "steps": 12, "relative_step": "1/6", "loss": "margin"}
    protocol = protocols.parse_protocol(
        {"title": "", "norm": norm_name, "attack": [table], "epsilon": texts, "target": "none"},
        "test",
        "test",
    )
    ids = [f"image {i}" for i in range(8)]
    outcomes = attack_block(model, Block(x, labels, ids, 0), protocol, 8)
    before = model(x).argmax(1) == labels
    assert not bool(before[0])
    for result in results:
        right = outcomes.distance > result.epsilon + TOLERANCE
        assert bool((result.robust <= right).all())
        assert bool((result.robust <= before).all())
        assert bool((torch.isfinite(result.margin) <= before).all())
        points = sample(x, result.epsilon, norm_name, 24, generator("points", kind))
        says = model(points.flatten(0, 1)).argmax(1).view(24, 8) == labels
        assert bool((result.robust <= says.all(0)).all())
        before = result.robust  # and monotone in epsilon
    assert bool(results[0].robust.any())


@cache
def steps_of(kind, seed):
    x = pictures(seed, 3)
    return x, convert(made(kind, seed), x[0])


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["residual", "plain"])
@pytest.mark.parametrize("norm_name", NORMS)
def test_no_sampled_value_leaves_its_interval_and_relaxations_only_tighten(kind, norm_name, seed):
    x, graph = steps_of(kind, seed)
    for radius in (0.02, 0.3):
        region = Region(norm_name, x.double(), radius)
        wide = intervals(graph, region)
        tight, _ = refined(graph, wide, region, BUDGET)
        points = sample(x.double(), radius, norm_name, 40, generator("points", seed))
        values = graph.values(points.flatten(0, 1))
        for value, (low, high), (below, above) in zip(values, wide, tight, strict=True):
            value = value.view(40, 3, *value.shape[1:])
            assert bool((value >= below - 1e-6).all() and (value <= above + 1e-6).all())
            assert bool((below >= low - 1e-9).all() and (above <= high + 1e-9).all())
        last = len(graph.steps) - 1
        slopes = torch.randn(3, 5, 3, generator=generator("s", seed)).double()
        reached = torch.einsum("pnk,nsk->pns", values[last].view(40, 3, 3), slopes).amin(0)
        for bounds in (wide, tight):
            for relax in (False, True):
                found = lowest(graph, bounds, region, last, slopes, relax=relax).values
                assert bool((found <= reached + 1e-6).all())


@pytest.mark.thorough
def test_the_better_of_both_methods_counts_and_says_which():
    model, x, labels = trained("plain")
    for epsilon in (0.005, 0.02, 0.05):
        with traced_once():
            alone = certify(model, x, labels, "linf", epsilon, budget=0)
            both = certify(model, x, labels, "linf", epsilon)
        assert bool((both.margin >= alone.margin).all())
        assert bool((both.robust >= alone.robust).all())
        assert [method != "" for method in both.by] == both.robust.tolist()
        assert "left out" in alone.method
        assert "left out" not in both.method
        assert set(alone.by) <= {"", "interval"}
    assert both.robust.sum() >= alone.robust.sum()


@pytest.mark.parametrize(("norm_name", "epsilon"), [("linf", 0.02), ("l2", 0.1), ("l1", 0.25)])
def test_a_trained_network_is_mostly_certified(norm_name, epsilon):
    model, x, labels = trained("dense")
    clean = (model(x).argmax(1) == labels).sum()
    assert clean >= 36
    assert certify(model, x, labels, norm_name, epsilon).robust.sum() >= 0.7 * clean


def test_batches_change_nothing():
    model, x, labels = trained("plain")
    with traced_once():
        one, many = (certify(model, x, labels, "l2", 0.1, size) for size in (7, 40))
    torch.testing.assert_close(one.margin, many.margin, rtol=0, atol=1e-9)
    assert one.by == many.by


def test_the_relaxation_is_at_most_the_linear_programme_at_most_what_points_reach():
    model, x = made("dense", 5), pictures(5, 4)
    graph = convert(model, x[0])
    last = len(graph.steps) - 1
    weights = [layer.weight.double().numpy() for layer in (model.network[1], model.network[3])]
    biases = [layer.bias.double().numpy() for layer in (model.network[1], model.network[3])]
    shift, scale = -0.4 / 0.5, 1 / 0.5
    region = Region("linf", x.double(), 0.15)
    bounds = intervals(graph, region)
    slopes = torch.eye(3).double()[[0, 1, 2]][None].expand(4, -1, -1)
    slopes = slopes - slopes.roll(1, 1)
    found = lowest(graph, bounds, region, last, slopes, relax=True).values
    merged = lowest(graph, bounds, region, last, slopes, relax=False).values
    points = sample(x.double(), 0.15, "linf", 400, generator("points", 5))
    reached = torch.einsum(
        "pnk,nsk->pns", graph.values(points.flatten(0, 1))[-1].view(400, 4, 3), slopes
    ).amin(0)
    low, high = (side.flatten(1).numpy() for side in region.interval())
    gaps = []
    for i in range(4):
        for s in range(3):
            value = _triangles(weights, biases, shift, scale, low[i], high[i], slopes[i, s].numpy())
            assert float(found[i, s]) <= value + 1e-7
            assert float(merged[i, s]) <= value + 1e-7
            assert value <= float(reached[i, s]) + 1e-7
            gaps.append((value - float(found[i, s])) / (float(reached[i, s]) - float(found[i, s])))
    assert np.mean(gaps) < 0.8


def _triangles(weights, biases, shift, scale, low, high, slope):
    """The minimum over the triangle relaxation of one hidden layer of ReLUs; variables x, h."""
    W, b = weights[0] * scale, biases[0] + shift * weights[0].sum(1)
    middle, half = W @ (low + high) / 2 + b, np.abs(W) @ (high - low) / 2
    lower, upper = middle - half, middle + half
    rows, limits, sides = [], [], [*zip(low, high, strict=True)]
    for k in range(len(b)):
        unit = np.eye(len(b))[k]
        if upper[k] <= 0:
            sides.append((0, 0))
            continue
        sides.append((max(0.0, lower[k]), upper[k]))
        rows.append([*W[k], *-unit])  # h >= Wx + b
        limits.append(-b[k])
        chord = 1.0 if lower[k] >= 0 else upper[k] / (upper[k] - lower[k])
        offset = 0.0 if lower[k] >= 0 else -lower[k]
        rows.append([*(-chord * W[k]), *unit])  # h <= chord (Wx + b - lower)
        limits.append(chord * (b[k] + offset))
    cost = [*np.zeros(len(low)), *(slope @ weights[1])]
    answer = linprog(cost, A_ub=np.array(rows), b_ub=np.array(limits), bounds=sides)
    assert answer.status == 0
    return answer.fun + slope @ biases[1]


@pytest.mark.parametrize(("norm_name", "radius"), [("linf", 0.1), ("l2", 0.5), ("l1", 1.0)])
def test_a_neuron_bounded_through_its_crop_has_the_bound_of_the_whole(norm_name, radius):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(0.2),
            nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 5, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(80, 3),
        )
        for part in (network[1], network[4]):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)  # so that padding is not what batch norm makes of 0
    x = pictures(0, 3, 14)
    steps = convert(wrap(network), x[0])
    region = Region(norm_name, x.double(), radius)
    bounds = intervals(steps, region)
    (index,) = refine.nonlinear_inputs(steps)
    crops = refine._crops(steps, index)
    assert crops.windows[0].size == 9
    chosen = refine._widest(refine.relaxed(steps, bounds, index), torch.full((3,), 10**9))
    assert int(chosen.sum()) >= 10
    whole = refine.rebounded(steps, bounds, region, index, chosen)
    parts = refine._by_crops(steps, crops, bounds, region, index, chosen)
    for one, other, before in zip(whole, parts, bounds[index], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        assert bool(((one != before) <= chosen).all())
        assert bool((one != before).any())


def _funnel():
    """Layers of very different cost: the first of them is wide and cheap, the next dear."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        sizes = (49, 8, 60, 6, 30, 3)
        parts = [nn.Flatten()]
        for before, after in pairwise(sizes):
            parts += [nn.Linear(before, after), nn.ReLU()]
        return wrap(nn.Sequential(*parts[:-1]))


def test_what_one_layer_leaves_of_the_budget_goes_to_the_others(monkeypatch):
    x = pictures(4, 6)
    graph, region = convert(_funnel(), x[0]), Region("linf", x.double(), 0.1)
    wide = intervals(graph, region)
    prices = {index: 2.0 * graph.work_below(index) for index in refine.nonlinear_inputs(graph)}
    needs = torch.stack(
        [
            (refine.relaxed(graph, wide, index) > 0).flatten(1).sum(1) * price
            for index, price in prices.items()
        ]
    )
    whole = float(needs.sum(0).max())
    assert float(needs.max()) > 1.5 * whole / len(prices)  # an equal share would not do
    most, enough = (refined(graph, wide, region, budget)[0] for budget in (1e12, whole))
    for one, other in zip(most, enough, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    widest, spent = refine._widest, torch.zeros(6, dtype=torch.float64)

    def counted(lost, most):
        chosen = widest(lost, most)
        (index,) = (i for i in prices if graph.steps[i].shape == lost.shape[1:])
        spent.add_(chosen.flatten(1).sum(1) * prices[index])
        return chosen

    monkeypatch.setattr(refine, "_widest", counted)
    for budget in (whole / 7, whole / 3, whole / 1.5):
        spent.zero_()
        refined(graph, wide, region, budget)
        assert 0.6 * budget < float(spent.max()) <= budget


# -- rounding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [0, 1])
def test_a_margin_that_float32_cannot_tell_from_none_is_not_certified(row):
    # whether the label's logit is the uncertain one, or the other
    network = nn.Sequential(nn.Flatten(), nn.Linear(1024, 2))
    with torch.no_grad():
        network[1].weight[:] = 0
        network[1].weight[row] = torch.tensor([1.0, -1.0]).repeat(512)
        network[1].bias[:] = torch.tensor([5e-3, 0])
    model, x = wrap(network), torch.full((1, 1, 32, 32), 1 / 3)
    labels = torch.zeros(1, dtype=torch.int64)
    assert int(model(x).argmax(1)) == 0
    tiny = certify(
        model, x, labels, "linf", 1e-9
    )  # not the network's own answer, which decides at 0
    # exactly the margin is 5e-3, and 4e-3 within the tolerance; 1,024 roundings may take 2e-2
    assert not bool(tiny.robust)
    with torch.no_grad():
        network[1].bias[0] = 0.05
    assert bool(certify(wrap(network), x, labels, "linf", 1e-9).robust)


def test_the_region_holds_all_that_an_attack_may_return():
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        network[1].weight[:] = torch.tensor([[1.0], [0]])
        network[1].bias[:] = torch.tensor([-0.4, 0])
    x, labels = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.int64)
    model = wrap(network)  # right down to 0.4, at a distance of 0.1
    assert not bool(certify(model, x, labels, "linf", 0.1 - TOLERANCE / 2).robust)
    assert bool(certify(model, x, labels, "linf", 0.1 - 3 * TOLERANCE).robust)


# -- what is not supported ------------------------------------------------------------------------


class Branching(nn.Module):
    def forward(self, x):
        y = x.flatten(1)[:, :3]
        return y if y.sum() > 0 else -y


class Product(nn.Module):
    def forward(self, x):
        y = x.flatten(1)
        return y[:, :3] * y[:, 3:6]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(49, 3), nn.Softplus()), "aten.softplus"),
        (nn.Sequential(nn.Flatten(), nn.Linear(49, 3), nn.GELU()), "in network.2 (GELU)"),
        (nn.Sequential(nn.Flatten(), nn.LeakyReLU(-1.0), nn.Linear(49, 3)), "slope of -1"),
        (Branching(), "cannot be traced"),
        (Product(), "no bounds for|both depend"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_bounds_says_why_in_one_line(network, words, capfd):
    x = pictures(0, 4)
    result = certify(wrap(network), x, torch.zeros(4, dtype=torch.int64), "linf", 0.01)
    assert not result.robust.any()
    assert any(word in result.reason for word in words.split("|")), result.reason
    assert "\n" not in result.reason
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"norm": "l3"}, InputError),
        ({"epsilon": -1.0}, InputError),
        ({"images": torch.full((4, 1, 7, 7), 2.0)}, DataError),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, DataError),
        ({"labels": torch.full((4,), 3)}, DataError),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(49, 3))}, InputError),
    ],
)
def test_bad_input_is_one_line(change, error):
    given = {"model": made("linear", 0), "images": pictures(0, 4), "norm": "linf", "epsilon": 0.1}
    given["labels"] = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(error, match=r"^[^\n]+$"):
        certify(**(given | change))


# -- randomised smoothing -------------------------------------------------------------------------


class TwoClasses(nn.Module):
    """Says 1 where w · x > 0.5 Σ w."""

    def __init__(self, size=9):
        super().__init__()
        self.weight = torch.linspace(-1, 2, size)
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        score = (x.flatten(1) - 0.5) @ self.weight
        return torch.stack([-score, score], 1)


@pytest.mark.thorough
def test_the_radius_tends_to_the_distance_of_a_linear_boundary_and_is_seldom_above():
    model, x = TwoClasses(), pictures(9, 30, 3)
    score = ((x.flatten(1) - 0.5) @ model.weight).double()
    distance = (score.abs() / model.weight.double().norm()).numpy()
    ids = [str(i) for i in range(30)]
    result = smooth(model, x, ids, SmoothingNoise(0.25, alpha=0.05, n0=1000, n=20_000), 5000)
    near = distance < 0.5  # beyond, no n can tell the probability from 1
    assert near.sum() >= 20
    np.testing.assert_allclose(result.radius[near], distance[near], atol=0.03)
    above = []
    for seed in range(20):
        noise = SmoothingNoise(0.25, alpha=0.05, n=400, seed=seed)
        above.append(smooth(model, x, ids, noise, 400).radius > distance)
    # 600 trials at 5 % at most: the 99.9 % quantile of a binomial is 47
    assert np.sum(above) <= 47
    assert np.sum(above) >= 5  # the bound is used up, not wasted
    truth = (score > 0).numpy().astype(int)
    clear = distance > 0.05  # a thousand draws choose the right class
    assert (result.predicted[clear] == truth[clear]).all()


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (7, 10), (10, 10), (990, 1000)])
def test_the_lower_bound_is_the_exact_binomial_one(successes, n):
    interval = binomtest(successes, n, alternative="greater").proportion_ci(0.99, "exact")
    assert lower_bound(successes, n, 0.01) == pytest.approx(interval.low)


def test_draws_belong_to_images_not_to_batches():
    model, x = TwoClasses(), pictures(11, 6, 3)
    noise = SmoothingNoise(0.5, n0=30, n=250, alpha=0.01)
    ids = list("abcdef")
    whole = smooth(model, x, ids, noise, 1000)
    order = [3, 0, 5, 1, 4, 2]
    other = smooth(model, x[order], [ids[i] for i in order], noise, 37)
    assert (other.lower == whole.lower[order]).all()
    assert (other.predicted == whole.predicted[order]).all()
    assert max(model.batches) <= 250
    again = smooth(model, x, ids, SmoothingNoise(0.5, n0=30, n=250, alpha=0.01, seed=1), 1000)
    assert (again.lower != whole.lower).any()
    assert whole.predicted[whole.lower <= 0.5].tolist() == [ABSTAIN] * (whole.lower <= 0.5).sum()


def test_predict_abstains_where_two_classes_are_alike():
    model = TwoClasses()
    x = torch.full((2, 1, 3, 3), 0.5)
    x[1] += 0.3 * model.weight.view(1, 3, 3) / model.weight.norm()
    noise = SmoothingNoise(0.3, n=500)
    assert [predict(model, x[i], "ab"[i], noise, 500) for i in range(2)] == [ABSTAIN, 1]


def test_the_smoothed_classifier_is_certified_at_most_attacked_at_most_clean():
    model, x = TwoClasses(), pictures(13, 25, 3)
    score = (x.flatten(1) - 0.5) @ model.weight
    distance = (score.abs() / model.weight.norm()).double().numpy()
    labels = (score > 0).long()
    labels[0] = 1 - labels[0]
    ids = [str(i) for i in range(25)]
    smoothed = smooth(model, x, ids, SmoothingNoise(0.25, n=2000), 2000)
    result = attack_smoothed(model, x, labels, ids, 0.2, smoothed, 2000)
    assert (result.certified <= result.attacked).all()
    clean = smoothed.predicted == labels.numpy()
    assert (result.attacked <= clean).all()
    assert not clean[0]
    assert not result.contradicted.any()
    assert 0 < result.certified.sum() <= result.attacked.sum() < clean.sum()
    # the box may forbid the way to the boundary; where the attack won, it was within reach, or so
    # near it that 2,000 draws do not tell the two classes apart
    assert (distance[clean & ~result.attacked] < 0.2 + 0.05 * 0.25).all()


def test_abstaining_at_the_attacked_point_is_no_answer_but_breaks_no_certificate(monkeypatch):
    model, x = TwoClasses(), pictures(13, 25, 3)
    labels = ((x.flatten(1) - 0.5) @ model.weight > 0).long()
    ids = [str(i) for i in range(25)]
    smoothed = smooth(model, x, ids, SmoothingNoise(0.25, n=500), 500)
    monkeypatch.setattr("robustkit.certification.smoothing.predict", lambda *given: ABSTAIN)
    result = attack_smoothed(model, x, labels, ids, 0.2, smoothed, 500)
    assert 0 < result.certified.sum() < (smoothed.predicted == labels.numpy()).sum()
    assert (result.attacked == result.certified).all()
    assert not result.contradicted.any()


def test_a_certificate_that_an_attack_breaks_is_told():
    model, x = TwoClasses(), pictures(13, 8, 3)
    labels = ((x.flatten(1) - 0.5) @ model.weight > 0).long()
    ids = [str(i) for i in range(8)]
    smoothed = smooth(model, x, ids, SmoothingNoise(0.25, n=500), 500)
    smoothed.radius[:] = 10.0  # as if every bound were the unlucky one
    result = attack_smoothed(model, x, labels, ids, 1.5, smoothed, 500)
    assert result.contradicted.any()
    assert not (result.certified & result.contradicted).any()
    assert (result.certified <= result.attacked).all()


@pytest.mark.parametrize("change", [{"sigma": 0.0}, {"alpha": 1.0}, {"n": 0}])
def test_noise_that_makes_no_sense_is_refused(change):
    with pytest.raises(InputError):
        SmoothingNoise(**({"sigma": 0.25} | change))
    assert norm.ppf(0.5) == 0


@pytest.mark.parametrize("change", [lambda x: 255 * x, lambda x: x - 0.5, lambda x: x * torch.nan])
def test_radii_are_of_pixels_between_0_and_1(change):
    model, x = TwoClasses(), change(pictures(3, 2, 3))
    noise, ids = SmoothingNoise(0.25, n0=2, n=2), ["0", "1"]
    labels = torch.zeros(2, dtype=torch.long)
    smoothed = smooth(model, pictures(3, 2, 3), ids, noise, 2)
    for call in (
        lambda: smooth(model, x, ids, noise, 2),
        lambda: attack_smoothed(model, x, labels, ids, 0.1, smoothed, 2),
    ):
        with pytest.raises(DataError, match=r"pixels outside \[0, 1\]"):
            call()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_are_not_certified(kind):
    module = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).to(kind)
    images, labels = torch.rand(4, 1, 3, 3), torch.zeros(4, dtype=torch.int64)
    found = certify(wrap(module), images, labels, "linf", 0.0)
    assert not found.robust.any()
    assert f"computes in {kind}" in found.reason


def test_a_network_that_raises_under_noise_is_told_in_its_own_words():
    class Broken(nn.Module):
        def forward(self, x):
            if x.min() < 0:
                raise KeyError("mask")
            return x.flatten(1)

    noise = SmoothingNoise(sigma=0.25, n0=2, n=4)
    with pytest.raises(NetworkFailed, match="KeyError: 'mask'"):
        smooth(wrap(Broken()), torch.zeros(1, 1, 3, 3), ["a"], noise)
