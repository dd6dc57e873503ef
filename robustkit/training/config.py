"""What is trained, and how the work is done. Needs no torch."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from robustkit.compression import Scheme
from robustkit.data import Dataset
from robustkit.data.noise import LabelNoise
from robustkit.training.progress import Callbacks
from robustkit.training.recipe import Recipe, follows_rate

Precision = Literal["auto", "float32", "tf32", "bf16", "fp16"]
REVISION = 2
"""raised by whatever changes what the same configuration comes to"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything that decides on the weights that come out."""

    model: str
    """an architecture's name; FILE.py:FUNCTION is imported and called"""
    data: Dataset
    """the training split"""
    loss: str = "cross-entropy"
    """a loss's name; FILE.py:FUNCTION is imported"""
    settings: dict[str, Any] = field(default_factory=dict)
    """of the loss"""
    recipe: Recipe = field(default_factory=Recipe)
    noise: LabelNoise = field(default_factory=LabelNoise)
    fraction: Fraction = Fraction(1)
    """of the images that are not held out"""
    seed: int = 0
    keep: Literal["last", "best"] = "last"
    """best: the epoch with the highest held-out accuracy"""
    clean_selection: bool = False
    """held-out labels are clean, whatever the noise"""
    compress: Scheme | None = None
    memory: bool = True
    """of the compressor: what was not sent is sent later"""
    precision: Precision = "auto"
    deterministic: bool = False

    @property
    def rescale(self) -> bool | None:
        """As in `TrainingKey`."""
        carries = self.compress is not None and self.memory
        return None if not carries or follows_rate(self.recipe) else False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How it is carried out; nothing here changes the weights on a CPU."""

    device: str = "auto"
    fresh: bool = False
    """start anew, whatever was trained before"""
    replace: bool = False
    """start anew where what lies at `out` cannot be gone on from, such as an unfinished training
    with other versions; otherwise that is an error"""
    seconds: float = 30.0
    """between two saved states"""
    snapshots: tuple[int, ...] = ()
    """passes over the data after which the weights are kept in a file of their own, too"""
    scored: bool = False
    """whether the history has, after every pass, what held-out images say by accuracy and by a
    calibrated likelihood"""
    pause: int | None = None
    """pass after which the training stops; without it, it goes on from there to the same weights"""
    callbacks: Callbacks = field(default_factory=Callbacks)
