"""Bounds where scales lie far apart: nothing that underflows or overflows makes one too tight."""

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
import torch
from torch import nn

from robustkit.attacks.draws import generator
from robustkit.certification import certify
from robustkit.certification.bounds import intervals, local_error, lowest
from robustkit.certification.conversion import convert
from robustkit.certification.graph import (
    BoundGraph,
    Input,
    Relu,
    Unsupported,
    averaging,
    columns,
    convolution,
    matrix,
    moving,
    scaling,
)
from robustkit.certification.region import Region
from robustkit.checkpoint import wrap
from robustkit.geometry import project, steepest_step

NORMS = ("linf", "l2", "l1")
RADIUS = 0.25
SHAPE = (4, 3, 3)
ZERO = torch.zeros(1, dtype=torch.float64)
LAYERS = {
    "depthwise": ((8, 1, 3, 3), (1, 1, 1, 4)),
    "grouped": ((6, 2, 2, 2), (2, [1, 0], 1, 2)),
    "even, same": ((3, 4, 2, 2), (1, "same", 1, 1)),
    "dilated": ((3, 4, 2, 2), ([1, 2], [1, 1], [2, 1], 1)),
    "dense": None,
    "columns": None,
}


def far_apart(source, *shape):
    """Numbers of either sign, as float32 has them, from 1e-8 to 1e8."""
    size = 10 ** (16 * torch.rand(shape, generator=source, dtype=torch.float64) - 8)
    return (size * torch.randn(shape, generator=source).sign()).float().double()


def scaled(source, place, *shape):
    w = far_apart(source, *shape)
    return scaling(place, SHAPE, w, ZERO, ZERO, 2)


def network(kind, seed, relu):
    """Scales of channels and a mask of places, a first layer, and three logits; no offsets."""
    source = generator("scales", seed)
    steps = [Input(SHAPE), scaled(source, 0, 4, 1, 1), scaled(source, 1, 1, 3, 3)]
    mask = (torch.rand(1, 3, 3, generator=source) < 0.8).double()
    steps.append(scaling(2, SHAPE, mask, ZERO, ZERO, 2))
    if kind == "dense":
        steps.append(moving(3, (36,), lambda v: v.flatten(1), ZERO))
        steps.append(matrix(4, (7,), far_apart(source, 7, 36), ZERO))
    elif kind == "columns":
        steps.append(columns(3, (4, 5, 3), far_apart(source, 5, 3)))
    else:
        size, options = LAYERS[kind]
        w = far_apart(source, *size)
        stride, padding, dilation, groups = options
        with torch.no_grad():
            shape = nn.functional.conv2d(
                torch.zeros(1, *SHAPE).double(), w, None, stride, padding, dilation, groups
            ).shape[1:]
        steps.append(convolution(3, SHAPE, tuple(shape), w, ZERO, options))
    first = len(steps) - 1
    if relu:
        steps.append(Relu(first, steps[-1].shape, 0.0))
    numbers = int(np.prod(steps[-1].shape))
    steps.append(moving(len(steps) - 1, (numbers,), lambda v: v.flatten(1), ZERO))
    steps.append(matrix(len(steps) - 1, (3,), far_apart(source, 3, numbers), ZERO))
    return BoundGraph(tuple(steps)), first


def balls(norm, seed, n=2):
    x = 0.3 + 0.4 * torch.rand(n, *SHAPE, generator=generator("balls", seed))
    return Region(norm, x.double(), RADIUS)


def exact(tensor):
    return np.vectorize(Fraction, otypes=[object])(tensor.numpy())


def reached(rows, norm):
    """How far rows of fractions can move within a unit ball, never more than that."""
    if norm == "linf":
        return np.abs(rows).sum(1)
    if norm == "l1":
        return np.abs(rows).max(1)
    # 40 digits behind the point of a square root that is rounded down
    squares = (rows * rows).sum(1)
    return np.array([Fraction(isqrt(int(s * 10**200)), 10**100) for s in squares], object)


def rounding(graph, last, found):
    """What all steps up to one may lose, as it comes to that one."""
    lost = torch.zeros(1, *SHAPE, dtype=torch.float64)
    for index in range(1, last + 1):
        error = local_error(graph, index, found)
        lost = graph.steps[index].absolute(lost) + (0 if error is None else error)
    return lost


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("seeds", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("norm", NORMS)
def test_bounds_of_linear_networks_hold_and_are_tight_however_far_scales_lie_apart(
    norm, kind, seeds
):
    for seed in range(seeds):
        graph, first = network(kind, seed, relu=False)
        region = balls(norm, seed)
        # without offsets the value at a pixel alone is its weight: of products, and no sum
        basis = torch.eye(36, dtype=torch.float64).view(36, *SHAPE)
        inner = exact(graph.values(basis)[first].flatten(1).t())
        outer = exact(graph.steps[-1].weight) @ inner
        found = intervals(graph, region)
        for index, rows in ((first, inner), (len(graph.steps) - 1, outer)):
            middle = exact(region.images.flatten(1)) @ rows.T
            reach = Fraction(RADIUS) * reached(rows, norm)
            low, high = (exact(side.flatten(1)) for side in found[index])
            assert (low <= middle - reach).all()
            assert (high >= middle + reach).all()
            if index == first:
                most = reach + 2 * exact(
                    rounding(graph, first, found).flatten(1)
                )  # of the uncut one
                assert (high - low <= 2 * Fraction(1 + 1e-6) * most).all()
        both = torch.cat([torch.eye(3), -torch.eye(3)]).double().expand(2, 6, 3)
        for relax in (False, True):
            bounds = lowest(graph, found, region, len(graph.steps) - 1, both, relax=relax).values
            below = exact(bounds)
            assert (below[:, :3] <= middle - reach).all()
            assert (-below[:, 3:] >= middle + reach).all()


def points(graph, region, first):
    """Within one ball: on its edge along random directions, single pixels, and by gradients."""
    x, norm = region.images, region.norm
    source = generator("points", 0)
    basis = torch.eye(36, dtype=torch.float64).view(36, *SHAPE)
    found = [torch.randn(16, *SHAPE, generator=source, dtype=torch.float64), basis, -basis]
    budget = torch.full((1,), RADIUS, dtype=torch.float64)
    tried = [steepest_step(x, d[None].clone(), budget, norm) for part in found for d in part]
    numbers = int(np.prod(graph.steps[first].shape))
    for index, count in ((first, numbers), (len(graph.steps) - 1, 3)):
        start = x.expand(2 * count, *SHAPE)
        signs = torch.cat([torch.eye(count), -torch.eye(count)]).double()
        z, budgets = start, budget.expand(2 * count)
        for _ in range(3):
            leaf = z.detach().requires_grad_()
            value = (graph.values(leaf)[index].flatten(1) * signs).sum()
            (slope,) = torch.autograd.grad(value, leaf)
            # a slope of 1e-160 squared is none in float64
            slope = slope / slope.flatten(1).abs().amax(1).clamp(min=1e-300).view(-1, 1, 1, 1)
            z = project(steepest_step(z.detach(), slope, budgets, norm), start, budgets, norm)
            tried.append(z)
    return torch.cat(tried).clamp(0, 1)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("seeds", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("norm", NORMS)
def test_no_point_of_the_ball_leaves_the_bounds_of_a_network_whose_scales_lie_far_apart(
    norm, kind, seeds
):
    for seed in range(seeds):
        graph, first = network(kind, seed, relu=True)
        region = balls(norm, seed, n=1)
        last, found = len(graph.steps) - 1, intervals(graph, region)
        values = graph.values(points(graph, region, first))
        for value, (low, high) in zip(values, found, strict=True):
            assert bool(((low <= value) & (value <= high)).all())
        slopes = torch.randn(1, 8, 3, generator=generator("slopes", seed)).double()
        for relax in (False, True):
            bounds = lowest(graph, found, region, last, slopes, relax=relax).values
            assert bool(bounds.isfinite().all())
            assert bool((bounds <= values[-1] @ slopes[0].t()).all())


class FarApart(nn.Module):
    """A channel that is scaled down twice, and counts for much in the end."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 0.05]).view(1, 2, 1, 1))
        self.conv, self.fc = nn.Conv2d(2, 2, 1, groups=2, bias=False), nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, 1e-4]).view(2, 1, 1, 1))
            self.fc.weight.copy_(torch.tensor([[0.0, 1e6], [0.0, 0.0]]))
            self.fc.bias.copy_(torch.tensor([0.0, 2.5]))

    def forward(self, x):
        return self.fc(self.conv(x * self.scale).relu().flatten(1))


def test_a_network_that_one_pixel_fools_behind_small_scales_is_not_certified():
    model, x, label = wrap(FarApart()), torch.ones(1, 2, 1, 1), torch.zeros(1, dtype=torch.int64)
    other = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert model(x).argmax(1) == 0
    assert model(other).argmax(1) == 1
    assert not bool(certify(model, x, label, "l1", 1.0).robust)
    assert bool(certify(model, x, label, "l1", 0.4).robust)


@pytest.fixture
def flushed():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor keeps small numbers")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("flushed")
def test_what_is_fooled_by_underflow_to_zero_alone_is_not_certified():
    body = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False), nn.Linear(1, 2))
    with torch.no_grad():
        body[1].weight.fill_(1e-35)
        body[2].weight.copy_(torch.tensor([[1e38], [0.0]]))
        body[2].bias.copy_(torch.tensor([0.0, 0.5]))
    model, x, label = wrap(body), torch.full((1, 1, 1, 1), 0.002), torch.zeros(1, dtype=torch.int64)
    assert (float(model(x)[0, 0]), model(x / 2).argmax(1)) == (pytest.approx(2), 1)
    found = certify(model, x, label, "linf", 0.0012)
    assert found.reason == ""
    assert not bool(found.robust)


def test_a_mean_whose_sum_overflows_has_no_bound():
    inner, high = (1, 4, 4), torch.full((1, 1, 4, 4), 5e37, dtype=torch.float64)
    assert float(high.float().sum()) == float("inf")
    mean = averaging(0, (1,), lambda v: v.mean((2, 3)), ZERO, 16)
    graph = BoundGraph((Input(inner), mean))
    for size, bounded in ((high, False), (high / 16, True)):
        values = graph.values(size)
        error = local_error(graph, 1, [(v, v) for v in values])
        assert bool(error.isfinite()) == bounded


def normalised(gain, mean, variance):
    """A batch norm of one channel, frozen."""
    norm = nn.BatchNorm2d(1, 1e-300).eval()  # nothing, but positive, as torch 2.11 wants it
    with torch.no_grad():
        norm.weight.fill_(gain)
        norm.running_mean.fill_(mean)
        norm.running_var.fill_(variance)
    return wrap(nn.Sequential(norm, nn.Flatten()))


def test_a_batch_norm_whose_factor_underflows_stays_within_its_error():
    model, x = normalised(1e-25, 1e30, 1e38), torch.rand(4, 1, 1, 2)
    graph = convert(model, x[0])
    low, high = intervals(graph, Region("linf", x.double(), 0.0))[-1]
    logits, exactly = model(x), graph.values(x.double())[-1]
    assert bool(((logits - exactly).abs() > 1e-3 * exactly.abs()).all())
    assert bool(((low <= logits) & (logits <= high)).all())


@pytest.mark.parametrize("numbers", [(1.0, 0.0, 1e-30), (1e-39, 0.0, 1e-14), (1.0, 1e38, 1e38)])
def test_a_batch_norm_that_float32_may_not_hold_is_refused(numbers):
    with pytest.raises(Unsupported, match="numbers whose rounding no bound covers"):
        convert(normalised(*numbers), torch.rand(1, 1, 2))


def test_a_factor_that_float32_may_not_hold_is_refused():
    class Scaled(nn.Module):
        def forward(self, x):
            return (x * 1e39).flatten(1)

    with pytest.raises(Unsupported, match="a factor that float32 may not hold"):
        convert(wrap(Scaled()), torch.rand(1, 1, 2))
