"""What a pass of the search costs, forward and back to the pixels, as networks are prepared.

    python tests/benchmarks/preparing.py [--compile] [--rounds 15]

As it is, with weights frozen as an evaluation has them; prepared (BatchNorm folded, channels last,
see attacks/prepared.py); in bfloat16; and each of the latter two compiled by torch.compile, with the
seconds that this takes. CPU time of one thread, medians of passes made in turn, as a share of the
network as it is.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from networks import narrow, small
from torch import Tensor, nn

from robustkit import machine, models
from robustkit.attacks import search_network
from robustkit.checkpoint import wrap

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "small (MNIST)": (small, (128, 1, 28, 28)),
    "lenet5": (lambda: models.build("lenet5"), (128, 1, 28, 28)),
    "mnist-cnn-bn": (lambda: models.build("mnist-cnn-bn"), (128, 1, 28, 28)),
    "small-cnn-cifar": (lambda: models.build("small-cnn-cifar"), (128, 3, 32, 32)),
    "ResNet-18, width 16": (narrow, (64, 3, 32, 32)),
    "resnet18-cifar": (lambda: models.build("resnet18-cifar"), (32, 3, 32, 32)),
}


def step(network: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """A forward pass and the gradient of a loss in the pixels."""
    x = x.detach().requires_grad_()
    logits = network(x).float()
    loss = nn.functional.cross_entropy(logits, logits.detach().argmax(1), reduction="sum")
    torch.autograd.grad(loss, x)


def look(network: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """A forward pass alone."""
    with torch.inference_mode():
        network(x)


def timed(work: Callable[..., None], *given: Any) -> float:
    """CPU seconds."""
    began = time.process_time()
    work(*given)
    return time.process_time() - began


def compiled(network: nn.Module, x: Tensor) -> tuple[Callable[[Tensor], Tensor], float]:
    """A compiled network, and the seconds until it has passed images both ways."""
    began = time.perf_counter()
    torch.compiler.reset()
    made = torch.compile(network, dynamic=False)
    step(made, x)
    look(made, x)
    return made, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine.keep_memory()  # as the command line does
    for name in options.networks:
        build, shape = NETWORKS[name]
        torch.manual_seed(0)
        x = torch.rand(shape)
        network = build().train()
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = None  # its statistics are those of these images
        with torch.no_grad():
            network(x)
        ways: dict[str, Callable[[Tensor], Tensor]] = {"as it is": wrap(network)}
        searched = search_network(ways["as it is"], x[:16], "bf16")
        ways |= {"prepared": searched.exact, "bf16": searched.low.network}
        seconds = {}
        if options.compile:
            for way in ("prepared", "bf16"):
                ways[f"{way}, compiled"], seconds[way] = compiled(ways[way], x)
        rounds = [
            [timed(work, ways[way], x) for work in (step, look) for way in ways]
            for _ in range(options.rounds + 2)
        ][2:]
        times = [1000 * median(column) for column in zip(*rounds, strict=True)]
        print(f"{name}, {shape[0]} images; compiling took", seconds or "–")
        for number, way in enumerate(ways):
            both, forward = times[number], times[number + len(ways)]
            faster = times[0] / both, times[len(ways)] / forward
            print(
                f"  {way:20} {both:7.1f} ms, {faster[0]:.2f} times as fast; "
                f"forward alone {forward:6.1f} ms, {faster[1]:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
