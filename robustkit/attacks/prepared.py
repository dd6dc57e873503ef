"""The network that a search steps by: a copy of the victim whose passes cost less.

The same function, of the same weights, without what a pass need not do: BatchNorm is folded into
the layer before it, images lie in memory as convolutions want them, and what the first layer sends
back to few channels is one matrix product. Only a network that can be traced is prepared, and only
if copy and network agree, in logits and in gradients; any other is stepped by as it is. Verdicts
are the victim's own in any case.
"""

from contextlib import suppress

import torch
from torch import Tensor, fx, nn

from robustkit.attacks.rewriting import rewritten
from robustkit.checkpoint.adapter import Classifier, replica
from robustkit.network import (
    PlainNetwork,
    answer,
    apart,
    followed,
    gradient,
    levelled,
    settings_kept,
    spread,
)

AGREEMENT = 1e-4
"""of the logits' spread: how far the copy's logits may lie from the network's. Folding rounds
otherwise; measured at most 3e-6, on a ResNet-18"""
GRADIENT_AGREEMENT = 1e-3
"""likewise of gradients, of their norm, at more than half of the images: a unit at its kink may go
either way"""
NOISE = 0.1
"""share of noise in the images that are compared"""
COMPARED, LEAST = 2**18, 4
"""numbers in the images that are compared, and how many images at least, of any size"""
SMALL = 16
"""images of so few numbers that as many may be compared are small: 64 × 64 pixels in colour"""
COST = 8
"""passes that an image is compared by: through both networks, with a way back, which counts as two,
and without"""
PAYS = 5
"""passes that a search must plan for each one of comparing: a copy saves a fifth, as measured on a
ResNet-50"""


class PreparedNetwork(PlainNetwork):
    """Operations of a network, traced, behind its normalisation: pixels in [0, 1] to logits."""

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, network: fx.GraphModule, mean: Tensor | None, std: Tensor | None) -> None:
        super().__init__()
        self.network = network
        held = (*network.parameters(), *network.buffers())
        self.in_half = any(tensor.dtype == torch.float16 for tensor in held)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.eval()
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to N × K."""
        if not self.in_half:
            logits: Tensor = self.network(self.normalised(x))
            return logits
        own = followed(x)
        return levelled(self.network(self.normalised(own)), own)

    def normalised(self, x: Tensor) -> Tensor:
        """What the network itself is given."""
        if self.mean is None or self.std is None:
            return x
        return (x - self.mean) / self.std


def prepare(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy that gives the same logits and gradients at less cost; else the model itself.

    Args:
        model: frozen, in eval mode, from pixels in [0, 1] to logits; it draws nothing at random.
        images: a few, N × C × H × W, on which copy and model are compared; of large ones the first.
    """
    # whatever a network of others does to a tracer, the network itself is there to step by
    with suppress(Exception, SystemExit), settings_kept():
        if isinstance(model, Classifier):
            network = rewritten(replica(model.network))
            prepared = PreparedNetwork(network, model.mean, model.std)
        else:
            prepared = PreparedNetwork(rewritten(replica(model)), None, None)
        if agrees(prepared, model, images[: _count(images)]):
            return prepared
    return model


def pays(images: Tensor, passes: float) -> bool:
    """Whether a copy may save more passes than it takes to compare it.

    Where passes are cheap comparing is, too, and it is always done.

    Args:
        images: as `prepare` is given.
        passes: over one image, that searches plan in all.
    """
    few = images[: _count(images)]
    return SMALL * images[0].numel() <= COMPARED or passes >= PAYS * COST * len(compared(few))


def _count(images: Tensor) -> int:
    """How many images are compared."""
    return min(len(images), max(LEAST, COMPARED // max(1, images[0].numel())))


def agrees(copy: nn.Module, model: nn.Module, images: Tensor) -> bool:
    """Whether a copy answers as the network does, and sends the same back."""
    x = compared(images)
    ours, ours_back = logits_and_gradient(copy, x)
    theirs, theirs_back = logits_and_gradient(model, x)
    with torch.no_grad():  # a network may say something else where nobody asks for gradients
        pairs = [(ours, theirs), (answer(copy, x), answer(model, x))]
    if not all(_close(one, other) for one, other in pairs):
        return False
    if ours_back is None or theirs_back is None:
        return ours_back is theirs_back
    apart = (ours_back - theirs_back).flatten(1).norm(dim=1)
    allowed = GRADIENT_AGREEMENT * theirs_back.flatten(1).norm(dim=1)
    return bool((apart <= allowed).double().mean() > 0.5)


def compared(images: Tensor) -> Tensor:
    """Images and noise on which a copy and its network are compared, N × C × H × W.

    The images alone, with noise, and noise alone: on a plain background units of a max pool tie,
    and rounding decides between them.
    """
    source = torch.Generator().manual_seed(0)
    noise = torch.rand(images.shape, generator=source).to(images)
    return torch.cat([images, (1 - NOISE) * images + NOISE * noise, noise])


def logits_and_gradient(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits, and the gradient of their sum with a weight of its own for each class; None: none."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = answer(network, x)
        if not logits.requires_grad:
            return logits, None
        weights = torch.linspace(-1, 1, logits.shape[1], device=x.device).to(logits)
        return logits.detach(), gradient((logits * weights).sum(), x)


def _close(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or not bool(other.isfinite().all()):
        return False
    return apart(one, other, spread(other)) <= AGREEMENT
