"""An ONNX file as what is known of it, without torch, and what makes its network."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustkit.checkpoint.onnxfile import contents
from robustkit.checkpoint.onnxfile.graph import BYTES, Graph, read_graph
from robustkit.checkpoint.onnxfile.layout import (
    Layout,
    find_layout,
    normalisation_in,
    pixel_range,
    takes_blue_first,
)
from robustkit.checkpoint.onnxfile.opening import Array, opened_model
from robustkit.checkpoint.readings import Own
from robustkit.errors import CheckpointError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What a file says, and the way to its network."""

    state: dict[str, Array]
    graph: str
    """digest of all but the numbers"""
    pins: Mapping[str, str]
    extra: Mapping[str, Any]
    num_classes: int | None
    shape: tuple[int, int, int] | None
    """C, H, W of its images, where that is told"""
    pixels: tuple[float, float] | None
    """mean and std that lead from [0, 1] to what it says it takes"""
    blue_first: bool
    """whether it says that it takes blue, green, red"""
    normalises: Own | None
    """what in the graph normalises its input"""
    notes: tuple[str, ...]
    make: "partial[torch.nn.Module]"
    """called with a device"""


def read_onnx(path: Path, file: BufferedReader, sha256: str) -> OnnxFile:
    """What is known of an open file.

    Raises:
        CheckpointError: no network of images, an operation that is refused, or no extra installed.
        BadFile: damaged, or of sizes of no honest file.
    """
    with opened_model(path, file) as opened:
        graph = read_graph(opened, str(path))
        extra, classes = contents.description(opened, graph), contents.classes(opened, graph)
    state = contents.state(graph)
    _check_finite(state, str(path))
    layout = find_layout(graph, str(path))
    return OnnxFile(
        state,
        contents.graph_digest(graph),
        contents.pins(),
        extra,
        classes,
        layout.shape,
        pixel_range(graph),
        takes_blue_first(graph, layout),
        normalisation_in(graph),
        (*layout.notes, *graph.notes, *_told(graph, layout)),
        partial(_network, graph, layout, path.absolute(), sha256),  # opened again when it is loaded
    )


def _network(
    graph: Graph, layout: Layout, path: Path, sha256: str, device: "str | torch.device"
) -> "torch.nn.Module":
    from robustkit.checkpoint.onnxfile.agreement import Original  # torch
    from robustkit.checkpoint.onnxfile.loading import load_network

    original = Original(path, sha256, graph.input, graph.ends)
    return load_network(graph, layout, original, device)


def _told(graph: Graph, layout: Layout) -> list[str]:
    notes = []
    kinds = {str(a.dtype) for a in graph.constants.values() if a.size > 1}
    if wide := sorted(kinds & {"float16", "bfloat16", "float64"}):
        notes.append(f"its {' and '.join(wide)} weights are evaluated in float32")
    if graph.input.kind == BYTES:
        notes.append("its input is uint8: it gets 255 times the pixels, without rounding")
    if takes_blue_first(graph, layout):
        notes.append("its metadata says that it takes blue, green, red: it gets them in this order")
    if any(node.kind == "QuantizeLinear" for node in graph.nodes):
        notes.append(
            "a quantised network: its rounding is computed, and gradients pass straight through it"
        )
    return notes


def _check_finite(state: Mapping[str, Array], where: str) -> None:
    for name, array in state.items():
        if array.dtype.kind == "f" and array.size > 1 and np.isnan(array).any():
            raise CheckpointError(
                f"{where}: the weight {name[:80]!r} holds NaN: the training diverged, or the file "
                "is damaged"
            )
