"""Robustness numbers that can be believed.

    import robustkit
    from robustkit.attacks import PGD

    found = robustkit.evaluate(model, "mnist5k", PGD(steps=40), epsilon=["0.1", "0.2", "0.3"])
    found               # a few lines on a prompt; table, curve and sentence in a notebook
    found.robust()      # accuracy with its interval at each budget
    found.rows          # one row per image

What the command line can, these can, with the same words:

    evaluate        attack a network: one row per image, accuracy with intervals
    audit           can this robustness number be believed?
    certify         each image proved robust, fooled, or open
    train           from a loss, an architecture and data to a checkpoint
    compare         which of several evaluated networks is more accurate, as far as is known
    power           how many seeds and images that takes
    rank            several methods over independent data sets
    report          from a study's file to its report
    leaderboard     everything that was evaluated, the most robust first
    describe        what a checkpoint holds
    list            attacks, data, losses, models and reports by name
    verify          whether files are as they were written

    attack          an attack for one's own loop: x_adv = attack(x, y)
    attacks         PGD, APGD, FAB, Square, ... as objects; Protocol composes them
    read_checkpoint, load_dataset, from_arrays, read_record, frame
                    what goes in, and what is on file

A model is a torch.nn.Module from images in [0, 1] to logits, a checkpoint, or its path. What is
given and unusable raises robustkit.errors.InputError, in one line.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustkit import attacks, errors
    from robustkit.calls.attack import attack
    from robustkit.calls.audit import audit
    from robustkit.calls.certify import certify
    from robustkit.calls.compare import compare, power, rank
    from robustkit.calls.describe import describe
    from robustkit.calls.evaluate import evaluate
    from robustkit.calls.leaderboard import leaderboard
    from robustkit.calls.report import report
    from robustkit.calls.train import train
    from robustkit.calls.verify import verify
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
    "attacks",
    "audit",
    "certify",
    "compare",
    "describe",
    "errors",
    "evaluate",
    "frame",
    "from_arrays",
    "leaderboard",
    "load_dataset",
    "power",
    "rank",
    "read_checkpoint",
    "read_record",
    "report",
    "train",
    "verify",
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
    "leaderboard": ("calls.leaderboard", "leaderboard"),
    "list": ("shelves", "list_names"),
    "load_dataset": ("data", "load_dataset"),
    "power": ("calls.compare", "power"),
    "Protocol": ("protocol", "Protocol"),
    "rank": ("calls.compare", "rank"),
    "read_checkpoint": ("checkpoint", "read_checkpoint"),
    "read_record": ("record", "read"),
    "report": ("calls.report", "report"),
    "train": ("calls.train", "train"),
    "verify": ("calls.verify", "verify"),
}
_MODULES = ("attacks", "errors")
"""public themselves"""


def __getattr__(name: str) -> Any:
    # late, so that `robustkit --help` and reading records never wait for torch
    if name == "__version__":
        return version("robustkit")
    if name in _MODULES:
        return import_module(f"robustkit.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'robustkit' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"robustkit.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, "list"])  # which `import *` must not put in place of Python's own
