"""A network in low precision, for the steps of a search; never for a verdict.

How far its logits err is measured. Whoever comes so near to the boundary that the error could
decide is searched on in float32 (`step_model.py`).
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from robustkit.attacks.prepared import PreparedNetwork, compared, logits_and_gradient
from robustkit.attacks.rewriting import channels_last
from robustkit.checkpoint.adapter import Classifier, freeze, replica
from robustkit.device import fitting
from robustkit.errors import InputError, one_line
from robustkit.network import PlainNetwork, apart, followed, levelled, spread
from robustkit.parsing import in_percent
from robustkit.switches import tf32

Low = Literal["tf32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
LOGITS = 5e-2
"""of the logits' spread: how far it may err at most. Measured: bfloat16 7e-3 on a ResNet-18"""
DIRECTION = 0.8
"""cosine of the angle to float32's gradient, at more than half of the images at least"""
SAFETY = 2.0
"""times the largest error measured is how near to the boundary float32 takes over"""


@dataclass(frozen=True, slots=True)
class LowPrecision:
    """A network whose multiplications are of low precision."""

    name: Low
    network: nn.Module
    """float32 N × C × H × W in [0, 1] to float32 N × K"""
    error: float
    """of the lead of a logit over another, at most"""

    def unsure(self, logits: Tensor, classes: Tensor, targeted: bool) -> Tensor:
        """Which rows are fooled by these logits, or so nearly that their error may hide it, N."""
        lead = _lead(logits, classes)
        left = -lead if targeted else lead
        # what is infinite or no number here may be another one in float32
        return ~((left > self.error) & logits.isfinite().all(1))

    def multiplied(self) -> AbstractContextManager[None]:
        """With the multiplications of this precision, forward and back."""
        return tf32(allowed=True) if self.name == "tf32" else nullcontext()


def lowered(model: nn.Module, search: nn.Module, precision: Low, images: Tensor) -> LowPrecision:
    """A network in low precision, tried beside the model on a few images.

    Args:
        model: frozen, in float32, from pixels in [0, 1] to logits; it draws nothing at random.
        search: the copy that is searched by in float32, or the model itself.
        precision: of multiplications.
        images: a few, N × C × H × W.

    Raises:
        InputError: the network fails in it, or says something else.
    """
    network = search if precision == "tf32" else _cast(search, DTYPES[precision])
    trial = LowPrecision(precision, network, 0.0)
    x = compared(images)
    try:
        with trial.multiplied():
            ours = _passed(network, x)
    except Exception as error:  # a network of others may refuse in any way
        raise InputError(
            f"--precision {precision}: the network fails in it ({one_line(error)}); use float32"
        ) from error
    theirs = _passed(model, x)
    if reason := _apart(ours, theirs):
        raise InputError(f"--precision {precision}: {reason}; use float32")
    differences = (ours[0] - theirs[0]).double()
    largest = (differences.amax(1) - differences.amin(1)).max()
    return LowPrecision(precision, network, SAFETY * float(largest))


def _passed(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """`logits_and_gradient` of all images, a few at a time where memory is too little for all."""

    def by(size: int) -> tuple[Tensor, Tensor | None]:
        logits, back = zip(
            *(logits_and_gradient(network, p) for p in torch.split(x, size)), strict=True
        )
        found = [part for part in back if part is not None]
        return torch.cat(logits), torch.cat(found) if len(found) == len(back) else None

    return fitting(by, len(x))


def _cast(search: nn.Module, dtype: torch.dtype) -> nn.Module:
    if isinstance(search, PreparedNetwork):
        return _CastNetwork(search, dtype)
    # one of weights of that type takes pixels of that type, and gives float32
    if not isinstance(search, Classifier):
        return freeze(Classifier(replica(search).to(dtype)))
    network = replica(search.network).to(dtype)
    made = Classifier(network, classes=search.classes, expected=search.expected)
    made.mean, made.std = search.mean, search.std  # in float32, before pixels are cut
    return freeze(made)


class _CastNetwork(PlainNetwork):
    """A prepared network with weights of another type; it takes and gives float32."""

    def __init__(self, prepared: PreparedNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        self.normalised = prepared.normalised
        self.network = replica(prepared.network).to(dtype)
        channels_last(self.network)
        self.dtype = dtype
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to N × K."""
        own = followed(x)
        logits: Tensor = self.network(self.normalised(own).to(self.dtype))
        return levelled(logits, own)


def _lead(logits: Tensor, classes: Tensor) -> Tensor:
    """How far each row's class lies above all others, N."""
    own = logits.gather(1, classes[:, None])[:, 0]
    return own - logits.scatter(1, classes[:, None], -torch.inf).amax(1)


def _apart(ours: tuple[Tensor, Tensor | None], theirs: tuple[Tensor, Tensor | None]) -> str:
    """What a network says otherwise in low precision, in words; "" if nothing."""
    (logits, back), (true, true_back) = ours, theirs
    if logits.shape != true.shape or not bool(logits.isfinite().all()):
        return "the network's logits are NaN or infinite in it"
    own = (true != true[:1]).any(0)  # a masked class is rounded, too, and nobody asks how far
    if (share := apart(logits[:, own], true[:, own], spread(true))) > LOGITS:
        return f"the network's logits differ by {share:.2g} of their spread"
    if back is None or true_back is None:
        return "" if back is true_back else "the network has no gradient in it"
    # by unit vectors, since torch takes the shortest ones for zero
    one, other = (normalize(g.flatten(1).double(), eps=1e-300) for g in (back, true_back))
    angles = (one * other).sum(1)
    # a gradient that is zero has no direction
    flat = (true_back.flatten(1) == 0).all(1)
    agree = float(((angles >= DIRECTION) | flat).double().mean())
    if agree <= 0.5:
        part = in_percent(1 - agree, 0)
        return f"at {part} of the images the network's gradient points in another direction"
    return ""
