"""A network as a short list of steps that bounds can be carried through.

`torch.export` writes down, as an fx graph, which operations the frozen module does to images; each
becomes one of four kinds of step here, in float64, or the network is unsupported and the reason
names the operation. The batch dimension stays first and no step mixes images.
"""

import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.nn import functional, grad

from robustkit.checkpoint.adapter import replica

aten = torch.ops.aten
BATCH = 3
"""images of the pass that is written down; not 1, which broadcasts"""
Shape = tuple[int, ...]


class Unsupported(Exception):
    """No bounds for this network; `str(error)` is the reason in one line. `certify` catches it."""


@dataclass(frozen=True, slots=True)
class Input:
    """The images."""

    shape: Shape
    """C, H, W"""


@dataclass(frozen=True, slots=True)
class Window:
    """The square of a step's input that one place of its result depends on."""

    size: int
    stride: int
    padding: int


@dataclass(frozen=True, slots=True)
class Affine:
    """A linear map and an offset: convolution, batch norm in eval mode, mean pooling, moving."""

    source: int
    """the step whose result goes in"""
    shape: Shape
    """of one image's result"""
    weight: Tensor | None
    """None where no entry of the map is negative and none is a weight"""
    linear: Callable[[Tensor, Tensor | None], Tensor]
    """of a batch and a weight of the same shape as `weight`"""
    offset: Tensor
    """broadcasts over one image's result"""
    constants: Tensor
    """likewise: the sum of the sizes of the constants in the offset, for rounding"""
    terms: int
    """roundings on the way to one number; 0 where numbers are only moved"""
    work: int
    """multiplications per image"""
    diagonal: bool = False
    """no number of the result depends on more than one that goes in"""
    transposed: Callable[[Tensor], Tensor] | None = None
    """the linear map's transpose on a batch, where it is quicker than autograd"""
    window: Window | None = None
    """where a place of the result depends on a square, alike at all places"""
    cropped: "Callable[[int, Shape, Shape], Affine] | None" = None
    """of a source and the shapes of a crop before and behind: the same step without padding"""

    def apply(self, x: Tensor) -> Tensor:
        """N × the source's shape to N × shape."""
        return self.linear(x, self.weight) + self.offset

    def absolute(self, x: Tensor) -> Tensor:
        """The map of absolute weights, without the offset."""
        return self.linear(x, None if self.weight is None else self.weight.abs())

    def pull(self, slopes: Tensor, shape: Shape) -> Tensor:
        """The transpose of the linear map: slopes B × shape to B × the source's shape."""
        if self.transposed is not None:
            return self.transposed(slopes)
        with torch.enable_grad():
            x = slopes.new_zeros(len(slopes), *shape).requires_grad_()
            (result,) = torch.autograd.grad(self.linear(x, self.weight), x, slopes)
        return result


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, slope · x)."""

    source: int
    shape: Shape
    slope: float
    """0 of ReLU, up to 1 of the leaky one"""

    def apply(self, x: Tensor) -> Tensor:
        """Of a batch."""
        return functional.leaky_relu(x, self.slope) if self.slope else x.clamp(min=0)


@dataclass(frozen=True, slots=True)
class MaxPool:
    """The largest of each window."""

    source: int
    shape: Shape
    arguments: tuple[Any, ...]
    """of `functional.max_pool2d` after the images"""
    windows: Tensor
    """L × P: places in a flattened channel, H · W where a window overhangs"""

    def apply(self, x: Tensor) -> Tensor:
        """Of a batch."""
        result: Tensor = functional.max_pool2d(x, *self.arguments)
        return result


@dataclass(frozen=True, slots=True)
class Add:
    """The sum of two steps' results, as in a residual block."""

    sources: tuple[int, int]
    shape: Shape


Step = Input | Affine | Relu | MaxPool | Add


@dataclass(frozen=True, slots=True)
class Network:
    """Steps in order; the last one gives the logits."""

    steps: tuple[Step, ...]

    def values(self, x: Tensor) -> list[Tensor]:
        """Every step's result for a float64 batch."""
        results: list[Tensor] = []
        for step in self.steps:
            match step:
                case Input():
                    results.append(x)
                case Add(sources=(one, other)):
                    results.append(results[one] + results[other])
                case _:
                    results.append(step.apply(results[step.source]))
        return results

    def work_below(self, index: int) -> int:
        """Multiplications to carry one slope from a step back to the images."""
        needed, total = {index}, 0
        for i in range(index, -1, -1):
            if i in needed:
                step = self.steps[i]
                total += step.work if isinstance(step, Affine) else prod(step.shape)
                needed.update(sources(step))
        return total


def sources(step: Step) -> tuple[int, ...]:
    """The steps whose results go in."""
    match step:
        case Input():
            return ()
        case Add():
            return step.sources
        case _:
            return (step.source,)


def written_down(model: nn.Module, image: Tensor) -> Network:
    """The steps of a frozen module, in float64, on the device of `image`, C × H × W.

    Raises:
        Unsupported: an operation without bounds, or a module that cannot be exported.
    """
    batch = torch.zeros(BATCH, *image.shape, dtype=torch.float64, device=image.device)
    try:
        with _quietly():
            network = replica(model).to(image.device, torch.float64)
            program = torch.export.export(network, (batch,), strict=False)
            if any(_mutates(node) for node in program.graph.nodes):
                program = program.run_decompositions({})  # what is overwritten gets a new name
    except Exception as error:  # a user's module may refuse in any way
        line = (str(error).strip().splitlines() or ["no message"])[0][:150]
        raise Unsupported(f"cannot be traced ({type(error).__name__}: {line})") from error
    return _Writer(program, tuple(image.shape)).run()


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's own account of what it cannot follow, which is told in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)


class _Writer:
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

    def run(self) -> Network:
        with torch.no_grad():
            for node in self.program.graph.nodes:
                if node.op == "placeholder":
                    self._placeholder(node)
                elif node.op == "call_function":
                    self._call(node)
                elif node.op == "output":
                    return self._network(node)
        raise Unsupported("nothing is returned")

    def _placeholder(self, node: fx.Node) -> None:
        if node.name in self.held:
            self.constant[node] = self.held[node.name].detach()
        else:
            self.place[node] = 0

    def _network(self, node: fx.Node) -> Network:
        outputs = node.args[0]
        if not isinstance(outputs, Sequence) or len(outputs) != 1 or outputs[0] not in self.place:
            raise Unsupported("not one tensor of logits that depends on the images is returned")
        last = self.place[outputs[0]]  # type: ignore[index]
        if len(self.steps[last].shape) != 1:
            raise Unsupported("the result is not N × classes")
        return Network(tuple(self.steps[: last + 1]))

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
        self._add(node, _convolution(self.place[x], inner, shape, w, b, rest))

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
        shape, terms = _shape(node), w.shape[1]

        def linear(v: Tensor, weight: Tensor | None) -> Tensor:
            return functional.linear(v, weight)  # type: ignore[arg-type]

        self._add(
            node,
            Affine(
                self.place[x],
                shape,
                w,
                linear,
                b,
                b.abs(),
                terms,
                terms * prod(shape),
                transposed=lambda slopes: slopes @ w,
            ),
        )

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
        rank = len(self._source(node, x).shape) + 1
        if not dims or any(d % rank == 0 for d in dims):
            raise Unsupported(f"mixes images: {_named(node)}")
        kept = tuple(dims)
        self._averaged(node, x, lambda v: v.mean(kept, keep))

    def average(self, node: fx.Node, x: fx.Node, *arguments: Any) -> None:
        self._plane(node, x)
        if len(arguments) > 5 and arguments[5] is not None:  # a divisor of one's own
            raise Unsupported(_named(node))
        self._averaged(node, x, lambda v: functional.avg_pool2d(v, *arguments))

    def adaptive(self, node: fx.Node, x: fx.Node, size: Any) -> None:
        self._plane(node, x)
        self._averaged(node, x, lambda v: functional.adaptive_avg_pool2d(v, size))

    # -- shared --

    def _averaged(self, node: fx.Node, x: fx.Node, mapped: Callable[[Tensor], Tensor]) -> None:
        inner = self._source(node, x).shape
        # no window holds more numbers than the image or, with padding, leaves out any
        self._mapped(node, x, mapped, prod(inner[-2:]) + 2, diagonal=False)

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
        inner = self._source(node, x).shape
        self._add(
            node,
            Affine(
                self.place[x],
                _shape(node),
                None,
                lambda v, _: mapped(v),
                zero,
                zero,
                terms,
                prod(inner),
                diagonal,
            ),
        )

    def _diagonal(
        self, node: fx.Node, x: fx.Node, w: Tensor, offset: Tensor, constants: Tensor, terms: int
    ) -> None:
        shape = self._source(node, x).shape
        self._add(node, _scaling(self.place[x], shape, w, offset, constants, terms))

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


def _convolution(
    source: int, inner: Shape, shape: Shape, w: Tensor, b: Tensor, options: Sequence[Any]
) -> Affine:
    """A convolution; `options` are stride, padding, dilation and groups as far as given."""
    given = [*options, *[1, 0, 1, 1][len(options) :]]
    stride, padding, dilation, groups = given

    def linear(v: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return functional.conv2d(v, weight, None, stride, padding, dilation, groups)

    def transposed(slopes: Tensor) -> Tensor:
        size = (len(slopes), *inner)
        result: Tensor = grad.conv2d_input(  # type: ignore[no-untyped-call]
            size, w, slopes, stride, padding, dilation, groups
        )
        return result

    def cropped(source: int, inner: Shape, shape: Shape) -> Affine:
        return _convolution(source, inner, shape, w, b, (stride, 0, 1, groups))

    words = isinstance(padding, str)
    window = None if words else _square(tuple(w.shape[2:]), stride, padding, dilation)
    terms = w[0].numel()
    return Affine(
        source,
        shape,
        w,
        linear,
        b.view(-1, 1, 1),
        b.abs().view(-1, 1, 1),
        terms,
        terms * prod(shape),
        transposed=None if words else transposed,
        window=window,
        cropped=cropped if window else None,
    )


def _scaling(
    source: int, shape: Shape, w: Tensor, offset: Tensor, constants: Tensor, terms: int
) -> Affine:
    """A factor and an offset for each number."""

    def scaled(v: Tensor, weight: Tensor | None) -> Tensor:
        return v if weight is None else v * weight

    def cropped(source: int, _inner: Shape, shape: Shape) -> Affine:
        return _scaling(source, shape, w, offset, constants, terms)

    alike = all(c.numel() == 1 or c.shape[1:] == (1, 1) for c in (w, offset, constants))
    return Affine(
        source,
        shape,
        w,
        scaled,
        offset,
        constants,
        terms,
        prod(shape),
        diagonal=True,
        transposed=lambda slopes: slopes * w,
        window=Window(1, 1, 0) if alike else None,
        cropped=cropped if alike else None,
    )


def _shape(node: fx.Node) -> Shape:
    """The shape of one image's result."""
    whole = tuple(node.meta["val"].shape)
    if not whole or whole[0] != BATCH:
        raise Unsupported(f"mixes images: {_named(node)}")
    return whole[1:]


def pool_windows(H: int, W: int, arguments: Sequence[Any], device: torch.device) -> Tensor:
    """Which places of a flattened H × W channel each window of a max pool covers, L × P."""
    size, stride, padding, dilation, ceiling = (*arguments, *(None,) * 5)[:5]
    kernel, step = _pair(size), _pair(stride or size)
    edge, gap = _pair(padding or 0), _pair(dilation or 1)
    across = [
        _starts(length, k, s, p, d, bool(ceiling))
        for length, k, s, p, d in zip((H, W), kernel, step, edge, gap, strict=True)
    ]
    rows, columns = (torch.tensor(a, device=device) for a in across)
    outside = ((rows < 0) | (rows >= H))[:, None, :, None] | ((columns < 0) | (columns >= W))[
        None, :, None, :
    ]
    places = rows[:, None, :, None] * W + columns[None, :, None, :]
    return places.masked_fill(outside, H * W).reshape(len(rows) * len(columns), -1)


def _starts(length: int, k: int, s: int, p: int, d: int, ceiling: bool) -> list[list[int]]:
    """Along one side: the places each window covers, some of them outside."""
    room = length + 2 * p - d * (k - 1) - 1
    count = (ceil(room / s) if ceiling else room // s) + 1
    if ceiling and (count - 1) * s >= length + p:  # no window starts in the padding behind
        count -= 1
    return [[start * s - p + d * i for i in range(k)] for start in range(count)]


def pool_window(step: MaxPool) -> Window | None:
    """The square of a max pool; None where it is none."""
    size, stride, padding, dilation = (*step.arguments, *(None,) * 4)[:4]
    return _square(size, stride or size, padding or 0, dilation or 1)


def _square(size: Any, stride: Any, padding: Any, dilation: Any) -> Window | None:
    sizes, strides, paddings = _pair(size), _pair(stride), _pair(padding)
    if _pair(dilation) != (1, 1) or any(a != b for a, b in (sizes, strides, paddings)):
        return None
    return Window(sizes[0], strides[0], paddings[0])


def _pair(value: Any) -> tuple[int, int]:
    """One number or one in a list stands for both sides."""
    values = [value] if isinstance(value, int) else list(value)
    return values[0], values[-1]


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
    aten.conv2d.default: _Writer.convolution,
    aten.conv2d.padding: _Writer.convolution,
    aten.linear.default: _Writer.linear,
    aten.mm.default: _Writer.times,
    aten.matmul.default: _Writer.times,
    aten.addmm.default: _Writer.plus_times,
    aten._native_batch_norm_legit_no_training.default: _Writer.batch_norm,
    aten.batch_norm.default: _Writer.any_batch_norm,
    operator.getitem: _Writer.first,
    aten.mul.Tensor: _Writer.multiply,
    aten.mul.Scalar: _Writer.multiply,
    aten.div.Tensor: _Writer.divide,
    aten.div.Scalar: _Writer.divide,
    aten.neg.default: _Writer.negate,
    aten.add.Tensor: _Writer.add,
    aten.add.Scalar: _Writer.add,
    aten.sub.Tensor: _Writer.subtract,
    aten.sub.Scalar: _Writer.subtract,
    aten.relu.default: _Writer.relu,
    aten.leaky_relu.default: _Writer.leaky,
    aten.max_pool2d.default: _Writer.max_pool,
    aten.avg_pool2d.default: _Writer.average,
    aten.adaptive_avg_pool2d.default: _Writer.adaptive,
    aten.mean.dim: _Writer.mean,
    aten.view.default: _Writer.reshape,
    aten.reshape.default: _Writer.reshape,
    aten._unsafe_view.default: _Writer.reshape,
    aten.flatten.using_ints: _Writer.reshape,
    aten.squeeze.dim: _Writer.reshape,
    aten.squeeze.dims: _Writer.reshape,
    aten.squeeze.default: _Writer.reshape,
    aten.unsqueeze.default: _Writer.reshape,
    aten.permute.default: _Writer.permute,
    aten.dropout.default: _Writer.dropout,
    aten.clone.default: _Writer.same,
    aten.alias.default: _Writer.same,
    aten.detach.default: _Writer.same,
    aten.contiguous.default: _Writer.same,
}
