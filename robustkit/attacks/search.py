"""What the engine asks of an attack, and how foolbox drives the same attack."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor

from robustkit.attacks.draws import generator, seed_of
from robustkit.attacks.library import broken, finite, foolbox, goal, unit_box
from robustkit.attacks.state import B, State
from robustkit.attacks.targets import likeliest
from robustkit.errors import EvaluationFailed, InputError
from robustkit.geometry import COUNTED, distance, in_budget
from robustkit.network import answer, gradient
from robustkit.protocol import Norm


class Attempt(NamedTuple):
    """One of an attack's independent searches of an image at a budget."""

    number: int
    """place among the attack's attempts; its random draws are keyed by it"""
    target_index: int
    """place of the class that is headed for among the top wrong classes"""
    restart_index: int


class Search(Generic[B]):
    """An attack that moves many images at once, each in its own state and at its own budget.

    B is what it remembers of the images: a dataclass of tensors with a row an image, or None.
    """

    norm: Norm
    steps: int
    restarts = 1
    targets = 0
    """how many of the top wrong classes are headed for in turn; 0: none in particular"""
    random_start = True
    """whether `start` draws from generators"""
    goes_on = False
    """whether it may begin at a point that is known to fool, in place of a random one"""
    gradient = True
    """whether a step needs gradients, or the value alone"""
    eot = 1
    """passes whose logits and gradients are averaged, for models that draw at random"""
    needs_outcome = False
    """whether `observe` is to be called with the outcome at each new iterate"""
    can_be_targeted = True
    """whether it can head for given classes"""
    stays_inside = True
    """whether every iterate lies within the budget"""
    compares = False
    """whether it asks how close gradient attacks came before"""
    transfers = True
    """whether its last iterate means something on another network"""

    @property
    def distance(self) -> Any:
        """The norm, in foolbox's words."""
        if self.norm in COUNTED:
            return foolbox.distances.l0
        return getattr(foolbox.distances, self.norm)

    def attempts(self, classes: int) -> list[Attempt]:
        """The independent searches of an image at a budget: every restart towards every target."""
        targets = max(1, min(self.targets, classes - 1))
        return [
            Attempt(number, *divmod(number, self.restarts))
            for number in range(targets * self.restarts)
        ]

    def gradients(self, classes: int) -> int:
        """How many a step asks for."""
        return int(self.gradient)

    def wrong_classes(self, model: Any, images: Tensor, classes: Tensor, clean: Tensor) -> Tensor:
        """Those that are headed for with `targets`, first ones first, N × C."""
        return likeliest(clean, classes)

    def start(self, state: State[None], sources: Sequence[torch.Generator | None]) -> State[B]:
        """The rows at their first iterates; one generator a row where `random_start`.

        A row without one begins at its `x`, brought into the ball, any other's `x` is its image.
        """
        raise NotImplementedError

    def value(self, logits: Tensor, state: State[B], targeted: bool) -> Tensor:
        """What is raised, N; or N × M, whose M gradients are all wanted."""
        raise NotImplementedError

    def advance(self, state: State[B], value: Tensor, gradient: Tensor) -> None:
        """Set the next iterates; `gradient` N × C × H × W, or N × M × C × H × W, may be used up."""
        raise NotImplementedError

    def claims(self, state: State[B], fooled: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows claim success, N, and with which images, given which iterates fool.

        One that fools outside of its ball, be it by rounding, would be refuted: its search goes on.
        """
        rows = fooled.nonzero()[:, 0]
        if not len(rows):
            return fooled, state.x
        reached = distance(state.images[rows], state.x[rows], self.norm)
        inside = torch.zeros_like(fooled)
        inside[rows] = in_budget(reached, state.epsilon[rows])
        return inside, state.x

    def gives_up(self, state: State[B], value: Tensor, targeted: bool) -> Tensor | None:
        """Rows that stop before the last step, N, given the values at their iterates."""
        return None

    def observe(self, state: State[B], fooled: Tensor) -> None:
        """Told whether each new iterate fools, where `needs_outcome`."""

    def refuted(self, state: State[B]) -> None:
        """Told rows whose claims do not hold up, before they go on: they claim those no more."""

    def out_of_budget_finds(self, state: State[B]) -> tuple[Tensor, Tensor]:
        """Rows whose search found something outside the budget, N, and what."""
        return torch.zeros_like(state.step, dtype=torch.bool), state.x

    def run(
        self,
        model: Any,
        inputs: Any,
        criterion: Any,
        *,
        epsilon: float = float("inf"),
        early_stop: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """The entry that foolbox calls: a whole batch at one budget, each attempt in turn.

        The best that was found is returned, or the last iterate. Draws are keyed by place in the
        batch. Budgets are in the units of the model's bounds.

        Raises:
            InputError: a criterion that the attack cannot head for.
        """
        foolbox.attacks.base.raise_if_kwargs(kwargs)
        classes, targeted = goal(criterion)
        if targeted and (self.targets or not self.can_be_targeted):
            advice = "targets=0" if self.can_be_targeted else "another attack"
            raise InputError(
                f"{type(self).__name__} chooses its own target classes, not those of a "
                f"targeted criterion; use {advice}"
            )
        model, images, width, back = unit_box(model, inputs)
        epsilon = epsilon / width
        with torch.no_grad():
            clean = answer(model, images)
        wrong = self.wrong_classes(model, images, classes, clean) if self.targets else clean
        done = (clean.argmax(1) == classes) == targeted
        result = images.clone()
        for attempt in self.attempts(clean.shape[1]):
            if bool(done.all()):
                break
            found, x = self._attempted(
                model, images, classes, clean, wrong, epsilon, attempt, done, targeted
            )
            result = torch.where(done.view(-1, *[1] * (images.ndim - 1)), result, x)
            done = done | found
        return back(result)

    def _attempted(
        self,
        model: Any,
        images: Tensor,
        classes: Tensor,
        clean: Tensor,
        wrong: Tensor,
        epsilon: float,
        attempt: Attempt,
        done: Tensor,
        targeted: bool,
    ) -> tuple[Tensor, Tensor]:
        """One attempt at every image: which were found, and the images."""
        names = [("run", i, attempt.number) for i in range(len(images))]
        every = torch.ones(len(images), dtype=torch.int64, device=images.device)
        unstarted = State(
            images.clone(),
            images,
            classes,
            clean,
            epsilon * every.to(images),
            wrong[:, attempt.target_index] if self.targets else 0 * every,
            attempt.restart_index * every,
            torch.tensor([seed_of(*name) for name in names]).to(every),
            0 * every,
            torch.full_like(every, -torch.inf, dtype=images.dtype),
            None,
        )
        state = self.start(unstarted, [generator(*name) for name in names])
        found, best = done.clone(), images.clone()
        for step in range(self.steps + 1):
            logits, value, gradient, _ = passes(model, state, self, targeted, step < self.steps)
            hit, x = self.claims(state, (logits.argmax(1) == classes) == targeted)
            new = hit & ~found
            best[new], found = x[new], found | hit
            if step == self.steps or bool(found.all()):
                break
            self.advance(state, value, gradient)
            state.step = state.step + 1
            if self.needs_outcome:
                with torch.no_grad():
                    logits = answer(model, state.x)
                self.observe(state, (logits.argmax(1) == classes) == targeted)
        left, x = self.out_of_budget_finds(state)
        best[~found & left] = x[~found & left]
        found_now = found & ~done
        best[~found & ~left] = state.x[~found & ~left]
        return found_now | (left & ~done), best


def passes(
    model: Any, state: State[B], attack: Search[B], targeted: bool, moving: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits N × K, values and gradients at the iterates, over the attack's number of passes.

    And which gradients held NaN or an infinity, N on the CPU.
    """
    # the last pass only tells whether the iterates fool: it needs neither loss nor gradient
    wants = moving and attack.gradient
    x = state.x.detach().requires_grad_(wants)
    total: list[Tensor] = []
    lost = torch.zeros(len(x), dtype=torch.bool)
    with torch.set_grad_enabled(wants):
        for _ in range(attack.eot):
            logits = answer(model, x)
            value = attack.value(logits, state, targeted) if moving else logits[:, 0]
            gradient = x
            if wants:
                gradient, none = _gradients(value, x)
                lost |= none
            part = (logits.detach(), value.detach(), gradient.detach())
            total = [a + b for a, b in zip(total, part, strict=True)] if total else list(part)
    logits, value, gradient = (t / attack.eot for t in total) if attack.eot > 1 else total
    return logits, value, gradient, lost


def _gradients(value: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of N values, N × C × H × W; of N × M values, N × M × C × H × W; and which are none, N."""
    if not value.requires_grad:
        raise EvaluationFailed(
            "the model's output has no gradient with respect to its pixels (detached, "
            "rounded or computed elsewhere), so no gradient attack can run; square needs "
            "none"
        )
    # the sum's gradient is each image's own: no image's value depends on another's pixels
    if value.ndim == 1:
        slopes = gradient(value.sum(), x)
    else:
        columns = value.unbind(1)
        slopes = x.new_empty((len(x), len(columns), *x.shape[1:]))  # large: they stand here alone
        for place, one in enumerate(columns):
            slopes[:, place] = gradient(one.sum(), x, retain_graph=one is not columns[-1])
    none = broken(slopes)
    return (finite(slopes) if bool(none.any()) else slopes), none
