"""What was found for a study, before it is judged: its numbers, and where their rows are."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from robustkit.analysis.outcome import CellRow, History, Regret
from robustkit.results.grid import gaps
from robustkit.results.rows import Files, Records
from robustkit.spec import Analysis, Study

FIRST = "before the first training"
ELSEWHERE = "the networks were made elsewhere"
NOT_YET = "not yet "
"""how the reason begins where a number is still to come; else it failed"""
BROKE = "evaluation failed: "
"""how it begins where there is a network, which could not be evaluated"""
SHOWN = 6
"""examples of a gallery"""


class Number(NamedTuple):
    """One network in one analysis."""

    analysis: str
    method: str
    level: str
    """"" where the factor is epsilon: its rows have all levels"""
    seed: int | None
    """None: not on record"""
    path: Path | None
    """of its rows, as `Findings.records` knows them; None where there are none"""
    reason: str = ""
    """why there are none"""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a study's folder holds, beside the rows."""

    numbers: Sequence[Number]
    times: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """by analysis and method: seconds of a training step, by rounds in turn"""
    histories: tuple[History, ...] = ()
    cells: tuple[CellRow, ...] = ()
    provenance: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    command: str = ""
    asked: tuple[Mapping[str, Any], ...] = ()
    """the study as it was first asked, and after every change: its digest, file and changes"""
    records: Records = field(default_factory=Files)
    regrets: tuple[Regret, ...] = ()
    """without their estimates"""


def pictured(study: Study, analysis: Analysis, numbers: Iterable[Number]) -> Number | None:
    """The network whose examples an analysis shows: the baseline's first, attacked itself."""
    own = [n for n in numbers if n.analysis == analysis.name]
    name = baseline_of(study, own)
    known = [n for n in own if n.method == name and n.path]
    if analysis.factor != "epsilon" or analysis.surrogate:
        return None
    return min(known, key=by_seed, default=None)


def by_seed(number: Number) -> tuple[bool, int]:
    """What numbers are sorted by; those of unknown seeds come last."""
    return number.seed is None, number.seed or 0


def baseline_of(study: Study, numbers: Iterable[Number]) -> str:
    """The method that the others are compared with; the first by name where none is named."""
    return study.baseline or min((n.method for n in numbers), default="")


def not_found(study: Study, methods: Collection[str]) -> list[str]:
    """Methods that a study of networks made elsewhere speaks of, and no network is of, in words."""
    if study.external is None:
        return []
    named = {study.baseline: "the baseline"} if study.baseline else {}
    for claim in study.claims:
        if any(analysis.name == claim.analysis for analysis in study.analyses):
            for method in (claim.a, claim.b):
                named.setdefault(method, f"claim {claim.name}")
    found = f"methods found: {', '.join(sorted(methods)) or 'none'}"
    return [
        f"No network of method {method} was found, of which {where} speaks; {found}."
        if where != "the baseline"
        else f"No network of method {method}, the baseline, was found; {found}."
        for method, where in named.items()
        if method not in methods
    ]


def gaps_of(study: Study, numbers: Iterable[Number]) -> Iterable[str]:
    """Which networks made elsewhere are missing from the full grid, in words."""
    levels = {a.name: a.levels for a in study.analyses if a.factor != "epsilon"}
    known = ((n.analysis, (n.method, n.level, n.seed)) for n in numbers if n.seed is not None)
    return gaps(known, levels)


def images_in_words(images: int, digest: str) -> str:
    """How many images of a data set were used, and which."""
    return f"{images:,} images, {digest_in_words(digest)}"


def digest_in_words(digest: str) -> str:
    """Which images were used, where their number is unknown."""
    return f"digest {digest}"
