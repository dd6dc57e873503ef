"""Whether the number can be meant as it is said: the right network, unseen images, a possible ε."""

import torch

from robustkit.audit.case import Case
from robustkit.audit.indicators.indicator import Indicator, Symptom, Unexaminable, counted, share
from robustkit.audit.remedies import nearest_other, too_near


def _recorded(case: Case, threshold: float) -> Symptom:
    from scipy.stats import binomtest

    if case.recorded_accuracy is None:
        raise Unexaminable("the checkpoint records no clean accuracy")
    right = int(case.clean_right.sum())
    p = float(binomtest(right, len(case), min(1.0, max(0.0, case.recorded_accuracy))).pvalue)
    return Symptom(
        p,
        f"{right / len(case):.1%} of {len(case)} images are right, {case.recorded_accuracy:.1%} is "
        f"recorded: p = {p:.2g}, exact binomial test, two-sided",
    )


def overlapping(case: Case) -> torch.Tensor:
    """Images that the network was trained on, Boolean N; ids are compared without occurrence."""
    known = case.once("training ids", case.training_ids)
    if known is None:
        raise Unexaminable("which images the network was trained on is not known")
    pixels = {i.partition(":")[0] for i in known}
    return torch.tensor([i.partition(":")[0] in pixels for i in case.ids], dtype=torch.bool)


def _overlap(case: Case, threshold: float) -> Symptom:
    seen = overlapping(case)
    return Symptom(share(seen), f"{counted(seen)} are training images", seen)


def _other_class(case: Case, threshold: float) -> Symptom:
    pairs = too_near(case)
    flagged = torch.zeros(len(case), dtype=torch.bool)
    flagged[[i for i, _ in pairs]] = True
    distances = nearest_other(case)
    median = float(distances.median())
    return Symptom(
        share(flagged),
        f"{counted(flagged)} survive and lie within 2 ε of a survivor of another class; the median "
        f"{case.norm} distance to the nearest image of another class is {median:.3g}",
        flagged,
    )


CLAIMED = (
    Indicator(
        "clean-accuracy",
        "Is the clean accuracy the recorded one?",
        "Carlini et al. 2019, clean accuracy; own definition: p value of an exact binomial test",
        _recorded,
        (),
        "below",
    ),
    Indicator(
        "training-overlap",
        "Was the network trained on the images it is judged by?",
        "own definition: images whose pixels are among the training images",
        _overlap,
        ("unseen",),
    ),
    Indicator(
        "other-class",
        "Is the budget so large that images of other classes are within reach?",
        "Carlini et al. 2019: MNIST's median L2 distance to another class is below 9; as a bound, "
        "the r-separation of Yang et al. 2020",
        _other_class,
        ("midpoints",),
    ),
)
