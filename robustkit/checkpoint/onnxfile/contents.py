"""What an ONNX file says of itself, and the digests that tell one network from another."""

from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit.checkpoint.onnxfile.graph import Graph
from robustkit.checkpoint.onnxfile.opening import Array, OpenedModel
from robustkit.errors import shown
from robustkit.files import canonical, digest

if TYPE_CHECKING:
    from onnx import ModelProto

REVISION = 3
"""raised whenever the same file becomes a network of other logits or gradients"""
SHOWN = 30
"""kinds of operations that a description lists"""


def pins() -> dict[str, str]:
    """Versions of what a graph's logits depend on beside the graph."""
    return {"onnx": version("onnx"), "onnx2torch": version("onnx2torch"), "revision": str(REVISION)}


def description(opened: OpenedModel, graph: Graph) -> dict[str, Any]:
    """What is shown of a file, as plain texts and numbers."""
    model = opened.model
    counts = Counter(node.kind for node in graph.nodes).most_common()
    kinds = [f"{kind} {count}" for kind, count in counts[:SHOWN]]
    maker = " ".join(filter(None, (model.producer_name, model.producer_version)))
    return {
        "opset": graph.opset,
        "producer": shown(maker[:120]) or "unknown",
        "input": f"{shown(graph.input.name[:60])} {graph.input.text}",
        "outputs": ", ".join(_outputs(model)),
        "operations": ", ".join(kinds) + (" …" if len(counts) > SHOWN else ""),
        "parameters": sum(a.size for a in graph.constants.values() if a.dtype.kind not in "iub"),
    }


def _outputs(model: "ModelProto") -> list[str]:
    texts = []
    for item in model.graph.output[:10]:
        dims = item.type.tensor_type.shape.dim
        sizes = "×".join(str(d.dim_value) if d.dim_value > 0 else "?" for d in dims)
        texts.append(f"{shown(item.name[:60])} {sizes}".strip())
    return texts


def classes(opened: OpenedModel, graph: Graph) -> int | None:
    """The number of classes where the file declares that of its one output."""
    known = {
        item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        for item in (*opened.model.graph.value_info, *opened.model.graph.output)
    }
    if len(graph.ends) != 1:
        return None
    (name,), (value,) = graph.ends.keys(), graph.ends.values()
    dims = known.get(value) or known.get(name) or []
    return dims[1] if len(dims) == 2 and dims[1] > 1 else None


def state(graph: Graph) -> dict[str, Array]:
    """All numbers of a graph by name: its constants, and those in its operations."""
    inner = {
        f"{node.place_in_file}.{key}": value
        for node in graph.nodes
        for key, value in node.attributes.items()
        if isinstance(value, np.ndarray)
    }
    return {**graph.constants, **inner}


def graph_digest(graph: Graph) -> str:
    """SHA-256 over operations, what they take and their settings, but for arrays and labels."""
    nodes = [
        [
            node.place_in_file,
            node.kind,
            node.version,
            node.inputs,
            node.outputs,
            _plain(node.attributes),
        ]
        for node in graph.nodes
    ]
    given = [graph.input.name, graph.input.dims, graph.input.kind]
    return digest(canonical([nodes, given, dict(graph.ends), graph.opset]))


def _plain(attributes: Any) -> list[Any]:
    return [
        [key, repr(value) if isinstance(value, float | bytes | list) else value]
        for key, value in sorted(attributes.items())
        if not isinstance(value, np.ndarray)
    ]
