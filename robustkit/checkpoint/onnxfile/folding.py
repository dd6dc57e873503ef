"""Values that depend on no image, computed once by ONNX's own reference implementation.

They come to weights that were stored in other forms, and to shapes: what exporters write down of
the number of images is computed for several of them, and so is found out.
"""

from collections.abc import Sequence
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from robustkit.checkpoint.onnxfile.graph import FLOATS, Node
from robustkit.checkpoint.onnxfile.opening import Array
from robustkit.errors import BadFile, CheckpointError, one_line

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

MOST = 2**26
"""numbers of a value that is computed"""
FOLDABLE = frozenset(
    (
        "Abs", "Add", "And", "ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "Clip", "Concat",
        "Constant", "ConstantOfShape", "CumSum", "DequantizeLinear", "Div", "Equal", "Erf",
        "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "GatherND",
        "Gemm", "Greater", "GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual",
        "Log", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or",
        "Pad", "Pow", "QuantizeLinear", "Range", "Reciprocal", "ReduceMax", "ReduceMean",
        "ReduceMin", "ReduceProd", "ReduceSum", "ReduceL2", "ReduceSumSquare", "Relu", "Reshape",
        "Resize", "Round", "ScatterND", "Shape", "Sigmoid", "Sign", "Sin", "Cos", "Size",
        "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "TopK",
        "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
    )
)  # fmt: skip
"""operations that are computed so"""
_UNBOUNDED = ("NonZero",)
"""whose result's shape is not told beforehand, and is bounded by what they take"""


def as_float32(array: Array) -> Array:
    """Numbers of any floating-point type as float32, others as they are."""
    if array.dtype.kind in "iub":
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)


def fold(node: Node, arrays: Sequence[Array | None], opset: int, where: str) -> list[Array]:
    """What an operation makes of arrays, None for an input that is left out.

    Raises:
        CheckpointError: it is none that is computed, or fails.
        BadFile: it asks for more memory than any honest file.
    """
    from onnx.reference import ReferenceEvaluator

    if node.kind not in FOLDABLE:
        raise CheckpointError(
            f"{where}: {node.place} of constants is not supported; fold constants at export "
            "(onnxsim, or torch.onnx.export's do_constant_folding)"
        )
    model = _alone(node, arrays, opset)
    _check_size(node, arrays, model, where)
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, {})
    except Exception as error:  # as many kinds as there are operations
        raise CheckpointError(f"{where}: {node.place} fails ({one_line(error)})") from error
    return [as_float32(np.asarray(value)) for value in found]


def _alone(node: Node, arrays: Sequence[Array | None], opset: int) -> "ModelProto":
    """A model of one operation on constants."""
    from onnx import helper, numpy_helper

    names = [f"x{i}" if array is not None else "" for i, array in enumerate(arrays)]
    outputs = [f"y{i}" for i in range(len(node.outputs))]
    made = helper.make_node(node.kind, names, outputs)
    made.attribute.extend(
        helper.make_attribute(key, _typed(key, value)) for key, value in node.attributes.items()
    )
    held = [
        numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        for name, array in zip(names, arrays, strict=True)
        if array is not None
    ]
    outs = [onnx_value(name) for name in outputs]
    graph = helper.make_graph([made], "fold", [], outs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def _typed(key: str, value: object) -> object:
    """An attribute's value as float32's world has it."""
    from onnx import TensorProto, numpy_helper

    if isinstance(value, np.ndarray):
        return numpy_helper.from_array(as_float32(value))
    if key in ("to", "dtype", "output_dtype") and value in FLOATS:
        return TensorProto.FLOAT
    return value


def onnx_value(name: str) -> "ValueInfoProto":
    """A value of which nothing is declared."""
    from onnx import ValueInfoProto

    return ValueInfoProto(name=name)


def _check_size(
    node: Node, arrays: Sequence[Array | None], model: "ModelProto", where: str
) -> None:
    """Nothing, if the result is of bounded size.

    Raises:
        BadFile: it is not, or nobody can tell.
    """
    from onnx import shape_inference

    if node.kind in _UNBOUNDED:
        return
    if node.kind == "Range":
        first, last, step = (float(array) for array in arrays if array is not None)
        sizes = [ceil((last - first) / step) if step else MOST + 1]
    elif node.kind == "Constant":
        sizes = []
    else:
        try:
            known = shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
        except Exception as error:  # C++ says what it likes
            raise CheckpointError(f"{where}: {node.place} fails ({one_line(error)})") from error
        shapes = [item.type.tensor_type for item in known.graph.output]
        if not all(kind.HasField("shape") for kind in shapes):
            raise BadFile(f"{node.place} has a shape that cannot be known in advance")
        sizes = [prod(dim.dim_value for dim in kind.shape.dim) for kind in shapes]
    if any(size > MOST for size in sizes):
        raise BadFile(f"{node.place} needs more than {MOST:,} numbers; refused")
