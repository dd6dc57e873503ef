"""Operations that have bounds: what float32 computes lies inside, what is fooled is not certified."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from robustkit.attack.draws import generator
from robustkit.certification import certify
from robustkit.certification.bounds import intervals, lowest
from robustkit.certification.conversion import convert
from robustkit.certification.refine import refined
from robustkit.certification.region import Region
from robustkit.checkpoint import wrap

RADIUS = 0.02


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


def holds(network, seed=0, radius=RADIUS):
    """Certified with no perturbation; float32 inside every kind of bound; no fooled image proved."""
    model, x = wrap(network), pictures(seed)
    labels = model(x).argmax(1)
    result = certify(model, x, labels, "linf", 0.0)
    assert result.reason == ""
    assert bool(result.robust.all())
    region, graph = Region("linf", x.double(), radius), convert(model, x[0])
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


@pytest.mark.parametrize("name", PADDINGS)
def test_padding_is_an_operation_with_bounds(name):
    holds(Function(PADDINGS[name]))


@pytest.mark.parametrize(
    ("padding", "words"),
    [
        (lambda x: functional.pad(x, (1, 1), value=0.5), "pads with 0.5"),
        (lambda x: functional.pad(x, (0, 0, 0, 0, 0, 0, 1, -1)), "mixes images"),
        (nn.AvgPool2d(2, divisor_override=3), "avg_pool2d"),
    ],
)
def test_padding_without_bounds_is_named(padding, words):
    result = certify(wrap(Function(padding)), pictures(0), torch.zeros(5).long(), "linf", 0.1)
    assert words in result.reason
    assert not result.robust.any()


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
