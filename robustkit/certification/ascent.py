"""Better bounds of domains, by ascending their multipliers (Wang et al. 2021, algorithm 1).

Whatever the multipliers, what they give is a bound, so nothing here has to converge, and each bound
is the best that was met on the way.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustkit.certification.domains import Domains, Problem
from robustkit.certification.graph import flattened
from robustkit.certification.refine import nonlinear_inputs, rebounded, relaxed

ALPHA_STEP = 0.1
"""largest first step of a slope, which lies between 0 and 1"""
BETA_STEP = 0.5
"""of a presumed sign's multiplier, as a share of `Problem.scale`"""
DECAY = 0.97
"""of the steps"""


@dataclass(frozen=True, slots=True)
class Ascended:
    """Domains with the best bounds found, and where the last linear function below is least."""

    domains: Domains
    slopes: Tensor
    """of that function at the image, B × C × H × W"""


@torch.no_grad()
def ascend(problem: Problem, domains: Domains, steps: int, over: Callable[[], bool]) -> Ascended:
    """Lower bounds of each domain after so many steps; those above 0 are let go on the way."""
    best, steps = domains, steps if len(problem.neurons) else 0
    cut = problem.intervals(domains)
    variables = [domains.alpha.clone(), domains.beta.clone()]
    sizes = (torch.full_like(problem.scale, ALPHA_STEP), BETA_STEP * problem.scale)
    first = [torch.zeros_like(v) for v in variables]
    second = [torch.zeros_like(v) for v in variables]
    for step in range(1, steps + 2):
        alpha, beta = (v.detach().requires_grad_(step <= steps) for v in variables)
        with torch.enable_grad():
            value, arriving = problem.lower(domains, cut, alpha, beta)
            height = value.sum()  # domains do not meet: each row of the gradient is its own
        best = _better(best, value.detach(), alpha.detach(), beta.detach())
        if step > steps or bool((best.lower > 0).all()) or over():
            break
        gradients = torch.autograd.grad(height, (alpha, beta))
        variables = []
        for k, (variable, gradient) in enumerate(zip((alpha, beta), gradients, strict=True)):
            # Adam (Kingma and Ba 2015, algorithm 1): no step depends on the bound's scale
            first[k] = 0.9 * first[k] + 0.1 * gradient
            second[k] = 0.999 * second[k] + 0.001 * gradient**2
            change = first[k] / (1 - 0.9**step) / ((second[k] / (1 - 0.999**step)).sqrt() + 1e-12)
            variables.append(variable.detach() + sizes[k] * DECAY ** (step - 1) * change)
        variables[0] = torch.maximum(variables[0], problem.neurons.slope).clamp(max=1)
        variables[1] = variables[1].clamp(min=0)
    return Ascended(best, arriving[0][:, 0].detach())


def _better(best: Domains, value: Tensor, alpha: Tensor, beta: Tensor) -> Domains:
    """Each domain's best bound so far, with the multipliers that gave it."""
    higher = value > best.lower
    return replace(
        best,
        lower=torch.where(higher, value, best.lower),
        alpha=torch.where(higher[:, None], alpha, best.alpha),
        beta=torch.where(higher[:, None], beta, best.beta),
    )


@torch.no_grad()
def tighten(problem: Problem, domains: Domains, over: Callable[[], bool]) -> Domains:
    """Domains with the intervals behind presumed signs bounded again; an empty one is done with.

    When the time is `over`, what is left stays as wide as it is.
    """
    cut, region = problem.intervals(domains), problem.rows(domains)
    empty = torch.zeros_like(domains.lower, dtype=torch.bool)
    for index in nonlinear_inputs(problem.graph):
        if over():
            break
        open_ = relaxed(problem.graph, cut, index) > 0
        cut[index] = low, high = rebounded(problem.graph, cut, region, index, open_, over)
        empty |= flattened(low > high).any(1)
    sides = [{i: cut[s][k][:, None] for i, s in problem.neurons.sources.items()} for k in (0, 1)]
    low, high = (problem.neurons.gathered(side) for side in sides)
    return replace(
        domains,
        low=low,
        high=torch.maximum(low, high),
        stale=torch.zeros_like(domains.stale),
        lower=torch.where(empty, torch.inf, domains.lower),
    )
