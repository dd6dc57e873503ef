"""The large-margin gradient in one backward pass, where the gradient norms are held constant.

Write d_nj = f_y − f_j for image n and other class j. With the norms of their gradients constant the
loss L is a function of the numbers d_nj alone, and the chain rule reads

    ∂L/∂w = Σ_n Σ_j s_nj ∂d_nj/∂w,    s_nj = ∂L/∂d_nj.

At a layer's output z, the loss's signal is therefore Σ_j s_nj g_nj, with g_nj = ∂d_nj/∂z_n the
signal that the differences alone send back. The norms need just these g, and s is known as soon as
they are. So one pass per j gives g at every layer, without the gradient of any weight; the weights'
own gradients follow from the scaled signals: for z = W x, ∂L/∂W = Σ_n (Σ_j s_nj g_nj) x_nᵀ. Input
and weight gradients are each computed once; differentiating L would send a second signal back.

That holds where images do not see each other, or s_nj would have to scale image n's share within
every other's signal, and where only layers known here are trained.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm

from robustkit.losses.trace import Trace, Use, gradients

KINDS = (nn.Linear, nn.Conv2d)
"""kinds of layers whose weight gradients are known here; subclasses may compute something else"""


class Signals(NamedTuple):
    """The gradient of one sum of logit differences."""

    places: list[Tensor | None]
    """where margins are imposed"""
    layers: list[Tensor | None]
    """at the output of every use of a watched layer"""


def known_layers(model: nn.Module) -> list[nn.Module]:
    """The modules whose way to send a signal back to their input is known here."""
    return [module for module in model.modules() if type(module) in KINDS]


def trainable_layers(model: nn.Module) -> list[nn.Module]:
    """The modules with parameters of their own that are trained."""
    return [module for module in model.modules() if _trained(module)]


def obstacle(model: nn.Module) -> str:
    """Why one backward pass cannot give this network's gradient; empty if nothing is known."""
    for name, module in model.named_modules():
        # statistics of the batch make every image's logits depend on all images
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            return f"batch norm {name!r} couples the images of a batch"
        if not _trained(module):
            continue
        if type(module) not in KINDS or isinstance(getattr(module, "padding", 0), str):
            return f"the weights of {name!r}, a {type(module).__name__}, have no fused gradient"
        if getattr(module, "padding_mode", "zeros") != "zeros":
            return f"layer {name!r} does not pad with zeros"
        if _hooked(module):
            return f"layer {name!r} has hooks, which would not see its gradient"
    return ""


def _trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _hooked(module: nn.Module) -> bool:
    hooks = [module._forward_hooks, module._forward_pre_hooks]
    hooks += [module._backward_hooks, module._backward_pre_hooks]
    for parameter in module.parameters(recurse=False):
        # torch keeps both as None until the first is registered
        hooks += [parameter._backward_hooks or {}, parameter._post_accumulate_grad_hooks or {}]
    return any(hooks)


def signals(traced: Trace, output: Tensor, places: Sequence[GradientEdge | None]) -> Signals:
    """The gradient of the sum of `output` at places and watched layers; None means the images.

    Where convolutions or linear layers take the images as they are, the gradient there is made
    from theirs, faster than torch's own.
    """
    first = any(_takes_images(use, traced) for use in traced.uses)
    # an edge's gradient is asked for, never a weight's: that is what spares the weights' pass
    edges = [use.edge for use in traced.uses]
    for place in places:
        if place is not None:
            edges.append(place)
        elif not first:
            edges.append(get_gradient_edge(traced.images))
    found = gradients(output, edges)
    layers, rest = found[: len(traced.uses)], iter(found[len(traced.uses) :])
    return Signals(
        [_at_images(traced, layers) if place is None and first else next(rest) for place in places],
        layers,
    )


def at_places(
    traced: Trace, output: Tensor, places: Sequence[GradientEdge | None]
) -> list[Tensor | None]:
    """As `signals`, but at places only: for another pass to find the gradients of the weights."""
    takers = [use for use in traced.uses if None in places and _takes_images(use, traced)]
    return signals(traced._replace(uses=takers), output, places).places


def _at_images(traced: Trace, layers: Sequence[Tensor | None]) -> Tensor:
    """The signal at the images from those at the layers that take the images as they are."""
    sent = [
        input_gradient(use, signal)
        for use, signal in zip(traced.uses, layers, strict=True)
        if _takes_images(use, traced) and signal is not None
    ]
    return torch.stack(sent).sum(0) if len(sent) > 1 else sent[0]


def _takes_images(use: Use, traced: Trace) -> bool:
    return type(use.layer) in KINDS and use.inputs[0] is traced.images


def input_gradient(use: Use, signal: Tensor) -> Tensor:
    """What a linear layer or convolution sends back to its input, given its output's signal."""
    layer = use.layer
    if not isinstance(layer, nn.Conv2d):
        return signal @ _weight(layer, signal)
    columns = layer.weight[0].numel()
    if signal.device.type != "cpu" or layer.groups > 1 or columns > layer.out_channels:
        return _convolution(layer, use.inputs[0], signal, (True, False, False))[0]
    # one matrix product, Wᵀ times the signal, and its products added up where their taps overlap:
    # oneDNN takes four times as long where there are few input channels
    (n, channels, height, width), places = use.inputs[0].shape, signal.shape[2:]
    shape = (channels, *layer.kernel_size)
    weight = _weight(layer, signal).flatten(1).T
    if signal.is_contiguous():
        taps = (weight @ signal.flatten(2)).view(n, *shape, *places).movedim((2, 3), (0, 1))
    else:  # channels last: all images' places are the columns of one matrix
        products = weight @ signal.movedim(1, 3).flatten(0, 2).T
        taps = products.view(*shape, n, *places).movedim((0, 3), (3, 2))
    _, (down, across), (top, left), (low, far) = _geometry(layer)
    # a sum of many low-precision numbers is taken in float32
    exact = torch.promote_types(signal.dtype, torch.float32)
    found = taps.new_zeros(n, channels, height + 2 * top, width + 2 * left, dtype=exact)
    # torch's fold does this too, in one and a half times as long
    for y, row in enumerate(taps):
        for x, tap in enumerate(row):
            tall = slice(low * y, low * y + down * (places[0] - 1) + 1, down)
            wide = slice(far * x, far * x + across * (places[1] - 1) + 1, across)
            found[:, :, tall, wide] += tap
    return found[:, :, top : top + height, left : left + width]


def accumulate(
    uses: Sequence[Use], sent: Sequence[Sequence[Tensor | None]], scales: Tensor
) -> None:
    """Add to the gradients of weights and biases what the scaled signals are worth.

    Args:
        uses: U uses of layers.
        sent: the signals at each use, k × U.
        scales: N × k.
    """
    for i, use in enumerate(uses):
        parts = [(g, s) for row, s in zip(sent, scales.T, strict=True) if (g := row[i]) is not None]
        if parts and _trained(use.layer):
            _accumulate(use, parts)


def _accumulate(use: Use, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Add to one layer's gradients, from signals N × … and their scales N."""
    signal, scale = parts[0]
    x = use.inputs[0].detach().to(signal.dtype)
    # a product may be scaled at either factor; the smaller one is cheaper
    if len(parts) == 1 and x.numel() < signal.numel():
        x = _scaled(x, scale)
    else:
        signal = sum((_scaled(*part) for part in parts[1:]), start=_scaled(signal, scale))
        scale = torch.ones_like(scale)
    _add(use.layer.weight, lambda: _weight_gradient(use.layer, x, signal))
    _add(use.layer.bias, lambda: _bias_gradient(use.layer, signal, scale))


def _add(parameter: object, gradient: Callable[[], Tensor]) -> None:
    if not isinstance(parameter, nn.Parameter) or not parameter.requires_grad:
        return
    found = gradient().to(parameter.dtype)
    parameter.grad = found if parameter.grad is None else parameter.grad.add_(found)


def _weight_gradient(layer: nn.Module, x: Tensor, signal: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer, x, signal, (False, True, False))[1]
    return signal.flatten(0, -2).T @ x.flatten(0, -2)


def _bias_gradient(layer: nn.Module, signal: Tensor, scale: Tensor) -> Tensor:
    if not isinstance(layer, nn.Conv2d):
        sums = signal.flatten(1, -2).sum(1) if signal.ndim > 2 else signal
    elif signal.is_contiguous():
        # a product with ones is several times as fast as a sum over the last dimensions
        sums = signal.flatten(2) @ signal.new_ones(signal.shape[2:].numel())
    else:
        sums = signal.sum((2, 3))
    return scale @ sums.to(scale.dtype)


def _convolution(
    layer: nn.Conv2d, x: Tensor, signal: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a convolution's input, weight and bias, those that are wanted."""
    _, stride, padding, dilation = _geometry(layer)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        signal,
        x.detach(),
        _weight(layer, signal),
        None,
        stride,
        padding,
        dilation,
        False,
        (0, 0),
        layer.groups,
        wanted,
    )
    return found


def _geometry(layer: nn.Conv2d) -> tuple[Any, ...]:
    """Kernel size, stride, padding and dilation, two numbers each."""
    return layer.kernel_size, layer.stride, layer.padding, layer.dilation


def _weight(layer: nn.Module, like: Tensor) -> Tensor:
    """A layer's weight as a plain tensor of the same kind of number."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach().to(like.dtype)


def _scaled(values: Tensor, scale: Tensor) -> Tensor:
    """Each image's values, N × …, times its number."""
    return values * scale.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
