"""A forward pass that notes what happens at chosen layers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.conv import _ConvNd

from robustkit.errors import InputError, UnknownName
from robustkit.losses.loss import unwrapped

WORDS = ("all", "hidden", "input", "output")
"""layers that every network has"""
WORD, MODULE = "word:", "module:"
"""what a layer begins with where a word is also the name of a module"""


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


class Representation(NamedTuple):
    """Where a margin is imposed: a representation of the images inside the network."""

    edge: GradientEdge
    units: int
    """numbers per image"""


def layer_names(layers: Sequence[str], model: nn.Module) -> list[str]:
    """The layers that words such as "all" stand for; each once, in the order given.

    `hidden` is the output of every convolution and linear layer except a linear layer at the end,
    whose output is the logits; `all` is the input and the hidden layers. In what is returned,
    "input" and "output" are the network's ends, and a module of such a name is `module:input`.

    Raises:
        UnknownName: neither a word nor in `model.named_modules()`.
        InputError: a word that is also the name of a module, or that stands for no layer here.
    """
    modules = {_spelled(name): m for name, m in unwrapped(model).named_modules() if name}
    hidden = [name for name, module in modules.items() if isinstance(module, nn.Linear | _ConvNd)]
    if hidden and isinstance(modules[hidden[-1]], nn.Linear):
        hidden.pop()
    words = {"all": ["input", *hidden], "hidden": hidden}
    meant = [_meant(layer, modules) for layer in layers]
    if "hidden" in meant and not hidden:
        raise InputError("large-margin: the network has no hidden layer; choose input or output")
    return list(dict.fromkeys(name for layer in meant for name in words.get(layer, [layer])))


def _meant(layer: str, modules: Mapping[str, nn.Module]) -> str:
    """A layer as the user wrote it, as a word or a key of `modules`."""
    if (word := layer.removeprefix(WORD)) in WORDS:
        if word == layer and MODULE + layer in modules:
            raise InputError(
                f"large-margin: layer {layer!r} may mean the network's module of that name or "
                f"what the word stands for; write {MODULE}{layer} or {WORD}{layer}"
            )
        return word
    if (name := _spelled(layer.removeprefix(MODULE))) not in modules:
        raise UnknownName("layer", layer, [*WORDS, *modules])
    return name


def _spelled(name: str) -> str:
    """A module's name as no word is spelled."""
    return MODULE + name if name in WORDS or name.startswith((WORD, MODULE)) else name


def _module(layer: str, model: nn.Module) -> nn.Module:
    """The module of a layer as `layer_names` gives it."""
    return unwrapped(model).get_submodule(layer.removeprefix(MODULE))


def modules_of(layers: Iterable[str], model: nn.Module) -> list[nn.Module]:
    """The modules among layers as `layer_names` gives them."""
    return [_module(layer, model) for layer in layers if layer not in WORDS]


def trace(model: nn.Module, images: Tensor, layers: Iterable[nn.Module]) -> Trace:
    """Run the network on images, N × C × H × W, and note every use of the layers.

    Raises:
        InputError: a layer returns something other than a tensor that depends on the images.
    """
    uses: list[Use] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if not isinstance(output, Tensor) or not output.requires_grad:
            raise InputError(
                f"large-margin: a layer of type {type(layer).__name__} returns no tensor with a "
                "gradient; choose another layer"
            )
        # the edge, not the tensor: an in-place ReLU behind the layer would give the tensor another
        # place in the graph, and the margin would be taken behind the ReLU
        units = output.numel() // max(len(images), 1)
        uses.append(Use(layer, inputs, get_gradient_edge(output), units))

    # a leaf of this call's own: the caller's images neither get a gradient nor lend a graph
    images = images.detach().requires_grad_()
    handles = [layer.register_forward_hook(note) for layer in dict.fromkeys(layers)]
    try:
        logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return Trace(images, logits, uses)


def representations(traced: Trace, layers: Sequence[str], model: nn.Module) -> list[Representation]:
    """Where the margins of layers, as `layer_names` gives them, are imposed in a forward pass.

    Raises:
        InputError: the forward pass uses a layer not exactly once.
    """
    ends = {"input": traced.images, "output": traced.logits}
    return [
        Representation(get_gradient_edge(end), end[:1].numel())
        if (end := ends.get(layer)) is not None
        else _representation(traced, layer, _module(layer, model))
        for layer in layers
    ]


def _representation(traced: Trace, name: str, layer: nn.Module) -> Representation:
    uses = [use for use in traced.uses if use.layer is layer]
    if len(uses) != 1:
        raise InputError(
            f"large-margin: the network uses layer {name!r} {len(uses)} times in a forward pass; "
            "a margin needs a layer that is used once"
        )
    return Representation(uses[0].edge, uses[0].units)


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
