"""Attacks: foolbox's classes, mended and driven by an engine that trusts none of them.

The only package that imports foolbox.
"""

from robustkit.attack.engine import (
    REVISION,
    Block,
    Outcomes,
    Progress,
    attack_block,
    draws_at_random,
    normalised,
)
from robustkit.attack.gradient import search
from robustkit.geometry import TOLERANCE, in_budget

__all__ = [
    "REVISION",
    "TOLERANCE",
    "Block",
    "Outcomes",
    "Progress",
    "attack_block",
    "draws_at_random",
    "in_budget",
    "normalised",
    "search",
]
