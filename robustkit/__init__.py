"""Robustness numbers that can be believed.

import robustkit
record = robustkit.evaluate(model, "mnist5k", "pgd", epsilons=["0.1", "0.2", "0.3"])
record.robust()     # accuracy with its interval at each budget
record.rows         # one row per image
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustkit.calls.attack import attack
    from robustkit.calls.audit import audit
    from robustkit.calls.certify import certify
    from robustkit.calls.compare import compare, power, rank
    from robustkit.calls.describe import describe
    from robustkit.calls.evaluate import evaluate
    from robustkit.calls.report import report
    from robustkit.calls.train import train
    from robustkit.checkpoint import read_checkpoint
    from robustkit.data import from_arrays, load_dataset
    from robustkit.protocol import Protocol
    from robustkit.record import Evaluation, frame
    from robustkit.record import read as read_record

    __version__: str

__all__ = [
    "Evaluation",
    "Protocol",
    "__version__",
    "attack",
    "audit",
    "certify",
    "compare",
    "describe",
    "evaluate",
    "frame",
    "from_arrays",
    "load_dataset",
    "power",
    "rank",
    "read_checkpoint",
    "read_record",
    "report",
    "train",
]

_HOMES = {
    "Evaluation": ("record", "Evaluation"),
    "attack": ("calls.attack", "attack"),
    "audit": ("calls.audit", "audit"),
    "certify": ("calls.certify", "certify"),
    "compare": ("calls.compare", "compare"),
    "describe": ("calls.describe", "describe"),
    "evaluate": ("calls.evaluate", "evaluate"),
    "frame": ("record", "frame"),
    "from_arrays": ("data", "from_arrays"),
    "load_dataset": ("data", "load_dataset"),
    "power": ("calls.compare", "power"),
    "Protocol": ("protocol", "Protocol"),
    "rank": ("calls.compare", "rank"),
    "read_checkpoint": ("checkpoint", "read_checkpoint"),
    "read_record": ("record", "read"),
    "report": ("calls.report", "report"),
    "train": ("calls.train", "train"),
}


def __getattr__(name: str) -> Any:
    # late, so that `robustkit --help` and reading records never wait for torch
    if name == "__version__":
        return version("robustkit")
    if name not in _HOMES:
        raise AttributeError(f"module 'robustkit' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"robustkit.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__
