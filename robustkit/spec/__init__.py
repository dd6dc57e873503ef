"""Studies as their files ask them; below whatever runs, finds or judges. Needs no torch."""

from robustkit.spec.reading import load_study, merged_table, parse_study, study_of_text
from robustkit.spec.study import (
    CHOSEN,
    FIGURES,
    TABLES,
    TESTS,
    TRAINED,
    Analysis,
    Claim,
    ExternalSpec,
    Figure,
    Method,
    Statistics,
    Study,
    Table,
    TestSpec,
    TrainingSpec,
    Tuning,
)

__all__ = [
    "CHOSEN",
    "FIGURES",
    "TABLES",
    "TESTS",
    "TRAINED",
    "Analysis",
    "Claim",
    "ExternalSpec",
    "Figure",
    "Method",
    "Statistics",
    "Study",
    "Table",
    "TestSpec",
    "TrainingSpec",
    "Tuning",
    "load_study",
    "merged_table",
    "parse_study",
    "study_of_text",
]
