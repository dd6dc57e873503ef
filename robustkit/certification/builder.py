"""A bound graph in the making: what the exported program's nodes have become so far."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from robustkit.certification.graph import (
    Input,
    Shape,
    Step,
    Unsupported,
    averaging,
    moving,
    scaling,
)
from robustkit.certification.roundoff import OVERFLOW
from robustkit.certification.tracing import BATCH


class Builder:
    """Steps, and which of them or which weight each node is."""

    def __init__(self, shape: Shape) -> None:
        self.steps: list[Step] = [Input(shape)]
        self.place: dict[fx.Node, int] = {}
        """the step that gives a node's value"""
        self.constant: dict[fx.Node, Tensor] = {}

    def averaged(
        self, node: fx.Node, x: fx.Node, mapped: Callable[[Tensor], Tensor], count: int
    ) -> None:
        """Means of so many numbers at most."""
        zero = self.zero(x)
        self.add(node, averaging(self.place[x], shape_of(node), mapped, zero, count))

    def moved(self, node: fx.Node, x: fx.Node, mapped: Callable[[Tensor], Tensor]) -> None:
        """Numbers in another place; the images stay apart."""
        self.add(node, moving(self.place[x], shape_of(node), mapped, self.zero(node)))

    def zero(self, x: fx.Node) -> Tensor:
        """A float64 zero where the node is computed, of shape 1."""
        return torch.zeros(1, dtype=torch.float64, device=self.device(x))

    def diagonal(
        self, node: fx.Node, x: fx.Node, w: Tensor, offset: Tensor, constants: Tensor, terms: int
    ) -> None:
        """A factor and an offset for each number, as `graph.scaling`."""
        shape = self.source(node, x).shape
        if not bool((w.abs() < OVERFLOW).all()):
            raise Unsupported(f"a factor that float32 may not hold: {named(node)}")
        self.add(node, scaling(self.place[x], shape, w, offset, constants, terms))

    def add(self, node: fx.Node, step: Step) -> None:
        """A step that gives the node's value."""
        self.steps.append(step)
        self.place[node] = len(self.steps) - 1

    def index(self, node: fx.Node, x: Any) -> int:
        """The step that gives a value which depends on the images."""
        if not isinstance(x, fx.Node) or x not in self.place:
            raise Unsupported(named(node))
        return self.place[x]

    def source(self, node: fx.Node, x: Any) -> Step:
        """That step itself."""
        return self.steps[self.index(node, x)]

    def plane(self, node: fx.Node, x: Any) -> Shape:
        """The shape C, H, W of one image's result; fewer numbers would take images for channels."""
        shape = self.source(node, x).shape
        if len(shape) != 3:
            raise Unsupported(f"not of channels, height and width: {named(node)}")
        return shape

    def device(self, x: fx.Node) -> torch.device:
        """Where a node is computed."""
        device: torch.device = x.meta["val"].device
        return device

    def fixed(self, node: fx.Node, value: Any) -> Tensor:
        """A weight; what depends on the images is none."""
        if value not in self.constant:
            raise Unsupported(f"multiplies results that both depend on the images: {named(node)}")
        return self.constant[value]

    def bias(self, node: fx.Node, value: Any) -> Tensor:
        """A weight, or 0 where there is none."""
        if value is None:
            example: torch.device = node.meta["val"].device
            return torch.zeros(1, dtype=torch.float64, device=example)
        return self.fixed(node, value)

    def broadcast(self, node: fx.Node, x: Any, value: Any) -> Tensor:
        """A constant shaped to broadcast over one image's result, the same for every image."""
        shape = self.source(node, x).shape
        if isinstance(value, fx.Node):
            c = self.fixed(node, value)
        else:
            c = torch.tensor(float(value), dtype=torch.float64, device=self.device(x))
        if c.dim() == len(shape) + 1 and len(c) == 1:
            c = c[0]
        fits = all(
            size in (1, side) for size, side in zip(c.shape[::-1], shape[::-1], strict=False)
        )
        if c.dim() > len(shape) or not fits:
            raise Unsupported(f"a constant that differs between images: {named(node)}")
        return c.double()


def shape_of(node: fx.Node) -> Shape:
    """The shape of one image's result."""
    whole = tuple(node.meta["val"].shape)
    if not whole or whole[0] != BATCH:
        raise Unsupported(f"mixes images: {named(node)}")
    return whole[1:]


def named(node: fx.Node) -> str:
    """The operation, and the module of the network that does it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    name = getattr(kind, "__name__", str(kind)).rsplit(".", 1)[-1]
    where = f" in {path or 'the network'} ({name})" if name else ""
    return f"no bounds for {node.target}{where}"
