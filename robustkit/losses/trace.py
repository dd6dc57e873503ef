"""A forward pass that notes what happens at chosen layers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.conv import _ConvNd

from robustkit.errors import InputError, UnknownName
from robustkit.losses.loss import unwrapped

WORDS = ("all", "hidden", "input", "output")
"""layers that every network has"""


class Use(NamedTuple):
    """One use of a layer in a forward pass."""

    layer: nn.Module
    inputs: tuple[Tensor, ...]
    """what went in, by position"""
    edge: GradientEdge
    """what came out: its place in the graph, which holds even if it is overwritten later"""
    units: int
    """numbers per image that came out"""


class Trace(NamedTuple):
    """A forward pass and the uses of the layers that were watched, in order."""

    images: Tensor
    """N × C × H × W, a leaf that requires a gradient"""
    logits: Tensor
    """N × K"""
    uses: list[Use]


class Point(NamedTuple):
    """Where a margin is imposed: a representation of the images inside the network."""

    edge: GradientEdge
    units: int
    """numbers per image"""


def names(layers: Sequence[str], model: nn.Module) -> list[str]:
    """The layers that words such as "all" stand for; each once, in the order given.

    `hidden` is the output of every convolution and linear layer except a linear layer at the end,
    whose output is the logits; `all` is the input and the hidden layers.

    Raises:
        UnknownName: neither a word nor in `model.named_modules()`.
    """
    modules = dict(unwrapped(model).named_modules())
    hidden = [name for name, module in modules.items() if isinstance(module, nn.Linear | _ConvNd)]
    if hidden and isinstance(modules[hidden[-1]], nn.Linear):
        hidden.pop()
    words = {"all": ["input", *hidden], "hidden": hidden}
    for layer in layers:
        if layer not in WORDS and not (layer and layer in modules):
            raise UnknownName("layer", layer, [*WORDS, *filter(None, modules)])
    return list(dict.fromkeys(name for layer in layers for name in words.get(layer, [layer])))


def modules_of(layers: Iterable[str], model: nn.Module) -> list[nn.Module]:
    """The modules among layers as `names` gives them."""
    return [unwrapped(model).get_submodule(layer) for layer in layers if layer not in WORDS]


def trace(model: nn.Module, images: Tensor, layers: Iterable[nn.Module]) -> Trace:
    """Run the network on images, N × C × H × W, and note every use of the layers.

    Raises:
        InputError: a layer returns something other than a tensor that depends on the images.
    """
    uses: list[Use] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if not isinstance(output, Tensor) or not output.requires_grad:
            raise InputError(
                f"large-margin: a {type(layer).__name__} of the network returns "
                "no tensor with a gradient; choose another layer"
            )
        units = output.numel() // max(len(images), 1)
        uses.append(Use(layer, inputs, get_gradient_edge(output), units))

    images = images.detach().requires_grad_()
    handles = [layer.register_forward_hook(note) for layer in dict.fromkeys(layers)]
    try:
        logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return Trace(images, logits, uses)


def points(traced: Trace, layers: Sequence[str], model: nn.Module) -> list[Point]:
    """Where the margins of layers, as `names` gives them, are imposed in a forward pass.

    Raises:
        InputError: the forward pass uses a layer not exactly once.
    """
    ends = {"input": traced.images, "output": traced.logits}
    return [
        Point(get_gradient_edge(end), end[:1].numel())
        if (end := ends.get(layer)) is not None
        else _point(traced, layer, unwrapped(model).get_submodule(layer))
        for layer in layers
    ]


def _point(traced: Trace, name: str, layer: nn.Module) -> Point:
    uses = [use for use in traced.uses if use.layer is layer]
    if len(uses) != 1:
        raise InputError(
            f"large-margin: the network uses layer {name!r} {len(uses)} times in a forward pass; "
            "a margin needs a layer that is used once"
        )
    return Point(uses[0].edge, uses[0].units)


def gradients(
    outputs: Tensor, edges: Sequence[GradientEdge], *, differentiable: bool = False
) -> list[Tensor | None]:
    """The gradient of the sum of `outputs` at each edge; the graph is kept."""
    found = torch.autograd.grad(
        outputs.sum(),
        edges,
        create_graph=differentiable,
        retain_graph=True,
        allow_unused=True,
    )
    return list(found)
