"""Operations that move numbers, for any number of images, as far as these stay apart."""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robustkit.checkpoint.onnxfile.call import Call, Operation
from robustkit.checkpoint.onnxfile.sizes import NUMBERS, Computed, Inflexible, Known, Sizes

NEVER = 2**31
"""from which an end of a slice means the last"""


def _reshaped(x: Tensor, shape: list[int]) -> Tensor:
    return x.reshape(shape)


def _reshape(call: Call) -> Operation:
    x, target = call.of(), call.values[1] if len(call.values) > 1 else None
    if target is None and call.get("shape") is None:
        raise NotImplementedError("it has no shape")
    if isinstance(target, Computed):
        raise NotImplementedError("its settings depend on the images")
    if call.alone is not None and (target is None or target.fixed is not None):
        return _as_written(call)
    if target is None:
        shape = [int(size) for size in call.get("shape")]
        points = [shape, shape]
    else:
        points = [array.reshape(-1).tolist() for array in target.arrays[1:]]
    if not call.get("allowzero", 0):
        points = [
            [x.shapes[i + 1][at] if size == 0 else size for at, size in enumerate(point)]
            for i, point in enumerate(points)
        ]
    return Operation(_reshaped, (0,), {"shape": Sizes.through(points)})


def _as_written(call: Call) -> Operation:
    """To the shape that the file has for its own number of images, with as many as there are."""
    x, (out, *_), alone = call.of(), call.wrote, call.alone or 1
    if x.shifted:
        shape = out[1:] if out[:1] == (1,) else out
        return Operation(_reshaped, (0,), {"shape": Sizes.growing((1, *shape), 0, 1)})
    before = prod(x.shapes[0][: x.axis])
    places = [at for at in range(len(out)) if prod(out[:at]) == before]
    if not places:
        raise Inflexible("a reshape across images")
    return Operation(_reshaped, (0,), {"shape": Sizes.growing(out, places[0], alone)})


def _expand(call: Call) -> Operation:
    x, target = call.of(), call.values[1]
    if not isinstance(target, Known):
        raise NotImplementedError("its settings depend on the images")
    points = [
        list(np.broadcast_shapes(x.shapes[i + 1], tuple(array.reshape(-1).tolist())))
        for i, array in enumerate(target.arrays[1:])
    ]
    return Operation(expanded, (0,), {"shape": Sizes.through(points)})


def expanded(x: Tensor, shape: list[int]) -> Tensor:
    """Repeated without a copy."""
    return x.expand(shape)


def _concat(call: Call) -> Operation:
    """Constants among them have the images' dimension, too, which grows with that of the others."""
    computed = [i for i, value in enumerate(call.values) if isinstance(value, Computed)]
    axis, images = call.axis(0, computed[0]), call.of(computed[0]).axis
    if axis == images:
        raise Inflexible("images are concatenated with others")
    grown = {}
    for place, value in enumerate(call.values):
        # at a fixed number of images (-1) nothing has to grow
        if images >= 0 and isinstance(value, Known) and value.fixed is not None:
            shape = value.arrays[0].shape
            if shape[images] != call.of(computed[0]).shapes[0][images]:
                raise Inflexible("a constant with another batch size")
            grown[place] = Sizes.growing(shape, images, call.alone or 1)
    return Operation(partial(_joined, dim=axis), tuple(range(len(call.values))), {}, grown)


def _joined(*parts: Tensor, dim: int) -> Tensor:
    return torch.cat(parts, dim)


def _flatten(call: Call) -> Operation:
    if call.alone is not None:
        return _as_written(call)
    axis = call.axis(1)
    if axis == 0:
        raise Inflexible("the batch is flattened into one row")
    points = [[prod(shape[:axis]), prod(shape[axis:])] for shape in call.of().shapes[1:]]
    return Operation(_reshaped, (0,), {"shape": Sizes.through(points)})


def _squeeze(call: Call) -> Operation:
    if call.of().shifted:
        return _as_written(call)
    axes = call.whole(1, "axes")
    rank = call.rank()
    if axes is None:
        axes = [at for at, size in enumerate(call.of().shapes[1]) if size == 1]
    axes = [axis % rank for axis in axes]
    if call.of().axis in axes:
        return _as_written(call)  # the file's one image loses its dimension, which stays
    return Operation(partial(_squeezed, axes=tuple(axes)), (0,))


def _squeezed(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.squeeze(axes)


def _unsqueeze(call: Call) -> Operation:
    if call.of().shifted:
        return _as_written(call)
    axes = call.whole(1, "axes") or []
    rank = call.rank() + len(axes)
    return Operation(partial(_unsqueezed, axes=tuple(sorted(a % rank for a in axes))), (0,))


def _unsqueezed(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def _transpose(call: Call) -> Operation:
    x = call.of()
    rank = len(x.shapes[0])
    order = [int(at) % rank for at in call.get("perm", range(rank)[::-1])]
    if x.shifted:
        moved = (0, *(at + 1 for at in order))
        kept = call.wrote[0][1:] if call.wrote[0][:1] == (1,) else call.wrote[0]
        return Operation(
            partial(_moved, order=moved), (0,), {"shape": Sizes.growing((1, *kept), 0, 1)}
        )
    return Operation(partial(_permuted, order=tuple(order)), (0,))


def _permuted(x: Tensor, order: tuple[int, ...]) -> Tensor:
    return x.permute(order)


def _moved(x: Tensor, order: tuple[int, ...], shape: list[int]) -> Tensor:
    return x.permute(order).reshape(shape)


def _slice(call: Call) -> Operation:
    rank, shape = call.rank(), call.of().shapes[1]
    starts, ends = call.whole(1, "starts") or [], call.whole(2, "ends") or []
    axes = call.whole(3, "axes")
    steps = call.whole(4, "steps") or [1] * len(starts)
    axes = list(range(len(starts))) if axes is None else [axis % rank for axis in axes]
    cuts = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if axis == call.of().axis:
            if (start, step) != (0, 1) or end < NEVER - 1:
                raise Inflexible("only some of the images are selected")
            continue
        cuts.append((axis, *slice(start, end, step).indices(shape[axis])))
    return Operation(partial(_sliced, cuts=tuple(cuts)), (0,))


def _sliced(x: Tensor, cuts: tuple[tuple[int, int, int, int], ...]) -> Tensor:
    for axis, start, end, step in cuts:
        if step > 0:
            x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
        else:
            x = x.index_select(axis, torch.arange(start, end, step, device=x.device))
    return x


def _split(call: Call) -> Operation:
    axis = call.axis(0)
    whole = call.of().shapes[1][axis]
    if axis == call.of().axis:
        raise Inflexible("images are split")
    parts = call.whole(1, "split")
    if parts is None:
        count = int(call.get("num_outputs", len(call.node.outputs)))
        size = -(-whole // count)
        parts = [min(size, whole - i * size) for i in range(count)]
    return Operation(partial(_parted, sizes=parts, dim=axis), (0,))


def _parted(x: Tensor, sizes: list[int], dim: int) -> tuple[Tensor, ...]:
    return torch.split(x, sizes, dim)


def _gather(call: Call) -> Operation:
    axis = call.axis(0)
    if axis == call.of().axis:
        return _gathered_of_each(call)
    array, size = call.array(1), call.of().shapes[1][axis]
    places = [int(at) % size for at in array.reshape(-1)]
    if not array.shape:
        return Operation(partial(_selected, dim=axis, index=places[0]), (0,))
    return Operation(
        partial(_gathered, dim=axis, places=tuple(places), shape=tuple(array.shape)), (0,)
    )


def _gathered_of_each(call: Call) -> Operation:
    """Numbers of a flat value by their places, as exporters write `as_strided`, image by image."""
    x, places = call.of(), call.values[1]
    if len(x.shapes[1]) != 1 or not isinstance(places, Known):
        raise Inflexible("a single image is selected")
    runs = list(zip(NUMBERS, places.arrays[1:], strict=True))
    if places.fixed is not None:
        runs = [(call.alone or 1, places.arrays[0])]
    size, found = x.shapes[1][0] // NUMBERS[0], set()
    for count, array in runs:
        if len(array.shape) == 0 or len(array) != count:
            raise Inflexible("only some of the images are selected")
        own = array.reshape(count, -1) - size * np.arange(count)[:, None]
        if (own != own[0]).any() or own.min() < 0 or own.max() >= size:
            raise Inflexible("values move from one image to another")
        found.add((tuple(own[0].tolist()), array.shape[1:]))
    if len(found) > 1:
        raise Inflexible("indices depend on the batch size")
    ((taken, shape),) = found
    return Operation(partial(_each, size=size, places=taken, shape=shape), (0,))


def _each(x: Tensor, size: int, places: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    rows = x.reshape(-1, size)
    if places != tuple(range(size)):
        rows = rows.index_select(1, torch.tensor(places, device=x.device))
    return rows.reshape(-1, *shape)


def _selected(x: Tensor, dim: int, index: int) -> Tensor:
    return x.select(dim, index)


def _gathered(x: Tensor, dim: int, places: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    taken = x.index_select(dim, torch.tensor(places, device=x.device))
    return taken.reshape(*x.shape[:dim], *shape, *x.shape[dim + 1 :])


def _scatter(call: Call) -> Operation:
    """Slices of a value replaced, as torch's exporter writes x[:, i] = y."""
    if call.get("reduction", "none") != "none":
        raise NotImplementedError("with a reduction")
    indices = call.array(1)
    depth = indices.shape[-1]
    sizes: tuple[int, ...] = ()
    for place, first in ((2, indices.ndim - 1), (0, depth)):
        value = call.values[place]
        if isinstance(value, Computed):
            call.rank(place)
            if 0 <= value.axis < first:
                raise Inflexible("only some of the images are replaced")
            sizes = value.shapes[1]
        elif value is not None:
            sizes = value.arrays[1].shape
    places = [
        tuple(int(at) % size for at in column)
        for column, size in zip(indices.reshape(-1, depth).T, sizes, strict=False)
    ]
    return Operation(partial(_replaced, places=places, shape=indices.shape[:-1]), (0, 2))


def _replaced(
    x: Tensor, updates: Tensor, places: list[tuple[int, ...]], shape: tuple[int, ...]
) -> Tensor:
    where = tuple(torch.tensor(at, device=x.device).reshape(shape) for at in places)
    return x.index_put(where, updates)


def _pad(call: Call) -> Operation:
    rank = call.rank()
    pads = call.whole(1, "pads") or []
    axes = call.whole(3, "") or list(range(rank))
    half = len(pads) // 2
    around = {axis % rank: (pads[i], pads[half + i]) for i, axis in enumerate(axes)}
    if not any(map(any, around.values())):
        return Operation(same, (0,))
    if any(around.get(call.of().axis, (0, 0))):
        raise Inflexible("the batch is padded")
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    kind = mode[call.get("mode", "constant")]
    value = call.scalar(2, "value") or 0.0
    first = min(axis for axis, sides in around.items() if any(sides))
    if kind != "constant" and first < 2:
        raise NotImplementedError("along channels, but by a constant,")
    first = first if kind == "constant" else 2
    flat = tuple(
        side for axis in range(rank - 1, first - 1, -1) for side in around.get(axis, (0, 0))
    )
    return Operation(partial(_padded, pads=flat, mode=kind, value=value), (0,))


def _padded(x: Tensor, pads: tuple[int, ...], mode: str, value: float) -> Tensor:
    if mode == "constant":
        return functional.pad(x, pads, mode, value)
    return functional.pad(x, pads, mode)


def _tile(call: Call) -> Operation:
    repeats = call.whole(1, "repeats") or []
    if repeats[call.of().axis] != 1 or len(repeats) != call.rank():
        raise Inflexible("the images are repeated")
    return Operation(partial(_tiled, repeats=tuple(repeats)), (0,))


def _tiled(x: Tensor, repeats: tuple[int, ...]) -> Tensor:
    return x.repeat(repeats)


def same(x: Tensor) -> Tensor:
    """What it is given."""
    return x


MOVES: Mapping[str, Callable[[Call], Operation]] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": lambda call: Operation(same, (0,)),
    "Pad": _pad,
    "Reshape": _reshape,
    "ScatterND": _scatter,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
