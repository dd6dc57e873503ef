"""Attacks as a reader meets them: "APGD-T, 9 targets", "Square, 1,000 queries"."""

from collections.abc import Sequence

from robustkit.protocol.attacks import APGD, FAB, PGD, Attack, Noise, kind_of

_NAMES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "mifgsm": "MI-FGSM",
    "deepfool": "DeepFool",
    "ddn": "DDN",
    "fmn": "FMN",
    "cw": "Carlini-Wagner",
    "boundary": "Boundary attack",
    "hopskipjump": "HopSkipJump",
    "apgd": "APGD",
    "fab": "FAB",
    "square": "Square",
    "sigma-zero": "σ-zero",
    "sparse-pgd": "Sparse-PGD",
    "sparse-rs": "Sparse-RS",
    "patch": "Patch",
    "spatial-grid": "Rotation and translation, grid",
    "spatial-random": "Rotation and translation, random",
}
"""as their papers spell them; another kind goes by its word"""
_LOSSES = {"dlr": "DLR", "margin": "logit margin"}
_COUNTS = {
    "steps": "steps",
    "queries": "queries",
    "draws": "draws",
    "restarts": "restarts",
    "targets": "targets",
}
"""numbers that a reader asks for first; one that is 0 or 1 is none"""


def attack_in_words(attack: Attack) -> str:
    """An attack's name and its main numbers."""
    counts = ((words, getattr(attack, key, 0)) for key, words in _COUNTS.items())
    return ", ".join([_name(attack), *(f"{n:,} {words}" for words, n in counts if n > 1)])


def kind_in_words(kind: str) -> str:
    """A kind of attack by the name of its paper."""
    return _NAMES.get(kind, kind)


def attacks_in_words(attacks: Sequence[Attack]) -> str:
    """The names of several attacks, each once."""
    return ", ".join(dict.fromkeys(map(_name, attacks)))


def _name(attack: Attack) -> str:
    if isinstance(attack, Noise):
        return f"{attack.distribution.capitalize()} noise"
    kind = kind_of(attack)
    name = kind_in_words(kind)
    if isinstance(attack, PGD) and not attack.random_start:
        name = "Iterative FGSM"
    loss = getattr(attack, "loss", "cross-entropy")
    if isinstance(attack, APGD | FAB) and attack.targets:
        return f"{name}-T" if loss in ("dlr", "cross-entropy") else f"{name}-T on the {loss}"
    if isinstance(attack, APGD) and loss == "cross-entropy":
        return f"{name}-CE"
    if isinstance(attack, APGD) and loss == "dlr":
        return f"{name}-DLR"
    usual = "margin" if kind == "patch" else "cross-entropy"
    return name if loss == usual else f"{name} on the {_LOSSES.get(loss, loss.replace('-', ' '))}"
