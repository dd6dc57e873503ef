"""Operations that have bounds: what float32 computes lies inside, what is fooled is not certified."""

from fractions import Fraction
from functools import cache

import pytest
import torch
from helpers.traces import traced_once
from torch import nn
from torch.nn import functional

from robustkit.attacks import Block
from robustkit.attacks.draws import generator
from robustkit.certification import certify, conversion
from robustkit.certification.bounds import intervals, local_error, lowest
from robustkit.certification.builder import shape_of
from robustkit.certification.complete import decide
from robustkit.certification.conversion import convert
from robustkit.certification.domains import Neurons
from robustkit.certification.graph import Add, Affine, Relu, Sigmoidal, Unsupported, matrix
from robustkit.certification.operations import HANDLERS
from robustkit.certification.refine import refined
from robustkit.certification.region import Region
from robustkit.certification.roundoff import LIBRARY, TINY, UNDERFLOW
from robustkit.certification.sigmoidal import lines
from robustkit.certification.tracing import trace
from robustkit.checkpoint import wrap
from robustkit.checkpoint.adapter import freeze
from robustkit.protocol import PGD, Protocol

RADIUS = 0.02
aten = torch.ops.aten


class Function(nn.Module):
    """A function between a convolution and the logits."""

    def __init__(self, function, seed=0):
        super().__init__()
        self.function = function
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(2, 3, 3, bias=True)
            self.out = nn.LazyLinear(4)
            with torch.no_grad():
                self.forward(torch.zeros(1, 2, 9, 9))

    def forward(self, x):
        return self.out(torch.relu(self.function(torch.relu(self.stem(x)))).flatten(1))


def pictures(seed, n=5):
    return torch.rand(n, 2, 9, 9, generator=generator("pictures", seed))


def some(named, *chosen):
    """Names of a family: the chosen differ in kind, the others take the same way as one of them."""
    slow = pytest.mark.slow
    return [name if name in chosen else pytest.param(name, marks=slow) for name in named]


def holds(network, seed=0, radii=(RADIUS,)):
    """Certified with no perturbation; float32 inside every kind of bound; no fooled image proved."""
    model, x = wrap(network), pictures(seed)
    labels = model(x).argmax(1)
    with traced_once() as graphs:
        result = certify(model, x, labels, "linf", 0.0)
        assert result.reason == ""
        assert bool(result.robust.all())
        return [_holds(model, graphs[0], x, labels, seed, radius) for radius in radii]


def _holds(model, graph, x, labels, seed, radius):
    region = Region("linf", x.double(), radius)
    noise = torch.rand(40, *x.shape, generator=generator("noise", seed)) * 2 - 1
    noise[20:] = noise[20:].sign()
    points = (x + radius * 0.9999 * noise).clamp(0, 1)
    with torch.no_grad():
        values = model(points.flatten(0, 1)).view(40, len(x), -1)
    bounds = intervals(graph, region)
    tight, _ = refined(graph, bounds, region, 1e9)
    classes = values.shape[-1]
    one = torch.eye(classes).double().expand(len(x), -1, -1)
    last = len(graph.steps) - 1
    for known in (bounds, tight):
        below, above = (
            lowest(graph, known, region, last, sign * one, relax=True).values for sign in (1, -1)
        )
        for low, high in (known[-1], (below, -above)):
            assert bool((values >= low).all() and (values <= high).all())
    fooled = (values.argmax(2) != labels).any(0)
    proved = certify(model, x, labels, "linf", radius)
    assert not bool((fooled & proved.robust).any())
    assert bool((proved.margin <= values.topk(2, 2).values.diff(dim=2).neg().amin(0)[:, 0]).all())
    return proved


# -- padding --------------------------------------------------------------------------------------

PADDINGS = {
    "zeros": nn.ZeroPad2d(2),
    "zeros, each side its own": nn.ZeroPad2d((0, 1, 2, 3)),
    "zeros that crop": nn.ZeroPad2d((-1, 2, 0, -2)),
    "functional": lambda x: functional.pad(x, (1, 1, 1, 1)),
    "functional, with its value": lambda x: functional.pad(x, (2, 0), value=0.0),
    "channels": lambda x: functional.pad(x, (0, 0, 0, 0, 1, 2)),
    "reflected": nn.ReflectionPad2d(2),
    "replicated": nn.ReplicationPad2d((1, 2, 0, 1)),
    "circular": nn.CircularPad2d(1),
    "average": nn.AvgPool2d(3, 2, 1),
    "average, without zeros": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average, rounded up": nn.AvgPool2d(2, 2, 1, ceil_mode=True),
    "average of oblongs": nn.AvgPool2d((3, 2), (2, 1), (1, 0)),
    "zeros, then average": nn.Sequential(nn.ZeroPad2d(1), nn.AvgPool2d(3, 1)),
    "zeros, then maximum": nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2, 1)),
    "zeros, then convolution": nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 2, 3)),
}
PADDED = some(
    PADDINGS,
    "zeros that crop",
    "channels",
    "reflected",
    "replicated",
    "circular",
    "average, without zeros",
    "average of oblongs",
    "zeros, then maximum",
)


COPIES = {
    "reflected": nn.ReflectionPad2d(2),
    "replicated": nn.ReplicationPad2d((1, 2, 0, 1)),
    "replicated and cropped": nn.ReplicationPad2d((2, -2, 2, -2)),
    "circular": nn.CircularPad2d(1),
    "enlarged": nn.Upsample(scale_factor=2),
    "padded, then reflected": nn.Sequential(nn.ZeroPad2d(1), nn.ReflectionPad2d(1)),
}
KEPT = {"zeros": nn.ZeroPad2d(1), "zeros that crop": nn.ZeroPad2d((-1, 2, 0, -2))}


@cache
def moved_first(name):
    """A move and a convolution of positive weights, and the graph of a network they begin."""
    move = (COPIES | KEPT)[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolution = nn.Conv2d(2, 3, 3)
        convolution.weight.data.abs_()
        whole = nn.Sequential(move, convolution, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        whole(pictures(0, 1))
    graph = convert(wrap(whole), pictures(0)[0])
    return nn.Sequential(move, convolution).double(), graph


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("name", [*COPIES, *KEPT])
def test_copies_of_a_pixel_share_one_part_of_the_ball(name, norm):
    (first, graph), radius = moved_first(name), 0.01
    x = 0.2 + 0.6 * pictures(0, 1)
    bounds = intervals(graph, Region(norm, x.double(), radius))
    (at,) = (
        k
        for k, step in enumerate(graph.steps)
        if isinstance(step, Affine) and step.weight is not None and step.weight.ndim == 4
    )
    rows = torch.autograd.functional.jacobian(lambda x: first(x).flatten(), x.double()).flatten(1)
    size = torch.linalg.vector_norm(rows, ord=2 if norm == "l2" else torch.inf, dim=1)
    largest = first(x.double()).detach().flatten() + radius * size  # Hölder's, and it is reached
    assert bool((bounds[at][1].flatten() >= largest).all())
    if name in KEPT:  # and where nothing is copied the ball itself is what counts
        assert bounds[at][1].flatten().numpy() == pytest.approx(largest.numpy(), abs=0.2 * radius)


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("name", PADDED)
def test_padding_is_an_operation_with_bounds(name):
    holds(Function(PADDINGS[name]))


@pytest.mark.parametrize(
    ("padding", "words"),
    [
        (lambda x: functional.pad(x, (1, 1), value=0.5), r"pads with 0\.5"),
        (lambda x: functional.pad(x, (0, 0, 0, 0, 0, 0, 1, -1)), "mixes images"),
        (nn.AvgPool2d(2, divisor_override=3), "avg_pool2d"),
    ],
)
def test_padding_without_bounds_is_named(padding, words):
    with pytest.raises(Unsupported, match=words):
        convert(freeze(Function(padding)), pictures(0)[0])


@pytest.mark.parametrize(
    "middle",
    [
        [nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)],
        [nn.ZeroPad2d(1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 4, 2)],
        [nn.AvgPool2d(3, 2, 1), nn.Conv2d(3, 4, 2, padding=1)],
    ],
)
def test_padded_crops_have_the_bounds_of_the_whole(middle, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for part in middle:
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        parts = [nn.Conv2d(2, 3, 2), nn.ReLU(), *middle, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)]
        network = nn.Sequential(*parts)
        network(pictures(0))
    graph = convert(wrap(network), pictures(0)[0])
    region = Region("linf", pictures(0).double(), 0.1)
    bounds = intervals(graph, region)
    crops, layers = refined(graph, bounds, region, 1e12)
    asked = []
    monkeypatch.setattr("robustkit.certification.refine._crops", lambda *_: asked.append(1))
    whole, _ = refined(graph, bounds, region, 1e12)
    assert layers == len(asked) == 1
    for one, other in zip(crops, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
    assert float((bounds[-1][1] - crops[-1][1]).max()) > 1e-3  # and there was something to gain


# -- sigmoid and tanh -----------------------------------------------------------------------------

CURVES = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


@pytest.mark.parametrize("name", CURVES)
def test_the_library_is_off_by_far_less_than_is_assumed(name):
    curve = getattr(torch, name)
    # float32 numbers of every size, by their bits
    x = torch.arange(0, 0x43000000, 5003, dtype=torch.int32).view(torch.float32)
    for numbers in (x, -x, torch.stack([x, x], 1)[:, 0]):
        exact = curve(numbers.double())
        off = (curve(numbers).double() - exact).abs()
        assert bool((off <= exact.abs() * LIBRARY / 4 + UNDERFLOW).all())
    assert LIBRARY < 1e-6


def _curve(name):
    model = nn.Sequential(CURVES[name](), nn.Flatten())
    return convert(wrap(model), torch.zeros(1, 1, 2)).steps[1]


@pytest.mark.parametrize("name", CURVES)
def test_lines_lie_on_both_sides_of_a_curve(name):
    step, source = _curve(name), generator("lines", 0)
    ends = torch.randn(2, 1000, generator=source).double() * 10.0 ** (
        torch.rand(1000, generator=source) * 6 - 4
    )
    ends = torch.cat([ends, ends + torch.tensor([[0.0], [1e-8]]), ends[:1].expand(2, -1)], 1)
    ends = torch.cat([ends, -ends, torch.tensor([[0.0, -2, 0], [0.0, 0, 2]]).double()], 1)
    low, high = ends.amin(0), ends.amax(0)
    below, under, above, over = lines(step, low, high)
    share = torch.linspace(0, 1, 301).double()[:, None]
    x = low + (high - low) * share
    exact = step.apply(x)
    assert bool((exact >= below * x + under - 1e-13 * (1 + x.abs())).all())
    assert bool((exact <= above * x + over + 1e-13 * (1 + x.abs())).all())
    # of any slope none is much closer at the middle, where the curve is convex, concave or both
    for k in range(0, len(low), 97):
        if 1e-3 < float(high[k] - low[k]) < 4:
            slopes = torch.linspace(0, 1, 400).double() * step.size * step.rate
            offsets = (exact[:, k, None] - slopes * x[:, k, None]).amax(0)
            least = (slopes * (low[k] + high[k]) / 2 + offsets).min()
            rise = step.apply(high[k]) - step.apply(low[k])
            reached = above[k] * (low[k] + high[k]) / 2 + over[k]
            assert float(reached - least) <= 0.3 * float(rise) + 1e-9


@pytest.mark.one_of_many
@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CURVES)
def test_networks_of_curves_are_certified_inside_their_bounds(name, seed):
    made = CURVES[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            made(),
            nn.AvgPool2d(3, 2, 1),
            nn.Conv2d(4, 4, 2),
            nn.BatchNorm2d(4),
            made(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 12),
            nn.ReLU() if seed else made(),
            nn.Linear(12, 4),
        ).eval()
        with torch.no_grad():
            for part in network:
                if hasattr(part, "weight"):
                    part.weight *= 3
    near, _ = holds(network, seed, (0.003, 0.1))
    assert int(near.robust.sum()) >= 4


@pytest.mark.parametrize("name", CURVES)
def test_the_relaxation_of_curves_is_tighter_than_intervals(name):
    network = nn.Sequential(nn.Flatten(), nn.Linear(162, 30), CURVES[name](), nn.Linear(30, 3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for part in (network[1], network[3]):
            part.reset_parameters()
    model, x = wrap(network), pictures(0)
    graph, region = convert(model, x[0]), Region("linf", x.double(), 0.05)
    bounds, one = intervals(graph, region), torch.eye(3).double().expand(5, -1, -1)
    merged, relaxed = (
        lowest(graph, bounds, region, len(graph.steps) - 1, one, relax=relax).values
        for relax in (False, True)
    )
    for row in range(5):
        for output in range(3):
            at = x[[row]].clone().requires_grad_()
            (slope,) = torch.autograd.grad(model(at)[0, output], at)
            reached = model((at - 0.05 * slope.sign()).clamp(0, 1))[0, output].detach()
            # curves are nearly lines here: one step of gradient descent comes close
            assert merged[row, output] + 0.1 < relaxed[row, output] <= reached
            assert float(reached - relaxed[row, output]) < 0.06


# where the curve is convex, where it turns and where it is concave; and all between
@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("seeds", [(0, 5, 9), pytest.param(range(10), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("norm_name", ["linf", "l2", "l1"])
def test_no_counterexample_planted_behind_a_curve_is_certified(name, norm_name, seeds):
    epsilon = {"linf": 0.1, "l2": 0.4, "l1": 0.2}[norm_name]
    for seed in seeds:
        x = torch.rand(1, 1, 4, 4, generator=generator("pictures", seed)) * 0.1 + 0.45
        step = torch.randn(1, 1, 4, 4, generator=generator("step", seed))
        if norm_name == "l1":
            step = torch.eye(16)[seed].view(1, 1, 4, 4)
        step = step.sign() if norm_name == "linf" else step / step.norm()
        corner = x + epsilon * step
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), CURVES[name](), nn.Linear(1, 2))
        with torch.no_grad():
            network[1].weight[:] = step.flatten()
            network[1].bias[:] = 0.3 * seed - 1.5 - step.flatten() @ x.flatten()
            last = network[:3](corner)
            network[3].weight[:] = torch.tensor([[0.0], [100.0]])
            network[3].bias[:] = torch.tensor([0.0, float(-100 * last) + 1e-3])
        model, zero = wrap(network), torch.zeros(1, dtype=torch.int64)
        assert int(model(x).argmax(1)) == 0
        assert int(model(corner).argmax(1)) == 1
        with traced_once():
            assert not bool(certify(model, x, zero, norm_name, epsilon).robust)
            assert bool(certify(model, x, zero, norm_name, epsilon * 0.98).robust)


def test_what_overflows_before_a_curve_is_not_certified():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Sigmoid(), nn.Linear(2, 2))
    with torch.no_grad():
        network[1].weight[:] = 3e38
        network[1].weight[:, 1] = -3e38
        network[3].weight[:] = 1e-3
        network[3].bias[:] = torch.tensor([1.0, 0.0])
    x = torch.zeros(1, 1, 2, 2)
    result = certify(wrap(network), x, torch.zeros(1, dtype=torch.int64), "linf", 1.0)
    assert not result.robust.any()
    assert not bool(result.margin.isnan().any())


@pytest.mark.one_of_many
@pytest.mark.parametrize("middle", [["tanh", "sigmoid"], ["tanh", None]])
def test_branch_and_bound_halves_no_curve(middle):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [nn.Flatten()]
        for size, name in zip((162, 12), middle, strict=True):
            parts += [nn.Linear(size, 12), CURVES[name]() if name else nn.ReLU()]
        network = nn.Sequential(*parts, nn.Linear(12, 3))
        with torch.no_grad():
            network[1].weight *= 4
            network[3].weight *= 4
    model, x = wrap(network), pictures(0, 4)[:2]
    labels = model(x).argmax(1)
    graph = convert(model, x[0])
    bounds = intervals(graph, Region("linf", x[:1].double(), 0.05))
    curves = [k for k, step in enumerate(graph.steps) if isinstance(step, Sigmoidal)]
    assert not set(Neurons.of(graph, bounds).shapes) & set(curves)
    block = Block(x, labels, ["0", "1"], 0)
    seen = set()
    for epsilon in ("0.005", "0.02", "0.05"):
        nothing = PGD(1, Fraction(1, 10**6), random_start=False)
        protocol = Protocol(nothing, "linf", epsilon)
        with traced_once():
            for row, decision in decide(model, block, protocol, time_limit=20.0, batch_size=4):
                seen.add(decision.outcome)
                if decision.outcome == "fooled":
                    point = decision.perturbed[None]
                    assert int(model(point).argmax(1)) != int(labels[row])
                    one = certify(model, x[[row]], labels[[row]], "linf", float(epsilon))
                    assert not bool(one.robust)
    assert {"certified", "fooled"} <= seen


# -- reshapes -------------------------------------------------------------------------------------

RESHAPES = {
    "view of size(0)": lambda x: x.view(x.size(0), -1),
    "view of shape[0]": lambda x: x.view(x.shape[0], -1),
    "view of size()[0]": lambda x: x.view(x.size()[0], -1),
    "view of the rest": lambda x: x.view(-1, 147),
    "view of products": lambda x: x.view(-1, x.shape[1] * x.shape[2] * x.shape[3]),
    "reshape of len": lambda x: x.reshape(len(x), -1),
    "reshape of a tuple": lambda x: x.reshape((x.size(0), 21, -1)),
    "reshape to its own": lambda x: x.reshape(x.shape),
    "flatten": lambda x: x.flatten(1),
    "flatten from behind": lambda x: torch.flatten(x, start_dim=-3),
    "flatten of some": lambda x: x.flatten(2, 3),
    "flatten module": nn.Flatten(),
    "flatten module, from behind": nn.Flatten(-2, -1),
    "unflatten": lambda x: x.flatten(1).unflatten(1, (3, -1)),
    "unflatten module": nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 49))),
    "there and back": lambda x: x.view(x.size(0), x.size(1), -1).view(x.size()),
    "view as another": lambda x: x.flatten(1).view_as(x),
    "transpose": lambda x: x.transpose(1, 3).reshape(x.size(0), -1),
    "transpose from behind": lambda x: x.transpose(-1, -2).contiguous().view(x.size(0), -1),
    "permute": lambda x: x.permute(0, 2, 3, 1).flatten(1),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "means, then squeeze": lambda x: functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
}
RESHAPED = some(
    RESHAPES,
    "view of size(0)",
    "reshape of len",
    "flatten from behind",
    "unflatten",
    "there and back",
    "view as another",
    "transpose from behind",
    "permute",
    "means, then squeeze",
)


class Weight(nn.Module):
    """A function of a weight and the images."""

    def __init__(self, function, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape, generator=generator("weight", 0)))
        self.function = function

    def forward(self, x):
        return self.function(self.weight, x)


MOVED = {
    "channels": lambda x: x[:, 1:],
    "every other row": lambda x: x[:, :, ::2],
    "from behind": lambda x: x[..., -3:-1],
    "one channel": lambda x: x[:, 1],
    "one pixel": lambda x: x[:, :, 2, -1],
    "joined channels": lambda x: torch.cat([x, 2 * x, x[:, :1]], 1),
    "joined from behind": lambda x: torch.cat((x.flatten(2), x.mean((2, 3))[..., None]), -1),
    "joined once": lambda x: torch.cat([x], 1),
    "split": lambda x: torch.split(x, 2, dim=1)[0] - x.split([1, 2], dim=1)[1],
    "chunks": lambda x: sum(x.chunk(3, 1)),
    "flipped": lambda x: x.flip(2, 3),
    "rolled": lambda x: x.roll((1, 2), (2, 3)),
    "shuffled": lambda x: functional.pixel_shuffle(torch.cat([x, x[:, :1]], 1), 2),
    "enlarged": nn.Upsample(scale_factor=2),
    "summed": lambda x: x.sum((2, 3)),
    "a weight times columns": Weight(lambda w, x: w @ x, 5, 7),
    "a weight times one column": Weight(lambda w, x: w @ x.flatten(1)[..., None], 6, 147),
    "summed, kept": lambda x: x - x.sum(1, keepdim=True),
}


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize(
    "name",
    some(
        MOVED,
        "every other row",
        "one pixel",
        "joined from behind",
        "split",
        "rolled",
        "flipped",
        "shuffled",
        "enlarged",
        "a weight times columns",
        "a weight times one column",
        "summed, kept",
    ),
)
def test_what_moves_or_adds_numbers_has_bounds(name):
    holds(Function(MOVED[name]))


def test_what_is_joined_costs_no_rounding():
    x = pictures(0)[0]
    graph = convert(wrap(nn.Sequential(Function(lambda x: torch.cat([x, x], 1)))), x)
    (joined,) = (i for i, step in enumerate(graph.steps) if isinstance(step, Add))
    bounds = intervals(graph, Region("linf", pictures(0).double(), 0.0))
    error, sizes = local_error(graph, joined, bounds), bounds[joined][1].abs() + TINY
    assert bool((error <= 1e-11 * sizes).all())


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("name", RESHAPED)
def test_a_reshape_has_bounds_however_its_size_is_told(name):
    holds(Function(RESHAPES[name]))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.transpose(0, 2).reshape(len(x), -1),
        lambda x: x.permute(1, 0, 2, 3).reshape(len(x), -1),
        lambda x: x.flatten().view(-1, len(x)).t(),
        lambda x: x[1:],
        lambda x: x.flip(0),
        lambda x: x.roll(1, 0),
        lambda x: x.select(0, 0),
        lambda x: torch.cat([x, x], 0),
        lambda x: x.chunk(2)[0],
        Weight(lambda w, x: w[: len(x), : len(x)] @ x.flatten(1), 20, 20),
        lambda x: x - x.sum(0),
        lambda x: x - x.sum(),
    ],
)
def test_a_reshape_that_mixes_images_is_refused(function):
    with pytest.raises(Unsupported, match=r"mixes images|no bounds|constant that differs"):
        convert(freeze(Function(function)), pictures(0)[0])


# -- the steps are the network --------------------------------------------------------------------


def _leaking(build, node, x):
    build.add(node, Relu(build.place[x], shape_of(node), 1e-6))


def _shifted(build, node, x, *_):
    build.moved(node, x, lambda v: v.flatten(1).roll(1, 1))


def _without_bias(build, node, x, weight, bias):
    build.add(node, matrix(build.place[x], shape_of(node), build.constant[weight], bias_of(0)))


def bias_of(value):
    return torch.full((1,), value, dtype=torch.float64)


def _of_another(build, node, x, weight, bias):
    w, b = (build.constant[value].double() for value in (weight, bias))
    build.add(node, matrix(build.place[x], shape_of(node), w + 1e-7 * w.roll(1, 0), b))


def _forgotten(build, node, x, *_):
    build.place[node] = build.place[x]


@cache
def sound(depth):
    """A network, images, labels, and the trace of which the right steps are made."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [nn.Flatten(), nn.Linear(162, 40), nn.Sigmoid()]
        for _ in range(depth):
            parts += [nn.Linear(40, 40), nn.ReLU()]
        model, x = wrap(nn.Sequential(*parts, nn.Linear(40, 4))), pictures(0)
    labels = model(x).argmax(1)
    assert certify(model, x, labels, "linf", 0.0).reason == ""
    return model, x, labels, trace(model, x[0])


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("depth", [2, 12])
@pytest.mark.parametrize(
    ("operation", "wrong"),
    [
        (aten.relu.default, _leaking),
        (aten.flatten.using_ints, _shifted),
        (aten.linear.default, _without_bias),
        (aten.linear.default, _of_another),
        (aten.sigmoid.default, _forgotten),
    ],
)
def test_steps_that_are_not_quite_the_network_are_refused(operation, wrong, depth, monkeypatch):
    model, x, labels, traced = sound(depth)
    monkeypatch.setattr(conversion, "trace", lambda *_: traced)
    monkeypatch.setitem(HANDLERS, operation, wrong)
    result = certify(model, x, labels, "linf", 0.0)
    assert "other logits than the model" in result.reason
    assert not result.robust.any()


class Otherwise(nn.Module):
    """A network, and a little more where a condition holds that no trace can see."""

    def __init__(self, condition):
        super().__init__()
        self.network, self.condition = deep_and_narrow(), condition

    def forward(self, x):
        logits = self.network(x)
        if torch.compiler.is_exporting():
            return logits
        there = torch.as_tensor(self.condition(x)).to(x).view(-1, 1)
        return logits + 0.01 * there * logits.flip(1)


@cache
def traced_otherwise():
    """The trace of such a network, whatever its condition; nothing is wrong where none holds."""
    model, x = freeze(Otherwise(lambda x: False)), pictures(0)[0]
    convert(model, x)
    return trace(model, x)


def deep_and_narrow():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [part for _ in range(8) for part in (nn.Linear(30, 30), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), nn.Linear(162, 30), *parts, nn.Linear(30, 4))


@pytest.mark.parametrize(
    "condition",
    [
        lambda x: True,
        lambda x: x.mean() > 0.9,
        lambda x: len(x) == 1,
        lambda x: len(x) == 4,
        lambda x: x.dtype == torch.float32,
        lambda x: x.dtype == torch.float64,
        lambda x: torch.is_grad_enabled(),
    ],
)
def test_what_a_network_does_only_while_it_is_not_traced_is_refused(condition, monkeypatch):
    x, traced = pictures(0)[0], traced_otherwise()
    monkeypatch.setattr(conversion, "trace", lambda *_: traced)
    with pytest.raises(Unsupported, match="other logits"):
        convert(freeze(Otherwise(condition)), x)


def test_what_a_network_does_on_one_image_alone_is_refused():
    x = pictures(0)
    model = wrap(Otherwise(lambda v: v[:, 0, 0, 0] == x[3, 0, 0, 0]))
    result = certify(model, x, model(x).argmax(1), "linf", 0.0)
    assert "other logits" in result.reason


def test_what_repeats_numbers_has_the_share_of_adding_up_their_slopes():
    x = pictures(0)[0]
    graph = convert(freeze(Function(nn.Upsample(scale_factor=2))), x)
    bounds = intervals(graph, Region("linf", pictures(0).double(), 0.0))
    more = next(i for i, step in enumerate(graph.steps) if step.shape == (3, 14, 14))
    low, high = bounds[more]
    share = 1e3 * 2.0**-53 * torch.maximum(low.abs(), high.abs())
    assert bool((local_error(graph, more, bounds) >= share).all())
