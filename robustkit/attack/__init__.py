"""Attacks: foolbox's classes, mended and driven by an engine that trusts none of them.

The only package that imports foolbox.
"""

from robustkit.attack.block import Block, Outcomes, Progress
from robustkit.attack.build import build_search
from robustkit.attack.engine import REVISION, attack_block
from robustkit.attack.step_model import SearchNetwork, search_network
from robustkit.attack.victim import draws_at_random, normalised
from robustkit.geometry import TOLERANCE, in_budget

__all__ = [
    "REVISION",
    "TOLERANCE",
    "Block",
    "Outcomes",
    "Progress",
    "SearchNetwork",
    "attack_block",
    "build_search",
    "draws_at_random",
    "in_budget",
    "normalised",
    "search_network",
]
