"""Whether the attack worked, seen from its own path and from other attacks beside it."""

from dataclasses import replace
from fractions import Fraction
from math import inf

import torch
from torch import Tensor

from robustkit import protocol as protocols
from robustkit.auditing.adaptive import AdaptiveAttack
from robustkit.auditing.ascent import loss_trajectory
from robustkit.auditing.context import AuditContext, OtherAttack
from robustkit.auditing.indicators.indicator import (
    Indicator,
    IndicatorEvidence,
    NotApplicable,
    Unexaminable,
    counted,
    share,
)
from robustkit.auditing.wording import shares
from robustkit.protocol import (
    APGD,
    FAB,
    FGSM,
    MIFGSM,
    PGD,
    Attack,
    Epsilon,
    Noise,
    SparsePGD,
    SparseRS,
    SpatialRandom,
    Square,
    travel,
)
from robustkit.protocol.norms import symbol

STRONGER: tuple[AdaptiveAttack, ...] = ("margin", "straight-through", "smoothing", "black box")
LAST = 10
"""steps over which the loss must have settled (Pintor et al. 2022)"""


def settled(loss: Tensor) -> Tensor:
    """How far each loss still moved over its last 10 entries, N, of losses N × T to be minimised.

    I4 of Pintor et al. 2022, as coded: rescaled to [0, 1], made monotone by its running minimum;
    then largest less smallest. Of fewer than 10 entries all count.
    """
    low, high = loss.amin(1, keepdim=True), loss.amax(1, keepdim=True)
    span = high - low
    rescaled = torch.where(span > 0, (loss - low) / torch.where(span > 0, span, 1.0), 0.0)
    last = rescaled.cummin(1).values[:, -LAST:]
    return last.amax(1) - last.amin(1)


def _travel(context: AuditContext, threshold: float) -> IndicatorEvidence:
    reach = max((_reach(a) for a in context.protocol.attacks), default=Fraction(0))
    how_far = context.protocol.weaknesses or [
        f"the longest path of an attack is {float(reach):.3g} times what crossing the ball takes"
    ]
    if reach == 0:
        how_far = ["no attack of the evaluation takes more than one step"]
    return IndicatorEvidence(float(reach), how_far[0])


def _reach(attack: Attack) -> Fraction:
    """How far an attack can go, over what it takes to cross the ball from its start."""
    distance = travel(attack)
    if distance is not None:
        return distance / (2 if isinstance(attack, PGD) and attack.random_start else 1)
    return Fraction(0) if isinstance(attack, FGSM | Noise) else Fraction(1)


def _silent(context: AuditContext, threshold: float) -> IndicatorEvidence:
    trajectory = loss_trajectory(context)
    silent = trajectory.wrong[:, :-1].any(1) & ~trajectory.wrong[:, -1]
    flagged = _rows(context, trajectory.rows, silent)
    return IndicatorEvidence(
        share(silent),
        f"{counted(silent)} were misclassified at an earlier step, but not at the last",
        flagged,
        # every image that this start fools, silently or not, and the plain attack did not
        context.plain & _rows(context, trajectory.rows, trajectory.fooled),
        n=len(silent),
    )


def _incomplete(context: AuditContext, threshold: float) -> IndicatorEvidence:
    trajectory = loss_trajectory(context)
    kept = context.plain[trajectory.rows]
    moved = settled(-trajectory.loss[kept])
    flagged = _rows(context, trajectory.rows[kept], moved > threshold)
    worst = float(moved.max()) if len(moved) else 0.0
    return IndicatorEvidence(
        worst,
        f"for {counted(moved > threshold, 'survivors')} the loss still changed by more than "
        f"{100 * threshold:.6g}\u00a0% of its range over the last {LAST} steps",
        flagged,
        n=len(moved),
    )


def _single(context: AuditContext, threshold: float) -> IndicatorEvidence:
    fgsm = _given(context, "fgsm", context.fgsm, "no attack took a single step alone")
    trajectory = loss_trajectory(context)
    # many steps by the best iterate of one start: FGSM's, too, is a single point, without restarts
    iterated = context.clean_right & ~_rows(context, trajectory.rows, trajectory.fooled)
    gain = float(iterated.double().mean() - fgsm.double().mean())
    many, one = shares(share(iterated), share(fgsm))
    return IndicatorEvidence(gain, f"robust accuracy is {many} after all steps and {one} after one")


def _beats(context: AuditContext, other: Tensor, doubted: Tensor, what: str) -> IndicatorEvidence:
    """Images that only the other kind of attack fooled."""
    alone = doubted & ~other
    return IndicatorEvidence(
        share(alone), f"{what} fooled {counted(alone)} that these attacks had not", alone, alone
    )


def _noise(context: AuditContext, threshold: float) -> IndicatorEvidence:
    random = _given(context, "random", context.random, "no stage draws random points")
    return _beats(context, random, context.plain, "random points in the ball")


def _black(context: AuditContext, threshold: float) -> IndicatorEvidence:
    doubted = context.plain if context.white is None else context.white
    black = _given(context, "black", context.black, "the plan has no black-box stage")
    return _beats(context, black, doubted, "black-box attacks")


def _transfer(context: AuditContext, threshold: float) -> IndicatorEvidence:
    doubted = context.plain if context.white is None else context.white
    transfer = _given(context, "transfer", context.transfer, "no surrogate was given")
    return _beats(context, transfer, doubted, "adversarial examples crafted on another network")


def _more_steps(context: AuditContext, threshold: float) -> IndicatorEvidence:
    longer = tuple(
        replace(a, steps=2 * a.steps)  # type: ignore[arg-type]
        for a in context.protocol.attacks
        if not isinstance(a, FGSM | Noise) and hasattr(a, "steps")
    )
    if not longer:
        raise NotApplicable("no attack of the evaluation takes steps that could be doubled")
    return _again(context, replace(context.protocol, attacks=longer), "with twice the steps")


def _more_restarts(context: AuditContext, threshold: float) -> IndicatorEvidence:
    random = tuple(
        a
        for a in context.protocol.attacks
        if isinstance(a, APGD | FAB | Square | SparsePGD | SparseRS | SpatialRandom)
        or (isinstance(a, PGD) and a.random_start)
    )
    if not random:
        raise NotApplicable("no attack of the evaluation starts at random")
    # the same number once more, from other draws, is twice the number
    again = replace(context.protocol, attacks=random, seed=context.seed + 1)
    return _again(context, again, "with twice the restarts")


def _again(context: AuditContext, protocol: protocols.Protocol, what: str) -> IndicatorEvidence:
    rows = context.survivors
    attacked = context.attacked(protocol, rows)
    fooled = _rows(context, rows, attacked)
    sentence = f"{what}, {counted(attacked, 'survivors')} are fooled"
    return IndicatorEvidence(share(fooled), sentence, None, fooled)


def _larger(context: AuditContext, threshold: float) -> IndicatorEvidence:
    rows = context.survivors
    double = context.epsilon.doubled()
    if not len(rows):
        return IndicatorEvidence(1.0, "no image survives at ε, so none does at 2ε")
    fooled = context.attacked(replace(context.protocol, epsilons=(double,)), rows)
    return IndicatorEvidence(
        share(fooled), f"at 2ε, {counted(fooled, 'survivors')} are fooled", n=len(rows)
    )


def _unbounded(context: AuditContext, threshold: float) -> IndicatorEvidence:
    # within the whole box lie images of every class, so no classifier is right throughout: whatever
    # survives here survived a failing attack (Athalye et al. 2018, section 3.1)
    across = protocols.diameter(context.norm, context.images.shape[1:])
    if across == inf:
        raise NotApplicable(f"no budget of {symbol(context.norm)} turns every image into any other")
    whole = Fraction(across)
    rows = context.survivors
    if not len(rows):
        return IndicatorEvidence(0.0, "no image survives at ε")
    everything = replace(context.protocol, epsilons=(Epsilon(whole, "all"),))
    left = ~context.attacked(everything, rows)
    value = float(left.sum()) / len(context)
    return IndicatorEvidence(
        value,
        f"with no limit on the budget, {counted(left, 'survivors')} are still classified correctly",
        n=len(rows),
    )


def _half(context: AuditContext, threshold: float) -> IndicatorEvidence:
    budget = Epsilon(Fraction(1, 2), "0.5")
    attacks = tuple(a for a in context.protocol.attacks if isinstance(a, FGSM | PGD | MIFGSM))
    attacks = attacks or (PGD(40, Fraction(1, 16)),)
    # in Linf whatever the context's norm: there a grey image is within reach of every other
    grey = replace(context.protocol, norm="linf", attacks=attacks, epsilons=(budget,))
    rows = context.clean_right.nonzero()[:, 0]
    accuracy = float((~context.attacked(grey, rows)).sum()) / len(context)
    classes = torch.bincount(context.labels.cpu())
    with context.repeatable("grey"):
        chance = 1 / context.logits(context.images[:1]).shape[1]
    most = max(chance, float(classes.max()) / len(context))
    left, bound = shares(accuracy, most)
    return IndicatorEvidence(
        accuracy / most,
        f"accuracy at ε = 0.5 (ℓ∞) is {left}; since a grey image lies within reach of all, no "
        f"classifier exceeds {bound}",
    )


def _rows(context: AuditContext, rows: Tensor, mask: Tensor) -> Tensor:
    """A mask over some rows as one over all images."""
    full = torch.zeros(len(context), dtype=torch.bool)
    full[rows] = mask
    return full


def _given(context: AuditContext, kind: OtherAttack, mask: Tensor | None, why: str) -> Tensor:
    """What another kind of attack left; where there is none, because it broke off, or never was."""
    if mask is not None:
        return mask
    if kind in context.missing:
        raise Unexaminable(context.missing[kind])
    raise NotApplicable(why)


COMPARED = (
    Indicator(
        "short-travel",
        "Can the attack reach every point of the ball?",
        "Carlini et al. 2019, hyper-parameters; own definition: steps × step size over the way "
        "across the ball",
        _travel,
        ("longer",),
        "below",
        threats="balls",
    ),
    Indicator(
        "transfer-beats-direct",
        "Do adversarial examples of another network fool images that direct attacks did not?",
        "Carlini et al. 2019; Athalye et al. 2018; AutoAttack's 0.002 for black-box attacks",
        _transfer,
        STRONGER,
        attacks=True,
    ),
    Indicator(
        "noise-beats-gradient",
        "Do random points in the ball fool images that gradient attacks did not?",
        "Athalye et al. 2018, section 3.1; AutoAttack's 0.002 for black-box attacks",
        _noise,
        STRONGER,
        threats="balls",
    ),
    Indicator(
        "black-beats-white",
        "Do black-box attacks fool images that gradient attacks did not?",
        "AutoAttack's check_square_sr (Croce and Hein 2020); Athalye et al. 2018, section 3.1",
        _black,
        STRONGER,
        attacks=True,
        threats="gradients",
    ),
)

OPTIMISED = (
    Indicator(
        "silent-success",
        "Did the attack succeed at an earlier step and not at the last?",
        "I3 of Pintor et al. 2022, silent success, as coded",
        _silent,
        ("best iterate",),
        threats="balls",
    ),
    Indicator(
        "single-beats-iterative",
        "Is one step better than many?",
        "Athalye et al. 2018, section 3.1; Carlini et al. 2019",
        _single,
        STRONGER,
        threats="balls",
    ),
    Indicator(
        "incomplete-optimisation",
        "Was the loss still changing when the attack stopped?",
        "I4 of Pintor et al. 2022, incomplete optimisation, as coded, on the images that survived",
        _incomplete,
        ("longer",),
        threats="balls",
    ),
    Indicator(
        "larger-epsilon",
        "Does twice the budget fool more images?",
        "Carlini et al. 2019: a larger budget strictly increases success",
        _larger,
        STRONGER,
        "below",
    ),
    Indicator(
        "unbounded",
        "Does an attack without a limit on the budget fool every image?",
        "I6 of Pintor et al. 2022; Athalye et al. 2018, section 3.1; on the images that survived",
        _unbounded,
        STRONGER,
    ),
    Indicator(
        "half",
        "Is accuracy at chance at ε = 0.5 (ℓ∞)?",
        "Carlini et al. 2019: a grey image is within reach",
        _half,
        STRONGER,
        threats="balls",
    ),
    Indicator(
        "more-steps",
        "Do twice the steps fool more images?",
        "Carlini et al. 2019: double the iterations and see no change",
        _more_steps,
        ("longer",),
        attacks=True,
    ),
    Indicator(
        "more-restarts",
        "Do twice the restarts fool more images?",
        "Carlini et al. 2019: double the restarts and see no change",
        _more_restarts,
        ("longer",),
        attacks=True,
    ),
)
