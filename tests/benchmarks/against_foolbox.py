"""The engine beside plain foolbox: same attack, steps, step sizes and budgets, in one run.

    python tests/benchmarks/against_foolbox.py NETWORK.safetensors --data-root DIR [--images 1000]

Prints, as JSON lines: foolbox's time and robust accuracy for several seeds, the engine's, a bare
replay of the engine's batches (forward and input gradient, no attack), and the same number of
sample-passes at full batch size. `--memory` prints the peak memory of one evaluation instead.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from robustkit import checkpoint, data, evaluation, protocol
from robustkit.attack import Block, attack_block, within

BUDGETS = ("0.05", "0.1", "0.15", "0.2", "0.25", "0.3", "0.35", "0.4")
STEPS, RELATIVE = 40, "1/16"
PROTOCOL = {
    "title": "PGD-40 from a random start",
    "norm": "linf",
    "epsilon": list(BUDGETS),
    "attack": [{"kind": "pgd", "steps": STEPS, "relative_step": RELATIVE}],
}


class Counted(torch.nn.Module):
    """Notes the size of every batch, and whether its gradient was wanted."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.batches: list[tuple[int, bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append((len(x), x.requires_grad))
        return self.model(x)


def say(**row: object) -> None:
    print(json.dumps(row), flush=True)


def plain_foolbox(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, batch: int, seed: int
) -> tuple[float, list[float]]:
    """Seconds, and robust accuracy by budget, as its documentation has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox
    torch.manual_seed(seed)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(steps=STEPS, rel_stepsize=1 / 16, random_start=True)
    budgets = [float(b) for b in BUDGETS]
    clock, right = time.perf_counter(), torch.zeros(len(budgets))
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        _, _, success = attack(wrapped, x, y, epsilons=budgets)
        right += (~success).sum(1)
    return time.perf_counter() - clock, (right / len(images)).tolist()


def engine(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, ids: tuple[str, ...], batch: int, seed: int
) -> tuple[float, list[float]]:
    """Seconds, and robust accuracy by budget, over blocks as an evaluation has them."""
    from dataclasses import replace

    asked = replace(protocol.parse(PROTOCOL, "pgd", "benchmark"), seed=seed)
    size, distances = 256, []
    clock = time.perf_counter()
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        block = Block(images[rows], labels[rows], ids[rows], start)
        distances.append(attack_block(model, block, asked, batch).distance)
    seconds = time.perf_counter() - clock
    found = torch.cat(distances)
    return seconds, [float((~within(found, float(b))).double().mean()) for b in BUDGETS]


def replay(model: torch.nn.Module, images: torch.Tensor, batches: list[tuple[int, bool]]) -> float:
    """Seconds for the same batches with nothing around them."""
    clock = time.perf_counter()
    for n, gradient in batches:
        x = images[:n].detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            logits = model(x)
            if gradient:
                torch.autograd.grad(logits.sum(), x)
    return time.perf_counter() - clock


def compare(options: argparse.Namespace) -> None:
    subset = data.load(options.data, root=options.data_root, limit=options.images)
    images, labels = torch.from_numpy(subset.images(0, len(subset))), torch.from_numpy(subset.labels)
    record = checkpoint.read(options.network)
    frozen, trainable = record.load(), record.load()
    trainable.requires_grad_(True)  # as a user's own model is, and as foolbox leaves it
    say(network=options.network, images=len(images), threads=torch.get_num_threads(), torch=torch.__version__)
    replay(frozen, images, [(options.batch, True)] * 10)  # warm up
    for seed in range(options.seeds):
        counted = Counted(frozen)
        seconds, robust = engine(counted, images, labels, subset.ids, options.batch, seed)
        passes = sum(n for n, gradient in counted.batches if gradient)
        say(what="engine", seed=seed, seconds=seconds, robust=robust, sample_passes=passes)
        if seed == 0:
            say(what="replay of the same batches", seconds=replay(frozen, images, counted.batches))
            full = [(options.batch, True)] * round(passes / options.batch)
            say(what="same sample-passes at full batches", seconds=replay(frozen, images, full))
        seconds, robust = plain_foolbox(trainable, images, labels, options.batch, seed)
        say(what="foolbox", seed=seed, seconds=seconds, robust=robust)


def memory(options: argparse.Namespace) -> None:
    """Peak resident memory of a whole evaluation by FGSM, in MiB."""
    with tempfile.TemporaryDirectory() as out:
        subset = data.load(options.data, root=options.data_root, limit=options.images)
        subject = evaluation.of_checkpoint(checkpoint.read(options.network))
        asked = evaluation.resolve("fgsm", subset)
        evaluation.run(subject, subset, asked, Path(out), evaluation.Options())
    say(images=options.images, peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    (memory if options.memory else compare)(options)


if __name__ == "__main__":
    sys.exit(main())
