"""Whether the number can be meant as it is said: the right network, unseen images, a possible ε."""

import torch

from robustkit.auditing.adaptive import nearest_other, too_near
from robustkit.auditing.context import AuditContext
from robustkit.auditing.indicators.indicator import (
    Indicator,
    IndicatorEvidence,
    NotApplicable,
    counted,
    share,
)
from robustkit.parsing import in_percent
from robustkit.protocol.norms import symbol


def _recorded(context: AuditContext, threshold: float) -> IndicatorEvidence:
    from scipy.stats import fisher_exact

    recorded, images = context.recorded_accuracy, context.recorded_images
    if recorded is None:
        raise NotApplicable("the checkpoint records no clean accuracy")
    if not images:
        raise NotApplicable(
            f"{in_percent(recorded)} is on record, and not that it is of so many images of this "
            "data set"
        )
    # the number on record is a sample's, too: taken as exact, it accuses one sound network in seven
    there = round(min(1.0, max(0.0, recorded)) * images)
    right, n = int(context.clean_right.sum()), len(context)
    p = float(fisher_exact([[right, n - right], [there, images - there]]).pvalue)
    return IndicatorEvidence(
        p,
        f"accuracy is {in_percent(right / n)} on {n:,} images, and {in_percent(recorded)} of "
        f"{images:,} held-out ones is on record (p = {p:.2g}, Fisher's exact test, two-sided)",
    )


def overlapping(context: AuditContext) -> torch.Tensor:
    """Images that the network was trained on, Boolean N; ids are compared without occurrence."""
    if context.all_seen:
        return torch.ones(len(context), dtype=torch.bool)
    known = context.once("training ids", context.training_ids)
    if known is None:
        raise NotApplicable("which images the network was trained on is not known")
    pixels = {i.partition(":")[0] for i in known}
    return torch.tensor([i.partition(":")[0] in pixels for i in context.ids], dtype=torch.bool)


def _overlap(context: AuditContext, threshold: float) -> IndicatorEvidence:
    seen = overlapping(context)
    return IndicatorEvidence(share(seen), f"{counted(seen)} are training images", seen)


def _other_class(context: AuditContext, threshold: float) -> IndicatorEvidence:
    pairs = too_near(context)
    flagged = torch.zeros(len(context), dtype=torch.bool)
    flagged[[i for i, _ in pairs]] = True
    distances = nearest_other(context)
    median = float(distances.median())
    return IndicatorEvidence(
        share(flagged),
        f"{counted(flagged)} survive and lie within 2ε of a survivor of another class; the median "
        f"{symbol(context.norm)} distance to the nearest image of another class is {median:.3g}",
        flagged,
    )


CLAIMED = (
    Indicator(
        "clean-accuracy",
        "Is the clean accuracy the one on record?",
        "Carlini et al. 2019, clean accuracy; own definition: p value of Fisher's exact test",
        _recorded,
        (),
        "below",
    ),
    Indicator(
        "training-overlap",
        "Was the network trained on images of this test?",
        "own definition: images whose pixels are among the training images",
        _overlap,
        ("unseen",),
    ),
    Indicator(
        "other-class",
        "Is the budget so large that images of other classes are within reach?",
        "Carlini et al. 2019: MNIST's median ℓ₂ distance to another class is below 9; as a bound, "
        "the r-separation of Yang et al. 2020",
        _other_class,
        ("midpoints",),
        threats="balls",
    ),
)
