"""What is done when an indicator fires: the attack that its cause calls for.

It meets images that survived and says which it fooled. Every success is recomputed on the model
itself (`AuditContext.fooled_at`): float32, within ball and box; a random model by majority.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from robustkit.auditing.ascent import GradientView, loss_trajectory, run_ascent
from robustkit.auditing.context import AuditContext
from robustkit.errors import EvaluationFailed
from robustkit.geometry import ORDER, project
from robustkit.protocol import APGD, BALLS, MIFGSM, PGD, Attack, Norm, Square

AdaptiveAttack = Literal[
    "margin",
    "logits",
    "straight-through",
    "averaging",
    "smoothing",
    "longer",
    "best iterate",
    "black box",
    "alone",
    "midpoints",
    "unseen",
]

TITLES: dict[AdaptiveAttack, str] = {
    "margin": "ascent on the margin and on rescaled logits",
    "logits": "ascent on the logarithms of the outputs",
    "straight-through": "straight-through gradients of non-differentiable operations (BPDA)",
    "averaging": "gradients averaged over the model's randomness (EOT)",
    "smoothing": "gradients averaged over noise on the pixels",
    "longer": "four times the steps, from other starts",
    "best iterate": "the best iterate instead of the last",
    "black box": "Square, a black-box attack",
    "alone": "each image classified and attacked alone",
    "midpoints": "the points halfway to images of other classes",
    "unseen": "only images that were not trained on",
}

NEAREST = 2000
"""images that are compared with one another, for how near other classes are"""


def made_for(norm: Norm, kinds: Iterable[AdaptiveAttack]) -> list[AdaptiveAttack]:
    """Those of these that can be tried in a threat; leaving images out, no attack, always can."""
    return [kind for kind in kinds if norm in BALLS or kind == "unseen"]


def run_adaptive_attack(kind: AdaptiveAttack, context: AuditContext, rows: Tensor) -> Tensor:
    """Whether an adaptive attack fools the images of `rows` at the judged budget, N on the CPU.

    Raises:
        EvaluationFailed, RuntimeError: the attack broke off.
    """
    fooled = torch.zeros(len(rows), dtype=torch.bool)
    if context.norm not in BALLS:
        raise EvaluationFailed(f"it is made for {', '.join(BALLS)}, not for {context.norm}")
    return _ATTACKS[kind](context, rows) if len(rows) else fooled


def views(context: AuditContext) -> dict[AdaptiveAttack, GradientView]:
    """How each attack by gradients sees the model; a random one is averaged over in all of them."""
    draws = context.effort.draws
    plain = GradientView(draws=draws if context.is_random else 1)
    return {
        "margin": plain,
        "logits": replace(plain, logarithm=True),
        "straight-through": replace(plain, straight_through=True),
        "averaging": GradientView(draws=draws),
        "smoothing": GradientView(draws=draws, sigma=_sigma(context)),
    }


def _sigma(context: AuditContext) -> float:
    """Pintor et al.'s 0.031, which is their Linf budget: here the budget, as noise a pixel."""
    pixels = context.images[0].numel()
    spread = {"linf": 1.0, "l2": pixels**-0.5, "l1": 1.0 / pixels}[context.norm]
    return min(0.1, max(0.01, float(context.epsilon) * float(spread)))


def _ascent(kind: AdaptiveAttack) -> Callable[[AuditContext, Tensor], Tensor]:
    def attack(context: AuditContext, rows: Tensor) -> Tensor:
        view, effort = views(context)[kind], context.effort
        steps, restarts = effort.steps, effort.restarts
        if view.draws > 1:  # as many passes as the others would not be affordable
            steps, restarts = max(10, steps // 2), 1
        return run_ascent(context, view, rows, steps, restarts)

    return attack


def _longer(context: AuditContext, rows: Tensor) -> Tensor:
    longer = [_stretched(a) for a in context.protocol.attacks if isinstance(a, PGD | MIFGSM | APGD)]
    attacks = tuple(longer) or (PGD(100, Fraction(1, 20), 5),)
    return context.attacked(replace(context.protocol, attacks=attacks, seed=context.seed + 2), rows)


def _stretched(attack: PGD | MIFGSM | APGD) -> Attack:
    """Four times the steps, far enough to cross the ball."""
    if isinstance(attack, APGD):
        return replace(attack, steps=4 * attack.steps)
    steps = 4 * attack.steps
    relative = max(attack.relative_step, Fraction(5, 2 * steps))
    if isinstance(attack, MIFGSM):
        return PGD(steps, relative, 2, True, attack.loss)
    return replace(attack, steps=steps, relative_step=relative, random_start=True)


def _best_iterate(context: AuditContext, rows: Tensor) -> Tensor:
    trajectory = loss_trajectory(context)
    fooled = torch.zeros(len(context), dtype=torch.bool)
    fooled[trajectory.rows] = trajectory.fooled
    return fooled[rows]


def _alone(context: AuditContext, rows: Tensor) -> Tensor:
    """Wrong alone or beside other neighbours counts as fooled: an attacker chooses them too."""
    there = rows.to(context.images.device)
    fooled = context.fooled_at(context.images[there], rows, 1)
    rest = (~fooled).nonzero()[:, 0]
    fooled[rest] = run_ascent(
        context, views(context)["margin"], rows[rest], context.effort.steps, 1, size=1
    )
    return fooled


# --- other classes --------------------------------------------------------------------------------


def too_near(context: AuditContext) -> list[tuple[int, int]]:
    """Pairs of survivors of different classes within 2ε: no classifier is right around both.

    The point halfway is within ε of either and has one class (r-separation, Yang et al. 2020).
    """

    def compute() -> list[tuple[int, int]]:
        rows = context.survivors
        pairs = []
        for part in torch.split(rows, 64):
            near = _distances(context, part, rows) <= 2 * float(context.epsilon)
            labels = context.labels.cpu()
            near &= labels[part][:, None] != labels[rows][None]
            pairs += [(int(part[i]), int(rows[j])) for i, j in near.nonzero().tolist()]
        return pairs

    return context.once("pairs", compute)


def _distances(context: AuditContext, one: Tensor, other: Tensor) -> Tensor:
    device = context.images.device
    a, b = (context.images[rows.to(device)].flatten(1).double() for rows in (one, other))
    return torch.cdist(
        a, b, p=ORDER[context.norm], compute_mode="donot_use_mm_for_euclid_dist"
    ).cpu()


def nearest_other(context: AuditContext) -> Tensor:
    """Distance of each of the first `NEAREST` images to the nearest one of another class, N."""

    def compute() -> Tensor:
        rows = torch.arange(min(len(context), NEAREST))
        labels = context.labels.cpu()
        found = []
        for part in torch.split(rows, 64):
            distances = _distances(context, part, rows)
            same = labels[part][:, None] == labels[rows][None]
            found.append(distances.masked_fill(same, float("inf")).amin(1))
        return torch.cat(found)

    return context.once("nearest", compute)


def _midpoints(context: AuditContext, rows: Tensor) -> Tensor:
    wanted = set(rows.tolist())
    fooled = torch.zeros(len(context), dtype=torch.bool)
    pairs = torch.tensor([p for p in too_near(context) if p[0] in wanted], dtype=torch.int64)
    for part in torch.split(pairs, context.batch_size) if len(pairs) else ():
        one, other = (part[:, side].to(context.images.device) for side in (0, 1))
        halfway = (context.images[one] + context.images[other]) / 2
        # halfway in float32 may lie a rounding above ε
        epsilon = torch.full((len(part),), float(context.epsilon), device=halfway.device)
        halfway = project(halfway, context.images[one], epsilon, context.norm)
        fooled[part[:, 0]] |= context.fooled_at(halfway, part[:, 0])
    return fooled[rows]


# --- without gradients ----------------------------------------------------------------------------


def _black_box(context: AuditContext, rows: Tensor) -> Tensor:
    square = Square(queries=context.effort.queries)
    return context.attacked(replace(context.protocol, attacks=(square,)), rows)


_ATTACKS: dict[AdaptiveAttack, Callable[[AuditContext, Tensor], Tensor]] = {
    "margin": _ascent("margin"),
    "logits": _ascent("logits"),
    "straight-through": _ascent("straight-through"),
    "averaging": _ascent("averaging"),
    "smoothing": _ascent("smoothing"),
    "longer": _longer,
    "best iterate": _best_iterate,
    "black box": _black_box,
    "alone": _alone,
    "midpoints": _midpoints,
}
