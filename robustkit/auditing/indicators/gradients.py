"""Whether gradients exist, and mean something."""

import torch
from torch import Tensor

from robustkit.attacks.objectives import objective
from robustkit.auditing.adaptive import AdaptiveAttack
from robustkit.auditing.ascent import margin, random_starts
from robustkit.auditing.context import AuditContext
from robustkit.auditing.indicators.indicator import (
    Indicator,
    IndicatorEvidence,
    NotApplicable,
    counted,
    share,
)
from robustkit.network import gradient as gradient_of
from robustkit.protocol import Loss

SMOOTH: tuple[AdaptiveAttack, ...] = ("margin", "straight-through", "smoothing", "black box")
LOOKED = 64
"""images on which the ball is sampled, a hundred times each"""


def raw_gradients(context: AuditContext, loss: Loss) -> dict[str, Tensor]:
    """Gradients of a loss at the clean images and at a random start, N × pixels on the CPU.

    None of the audit's mending: NaN stays NaN, and no graph gives zeros. `graph` is 0 where there
    was none; `margin` is that of the clean images.
    """
    return context.once(f"gradients {loss}", lambda: _raw(context, loss))


def _raw(context: AuditContext, loss: Loss) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {"image": [], "start": [], "margin": [], "graph": []}
    for rows in context.batches(torch.arange(len(context))):
        there = rows.to(context.images.device)
        labels = context.labels[there]
        for where, pixels in (
            ("image", context.images[there]),
            ("start", random_starts(context, rows, 0)),
        ):
            x = pixels.clone().requires_grad_()
            with context.repeatable("gradients"), torch.enable_grad():
                logits = context.model(x.clone())
                value = objective(logits, labels, logits.detach(), loss)
                gradient = torch.zeros_like(x)
                if value.requires_grad:
                    g = gradient_of(value.sum(), x, allow_unused=True)
                    gradient = gradient if g is None else g
            found[where].append(gradient.flatten(1).detach().cpu())
            if where == "image":
                found["margin"].append(margin(logits.detach(), labels).cpu())
                found["graph"].append(torch.full((len(rows),), float(value.requires_grad)))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _zero(context: AuditContext, threshold: float) -> IndicatorEvidence:
    found = raw_gradients(context, "cross-entropy")
    zero = ((found["image"] == 0).all(1) | (found["start"] == 0).all(1)) & context.clean_right
    seen = zero[context.clean_right]
    how = f"the gradient of the cross-entropy is zero at or near {counted(seen)}"
    if not bool(found["graph"].all()):
        how = "no gradient reaches the pixels at all"
    return IndicatorEvidence(share(seen), how, zero, n=seen.numel())


def _nan(context: AuditContext, threshold: float) -> IndicatorEvidence:
    found = raw_gradients(context, "cross-entropy")
    bad = ~torch.isfinite(found["image"]).all(1) | ~torch.isfinite(found["start"]).all(1)
    return IndicatorEvidence(share(bad), f"the gradient is NaN or infinite for {counted(bad)}", bad)


def _exploding(context: AuditContext, threshold: float) -> IndicatorEvidence:
    found = raw_gradients(context, "margin")
    length = found["image"].double().nan_to_num(posinf=1e38, neginf=-1e38).norm(dim=1)
    # against the usual margin, so that the scale of the logits does not matter
    usual = float(found["margin"].double().abs().median()) or 1.0
    slopes = length / usual
    flagged = slopes > threshold
    largest = float(slopes.max())
    nearest = f"{1 / largest:.2g}" if largest else "no finite distance"
    return IndicatorEvidence(
        largest,
        f"linearised at the steepest image, the median margin is crossed within ℓ₂ {nearest}",
        flagged,
    )


def _unstable(context: AuditContext, threshold: float) -> IndicatorEvidence:
    rows = context.clean_right.nonzero()[:, 0][:LOOKED]
    if not len(rows):
        raise NotApplicable("no image is classified correctly without attack")
    images, labels = (t[rows.to(t.device)] for t in (context.images, context.labels))

    def loss(x: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(
            context.logits(x).double(), labels, reduction="none"
        )

    radius, changes = 8 / 255, []
    with context.repeatable("unstable"):
        reference = loss(images)
        size = torch.where(reference.abs() == 0, 1.0, reference.abs())
        for _ in range(100):
            x = images + (torch.rand_like(images) - 0.5) * radius
            changes.append((loss(x) - reference).abs() / size)
    value = min(1.0, float(torch.stack(changes).mean()))
    return IndicatorEvidence(
        value,
        f"noise within ±4/255 changes the loss by {100 * value:.3g}\u00a0% on average",
        n=len(rows),
    )


GRADIENTS = (
    Indicator(
        "zero-gradients",
        "Are there images without any gradient?",
        "I1 of Pintor et al. 2022, unavailable gradients, as coded; AutoAttack's "
        "check_zero_gradients",
        _zero,
        ("margin", "straight-through", "black box"),
        threats="gradients",
    ),
    Indicator(
        "nan-gradients",
        "Are there gradients that are NaN or infinite?",
        "Carlini et al. 2019, numerical failures; own definition",
        _nan,
        SMOOTH,
        threats="gradients",
    ),
    Indicator(
        "exploding-gradients",
        "Are gradients large in proportion to the margins?",
        "Athalye et al. 2018, exploding gradients; own definition: length of the margin's gradient "
        "over the median margin",
        _exploding,
        ("smoothing", "black box"),
        threats="gradients",
    ),
    Indicator(
        "unstable-predictions",
        "Does the loss vary strongly within a tiny ball?",
        "I2 of Pintor et al. 2022, as coded: 100 draws from ±4/255; their code has no threshold",
        _unstable,
        ("smoothing", "black box"),
        threats="gradients",
    ),
)
