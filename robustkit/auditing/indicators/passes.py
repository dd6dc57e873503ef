"""Whether an image has one output, whatever the pass and whoever shares the batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from robustkit.attacks import passes_apart
from robustkit.auditing.context import AuditContext
from robustkit.auditing.indicators.indicator import (
    Indicator,
    IndicatorEvidence,
    NotApplicable,
    counted,
)


class _Watch(TorchFunctionMode):
    """Counts the calls by which a model takes gradients."""

    calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """One call of a torch function, as it is."""
        self.calls += getattr(func, "__name__", "") in ("grad", "backward")
        return func(*args, **(kwargs or {}))


def _dynamic(context: AuditContext, threshold: float) -> IndicatorEvidence:
    watch = _Watch()
    with context.repeatable("dynamic"), watch:
        context.logits(context.images[:2])
    how_many = f"{watch.calls} gradients" if watch.calls else "no gradients"
    return IndicatorEvidence(
        float(watch.calls),
        f"the model computes {how_many} in its forward pass",
        n=min(2, len(context)),
    )


def _random(context: AuditContext, threshold: float) -> IndicatorEvidence:
    few, labels = context.images[:250], context.labels[:250]
    with context.repeatable("passes of the same images"):
        passes = [context.logits(few) for _ in range(5)]
    right = [int((logits.argmax(1) == labels).sum()) for logits in passes]
    apart = max(passes_apart(a, b) for i, a in enumerate(passes) for b in passes[:i])
    # counts that differ fire by themselves
    value = max(apart, (max(right) - min(right)) / len(few))
    counts = (
        f"{min(right)} to {max(right)} of {len(few)} images are classified correctly"
        if min(right) < max(right)
        else "accuracy is the same"
    )
    return IndicatorEvidence(
        value,
        f"logits of five passes over the same images differ by at most {apart:.2g}; {counts}",
        n=len(few),
    )


def _batch_size(context: AuditContext, threshold: float) -> IndicatorEvidence:
    few = context.images[:64]
    return _beside(
        context,
        context.logits(few),
        context.logits(few, 1),
        "alone and in a batch",
        threshold,
    )


def _neighbours(context: AuditContext, threshold: float) -> IndicatorEvidence:
    few = context.images[:64]
    with torch.no_grad():
        usual = context.model(torch.cat([few, few]))[: len(few)]
        strange = context.model(torch.cat([few, 1 - few]))[: len(few)]
    return _beside(
        context, usual, strange, "beside the same images and beside negatives", threshold
    )


def _beside(
    context: AuditContext, one: Tensor, other: Tensor, how: str, threshold: float
) -> IndicatorEvidence:
    if context.is_random:
        raise NotApplicable("the model is random, so that no other cause can be told apart")
    apart = passes_apart(one, other)
    changed = (one.argmax(1) != other.argmax(1)).cpu()
    # as an attacker chooses the neighbours too: wrong in one of the two is wrong
    labels = context.labels[: len(one)]
    classes = torch.where(one.argmax(1) != labels, one.argmax(1), other.argmax(1)).cpu()
    fooled = torch.zeros(len(context), dtype=torch.bool)
    if apart > threshold:
        rows = torch.arange(len(one))
        fooled[rows] = context.count(rows, classes != labels.cpu(), classes)
    return IndicatorEvidence(
        apart,
        f"logits {how} differ by at most {apart:.2g}; {counted(changed)} change class",
        fooled=fooled,
        n=len(one),
    )


PASSES = (
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
        "Does the model compute gradients in its forward pass?",
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
)
