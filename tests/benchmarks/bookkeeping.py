"""What the engine spends around a network's passes, as a share of a step: CPU time, one thread.

A network of about a million multiplications, a batch of 128 images, a budget at which nothing is
fooled, so that every step is one full pass. The same passes are then made bare, in turn with the
attack, and their time is taken off.

    python tests/benchmarks/bookkeeping.py [ROUNDS]
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from robustkit import machine
from robustkit import protocol as protocols
from robustkit.attacks import Block, SearchNetwork, attack_block, search_network

BATCH = 128
EPSILON = "1/1000000"
ATTACKS = {
    "pgd": {"kind": "pgd", "steps": 100, "relative_step": "1/4"},
    "apgd": {"kind": "apgd", "steps": 100},
    "square": {"kind": "square", "queries": 400},
}
STEPS = {"pgd": 100, "apgd": 100, "square": 400}
LIMITS = {"pgd": 0.10, "apgd": 0.10, "square": 0.30}
"""share of a step that may be spent outside of the network"""


def network() -> nn.Module:
    """1.1 million multiplications on 28 × 28 pixels, ten classes."""
    torch.manual_seed(0)
    layers = (
        *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 16, 10)),
    )
    return nn.Sequential(*layers).eval().requires_grad_(False)


def timed(work: Callable[[], object]) -> float:
    """CPU seconds."""
    began = time.process_time()
    work()
    return time.process_time() - began


def bare(model: nn.Module, x: Tensor, labels: Tensor, steps: int, gradient: bool) -> None:
    """So many passes, and gradients of a loss, without anything around them."""
    if not gradient:
        with torch.inference_mode():
            for _ in range(steps):
                model(x)
        return
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(x), labels, reduction="sum")
        torch.autograd.grad(loss, x)


def main(rounds: int = 5) -> None:
    """Print a row an attack."""
    torch.set_num_threads(1)
    machine.keep_memory()  # as the command line does
    model, x = network(), torch.rand(BATCH, 1, 28, 28)
    labels = model(x).argmax(1)
    block = Block(x, labels, [f"image {i}" for i in range(BATCH)], 0)
    step_by: SearchNetwork = search_network(model, x[:16])
    print(f"{'attack':8} {'bare step, ms':>14} {'engine, ms':>11} {'outside':>8} {'limit':>6}")
    for name, attack in ATTACKS.items():
        table = {"title": "", "norm": "linf", "attack": [attack], "epsilon": [EPSILON]}
        protocol, steps = protocols.parse_protocol(table, name, name), STEPS[name]
        pairs = [
            (
                timed(lambda: attack_block(model, block, protocol, BATCH, search_by=step_by)),  # noqa: B023
                timed(lambda: bare(step_by.exact, x, labels, steps, name != "square")),  # noqa: B023
            )
            for _ in range(rounds)
        ]
        share = median((engine - alone) / alone for engine, alone in pairs)
        engine, alone = (1000 * median(column) / steps for column in zip(*pairs, strict=True))
        print(f"{name:8} {alone:14.2f} {engine:11.2f} {share:8.0%} {LIMITS[name]:6.0%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
