"""Studies as their files ask them; below whatever runs, finds or judges. Needs no torch."""

from robustkit.spec.reading import load, merged, of_text, parse
from robustkit.spec.study import (
    FIGURES,
    TABLES,
    TESTS,
    TRAINED,
    Analysis,
    Brought,
    Claim,
    Figure,
    Method,
    Statistics,
    Study,
    Table,
    Tested,
    Trained,
    Tuning,
)

__all__ = [
    "FIGURES",
    "TABLES",
    "TESTS",
    "TRAINED",
    "Analysis",
    "Brought",
    "Claim",
    "Figure",
    "Method",
    "Statistics",
    "Study",
    "Table",
    "Tested",
    "Trained",
    "Tuning",
    "load",
    "merged",
    "of_text",
    "parse",
]
