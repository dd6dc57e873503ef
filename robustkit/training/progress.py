"""What a training tells whoever watches it. Needs no torch."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Progress(NamedTuple):
    """Where a run stands."""

    step: int
    steps: int
    epoch: int
    """the one at work, from 1 on"""
    epochs: int
    seen: dict[str, Any]
    """since the last line of history: loss, and shares of correct answers, None where not known"""


class Callbacks(NamedTuple):
    """What is called while a run goes on."""

    step: Callable[[Progress], None] | None = None
    epoch: Callable[[dict[str, Any]], None] = lambda line: None
    line: Callable[[dict[str, Any]], None] = lambda line: None
    """with every line of history, those of an earlier run first, and those within an epoch"""
