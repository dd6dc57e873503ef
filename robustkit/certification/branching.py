"""Which neuron's sign to presume next (De Palma et al. 2021, filtered smart branching)."""

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

from robustkit.certification.domains import Domains, Problem

CANDIDATES = 8
"""neurons of a domain that are tried, over all layers; at least one of each"""
LESSER = 0.1
"""weight of the better half's bound beside the worse one's"""


@torch.no_grad()
def choose(problem: Problem, domains: Domains, over: Callable[[], bool] = lambda: False) -> Tensor:
    """A neuron of each domain, int64 B: of those that lose most, the one whose halves gain most.

    Every domain needs a neuron without a presumed sign. When the time is `over`, halves that were
    not bounded gain nothing: any neuron does.
    """
    candidates = _candidates(problem, domains)
    B, C = candidates.shape
    rows = torch.arange(B, device=candidates.device).repeat_interleave(C)
    halves = domains.take(rows).split(candidates.flatten())
    lower = torch.cat(
        [
            part.lower if over() else _lower(problem, part)
            for part in _parts(halves, max(1, problem.at_once))
        ]
    ).view(2, B, C)
    worse, better = lower.amin(0), lower.amax(0)
    # what is above 0 is done with; how far above is no merit
    value = worse.clamp(max=0) + LESSER * better.clamp(max=0)
    open_ = domains.open.gather(1, candidates)
    best = value.masked_fill(~open_, -torch.inf).argmax(1, keepdim=True)
    return candidates.gather(1, best)[:, 0]


def _parts(domains: Domains, size: int) -> list[Domains]:
    rows = torch.arange(len(domains), device=domains.rival.device)
    return [domains.take(some) for some in torch.split(rows, size)]


def _lower(problem: Problem, domains: Domains) -> Tensor:
    """Bounds without any ascent, B."""
    return problem.lower(domains, problem.intervals(domains), domains.alpha, domains.beta)[0]


def _candidates(problem: Problem, domains: Domains) -> Tensor:
    """The neurons that lose most in each layer, B × C; where a layer has too few, others' again."""
    losses = _losses(problem, domains)
    layers = int(problem.neurons.layer.max()) + 1
    each = ceil(CANDIDATES / layers)
    chosen = []
    for layer in range(layers):
        own = (problem.neurons.layer == layer).nonzero()[:, 0]
        top = losses[:, own].topk(min(each, len(own)), dim=1).indices
        chosen.append(own[top])
    return torch.cat(chosen, 1)


def _losses(problem: Problem, domains: Domains) -> Tensor:
    """What the relaxation of each neuron may cost its domain's bound, B × U; −1 where none does."""
    cut = problem.intervals(domains)
    _, arriving = problem.lower(domains, cut, domains.alpha, domains.beta)
    a = problem.neurons.gathered(arriving)
    low, high, slope = domains.low, domains.high, problem.neurons.slope
    # above, the chord is off by its height at 0; below, the line is off by most at one of the ends
    height = (1 - slope) * -low * high / (high - low).clamp(min=1e-300)
    under = torch.maximum((domains.alpha - slope) * -low, (1 - domains.alpha) * high)
    loss = torch.where(a < 0, -a * height, a * torch.minimum(under, height))
    return torch.where(domains.open, loss, -1.0)
