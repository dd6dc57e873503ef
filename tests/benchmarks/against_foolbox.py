"""The engine beside plain foolbox: same attack, steps, step sizes and budgets, in one run.

    OMP_NUM_THREADS=1 python tests/benchmarks/against_foolbox.py NETWORK.safetensors --data-root DIR

Prints a JSON line a seed: robust accuracy and CPU time of foolbox and of the engine in both orders of
budgets, the time of a bare replay of the bisection's batches (forward and input gradient, no attack)
and of as many sample-passes at full batch size. `--verdicts` leaves the replays out. `--memory` prints
the peak memory of one evaluation instead.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from robustkit import evaluation, protocol
from robustkit.attacks import Block, attack_block, in_budget
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset

T = TypeVar("T")
BUDGETS = ("0.05", "0.1", "0.15", "0.2", "0.25", "0.3", "0.35", "0.4")
ORDERS, REPLAYS = ("bisect", "scan"), ("replay", "full batches")
STEPS, RELATIVE = 40, "1/16"
PROTOCOL = {
    "title": "PGD-40 from a random start",
    "norm": "linf",
    "epsilon": list(BUDGETS),
    "attack": [{"kind": "pgd", "steps": STEPS, "relative_step": RELATIVE}],
}


class Counted(torch.nn.Module):
    """Counts the images whose gradient was wanted, and replays every batch right after it.

    The replay is a bare forward pass and input gradient with nothing around them; taken in turn with
    the engine's own, both suffer alike from a machine whose speed drifts.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.images = 0
        self.replayed = 0.0
        self.replays = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            self.images += len(x)
        if self.replays:
            clock = time.process_time()
            replay(self.model, x, [(len(x), x.requires_grad)])
            self.replayed += time.process_time() - clock
        return self.model(x)


class Foolbox:
    """Plain foolbox, as its documentation has it, on a model whose weights want gradients."""

    def __init__(self, model: torch.nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import foolbox
        self.wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        self.attack = foolbox.attacks.LinfPGD(steps=STEPS, rel_stepsize=1 / 16, random_start=True)

    def robust(self, x: torch.Tensor, y: torch.Tensor, batch: int) -> torch.Tensor:
        """How many of the images stay right at each budget."""
        right = torch.zeros(len(BUDGETS))
        for images, labels in zip(x.split(batch), y.split(batch), strict=True):
            _, _, success = self.attack(
                self.wrapped, images, labels, epsilons=[float(b) for b in BUDGETS]
            )
            right += (~success).sum(1)
        return right


def replay(model: torch.nn.Module, images: torch.Tensor, batches: list[tuple[int, bool]]) -> None:
    """Batches of these sizes, forward and input gradient, with nothing around them."""
    for n, gradient in batches:
        x = images[:n].detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            logits = model(x)
            if gradient:
                torch.autograd.grad(logits.sum(), x)


def timed(function: Callable[..., T], *arguments: object) -> tuple[float, T]:
    clock = time.process_time()
    result = function(*arguments)
    return time.process_time() - clock, result


def compare(options: argparse.Namespace) -> None:
    """Block by block in turn, so that a machine whose speed drifts slows all of them alike."""
    subset = load_dataset(options.data, root=options.data_root, limit=options.images)
    options.images = len(subset)
    record = read_checkpoint(options.network)
    counted, trainable = Counted(record.load()), record.load()
    trainable.requires_grad_(True)  # as a user's own model is, and as foolbox leaves it
    plain = Foolbox(trainable)
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        seconds: dict[str, list[float]] = {}
        right = {name: torch.zeros(len(BUDGETS)) for name in (*ORDERS, "foolbox")}
        passes = dict.fromkeys(ORDERS, 0)
        for start in range(0, len(subset), 256):
            stop = min(start + 256, len(subset))
            x = torch.from_numpy(subset.images(start, stop))
            y = torch.from_numpy(subset.labels[start:stop])
            block = Block(x, y, subset.ids[start:stop], start)
            for order in ORDERS:
                table = PROTOCOL | {"search": order}
                asked = replace(protocol.parse_protocol(table, "pgd", "benchmark"), seed=seed)
                counted.images, counted.replayed = 0, 0.0
                counted.replays = order == "bisect" and not options.verdicts
                spent, outcomes = timed(attack_block, counted, block, asked, options.batch)
                seconds.setdefault(order, []).append(spent - counted.replayed)
                for k, budget in enumerate(map(float, BUDGETS)):
                    right[order][k] += (~in_budget(outcomes.distance, budget)).sum()
                passes[order] += counted.images
                if counted.replays:
                    full = [(options.batch, True)] * round(counted.images / options.batch)
                    seconds.setdefault("replay", []).append(counted.replayed)
                    spent, _ = timed(replay, counted.model, x, full)
                    seconds.setdefault("full batches", []).append(spent)
            spent, found = timed(plain.robust, x, y, options.batch)
            seconds.setdefault("foolbox", []).append(spent)
            right["foolbox"] += found
        tell(options, seed, seconds, right, passes)


def tell(
    options: argparse.Namespace,
    seed: int,
    seconds: dict[str, list[float]],
    right: dict[str, torch.Tensor],
    passes: dict[str, int],
) -> None:
    """One seed's numbers, as a line."""

    def ratio(over: str, under: str) -> float:
        pairs = zip(seconds[over], seconds[under], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    found = {
        "network": Path(options.network).name,
        "seed": seed,
        "images": options.images,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sample_passes": passes,
        "robust": {name: (count / options.images).tolist() for name, count in right.items()},
        "cpu seconds": {name: round(sum(values), 1) for name, values in seconds.items()},
        "median ratio by block": {
            **{f"foolbox / {order}": ratio("foolbox", order) for order in ORDERS},
            **{f"bisect / {n}": ratio("bisect", n) for n in seconds if n in REPLAYS},
        },
    }
    print(json.dumps(found), flush=True)


def memory(options: argparse.Namespace) -> None:
    """Peak resident memory of a whole evaluation by FGSM, in MiB."""
    with tempfile.TemporaryDirectory() as out:
        subset = load_dataset(options.data, root=options.data_root, limit=options.images)
        subject = evaluation.from_checkpoint(read_checkpoint(options.network))
        asked = evaluation.resolve_protocol("fgsm", subset)
        evaluation.run(subject, subset, asked, Path(out), evaluation.RunOptions())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images": options.images, "peak_mib": round(peak)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--verdicts", action="store_true")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    (memory if options.memory else compare)(options)


if __name__ == "__main__":
    sys.exit(main())
