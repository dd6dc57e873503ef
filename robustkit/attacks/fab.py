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
from robustkit.geometry import DUAL, ORDER, column, distance, in_budget, length
from robustkit.protocol import Norm

USUAL: dict[Norm, float] = {"linf": 0.3, "l2": 1.0, "l1": 5.0}
"""radius of random starts where no budget is given"""
CLEARLY = 0.999
"""a point counts as nearer where its distance is less than this share of the last one"""
DOUBT = 1 + 1e-4
"""times a distance, more than rounding in float32 adds to it"""


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

    def gradients(self, classes: int) -> int:
        """One, or that of each class."""
        return 1 if self.targets else classes

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
        value, gradient = value.to(state.x), gradient.flatten(2 if value.ndim == 2 else 1)
        value, w = self._boundary(state, value, gradient)
        x, images = state.x.flatten(1), state.images.flatten(1)
        # ⟨w, z⟩ − b at the iterate and at the image, without differences of large numbers
        gaps = torch.stack([value, ((images - x) * w).sum(1).add_(value)])
        from_x, from_image = onto_hyperplane(torch.stack([x, images]), w, gaps, self.norm)
        near, far = (length(s, ORDER[self.norm]).clamp(min=1e-8) for s in (from_x, from_image))
        # α of the paper: the nearer the iterate is to the boundary, as against the image, the less
        # it is drawn to the point nearest to the image, so that it settles on the boundary
        bias = (near / (near + far)).clamp(max=self.alpha_max)[:, None]
        # η a little above 1 goes past the linearised boundary, since the true one curves
        goal = from_x.mul_(self.eta).add_(x)
        goal = goal.lerp_(from_image.mul_(self.eta).add_(images), bias).clamp_(0, 1)
        state.x = self._leapt(state, goal, w).view_as(state.x)

    def _leapt(self, state: State[FabBuffers], goal: Tensor, w: Tensor) -> Tensor:
        """Where rows whose patience is at its end go instead, N × D."""
        leaps = (state.buffers.idle >= self.patience).nonzero()[:, 0]
        if self.patience and len(leaps):
            slope = w[leaps]
            # a pixel without slope stays: moving it would add distance and nothing else
            goal[leaps] = torch.where(slope == 0, state.x.flatten(1)[leaps], (slope > 0).to(goal))
            state.buffers.idle[leaps] = 0
        return goal

    def _boundary(
        self, state: State[FabBuffers], value: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Value and slope of the boundary that each row steps to, N and N × D."""
        if value.ndim == 1:
            return value, gradient
        # class by class: all gradients in float64 would be twice as large as they are
        steepness = [length(slope.double(), DUAL[self.norm]) for slope in gradient.unbind(1)]
        # distance to each class's linearised boundary, in the norm, by the dual norm of its slope
        gap = value.double().abs() / torch.stack(steepness, 1).clamp(min=1e-300)
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
        back = column((1 - self.beta) * fooled.to(state.x), state.x)
        state.x = state.x.lerp(state.images, back)

    def _remember(self, state: State[FabBuffers], fooled: Tensor) -> None:
        b = state.buffers
        # float64, as the verdict has it, where float32 leaves in doubt what is nearer
        rough = length((state.x - state.images).flatten(1), ORDER[self.norm])
        rows = (fooled & (rough <= DOUBT * b.best_distance)).nonzero()[:, 0]
        x = state.x[rows]
        reached = distance(state.images[rows], x, self.norm)
        # where a model that draws at random errs at the image itself, nothing would be nearer
        nearer = (reached < b.best_distance[rows]) & (reached > 0)
        b.best_distance[rows[nearer]] = reached[nearer]
        b.best[rows[nearer]] = x[nearer]

    def claims(self, state: State[FabBuffers], fooled: Tensor) -> tuple[Tensor, Tensor]:
        """Rows whose nearest point so far lies within the budget; without one, none early."""
        # the paper counts only where a step led (`observe`). Starts and points drawn back towards
        # the image pass through the network here anyway, and one that fools is a find, and nearer
        # than where the step led
        self._remember(state, fooled)
        b = state.buffers
        return in_budget(b.best_distance, state.epsilon) & ~state.epsilon.isinf(), b.best

    def refuted(self, state: State[FabBuffers]) -> None:
        """Forget the nearest points, so that others take their places."""
        b = state.buffers
        b.best = state.images.clone()
        b.best_distance = torch.full_like(b.best_distance, torch.inf)
        b.last_distance = b.best_distance.clone()

    def out_of_budget_finds(self, state: State[FabBuffers]) -> tuple[Tensor, Tensor]:
        """The nearest point that was found, whatever its distance."""
        return state.buffers.best_distance < torch.inf, state.buffers.best
