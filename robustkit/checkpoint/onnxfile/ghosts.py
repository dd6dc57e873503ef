"""What is known of values before anything is computed: shapes at several numbers of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustkit.checkpoint.onnxfile.call import Call
from robustkit.checkpoint.onnxfile.folding import onnx_value
from robustkit.checkpoint.onnxfile.graph import Node
from robustkit.checkpoint.onnxfile.opening import Array
from robustkit.checkpoint.onnxfile.sizes import Computed, Inflexible, Known, Shape, Sizes, Value

BROADCAST = frozenset(
    (
        "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "PRelu", "Equal", "Greater",
        "Less", "GreaterOrEqual", "LessOrEqual",
    )
)  # fmt: skip
"""operations that align dimensions from the last one"""
ONE_BY_ONE = frozenset(
    (
        "Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish",
        "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
        "Sin", "Softplus", "Softsign", "Sqrt", "Tanh",
    )
)  # fmt: skip
"""operations on each number by itself"""


def check_shifted(call: Call) -> None:
    """Nothing, if an operation does to each image what it does to the file's one.

    Raises:
        Inflexible: it has to do with dimensions, and all are one further on.
    """
    ranks = {len(v.shapes[0]) for v in call.values if isinstance(v, Computed)}
    known = [v.arrays[0].ndim for v in call.values if isinstance(v, Known)]
    if call.node.kind in ONE_BY_ONE:
        return
    if call.node.kind in BROADCAST and len(ranks) == 1 and max([*known, 0]) <= min(ranks):
        return
    product = call.node.kind == "MatMul" and known in ([2], [1])
    left = len(call.values) > 1 and isinstance(call.values[0], Computed)
    # a row times a matrix, or a matrix times columns: torch takes what stands in front as a batch
    if product and (
        (left and ranks == {1}) or (not left and ranks == {2}) or (left and ranks == {2})
    ):
        return
    raise Inflexible("an operation along dimensions none of which is the batch")


def row_and_sizes(value: Known) -> tuple[np.ndarray[Any, Any], Sizes | None]:
    """A constant; of one that grows with the images by equal rows, a row and the shapes.

    Raises:
        Inflexible: it grows in another way.
    """
    if (fixed := value.fixed) is not None:
        return fixed, None
    one, other = value.arrays[1:]
    if one.ndim != other.ndim:
        raise Inflexible("a constant whose rank depends on the batch size")
    axes = [at for at, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)) if a != b]
    if len(axes) == 1:
        row = one.take([0], axes[0])
        if (one == row).all() and (other == row).all():
            return row, Sizes.through([one.shape, other.shape])
    raise Inflexible("a constant that depends on the batch size")


def repeated_row(value: Known, grown: Sizes) -> Array:
    """Of a constant that a file repeats for each of its images, what is repeated.

    Raises:
        Inflexible: it differs between images.
    """
    array = value.arrays[0]
    for axis in (at for at, slope in enumerate(grown.slopes) if slope and array.shape[at] != 1):
        row = array.take([0], axis)
        if not (array == row).all():
            raise Inflexible("a constant that differs between images")
        array = row
    return array


def ghost(value: Value, run: int) -> Tensor:
    """A tensor without numbers, of a value's shape."""
    if isinstance(value, Known):
        array = value.arrays[run]
        dtype = torch.from_numpy(np.zeros(0, array.dtype)).dtype
        return torch.empty(array.shape, dtype=dtype, device="meta")
    kind = torch.float32 if value.floating else value.dtype
    return torch.empty(value.shapes[run], dtype=kind, device="meta")


def inferred(node: Node, operands: Sequence[Value | None], opset: int) -> list[Shape] | None:
    """Shapes of an operation's results as ONNX has them."""
    from onnx import TensorProto, helper, numpy_helper, shape_inference

    names = [f"x{i}" if value is not None else "" for i, value in enumerate(operands)]
    outputs = [f"y{i}" for i in range(len(node.outputs))]
    made = helper.make_node(node.kind, names, outputs, **node.attributes)
    given, held = [], []
    for name, value in zip(names, operands, strict=True):
        if isinstance(value, Computed):
            shape = list(value.shapes[0])
            given.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        elif value is not None:
            held.append(numpy_helper.from_array(np.array(value.arrays[0]), name))
    graph = helper.make_graph([made], "one", given, [onnx_value(name) for name in outputs], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        known = shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
    except Exception as error:
        raise Inflexible("incompatible shapes") from error
    dims = [item.type.tensor_type.shape.dim for item in known.graph.output]
    shapes = [tuple(dim.dim_value for dim in found) for found in dims]
    return shapes if all(d.HasField("dim_value") for found in dims for d in found) else None
