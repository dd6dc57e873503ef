"""How a graph takes images: with a dimension of them or none, channels first or last, flat."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustkit.checkpoint.onnxfile.graph import BYTES, Graph
from robustkit.checkpoint.onnxfile.opening import Array
from robustkit.checkpoint.readings import Own, are_of_bytes
from robustkit.errors import CheckpointError

CHANNELS = (1, 3, 4)
"""numbers of channels that images have"""
MOVES, SHIFTS, SCALES = ("Cast", "Identity", "Transpose"), ("Sub", "Add"), ("Div", "Mul")
"""operations before and in a normalisation"""
LARGE, DARK = 100, 10
"""from which on a std, and above which a mean, is of pixels of 0 to 255, whatever is learnt"""
RANGES = {
    "nominalrange_0_255": (0.0, 1 / 255),
    "nominalrange_16_235": (-16 / 219, 1 / 219),
    "normalized_0_1": (0.0, 1.0),
    "normalized_1_1": (0.5, 0.5),
}
"""ONNX's metadata of a range of pixels, as the mean and std that lead there from [0, 1]"""
BLUE_FIRST = ("bgr8", "bgra8")
"""likewise of the order of channels"""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layout:
    """How images are given."""

    batch: int | None
    """the number of images that the file is written for; None: any"""
    dims: tuple[int | None, ...]
    """of the input for one image; None: any"""
    shifted: bool
    """whether there is no dimension of images"""
    channels_last: bool
    """of what is flat, or would fit either way"""
    shape: tuple[int, int, int] | None
    """C, H, W of the images, where that is told"""
    notes: tuple[str, ...]


def find_layout(graph: Graph, where: str) -> Layout:
    """What the declared input means.

    Raises:
        CheckpointError: it can be no images.
    """
    dims, text = graph.input.dims, graph.input.text
    if not 1 <= len(dims) <= 4 or (len(dims) == 1 and dims[0] is None):
        said = f"the shape {text}, which is not that of a batch of images" if dims else "no shape"
        raise CheckpointError(
            f"{where}: its input has {said}; export the network as a function of N×C×H×W pixels"
        )
    shifted = _has_no_images(dims)
    inner = dims if shifted else dims[1:]
    last, told = _channels_last(graph, inner)
    shape = None
    if len(inner) == 3 and all(inner):
        a, b, c = (size or 0 for size in inner)
        shape = (c, a, b) if last else (a, b, c)
    notes = [f"its input is {text}{', of one image' if shifted else ''}{told}"]
    return Layout(None if shifted else dims[0], inner, shifted, last, shape, tuple(notes))


def _has_no_images(dims: tuple[int | None, ...]) -> bool:
    """Whether all dimensions are of one image: (784,), (784, 1), (3, 32, 32)."""
    if any(size is None for size in dims) or len(dims) == 4:
        return False
    sizes = [size or 0 for size in dims]
    if len(sizes) == 1:
        return True
    if len(sizes) == 2:
        return sizes[1] == 1 < sizes[0]
    first, _, end = sizes
    return first != 1 and (first in CHANNELS or end in CHANNELS)


def _channels_last(graph: Graph, dims: tuple[int | None, ...]) -> tuple[bool, str]:
    """Whether channels stand last in the input, and how that is known, for a note."""
    if len(dims) == 3:
        first, last = dims[0] in CHANNELS, dims[2] in CHANNELS
        moved = _first_move(graph)
        if last and (not first or moved):
            return True, ", channels last"
        return moved and dims[0] is None, ", channels last" if moved and dims[0] is None else ""
    order = _unflattened(graph)
    if order is not None:
        return order, ", a flat image, channels " + ("last" if order else "first")
    return False, ", a flattened image, assumed to be channels-first as in torch"


def _first_move(graph: Graph) -> bool:
    """Whether the first thing done to the images brings channels that are last to the front."""
    for node in graph.nodes:
        if graph.input.name in node.inputs:
            order = list(node.attributes.get("perm", ()))
            return node.kind == "Transpose" and order == [0, 3, 1, 2]
    return False


def _unflattened(graph: Graph) -> bool | None:
    """Whether a flat image is given a shape with its channels last; None: it stays flat."""
    name = graph.input.name
    for node in graph.nodes:
        if name not in node.inputs:
            continue
        if node.kind == "Reshape" and node.inputs[0] == name:
            target = graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
            if target is not None and target.size == 4:
                sizes = [int(size) for size in target.reshape(-1)]
                if sizes[1] not in CHANNELS and sizes[3] in CHANNELS:
                    return True
                if sizes[1] in CHANNELS and sizes[3] != sizes[1]:
                    return False
                return None
        if node.kind not in ("Sub", "Div", "Mul", "Add", "Reshape", "Flatten", "Cast", "Identity"):
            return None
        name = node.outputs[0]
    return None


def pixel_range(graph: Graph) -> tuple[float, float] | None:
    """Mean and std that lead from [0, 1] to the pixels that the file says it takes."""
    if graph.input.kind == BYTES:
        return RANGES["nominalrange_0_255"]
    return RANGES.get(_of_images(graph, "NominalPixelRange"))


def takes_blue_first(graph: Graph, layout: Layout) -> bool:
    """Whether the file says that it takes colours in the order blue, green, red."""
    grey = layout.shape is not None and layout.shape[0] < 3
    return not grey and _of_images(graph, "BitmapPixelFormat") in BLUE_FIRST


def _of_images(graph: Graph, key: str) -> str:
    """What ONNX's metadata says of images, in small letters: keys and values are of any case."""
    said = {name.lower(): value.lower() for name, value in graph.metadata.items()}
    return said.get(f"image.{key}".lower(), "")


def normalisation_in(graph: Graph) -> Own | None:
    """The first steps of a graph, if they normalise its images.

    Each is by a number, or one for every channel. They shift and then scale; batch norm of the
    images, which is learnt, scales before it shifts. Or they can only be of pixels of 0 to 255.
    """
    steps, factor, shift = list[str](), np.ones(1), np.zeros(1)
    for kind, by, add in _first_steps(graph):
        factor, shift = factor * by, shift * by + add
        steps.append(kind)
    if not steps:
        return None
    shifts = [place for place, kind in enumerate(steps) if kind in SHIFTS]
    scaled = bool(shifts) and any(kind in SCALES for kind in steps[shifts[0] :])
    mean, std = -shift / factor, abs(1 / factor)
    of_bytes = are_of_bytes(mean.tolist(), std.tolist())
    if not scaled:
        of_bytes &= bool((std >= LARGE).all() or ((mean > DARK).all() and (std >= 1).all()))
    said = f"its first {'steps' if len(steps) > 1 else 'step'}, {' and '.join(steps)}"
    return Own(said, of_bytes) if scaled or of_bytes else None


def _first_steps(graph: Graph) -> Iterator[tuple[str, Numbers, Numbers]]:
    """The shifts and scales at the beginning of a graph: what they multiply by, then add."""
    name, channels = graph.input.name, 1
    constants = {**graph.constants, **_written(graph)}
    while len(users := [node for node in graph.nodes if name in node.inputs]) == 1:
        (node,) = users
        if node.kind in SHIFTS + SCALES:
            values = [constants.get(other) for other in node.inputs if other != name]
            if len(values) != 1 or values[0] is None or values[0].size not in CHANNELS:
                return
            numbers = values[0].astype(np.float64).reshape(-1)
            step = _affine(node.kind, numbers, turned=node.inputs[0] != name)
            if step is None or (channels > 1 and numbers.size not in (1, channels)):
                return
            channels = max(channels, numbers.size)
            yield node.kind, *step
        elif node.kind not in MOVES:
            return
        name = node.outputs[0]


def _affine(kind: str, numbers: Numbers, *, turned: bool) -> tuple[Numbers, Numbers] | None:
    """What an operation with numbers multiplies by, then adds; None: it does something else.

    `turned`: the numbers stand first.
    """
    if not np.isfinite(numbers).all() or (kind in SCALES and not numbers.all()):
        return None
    match kind:
        case "Add":
            return np.ones(1), numbers
        case "Sub":
            return (-np.ones(1), numbers) if turned else (np.ones(1), -numbers)
        case "Mul":
            return numbers, np.zeros(1)
        case _:
            return None if turned else (1 / numbers, np.zeros(1))


def _written(graph: Graph) -> dict[str, Array]:
    """Numbers that stand in operations, as exporters write those of Python."""
    held = (node for node in graph.nodes if node.kind == "Constant")
    values = ((node.outputs[0], tuple(node.attributes.items())) for node in held)
    return {
        name: np.asarray(said[0][1])
        for name, said in values
        if len(said) == 1 and said[0][0] in ("value", "value_float", "value_floats")
    }
