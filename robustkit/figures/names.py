"""Names that fit into a figure: visible, short, and still different from one another."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import takewhile

from robustkit.errors import shown
from robustkit.statistics.comparison import numbered

KEPT = 12
"""characters that a name keeps beside what all share: one may be the beginning of another"""


def shortened(labels: Sequence[str], width: int = 48) -> list[str]:
    """Labels of at most about `width` characters.

    Where one is longer, they lose what all share, then their middle. Labels that were different
    stay so: those that would now be the same are numbered.
    """
    labels = [shown(label) for label in labels]
    if max(map(len, labels), default=0) > width and len(set(labels)) > 1:
        spare = max(0, min(map(len, labels)) - KEPT)
        start = min(spare, _common(labels))
        end = min(spare - start, _common([label[start:][::-1] for label in labels]))
        before, after = "…" * (start > 0), "…" * (end > 0)
        labels = [f"{before}{label[start : len(label) - end]}{after}" for label in labels]
    return numbered([_cut(label, width) for label in labels])


def _cut(label: str, width: int) -> str:
    """Without its middle, where it is too long."""
    return label if len(label) <= width else f"{label[: width // 2 - 1]}…{label[-(width // 2) :]}"


def _common(texts: Sequence[str]) -> int:
    """How many characters all texts begin with."""
    return sum(
        1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
    )


def level_text(level: str, percent: bool) -> str:
    """A level as it was written, or, where it is a share, in per cent."""
    try:
        return f"{100 * float(Fraction(level)):g}\u00a0%" if percent else shown(level)
    except (ValueError, ZeroDivisionError, OverflowError):
        return shown(level)
