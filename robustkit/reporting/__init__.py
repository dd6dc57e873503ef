"""Pages and reports, rebuilt from records and plain values; they need no torch."""

from typing import TYPE_CHECKING

from robustkit.lazy import lazily

if TYPE_CHECKING:
    from robustkit.reporting.evaluation import page
    from robustkit.reporting.study import StudyFiles, write

__all__ = ["StudyFiles", "page", "write"]

_HOMES = {"page": "evaluation", "StudyFiles": "study", "write": "study"}

__getattr__ = lazily(__name__, _HOMES)
"""whoever only needs the wording does not wait for seaborn"""
