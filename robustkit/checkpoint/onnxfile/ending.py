"""The logits among what a graph returns: labels and probabilities that follow from them go.

scikit-learn's converters return a label and a map of probabilities; others end in a softmax or a
sigmoid of each class, whose saturated probabilities hide the gradient. What comes before them
decides the same class.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robustkit.errors import CheckpointError, shown

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

SOFT = ("Softmax", "LogSoftmax")
EACH = ("Sigmoid",)
"""of every class alone, which keeps their order, too"""
LABELLING = {"Cast": 0, "Identity": 0, "Reshape": 0, "Squeeze": 0, "Gather": 1,
             "ArrayFeatureExtractor": 1}  # fmt: skip
"""operations between an ArgMax and a label, and which of their inputs it comes by"""
STEPS = 50
"""operations that are walked back"""
_FLOATS = (1, 10, 11, 16)


def find_ends(graph: "GraphProto", where: str) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The values that are returned, by the names of the file's outputs, and notes on their choice.

    Raises:
        CheckpointError: nothing is returned from which logits could be had.
    """
    makers = {name: node for node in graph.node for name in node.output if name}
    notes: dict[str, None] = {}
    found: dict[str, str] = {}
    labels: dict[str, str] = {}
    for item in graph.output:
        kind = item.type.WhichOneof("value")
        if kind == "tensor_type" and item.type.tensor_type.elem_type not in _FLOATS:
            if (value := _behind_label(item.name, makers)) is not None:
                labels[item.name] = value
        else:
            found[item.name] = item.name
    notes_of_labels = {
        (
            f"its output {shown(name[:60])} is a label; the logits that it is the argmax of are "
            "used"
        ): None
        for name in labels
    }
    if not found:
        found, notes = labels, notes_of_labels
    ends: dict[str, str] = {}
    for name, value in found.items():
        before, skipped = _before_softmax(value, makers)
        if before not in ends.values():
            ends[name] = before
            notes |= dict.fromkeys(
                f"the logits before the final {kind} are used; it keeps their order"
                for kind in skipped
            )
    if not ends:
        names = ", ".join(shown(item.name[:60]) for item in graph.output[:5])
        raise CheckpointError(
            f"{where}: returns no floating-point values ({names}), so no logits; export the "
            "network with its logits as an output"
        )
    if "logits" in ends and len(ends) > 1:
        ends = {"logits": ends["logits"]}
    return ends, tuple(notes)


def _behind_label(value: str, makers: Mapping[str, "NodeProto"]) -> str | None:
    """What an ArgMax on the way to a label is taken of; None where there is none."""
    for _ in range(STEPS):
        if (node := makers.get(value)) is None:
            return None
        if node.op_type == "ArgMax" and _axis(node, 0) in (1, -1):
            return str(node.input[0])
        place = LABELLING.get(node.op_type)
        if place is None or place >= len(node.input):
            return None
        value = node.input[place]
    return None


def _before_softmax(value: str, makers: Mapping[str, "NodeProto"]) -> tuple[str, list[str]]:
    """What a value's final softmax over classes is taken of, and what was skipped."""
    skipped = []
    for _ in range(STEPS):
        node = makers.get(value)
        if node is None or not node.input:
            break
        if (node.op_type in SOFT and _axis(node, -1) in (1, -1)) or node.op_type in EACH:
            skipped.append(node.op_type)
        elif node.op_type not in ("Identity", "ZipMap"):
            break
        value = node.input[0]
    return value, skipped


def _axis(node: "NodeProto", default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == "axis"), default)
