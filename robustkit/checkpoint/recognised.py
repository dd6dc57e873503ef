"""What a call finds of a checkpoint that it describes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustkit.checkpoint.checkpoint import Checkpoint
from robustkit.showing import Shown

if TYPE_CHECKING:
    from robustkit.data.recovered import Flips


@dataclass(frozen=True, slots=True, repr=False)
class Description(Shown):
    """What was recognised of a checkpoint."""

    checkpoint: Checkpoint
    """to be evaluated"""
    rows: Sequence[tuple[str, str]]
    """label and text"""
    sidecar: Path | None = None
    """the file that was written beside it"""
    flips: "Sequence[Flips] | None" = None
    """by class, how many labels of the training were wrong; None where that was not asked"""
