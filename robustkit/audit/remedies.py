"""What is done when an indicator fires: the attack that its cause calls for.

A remedy attacks images that survived and says which it fooled. Every success is recomputed on the
model itself (`Case.fooled_at`): float32, within ball and box; a random model by majority.
"""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from robustkit.audit.ascent import View, climb, path
from robustkit.audit.case import Case
from robustkit.geometry import ORDER, project
from robustkit.protocol import Apgd, Attack, Mifgsm, Pgd, Square

Remedy = Literal[
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

TITLES: dict[Remedy, str] = {
    "margin": "ascent on the margin and on rescaled logits",
    "logits": "ascent on the logarithms of the outputs",
    "straight-through": "gradients straight through what has none (BPDA)",
    "averaging": "gradients averaged over the model's draws (EOT)",
    "smoothing": "gradients averaged over noise on the pixels",
    "longer": "four times the steps, from other starts",
    "best iterate": "the best iterate instead of the last",
    "black box": "Square, which asks for no gradient",
    "alone": "every image judged and attacked alone",
    "midpoints": "the points halfway to images of other classes",
    "unseen": "only the images that were not trained on",
}


def run(remedy: Remedy, case: Case, rows: Tensor) -> Tensor:
    """Whether a remedy fools the images of `rows` at the judged budget, N on the CPU.

    Raises:
        EvaluationFailed, RuntimeError: the attack broke off.
    """
    fooled = torch.zeros(len(rows), dtype=torch.bool)
    return _WAYS[remedy](case, rows) if len(rows) else fooled


def views(case: Case) -> dict[Remedy, View]:
    """How each gradient remedy sees the model; a random one is averaged over in all of them."""
    draws = case.effort.draws
    plain = View(draws=draws if case.is_random else 1)
    return {
        "margin": plain,
        "logits": replace(plain, logarithm=True),
        "straight-through": replace(plain, straight_through=True),
        "averaging": View(draws=draws),
        "smoothing": View(draws=draws, sigma=_sigma(case)),
    }


def _sigma(case: Case) -> float:
    """Pintor et al.'s 0.031, which is their Linf budget: here the budget, as noise a pixel."""
    pixels = case.images[0].numel()
    spread = {"linf": 1.0, "l2": pixels**-0.5, "l1": 1.0 / pixels}[case.norm]
    return min(0.1, max(0.01, float(case.epsilon) * float(spread)))


def _ascent(remedy: Remedy) -> Callable[[Case, Tensor], Tensor]:
    def attack(case: Case, rows: Tensor) -> Tensor:
        view, effort = views(case)[remedy], case.effort
        steps, restarts = effort.steps, effort.restarts
        if view.draws > 1:  # as many passes as the others would not be affordable
            steps, restarts = max(10, steps // 2), 1
        return climb(case, view, rows, steps, restarts)

    return attack


def _longer(case: Case, rows: Tensor) -> Tensor:
    longer = [_stretched(a) for a in case.protocol.attacks if isinstance(a, Pgd | Mifgsm | Apgd)]
    attacks = tuple(longer) or (Pgd(100, Fraction(1, 20), 5),)
    return case.attacked(replace(case.protocol, attacks=attacks, seed=case.seed + 2), rows)


def _stretched(attack: Pgd | Mifgsm | Apgd) -> Attack:
    """Four times the steps, far enough to cross the ball."""
    if isinstance(attack, Apgd):
        return replace(attack, steps=4 * attack.steps)
    steps = 4 * attack.steps
    relative = max(attack.relative_step, Fraction(5, 2 * steps))
    if isinstance(attack, Mifgsm):
        return Pgd(steps, relative, 2, True, attack.loss)
    return replace(attack, steps=steps, relative_step=relative, random_start=True)


def _best_iterate(case: Case, rows: Tensor) -> Tensor:
    trace = path(case)
    fooled = torch.zeros(len(case), dtype=torch.bool)
    fooled[trace.rows] = trace.fooled
    return fooled[rows]


def _alone(case: Case, rows: Tensor) -> Tensor:
    """Wrong alone or beside other neighbours counts as fooled: an attacker chooses them too."""
    there = rows.to(case.images.device)
    fooled = case.fooled_at(case.images[there], rows, 1)
    rest = (~fooled).nonzero()[:, 0]
    fooled[rest] = climb(case, views(case)["margin"], rows[rest], case.effort.steps, 1, size=1)
    return fooled


# --- other classes --------------------------------------------------------------------------------


def too_near(case: Case) -> list[tuple[int, int]]:
    """Pairs of survivors of different classes within 2ε: no classifier is right around both.

    The point halfway is within ε of either and has one class (r-separation, Yang et al. 2020).
    """

    def compute() -> list[tuple[int, int]]:
        rows = case.survivors
        pairs = []
        for part in torch.split(rows, 64):
            near = _distances(case, part, rows) <= 2 * float(case.epsilon)
            labels = case.labels.cpu()
            near &= labels[part][:, None] != labels[rows][None]
            pairs += [(int(part[i]), int(rows[j])) for i, j in near.nonzero().tolist()]
        return pairs

    return case.once("pairs", compute)


def _distances(case: Case, one: Tensor, other: Tensor) -> Tensor:
    device = case.images.device
    a, b = (case.images[rows.to(device)].flatten(1).double() for rows in (one, other))
    return torch.cdist(a, b, p=ORDER[case.norm], compute_mode="donot_use_mm_for_euclid_dist").cpu()


def nearest_other(case: Case, limit: int = 2000) -> Tensor:
    """Distance of each of the first images to the nearest one of another class, N."""

    def compute() -> Tensor:
        rows = torch.arange(min(len(case), limit))
        labels = case.labels.cpu()
        found = []
        for part in torch.split(rows, 64):
            distances = _distances(case, part, rows)
            same = labels[part][:, None] == labels[rows][None]
            found.append(distances.masked_fill(same, float("inf")).amin(1))
        return torch.cat(found)

    return case.once("nearest", compute)


def _midpoints(case: Case, rows: Tensor) -> Tensor:
    wanted = set(rows.tolist())
    fooled = torch.zeros(len(case), dtype=torch.bool)
    pairs = torch.tensor([p for p in too_near(case) if p[0] in wanted], dtype=torch.int64)
    for part in torch.split(pairs, case.batch_size) if len(pairs) else ():
        one, other = (part[:, side].to(case.images.device) for side in (0, 1))
        halfway = (case.images[one] + case.images[other]) / 2
        # halfway in float32 may lie a rounding above ε
        epsilon = torch.full((len(part),), float(case.epsilon), device=halfway.device)
        halfway = project(halfway, case.images[one], epsilon, case.norm)
        fooled[part[:, 0]] |= case.fooled_at(halfway, part[:, 0])
    return fooled[rows]


# --- without gradients ----------------------------------------------------------------------------


def _black_box(case: Case, rows: Tensor) -> Tensor:
    square = Square(queries=case.effort.queries)
    return case.attacked(replace(case.protocol, attacks=(square,)), rows)


_WAYS: dict[Remedy, Callable[[Case, Tensor], Tensor]] = {
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
