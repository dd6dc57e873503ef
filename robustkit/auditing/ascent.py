"""The audit's own ascent: how an adaptive attack sees the model, and how it climbs.

It differs from the engine's attacks on purpose. It never stops at a gradient that is NaN or absent,
it averages where that is asked for, and it returns the best iterate.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks.draws import generator, in_ball
from robustkit.attacks.objectives import objective
from robustkit.auditing.context import AuditContext
from robustkit.auditing.straight_through import blocked, straight_through
from robustkit.geometry import column, project, steepest_step
from robustkit.network import gradient as gradient_of
from robustkit.protocol import APGD, FGSM, MIFGSM, PGD, Loss

LOSSES: tuple[Loss, ...] = ("margin", "rescaled-cross-entropy")
"""that an ascent climbs in turn, a start each"""


@dataclass(frozen=True, slots=True)
class GradientView:
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


def averaged_gradient(
    context: AuditContext, view: GradientView, x: Tensor, rows: Tensor, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """Margins N, loss N and its gradient N × C × H × W at x; what is not finite counts as 0.

    x stands for the images of `rows`. Margins are means over the draws at x itself. Random draws
    come from the global generators; call it under `context.repeatable`.
    """
    there = rows.to(x.device)
    labels, clean = context.labels[there], clean_logits(context)[there]
    margins, values = torch.zeros(len(x), device=x.device), torch.zeros(len(x), device=x.device)
    # not by the mean of the losses: one NaN among the draws would spoil all of them
    gradient, here = torch.zeros_like(x), 0
    for draw in range(view.draws):
        noisy = view.sigma > 0 and draw > 0
        at = x.detach() + view.sigma * torch.randn_like(x) if noisy else x.detach()
        logits, value, g = _one(context, view, at, labels, clean, loss)
        gradient += torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0)
        if not noisy:
            here += 1
            margins += margin(logits, labels)
            values += value
    return margins / here, values / here, gradient


def _one(
    context: AuditContext, view: GradientView, x: Tensor, labels: Tensor, clean: Tensor, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, loss and gradient of one pass; zeros where there is no gradient."""
    x = x.clone().requires_grad_()
    opened: AbstractContextManager[None] = nullcontext()
    if view.straight_through:
        opened = straight_through(*_openings(context))
    with torch.enable_grad():
        with opened:
            # a copy: a model that writes to its input must not write to a leaf
            logits = context.model(x.clone())
        if view.logarithm:
            value = objective(_logarithm(logits), labels, _logarithm(clean), loss)
        else:
            value = objective(logits, labels, clean, loss)
        gradient = None
        if value.requires_grad:
            gradient = gradient_of(value.sum(), x, allow_unused=True)
    if gradient is None:
        gradient = torch.zeros_like(x)
    return logits.detach(), value.detach(), gradient


def _logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def clean_logits(context: AuditContext) -> Tensor:
    """One pass over the clean images, N × K."""

    def compute() -> Tensor:
        with context.repeatable("clean"):
            return context.logits(context.images)

    return context.once("clean", compute)


def _openings(context: AuditContext) -> tuple[list[torch.nn.Module], bool]:
    """Submodules to bypass going backward; and whether comparisons must be, to see any gradient."""

    def compute() -> tuple[list[torch.nn.Module], bool]:
        few, labels = context.images[:8], context.labels[:8]
        with context.repeatable("openings"):
            modules = blocked(context.model, few)
            x = few.clone().requires_grad_()
            with torch.enable_grad(), straight_through(modules):
                value = margin(context.model(x.clone()), labels).sum()
            if value.requires_grad:
                gradient = gradient_of(value, x, allow_unused=True)
                if gradient is not None and bool((gradient.nan_to_num() != 0).any()):
                    return modules, False
        return modules, True

    return context.once("openings", compute)


def run_ascent(
    context: AuditContext,
    view: GradientView,
    rows: Tensor,
    steps: int,
    restarts: int,
    size: int | None = None,
) -> Tensor:
    """Whether projected ascent at the judged budget fools the images of `rows`, N on the CPU.

    The first start is the image, the others are uniform in the ball; `LOSSES` take turns. Steps
    fall from ε/4 to ε/100. The best iterate of each start is judged by `context.fooled_at`.
    """
    # the image itself first, where a sound gradient leads out; a plateau around it is left only by
    # a random start
    fooled = torch.zeros(len(rows), dtype=torch.bool)
    for restart in range(restarts):
        for part in context.batches((~fooled).nonzero()[:, 0], size):
            with context.repeatable("climb", restart):
                best = _best_iterates(
                    context, view, rows[part], steps, restart, LOSSES[restart % len(LOSSES)]
                )
            fooled[part] = context.fooled_at(best, rows[part], size)
    return fooled


def _best_iterates(
    context: AuditContext, view: GradientView, rows: Tensor, steps: int, restart: int, loss: Loss
) -> Tensor:
    """The iterates of the largest margin."""
    there = rows.to(context.images.device)
    images = context.images[there]
    epsilon = torch.full((len(rows),), float(context.epsilon), device=images.device)
    x = images.clone() if restart == 0 else random_starts(context, rows, restart)
    best, largest = x.clone(), torch.full_like(epsilon, float("-inf"))
    going = torch.arange(len(rows), device=images.device)
    for step in range(steps + 1):
        margins, _, gradient = averaged_gradient(context, view, x, there[going], loss)
        better = margins > largest[going]
        best[going[better]], largest[going[better]] = x[better], margins[better]
        # a random model that is wrong once may be right in most passes: it goes on climbing
        if not context.is_random:
            rest = margins <= 0
            going, x, gradient = going[rest], x[rest], gradient[rest]
        if not len(going):
            break
        # first large enough to cross the ball in some eight steps, then small enough to settle
        size = (0.25 * (1 - step / steps) + 0.01) * epsilon[going]
        x = steepest_step(x, gradient, size, context.norm)
        x = project(x, images[going], epsilon[going], context.norm)
    return best


def random_starts(context: AuditContext, rows: Tensor, restart: int) -> Tensor:
    """Uniform draws from the balls around the images of `rows`, keyed by image and restart."""
    images = context.images[rows.to(context.images.device)]
    epsilon = torch.full((len(rows),), float(context.epsilon), device=images.device)
    noise = torch.stack(
        [
            in_ball(
                context.norm,
                images.shape[1:],
                generator(context.seed, context.ids[i], "audit", restart),
            )
            for i in rows.tolist()
        ]
    )
    return project(
        images + column(epsilon, images) * noise.to(images), images, epsilon, context.norm
    )


@dataclass(frozen=True, slots=True)
class LossTrajectory:
    """Every iterate's fate in one start of the plain attack, never stopped early."""

    rows: Tensor
    """images that are right without an attack"""
    wrong: Tensor
    """whether iterate 0 to T is misclassified, N × (T + 1), on the CPU"""
    loss: Tensor
    """what the attack ascends, float64 N × (T + 1)"""
    fooled: Tensor
    """whether the best iterate, verified, is a success, N"""


def loss_trajectory(context: AuditContext) -> LossTrajectory:
    """The plain attack's own steps, from the image itself, with every iterate looked at."""
    return context.once("trajectory", lambda: _loss_trajectory(context))


def _loss_trajectory(context: AuditContext) -> LossTrajectory:
    # the evaluation stops an image at its first success, and cannot show one that is lost again
    steps, relative, ascended = _plain_steps(context)
    rows = context.clean_right.nonzero()[:, 0]
    wrong, loss, fooled = [], [], []
    for part in context.batches(rows):
        images = context.images[part.to(context.images.device)]
        epsilon = torch.full((len(part),), float(context.epsilon), device=images.device)
        x, best = images.clone(), images.clone()
        largest = torch.full_like(epsilon, float("-inf"))
        margins_at, values_at = [], []
        with context.repeatable("path"):
            for _ in range(steps + 1):
                margins, values, gradient = averaged_gradient(
                    context, GradientView(), x, part, ascended
                )
                margins_at.append(margins.cpu())
                values_at.append(values.double().cpu())
                better = margins > largest
                best[better], largest[better] = x[better], margins[better]
                x = steepest_step(x, gradient, relative * epsilon, context.norm)
                x = project(x, images, epsilon, context.norm)
        wrong.append(torch.stack(margins_at, 1) > 0)
        loss.append(torch.stack(values_at, 1))
        fooled.append(context.fooled_at(best, part))
    none = torch.zeros(0, steps + 1)
    return LossTrajectory(
        rows,
        torch.cat(wrong) if wrong else none.bool(),
        torch.cat(loss) if loss else none.double(),
        torch.cat(fooled) if fooled else torch.zeros(0, dtype=torch.bool),
    )


def _plain_steps(context: AuditContext) -> tuple[int, float, Loss]:
    """Steps, step size as a share of ε, and loss of the plain evaluation's longest ascent.

    APGD sets its own step size; an ascent of as many steps that crosses the ball stands for it.
    """
    ascents = [a for a in context.protocol.attacks if isinstance(a, PGD | MIFGSM | APGD)]
    if ascents:
        longest = max(ascents, key=lambda a: a.steps)
        relative = 2.5 / longest.steps if isinstance(longest, APGD) else longest.relative_step
        return longest.steps, float(relative), longest.loss
    if any(isinstance(a, FGSM) for a in context.protocol.attacks):
        return 1, 1.0, "cross-entropy"
    return 40, 1 / 16, "cross-entropy"
