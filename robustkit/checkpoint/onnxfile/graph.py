"""What a network's graph is: the operations that lead from the images to its logits, and weights.

What else a file has, such as labels and probabilities that follow from the logits, is left aside.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from robustkit.checkpoint.onnxfile.ending import find_ends
from robustkit.checkpoint.onnxfile.opening import Array, OpenedModel
from robustkit.errors import CheckpointError, shown

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto
    from onnx.defs import OpSchema

STANDARD = ("", "ai.onnx")
"""names of the domain of ONNX's own operations"""
FLOATS = (1, 10, 11, 16)
"""TensorProto's float, float16, double and bfloat16"""
BYTES = 2
"""TensorProto's uint8"""
TRAINS = "BatchNormalization"
"""whose further outputs, declared, say before opset 14 that it takes the batch's statistics"""
CONTROL = ("If", "Loop", "Scan", "SequenceMap")
"""operations that run graphs of their own"""


class Node(NamedTuple):
    """An operation."""

    place_in_file: int
    """its place in the file"""
    kind: str
    """Conv, Relu, ..."""
    version: int
    """of the operator set in which it came to be as it is"""
    inputs: tuple[str, ...]
    """names of values, "" for one that is left out"""
    outputs: tuple[str, ...]
    """names of values, "" for an optional one that nothing takes"""
    attributes: Mapping[str, Any]
    """plain numbers, texts, lists and arrays"""
    label: str
    """its name in the file, as it may be shown"""

    @property
    def place(self) -> str:
        """What a message says of it: "the operation NonZero (/head/NonZero)"."""
        return f"the operation {self.kind} ({self.label or f'number {self.place_in_file + 1}'})"


class GraphInput(NamedTuple):
    """What the images are given to."""

    name: str
    dims: tuple[int | None, ...]
    """as the file declares them; None: any"""
    kind: int
    """TensorProto's number of the type"""

    @property
    def text(self) -> str:
        """Its shape: "N×3×224×224"."""
        free = iter("N" + "?" * len(self.dims))
        names = [str(d) if d is not None else next(free) for d in self.dims]
        if self.dims and self.dims[0] is not None:
            names = [name.replace("N", "?") for name in names]
        return "×".join(names) or "a single number"


@dataclass(frozen=True, slots=True)
class Graph:
    """Operations in their order, and what they take."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    """the file's own numbers, by name"""
    input: GraphInput
    ends: Mapping[str, str]
    """values that are returned, by the names of the file's outputs"""
    opset: int
    metadata: Mapping[str, str]
    notes: tuple[str, ...]


def read_graph(opened: OpenedModel, where: str) -> Graph:
    """The graph of a file.

    Raises:
        CheckpointError: it takes or returns what no classifier of images does, or holds operations
            that are not ONNX's own or run graphs of their own.
        BadFile: damaged.
    """
    model = opened.model
    opset = _opset(model, where)
    ends, notes = find_ends(model.graph, where)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    needed, values = _needed(model, set(ends.values()))
    nodes = tuple(
        _node(index, node, opset, opened, where, values)
        for index, node in enumerate(model.graph.node)
        if index in needed
    )
    for tensor in model.graph.sparse_initializer:
        if tensor.values.name in values:
            raise CheckpointError(f"{where}: contains sparse weights; export them as dense ones")
    return Graph(
        nodes,
        {name: opened.array(tensor) for name, tensor in constants.items() if name in values},
        _input(model, values - set(constants), where),
        ends,
        opset,
        {entry.key: entry.value for entry in model.metadata_props},
        notes,
    )


def _opset(model: "ModelProto", where: str) -> int:
    from onnx.defs import onnx_opset_version

    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD]
    if len(versions) != 1 or versions[0] < 1:
        raise CheckpointError(f"{where}: states no opset version; export it again")
    if versions[0] > onnx_opset_version():
        raise CheckpointError(
            f"{where}: opset {versions[0]} is newer than the installed onnx supports "
            f"({onnx_opset_version()}); update onnx, or export with a lower opset"
        )
    return int(versions[0])


def _needed(model: "ModelProto", ends: set[str]) -> tuple[set[int], set[str]]:
    """The nodes that the ends need, and all values, walked back."""
    values, needed = set(ends), set()
    for index in reversed(range(len(model.graph.node))):
        node = model.graph.node[index]
        if any(name and name in values for name in node.output):
            needed.add(index)
            values.update(name for name in node.input if name)
    return needed, values


def _node(
    index: int, node: "NodeProto", opset: int, opened: OpenedModel, where: str, values: set[str]
) -> Node:
    from onnx import defs

    label = shown(node.name[:120])
    kind = shown(node.op_type[:60])
    made = Node(index, kind, 0, tuple(node.input), tuple(node.output), {}, label)
    if node.domain not in STANDARD:
        raise CheckpointError(
            f"{where}: {made.place} is a custom operator of {shown(node.domain[:60])!r}, "
            "whose code is not in the file; export the network without it"
        )
    if node.op_type in CONTROL:
        raise CheckpointError(
            f"{where}: {made.place} has a subgraph, which is not supported; export the "
            "network without branches and loops (torch.onnx.export with fixed sizes, or "
            "onnxsim)"
        )
    try:
        schema = defs.get_schema(node.op_type, opset)
    except defs.SchemaError as error:
        raise CheckpointError(
            f"{where}: {made.place} does not exist in opset {opset}; export it again"
        ) from error
    return made._replace(
        version=schema.since_version,
        outputs=_taken(made, schema, values),
        attributes=dict(_attributes(node, opened, where)),
    )


def _taken(node: Node, schema: "OpSchema", values: set[str]) -> tuple[str, ...]:
    """An operation's outputs without optional ones that nothing takes, as a dropout's mask."""
    outputs = list(node.outputs)
    if node.kind == TRAINS:
        return node.outputs
    for place, formal in enumerate(schema.outputs[: len(outputs)]):
        if formal.option == schema.FormalParameterOption.Optional and outputs[place] not in values:
            outputs[place] = ""
    while len(outputs) > 1 and not outputs[-1]:
        outputs.pop()
    return tuple(outputs)


def _attributes(node: "NodeProto", opened: OpenedModel, where: str) -> Iterator[tuple[str, Any]]:
    from onnx import AttributeProto, helper

    kinds = AttributeProto
    for item in node.attribute:
        match item.type:
            case kinds.TENSOR:
                yield item.name, opened.array(item.t)
            case kinds.STRING:
                yield item.name, item.s.decode(errors="replace")
            case kinds.INT | kinds.INTS | kinds.FLOAT | kinds.FLOATS | kinds.STRINGS:
                yield item.name, helper.get_attribute_value(item)
            case _:
                kind = shown(node.op_type[:60])
                raise CheckpointError(
                    f"{where}: the attribute {shown(item.name[:60])} of {kind} "
                    f"({shown(node.name[:120])}) is not a plain value; export the network "
                    "without it"
                )


def _input(model: "ModelProto", values: set[str], where: str) -> GraphInput:
    made = {name for node in model.graph.node for name in node.output}
    given = [item for item in model.graph.input if item.name in values]
    if unknown := values - made - {item.name for item in given}:
        raise CheckpointError(
            f"{where}: the value {shown(sorted(unknown)[0][:80])!r} is computed nowhere in "
            "the graph; export it again"
        )
    if len(given) != 1:
        names = ", ".join(shown(item.name[:60]) for item in given[:5]) or "none"
        raise CheckpointError(
            f"{where}: takes {len(given)} inputs ({names}), expected images alone; export "
            "the network as a function of images"
        )
    return _declared(given[0], where)


def _declared(item: "ValueInfoProto", where: str) -> GraphInput:
    kind = item.type.tensor_type
    if kind.elem_type not in (*FLOATS, BYTES):
        raise CheckpointError(
            f"{where}: its input {shown(item.name[:60])!r} is neither floating-point nor "
            "uint8, so not images; export the network as a function of pixels"
        )
    dims = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
    return GraphInput(item.name, dims, kind.elem_type)
