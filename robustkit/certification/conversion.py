"""From a torch module to the graph that bounds are carried through.

`torch.export` writes down, as an fx graph, which operations the frozen module does to images; each
becomes a step of the bound graph, in float64, or the network is unsupported and the reason names
the operation.
"""

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.nn import functional

from robustkit.certification.graph import (
    Add,
    Affine,
    BoundGraph,
    Input,
    MaxPool,
    Relu,
    Shape,
    Step,
    Unsupported,
    convolution,
    matrix,
    pool_windows,
    scaling,
)
from robustkit.certification.tracing import BATCH, trace

aten = torch.ops.aten


def convert(model: nn.Module, image: Tensor) -> BoundGraph:
    """The steps of a frozen module, in float64, on the device of `image`, C × H × W.

    Raises:
        Unsupported: an operation without bounds, or a module that cannot be exported.
    """
    return _Converter(trace(model, image), tuple(image.shape)).run()


class _Converter:
    """From an exported program to steps."""

    def __init__(self, program: torch.export.ExportedProgram, shape: Shape) -> None:
        self.program = program
        self.steps: list[Step] = [Input(shape)]
        self.place: dict[fx.Node, int] = {}
        """the step that gives a node's value"""
        self.constant: dict[fx.Node, Tensor] = {}
        held = {**program.state_dict, **program.constants}
        self.held = {
            spec.arg.name: held[spec.target]
            for spec in program.graph_signature.input_specs
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
            and spec.target in held
        }

    def run(self) -> BoundGraph:
        with torch.no_grad():
            for node in self.program.graph.nodes:
                if node.op == "placeholder":
                    self._placeholder(node)
                elif node.op == "call_function":
                    self._call(node)
                elif node.op == "output":
                    return self._graph(node)
        raise Unsupported("nothing is returned")

    def _placeholder(self, node: fx.Node) -> None:
        if node.name in self.held:
            self.constant[node] = self.held[node.name].detach()
        else:
            self.place[node] = 0

    def _graph(self, node: fx.Node) -> BoundGraph:
        outputs = node.args[0]
        if not isinstance(outputs, Sequence) or len(outputs) != 1 or outputs[0] not in self.place:
            raise Unsupported("not one tensor of logits that depends on the images is returned")
        last = self.place[outputs[0]]  # type: ignore[index]
        if len(self.steps[last].shape) != 1:
            raise Unsupported("the result is not N × classes")
        return BoundGraph(tuple(self.steps[: last + 1]))

    def _call(self, node: fx.Node) -> None:
        if not any(n in self.place for n in node.all_input_nodes):
            self._fold(node)
            return
        handler = HANDLERS.get(node.target)
        if handler is None:
            raise Unsupported(_named(node))
        handler(self, node, *node.args, **node.kwargs)

    def _fold(self, node: fx.Node) -> None:
        # float64 would compute other weights than the float32 network has, so weights only move
        if node.target not in MOVES:
            raise Unsupported(f"computes with its weights: {_named(node)}")
        value = fx.node.map_arg(node.args, lambda n: self.constant[n])
        self.constant[node] = node.target(*value, **node.kwargs)

    # -- one handler a kind of operation --

    def same(self, node: fx.Node, x: fx.Node, *_: object, **__: object) -> None:
        self.place[node] = self.place[x]

    def dropout(self, node: fx.Node, x: fx.Node, _p: float, train: bool) -> None:
        if train:
            raise Unsupported(f"in training mode: {_named(node)}")
        self.place[node] = self.place[x]

    def first(self, node: fx.Node, x: fx.Node, index: int) -> None:
        if index != 0:
            raise Unsupported(_named(node))
        self.place[node] = self.place[x]

    def convolution(
        self, node: fx.Node, x: fx.Node, weight: fx.Node, bias: Any = None, *rest: Any
    ) -> None:
        w, b = self._fixed(node, weight), self._bias(node, bias)
        inner, shape = self._plane(node, x), _shape(node)
        self._add(node, convolution(self.place[x], inner, shape, w, b, rest))

    def linear(self, node: fx.Node, x: fx.Node, weight: fx.Node, bias: Any = None) -> None:
        self._matrix(node, x, self._fixed(node, weight), self._bias(node, bias))

    def times(self, node: fx.Node, x: fx.Node, weight: fx.Node) -> None:
        w = self._fixed(node, weight)
        if w.dim() != 2:
            raise Unsupported(_named(node))
        self._matrix(node, x, w.t(), w.new_zeros(1))

    def plus_times(self, node: fx.Node, bias: fx.Node, x: fx.Node, weight: fx.Node) -> None:
        self._matrix(node, x, self._fixed(node, weight).t(), self._fixed(node, bias))

    def _matrix(self, node: fx.Node, x: fx.Node, w: Tensor, b: Tensor) -> None:
        if len(self._source(node, x).shape) < 1:
            raise Unsupported(_named(node))
        self._add(node, matrix(self.place[x], _shape(node), w, b))

    def batch_norm(
        self,
        node: fx.Node,
        x: fx.Node,
        weight: Any,
        bias: Any,
        mean: Any,
        variance: Any,
        _momentum: float,
        epsilon: float,
    ) -> None:
        centre, var = self._fixed(node, mean), self._fixed(node, variance)
        gain = torch.ones_like(var) if weight is None else self._fixed(node, weight)
        shift = torch.zeros_like(var) if bias is None else self._fixed(node, bias)
        scale = gain / (var + epsilon).sqrt()
        view = (-1, *[1] * (len(self._source(node, x).shape) - 1))
        # ten roundings: root, quotient, two products and two sums, in whichever order
        self._diagonal(
            node,
            x,
            scale.view(view),
            (shift - centre * scale).view(view),
            (shift.abs() + (centre * scale).abs()).view(view),
            10,
        )

    def any_batch_norm(self, node: fx.Node, x: fx.Node, *arguments: Any, **named: Any) -> None:
        weight, bias, mean, variance, training, momentum, epsilon, *_ = arguments
        if training or named:
            raise Unsupported(f"in training mode: {_named(node)}")
        self.batch_norm(node, x, weight, bias, mean, variance, momentum, epsilon)

    def multiply(self, node: fx.Node, one: Any, other: Any) -> None:
        x, factor = (one, other) if one in self.place else (other, one)
        w = self._broadcast(node, x, factor)
        self._diagonal(node, x, w, w.new_zeros(1), w.new_zeros(1), 2)

    def divide(self, node: fx.Node, x: Any, divisor: Any) -> None:
        w = 1 / self._broadcast(node, x, divisor)
        self._diagonal(node, x, w, w.new_zeros(1), w.new_zeros(1), 2)

    def negate(self, node: fx.Node, x: fx.Node) -> None:
        self.multiply(node, x, -1.0)

    def add(self, node: fx.Node, one: Any, other: Any, alpha: float = 1) -> None:
        if alpha != 1:
            raise Unsupported(_named(node))
        if one in self.place and other in self.place:
            self._sum(node, self._index(node, one), self._index(node, other))
            return
        x, constant = (one, other) if one in self.place else (other, one)
        c = self._broadcast(node, x, constant)
        self._diagonal(node, x, c.new_ones(1), c, c.abs(), 2)

    def subtract(self, node: fx.Node, one: Any, other: Any, alpha: float = 1) -> None:
        if alpha != 1:
            raise Unsupported(_named(node))
        if other not in self.place:
            c = self._broadcast(node, one, other)
            self._diagonal(node, one, c.new_ones(1), -c, c.abs(), 2)
            return
        if one not in self.place:
            c = self._broadcast(node, other, one)
            self._diagonal(node, other, -c.new_ones(1), c, c.abs(), 2)
            return
        minuend = self._index(node, one)
        self.negate(node, other)
        self._sum(node, minuend, self.place[node])

    def _sum(self, node: fx.Node, one: int, other: int) -> None:
        if self.steps[one].shape != self.steps[other].shape:
            raise Unsupported(f"adds results of different shapes: {_named(node)}")
        self._add(node, Add((one, other), self.steps[one].shape))

    def relu(self, node: fx.Node, x: fx.Node, slope: float = 0.0) -> None:
        self._add(node, Relu(self.place[x], _shape(node), slope))

    def leaky(self, node: fx.Node, x: fx.Node, slope: float = 0.01) -> None:
        if not 0 <= slope <= 1:
            raise Unsupported(f"a slope of {slope:g} below zero: {_named(node)}")
        self.relu(node, x, slope)

    def max_pool(self, node: fx.Node, x: fx.Node, *arguments: Any) -> None:
        H, W = self._plane(node, x)[-2:]
        windows = pool_windows(H, W, arguments, self._device(x))
        self._add(node, MaxPool(self.place[x], _shape(node), arguments, windows))

    def reshape(self, node: fx.Node, x: fx.Node, *_: object, **__: object) -> None:
        shape = _shape(node)
        if prod(shape) != prod(self._source(node, x).shape):
            raise Unsupported(f"mixes images: {_named(node)}")
        self._moved(node, x, lambda v: v.reshape(len(v), *shape))

    def permute(self, node: fx.Node, x: fx.Node, order: Sequence[int]) -> None:
        if order[0] != 0:
            raise Unsupported(f"mixes images: {_named(node)}")
        self._moved(node, x, lambda v: v.permute(*order))

    def mean(
        self, node: fx.Node, x: fx.Node, dims: Sequence[int] | None, keep: bool = False
    ) -> None:
        inner = self._source(node, x).shape
        rank = len(inner) + 1
        if not dims or any(d % rank == 0 for d in dims):
            raise Unsupported(f"mixes images: {_named(node)}")
        kept = tuple(dims)
        count = prod(inner[d % rank - 1] for d in kept)
        self._averaged(node, x, lambda v: v.mean(kept, keep), count)

    def average(self, node: fx.Node, x: fx.Node, *arguments: Any) -> None:
        count = prod(self._plane(node, x)[1:])  # no window holds more
        if len(arguments) > 5 and arguments[5] is not None:  # a divisor of one's own
            raise Unsupported(_named(node))
        self._averaged(node, x, lambda v: functional.avg_pool2d(v, *arguments), count)

    def adaptive(self, node: fx.Node, x: fx.Node, size: Any) -> None:
        count = prod(self._plane(node, x)[1:])
        self._averaged(node, x, lambda v: functional.adaptive_avg_pool2d(v, size), count)

    # -- shared --

    def _averaged(
        self, node: fx.Node, x: fx.Node, mapped: Callable[[Tensor], Tensor], count: int
    ) -> None:
        """Means of so many numbers at most; two more roundings are the division's."""
        self._mapped(node, x, mapped, count + 2, diagonal=False)

    def _moved(self, node: fx.Node, x: fx.Node, mapped: Callable[[Tensor], Tensor]) -> None:
        self._mapped(node, x, mapped, 0, diagonal=True)

    def _mapped(
        self,
        node: fx.Node,
        x: fx.Node,
        mapped: Callable[[Tensor], Tensor],
        terms: int,
        *,
        diagonal: bool,
    ) -> None:
        zero = torch.zeros(1, dtype=torch.float64, device=self._device(x))
        work = prod(self._source(node, x).shape)
        step = Affine(
            self.place[x],
            _shape(node),
            weight=None,
            linear=lambda v, _: mapped(v),
            offset=zero,
            constants=zero,
            terms=terms,
            work=work,
            diagonal=diagonal,
        )
        self._add(node, step)

    def _diagonal(
        self, node: fx.Node, x: fx.Node, w: Tensor, offset: Tensor, constants: Tensor, terms: int
    ) -> None:
        shape = self._source(node, x).shape
        self._add(node, scaling(self.place[x], shape, w, offset, constants, terms))

    def _add(self, node: fx.Node, step: Step) -> None:
        self.steps.append(step)
        self.place[node] = len(self.steps) - 1

    def _index(self, node: fx.Node, x: Any) -> int:
        if not isinstance(x, fx.Node) or x not in self.place:
            raise Unsupported(_named(node))
        return self.place[x]

    def _source(self, node: fx.Node, x: Any) -> Step:
        return self.steps[self._index(node, x)]

    def _plane(self, node: fx.Node, x: Any) -> Shape:
        """The shape C, H, W of one image's result; fewer numbers would take images for channels."""
        shape = self._source(node, x).shape
        if len(shape) != 3:
            raise Unsupported(f"not of channels, height and width: {_named(node)}")
        return shape

    def _device(self, x: fx.Node) -> torch.device:
        device: torch.device = x.meta["val"].device
        return device

    def _fixed(self, node: fx.Node, value: Any) -> Tensor:
        """A weight; what depends on the images is none."""
        if value not in self.constant:
            raise Unsupported(f"multiplies results that both depend on the images: {_named(node)}")
        return self.constant[value]

    def _bias(self, node: fx.Node, value: Any) -> Tensor:
        if value is None:
            example: torch.device = node.meta["val"].device
            return torch.zeros(1, dtype=torch.float64, device=example)
        return self._fixed(node, value)

    def _broadcast(self, node: fx.Node, x: Any, value: Any) -> Tensor:
        """A constant shaped to broadcast over one image's result, the same for every image."""
        shape = self._source(node, x).shape
        if isinstance(value, fx.Node):
            c = self._fixed(node, value)
        else:
            c = torch.tensor(float(value), dtype=torch.float64, device=self._device(x))
        if c.dim() == len(shape) + 1 and len(c) == 1:
            c = c[0]
        fits = all(
            size in (1, side) for size, side in zip(c.shape[::-1], shape[::-1], strict=False)
        )
        if c.dim() > len(shape) or not fits:
            raise Unsupported(f"a constant that differs between images: {_named(node)}")
        return c.double()


def _shape(node: fx.Node) -> Shape:
    """The shape of one image's result."""
    whole = tuple(node.meta["val"].shape)
    if not whole or whole[0] != BATCH:
        raise Unsupported(f"mixes images: {_named(node)}")
    return whole[1:]


def _named(node: fx.Node) -> str:
    """The operation, and the module of the network that does it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    name = getattr(kind, "__name__", str(kind)).rsplit(".", 1)[-1]
    where = f" in {path or 'the network'} ({name})" if name else ""
    return f"no bounds for {node.target}{where}"


MOVES = {
    aten.t.default,
    aten.transpose.int,
    aten.permute.default,
    aten.view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.dims,
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
}
"""what may be done to weights"""

HANDLERS: dict[Any, Callable[..., None]] = {
    aten.conv2d.default: _Converter.convolution,
    aten.conv2d.padding: _Converter.convolution,
    aten.linear.default: _Converter.linear,
    aten.mm.default: _Converter.times,
    aten.matmul.default: _Converter.times,
    aten.addmm.default: _Converter.plus_times,
    aten._native_batch_norm_legit_no_training.default: _Converter.batch_norm,
    aten.batch_norm.default: _Converter.any_batch_norm,
    operator.getitem: _Converter.first,
    aten.mul.Tensor: _Converter.multiply,
    aten.mul.Scalar: _Converter.multiply,
    aten.div.Tensor: _Converter.divide,
    aten.div.Scalar: _Converter.divide,
    aten.neg.default: _Converter.negate,
    aten.add.Tensor: _Converter.add,
    aten.add.Scalar: _Converter.add,
    aten.sub.Tensor: _Converter.subtract,
    aten.sub.Scalar: _Converter.subtract,
    aten.relu.default: _Converter.relu,
    aten.leaky_relu.default: _Converter.leaky,
    aten.max_pool2d.default: _Converter.max_pool,
    aten.avg_pool2d.default: _Converter.average,
    aten.adaptive_avg_pool2d.default: _Converter.adaptive,
    aten.mean.dim: _Converter.mean,
    aten.view.default: _Converter.reshape,
    aten.reshape.default: _Converter.reshape,
    aten._unsafe_view.default: _Converter.reshape,
    aten.flatten.using_ints: _Converter.reshape,
    aten.squeeze.dim: _Converter.reshape,
    aten.squeeze.dims: _Converter.reshape,
    aten.squeeze.default: _Converter.reshape,
    aten.unsqueeze.default: _Converter.reshape,
    aten.permute.default: _Converter.permute,
    aten.dropout.default: _Converter.dropout,
    aten.clone.default: _Converter.same,
    aten.alias.default: _Converter.same,
    aten.detach.default: _Converter.same,
    aten.contiguous.default: _Converter.same,
}
