"""Asking a network: whatever it raises is told in its own words, as one error of ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from robustkit.errors import NetworkFailed, RobustkitError, one_line

ROUNDED = 4 * torch.finfo(torch.float32).eps
"""of a logit: what float32 may make of it otherwise, however little it says beside an offset"""
FAR = 300
"""times as far below the top as others: a mask; among a trained network's own logits it is 10"""
MASKED_OF = 4
"""images of which such a distance is taken"""
NO_MEMORY = ("unable to find an engine to execute", "STATUS_ALLOC_FAILED")
"""in which cuDNN and cuBLAS tell that there is none for what they work in"""


@contextmanager
def asked(doing: str) -> Iterator[None]:
    """A pass through a network of others, forward or back; `doing` says which.

    A lack of memory is raised as such, in whatever words, since a smaller batch may help.

    Raises:
        NetworkFailed: it raised anything, were it the end of the process.
    """
    try:
        yield
    except (RobustkitError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        if begun and any(words in str(error) for words in NO_MEMORY):
            raise torch.OutOfMemoryError(one_line(error)) from error
        raise NetworkFailed(f"the network failed {doing}: {one_line(error)}") from error


class PlainNetwork(torch.nn.Module):
    """A network of known operations alone: a pass answers and does nothing else.

    It writes neither into its input nor into what it returned before, sets nothing, keeps nothing.
    """


@contextmanager
def settings_kept() -> Iterator[None]:
    """Set grad mode and default type back after code of others ran."""
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        # asked first: torch.export would write down what is set, though it changes nothing
        if torch.is_grad_enabled() != grad:
            torch.set_grad_enabled(grad)
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)


def answer(network: Callable[[Tensor], Any], x: Tensor) -> Any:
    """What a network of others returns for images, N × C × H × W, and nothing else that it does.

    It is given a copy of the images, which it may overwrite; a tensor that it returns is copied,
    since it may be a buffer that each pass fills anew. Grad mode, default type and eval mode are
    set back.

    Raises:
        NetworkFailed: it raised something, as one does that takes other shapes.
    """
    if isinstance(network, PlainNetwork):
        return _asked_plainly(network, x)
    module = network if isinstance(network, torch.nn.Module) and not trains(network) else None
    try:
        with (
            settings_kept(),
            asked(f"on images of shape {'×'.join(map(str, x.shape[1:]))}"),
        ):
            output = network(x.clone())
    finally:
        if module is not None and any(map(trains, module.modules())):
            module.eval()
    return kept(output) if isinstance(output, Tensor) else output


def trains(part: torch.nn.Module) -> bool:
    """Whether a part is in training mode; a frozen TorchScript program has no mode at all."""
    return bool(getattr(part, "training", False))


def _asked_plainly(network: PlainNetwork, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        logits: Tensor = network(x)
        return logits
    with torch.inference_mode():
        logits = network(x)
    return logits.clone()  # no tensor of inference mode, which later steps could not change


def kept(output: Tensor) -> Tensor:
    """A copy, which a later pass leaves alone; without a graph where no gradient is wanted."""
    return output.clone() if torch.is_grad_enabled() else output.detach().clone()


def gradient(value: Tensor, x: Tensor, **options: Any) -> Any:
    """The gradient of what a network answered in its pixels; options are `torch.autograd.grad`'s.

    It may be written to. None where `allow_unused` is set and `x` plays no part.

    Raises:
        NetworkFailed: an operation of the network's own broke on the way back.
    """
    with asked("on the way back to its pixels"):
        found = torch.autograd.grad(value, x, **options)[0]
    # autograd may hand out one number for all pixels
    return found if found is None else found.contiguous()


def followed(x: Tensor) -> Tensor:
    """Images as a tensor of their own, on which a hook may stand, where a gradient is wanted."""
    return x.view_as(x) if torch.is_grad_enabled() and x.requires_grad else x


def levelled(logits: Tensor, x: Tensor) -> Tensor:
    """Logits, of few bits as float32; `x`, N × C × H × W, are their pixels, `followed`.

    What a loss that saturates sends back may be too small for what a network computes in: 6e-8 is
    float16's smallest number. It passes through the network with its largest number in each row
    near 1, and comes to the pixels on the scale that it was sent with, a power of two: where
    nothing is too small every bit is the same.
    """
    if not (torch.is_grad_enabled() and logits.requires_grad and x.requires_grad):
        return logits.float() if logits.dtype.itemsize < 4 else logits
    scale: list[Tensor] = []
    hooked: Any = x

    def rescaled(signal: Tensor) -> Tensor:
        return signal * scale[0].to(signal).view(-1, *[1] * (signal.ndim - 1))

    hooked.register_hook(rescaled)
    found: Tensor = _Levelled.apply(logits, scale)
    return found


class _Levelled(torch.autograd.Function):
    """Logits in float32 at least, whose signal goes back near 1."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.scale, ctx.dtype = scale, logits.dtype
        return logits.float() if logits.dtype.itemsize < 4 else logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        largest = signal.detach().abs().amax(1, keepdim=True)
        exponent = torch.frexp(largest).exponent.clamp(max=127)
        power = torch.ldexp(torch.ones_like(largest), exponent)
        ctx.scale[:] = [torch.where(largest.isfinite(), power, 1)]  # of zeros it is 1
        return (signal / ctx.scale[0]).to(ctx.dtype), None


def spread(logits: Tensor) -> float:
    """How far images' logits, N × K, lie apart: what any difference is measured by.

    What all images share says nothing, however large: a masked class at −1e9, an offset of all
    logits; nor does a mask that moves from image to image. Of images that are all alike it is how
    far a top logit lies above an ordinary one.
    """
    logits = logits.detach().double()
    logits = logits[:, logits.isfinite().any(0)]
    logits = logits[logits.isfinite().all(1)]
    if not logits.numel():
        return 0.0
    logits = _without_masks(logits)
    tops = logits.amax(1) - logits.median(1).values
    own = logits - logits[:1]  # not from the mean, which rounds: a mask comes to 0
    moving = own.bool().any(0)
    found = 0.0
    if bool(moving.any()):
        own, rounded = own[:, moving], ROUNDED * logits[:, moving].abs().amax(1, keepdim=True)
        own = (own - own.mean(1, keepdim=True)).abs()
        found = float(torch.where(own > rounded, own, 0).max())
    return found or float(tops.max()) or float(logits.abs().max())


def _without_masks(logits: Tensor) -> Tensor:
    """Finite logits, N × K, with those that a mask took far below all others lifted to the lowest.

    Masked is what lies behind a gap between the distances from the top, of all images together,
    before which most images have some of their own: a near tie of a few images opens none.
    """
    tops = logits.amax(1, keepdim=True)
    below = tops - logits
    below = torch.where(below > ROUNDED * torch.maximum(tops.abs(), logits.abs()), below, 0)
    order = below[below > 0].sort().values
    if len(logits) < MASKED_OF or len(order) < 2:
        return logits
    leads = torch.where(below > 0, below, torch.inf).amin(1)
    most = leads.sort().values[len(leads) // 2]
    gaps = (order[1:] > FAR * order[:-1]) & (order[:-1] >= most)
    if not bool(gaps.any()):
        return logits
    return torch.maximum(logits, tops - order[int(gaps.int().argmax())])


def apart(one: Tensor, other: Tensor, scale: float) -> float:
    """The largest difference of two logits beyond float32's rounding, as a share of a `spread`."""
    one, other = one.detach().double(), other.detach().double()
    odd = [torch.where(t.isfinite(), 0, t).nan_to_num(nan=1) for t in (one, other)]
    if one.shape != other.shape or not torch.equal(*odd):
        return float("inf")
    # the attack says of which image logits are NaN or infinite
    one, other = (torch.where(t.isfinite(), t, 0) for t in (one, other))
    beyond = (one - other).abs() - ROUNDED * torch.maximum(one.abs(), other.abs())
    return max(0.0, float(beyond.max())) / max(scale, 1e-30)
