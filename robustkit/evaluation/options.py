"""How an evaluation is run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["auto", "float32", "tf32", "bf16", "fp16"]
Progress = Callable[[float, int], None]
"""told how many images are done and how many there are: in fractions, by the time that they take"""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How an evaluation is run; none but `precision` changes a row beyond float32 rounding.

    A network that draws at random does so for a whole batch: there the batch size, and on how many
    devices, decide which draws are made.
    """

    batch_size: int | Literal["auto"] = "auto"
    device: str = "auto"
    precision: Precision = "float32"
    """of the multiplications that attacks search by; auto: the fastest. Verdicts are float32's"""
    fresh: bool = False
    """re-run even where the record is on file"""
    save_adversarial: Path | None = None
    """where to keep the perturbed images, as .npz of float32"""
    progress: Progress = lambda done, total: None
    stage: Callable[[str], None] = lambda words: None
    """called with what is done before images are"""
    began: Callable[[float], None] = lambda share: None
    """called when images begin, with the share of them that is on file"""
    waiting: Callable[[], None] = lambda: None
    """called when another process is at work on the same record"""
    told: Callable[[str], None] = lambda text: None
    """called with what an automatic choice came to"""

    ray: str | None = None
    """Ray cluster that works on the blocks: auto or HOST:PORT"""

    @property
    def anew(self) -> bool:
        """Whether no record on file will do."""
        return self.fresh or self.save_adversarial is not None
