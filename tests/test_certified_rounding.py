"""What is certified is the float32 network as it is run, and rounding costs next to nothing."""

import copy
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from helpers.traces import traced_once
from torch import nn

from robustkit.attacks.draws import generator
from robustkit.certification import certify
from robustkit.certification.bounds import intervals, local_error, local_errors, lowest
from robustkit.certification.conversion import convert
from robustkit.certification.graph import (
    Add,
    Affine,
    BoundGraph,
    Input,
    MaxPool,
    Relu,
    Unsupported,
    convolution,
    matrix,
    scaling,
)
from robustkit.certification.precision import check_convolutions
from robustkit.certification.region import Region
from robustkit.certification.roundoff import DOUBLE, IEEE, Roundoff
from robustkit.checkpoint import wrap
from robustkit.checkpoint.adapter import Classifier, freeze

NORMS = ("linf", "l2", "l1")


def pictures(seed, n=8, side=12):
    return torch.rand(n, 1, side, side, generator=generator("pictures", seed))


def random_weights(module, seed):
    """Frozen, with normalisation in front, and batch norm that does something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(1e-3, 2)
                if part.affine:
                    nn.init.uniform_(part.weight, -1, 1)
                    nn.init.normal_(part.bias)
    return freeze(Classifier(module, [0.4], [0.3]))


def deep(layers, width=64, inputs=144):
    sizes = [inputs, *[width] * (layers - 1), 5]
    parts = [nn.Flatten()]
    for before, after in pairwise(sizes):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.BatchNorm2d(12, affine=False),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 16),
        nn.ReLU(),
        nn.Linear(16, 5),
    )


class Skips(nn.Module):
    """Two paths that meet again, and arithmetic outside modules."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1, stride=2)
        self.one = nn.Conv2d(6, 6, 3, padding=1)
        self.two = nn.Conv2d(6, 6, 3, padding=1)
        self.out = nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x / 0.7 - 0.1))
        for part in (self.one, self.two):
            x = torch.relu(x + 0.3 * part(x))
        return self.out(x.mean((2, 3)))


NETWORKS = {
    "deep": lambda: deep(6),
    "convolutional": convolutional,
    "skips": Skips,
}


def ways(model, points):
    """The float32 logits of the same points, as many ways as kernels differ here."""
    threads = torch.get_num_threads()
    try:
        for size, number in product((1, 5, len(points)), (1, 2)):
            torch.set_num_threads(number)
            with torch.no_grad():
                yield torch.cat([model(part) for part in torch.split(points, size)])
        torch.backends.mkldnn.enabled = False  # its context manager warns of Intel's GPUs
        with torch.no_grad(), torch.backends.nnpack.flags(enabled=False):
            yield model(points)
            yield model(points.to(memory_format=torch.channels_last))
    finally:
        torch.backends.mkldnn.enabled = True
        torch.set_num_threads(threads)


def reached(graph, region, *, relax=True):
    """The interval of every logit by going back to the images, N × K each."""
    bounds, last = intervals(graph, region), len(graph.steps) - 1
    one = torch.eye(graph.steps[-1].shape[0]).double().expand(len(region.images), -1, -1)
    low, high = (
        lowest(graph, bounds, region, last, sign * one, relax=relax) for sign in (1.0, -1.0)
    )
    return low.values, -high.values


# -- float32 stays inside -------------------------------------------------------------------------


@cache
def steps_of(name, seed):
    model, x = random_weights(NETWORKS[name](), seed), pictures(seed, 4)
    return model, x, convert(model, x[0])


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("norm_name", "seed"),
    [("linf", 0), pytest.param("linf", 1, marks=pytest.mark.slow), ("l2", 0), ("l1", 0)],
)
def test_whatever_float32_computes_lies_between_the_bounds(name, norm_name, seed):
    model, x, graph = steps_of(name, seed)
    for radius, draws in ((0.0, 1), (1e-4, 3)):
        region = Region(norm_name, x.double(), radius)
        noise = torch.rand(draws, *x.shape, generator=generator("noise", seed)) * 2 - 1
        size = torch.linalg.vector_norm(
            noise.flatten(2), {"linf": torch.inf, "l2": 2, "l1": 1}[norm_name], 2
        )
        points = (x + radius * 0.999 * noise / size[..., None, None, None]).clamp(0, 1)
        low, high = (torch.stack(s) for s in zip(*_sides(graph, region), strict=True))
        for logits in ways(model, points.flatten(0, 1)):
            values = logits.view(draws, len(x), 5).double()
            assert bool((values >= low.amax(0)).all() and (values <= high.amin(0)).all())
        if radius == 0:  # and they are narrow, beside logits of about 1
            assert float((high.amin(0) - low.amax(0)).max()) < 2e-3


def _sides(graph, region):
    yield intervals(graph, region)[-1]
    yield reached(graph, region, relax=False)
    yield reached(graph, region)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "stops",
    [(2, 4, 6, 7, 9, 11, 13), pytest.param((1, 3, 5, 8, 10, 12, 14, 15), marks=pytest.mark.slow)],
)
def test_the_numbers_between_lie_inside_too(stops):
    # every prefix of a network is one, whose result float32 computes alike
    parts = list(convolutional())
    for stop in stops:
        model = random_weights(nn.Sequential(*parts[:stop], nn.Flatten()), stop)
        x = pictures(stop, 4)
        low, high = intervals(convert(model, x[0]), Region("linf", x.double(), 0.0))[-1]
        for values in ways(model, x):
            assert bool((values >= low).all() and (values <= high).all()), parts[stop - 1]


class Mean(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        return x.mean(self.dims).flatten(1)


@pytest.mark.parametrize(
    ("dims", "count"), [((1,), 48), ((2, 3), 4), ((-3, -1), 96), ((3,), 2), ((2,), 2)]
)
def test_a_mean_has_the_roundings_of_all_that_it_adds_up(dims, count):
    x = torch.rand(48, 2, 2, generator=generator("mean", 0))
    graph = convert(wrap(Mean(dims)), x)
    (terms,) = (step.terms for step in graph.steps if isinstance(step, Affine) and step.terms)
    assert terms == count + 2


ORDERS = {
    "as they come": lambda terms: _one_by_one(terms),
    "backwards": lambda terms: _one_by_one(terms[:, ::-1]),
    "rising": lambda terms: _one_by_one(np.sort(terms, 1)),
    "largest first": lambda terms: _one_by_one(
        np.take_along_axis(terms, np.argsort(-np.abs(terms), 1), 1)
    ),
    "in pairs": lambda terms: _in_pairs(terms),
    "in lanes": lambda terms: _one_by_one(
        np.stack([_one_by_one(terms[:, k::8]) for k in range(8)], 1)
    ),
}


def _one_by_one(terms):
    total = np.zeros(len(terms), np.float32)
    for column in terms.T:
        total = (total + column).astype(np.float32)
    return total


def _in_pairs(terms):
    while terms.shape[1] > 1:
        even = terms.shape[1] // 2 * 2
        sums = (terms[:, 0:even:2] + terms[:, 1:even:2]).astype(np.float32)
        terms = np.concatenate([sums, terms[:, even:]], 1)
    return terms[:, 0]


SUMS = {
    "cancelling": lambda draw, n: (draw(40, n) - 0.5, draw(n)),
    "alike": lambda draw, n: (np.full((40, n), 1 / 3) + 1e-3 * draw(40, 1), np.full(n, 0.9)),
    "of every size": lambda draw, n: (10 ** (8 * draw(40, n) - 4), draw(n) - 0.3),
    "two large": lambda draw, n: (
        np.concatenate([np.full((40, 1), 1e6), draw(40, n - 2), np.full((40, 1), -1e6)], 1),
        np.ones(n),
    ),
    "below the smallest": lambda draw, n: (1e-30 * (draw(40, n) - 0.5), 1e-10 * draw(n)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", SUMS)
def test_a_sum_in_any_order_errs_by_no_more_than_its_share(kind, order):
    source = np.random.default_rng(0)
    for n in (2, 30, 700):
        w, z = (a.astype(np.float32) for a in SUMS[kind](lambda *s: source.random(s), n))
        rounded = ORDERS[order](np.concatenate([w * z, np.full((40, 1), 0.1, np.float32)], 1))
        weight, value = torch.tensor(w).double(), torch.tensor(z).double()[None]
        bias = torch.full((40,), float(np.float32(0.1)), dtype=torch.float64)
        graph = BoundGraph((Input((n,)), matrix(0, (40,), weight, bias)))
        exact = graph.steps[1].apply(value)
        bounds = [(value, value), (exact, exact)]
        off = (torch.tensor(rounded).double() - exact).abs()
        allowed = local_error(graph, 1, bounds)
        assert bool((off <= allowed).all())
        sizes = weight.abs() @ value[0].abs() + 0.1
        gamma = (n + 2) * 2.0**-24
        assert bool((allowed <= 1.001 * gamma / (1 - gamma) * sizes + 1e-30).all())
    if (kind, order) == ("alike", "as they come"):
        assert float((off / allowed).max()) > 0.05  # the share is used up, not wasted


def test_products_with_zero_are_not_rounded():
    # a pixel that is 0, a ReLU that is off and a pruned weight leave the sum of what is left
    weight, z = torch.rand(3, 600).double() + 0.5, torch.rand(1, 600).double() + 0.5
    z[:, :500], weight[1, :550] = 0, 0
    graph = BoundGraph((Input((600,)), matrix(0, (3,), weight, torch.zeros(3).double())))
    exact = graph.steps[1].apply(z)
    error = local_error(graph, 1, [(z, z), (exact, exact)])[0] / exact[0]
    for found, terms in zip(error, (100, 50, 100), strict=True):
        assert terms < float(found) * 2**24 < 1.01 * (terms + 2)
    wide = local_error(graph, 1, [(z, z + 1e-9), (exact, exact + 1e-6)])
    assert bool((wide[0, [0, 2]] > 5 * error[[0, 2]] * exact[0, [0, 2]]).all())


def test_every_step_has_an_error_of_its_own_and_none_is_carried_on():
    one = torch.ones(1, dtype=torch.float64)
    steps = (
        Input((1, 1, 2)),
        scaling(0, (1, 1, 2), 3 * one, -2 * one, 2 * one, 2),
        Relu(1, (1, 1, 2), 0.5),
        Relu(1, (1, 1, 2), 0.0),
        Add((2, 3), (1, 1, 2)),
        MaxPool(4, (1, 1, 1), ((1, 2),), torch.tensor([[0, 1]])),
        Affine(5, (1,), None, lambda v, _: v.flatten(1), one * 0, one * 0, terms=0, work=1),
    )
    x = torch.tensor([[[[0.25, 0.75]]]], dtype=torch.float64)
    graph = BoundGraph(steps)
    bounds = [(value, value) for value in graph.values(x)]
    images, factor, leaky, plain, total, pool, moved = local_errors(graph, bounds)
    assert images is None
    assert moved is None
    four, three = (k * 2.0**-24 / (1 - k * 2.0**-24) for k in (4, 3))
    before = np.abs(3 * np.array([0.25, 0.75]) - 2)  # 1.25, 0.25
    sums = np.array([0.5 * 1.25, 0.25 + 0.25])
    for error, expected in (
        (factor, four * (3 * np.array([0.25, 0.75]) + 2)),  # by size, although it is subtracted
        (leaky, three * 0.5 * before),
        (total, three * sums),
    ):
        np.testing.assert_allclose(error.flatten().numpy(), expected, rtol=1e-4)
    # exact in float32: what is left is the bound's own arithmetic
    own = 5000 * DOUBLE
    off, on = plain.flatten().tolist()  # of what is surely off nothing is carried back
    assert off == 0 < on <= own * 1.25
    assert 0 < float(pool) <= own


@pytest.mark.parametrize(("bits", "cut"), [(10, 2.0**-10), (7, 2.0**-7)])
def test_factors_that_are_cut_stay_within_their_share(bits, cut):
    source = generator("cut", bits)
    w, z = (torch.rand(1000, 16, generator=source) + 0.5 for _ in range(2))
    short = [_cut(factor, bits).double() for factor in (w, z)]
    exact, rounded = (w.double() * z.double()).sum(1), (short[0] * short[1]).sum(1)
    off = (rounded - exact).abs()
    assert bool((off <= Roundoff(inputs=cut).of_sum(16, exact, rounded)).all())
    assert bool((off > IEEE.of_sum(16, exact, rounded)).any())  # float32's alone is too little


def _cut(x, bits):
    """Float32 numbers with so many bits behind the point, the rest dropped."""
    return (x.view(torch.int32) & ~((1 << (23 - bits)) - 1)).view(torch.float32)


# -- at ε = 0 -------------------------------------------------------------------------------------


@pytest.mark.one_of_many
@pytest.mark.parametrize(
    ("layers", "seed"),
    [
        (3, 0),
        (9, 1),
        (12, 3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((3, 1), (5, 0), (5, 1), (9, 0))),
    ],
)
def test_what_float32_decides_by_far_is_certified_at_no_perturbation(layers, seed):
    model, x = random_weights(deep(layers, 100, 784), seed), pictures(seed, 12, 28)
    logits = model(x)
    exact = copy.deepcopy(model).double()(x.double())
    first, second = logits.topk(2, 1).values.t()
    clear = first - second > 100 * (logits - exact).abs().amax(1)
    assert clear.sum() >= 11
    result = certify(model, x, logits.argmax(1), "linf", 0.0)
    assert bool((result.robust | ~clear).all())
    assert bool((result.rounding[result.robust] > 0).all())
    assert bool((result.margin <= first - second).all())
    # with the last bias moved so that the winner leads by little more than the error, it stays open
    for row in range(3 if layers == 5 else 1):
        network, at = copy.deepcopy(model), x[row : row + 1]
        label, gap = int(logits[row].argmax()), float((first - second)[row])
        with torch.no_grad():
            network.network[-1].bias[label] -= gap - 5 * float((logits - exact)[row].abs().max())
        labels = network(at).argmax(1)
        assert not bool(certify(network, at, labels, "linf", 0.0).robust)


def close_call(seed):
    """A deep network whose last bias leaves an image a lead of 120 times its measured error."""
    network, x = random_weights(deep(9, 200), seed), pictures(seed, 1)
    exact = copy.deepcopy(network).double()(x.double())[0]
    first, second = exact.topk(2).indices.tolist()
    off = float((network(x)[0] - exact).abs().max())
    with torch.no_grad():
        network.network[-1].bias[first] -= float(exact[first] - exact[second]) - 120 * off
    return network, x, torch.tensor([first])


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [0, 1])
def test_a_lead_that_no_bound_proves_is_looked_at_where_there_is_one_point(seed):
    network, x, label = close_call(seed)
    with traced_once():
        result = certify(network, x, label, "linf", 0.0)
        assert result.by == ("evaluation",)
        lead = network(x)[0].topk(2).values.diff().neg()
        assert 0 < float(result.margin) < float(result.margin + result.rounding) <= float(lead)
        # an attack is let go that far, so that nothing counts but a bound
        assert not bool(certify(network, x, label, "linf", 1e-12).robust)
    with torch.no_grad():
        network.network[-1].bias[label] -= 0.9 * lead
    assert not bool(certify(network, x, label, "linf", 0.0).robust)


def adverse(terms, upward):
    """Sums of float32 rows in the order that rounds them furthest up, or down: greedily chosen."""
    rows, total = np.arange(len(terms)), np.zeros(len(terms), np.float32)
    left, sign = terms.copy(), np.where(upward, 1.0, -1.0)[:, None]
    for _ in range(terms.shape[1]):
        sums = total[:, None] + left  # NaN where a term is used up
        gain = sign * (sums.astype(float) - (total[:, None].astype(float) + left))
        chosen = np.nan_to_num(gain, nan=-np.inf).argmax(1)
        total = sums[rows, chosen]
        left[rows, chosen] = np.nan
    return total


def test_an_order_of_summation_fools_what_actual_kernels_decide_by_far():
    # why no bound can prove what is looked at: a bound holds for every order
    network, x, label = close_call(0)
    z = ((x - 0.4) / 0.3).flatten(1)
    linear = [part for part in network.network if isinstance(part, nn.Linear)]
    values = [(z.double() @ linear[0].weight.double().T + linear[0].bias).requires_grad_()]
    for part in linear[1:]:
        values.append(torch.relu(values[-1]) @ part.weight.double().T + part.bias)
    rival = values[-1][0].topk(2).indices[1]
    slopes = torch.autograd.grad(values[-1][0, label] - values[-1][0, rival], values)
    numbers = z[0].numpy()
    for part, slope in zip(linear, slopes, strict=True):
        products = (part.weight.numpy() * numbers).astype(np.float32)
        terms = np.concatenate([products, part.bias.numpy()[:, None]], 1)
        sums = adverse(terms, slope[0].numpy() < 0)
        numbers = np.maximum(sums, 0)
    assert float(network(x)[0, label] - network(x)[0, rival]) > 0
    assert sums[label] < sums[rival]


# -- nothing that is fooled -----------------------------------------------------------------------


def spike(step, corner):
    """Class 0, but for a hair's breadth before a corner of the region, where few points lie."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        network[1].weight[:] = step.flatten()
        network[1].bias[:] = 5e-6 - step.flatten() @ corner.flatten()
        network[3].weight[:] = torch.tensor([[0.0], [1e6]])
        network[3].bias[:] = torch.tensor([1.0, 0.0])
    return wrap(network)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("seeds", [5, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm_name", NORMS)
def test_no_planted_counterexample_is_certified(norm_name, seeds):
    epsilon = {"linf": 0.1, "l2": 0.4, "l1": 0.2}[norm_name]
    for seed in range(seeds):
        x = pictures(seed, 1, 4) * 0.5 + 0.25
        step = torch.randn(1, 1, 4, 4, generator=generator("step", seed))
        if norm_name == "l1":  # one pixel
            step = torch.zeros_like(step).flatten().index_fill(0, torch.tensor(seed % 16), 1.0)
            step = step.view(1, 1, 4, 4)
        step = step.sign() if norm_name == "linf" else step / step.norm()
        corner = x + epsilon * step
        model = spike(step, corner)
        zero = torch.zeros(1, dtype=torch.int64)
        assert int(model(x).argmax(1)) == 0
        assert int(model(corner).argmax(1)) == 1
        with traced_once():
            assert not bool(certify(model, x, zero, norm_name, epsilon).robust)
            assert bool(certify(model, x, zero, norm_name, epsilon * 0.99).robust)


@pytest.mark.one_of_many
@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2))])
@pytest.mark.parametrize("layers", [3, 5])
def test_what_gradient_ascent_fools_is_not_certified(layers, seed):
    fooled_ever = 0
    model, x = random_weights(deep(layers), seed), pictures(seed, 24)
    labels = model(x).argmax(1)
    with traced_once():
        for epsilon in (0.005, 0.02, 0.08):
            fooled = torch.zeros(24, dtype=torch.bool)
            for target in range(5):
                point = x.clone()
                for _ in range(15):
                    point = point.detach().requires_grad_()
                    logits = model(point)
                    gain = logits[:, target] - logits.gather(1, labels[:, None])[:, 0]
                    (slope,) = torch.autograd.grad(gain.sum(), point)
                    moved = point + epsilon / 4 * slope.sign()
                    point = torch.maximum(torch.minimum(moved, x + epsilon), x - epsilon)
                    point = point.clamp(0, 1)
                fooled |= model(point).argmax(1) != labels
            result = certify(model, x, labels, "linf", epsilon)
            assert not bool((result.robust & fooled).any())
            fooled_ever += int(fooled.sum())
    assert fooled_ever >= 10


# -- what is refused ------------------------------------------------------------------------------


def _half(monkeypatch, model):
    return copy.deepcopy(model).half()


def _fast_math(monkeypatch, model):
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    return model


def _transforms(monkeypatch, model):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    return model


def _strip(x, w):
    """Winograd's F(2, 3) along each row (Lavin and Gray 2016), for one channel and one kernel row."""
    d = [x[..., i : i + x.shape[-1] - 3 : 2] for i in range(4)]
    a, b, c = w.flatten()
    one, two = (d[0] - d[2]) * a, (d[1] + d[2]) * ((a + b + c) / 2)
    three, four = (d[2] - d[1]) * ((a - b + c) / 2), (d[1] - d[3]) * c
    return torch.stack([one + two + three, two - three - four], -1).flatten(-2)


def test_a_convolution_that_is_transformed_is_noticed():
    w, zero = torch.tensor([[[[0.3, -0.7, 0.2]]]]).double(), torch.zeros(1).double()
    direct = convolution(0, (1, 20, 20), (1, 20, 18), w, zero, ())
    check_convolutions(BoundGraph((Input((1, 20, 20)), direct)))
    transformed = replace(direct, linear=_strip)
    x = pictures(0, side=20).double()
    torch.testing.assert_close(transformed.apply(x), direct.apply(x))  # exactly it is the same
    with pytest.raises(Unsupported, match="Winograd"):
        check_convolutions(BoundGraph((Input((1, 20, 20)), transformed)))


def test_what_is_tried_is_the_kernel_that_runs(monkeypatch):
    w = torch.rand(8, 1, 3, 3, generator=generator("w", 0)).double()
    graph = BoundGraph(
        (
            Input((1, 24, 24)),
            convolution(0, (1, 24, 24), (8, 24, 24), w, torch.zeros(8).double(), (1, 1)),
        )
    )
    check_convolutions(graph)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with torch.backends.nnpack.flags(enabled=False):
        check_convolutions(graph)
    if torch._C._get_nnpack_enabled():
        with pytest.raises(Unsupported, match="Winograd"):
            check_convolutions(graph)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    ("change", "words"),
    [(_half, "float16"), (_fast_math, "FPMATH_MODE"), (_transforms, "NNPACK")],
)
def test_numbers_whose_rounding_nothing_bounds_are_refused(change, words, monkeypatch):
    model, x = random_weights(convolutional(), 0), pictures(0, 2)
    labels = model(x).argmax(1)
    assert bool(certify(model, x, labels, "linf", 0.0).robust.all())
    result = certify(change(monkeypatch, model), x, labels, "linf", 0.0)
    assert words in result.reason
    assert not result.robust.any()


def test_autocast_is_refused():
    model, x = random_weights(convolutional(), 0), pictures(0, 2)
    with torch.autocast("cpu", torch.bfloat16):
        result = certify(model, x, torch.zeros(2, dtype=torch.int64), "linf", 0.0)
    assert "autocast" in result.reason


def test_products_that_torch_may_cut_cost_more():
    model, x = random_weights(deep(5), 0), pictures(0, 4)
    labels = model(x).argmax(1)
    exact = certify(model, x, labels, "linf", 0.0)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        cut = certify(model, x, labels, "linf", 0.0)
    finally:
        torch.set_float32_matmul_precision(before)
    assert cut.reason == ""
    assert bool((cut.margin < exact.margin).all())
    assert bool((cut.rounding > 50 * exact.rounding).all())


def test_a_network_that_may_overflow_is_not_certified():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        network[1].weight[:] = 1e37
        network[1].weight[:, 0] = -1e37
        network[1].bias[:] = 0
        network[3].weight[:] = torch.tensor([[1.0], [-1.0]]) * 100
    model, x = wrap(network), torch.full((1, 1, 4, 4), 1 / 64)
    label = torch.zeros(1, dtype=torch.int64)
    result = certify(model, x, label, "linf", 0.9)
    assert not bool(result.robust)
    assert not bool(result.margin.isnan())
