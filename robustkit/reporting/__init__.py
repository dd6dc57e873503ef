"""Pages and reports, rebuilt from records and plain values; they need no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustkit.reporting.evaluation import page
    from robustkit.reporting.study import StudyFiles, write

__all__ = ["StudyFiles", "page", "write"]

_HOMES = {"page": "evaluation", "StudyFiles": "study", "write": "study"}


def __getattr__(name: str) -> Any:
    # late, so that whoever only needs the wording does not wait for seaborn
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
