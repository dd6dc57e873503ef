"""The audit's own ascent: how a remedy sees the model, and how it climbs.

It differs from the engine's attacks on purpose. It never stops at a gradient that is NaN or absent,
it averages where that is asked for, and it returns the best iterate.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attack.draws import generator, in_ball
from robustkit.attack.objectives import objective
from robustkit.audit.case import Case
from robustkit.audit.straight_through import blocked, straight_through
from robustkit.geometry import column, project, steepest_step
from robustkit.protocol import Apgd, Fgsm, Loss, Mifgsm, Pgd


@dataclass(frozen=True, slots=True)
class View:
    """How gradients are asked for."""

    draws: int = 1
    """gradients that are averaged into one: expectation over transformation (Athalye et al. 2018,
    section 4.2)"""
    sigma: float = 0.0
    """noise on the pixels of every draw but the first (Pintor et al. 2022, averaged PGD)"""
    straight_through: bool = False
    """BPDA with the identity (Athalye et al. 2018, section 4.1)"""
    logarithm: bool = False
    """outputs are probabilities; the attack sees their logarithms"""


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest other logit minus the label's own, N; above 0 the image is misclassified."""
    return objective(logits, labels, logits, "margin")


def slope(
    case: Case, view: View, x: Tensor, rows: Tensor, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """Margins N, loss N and its gradient N × C × H × W at x; what is not finite counts as 0.

    x stands for the images of `rows`. Margins are means over the draws at x itself. Random draws
    come from the global generators; call it under `case.repeatable`.
    """
    there = rows.to(x.device)
    labels, clean = case.labels[there], clean_logits(case)[there]
    margins, values = torch.zeros(len(x), device=x.device), torch.zeros(len(x), device=x.device)
    gradient, here = torch.zeros_like(x), 0
    for draw in range(view.draws):
        noisy = view.sigma > 0 and draw > 0
        at = x.detach() + view.sigma * torch.randn_like(x) if noisy else x.detach()
        logits, value, g = _one(case, view, at, labels, clean, loss)
        gradient += torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0)
        if not noisy:
            here += 1
            margins += margin(logits, labels)
            values += value
    return margins / here, values / here, gradient


def _one(
    case: Case, view: View, x: Tensor, labels: Tensor, clean: Tensor, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, loss and gradient of one pass; zeros where there is no gradient."""
    x = x.clone().requires_grad_()
    opened: AbstractContextManager[None] = nullcontext()
    if view.straight_through:
        opened = straight_through(*_openings(case))
    with torch.enable_grad():
        with opened:
            # a copy: a model that writes to its input must not write to a leaf
            logits = case.model(x.clone())
        if view.logarithm:
            value = objective(_logarithm(logits), labels, _logarithm(clean), loss)
        else:
            value = objective(logits, labels, clean, loss)
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    if gradient is None:
        gradient = torch.zeros_like(x)
    return logits.detach(), value.detach(), gradient


def _logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def clean_logits(case: Case) -> Tensor:
    """One pass over the clean images, N × K."""

    def compute() -> Tensor:
        with case.repeatable("clean"):
            return case.logits(case.images)

    return case.once("clean", compute)


def _openings(case: Case) -> tuple[list[torch.nn.Module], bool]:
    """Submodules to bypass going backward; and whether comparisons must be, to see any gradient."""

    def compute() -> tuple[list[torch.nn.Module], bool]:
        few, labels = case.images[:8], case.labels[:8]
        with case.repeatable("openings"):
            modules = blocked(case.model, few)
            x = few.clone().requires_grad_()
            with torch.enable_grad(), straight_through(modules):
                value = margin(case.model(x.clone()), labels).sum()
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(value, x, allow_unused=True)
                if gradient is not None and bool((gradient.nan_to_num() != 0).any()):
                    return modules, False
        return modules, True

    return case.once("openings", compute)


def climb(
    case: Case,
    view: View,
    rows: Tensor,
    steps: int,
    restarts: int,
    losses: Sequence[Loss] = ("margin", "rescaled-cross-entropy"),
    size: int | None = None,
) -> Tensor:
    """Whether projected ascent at the judged budget fools the images of `rows`, N on the CPU.

    The first start is the image, the others are uniform in the ball; losses take turns. Steps
    fall from ε/4 to ε/100. The best iterate of each start is judged by `case.fooled_at`.
    """
    fooled = torch.zeros(len(rows), dtype=torch.bool)
    for restart in range(restarts):
        for part in case.batches((~fooled).nonzero()[:, 0], size):
            with case.repeatable("climb", restart):
                best = _climbed(
                    case, view, rows[part], steps, restart, losses[restart % len(losses)]
                )
            fooled[part] = case.fooled_at(best, rows[part], size)
    return fooled


def _climbed(case: Case, view: View, rows: Tensor, steps: int, restart: int, loss: Loss) -> Tensor:
    """The iterates of the largest margin."""
    there = rows.to(case.images.device)
    images = case.images[there]
    epsilon = torch.full((len(rows),), float(case.epsilon), device=images.device)
    x = images.clone() if restart == 0 else started(case, rows, restart)
    best, largest = x.clone(), torch.full_like(epsilon, float("-inf"))
    going = torch.arange(len(rows), device=images.device)
    for step in range(steps + 1):
        margins, _, gradient = slope(case, view, x, there[going], loss)
        better = margins > largest[going]
        best[going[better]], largest[going[better]] = x[better], margins[better]
        if not case.is_random:
            rest = margins <= 0
            going, x, gradient = going[rest], x[rest], gradient[rest]
        if not len(going):
            break
        size = (0.25 * (1 - step / steps) + 0.01) * epsilon[going]
        x = steepest_step(x, gradient, size, case.norm)
        x = project(x, images[going], epsilon[going], case.norm)
    return best


def started(case: Case, rows: Tensor, restart: int) -> Tensor:
    """Uniform draws from the balls around the images of `rows`, keyed by image and restart."""
    images = case.images[rows.to(case.images.device)]
    epsilon = torch.full((len(rows),), float(case.epsilon), device=images.device)
    noise = torch.stack(
        [
            in_ball(
                case.norm, images.shape[1:], generator(case.seed, case.ids[i], "audit", restart)
            )
            for i in rows.tolist()
        ]
    )
    return project(images + column(epsilon, images) * noise.to(images), images, epsilon, case.norm)


@dataclass(frozen=True, slots=True)
class Path:
    """Every iterate's fate in one start of the plain attack, never stopped early."""

    rows: Tensor
    """images that are right without an attack"""
    wrong: Tensor
    """whether iterate 0 to T is misclassified, N × (T + 1), on the CPU"""
    loss: Tensor
    """what the attack ascends, float64 N × (T + 1)"""
    fooled: Tensor
    """whether the best iterate, verified, is a success, N"""


def path(case: Case) -> Path:
    """The plain attack's own steps, from the image itself, with every iterate looked at."""
    return case.once("path", lambda: _path(case))


def _path(case: Case) -> Path:
    steps, relative, ascended = _plain_steps(case)
    rows = case.clean_right.nonzero()[:, 0]
    wrong, loss, fooled = [], [], []
    for part in case.batches(rows):
        images = case.images[part.to(case.images.device)]
        epsilon = torch.full((len(part),), float(case.epsilon), device=images.device)
        x, best = images.clone(), images.clone()
        largest = torch.full_like(epsilon, float("-inf"))
        margins_at, values_at = [], []
        with case.repeatable("path"):
            for _ in range(steps + 1):
                margins, values, gradient = slope(case, View(), x, part, ascended)
                margins_at.append(margins.cpu())
                values_at.append(values.double().cpu())
                better = margins > largest
                best[better], largest[better] = x[better], margins[better]
                x = steepest_step(x, gradient, relative * epsilon, case.norm)
                x = project(x, images, epsilon, case.norm)
        wrong.append(torch.stack(margins_at, 1) > 0)
        loss.append(torch.stack(values_at, 1))
        fooled.append(case.fooled_at(best, part))
    none = torch.zeros(0, steps + 1)
    return Path(
        rows,
        torch.cat(wrong) if wrong else none.bool(),
        torch.cat(loss) if loss else none.double(),
        torch.cat(fooled) if fooled else torch.zeros(0, dtype=torch.bool),
    )


def _plain_steps(case: Case) -> tuple[int, float, Loss]:
    """Steps, step size as a share of ε, and loss of the plain evaluation's longest ascent.

    APGD sets its own step size; an ascent of as many steps that crosses the ball stands for it.
    """
    ascents = [a for a in case.protocol.attacks if isinstance(a, Pgd | Mifgsm | Apgd)]
    if ascents:
        longest = max(ascents, key=lambda a: a.steps)
        relative = 2.5 / longest.steps if isinstance(longest, Apgd) else longest.relative_step
        return longest.steps, float(relative), longest.loss
    if any(isinstance(a, Fgsm) for a in case.protocol.attacks):
        return 1, 1.0, "cross-entropy"
    return 40, 1 / 16, "cross-entropy"
