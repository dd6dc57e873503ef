"""Attacks by their names in the field, to be composed in Python.

    from robustkit.attacks import APGD, PGD
    robustkit.evaluate(model, data, PGD(steps=40), epsilon=["4/255", "8/255"])
    robustkit.Protocol([PGD(steps=40, restarts=5), APGD(loss="dlr", targets=9)], norm="linf")

Behind them are foolbox's classes, mended and driven by an engine that trusts none of them. The only
package that imports foolbox.
"""

from typing import TYPE_CHECKING

from robustkit.lazy import lazily

if TYPE_CHECKING:
    from robustkit.attacks.block import Block, Outcomes, Progress
    from robustkit.attacks.build import build_search
    from robustkit.attacks.engine import attack_block
    from robustkit.attacks.forecast import Experience
    from robustkit.attacks.step_model import SearchNetwork, search_network
    from robustkit.attacks.victim import draws_at_random, passes_apart
    from robustkit.geometry import TOLERANCE, in_budget
    from robustkit.protocol import (
        APGD,
        CW,
        DDN,
        FAB,
        FGSM,
        FMN,
        MIFGSM,
        PGD,
        Boundary,
        DeepFool,
        HopSkipJump,
        Noise,
        Patch,
        SigmaZero,
        SparsePGD,
        SparseRS,
        SpatialGrid,
        SpatialRandom,
        Square,
    )

REVISION = 13
"""Raised whenever a change here can change a row; part of every evaluation's digest. Whether
an answer is on file must not wait for torch, so that it stands here."""
KINDS = (
    "APGD", "Boundary", "CW", "DDN", "DeepFool", "FAB", "FGSM", "FMN", "HopSkipJump", "MIFGSM",
    "Noise", "PGD", "Patch", "SigmaZero", "SparsePGD", "SparseRS", "SpatialGrid", "SpatialRandom",
    "Square",
)  # fmt: skip
"""the attacks themselves"""
__all__ = [
    "APGD",
    "CW",
    "DDN",
    "FAB",
    "FGSM",
    "FMN",
    "MIFGSM",
    "PGD",
    "REVISION",
    "TOLERANCE",
    "Block",
    "Boundary",
    "DeepFool",
    "Experience",
    "HopSkipJump",
    "Noise",
    "Outcomes",
    "Patch",
    "Progress",
    "SearchNetwork",
    "SigmaZero",
    "SparsePGD",
    "SparseRS",
    "SpatialGrid",
    "SpatialRandom",
    "Square",
    "attack_block",
    "build_search",
    "draws_at_random",
    "in_budget",
    "passes_apart",
    "search_network",
]

_HOMES = dict.fromkeys(KINDS, ".protocol") | {
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
    "passes_apart": "victim",
    "search_network": "step_model",
}

__getattr__ = lazily(__name__, _HOMES)
"""The attacks, which need no torch, and the engine's names, when they are first asked for."""


def __dir__() -> list[str]:
    return list(KINDS)
