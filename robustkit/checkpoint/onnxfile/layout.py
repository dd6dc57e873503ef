"""How a graph takes images: with a dimension of them or none, channels first or last, flat."""

from dataclasses import dataclass

from robustkit.checkpoint.onnxfile.graph import BYTES, Graph
from robustkit.errors import CheckpointError

CHANNELS = (1, 3, 4)
"""numbers of channels that images have"""
MOVES, SHIFTS, SCALES = ("Cast", "Identity", "Transpose"), ("Sub", "Add"), ("Div", "Mul")
"""operations before and in a normalisation"""
RANGES = {
    "nominalrange_0_255": (0.0, 1 / 255),
    "nominalrange_16_235": (-16 / 219, 1 / 219),
    "normalized_0_1": (0.0, 1.0),
    "normalized_1_1": (0.5, 0.5),
}
"""ONNX's metadata of a range of pixels, as the mean and std that lead there from [0, 1]"""
BLUE_FIRST = ("bgr8", "bgra8")
"""likewise of the order of channels"""


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


def normalisation_in(graph: Graph) -> str:
    """The first steps of a graph, if they shift its images and then scale them; else "".

    Each by a number, or one for every channel. Batch norm of the images, which is learnt, scales
    before it shifts.
    """
    name, steps = graph.input.name, list[str]()
    while len(users := [node for node in graph.nodes if name in node.inputs]) == 1:
        (node,) = users
        if node.kind in SHIFTS + SCALES:
            others = [graph.constants.get(other) for other in node.inputs if other != name]
            if len(others) != 1 or others[0] is None or others[0].size not in CHANNELS:
                break
            steps.append(node.kind)
        elif node.kind not in MOVES:
            break
        name = node.outputs[0]
    shifts = [place for place, kind in enumerate(steps) if kind in SHIFTS]
    scaled = bool(shifts) and any(kind in SCALES for kind in steps[shifts[0] :])
    return f"its first steps, {' and '.join(steps)}" if scaled else ""
