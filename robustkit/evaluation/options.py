"""How an evaluation is run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Progress = Callable[[float, int], None]
"""told how many images are done (in fractions) and how many there are"""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How an evaluation is run; none of it changes a row beyond float32 rounding."""

    batch_size: int | Literal["auto"] = "auto"
    device: str = "auto"
    fresh: bool = False
    """re-run even where the record is on file"""
    save_adversarial: Path | None = None
    """where to keep the perturbed images, as .npz of float32"""
    progress: Progress = lambda done, total: None
    waiting: Callable[[], None] = lambda: None
    """called when another process is at work on the same record"""

    @property
    def anew(self) -> bool:
        """Whether no record on file will do."""
        return self.fresh or self.save_adversarial is not None
