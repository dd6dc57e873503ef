"""APGD: projected gradient ascent that sets its own step size (Croce and Hein 2020, algorithm 1).

In L1 the sparse steps of Croce and Hein 2021 (Mind the box, algorithm 1).
"""

from collections.abc import Sequence
from functools import cached_property
from math import ceil

import torch
from torch import Tensor

from robustkit.attack.draws import in_ball, on_sphere
from robustkit.attack.library import foolbox
from robustkit.attack.objectives import objective, towards
from robustkit.attack.projections import onto_l1_ball
from robustkit.attack.search import Search, likeliest
from robustkit.attack.state import State
from robustkit.geometry import column, distance, in_budget, project, steepest_step
from robustkit.protocol import Loss, Norm

MOMENTUM = 0.75
"""weight of the new step; the last movement has the rest"""
SPARSITY = 1.5
"""L1: a step changes this factor fewer pixels than the best point so far"""


class APGD(Search, foolbox.attacks.base.FixedEpsilonAttack):  # type: ignore[misc]
    """Step size 2ε (L1: ε), halved where the loss stopped rising, then on from the best point.

    With `targets` each chain heads for one of the likeliest wrong classes; any wrong class counts
    as success all the same. With `eot` above 1, gradients and logits are means over so many passes
    of a model that draws at random (Athalye et al. 2018). With `larger_first` the first 30 % of the
    steps search the ball of 3ε, the next 30 % that of 2ε (the L1 setting of AutoAttack).
    """

    transfers = False

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
    ) -> None:
        self.norm = norm
        self.steps = steps
        self.restarts = restarts
        self.loss = loss
        self.targets = targets
        self.eot = eot
        self.rho = rho
        self.larger_first = larger_first

    # --- what the engine asks -----------------------------------------------------------------

    def start(self, state: State, sources: Sequence[torch.Generator]) -> None:
        """Random points: uniform in the cube, on the L2 sphere, Gaussian and projected in L1."""
        images, shape = state.images, state.images.shape[1:]
        radius = state.epsilon * self._radius[0]
        draw = in_ball if self.norm == "linf" else on_sphere
        noise = torch.stack([draw(self.norm, shape, source) for source in sources]).to(images)
        if self.norm == "l1":
            # a point on the L1 sphere would be all but the image: Gaussian noise, then projected
            noise = noise * (images[0].numel() / column(radius, images))
        state.x = self._project(images + column(radius, images) * noise, state, radius)
        nothing = torch.full_like(state.epsilon, -torch.inf)
        state.memory = {
            "previous": state.x.clone(),
            "best": state.x.clone(),
            "slope": torch.zeros_like(images),  # gradient at the best point
            "best_value": nothing,
            "last_value": nothing.clone(),
            "size": self._first_size * radius,
            "rises": torch.zeros_like(state.step),
            "checked_value": nothing.clone(),
            "reduced": torch.ones_like(state.step, dtype=torch.bool),
        }
        if self.targets:
            state.memory["rival"] = likeliest(state, state.chain // self.restarts)
        if self.norm == "l1":
            state.memory["share"] = torch.full_like(state.epsilon, 0.2)
            state.memory["support"] = torch.full_like(state.epsilon, images[0].numel())

    def value(self, logits: Tensor, state: State, targeted: bool) -> Tensor:
        """The loss, N."""
        if not self.targets:
            return objective(logits, state.classes, state.clean, self.loss, targeted)
        rival = state.memory["rival"]
        return towards(logits, state.classes, rival, state.clean, self.loss)

    def claims(self, state: State, fooled: Tensor) -> tuple[Tensor, Tensor]:
        """Iterates that fool, inside the ball: with `larger_first` the first ones lie outside."""
        if not self.larger_first:
            return fooled, state.x
        return fooled & in_budget(
            distance(state.images, state.x, self.norm), state.epsilon
        ), state.x

    def advance(self, state: State, value: Tensor, gradient: Tensor) -> None:
        """One step; at a checkpoint the step size is reconsidered first."""
        m = state.memory
        better = value > m["best_value"]
        m["best_value"] = torch.where(better, value, m["best_value"])
        there = column(better, state.x)
        m["best"] = torch.where(there, state.x, m["best"])
        m["slope"] = torch.where(there, gradient, m["slope"])
        m["rises"] += (value > m["last_value"]) & (state.step > 0)
        m["last_value"] = value
        back = self._reconsider(state, self._windows.to(state.step.device)[state.step])
        x = torch.where(column(back, state.x), m["best"], state.x)
        gradient = torch.where(column(back, gradient), m["slope"], gradient)
        goal = self._moved(state, x, gradient)
        shrinks = torch.isin(state.step, self._begins.to(state.step.device))
        if bool(shrinks.any()):
            inside = self._restart(state, shrinks)
            x = torch.where(column(shrinks, x), inside, x)
            goal = torch.where(column(shrinks, x), inside, goal)
        m["previous"], state.x = x, goal

    # --- the step size ------------------------------------------------------------------------

    @cached_property
    def _windows(self) -> Tensor:
        """For each step the length of the window that ends at it; 0 where it is no checkpoint."""
        windows = torch.zeros(self.steps + 1, dtype=torch.int64)
        for begin, length in self._phases:
            window = max(int((0.04 if self.norm == "l1" else 0.22) * length), 1)
            at = begin + window
            while at < begin + length:
                windows[at] = window
                if self.norm != "l1":
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
    def _begins(self) -> Tensor:
        """Steps at which a smaller ball is entered."""
        return torch.tensor([begin - 1 for begin, _ in self._phases[1:]])

    @property
    def _radius(self) -> tuple[int, ...]:
        return (3, 2, 1) if self.larger_first else (1,)

    @property
    def _first_size(self) -> float:
        return 1.0 if self.norm == "l1" else 2.0

    def _grown(self, step: Tensor) -> Tensor:
        """The radius that is searched at each step, in units of ε."""
        return self._radii.to(step.device)[step]

    @cached_property
    def _radii(self) -> Tensor:
        radii = torch.ones(self.steps + 1)
        for begin, radius in zip([0, *self._begins.tolist()], self._radius, strict=True):
            radii[begin:] = radius
        return radii

    def _reconsider(self, state: State, window: Tensor) -> Tensor:
        """At checkpoints new step sizes; the rows that go back to their best point."""
        m, due = state.memory, window > 0
        if self.norm == "l1":
            return self._reconsider_l1(state, due)
        idle = ~m["reduced"] & (m["best_value"] <= m["checked_value"])
        stuck = due & ((m["rises"] <= self.rho * window) | idle)
        m["size"] = torch.where(stuck, m["size"] / 2, m["size"])
        m["reduced"] = torch.where(due, stuck, m["reduced"])
        m["checked_value"] = torch.where(due, m["best_value"], m["checked_value"])
        m["rises"] = torch.where(due, 0, m["rises"])
        return stuck

    def _reconsider_l1(self, state: State, due: Tensor) -> Tensor:
        m = state.memory
        pixels = state.images[0].numel()
        support = (m["best"] != state.images).flatten(1).sum(1).to(state.epsilon)
        sparser = due & (support / m["support"] < 0.95)
        radius = state.epsilon * self._grown(state.step)
        shorter = torch.where(sparser, radius, m["size"] / SPARSITY)
        shorter = torch.minimum(torch.maximum(shorter, radius / 10), radius)
        m["size"] = torch.where(due, shorter, m["size"])
        m["share"] = torch.where(due, support / pixels / SPARSITY, m["share"])
        m["support"] = torch.where(due, support, m["support"])
        return sparser

    def _restart(self, state: State, now: Tensor) -> Tensor:
        """Begin afresh, in rows whose ball shrinks, from the best point of the larger ball."""
        m, radius = state.memory, state.epsilon * self._grown(state.step)
        inside = self._project(m["best"], state, radius)
        m["best"] = torch.where(column(now, inside), inside, m["best"])
        for name, fresh in (("best_value", -torch.inf), ("checked_value", -torch.inf)):
            m[name] = m[name].masked_fill(now, fresh)
        m["rises"] = m["rises"].masked_fill(now, 0)
        m["reduced"] = m["reduced"] | now
        m["size"] = torch.where(now, self._first_size * radius, m["size"])
        if self.norm == "l1":
            support = (inside != state.images).flatten(1).sum(1).to(state.epsilon)
            m["share"] = torch.where(now, support / state.images[0].numel() / SPARSITY, m["share"])
            m["support"] = torch.where(now, support, m["support"])
        return inside

    # --- the step -----------------------------------------------------------------------------

    def _moved(self, state: State, x: Tensor, gradient: Tensor) -> Tensor:
        """Where each row goes from x."""
        size, radius = state.memory["size"], state.epsilon * self._grown(state.step)
        if self.norm == "l1":
            step = column(size, x) * self._sparse(gradient, state.memory["share"])
            return self._project(x + step, state, radius)
        goal = self._project(steepest_step(x, gradient, size, self.norm), state, radius)
        weight = column(torch.where(self._firsts(state.step), 1.0, MOMENTUM), x)
        inertia = (1 - weight) * (x - state.memory["previous"])
        return self._project(x + weight * (goal - x) + inertia, state, radius)

    def _firsts(self, step: Tensor) -> Tensor:
        """Which rows take the first step in a ball, for which there is no last movement."""
        return torch.isin(step, torch.tensor([b for b, _ in self._phases]).to(step.device))

    def _project(self, x: Tensor, state: State, radius: Tensor) -> Tensor:
        if self.norm == "l1":
            flat = onto_l1_ball(x.flatten(1), state.images.flatten(1), radius)
            return flat.view_as(x)
        return project(x, state.images, radius, self.norm)

    @staticmethod
    def _sparse(gradient: Tensor, share: Tensor) -> Tensor:
        """Signs of the steepest share of the pixels, over their number."""
        slope = gradient.flatten(1)
        pixels = slope.shape[1]
        rank = ((1 - share) * pixels).clamp(0, pixels - 1).long()
        least = slope.abs().sort(dim=1).values.gather(1, rank[:, None])
        sign = torch.where(slope.abs() >= least, slope.sign(), 0)
        return (sign / sign.abs().sum(1, keepdim=True).clamp(min=1)).view_as(gradient)
