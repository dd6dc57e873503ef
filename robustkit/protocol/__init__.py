"""Protocols: what is attacked with, every number spelled out. Needs no torch.

A protocol is a file of the shelf `attacks/` in one of its norms, with its budgets filled in. Each
kind of attack is a frozen dataclass here and one `match` arm in `robustkit.attack`.
"""

from robustkit.protocol.attacks import (
    KINDS,
    Apgd,
    Attack,
    Boundary,
    CarliniWagner,
    Ddn,
    DeepFool,
    Fab,
    Fgsm,
    Fmn,
    HopSkipJump,
    Loss,
    Mifgsm,
    NoiseAttack,
    Pgd,
    SquareAttack,
    adaptations,
    kind_of,
    labels_of,
    travel,
)
from robustkit.protocol.file import (
    load_protocol,
    norms_of,
    parse_protocol,
    protocol_in_words,
    protocol_toml,
)
from robustkit.protocol.norms import NORMS, Norm, parse_norm, symbol
from robustkit.protocol.protocol import (
    Epsilon,
    Protocol,
    Target,
    checked_protocol,
    parse_epsilon,
    with_epsilons,
)

__all__ = [
    "KINDS",
    "NORMS",
    "Apgd",
    "Attack",
    "Boundary",
    "CarliniWagner",
    "Ddn",
    "DeepFool",
    "Epsilon",
    "Fab",
    "Fgsm",
    "Fmn",
    "HopSkipJump",
    "Loss",
    "Mifgsm",
    "NoiseAttack",
    "Norm",
    "Pgd",
    "Protocol",
    "SquareAttack",
    "Target",
    "adaptations",
    "checked_protocol",
    "kind_of",
    "labels_of",
    "load_protocol",
    "norms_of",
    "parse_epsilon",
    "parse_norm",
    "parse_protocol",
    "protocol_in_words",
    "protocol_toml",
    "symbol",
    "travel",
    "with_epsilons",
]
