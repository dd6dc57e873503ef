"""APGD: projected gradient ascent that sets its own step size (Croce and Hein 2020, algorithm 1).

In L1 the sparse steps of Croce and Hein 2021 (Mind the box, algorithm 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import torch
from torch import Tensor

from robustkit.attacks.draws import in_ball, on_sphere, starts
from robustkit.attacks.library import foolbox
from robustkit.attacks.objectives import objective, towards
from robustkit.attacks.projections import onto_l1_ball
from robustkit.attacks.search import Search
from robustkit.attacks.state import State, overwrite
from robustkit.attacks.targets import nearest
from robustkit.geometry import column, drawn_in, project, projection, steepest_step
from robustkit.protocol import Loss, Norm, TargetOrder

MOMENTUM = 0.75
"""weight of the new step, the paper's α; the last movement has the rest"""
SPARSITY = 1.5
"""L1: a step changes this factor fewer pixels than the best point so far"""


@dataclass(slots=True)
class Sparsity:
    """How many pixels a step in L1 changes."""

    share: Tensor
    """share of the pixels that the next steps change, N"""
    support: Tensor
    """number of pixels that the best point had changed at the last checkpoint, N"""


@dataclass(slots=True)
class ApgdBuffers:
    """What APGD remembers; tensors are N unless said otherwise."""

    previous: Tensor
    """iterates before the present ones, N × C × H × W"""
    best: Tensor
    """iterates of the highest loss, N × C × H × W"""
    best_gradient: Tensor
    """gradients there, N × C × H × W"""
    best_value: Tensor
    last_value: Tensor
    """+inf at a start, of the search or in a smaller ball"""
    step_size: Tensor
    rises: Tensor
    """steps since the last checkpoint that raised the loss"""
    checked_value: Tensor
    """`best_value` at the last checkpoint"""
    halved: Tensor
    """whether the step size was set anew at the last checkpoint; at the first step, too"""
    target: Tensor | None
    """the class that is headed for"""
    sparsity: Sparsity | None
    """in L1 alone"""


class ApgdSearch(Search[ApgdBuffers], foolbox.attacks.base.FixedEpsilonAttack):  # type: ignore[misc]
    """Step size 2ε (L1: ε), halved where the loss stopped rising, then on from the best point.

    With `targets` each attempt heads for one of the top wrong classes, by `target_order`; any wrong
    class counts as success all the same. With `eot` above 1, gradients and logits are means over so
    many passes of a model that draws at random (Athalye et al. 2018). With `larger_first` the first
    30 % of the steps search the ball of 3ε, the next 30 % that of 2ε (as in AutoAttack's L1).
    """

    transfers = False
    goes_on = True

    def __init__(
        self,
        norm: Norm,
        *,
        steps: int = 100,
        restarts: int = 1,
        loss: Loss = "cross-entropy",
        targets: int = 0,
        eot: int = 1,
        rho: float = 0.75,
        larger_first: bool = False,
        target_order: TargetOrder = "confidence",
    ) -> None:
        self.norm = norm
        self.steps = steps
        self.restarts = restarts
        self.loss = loss
        self.targets = targets
        self.eot = eot
        self.rho = rho
        self.larger_first = larger_first
        self.target_order = target_order
        self.stays_inside = not larger_first

    # --- what the engine asks -----------------------------------------------------------------

    def wrong_classes(self, model: Any, images: Tensor, classes: Tensor, clean: Tensor) -> Tensor:
        """By confidence, or by the distance of their boundaries."""
        if self.target_order == "distance":
            return nearest(model, images, classes, clean, self.norm)
        return super().wrong_classes(model, images, classes, clean)

    def start(
        self, state: State[None], sources: Sequence[torch.Generator | None]
    ) -> State[ApgdBuffers]:
        """Points that are given, or random: uniform in the cube, on the L2 sphere, L1 Gaussian."""
        images = state.images
        radius = state.epsilon * self._multiples[0]
        draw = in_ball if self.norm == "linf" else on_sphere
        noise = starts(draw, self.norm, images, sources)
        if self.norm == "l1":
            # a point on the L1 sphere would be all but the image: Gaussian noise, then projected
            noise = noise * (images[0].numel() / column(radius, images))
        x = self._project(state.x + column(radius, images) * noise, images, radius)
        nothing = torch.full_like(state.epsilon, -torch.inf)
        # a start's loss is no rise: no step led there
        unbeaten = torch.full_like(state.epsilon, torch.inf)
        buffers = ApgdBuffers(
            previous=x.clone(),
            best=x.clone(),
            best_gradient=torch.zeros_like(images),
            best_value=nothing,
            last_value=unbeaten,
            step_size=self._first_size * radius,
            rises=torch.zeros_like(state.step),
            checked_value=nothing.clone(),
            # condition 2 asks what came of the last checkpoint: not at the first one
            halved=torch.ones_like(state.step, dtype=torch.bool),
            target=state.target.clone() if self.targets else None,
            sparsity=self._first_sparsity(state),
        )
        return state.started(x, buffers)

    def _first_sparsity(self, state: State[None]) -> Sparsity | None:
        if self.norm != "l1":
            return None
        pixels = torch.full_like(state.epsilon, state.images[0].numel())
        return Sparsity(torch.full_like(state.epsilon, 0.2), pixels)

    def value(self, logits: Tensor, state: State[ApgdBuffers], targeted: bool) -> Tensor:
        """The loss, N."""
        if (target := state.buffers.target) is None:
            return objective(logits, state.classes, state.clean, self.loss, targeted)
        return towards(logits, state.classes, target, state.clean, self.loss)

    def advance(self, state: State[ApgdBuffers], value: Tensor, gradient: Tensor) -> None:
        """One step; at a checkpoint the step size is reconsidered first."""
        b = state.buffers
        better = value > b.best_value
        b.best_value = torch.where(better, value, b.best_value)
        overwrite(b.best, better, state.x)
        overwrite(b.best_gradient, better, gradient)
        b.rises = b.rises + (value > b.last_value)
        b.last_value = value
        # a smaller step from where a larger one went astray would stay astray: on from the best
        # point, by the gradient found there, which saves a pass
        x, window = state.x, self._windows.to(state.step.device)[state.step]
        if bool((window > 0).any()):
            back = self._reconsider(state, window)
            x = torch.where(column(back, x), b.best, x)
            gradient = torch.where(column(back, gradient), b.best_gradient, gradient)
        goal = self._moved(state, x, gradient)
        if self.larger_first and bool((shrinks := self._shrinks(state.step)).any()):
            inside = self._enter_smaller_ball(state, shrinks)
            x = torch.where(column(shrinks, x), inside, x)
            goal = torch.where(column(shrinks, x), inside, goal)
        b.previous, state.x = x, goal

    # --- the step size ------------------------------------------------------------------------

    @cached_property
    def _windows(self) -> Tensor:
        """For each step the length of the window that ends at it; 0 where it is no checkpoint.

        The paper's w_j = ⌈p_j · steps⌉ with p_1 = 0.22 and p_{j+1} = p_j + max(p_j − p_{j−1} −
        0.03, 0.06): long windows while the step is large, to explore the ball, shorter and shorter
        ones as it falls, to home in.
        """
        windows = torch.zeros(self.steps + 1, dtype=torch.int64)
        for begin, length in self._phases:
            # cut to whole steps, as the authors' code has it: the shares of 100 steps are whole
            window = max(int((0.04 if self.norm == "l1" else 0.22) * length), 1)
            at = begin + window
            while at < begin + length:
                windows[at] = window
                if self.norm != "l1":  # in L1 all windows are as long
                    window = max(window - max(int(0.03 * length), 1), max(int(0.06 * length), 1))
                at += window
        return windows

    @property
    def _phases(self) -> list[tuple[int, int]]:
        """First step and length of the searches of balls of falling radius.

        A smaller ball is entered by projection, which takes the step before.
        """
        if not self.larger_first:
            return [(0, self.steps)]
        part = ceil(0.3 * self.steps)
        return [(0, part), (part + 1, part - 1), (2 * part + 1, self.steps - 2 * part - 1)]

    @cached_property
    def _shrinks_at(self) -> Tensor:
        """Steps at which a smaller ball is entered."""
        return torch.tensor([begin - 1 for begin, _ in self._phases[1:]])

    def _shrinks(self, step: Tensor) -> Tensor:
        return torch.isin(step, self._shrinks_at.to(step.device))

    @property
    def _multiples(self) -> tuple[int, ...]:
        """Radii of the balls that are searched in turn, in units of ε.

        In L1 the ball within the box has few ways out of a poor start: a larger one is searched
        first, and what it finds is projected (Croce and Hein 2021, multi-ε APGD).
        """
        return (3, 2, 1) if self.larger_first else (1,)

    @property
    def _first_size(self) -> float:
        # 2ε crosses the ball; in L1, where a step is sparse and fills the ball at once, ε
        return 1.0 if self.norm == "l1" else 2.0

    def _radius(self, state: State[ApgdBuffers]) -> Tensor:
        """The radius of the ball that each row searches at its step, N."""
        return state.epsilon * self._multiple_at.to(state.step.device)[state.step]

    @cached_property
    def _multiple_at(self) -> Tensor:
        multiples = torch.ones(self.steps + 1)
        for begin, multiple in zip([0, *self._shrinks_at.tolist()], self._multiples, strict=True):
            multiples[begin:] = multiple
        return multiples

    def _reconsider(self, state: State[ApgdBuffers], window: Tensor) -> Tensor:
        """At checkpoints new step sizes; the rows that go back to their best point.

        The step size is halved where either of the paper's conditions holds:

        1. Fewer than a share ρ of the window's steps raised the loss: the step is too long to
           climb, and overshoots. Like the authors' code we count a tie as too few.
        2. The last checkpoint kept the step size, and the best loss has not risen since: the
           iterates go round in circles. Where it was halved just then, one more window shall show
           what the new size is worth before it is halved again.
        """
        b, due = state.buffers, window > 0
        if b.sparsity is not None:
            return self._reconsider_sparsity(state, b.sparsity, due)
        too_few = b.rises <= self.rho * window
        circling = ~b.halved & (b.best_value <= b.checked_value)
        halved = due & (too_few | circling)
        b.step_size = torch.where(halved, b.step_size / 2, b.step_size)
        b.halved = torch.where(due, halved, b.halved)
        b.checked_value = torch.where(due, b.best_value, b.checked_value)
        b.rises = torch.where(due, 0, b.rises)
        return halved

    def _reconsider_sparsity(
        self, state: State[ApgdBuffers], sparsity: Sparsity, due: Tensor
    ) -> Tensor:
        """In L1 (Croce and Hein 2021, algorithm 1) the support of the best point decides.

        As long as it shrinks, by 5 % at least, sparser steps are still to be found: the step size
        is set back to the radius, and the search goes on from the best point. Once it is stable,
        the steps get shorter, down to a tenth of the radius.
        """
        b = state.buffers
        support = self._support(b.best, state.images)
        sparser = due & (support / sparsity.support < 0.95)
        radius = self._radius(state)
        shorter = torch.where(sparser, radius, b.step_size / SPARSITY)
        shorter = torch.minimum(torch.maximum(shorter, radius / 10), radius)
        b.step_size = torch.where(due, shorter, b.step_size)
        self._set_sparsity(sparsity, support, due, state.images[0].numel())
        return sparser

    @staticmethod
    def _support(x: Tensor, images: Tensor) -> Tensor:
        """In how many pixels each point differs from its image, N."""
        return (x != images).flatten(1).sum(1).to(images)

    @staticmethod
    def _set_sparsity(sparsity: Sparsity, support: Tensor, rows: Tensor, pixels: int) -> None:
        share = support / pixels / SPARSITY
        sparsity.share = torch.where(rows, share, sparsity.share)
        sparsity.support = torch.where(rows, support, sparsity.support)

    def _enter_smaller_ball(self, state: State[ApgdBuffers], now: Tensor) -> Tensor:
        """Begin afresh, in rows whose ball shrinks, from the best point of the larger ball."""
        b, radius = state.buffers, self._radius(state)
        inside = self._project(b.best, state.images, radius)
        b.best = torch.where(column(now, inside), inside, b.best)
        # losses of the larger ball are out of reach now: none may stand as the best
        b.best_value = b.best_value.masked_fill(now, -torch.inf)
        b.checked_value = b.checked_value.masked_fill(now, -torch.inf)
        b.rises = b.rises.masked_fill(now, 0)
        b.last_value = b.last_value.masked_fill(now, torch.inf)  # a start, as the first one
        b.halved = b.halved | now
        b.step_size = torch.where(now, self._first_size * radius, b.step_size)
        if b.sparsity is not None:
            support = self._support(inside, state.images)
            self._set_sparsity(b.sparsity, support, now, state.images[0].numel())
        return inside

    # --- the step -----------------------------------------------------------------------------

    def _moved(self, state: State[ApgdBuffers], x: Tensor, gradient: Tensor) -> Tensor:
        """Where each row goes from x.

        The step and its projection z, then x + α (z − x) + (1 − α) (x − previous), projected again.
        A quarter of the last movement keeps the direction where the gradient's sign flips from
        step to step across a ridge; in L1 the authors do without it.
        """
        b, radius = state.buffers, self._radius(state)
        if b.sparsity is not None:
            step = column(b.step_size, x) * self._sparse(gradient, b.sparsity.share)
            return self._project(x + step, state.images, radius)
        nearest_inside = projection(state.images, radius, self.norm)
        z = nearest_inside(steepest_step(x, gradient, b.step_size, self.norm))
        weight = column(self._weights.to(x)[state.step], x)
        inertia = (x - b.previous).mul_(1 - weight)
        return nearest_inside(z.sub_(x).mul_(weight).add_(x).add_(inertia))

    @cached_property
    def _weights(self) -> Tensor:
        """Of the new movement at each step: all at the first in a ball, where there is no last."""
        weights = torch.full((self.steps + 1,), MOMENTUM)
        weights[[begin for begin, _ in self._phases]] = 1.0
        return weights

    def _project(self, x: Tensor, images: Tensor, radius: Tensor) -> Tensor:
        if self.norm == "l1":
            # ball and box at once: the box cuts off most of an L1 ball, and going back to one after
            # the other would leave the iterate well inside it
            x = onto_l1_ball(x.flatten(1), images.flatten(1), radius).view_as(x)
            return drawn_in(x, images, radius, "l1")
        return project(x, images, radius, self.norm)

    @staticmethod
    def _sparse(gradient: Tensor, share: Tensor) -> Tensor:
        """Signs of the steepest share of the pixels, over their number: a step of L1 norm 1.

        The steepest ascent in L1 moves a single pixel, which the box soon stops.
        """
        slope = gradient.flatten(1)
        pixels = slope.shape[1]
        rank = ((1 - share) * pixels).clamp(0, pixels - 1).long()
        least = slope.abs().sort(dim=1).values.gather(1, rank[:, None])
        sign = torch.where(slope.abs() >= least, slope.sign(), 0)
        return (sign / sign.abs().sum(1, keepdim=True).clamp(min=1)).view_as(gradient)
