"""Bounds with chosen multipliers, and branch and bound over the signs of ReLUs."""

from itertools import product

import pytest
import torch
from torch import nn

from robustkit.attack.draws import generator
from robustkit.certification.bounds import Multipliers, intervals, lowest
from robustkit.certification.conversion import convert
from robustkit.certification.graph import Relu
from robustkit.certification.region import Region
from robustkit.checkpoint.adapter import Classifier, freeze


def made(seed, *, leaky=False):
    """A frozen network with random weights: a convolution, then two dense layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        act = nn.LeakyReLU(0.1) if leaky else nn.ReLU()
        module = nn.Sequential(
            nn.Conv2d(1, 2, 3, stride=2),
            act,
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(2, 6),
            act,
            nn.Linear(6, 3),
        )
        return freeze(Classifier(module, [0.4], [0.5]))


def pictures(seed, n=4, side=6):
    return torch.rand(n, 1, side, side, generator=generator("pictures", seed))


@pytest.mark.parametrize("leaky", [False, True])
def test_whatever_the_multipliers_no_point_of_the_presumed_signs_lies_below_the_bound(leaky):
    source, checked = generator("multipliers", leaky), 0
    for seed, radius in product(range(12), (0.02, 0.2)):
        model, x = made(seed, leaky=leaky), pictures(seed)
        graph, region = convert(model, x[0]), Region("linf", x.double(), radius)
        bounds = intervals(graph, region)
        noise = torch.rand(300, *x.shape, generator=source).double()
        noise[:150] = noise[:150].round()  # corners, where a linear function is least
        points = (x + radius * (2 * noise - 1)).clamp(0, 1)
        values = graph.values(points.flatten(0, 1))
        last = len(graph.steps) - 1
        slopes = torch.randn(4, 3, 3, generator=source).double()
        reached = torch.einsum("pnk,nsk->pns", values[last].view(300, 4, 3), slopes)
        alpha, beta, inside = {}, {}, torch.ones(300, 4, dtype=torch.bool)
        for i, step in enumerate(graph.steps):
            if isinstance(step, Relu):
                low, high = bounds[step.source]
                open_ = (low < 0) & (high > 0)
                sign = torch.randint(-1, 2, low.shape, generator=source) * open_
                # one neuron or two, so that points are left on the presumed side
                sign *= torch.rand(low.shape, generator=source) < 0.2
                share = torch.rand(4, 3, *low.shape[1:], generator=source)
                alpha[i] = step.slope + (1 - step.slope) * share.sqrt()
                beta[i] = -sign[:, None] * torch.rand(low.shape, generator=source)[:, None]
                before = values[step.source].view(300, *low.shape)
                inside &= (before * sign >= 0).flatten(2).all(2)
                bounds[step.source] = (
                    torch.where(sign > 0, low.clamp(min=0), low),
                    torch.where(sign < 0, high.clamp(max=0), high),
                )
        found = lowest(
            graph, bounds, region, last, slopes, relax=True, multipliers=Multipliers(alpha, beta)
        ).values
        below = found[None] <= reached + 1e-9
        assert bool((below | ~inside[:, :, None]).all())
        checked += int(inside.sum())
    assert checked > 100
