"""Tighter intervals inside a network, by linear relaxation, where a nonlinear step needs them.

A ReLU needs them where a neuron's sign is open, a sigmoid wherever its curve is no line.

A neuron behind convolutions sees a small square of the image only. Its bound is carried back
through crops of the steps as large as what it sees, many places of many images side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from robustkit.certification.bounds import Interval, chunk, intervals, local_errors, lowest
from robustkit.certification.graph import (
    Affine,
    BoundGraph,
    Input,
    MaxPool,
    Relu,
    Sigmoidal,
    Step,
    Window,
    flattened,
    pool_window,
    pool_windows,
)
from robustkit.certification.region import Region
from robustkit.certification.rows import CELLS
from robustkit.certification.sigmoidal import lines

STRAIGHT = 1e-9
"""a gap between a sigmoid's lines that no bound would gain from"""


@dataclass(frozen=True, slots=True)
class _Crops:
    """What one place of a step's result depends on, as a graph of its own."""

    graph: BoundGraph
    """on crops; the last step's result has one place"""
    chain: tuple[int, ...]
    """the steps of the whole graph that its steps are crops of"""
    windows: tuple[Window, ...]
    """for each of them: the crop that belongs to a place of the last one"""
    grid: tuple[int, int]
    """places of the last one"""


def refined(
    graph: BoundGraph, bounds: list[Interval], region: Region, budget: float
) -> tuple[list[Interval], int]:
    """Intervals by linear relaxation for open neurons (`relaxed`), and how many layers have some.

    Goes through the inputs of every ReLU or sigmoid behind another one, as far as an image's
    `budget` of multiplications lasts; where it does not, the neurons whose relaxation is widest go
    first. What is done for an image depends on no other.
    """
    known: dict[int, Interval] = {}
    # from the images on: a layer's tighter intervals are what the next one is relaxed with. The
    # first input is left out: there intervals are already exact
    layers = [_layer(graph, index) for index in nonlinear_inputs(graph)]
    left = torch.full(
        (len(region.images),), budget, dtype=torch.float64, device=region.images.device
    )
    for number, layer in enumerate(layers):
        index, crops = layer.index, layer.crops
        most = (_granted(graph, bounds, layers[number:], left) / layer.price).long()
        chosen = _widest(relaxed(graph, bounds, index), most)
        if not bool(chosen.any()):
            continue
        left = left - flattened(chosen).sum(1) * layer.price
        if crops is None:
            known[index] = rebounded(graph, bounds, region, index, chosen)
        else:
            known[index] = _by_crops(graph, crops, bounds, region, index, chosen)
        bounds = intervals(graph, region, known)
    return bounds, len(known)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Neurons that may be bounded again, and what one of them costs."""

    index: int
    """the step that gives their values"""
    crops: _Crops | None
    price: float
    """multiplications"""


def _layer(graph: BoundGraph, index: int) -> _Layer:
    crops = _crops(graph, index)
    if crops is None:
        work = graph.work_below(index)
    else:
        work = crops.graph.work_below(len(crops.chain) - 1)
    # two linear functions a neuron: the number itself for its lowest, less it for its highest
    return _Layer(index, crops, 2.0 * work)


def _granted(
    graph: BoundGraph, bounds: Sequence[Interval], layers: Sequence[_Layer], left: Tensor
) -> Tensor:
    """What the first of some layers may cost, N, of what is `left` to each image.

    From the last layer backwards, each is given what it needs, up to an equal share of what is
    then left: the last weigh most on the logits, and what a cheap one leaves goes to the others.
    """
    for others in range(len(layers), 1, -1):
        layer = layers[others - 1]
        need = flattened(relaxed(graph, bounds, layer.index) > 0).sum(1) * layer.price
        left = left - torch.minimum(need, left / others)
    return left


def nonlinear_inputs(graph: BoundGraph) -> list[int]:
    """Inputs of ReLUs and sigmoids behind another one, in order."""
    found = {step.source for step in graph.steps if isinstance(step, Relu | Sigmoidal)}
    return sorted(index for index in found if not _exact(graph, index))


def _exact(graph: BoundGraph, index: int) -> bool:
    """Whether a step follows the images by scaling, moving and one layer: intervals do as well."""
    mixing = 0
    while isinstance(step := graph.steps[index], Affine):
        mixing += not step.diagonal
        index = step.source
    return isinstance(step, Input) and mixing <= 1


def relaxed(graph: BoundGraph, bounds: Sequence[Interval], index: int) -> Tensor:
    """What relaxation may lose at each number of a step, N × shape; 0 where it is not open."""
    low, high = bounds[index]
    lost = torch.zeros_like(low)
    for step in graph.steps:
        if isinstance(step, Relu) and step.source == index:
            # the relaxation is a triangle between ReLU and its chord; its height, at 0, is the most
            # that is lost at this neuron. One of known sign loses nothing
            height = -low * high / (high - low).clamp(min=1e-300)
            lost = torch.maximum(lost, torch.where((low < 0) & (high > 0), height, 0.0))
        elif isinstance(step, Sigmoidal) and step.source == index:
            below, under, above, over = lines(step, low, high)
            gap = (above - below) * (low + high) / 2 + over - under
            lost = torch.maximum(lost, torch.where(gap > STRAIGHT, gap, 0.0))
    return lost


def _widest(lost: Tensor, most: Tensor) -> Tensor:
    """The numbers of each image, `most` (N) of them, where most is `lost`; never where nothing."""
    height = flattened(lost)
    # strictly above the first that is left out: of equals none is taken, so that the choice depends
    # on no order, and a budget is never exceeded
    ranked = functional.pad(height.sort(dim=1, descending=True).values, (0, 1))
    least = ranked.gather(1, most.clamp(0, height.shape[1])[:, None])
    return (height > least).view_as(lost)


def rebounded(
    graph: BoundGraph,
    bounds: Sequence[Interval],
    region: Region,
    index: int,
    chosen: Tensor,
    over: Callable[[], bool] = lambda: False,
) -> Interval:
    """A step's interval, tighter where `chosen`, N × the step's shape, until the time is `over`."""
    errors = local_errors(graph, bounds)
    low, high = _tightened(graph, bounds, errors, region, index, flattened(chosen), over=over)
    return low.view_as(chosen), high.view_as(chosen)


def _tightened(
    graph: BoundGraph,
    bounds: Sequence[Interval],
    errors: Sequence[Tensor | None],
    region: Region,
    index: int,
    chosen: Tensor,
    real: Sequence[Tensor | None] = (),
    over: Callable[[], bool] = lambda: False,
) -> Interval:
    """A step's flattened interval, tighter where `chosen`, both N × numbers of the step."""
    shape = graph.steps[index].shape
    low, high = (flattened(side).clone() for side in bounds[index])
    most = int(chosen.sum(1).max())
    if most == 0:
        return low, high
    # the chosen neurons of each image first; the few too many are dropped again
    order = chosen.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
    for columns in torch.split(order, chunk(graph, len(chosen), 2), dim=1):
        if over():
            break
        one = torch.zeros(*columns.shape, low.shape[1], dtype=low.dtype, device=low.device)
        one.scatter_(2, columns[..., None], 1.0)
        slopes = torch.cat([one, -one], 1).view(len(one), -1, *shape)
        found = lowest(graph, bounds, region, index, slopes, relax=True, errors=errors, real=real)
        below, above = found.values.chunk(2, 1)
        # the old bound stays where it is tighter: CROWN is not always better than intervals
        asked = chosen.gather(1, columns)
        before, after = low.gather(1, columns), high.gather(1, columns)
        low.scatter_(1, columns, torch.where(asked, torch.maximum(before, below), before))
        high.scatter_(1, columns, torch.where(asked, torch.minimum(after, -above), after))
    return low, high


# -- crops --------------------------------------------------------------------------------------


def _crops(graph: BoundGraph, index: int) -> _Crops | None:
    """The crops that a step depends on; None where they are no squares, or no smaller."""
    if len(graph.steps[index].shape) != 3:
        return None
    chain, windows = [index], [Window(1, 1, 0)]
    while not isinstance(step := graph.steps[chain[-1]], Input):
        inner = _window(step)
        if inner is None or isinstance(step, Input):
            return None
        # the receptive field, one step nearer to the images: strides multiply, and the padding of
        # each step counts in pixels of the step before it
        w = windows[-1]
        size = (w.size - 1) * inner.stride + inner.size
        stride, padding = w.stride * inner.stride, w.padding * inner.stride + inner.padding
        windows.append(Window(size, stride, padding))
        chain.append(_source(step))
    chain.reverse()
    windows.reverse()
    # a crop as large as the image saves nothing
    if windows[0].size >= max(graph.steps[0].shape[1:]):
        return None
    steps: list[Step] = []
    for place, (i, w) in enumerate(zip(chain, windows, strict=True)):
        shape = (graph.steps[i].shape[0], w.size, w.size)
        inner_shape = steps[-1].shape if steps else shape
        steps.append(_cropped(graph.steps[i], place - 1, inner_shape, shape))
    H, W = graph.steps[index].shape[1:]
    return _Crops(BoundGraph(tuple(steps)), tuple(chain), tuple(windows), (H, W))


def _window(step: Step) -> Window | None:
    match step:
        case Affine():
            return step.window
        case MaxPool():
            return pool_window(step)
        case Relu() | Sigmoidal():
            return Window(1, 1, 0)
        case _:
            return None


def _source(step: Step) -> int:
    assert isinstance(step, Affine | Relu | Sigmoidal | MaxPool)
    return step.source


def _cropped(step: Step, source: int, inner: tuple[int, ...], shape: tuple[int, ...]) -> Step:
    match step:
        case Affine():
            assert step.cropped is not None
            return step.cropped(source, inner, shape)
        case MaxPool():
            window = pool_window(step)
            assert window is not None
            arguments = (window.size, window.stride)
            places = pool_windows(inner[1], inner[2], arguments, step.windows.device)
            return MaxPool(source, shape, arguments, places)
        case Relu():
            return Relu(source, shape, step.slope)
        case Sigmoidal():
            return replace(step, source=source, shape=shape)
        case _:
            return Input(shape)


def _by_crops(
    graph: BoundGraph,
    crops: _Crops,
    bounds: Sequence[Interval],
    region: Region,
    index: int,
    chosen: Tensor,
) -> Interval:
    """A step's interval, tighter where `chosen`, N × C × H × W."""
    low, high = (side.clone() for side in bounds[index])
    last = len(crops.chain) - 1
    errors = local_errors(graph, bounds)
    for n in range(len(chosen)):
        places = chosen[n].flatten(1).any(0).nonzero()[:, 0]
        if len(places) == 0:
            continue
        # as many places at once as leave room for a pair of slopes for each channel
        widest = max(prod(step.shape) for step in crops.graph.steps)
        size = max(1, CELLS // (widest * 2 * min(8, chosen.shape[1])))
        for some in torch.split(places, size):
            parts, lost, real = _cut_out(crops, bounds, errors, n, some)
            pixels = _tiles(region.images[n], crops.windows[0], crops.grid, some, 0.0)
            asked = chosen[n].flatten(1)[:, some].t()
            part = Region(region.norm, pixels, region.radius)
            below, above = _tightened(crops.graph, parts, lost, part, last, asked, real)
            low[n].view(len(low[n]), -1)[:, some] = below.t()
            high[n].view(len(high[n]), -1)[:, some] = above.t()
    return low, high


def _cut_out(
    crops: _Crops,
    bounds: Sequence[Interval],
    errors: Sequence[Tensor | None],
    n: int,
    places: Tensor,
) -> tuple[list[Interval], list[Tensor | None], list[Tensor | None]]:
    """Intervals and local errors of one image's crops at some places, and which numbers exist."""
    parts: list[Interval] = []
    lost: list[Tensor | None] = []
    real: list[Tensor | None] = []
    steps = crops.graph.steps
    for k, (i, window) in enumerate(zip(crops.chain, crops.windows, strict=True)):
        # where a crop overhangs the image its numbers are the padding's: 0 for a convolution, whose
        # slopes there are cut off by `real`, since a ReLU or a bias would make something of them;
        # −∞ for a max pool, which no padding may win
        pooled = k + 1 < len(steps) and isinstance(steps[k + 1], MaxPool)
        fill = float("-inf") if pooled else 0.0
        low, high = (_tiles(side[n], window, crops.grid, places, fill) for side in bounds[i])
        parts.append((low, high))
        error = errors[i]
        if error is not None:
            error = _tiles(error[n], window, crops.grid, places, 0.0)
        lost.append(error)
        there = _tiles(torch.ones_like(bounds[i][0][0, :1]), window, crops.grid, places, 0.0)
        real.append(None if bool(there.all()) else there)
    return parts, lost, real


def _tiles(x: Tensor, window: Window, grid: tuple[int, int], places: Tensor, fill: float) -> Tensor:
    """The crops of some places of a grid, C × H × W to places × C × size × size."""
    k, s, p = window.size, window.stride, window.padding
    below, right = (
        (count - 1) * s + k - p - length for count, length in zip(grid, x.shape[1:], strict=True)
    )
    padded = functional.pad(x, (p, right, p, below), value=fill)
    tiles = padded.unfold(1, k, s).unfold(2, k, s)  # C × rows × columns × size × size, a view
    return tiles[:, places // grid[1], places % grid[1]].transpose(0, 1)
