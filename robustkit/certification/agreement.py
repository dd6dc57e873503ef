"""Whether a graph's steps are the network, tried: each step, and the whole, both in float64.

Bounds are of the steps. Intervals that float32's rounding allows are wide in a deep network and
would let another function pass; float64 leaves little room. What a module does only while it is
exported, on some images, batch sizes or number types, is not in its steps.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustkit.attacks.draws import generator
from robustkit.certification.bounds import Interval, local_error
from robustkit.certification.graph import Add, Affine, BoundGraph, Input, Unsupported, sources
from robustkit.certification.precision import roundoff_of
from robustkit.certification.roundoff import DOUBLE, IEEE, Roundoff
from robustkit.certification.tracing import BATCH
from robustkit.checkpoint.adapter import replica
from robustkit.network import answer

SIZES = (1, 4, BATCH)
"""images at once"""
DRIFT = 1e-9
"""by how much float64 may tell them apart at the end, over the sizes of what the last step adds"""
DRIFT32 = 1e-3
"""by how much float32 may"""
CUT = 16
"""by how many times what a cut factor loses, besides: layer upon layer has lost it"""
TOGETHER = 4
"""steps at most that stand for one operation, each with an error of its own"""
OTHER = "the steps that were traced give other logits than the model"


def points(image: Tensor) -> Tensor:
    """`BATCH` images like one, float64: itself, some near, noise, dim, bright and binary ones."""
    shape, source = (BATCH, *image.shape), generator("agreement", 0)
    x = torch.rand(shape, dtype=torch.float64, generator=source)
    x[1:3] = (image.double().cpu() + 0.2 * (x[1:3] - 0.5)).clamp(0, 1)
    x[3:5] = x[3:5].round()
    x[5] *= 0.1
    x[6] = 1 - 0.1 * x[6]
    x[0], x[7], x[8] = image.double().cpu(), 0, 1
    return x.to(image.device)


@torch.no_grad()
def check_steps(
    graph: BoundGraph,
    program: torch.export.ExportedProgram,
    held: Mapping[str, Tensor],
    place: Mapping[fx.Node, int],
    x: Tensor,
) -> None:
    """Each operation of the program against its steps, on what the program itself computes.

    Raises:
        Unsupported: one gives something else than float64's rounding allows.
    """
    exact = replace(graph, roundoff=Roundoff(unit=DOUBLE))
    values: dict[fx.Node, Any] = {}
    known: dict[int, Tensor] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = held.get(node.name, x)
        elif node.op == "call_function":
            arguments = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*arguments[0], **arguments[1])
        if node not in place or place[node] >= len(graph.steps):
            continue
        result, index = values[node], place[node]
        if isinstance(result, Tensor):
            if not _same(exact, index, known, result):
                raise Unsupported(f"{OTHER}, at {node.target}")
        elif index not in known:  # a batch norm, whose first result is meant
            known[index] = result[0]


def _same(graph: BoundGraph, index: int, known: dict[int, Tensor], result: Tensor) -> bool:
    """Whether a step gives the result, which is then taken to be its value."""
    if index in known:
        return torch.equal(known[index], result)
    mine = _value(graph, index, known, result)
    missing = (result[:0], result[:0])
    bounds: list[Interval] = [(known[i], known[i]) if i in known else missing for i in range(index)]
    error = local_error(graph, index, [*bounds, (mine, mine)])
    known[index] = result
    off = (mine - result).abs()
    return bool((off <= (0.0 if error is None else TOGETHER * error)).all())


def _value(graph: BoundGraph, index: int, known: dict[int, Tensor], x: Tensor) -> Tensor:
    """A step's value from those that are known; steps between that no operation has get theirs."""
    for source in sources(graph.steps[index]):
        if source not in known:
            known[source] = _value(graph, source, known, x)
    match step := graph.steps[index]:
        case Input():
            return x
        case Add(sources=(one, other)):
            return known[one] + known[other]
        case _:
            return step.apply(known[step.source])


def check_network(model: nn.Module, graph: BoundGraph, x: Tensor) -> None:
    """The module against the graph on some images: several batch sizes, and with gradients.

    Raises:
        Unsupported: they differ by more than float64's rounding of the last steps' numbers.
    """
    network = replica(model).to(x.device, torch.float64)
    drift = DRIFT32 + CUT * roundoff_of(model, x.device).inputs
    check_logits(graph, x, _answers(model, x.float(), len(x)), drift)
    for size in SIZES:
        check_logits(graph, x, _answers(network, x, size))
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        check_logits(graph, x, answer(network, leaf).detach())


@torch.no_grad()
def _answers(model: nn.Module, x: Tensor, size: int) -> Tensor:
    return torch.cat([answer(model, part) for part in torch.split(x, size)])


@torch.no_grad()
def check_logits(graph: BoundGraph, x: Tensor, logits: Tensor, drift: float = DRIFT) -> None:
    """Logits of float64 images against the graph's.

    Raises:
        Unsupported: they are not the same but for rounding.
    """
    values = graph.values(x)
    step, last = graph.steps[-1], values[-1]
    sizes = last.abs()
    if isinstance(step, Affine):
        sizes = step.absolute(values[step.source].abs()) + step.constants
    elif isinstance(step, Add):
        sizes = values[step.sources[0]].abs() + values[step.sources[1]].abs()
    if logits.shape != last.shape:
        raise Unsupported(OTHER)
    allowed = drift * (sizes.amax(1, keepdim=True) + IEEE.unit)
    if not bool(((logits - last).abs() <= allowed).all()):
        raise Unsupported(OTHER)
