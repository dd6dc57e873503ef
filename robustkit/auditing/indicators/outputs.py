"""Whether the outputs are logits, and of a size that an attack can work with."""

from torch.nn.functional import cross_entropy

from robustkit.auditing.ascent import clean_logits
from robustkit.auditing.context import AuditContext
from robustkit.auditing.indicators.indicator import Indicator, IndicatorEvidence, counted, share


def _saturated(context: AuditContext, threshold: float) -> IndicatorEvidence:
    loss = cross_entropy(clean_logits(context).float(), context.labels, reduction="none")
    # p_y rounds to 1: of the gradient only what underflows last is left
    flat = (loss == 0).cpu() & context.clean_right
    seen = flat[context.clean_right]
    return IndicatorEvidence(
        share(seen),
        f"softmax is saturated (cross-entropy exactly 0 in float32) for {counted(seen)}",
        flat,
        n=seen.numel(),
    )


def _scale(context: AuditContext, threshold: float) -> IndicatorEvidence:
    top = clean_logits(context).topk(2, dim=1).values
    gap = float((top[:, 0] - top[:, 1]).median())
    return IndicatorEvidence(gap, f"the median gap between the two largest logits is {gap:.3g}")


def _probabilities(context: AuditContext, threshold: float) -> IndicatorEvidence:
    outputs = clean_logits(context)[:250].double()
    off = max(
        float(outputs.max()) - 1, -float(outputs.min()), float((outputs.sum(1) - 1).abs().max()), 0
    )
    kind = "are" if off < threshold else "are not"
    return IndicatorEvidence(
        off,
        f"the outputs {kind} probabilities: up to {off:.2g} away from [0, 1] or a sum of 1",
        n=min(250, len(context)),
    )


OUTPUTS = (
    Indicator(
        "probabilities",
        "Are the outputs probabilities, not logits?",
        "AutoAttack's check_range_output (Croce and Hein 2020)",
        _probabilities,
        ("logits", "straight-through"),
        "below",
        threats="gradients",
    ),
    Indicator(
        "saturated-loss",
        "Is the cross-entropy flat where the attack starts?",
        "Carlini and Wagner 2017 on defensive distillation; own definition: share of losses that "
        "are 0 in float32",
        _saturated,
        ("margin",),
        threats="balls",
    ),
    Indicator(
        "logit-scale",
        "Are the logits so large that softmax saturates?",
        "Carlini and Wagner 2017 on defensive distillation; own definition: median gap of the two "
        "largest",
        _scale,
        ("margin",),
        threats="balls",
    ),
)
