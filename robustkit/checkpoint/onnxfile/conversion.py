"""From a graph to the steps of a network that takes any number of images.

Every value's shape is found at several numbers of images, on torch's meta device, which computes
nothing. Where a file is written for one number only, as exporters do by default, its reshapes are
made to hold for any, as far as each value keeps one dimension that grows with the images. Where
that fails, the network is run in pieces of the file's own number.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustkit.checkpoint.onnxfile.call import Call, Operation
from robustkit.checkpoint.onnxfile.folding import as_float32, fold
from robustkit.checkpoint.onnxfile.ghosts import (
    check_shifted,
    ghost,
    inferred,
    repeated_row,
    row_and_sizes,
)
from robustkit.checkpoint.onnxfile.graph import Graph, Node
from robustkit.checkpoint.onnxfile.library import OFFERED, OPSETS, converted
from robustkit.checkpoint.onnxfile.moves import expanded
from robustkit.checkpoint.onnxfile.opening import Array
from robustkit.checkpoint.onnxfile.operations import OPERATIONS, pads_of
from robustkit.checkpoint.onnxfile.sizes import (
    NUMBERS,
    Computed,
    Inflexible,
    Known,
    Shape,
    Sizes,
    Value,
)
from robustkit.errors import BadFile, CheckpointError, one_line

MOST = 2**28
"""numbers of a value for one image"""
REFUSED = (NotImplementedError, KeyError, ValueError, TypeError, IndexError, AttributeError)
"""what an operation's making raises over a setting that it does not know"""
WRITTEN = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
"""operations whose result's shape in the file is asked for"""


class GraphStep(NamedTuple):
    """What is done at a pass: values by the places where they are kept."""

    call: Any
    """a function, or the name of a module"""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sizes: Mapping[str, Sizes]


class Mode(NamedTuple):
    """How a graph is read."""

    alone: int | None
    """the number of images that it is written for; None: any"""
    shifted: bool = False
    """whether it has no dimension of images at all"""
    pieces: int | None = None
    """the number of images that it is run on at a time; None: any"""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of images, at which shapes are found: the file's own, then others."""
        if self.pieces is not None:
            return (self.pieces,) * (1 + len(NUMBERS))
        return (self.alone or 1, *NUMBERS)


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """A network as steps, all its numbers and modules."""

    mode: Mode
    dims: Shape
    """of the file's input for one image, or of all of it where it has no dimension of images"""
    steps: tuple[GraphStep, ...]
    constants: Mapping[int, Tensor]
    modules: Mapping[str, torch.nn.Module]
    ends: Mapping[str, int]
    shapes: Mapping[str, Shape]
    """of what is returned, for one of `NUMBERS`"""


def plan(graph: Graph, batch: int | None, dims: Shape, shifted: bool, where: str) -> GraphPlan:
    """The steps, for any number of images where that is possible.

    Args:
        graph: the file's.
        batch: the number of images that it is written for; None: any.
        dims: of its input for one image.
        shifted: whether it has no dimension of images.
        where: the file, for messages.

    Raises:
        CheckpointError: an operation that is not supported; the message names it.
        BadFile: sizes of no honest file.
    """
    modes = [Mode(None), Mode(1)] if batch is None else [Mode(batch, shifted)]
    for mode in modes:
        try:
            return _Planning(graph, mode, dims, where).run()
        except Inflexible:
            continue
    number = batch or 1
    try:
        return _Planning(graph, Mode(None, shifted, number), dims, where).run()
    except Inflexible as error:
        raise CheckpointError(f"{where}: an invalid graph: {error}; export it again") from error


@dataclass(slots=True)
class _Planning:
    """A plan in the making."""

    graph: Graph
    mode: Mode
    dims: Shape
    where: str
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[GraphStep] = field(default_factory=list)
    constants: dict[int, Tensor] = field(default_factory=dict)
    slots: int = 1
    modules: dict[str, torch.nn.Module] = field(default_factory=dict)

    def run(self) -> GraphPlan:
        for name, array in self.graph.constants.items():
            self.values[name] = Known((as_float32(array),) * len(self.mode.numbers))
        self.values[self.graph.input.name] = self._input()
        for node in self.graph.nodes:
            operands = [self.values[name] if name else None for name in node.inputs]
            if node.kind in ("Shape", "Size") and isinstance(operands[0], Computed):
                self._shape(node, operands[0])
            elif any(isinstance(value, Computed) for value in operands):
                self._step(node, operands)
            else:
                self._fold(node, operands)
        return self._plan()

    def _input(self) -> Computed:
        numbers = self.mode.numbers
        if self.mode.pieces is not None:
            whole = self.dims if self.mode.shifted else (self.mode.pieces, *self.dims)
            return Computed(0, (whole,) * len(numbers), -1)
        shapes = [(n, *self.dims) for n in numbers]
        if self.mode.shifted:
            shapes[0] = self.dims
        return Computed(0, tuple(shapes), 0)

    def _plan(self) -> GraphPlan:
        ends, shapes = {}, {}
        for name, value in self.graph.ends.items():
            found = self.values[value]
            if not isinstance(found, Computed):
                raise CheckpointError(f"{self.where}: its logits do not depend on the images")
            if found.images not in (0, -1):
                raise Inflexible("the logits have no batch dimension")
            ends[name], shapes[name] = found.slot, found.shapes[1]
        return GraphPlan(
            self.mode, self.dims, _needed(self.steps, ends.values()), self.constants, self.modules,
            ends, shapes,
        )  # fmt: skip

    def _shape(self, node: Node, value: Computed) -> None:
        if value.shifted:
            raise Inflexible("the shape of a value that does not depend on the images")
        first, last = node.attributes.get("start", 0), node.attributes.get("end", None)
        shapes = [np.array(shape[first:last], np.int64) for shape in value.shapes]
        if node.kind == "Size":
            shapes = [np.array(prod(shape), np.int64) for shape in value.shapes]
        self.values[node.outputs[0]] = Known(tuple(shapes))

    def _fold(self, node: Node, operands: Sequence[Value | None]) -> None:
        known = [value for value in operands if isinstance(value, Known)]
        same = all(value.arrays[0] is array for value in known for array in value.arrays)
        runs: list[list[Array]] = []
        for run in range(1 if same else len(self.mode.numbers)):
            arrays = [v.arrays[run] if isinstance(v, Known) else None for v in operands]
            runs.append(fold(node, arrays, self.graph.opset, self.where))
        runs = runs * len(self.mode.numbers) if same else runs
        for place, name in enumerate(node.outputs):
            self.values[name] = Known(tuple(run[place] for run in runs))

    def _step(self, node: Node, operands: Sequence[Value | None]) -> None:
        try:
            wrote = self._wrote(node, operands) if node.kind in WRITTEN else ()
            operation = self._operation(node, Call(node, operands, self.mode.alone, wrote))
            inputs = tuple(
                self._slot(operands[place], operation.grown.get(place))
                for place in operation.inputs
            )
        except REFUSED as error:
            raise self._unsupported(node, error) from error
        taken = [operands[place] for place in operation.inputs]
        grown = [operation.grown.get(place) for place in operation.inputs]
        results = [
            self._meta(node, operation, taken, grown, run) for run in range(len(self.mode.numbers))
        ]
        self._keep(node, operation, inputs, results, wrote)

    def _operation(self, node: Node, call: Call) -> Operation:
        if (make := OPERATIONS.get(node.kind)) is not None:
            return make(call)
        if any(isinstance(v, Computed) and v.shifted for v in call.values):
            check_shifted(call)
        constants = [
            v.fixed if isinstance(v, Known) and v.fixed is not None else None for v in call.values
        ]
        shapes = [
            () if v is None else v.shapes[1] if isinstance(v, Computed) else v.arrays[1].shape
            for v in call.values
        ]
        found = converted(node, constants, shapes, _attributes(call))
        if found is None and node.kind in OFFERED:
            raise CheckpointError(
                f"{self.where}: {node.place} as in opset {self.graph.opset} is not supported; "
                f"export with an opset from {OPSETS}, or pass the torch module to "
                "robustkit.evaluate in Python"
            )
        if found is None:
            raise NotImplementedError("")
        name = f"step{len(self.steps)}"
        self.modules[name] = found.module.eval().requires_grad_(False)
        return Operation(name, found.places)

    def _unsupported(self, node: Node, error: Exception) -> CheckpointError:
        # an error of ours says what; one of the library's says where it failed, which helps nobody
        ours = isinstance(error, NotImplementedError) and "onnx2torch" not in str(error)
        said = f" {error}" if ours and str(error) and "version=" not in str(error) else ""
        return CheckpointError(
            f"{self.where}: {node.place}{said} is not supported; export the network without "
            "it, or pass the torch module to robustkit.evaluate in Python"
        )

    def _slot(self, value: Value | None, grown: Sizes | None) -> int:
        """Where an operand is kept, a constant from now on."""
        if isinstance(value, Computed):
            return value.slot
        assert value is not None
        array, sizes = row_and_sizes(value) if grown is None else (repeated_row(value, grown), None)
        self.constants[self._next()] = torch.from_numpy(np.array(array))
        at = self.slots - 1
        if (sizes := grown or sizes) is None:
            return at
        self.steps.append(GraphStep(expanded, (at,), (self._next(),), {"shape": sizes}))
        return self.slots - 1

    def _next(self) -> int:
        self.slots += 1
        return self.slots - 1

    def _meta(
        self,
        node: Node,
        operation: Operation,
        taken: Sequence[Value | None],
        grown: Sequence[Sizes | None],
        run: int,
    ) -> list[Tensor]:
        """Results at one number of images, without their numbers."""
        number = self.mode.numbers[run]
        given = [
            ghost(value, run) if sizes is None else ghost(value, run).new_empty(sizes.at(number))
            for value, sizes in zip(taken, grown, strict=True)
            if value is not None
        ]
        sizes = {name: size.at(number) for name, size in operation.sizes.items()}
        try:
            with torch.no_grad():
                if isinstance(operation.call, str):
                    module = self.modules[operation.call]
                    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
                    ghosts = {name: value.to("meta") for name, value in state.items()}
                    found = torch.func.functional_call(module, ghosts, tuple(given))
                else:
                    found = operation.call(*given, **sizes)
        except Inflexible:
            raise
        except Exception as error:  # torch's, of shapes that do not go together
            if self.mode.pieces is None:
                raise Inflexible(f"{node.place}: {one_line(error)}") from error
            raise CheckpointError(
                f"{self.where}: {node.place} does not accept its inputs in the graph "
                f"({one_line(error)}); export it again"
            ) from error
        results = list(found) if isinstance(found, tuple | list) else [found]
        if any(result.numel() > MOST * number for result in results):
            raise BadFile(f"{node.place} produces more than {MOST:,} numbers per image; refused")
        return results

    def _keep(
        self,
        node: Node,
        operation: Operation,
        inputs: tuple[int, ...],
        results: Sequence[Sequence[Tensor]],
        wrote: Sequence[Shape],
    ) -> None:
        outputs = []
        if len(node.outputs) > len(results[0]):
            raise self._unsupported(node, NotImplementedError("with additional outputs"))
        for place, name in enumerate(node.outputs):
            shapes = [tuple(found[place].shape) for found in results]
            if wrote:
                shapes[0] = wrote[place]
            value = Computed(
                self._next(),
                tuple(shapes),
                self._images(shapes),
                results[1][place].dtype,
            )
            outputs.append(value.slot)
            if name:
                self.values[name] = value
        self.steps.append(GraphStep(operation.call, inputs, tuple(outputs), operation.sizes))

    def _images(self, shapes: Sequence[Shape]) -> int | None:
        """The dimension of a value that grows with the images.

        Raises:
            Inflexible: it is not what the file has but for that.
        """
        if self.mode.pieces is not None:
            return -1
        written, one, other = shapes
        if len(one) != len(other):
            raise Inflexible("a value whose rank depends on the batch size")
        found = [at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
        if len(one) == len(written) + 1:
            if one != (NUMBERS[0], *written) or found != [0]:
                raise Inflexible("a value other than the file's for some images")
            return 0
        if len(one) != len(written) or len(found) != 1:
            raise Inflexible("a value that does not grow with the batch")
        at, alone = found[0], self.mode.numbers[0]
        grown = one[at] * alone == written[at] * NUMBERS[0]
        if not grown or one[:at] + one[at + 1 :] != written[:at] + written[at + 1 :]:
            raise Inflexible("a value other than the file's for some images")
        return at

    def _wrote(self, node: Node, operands: Sequence[Value | None]) -> Sequence[Shape]:
        """Shapes of an operation's results as the file has them."""
        if self.mode.alone is None and self.mode.pieces is None:
            return ()
        return inferred(node, operands, self.graph.opset) or ()


def _attributes(call: Call) -> dict[str, Any]:
    """An operation's attributes, its pads and the sides of its kernel written out."""
    found = dict(call.node.attributes)
    if call.node.kind in ("Conv", "MaxPool") and call.rank() > 2:
        size = found.get("kernel_shape") or list(call.array(1).shape[2:])
        ones = [1] * len(size)
        found["pads"] = pads_of(
            call, size, found.get("strides", ones), found.get("dilations", ones)
        )
        found |= {
            "auto_pad": "NOTSET",
            "kernel_shape": list(size),
            "strides": found.get("strides", ones),
        }
    if call.node.kind == "BatchNormalization":
        # without the attribute, further outputs say so
        if found.get("training_mode", len(call.node.outputs) > 1 and call.node.version < 14):
            raise NotImplementedError("in training mode (export model.eval() instead)")
        if not found.pop("spatial", 1):
            raise NotImplementedError("with spatial = 0, statistics of each pixel,")
    return found


def _needed(steps: Sequence[GraphStep], ends: Any) -> tuple[GraphStep, ...]:
    wanted, kept = set(ends), []
    for step in reversed(steps):
        if wanted & set(step.outputs):
            wanted |= set(step.inputs)
            kept.append(step)
    return tuple(reversed(kept))


def constants_of(plan: GraphPlan) -> Iterator[tuple[int, Tensor]]:
    """The constants that its steps take."""
    taken = {slot for step in plan.steps for slot in step.inputs}
    return ((slot, value) for slot, value in plan.constants.items() if slot in taken)
