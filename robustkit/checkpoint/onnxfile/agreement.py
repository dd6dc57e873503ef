"""A converted network beside onnxruntime, on the file itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from robustkit.checkpoint.boundary import boundary
from robustkit.checkpoint.onnxfile.graph import BYTES, GraphInput
from robustkit.checkpoint.onnxfile.opening import OpenedModel, opened_model
from robustkit.errors import CheckpointError, one_line
from robustkit.files import open_digest
from robustkit.network import apart, spread

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TOLERANCE = 1e-3
"""of the logits' spread: how far the two may lie apart. Both sum in float32, in other orders: 3e-5
over the networks of the verification competition, 1e-4 in deep ones"""
COARSE = 5e-2
"""likewise where the file computes in 16 bits, or rounds to 8: a sum that is rounded otherwise may
fall to the next step"""
FEW = 0.25
"""share of images that may have another prediction though it led clearly"""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two networks' logits compare."""

    images: int
    apart: float
    """the largest difference, as a share of the logits' spread"""
    same: int
    """images of one prediction"""

    @property
    def text(self) -> str:
        """In words."""
        return (
            f"compared with onnxruntime: logits differ by at most {self.apart:.1g} of their "
            f"spread, and {self.same} of {self.images} images have the same prediction"
        )


@dataclass(frozen=True, slots=True)
class Original:
    """The file that a network was converted from."""

    path: Path
    sha256: str
    input: GraphInput
    ends: Mapping[str, str]

    def session(self) -> "InferenceSession":
        """Onnxruntime on the file, up to what the network returns; without its own rewriting.

        Raises:
            CheckpointError: the file has changed, or onnxruntime does not take it.
        """
        import onnxruntime

        with boundary(self.path), self.path.open("rb") as file:
            if open_digest(file) != self.sha256:
                raise CheckpointError(f"{self.path}: changed while it was read")
            with opened_model(self.path, file) as opened:
                content = _up_to(opened, list(self.ends.values()))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            return onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        except Exception as error:  # of C++, of many kinds
            raise CheckpointError(
                f"{self.path}: onnxruntime cannot load it ({one_line(error)}); export it again"
            ) from error

    def logits(self, x: Tensor, size: int) -> dict[str, Tensor]:
        """What onnxruntime returns for an input as the file has it, `size` images at a time."""
        pieces = [
            torch.cat([piece, piece[-1:].expand(size - len(piece), *piece.shape[1:])])
            for piece in torch.split(x, size)
        ]
        found = self._run(pieces)
        return {
            name: value.reshape(len(pieces) * size, -1)[: len(x)] for name, value in found.items()
        }

    def logits_alone(self, x: Tensor) -> dict[str, Tensor]:
        """The same where the file's input has no dimension of images."""
        return {name: value.reshape(len(x), -1) for name, value in self._run(list(x)).items()}

    def _run(self, pieces: Sequence[Tensor]) -> dict[str, Tensor]:
        session, parts = self.session(), []
        for piece in pieces:
            given = _typed(piece, self.input.kind)
            try:
                parts.append(session.run(list(self.ends.values()), {self.input.name: given}))
            except Exception as error:
                raise CheckpointError(
                    f"{self.path}: onnxruntime cannot run it ({one_line(error)}); export it again"
                ) from error
        columns = zip(*parts, strict=True)
        return {
            name: torch.from_numpy(
                np.concatenate([np.atleast_1d(p).reshape(-1) for p in column]).astype(np.float32)
            )
            for name, column in zip(self.ends, columns, strict=True)
        }


def compare(
    mine: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    images: int,
    tolerance: float,
    where: str,
) -> Agreement:
    """How a network's logits compare with onnxruntime's.

    Raises:
        CheckpointError: they differ by more than rounding.
    """
    share, same, explained = 0.0, images, True
    for name, other in theirs.items():
        one, other = (
            mine[name].detach().float().cpu().reshape(images, -1),
            other.reshape(images, -1),
        )
        if one.shape != other.shape:
            raise CheckpointError(
                f"{where}: converted to torch, its outputs have other shapes than in onnxruntime"
            )
        share = max(share, apart(one, other, spread(other)))
        same = min(same, int((one.argmax(1) == other.argmax(1)).sum()))
        explained = explained and _by_rounding(one, other, tolerance)
    found = Agreement(images, share, same)
    if share > tolerance or not explained:
        raise CheckpointError(
            f"{where}: converted to torch, its logits differ from onnxruntime's by "
            f"{share:.2g} of their spread (at most {tolerance:g} allowed), and {same} of "
            f"{images} predictions agree; pass the torch module to robustkit.evaluate in "
            "Python"
        )
    return found


def _by_rounding(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether at most a few images have another prediction that is no near tie, N × K each."""
    top = other.amax(1)
    lead = top - other.gather(1, one.argmax(1, keepdim=True))[:, 0]
    clear = lead > 2 * tolerance * (top - other.median(1).values)
    return int(clear.sum()) <= FEW * len(clear)


def _up_to(opened: OpenedModel, ends: list[str]) -> bytes:
    """The model with what leads to some values alone, all numbers in it."""
    from onnx import ModelProto, numpy_helper

    model = ModelProto()
    model.CopyFrom(opened.model)
    graph, values, kept = model.graph, set(ends), []
    for node in reversed(graph.node):
        if values & set(node.output):
            values |= set(node.input)
            kept.append(node)
    nodes = [_with_numbers(node, opened) for node in reversed(kept)]
    for number, node in enumerate(nodes):
        node.name = f"operation{number}"  # onnxruntime wants them different, and none matters
    held = [
        numpy_helper.from_array(np.array(opened.array(item)), item.name)
        for item in graph.initializer
        if item.name in values
    ]
    given = [item for item in graph.input if item.name in values]
    given = [item for item in given if item.name not in {tensor.name for tensor in held}]
    for field, items in (("node", nodes), ("initializer", held), ("input", given)):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    for field in ("output", "value_info", "sparse_initializer", "quantization_annotation"):
        graph.ClearField(field)
    for name in ends:
        graph.output.add(name=name)
    content: bytes = model.SerializeToString()
    return content


def _with_numbers(node: Any, opened: OpenedModel) -> Any:
    from onnx import TensorProto, numpy_helper

    for item in node.attribute:
        if item.HasField("t") and item.t.data_location == TensorProto.EXTERNAL:
            item.t.CopyFrom(numpy_helper.from_array(np.array(opened.array(item.t))))
    return node


def _typed(x: Tensor, kind: int) -> Any:
    from onnx import helper

    array = x.detach().cpu().numpy()
    if kind == BYTES:
        return np.rint(array).clip(0, 255).astype(np.uint8)
    return array.astype(helper.tensor_dtype_to_np_dtype(kind))
