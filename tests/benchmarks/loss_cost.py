"""What the large-margin loss costs beside cross-entropy, a training step of each in turn.

Usage: python tests/benchmarks/loss_cost.py [--device cpu] [--batch 256] [--steps 15] [--threads 2]
       [--quick]

A step is forward and backward, and an optimiser step where the column says so. Steps of the two
losses alternate, and the ratio is the median over pairs, so that other work on the machine weighs
on both. The last column is the largest relative difference, over parameters, between the gradient
of this way and that of two passes on the same batch.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustkit import losses, machine, models
from robustkit.losses.large_margin import LargeMargin
from robustkit.losses.loss import Result, Step

LAYERS = {
    "input": ("input",),
    "input and convolutions": ("input", "conv1", "conv2"),
    "all": ("all",),
    "output": ("output",),
}
VARIANTS: dict[str, dict[str, object]] = {
    "top-1": {},
    "top-3, max": {"top_k": 3},
    "top-3, sum": {"top_k": 3, "aggregate": "sum"},
    "with cross-entropy": {"cross_entropy_weight": 1.0},
    "second order": {"differentiate": True},
    "on probabilities": {"on": "probabilities"},
}
Batch = tuple[Tensor, Tensor]


class Row(NamedTuple):
    """One combination to be measured."""

    network: str
    norm: str
    layers: str
    variant: str

    def loss(self) -> LargeMargin:
        settings = {"norm": self.norm, "layers": LAYERS[self.layers], "gamma": 1000.0}
        made = losses.build("large-margin", settings | VARIANTS[self.variant])
        assert isinstance(made, LargeMargin)
        return made


def rows(quick: bool) -> Iterator[Row]:
    """The table's rows; the ones of the target first."""
    for norm in ("l2", "linf"):
        yield Row("mnist-cnn", norm, "input and convolutions", "top-1")
    if quick:
        return
    yield Row("mnist-cnn", "l1", "input and convolutions", "top-1")
    for norm in ("l2", "linf", "l1"):
        for layers in ("input", "all", "output"):
            yield Row("mnist-cnn", norm, layers, "top-1")
    for variant in VARIANTS:
        if variant != "top-1":
            yield Row("mnist-cnn", "l2", "input and convolutions", variant)
        yield Row("mnist-cnn-bn", "l2", "input and convolutions", variant)


def network(name: str, device: torch.device) -> nn.Module:
    """A network with weights of its own seed, in training mode."""
    return models.build(name, seed=0).to(device)


def batch(size: int, device: torch.device) -> Batch:
    """Random images and labels."""
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(size, 1, 28, 28, generator=draw)
    return images.to(device), torch.randint(10, (size,), generator=draw).to(device)


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """The time of one step, in seconds, the device's queue included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


Way = Callable[[nn.Module, Tensor, Tensor], Result]


def stepper(way: Way, model: nn.Module, data: Batch, optimiser: bool) -> Callable[[], None]:
    """A training step that finds gradients in one way."""
    moving = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)

    def step() -> None:
        moving.zero_grad()
        way(model, *data)
        if optimiser:
            moving.step()

    return step


def ratio(
    one: Callable[[], None], other: Callable[[], None], steps: int, device: torch.device
) -> float:
    """The median over pairs of steps of what `one` takes, in units of `other`."""
    for _ in range(3):
        one(), other()
    pairs = [(seconds(one, device), seconds(other, device)) for _ in range(steps)]
    return statistics.median(a / b for a, b in pairs)


def difference(one: Way, two: Way, name: str, data: Batch) -> float:
    """The largest relative difference between the gradients of two ways, over parameters."""
    found = []
    for way in (one, two):
        model = network(name, data[0].device)
        way(model, *data)
        found.append([parameter.grad for parameter in model.parameters()])
    return max(float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="only the rows of the target")
    options = parser.parse_args()
    machine.keep_memory()  # as `robustkit train` does
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    data = batch(options.batch, device)
    step = Step(0, torch.Generator(device))
    plain = losses.build("cross-entropy")

    def baseline(model: nn.Module, images: Tensor, labels: Tensor) -> Result:
        return plain.backward(model, images, labels, step)

    print(f"{device}, torch {torch.__version__}, batch {options.batch}, {options.threads} threads")
    print("| network | norm | margin at | variant | way | cost | with SGD step | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows(options.quick):
        loss = row.loss()
        model = network(row.network, device)
        mode = loss.prepare(model, data[0][:8]).backward_mode(model)
        ways = {"two passes": loss.two_passes}
        if not loss.differentiate:
            ways = {"two passes, short cut": loss.shortcut} | ways
        if mode == "one pass":
            ways = {"one pass": loss.fused} | ways
        for name, way in ways.items():
            costs = [
                ratio(
                    stepper(way, model, data, optimiser),
                    stepper(baseline, network(row.network, device), data, optimiser),
                    options.steps,
                    device,
                )
                for optimiser in (False, True)
            ]
            apart = difference(way, loss.two_passes, row.network, data)
            cells = [*row, name, *(f"{cost:.2f}" for cost in costs), f"{apart:.0e}"]
            print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
