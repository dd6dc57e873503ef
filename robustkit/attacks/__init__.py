"""Attacks: foolbox's classes, mended and driven by an engine that trusts none of them.

The only package that imports foolbox.
"""

from typing import TYPE_CHECKING

from robustkit.lazy import lazily

if TYPE_CHECKING:
    from robustkit.attacks.block import Block, Outcomes, Progress
    from robustkit.attacks.build import build_search
    from robustkit.attacks.engine import attack_block
    from robustkit.attacks.forecast import Experience
    from robustkit.attacks.step_model import SearchNetwork, search_network
    from robustkit.attacks.victim import draws_at_random, normalised
    from robustkit.geometry import TOLERANCE, in_budget

REVISION = 5
"""Raised whenever a change here can change a row; part of every evaluation's digest. Whether
an answer is on file must not wait for torch, so that it stands here."""
__all__ = [
    "REVISION",
    "TOLERANCE",
    "Block",
    "Experience",
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

_HOMES = {
    "TOLERANCE": ".geometry",
    "Block": "block",
    "Experience": "forecast",
    "Outcomes": "block",
    "Progress": "block",
    "SearchNetwork": "step_model",
    "attack_block": "engine",
    "build_search": "build",
    "draws_at_random": "victim",
    "in_budget": ".geometry",
    "normalised": "victim",
    "search_network": "step_model",
}

__getattr__ = lazily(__name__, _HOMES)
"""The names that need torch, when they are first asked for."""
