"""What the attacks say, counted: together, by class, and by what an image is taken for."""

from collections.abc import Iterable

import numpy as np

from robustkit.auditing.context import OtherAttack
from robustkit.auditing.outcome import NO_CLAIM, PLAIN_CLAIM, ClassRow, RobustnessClaim, Stage
from robustkit.auditing.plan import no_version
from robustkit.auditing.stages import AttackedImages, Bools, plain_attack
from robustkit.auditing.wording import at_most
from robustkit.errors import EvaluationFailed
from robustkit.statistics import proportion


def plain_claim(attacked: AttackedImages) -> RobustnessClaim:
    """What the plain evaluation says on the same images; no claim unless all of it completed."""
    threat, left = attacked.threat, alone(attacked, attacked.plain)
    whole = left is not None and attacked.plain.keys() <= attacked.alone.keys()
    source = f"plain {plain_attack(threat.norm)}, {PLAIN_CLAIM if whole else NO_CLAIM}"
    accuracy = float((attacked.right if left is None else left).mean())
    return RobustnessClaim(threat.norm, threat.judged.text, accuracy, source)


def alone(attacked: AttackedImages, names: Iterable[str]) -> Bools | None:
    """Still right after these stages together; None where none of them completed."""
    masks = [attacked.alone[name] for name in names if name in attacked.alone]
    return np.logical_and.reduce(masks) if masks else None


def floor(attacked: AttackedImages) -> Bools | None:
    """Still right after random noise; None where that did not complete."""
    return alone(attacked, [n for n, family in attacked.families.items() if family == "floor"])


def missing(attacked: AttackedImages) -> dict[OtherAttack, str]:
    """Why attacks that the plan asked for, and that indicators look at, have left no mask.

    What the norm cannot have was not asked for.
    """
    lacking = no_version(attacked.threat.norm)
    ran = [stage for stage in attacked.stages if stage.reason != lacking]
    own: dict[OtherAttack, list[Stage]] = {
        "fgsm": [s for s in ran if s.name in attacked.plain and s.name.endswith("fgsm")],
        "random": [s for s in ran if s.family == "floor"],
        "black": [s for s in ran if s.family == "black box"],
        "transfer": [s for s in ran if s.family == "transfer"],
    }
    return {
        kind: f"{stages[0].title} has no result: {stages[0].reason}"
        for kind, stages in own.items()
        if stages and all(stage.status != "complete" for stage in stages)
    }


def unlike(attacked: AttackedImages, other: AttackedImages, name: str) -> str:
    """Which stages completed on only one of two networks; "" where both met the same, and some."""
    own, theirs = (
        {s.name: s.title for s in one.stages if s.status == "complete"} for one in (attacked, other)
    )
    if not own and not theirs:  # what is left of both are the clean images
        return "no attack completed on either network"
    lacking = {
        name: [own[stage] for stage in own if stage not in theirs],
        "the audited network": [theirs[stage] for stage in theirs if stage not in own],
    }
    parts = [f"{who} was not attacked by {at_most(what)}" for who, what in lacking.items() if what]
    return "; ".join(parts)


def tried(attacked: AttackedImages, epsilon: str) -> bool:
    """Whether any attack completed at a budget."""
    return any(
        stage.status == "complete" and any(level.epsilon == epsilon for level in stage.robust)
        for stage in attacked.stages
    )


def check_sandwich(attacked: AttackedImages, epsilon: str, robust: Bools) -> None:
    """Nothing, if no image certified at a budget was fooled there.

    Raises:
        EvaluationFailed: one was: the bound or the attack is wrong, and neither can be believed.
    """
    broken = attacked.fooled[epsilon][: len(robust)] & robust
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        raise EvaluationFailed(
            f"image {row} is certified at {attacked.threat.norm} {epsilon}, but was fooled "
            f"there by {attacked.by[row] or 'an attack'}: one of the two is wrong; please "
            "report it"
        )


def classes(attacked: AttackedImages) -> tuple[ClassRow, ...]:
    """Clean and robust accuracy of each class that occurs; none where no attack completed.

    What was not attacked is unknown, not robust, and a row has both accuracies or is not there.
    """
    if not tried(attacked, attacked.judged):
        return ()
    labels, names = attacked.data.labels, attacked.data.classes
    rows = []
    for label in np.unique(labels):
        own = labels == label
        n = int(own.sum())
        clean, robust = (
            proportion(int(mask[own].sum()), n, "exact")
            for mask in (attacked.right, attacked.survivors)
        )
        rows.append(ClassRow(names[int(label)], clean, robust))
    return tuple(rows)


def confusion(attacked: AttackedImages) -> tuple[tuple[int, ...], ...]:
    """Images by label (rows) and by what they are taken for at the judged budget (columns).

    Empty where no attack completed there: it would be the matrix of the clean images.
    """
    if not tried(attacked, attacked.judged):
        return ()
    k = max(len(attacked.data.classes), int(attacked.taken_for.max()) + 1)
    table = np.zeros((k, k), np.int64)
    np.add.at(table, (attacked.data.labels, attacked.taken_for), 1)
    return tuple(tuple(row) for row in table.tolist())
