"""Whether gradients exist, and mean something."""

import torch
from torch import Tensor

from robustkit.audit.ascent import Objective, margin, started, typical_gap
from robustkit.audit.case import Case, normalised
from robustkit.audit.indicators.indicator import Indicator, Symptom, Unexaminable, counted, share

SMOOTH = ("margin", "straight-through", "smoothing", "black box")


def raw_gradients(case: Case, objective: Objective) -> dict[str, Tensor]:
    """Gradients of an objective at the clean images and at a random start, N × pixels on the CPU.

    None of the audit's mending: NaN stays NaN, and no graph gives zeros. `graph` is 0 where there
    was none; `margin` is that of the clean images.
    """
    return case.once(f"gradients {objective}", lambda: _raw(case, objective))


def _raw(case: Case, objective: Objective) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {"image": [], "start": [], "margin": [], "graph": []}
    for rows in case.batches(torch.arange(len(case))):
        there = rows.to(case.images.device)
        labels = case.labels[there]
        for where, pixels in (("image", case.images[there]), ("start", started(case, rows, 0))):
            x = pixels.clone().requires_grad_()
            with case.repeatable("gradients"), torch.enable_grad():
                logits = case.model(x.clone())
                value = margin(logits, labels)
                if objective == "cross-entropy":
                    value = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
                gradient = torch.zeros_like(x)
                if value.requires_grad:
                    (g,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
                    gradient = gradient if g is None else g
            found[where].append(gradient.flatten(1).detach().cpu())
            if where == "image":
                found["margin"].append(margin(logits.detach(), labels).cpu())
                found["graph"].append(torch.full((len(rows),), float(value.requires_grad)))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _zero(case: Case, threshold: float) -> Symptom:
    found = raw_gradients(case, "cross-entropy")
    zero = ((found["image"] == 0).all(1) | (found["start"] == 0).all(1)) & case.clean_right
    seen = zero[case.clean_right]
    how = "no gradient reaches the pixels at all" if not found["graph"].all() else (
        f"the cross-entropy's gradient is zero in {counted(seen)}, at the image or a random start"
    )
    return Symptom(share(seen), how, zero, n=seen.numel())


def _nan(case: Case, threshold: float) -> Symptom:
    found = raw_gradients(case, "cross-entropy")
    bad = ~torch.isfinite(found["image"]).all(1) | ~torch.isfinite(found["start"]).all(1)
    return Symptom(share(bad), f"the gradient is NaN or infinite in {counted(bad)}", bad)


def _exploding(case: Case, threshold: float) -> Symptom:
    found = raw_gradients(case, "margin")
    length = found["image"].double().nan_to_num(posinf=1e38, neginf=-1e38).norm(dim=1)
    # against the usual margin, so that the scale of the logits does not matter
    usual = float(found["margin"].double().abs().median()) or typical_gap(case)
    slopes = length / usual
    flagged = slopes > threshold
    largest = float(slopes.max())
    nearest = f"{1 / largest:.1e}" if largest else "no finite distance"
    return Symptom(
        largest,
        f"at its steepest the margin would be crossed within an L2 distance of {nearest}",
        flagged,
    )


def _saturated(case: Case, threshold: float) -> Symptom:
    with case.repeatable("saturated"):
        logits = case.logits(case.images)
    loss = torch.nn.functional.cross_entropy(logits.float(), case.labels, reduction="none")
    # p_y rounds to 1: of the gradient only what underflows last is left
    flat = (loss == 0).cpu() & case.clean_right
    seen = flat[case.clean_right]
    return Symptom(
        share(seen),
        f"the cross-entropy of {counted(seen)} is 0 in float32: softmax is saturated",
        flat,
        n=seen.numel(),
    )


def _scale(case: Case, threshold: float) -> Symptom:
    gap = typical_gap(case)
    return Symptom(gap, f"the two largest logits lie {gap:.3g} apart in the median image")


def _probabilities(case: Case, threshold: float) -> Symptom:
    with case.repeatable("probabilities"):
        outputs = case.logits(case.images[:250]).double()
    off = max(
        float(outputs.max()) - 1, -float(outputs.min()), float((outputs.sum(1) - 1).abs().max()), 0
    )
    kind = "are" if off < threshold else "are not"
    return Symptom(
        off,
        f"outputs {kind} probabilities: off by {off:.2g} from [0, 1] and a sum of 1",
        n=min(250, len(case)),
    )


def _unstable(case: Case, threshold: float) -> Symptom:
    rows = case.clean_right.nonzero()[:, 0][:250]
    if not len(rows):
        raise Unexaminable("no image is right without an attack")
    images, labels = (t[rows.to(t.device)] for t in (case.images, case.labels))

    def loss(x: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(
            case.logits(x).double(), labels, reduction="none"
        )

    radius, changes = 8 / 255, []
    with case.repeatable("unstable"):
        reference = loss(images)
        size = torch.where(reference.abs() == 0, 1.0, reference.abs())
        for _ in range(100):
            x = images + (torch.rand_like(images) - 0.5) * radius
            changes.append((loss(x) - reference).abs() / size)
    each = torch.stack(changes).mean(0).cpu()
    value = min(1.0, float(each.mean()))
    flagged = torch.zeros(len(case), dtype=torch.bool)
    flagged[rows[each > threshold]] = True
    flagged[250:] = True  # not looked at
    return Symptom(
        value,
        f"noise within ±4/255 changes the loss by {value:.0%} of itself on average",
        flagged,
        n=len(rows),
    )


def _dynamic(case: Case, threshold: float) -> Symptom:
    calls = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(  # noqa: ANN202
            self,
            func,  # noqa: ANN001
            types,  # noqa: ANN001
            args=(),  # noqa: ANN001
            kwargs=None,  # noqa: ANN001
        ):
            nonlocal calls
            calls += getattr(func, "__name__", "") in ("grad", "backward")
            return func(*args, **(kwargs or {}))

    with case.repeatable("dynamic"), Watch():
        case.logits(case.images[:2])
    said = f"{calls} gradients are taken" if calls else "no gradient is taken"
    return Symptom(float(calls), f"{said} inside the model while it classifies", n=min(2, len(case)))


def _random(case: Case, threshold: float) -> Symptom:
    few, labels = case.images[:250], case.labels[:250]
    with case.repeatable("passes of the same images"):
        passes = [case.logits(few) for _ in range(5)]
    right = [int((logits.argmax(1) == labels).sum()) for logits in passes]
    outputs = [normalised(logits) for logits in passes]
    apart = max(
        float((a - b).norm(dim=1).max()) for i, a in enumerate(outputs) for b in outputs[:i]
    )
    # counts that differ fire by themselves
    value = max(apart, (max(right) - min(right)) / len(few))
    counts = f"{min(right)} to {max(right)} right" if min(right) < max(right) else "equally many right"
    return Symptom(
        value, f"five passes over the same images: logits {apart:.2g} apart, {counts}", n=len(few)
    )


def _batch_size(case: Case, threshold: float) -> Symptom:
    few = case.images[:64]
    return _beside(case, case.logits(few), case.logits(few, 1), "alone and in one batch", threshold)


def _neighbours(case: Case, threshold: float) -> Symptom:
    few = case.images[:64]
    with torch.no_grad():
        usual = case.model(torch.cat([few, few]))[: len(few)]
        strange = case.model(torch.cat([few, 1 - few]))[: len(few)]
    return _beside(case, usual, strange, "beside their like and beside negatives", threshold)


def _beside(case: Case, one: Tensor, other: Tensor, how: str, threshold: float) -> Symptom:
    if case.is_random:
        raise Unexaminable("passes differ by chance already, so that no other cause can be seen")
    apart = (normalised(one) - normalised(other)).norm(dim=1).cpu()
    changed = (one.argmax(1) != other.argmax(1)).cpu()
    # as an attacker chooses the neighbours too: wrong in one of the two is wrong
    labels = case.labels[: len(one)]
    wrong = ((one.argmax(1) != labels) | (other.argmax(1) != labels)).cpu()
    fooled = torch.zeros(len(case), dtype=torch.bool)
    if bool((apart > threshold).any()):
        fooled[: len(one)] = wrong
    return Symptom(
        float(apart.max()),
        f"logits {how} lie {float(apart.max()):.2g} apart; {counted(changed)} change class",
        fooled=fooled,
        n=len(one),
    )


AVAILABLE = (
    Indicator(
        "probabilities",
        "Are the outputs probabilities instead of logits?",
        "AutoAttack's check_range_output (Croce and Hein 2020)",
        _probabilities,
        ("logits", "straight-through"),
        "below",
    ),
    Indicator(
        "random-model",
        "Do two passes over the same images differ?",
        "AutoAttack's check_randomized (Croce and Hein 2020); Athalye et al. 2018, stochastic "
        "gradients",
        _random,
        ("averaging",),
    ),
    Indicator(
        "dynamic-model",
        "Does the model take gradients while it classifies?",
        "AutoAttack's check_dynamic (Croce and Hein 2020; Croce et al. 2022)",
        _dynamic,
        ("straight-through", "averaging", "black box"),
    ),
    Indicator(
        "batch-size",
        "Does an image's output depend on the size of its batch?",
        "own definition, after the i.i.d. inference that Croce and Hein 2020 require",
        _batch_size,
        ("alone",),
    ),
    Indicator(
        "batch-neighbours",
        "Does an image's output depend on the images beside it?",
        "own definition, after the i.i.d. inference that Croce and Hein 2020 require",
        _neighbours,
        ("alone",),
    ),
    Indicator(
        "zero-gradients",
        "Are there images without any gradient?",
        "I1 of Pintor et al. 2022, unavailable gradients, as coded; AutoAttack's "
        "check_zero_gradients",
        _zero,
        ("margin", "straight-through", "black box"),
    ),
    Indicator(
        "nan-gradients",
        "Are there gradients that are NaN or infinite?",
        "Carlini et al. 2019, numerical failures; own definition",
        _nan,
        SMOOTH,
    ),
    Indicator(
        "exploding-gradients",
        "Are gradients out of proportion to the margins?",
        "Athalye et al. 2018, exploding gradients; own definition: length of the margin's gradient "
        "over the median margin",
        _exploding,
        ("smoothing", "black box"),
    ),
    Indicator(
        "saturated-loss",
        "Is the cross-entropy flat where the attack starts?",
        "Carlini and Wagner 2017 on defensive distillation; own definition: share of losses that "
        "are 0 in float32",
        _saturated,
        ("margin",),
    ),
    Indicator(
        "logit-scale",
        "Are the logits so large that softmax is a step?",
        "Carlini and Wagner 2017 on defensive distillation; own definition: median gap of the two "
        "largest",
        _scale,
        ("margin",),
    ),
    Indicator(
        "unstable-predictions",
        "Does the loss jump about within a tiny ball?",
        "I2 of Pintor et al. 2022, as coded: 100 draws from ±4/255; their code has no threshold",
        _unstable,
        ("smoothing",),
    ),
)
