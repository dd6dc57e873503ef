"""From a torch module to the graph that bounds are carried through.

`torch.export` writes down, as an fx graph, which operations the frozen module does to images; each
becomes a step of the bound graph, in float64, or the network is unsupported and the reason names
the operation.
"""

from collections.abc import Callable, Sequence
from inspect import signature

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from robustkit.certification.agreement import check_network, check_steps, points
from robustkit.certification.builder import Builder, named
from robustkit.certification.graph import BoundGraph, Shape, Unsupported
from robustkit.certification.operations import HANDLERS, MOVES
from robustkit.certification.tracing import trace


def convert(model: nn.Module, image: Tensor) -> BoundGraph:
    """The steps of a frozen module, in float64, on the device of `image`, C × H × W.

    Raises:
        Unsupported: an operation without bounds, a module that cannot be exported, or steps that
            are not what it computes.
    """
    converter = _Converter(trace(model, image), tuple(image.shape))
    graph, x = converter.run(), points(image)
    check_steps(graph, converter.program, converter.held, converter.build.place, x)
    check_network(model, graph, x)
    return graph


class _Converter:
    """From an exported program to steps."""

    def __init__(self, program: torch.export.ExportedProgram, shape: Shape) -> None:
        self.program = program
        self.build = Builder(shape)
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
            self.build.constant[node] = self.held[node.name].detach()
        else:
            self.build.place[node] = 0

    def _graph(self, node: fx.Node) -> BoundGraph:
        outputs = node.args[0]
        if (
            not isinstance(outputs, Sequence)
            or len(outputs) != 1
            or outputs[0] not in self.build.place
        ):
            raise Unsupported(
                "the network does not return a single tensor of logits that depends on the images"
            )
        last = self.build.place[outputs[0]]  # type: ignore[index]
        if len(self.build.steps[last].shape) != 1:
            raise Unsupported("the result is not N × classes")
        return BoundGraph(tuple(self.build.steps[: last + 1]))

    def _call(self, node: fx.Node) -> None:
        if not any(n in self.build.place for n in node.all_input_nodes):
            self._fold(node)
            return
        handler = HANDLERS.get(node.target)
        if handler is None or not _takes(handler, node):
            raise Unsupported(named(node))
        handler(self.build, node, *node.args, **node.kwargs)

    def _fold(self, node: fx.Node) -> None:
        # float64 would compute other weights than the float32 network has, so weights only move
        if node.target not in MOVES:
            raise Unsupported(f"computes with its weights: {named(node)}")
        value = fx.node.map_arg(node.args, lambda n: self.build.constant[n])
        self.build.constant[node] = node.target(*value, **node.kwargs)


def _takes(handler: Callable[..., None], node: fx.Node) -> bool:
    """Whether an operation has no argument that its handler does not know."""
    try:
        signature(handler).bind(None, node, *node.args, **node.kwargs)
    except TypeError:
        return False
    return True
