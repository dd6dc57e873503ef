"""A network's operations, traced and rewritten: the same function at less cost."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from robustkit.attacks import first_layer
from robustkit.attacks.pooling import pool_early

LIBRARIES = ("torch", "_operator", "math")
"""whose functions do nothing but answer"""
BATCHNORM = {nn.Conv2d: nn.BatchNorm2d, nn.Linear: nn.BatchNorm1d}
"""what is folded into which layers; subclasses may compute something else"""


class Unknown(Exception):
    """It is not known what a pass through a network does."""


def rewritten(network: nn.Module) -> fx.GraphModule:
    """A network in eval mode as a graph of its operations; the network itself is used up.

    Raises:
        Unknown: a part of it may do more than answer.
        Exception: it cannot be traced.
    """
    if any(_opaque(part) for part in network.modules()):
        raise Unknown
    traced = fx.symbolic_trace(network)
    _check(traced)
    _fold(traced)
    _replace_first(traced)
    pool_early(traced)
    # pools are several times as fast there, and convolutions need not reorder what comes and goes;
    # without pools, what is won is lost where the last layer's input is flattened
    if any(_pools(node, traced) for node in traced.graph.nodes):
        channels_last(traced)
    traced.recompile()
    return traced


def channels_last(network: nn.Module) -> None:
    """Have the convolutions of a network take and leave images with their channels last."""
    network.to(memory_format=torch.channels_last)


def _opaque(part: nn.Module) -> bool:
    hooks = (
        *(part._forward_hooks, part._forward_pre_hooks),
        *(part._backward_hooks, part._backward_pre_hooks),
    )
    return isinstance(part, torch.jit.ScriptModule | fx.GraphModule) or any(hooks)


def _check(traced: fx.GraphModule) -> None:
    """Nothing, if all operations are torch's own; a view is made one of any layout.

    Raises:
        Unknown: there are others, which may do anything, or one that keeps something.
    """
    for node in traced.graph.nodes:
        home = (getattr(node.target, "__module__", None) or "torch").partition(".")[0]
        known = node.op != "call_function" or home in LIBRARIES or node.target is getattr
        # into a buffer or the images, where it would stay
        writes = node.op == "call_method" and str(node.target).endswith("_")
        if not known or (writes and node.args[0].op in ("get_attr", "placeholder")):
            raise Unknown
        if node.op == "call_method" and node.target == "view":
            node.target = "reshape"  # the same, whatever lies behind what in memory


def _fold(traced: fx.GraphModule) -> None:
    """Every BatchNorm after a convolution or linear layer becomes part of its weights.

    In eval mode it is a scale and a shift for each channel, which are those of the rows of weights.
    """
    for norm, before in list(_foldable(traced)):
        own: Any = _part(norm, traced)
        layer = _part(before, traced)
        fuse: Any = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
        traced.set_submodule(str(before.target), fuse(layer, own))
        norm.replace_all_uses_with(before)
        traced.graph.erase_node(norm)
    traced.delete_all_unused_submodules()


def _foldable(traced: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """BatchNorms by running statistics, each with the layer whose output it alone takes."""
    calls = _calls(traced)
    for norm in calls:
        before = norm.args[0] if norm.args else None
        if not isinstance(before, fx.Node) or before not in calls or len(before.users) > 1:
            continue
        own, layer = _part(norm, traced), _part(before, traced)
        fits = BATCHNORM.get(type(layer)) is type(own) and own.running_mean is not None
        if fits and _once(before, calls):
            yield norm, before


def _replace_first(traced: fx.GraphModule) -> None:
    """A convolution of the images themselves becomes one with a faster way back to them."""
    calls = _calls(traced)
    for node in calls:
        layer, given = _part(node, traced), node.args[0] if node.args else None
        of_images = isinstance(given, fx.Node) and given.op == "placeholder"
        if of_images and first_layer.fits(layer) and _once(node, calls):
            traced.set_submodule(str(node.target), first_layer.ImageConvolution(layer))


def _pools(node: fx.Node, traced: fx.GraphModule) -> bool:
    name = type(_part(node, traced)).__name__ if node.op == "call_module" else node.name
    return "pool" in name.lower()


def _calls(traced: fx.GraphModule) -> list[fx.Node]:
    return [node for node in traced.graph.nodes if node.op == "call_module"]


def _part(node: fx.Node, traced: fx.GraphModule) -> nn.Module:
    return traced.get_submodule(str(node.target))


def _once(node: fx.Node, calls: list[fx.Node]) -> bool:
    return sum(other.target == node.target for other in calls) == 1
