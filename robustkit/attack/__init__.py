"""Attacks: foolbox's classes, mended and driven by an engine that trusts none of them.

The only package that imports foolbox.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustkit.attack.block import Block, Outcomes, Progress
    from robustkit.attack.build import build_search
    from robustkit.attack.engine import attack_block
    from robustkit.attack.forecast import Experience
    from robustkit.attack.step_model import SearchNetwork, search_network
    from robustkit.attack.victim import draws_at_random, normalised
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
    "TOLERANCE": "geometry",
    "Block": "attack.block",
    "Experience": "attack.forecast",
    "Outcomes": "attack.block",
    "Progress": "attack.block",
    "SearchNetwork": "attack.step_model",
    "attack_block": "attack.engine",
    "build_search": "attack.build",
    "draws_at_random": "attack.victim",
    "in_budget": "geometry",
    "normalised": "attack.victim",
    "search_network": "attack.step_model",
}


def __getattr__(name: str) -> Any:
    """The names that need torch, when they are first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"robustkit.{_HOMES[name]}"), name)
