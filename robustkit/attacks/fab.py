"""FAB: the nearest point across the boundary (Croce and Hein 2020, algorithm 1).

Croce and Hein 2020b, "Minimally distorted adversarial examples with a fast adaptive boundary
attack".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks.draws import in_ball, on_sphere, starts
from robustkit.attacks.library import foolbox
from robustkit.attacks.projections import onto_hyperplane
from robustkit.attacks.search import Search
from robustkit.attacks.state import State
from robustkit.geometry import DUAL, ORDER, column, distance, in_budget
from robustkit.protocol import Norm

USUAL: dict[Norm, float] = {"linf": 0.3, "l2": 1.0, "l1": 5.0}
"""radius of random starts where no budget is given"""
CLEARLY = 0.999
"""a point counts as nearer where its distance is less than this share of the last one"""


@dataclass(slots=True)
class FabBuffers:
    """What FAB remembers; tensors are N unless said otherwise."""

    best: Tensor
    """the nearest points that fool, N × C × H × W; the images where there is none"""
    best_distance: Tensor
    """their distances, float64; inf where there is none"""
    last_distance: Tensor
    """`best_distance` when it was last clearly less than before, float64"""
    idle: Tensor
    """steps since then"""
    target: Tensor | None
    """the class whose boundary is sought"""


class FabSearch(Search[FabBuffers], foolbox.attacks.base.MinimizationAttack):  # type: ignore[misc]
    """Steps onto the linearised boundary from the iterate and from the image, biased to the latter.

    With `targets` each attempt knows one boundary, that to one of the top wrong classes: one
    gradient a step. Without, the nearest linearised boundary is taken: one gradient a class.

    Where gradients near the image mislead, as in L2 and L1 around a network trained in Linf, that
    search creeps about and finds nothing. So after `patience` steps that have found no nearer point
    an iterate leaps to the corner of the box that its gradient points to, and comes back from
    there. The paper has no such step; the authors' code makes one now and then in L2, by rounding.
    """

    needs_outcome = True
    can_be_targeted = False
    stays_inside = False
    transfers = False

    def __init__(
        self,
        norm: Norm,
        *,
        steps: int = 100,
        restarts: int = 1,
        targets: int = 9,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        patience: int = 20,
    ) -> None:
        self.norm = norm
        self.steps = steps
        self.restarts = restarts
        self.targets = targets
        self.alpha_max = alpha_max
        self.eta = eta
        self.beta = beta
        self.patience = patience

    def start(
        self, state: State[None], sources: Sequence[torch.Generator | None]
    ) -> State[FabBuffers]:
        """The images themselves, for a restart random points half a budget away."""
        draw = in_ball if self.norm == "linf" else on_sphere
        noise = starts(draw, self.norm, state.images, sources)
        radius = torch.where(state.epsilon.isinf(), USUAL[self.norm], state.epsilon) / 2
        radius = radius * (state.restart_index > 0)
        x = state.images + column(radius, state.images) * noise
        nowhere = torch.full_like(state.epsilon, torch.inf, dtype=torch.float64)
        buffers = FabBuffers(
            best=state.images.clone(),
            best_distance=nowhere,
            last_distance=nowhere.clone(),
            idle=torch.zeros_like(state.step),
            target=state.target.clone() if self.targets else None,
        )
        return state.started(x.clamp(0, 1), buffers)

    def value(self, logits: Tensor, state: State[FabBuffers], targeted: bool) -> Tensor:
        """How far another logit lies above the label's: the target's, N, or each class's, N × K."""
        own = logits.gather(1, state.classes[:, None])
        if (target := state.buffers.target) is None:
            return logits - own
        return (logits.gather(1, target[:, None]) - own)[:, 0]

    def advance(self, state: State[FabBuffers], value: Tensor, gradient: Tensor) -> None:
        """One step: equations 6 to 8 of the paper."""
        b = state.buffers
        value, w = self._boundary(state, value, gradient.flatten(2 if value.ndim == 2 else 1))
        x, images = state.x.flatten(1).double(), state.images.flatten(1).double()
        offset = (w * x).sum(1) - value
        # one sort for both projections, of the iterate and of the image
        both = onto_hyperplane(
            torch.cat([x, images]), torch.cat([w, w]), torch.cat([offset, offset]), self.norm
        )
        from_x, from_image = both.chunk(2)
        near, far = (
            torch.linalg.vector_norm(step, ord=ORDER[self.norm], dim=1).clamp(min=1e-8)
            for step in (from_x, from_image)
        )
        # α of the paper: the nearer the iterate is to the boundary, as against the image, the less
        # it is drawn to the point nearest to the image, so that it settles on the boundary
        bias = (near / (near + far)).clamp(max=self.alpha_max)[:, None]
        # η a little above 1 goes past the linearised boundary, since the true one curves
        goal = (x + self.eta * from_x) * (1 - bias) + (images + self.eta * from_image) * bias
        goal = goal.clamp(0, 1)
        if self.patience:
            leaps = b.idle >= self.patience
            # a pixel without slope stays: moving it would add distance and nothing else
            corner = torch.where(w == 0, x, (w > 0).double())
            goal = torch.where(leaps[:, None], corner, goal)
            b.idle = b.idle.masked_fill(leaps, 0)
        state.x = goal.to(state.x.dtype).view_as(state.x)

    def _boundary(
        self, state: State[FabBuffers], value: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Value and slope of the boundary that each row steps to, float64, N and N × D."""
        value, gradient = value.double(), gradient.double()
        if value.ndim == 1:
            return value, gradient
        steepness = torch.linalg.vector_norm(gradient, ord=DUAL[self.norm], dim=2)
        # distance to each class's linearised boundary, in the norm, by the dual norm of its slope
        gap = value.abs() / (steepness + 1e-12)
        gap = gap.scatter(1, state.classes[:, None], torch.inf)
        nearest = gap.argmin(1)
        rows = torch.arange(len(value), device=value.device)
        return value[rows, nearest], gradient[rows, nearest]

    def observe(self, state: State[FabBuffers], fooled: Tensor) -> None:
        """Keep the nearest points that fool, and go back towards the image from there."""
        self._remember(state, fooled)
        b = state.buffers
        nearer = b.best_distance < CLEARLY * b.last_distance
        b.last_distance = torch.where(nearer, b.best_distance, b.last_distance)
        b.idle = torch.where(nearer, 0, b.idle + 1)
        # beyond the boundary there are nearer points of it yet: back by a share of the way (the
        # paper's β), to meet it again from inside, where the linearisation leads across
        back = state.images + self.beta * (state.x - state.images)
        state.x = torch.where(column(fooled, back), back, state.x)

    def _remember(self, state: State[FabBuffers], fooled: Tensor) -> None:
        b = state.buffers
        # float64, as the verdict has it: what counts as nearer here must be so there
        reached = distance(state.images, state.x, self.norm)
        nearer = fooled & (reached < b.best_distance)
        b.best_distance = torch.where(nearer, reached, b.best_distance)
        b.best = torch.where(column(nearer, state.x), state.x, b.best)

    def claims(self, state: State[FabBuffers], fooled: Tensor) -> tuple[Tensor, Tensor]:
        """Rows whose nearest point so far lies within the budget; without one, none early."""
        # the paper counts only where a step led (`observe`). Starts and points drawn back towards
        # the image pass through the network here anyway, and one that fools is a find, and nearer
        # than where the step led
        self._remember(state, fooled)
        b = state.buffers
        return in_budget(b.best_distance, state.epsilon) & ~state.epsilon.isinf(), b.best

    def out_of_budget_finds(self, state: State[FabBuffers]) -> tuple[Tensor, Tensor]:
        """The nearest point that was found, whatever its distance."""
        return state.buffers.best_distance < torch.inf, state.buffers.best
