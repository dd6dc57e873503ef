"""Operations that only move numbers: what they become, or a refusal that names them."""

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from robustkit.certification.builder import Builder, named, shape_of
from robustkit.certification.graph import Add, Unsupported, zero_padding

aten = torch.ops.aten
SPLITS = {aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default}
"""what gives several results, which are taken one by one"""
EVERY = 2**62
"""an end behind everything, as a slice without one has it"""


def apart(build: Builder, node: fx.Node, x: fx.Node, *dims: int) -> None:
    """Refuse what is done along the dimension of images."""
    rank = len(build.source(node, x).shape) + 1
    if any(dim % rank == 0 for dim in dims):
        raise Unsupported(f"mixes images: {named(node)}")


def _taken(build: Builder, node: fx.Node, x: fx.Node, index: int) -> None:
    if x.target in SPLITS:
        build.moved(node, x, lambda v: x.target(v, *x.args[1:], **x.kwargs)[index])  # type: ignore[operator]
    elif index == 0:
        build.place[node] = build.place[x]
    else:
        raise Unsupported(named(node))


def _split(build: Builder, node: fx.Node, x: fx.Node, _size: object, dim: int = 0) -> None:
    apart(build, node, x, dim)
    build.place[node] = build.place[x]  # whole, until one of them is taken


def _reshape(build: Builder, node: fx.Node, x: fx.Node, *_: object, **__: object) -> None:
    shape = shape_of(node)
    if prod(shape) != prod(build.source(node, x).shape):
        raise Unsupported(f"mixes images: {named(node)}")
    build.moved(node, x, lambda v: v.reshape(len(v), *shape))


def _permute(build: Builder, node: fx.Node, x: fx.Node, order: Sequence[int]) -> None:
    if order[0] != 0:
        raise Unsupported(f"mixes images: {named(node)}")
    build.moved(node, x, lambda v: v.permute(*order))


def _transpose(build: Builder, node: fx.Node, x: fx.Node, one: int, other: int) -> None:
    apart(build, node, x, one, other)
    build.moved(node, x, lambda v: v.transpose(one, other))


def _select(build: Builder, node: fx.Node, x: fx.Node, dim: int, index: int) -> None:
    apart(build, node, x, dim)
    build.moved(node, x, lambda v: v.select(dim, index))


def _slice(
    build: Builder,
    node: fx.Node,
    x: fx.Node,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> None:
    if (start or 0, step) == (0, 1) and (end is None or end >= EVERY):
        build.place[node] = build.index(node, x)
        return
    apart(build, node, x, dim)
    build.moved(node, x, lambda v: aten.slice.Tensor(v, dim, start, end, step))


def _flip(build: Builder, node: fx.Node, x: fx.Node, dims: Sequence[int]) -> None:
    apart(build, node, x, *dims)
    build.moved(node, x, lambda v: v.flip(tuple(dims)))


def _roll(
    build: Builder, node: fx.Node, x: fx.Node, shifts: Sequence[int], dims: Sequence[int] = (0,)
) -> None:
    apart(build, node, x, *dims)
    build.moved(node, x, lambda v: v.roll(tuple(shifts), tuple(dims)))


def _within(build: Builder, node: fx.Node, x: fx.Node, *arguments: Any) -> None:
    """Moves that leave the images apart whatever the arguments are."""
    build.plane(node, x)
    build.moved(node, x, lambda v: node.target(v, *arguments))  # type: ignore[operator]


def _joined(build: Builder, node: fx.Node, parts: Sequence[fx.Node], dim: int = 0) -> None:
    places = [build.index(node, part) for part in parts]
    apart(build, node, parts[0], dim)
    whole = shape_of(node)
    axis, before, total = dim % (len(whole) + 1) - 1, 0, 0
    for number, place in enumerate(places):
        length = build.steps[place].shape[axis]
        edges = [0, 0] * (len(whole) - axis - 1) + [before, whole[axis] - before - length]
        build.steps.append(zero_padding(place, whole, edges, build.zero(node)))
        before += length
        if number > 0:
            build.steps.append(Add((total, len(build.steps) - 1), whole, exact=True))
        total = len(build.steps) - 1
    build.place[node] = total


def _pad(
    build: Builder,
    node: fx.Node,
    x: fx.Node,
    edges: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> None:
    if len(edges) > 2 * len(build.source(node, x).shape):
        raise Unsupported(f"mixes images: {named(node)}")
    if mode != "constant":  # what stands at the edges again, or from the other side
        build.moved(node, x, lambda v: functional.pad(v, list(edges), mode))
    elif value:
        raise Unsupported(f"pads with {value:g}, not with 0: {named(node)}")
    else:
        step = zero_padding(build.place[x], shape_of(node), edges, build.zero(x))
        build.add(node, step)


def _constant_pad(
    build: Builder, node: fx.Node, x: fx.Node, edges: Sequence[int], value: float = 0.0
) -> None:
    _pad(build, node, x, edges, "constant", value)


MOVING: dict[Any, Callable[..., None]] = {
    operator.getitem: _taken,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _constant_pad,
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.flatten.using_ints: _reshape,
    aten.squeeze.dim: _reshape,
    aten.squeeze.dims: _reshape,
    aten.squeeze.default: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.unflatten.int: _reshape,
    aten.view_as.default: _reshape,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.chunk.default: _split,
    aten.cat.default: _joined,
    aten.flip.default: _flip,
    aten.roll.default: _roll,
    aten.pixel_shuffle.default: _within,
    aten.pixel_unshuffle.default: _within,
    aten.channel_shuffle.default: _within,
    aten.upsample_nearest2d.vec: _within,
}
