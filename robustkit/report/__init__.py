"""Pages and reports, rebuilt from records and plain values; they need no torch."""

from robustkit.report.evaluation import page, protocol_toml
from robustkit.report.study import Written, write

__all__ = ["Written", "page", "protocol_toml", "write"]
