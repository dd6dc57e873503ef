"""An ONNX file as a message and arrays: every size is checked before it is believed."""

import gzip
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zlib import error

import numpy as np

from robustkit.checkpoint.folder.files import FolderFiles, open_files
from robustkit.checkpoint.onnxfile.wire import check_wire
from robustkit.errors import BadFile, CheckpointError, shown

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

NEEDED = ("onnx", "onnx2torch", "onnxruntime")
"""libraries of the extra `onnx`"""
LARGEST = 2**31 - 1
"""bytes of a message, as protobuf has it; of all tensors together, as onnxruntime is handed them"""
INFLATED, INFLATION = 2**26, 30
"""bytes that a .gz may always hold, and times its own size"""
MOST_NODES = 50_000
MOST_RANK = 16
MOST_EXPANDED = 200_000
"""operations once functions are put where they are called"""
DEEPEST_CALL = 100
"""functions within functions"""
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A parsed file, as long as it is open."""

    model: "ModelProto"
    array: Callable[["TensorProto"], Array]
    """reads a tensor's numbers, from the file or beside it"""


def check_libraries(where: str) -> None:
    """Nothing, if the libraries of the extra are installed.

    Raises:
        CheckpointError: they are not.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise CheckpointError(
            f"{where}: an ONNX file needs {', '.join(missing)}; install it with: "
            "pip install 'robustkit[onnx]'"
        )


@contextmanager
def opened_model(path: Path, file: BufferedReader) -> Iterator[OpenedModel]:
    """The model in an open file, its functions put where they are called.

    Raises:
        CheckpointError: the extra is not installed, or something is asked for that is not followed.
        BadFile: damaged, or larger than any honest file.
    """
    check_libraries(str(path))
    model = _parsed(_content(file))
    with ExitStack() as closing:
        yield OpenedModel(_ordered(_inlined(model)), _Reader(path, closing).array)


def _content(file: BufferedReader) -> bytes:
    """The file's bytes, unpacked where they are gzip's."""
    size = file.seek(0, 2)
    file.seek(0)
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    most = min(LARGEST, INFLATED + INFLATION * size) if packed else LARGEST
    if not packed:
        content = file.read(most) if size <= most else b""
    else:
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                content = unpacked.read(most + 1)
        except (OSError, EOFError, error) as why:
            raise BadFile("a damaged gzip file; download it again") from why
    if max(len(content), 0 if packed else size) > most:
        raise BadFile(f"of more than {most / 2**30:.2g} GiB, which is not read")
    return content


def _parsed(content: bytes) -> "ModelProto":
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    check_wire(memoryview(content), ModelProto.DESCRIPTOR)
    try:
        model = ModelProto.FromString(content)
    except (DecodeError, ValueError) as error:
        raise BadFile("not an ONNX file, or a damaged one; download or save it again") from error
    if not model.graph.node or not model.opset_import:
        raise BadFile("not an ONNX file, or one without a graph")
    if len(model.graph.node) > MOST_NODES:
        raise BadFile(f"an ONNX graph of more than {MOST_NODES:,} operations; refused")
    return cast("ModelProto", model)


def _inlined(model: "ModelProto") -> "ModelProto":
    """The model with its own functions' operations in place of calls to them."""
    if not model.functions:
        return model
    import onnx.inliner

    _check_expansion(model)
    made: ModelProto = onnx.inliner.inline_local_functions(model)
    if made.functions and any(_calls(made.graph.node, made)):
        raise BadFile("its functions call themselves; refused as damaged")
    return made


def _ordered(model: "ModelProto") -> "ModelProto":
    """The model with each operation behind those whose results it takes, as ONNX has it.

    Converters to float16 leave that to whoever reads the file, and onnxruntime sees to it.

    Raises:
        BadFile: operations take one another's results in a circle.
    """
    nodes = model.graph.node
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    before = {
        place: {makers[name] for name in node.input if name in makers}
        for place, node in enumerate(nodes)
    }
    if all(max(taken, default=-1) < place for place, taken in before.items()):
        return model
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError as error:
        raise BadFile("a cycle of operations; refused as damaged") from error
    copies = [type(nodes[place]).FromString(nodes[place].SerializeToString()) for place in order]
    del nodes[:]
    nodes.extend(copies)
    return model


def _calls(nodes: Any, model: "ModelProto") -> list[tuple[str, str]]:
    names = {(function.domain, function.name) for function in model.functions}
    return [key for node in all_nodes(nodes) if (key := (node.domain, node.op_type)) in names]


def _check_expansion(model: "ModelProto") -> None:
    """Nothing, if functions end and do not multiply: each may call several others twice."""
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int | None] = {}

    def size(key: tuple[str, str], depth: int) -> int:
        if sizes.get(key, 0) is None or depth > DEEPEST_CALL:
            raise BadFile("its functions call themselves; refused as damaged")
        if key not in sizes:
            sizes[key] = None
            nodes = list(all_nodes(functions[key].node))
            sizes[key] = len(nodes) + sum(size(k, depth + 1) for k in _calls(nodes, model))
        return sizes[key] or 0

    total = sum(size(key, 0) for key in _calls(model.graph.node, model))
    if total > MOST_EXPANDED:
        raise BadFile("its functions call one another endlessly; refused as damaged")


class _Reader:
    """Tensors of one file, their numbers in it or in files beside it."""

    def __init__(self, path: Path, closing: ExitStack) -> None:
        self.path = path
        self.closing = closing
        self.folder: FolderFiles | None = None
        self.read = 0

    def array(self, tensor: "TensorProto") -> Array:
        """A tensor's numbers.

        Raises:
            CheckpointError: numbers of a kind that no weights are, or outside the file's folder.
            BadFile: not as many as its shape says.
        """
        from onnx import TensorProto, helper, numpy_helper

        name, dims = shown(tensor.name[:80]), tuple(tensor.dims)
        if tensor.data_type not in _KINDS:
            kinds = TensorProto.DataType
            known = tensor.data_type in kinds.values()
            kind = kinds.Name(tensor.data_type) if known else tensor.data_type
            raise CheckpointError(
                f"{self.path}: the tensor {name!r} holds {kind}; export the network in float32"
            )
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if len(dims) > MOST_RANK or any(size < 0 for size in dims):
            raise BadFile(f"the tensor {name!r} has an impossible shape")
        size = prod(dims) * dtype.itemsize
        self.read += size
        if self.read > LARGEST:
            raise BadFile("tensors of more than 2 GiB, which cannot be compared with onnxruntime")
        if tensor.data_location == TensorProto.EXTERNAL:
            return np.frombuffer(self._outside(tensor, name, size), dtype).reshape(dims)
        if tensor.HasField("raw_data") and len(tensor.raw_data) != size:
            raise BadFile(
                f"the tensor {name!r} has {len(tensor.raw_data)} bytes, but its shape needs {size}"
            )
        try:
            made: Array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise BadFile(
                f"the number of values of tensor {name!r} does not match its shape"
            ) from error
        if made.shape != dims:
            raise BadFile(f"the number of values of tensor {name!r} does not match its shape")
        return made

    def _outside(self, tensor: "TensorProto", name: str, size: int) -> bytes:
        """A tensor's bytes from a file in the same folder."""
        said = {entry.key: entry.value for entry in tensor.external_data}
        location = said.get("location", "")
        offset, length = (self._number(said, key, name) for key in ("offset", "length"))
        if length not in (None, size):
            raise BadFile(f"the tensor {name!r} has {length} bytes, but its shape needs {size}")
        if self.folder is None:
            self.folder = self.closing.enter_context(open_files(self.path.parent))
        if not location or "\\" in location:
            raise BadFile(f"the tensor {name!r} names a file outside the network's own folder")
        file = self.folder.open(location)
        if (offset or 0) + size > self.folder.size(location):
            raise BadFile(f"the tensor {name!r} lies beyond the end of {shown(location[:200])}")
        file.seek(offset or 0)
        return file.read(size)

    @staticmethod
    def _number(said: dict[str, str], key: str, name: str) -> int | None:
        text = said.get(key)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise BadFile(f"the tensor {name!r} has an invalid {key}")
        return int(text)


_KINDS = (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16)
"""TensorProto's float, uint8, int8, uint16, int16, int32, int64, bool, float16, double, uint32,
uint64, bfloat16"""


def all_nodes(nodes: Iterable["NodeProto"]) -> Iterator["NodeProto"]:
    """Nodes, and those of the graphs that they hold."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from all_nodes(graph.node)
