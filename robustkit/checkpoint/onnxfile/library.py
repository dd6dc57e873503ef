"""An operation as onnx2torch converts it, alone: no name of the file reaches the library.

onnx2torch's own graph is written out as Python code with the file's names in it and run. Here its
converters are asked operation by operation, and `network` takes the steps.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from onnx import helper, numpy_helper
from onnx2torch.node_converters import get_converter
from onnx2torch.onnx_graph import OnnxGraph

from robustkit.checkpoint.onnxfile.graph import Node
from robustkit.checkpoint.onnxfile.opening import Array

UNCHANGED = {
    "Acos": 22, "Asin": 22, "Atan": 22, "Conv": 22, "ConvTranspose": 22, "Cos": 22, "Elu": 22,
    "Equal": 19, "GlobalAveragePool": 22, "GreaterOrEqual": 16, "HardSigmoid": 22, "HardSwish": 22,
    "InstanceNormalization": 22, "IsInf": 20, "IsNaN": 20, "LessOrEqual": 16, "MaxPool": 22,
    "Round": 22, "Selu": 22, "Sin": 22, "Softplus": 22, "Softsign": 22, "Tan": 22,
}  # fmt: skip
"""the last version that differs from the library's newest in nothing but types, or in what torch
does anyway: no window of `MaxPool` starts in the padding behind"""
OLDER = {
    "ArgMax": 11, "ArgMin": 11, "BatchNormalization": 9, "DepthToSpace": 11, "IsNaN": 13, "Max": 8,
    "MaxPool": 8, "Mean": 8, "Min": 8, "Sum": 8,
}  # fmt: skip
"""the library's oldest version, where those before from opset 7 on have only fewer outputs, types
or shapes, or an attribute that is seen to"""
OPSETS = "7 to 23"
"""in which all these operations are supported"""
OFFERED = frozenset(
    (
        "Abs", "Acos", "Add", "And", "ArgMax", "ArgMin", "Asin", "Atan", "BatchNormalization",
        "Ceil", "Celu", "Conv", "ConvTranspose", "Cos", "CumSum", "DepthToSpace", "Div",
        "Einsum", "Elu", "Equal", "Erf", "Exp", "Floor", "GatherElements", "GatherND",
        "GlobalAveragePool", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish",
        "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization", "LeakyRelu",
        "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul", "Max", "MaxPool", "Mean", "Min",
        "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round",
        "Selu", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Sub",
        "Sum", "Tan", "Tanh", "Where", "Xor",
    )
)  # fmt: skip
"""operations that are taken from it"""


class Converted:
    """A module, and which of the operation's inputs it takes."""

    __slots__ = ("module", "places")

    def __init__(self, module: torch.nn.Module, places: tuple[int, ...]) -> None:
        self.module = module
        self.places = places


def converted(
    node: Node,
    constants: Sequence[Array | None],
    shapes: Sequence[tuple[int, ...]],
    attributes: dict[str, Any],
) -> Converted | None:
    """The module of an operation, or None where the library has none.

    Args:
        node: the operation.
        constants: of each input, its numbers, or None where they depend on the images.
        shapes: of each input, at some number of images.
        attributes: in place of the node's own.

    Raises:
        NotImplementedError, KeyError, ValueError: of the library, for a setting it does not know.
    """
    converter = converter_of(node.kind, node.version)
    if node.kind not in OFFERED or converter is None:
        return None
    names = [f"x{i}" if name else "" for i, name in enumerate(node.inputs)]
    graph = _graph(node, names, constants, shapes, attributes)
    (one,) = graph.nodes.values()
    found = converter(one, graph)
    return Converted(
        found.torch_module, tuple(names.index(name) for name in found.onnx_mapping.inputs if name)
    )


def converter_of(kind: str, version: int) -> Any:
    """The library's converter for an operation as it came to be in an opset; None: it has none."""
    versions = [version]
    if version <= UNCHANGED.get(kind, 0):
        versions += range(version - 1, 0, -1)
    if version < OLDER.get(kind, 0):
        versions.append(OLDER[kind])
    for one in versions:
        with suppress(NotImplementedError):
            return get_converter(kind, one)
    return None


def _graph(
    node: Node,
    names: Sequence[str],
    constants: Sequence[Array | None],
    shapes: Sequence[tuple[int, ...]],
    attributes: dict[str, Any],
) -> OnnxGraph:
    outputs = [f"y{i}" for i in range(len([name for name in node.outputs if name]))]
    made = helper.make_node(node.kind, names, outputs, name="operation", **attributes)
    held = [
        numpy_helper.from_array(np.array(array), name)
        for name, array in zip(names, constants, strict=True)
        if array is not None
    ]
    given = [
        helper.make_tensor_value_info(name, 1, list(shape))
        for name, shape, array in zip(names, shapes, constants, strict=True)
        if array is None and name
    ]
    outs = [helper.make_tensor_value_info(name, 1, None) for name in outputs]
    return OnnxGraph(helper.make_graph([made], "operation", given, outs, held))
