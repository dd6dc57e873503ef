"""A domain in which every sign is presumed: a linear programme decides.

ReLUs are linear there; what else is not, sigmoids and max pools, keeps its relaxation.

The programme's answer is only a guide, for its tolerances are no proof: its dual values are
multipliers of the presumed signs, and what they give is a bound like any other. Its point is one
to be tried.
"""

import numpy as np
import torch
from torch import Tensor

from robustkit.certification.bounds import carried
from robustkit.certification.domains import Domains, Problem

PENALTY = 1e4
"""of leaving the presumed signs, over the largest slope of the function: a domain without a point
gets a bound as far above 0 as this times what it misses"""


def solve(problem: Problem, domain: Domains) -> tuple[float, Tensor | None]:
    """A lower bound of one domain's function, and a point where it may be attained.

    None where the norm's ball is no polytope, no sign is presumed or the programme has no answer.
    """
    from scipy.optimize import linprog  # takes a third of a second to import

    before = float(domain.lower)
    if problem.region.norm != "linf" or len(problem.neurons) == 0:
        return before, None
    cut = problem.intervals(domain)
    zero = torch.zeros_like(domain.alpha)
    _, arriving = problem.lower(domain, cut, domain.alpha, zero)
    cost = arriving[0].flatten().numpy(force=True)
    rows, offsets = _neurons(problem, cut)
    sign = domain.signs[0].numpy(force=True).astype(float)
    penalty = PENALTY * max(1e-6, float(np.abs(cost).max()))
    low, high = (side.flatten().numpy(force=True) for side in problem.region.interval())
    # sign · (row · x + offset) ≥ −t: with t every domain has a point, and the duals are bounded
    answer = linprog(
        [*cost, penalty],
        A_ub=np.column_stack([-sign[:, None] * rows, -np.ones(len(sign))]),
        b_ub=sign * offsets,
        bounds=[*zip(low, high, strict=True), (0, None)],
        method="highs",
    )
    if answer.status != 0:
        return before, None
    beta = torch.from_numpy(np.maximum(0.0, -answer.ineqlin.marginals)).to(zero)[None]
    lower, _ = problem.lower(domain, cut, domain.alpha, beta)
    point = torch.from_numpy(answer.x[:-1]).to(zero).view_as(problem.region.images)
    return max(before, float(lower)), point


def _neurons(problem: Problem, cut: list[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Each neuron as a linear function of the image, where every sign is presumed."""
    rows, offsets = [], []
    for i, where in problem.neurons.places.items():
        source = problem.neurons.sources[i]
        shape = problem.graph.steps[source].shape
        one = torch.eye(int(np.prod(shape)), dtype=torch.float64, device=where.device)[where]
        found = carried(problem.graph, cut, source, one.view(1, -1, *shape), relax=True)
        rows.append(found.arriving[0][0].flatten(1).numpy(force=True))
        offsets.append((found.constant + found.rounding)[0].numpy(force=True))
    return np.concatenate(rows), np.concatenate(offsets)
