"""What a pass over MNIST costs in float32 and in bfloat16, and whether accuracy is the same.

    python tests/benchmarks/training_cost.py --data-root DIR [--seeds 5] [--updates 300]

CPU time of one thread, with the paper's network: updates of both precisions alternate in one
process, so that other work on the machine weighs on both, and the ratio is the median over pairs.
All of an update counts: batches, loss, optimiser, counting. `stacked` trains four networks at once
by `torch.func`, forward and backward alone, beside the same networks in turn. With `--seeds`, as
many short trainings of each precision at 40 % label noise, the same seeds in both, and their
accuracy on held-out images by clean labels.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from robustkit import machine, models
from robustkit.data import Dataset, load_dataset
from robustkit.data.noise import LabelNoise
from robustkit.training import TrainingConfig, TrainingOptions, resolve, train
from robustkit.training.run import bench

BATCH = 128
ROUNDS, STEPS = 8, 3
"""pairs that are timed, and updates of each"""
STACKED = 4
ALONE = {"cross_entropy_weight": 0.0, "alpha": None, "stabiliser": 1e-6}
LOSSES = {
    "cross-entropy": ("cross-entropy", {}),
    "l2-margin": ("large-margin", ALONE),
    "l2-margin with cross-entropy": ("large-margin", {}),
    "l2-margin at all layers": ("large-margin", ALONE | {"layers": ["all"]}),
}


def config(data: Dataset, model: str, loss: str, precision: str, steps: int) -> TrainingConfig:
    """A training of so many updates."""
    name, settings = LOSSES[loss]
    changes = {"steps": steps, "batch_size": BATCH}
    resolved = resolve(name, "mnist", settings=settings, changes=changes)
    return TrainingConfig(
        model=model,
        data=data,
        loss=name,
        settings=resolved.settings(),
        recipe=resolved.recipe,
        precision=precision,
    )


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def costs(data: Dataset) -> None:
    """A line for each network and loss: CPU seconds of a pass."""
    images = len(data) * 11 / 12
    print(f"CPU seconds a pass of {images:,.0f} images, batch {BATCH}, torch {torch.__version__}")
    for model in ("mnist-cnn", "mnist-cnn-bn"):
        for loss in LOSSES:
            runs = [bench(config(data, model, loss, w, 10**6), "cpu") for w in ("float32", "bf16")]
            for run in runs:
                run(STEPS)
            pairs = [[seconds(lambda run=run: run(STEPS)) for run in runs] for _ in range(ROUNDS)]
            each = [images / BATCH * min(column) / STEPS for column in zip(*pairs, strict=True)]
            ratio = statistics.median(before / after for before, after in pairs)
            print(f"{model:13} {loss:29} {each[0]:6.1f} {each[1]:6.1f}  {ratio:.2f}", flush=True)


def stacked(model: str) -> None:
    """Milliseconds of a network's passes, forth and back: in turn and stacked."""
    networks = [models.build(model, seed=seed).train() for seed in range(STACKED)]
    last = [models.build(model, seed=0).train().to(memory_format=torch.channels_last)] * STACKED
    images, labels = torch.rand(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))
    weights, buffers = stack_module_state(networks)

    def loss(weights: dict, buffers: dict) -> torch.Tensor:
        return cross_entropy(functional_call(networks[0], (weights, buffers), (images,)), labels)

    def together(low: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            vmap(grad(loss))(weights, buffers)

    def in_turn(low: bool) -> None:
        batch = images.contiguous(memory_format=torch.channels_last) if low else images
        for network in last if low else networks:
            network.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                logits = network(batch)
            cross_entropy(logits.float(), labels).backward()

    for low in (False, True):
        ways = [lambda low=low: in_turn(low), lambda low=low: together(low)]
        rounds = [[seconds(way) / STACKED for way in ways] for _ in range(ROUNDS)]
        one, other = (1000 * min(column) for column in zip(*rounds, strict=True))
        word = "bf16" if low else "float32"
        print(f"{model}, {word}, {STACKED} networks: in turn {one:.1f} ms, stacked {other:.1f} ms")


def accuracies(data: Dataset, seeds: int, updates: int) -> None:
    """A line for each loss: held-out accuracy in both precisions, and their paired difference."""
    print(f"accuracy by clean held-out labels, %, {updates} updates at 40 % noise, {seeds} seeds")
    for loss in LOSSES:
        found = {word: [] for word in ("float32", "bf16")}
        for seed in range(seeds):
            for word in found:
                asked = replace(
                    config(data, "mnist-cnn", loss, word, updates),
                    seed=seed,
                    noise=LabelNoise(rate=Fraction(2, 5)),
                )
                with TemporaryDirectory() as folder:
                    made = train(asked, Path(folder) / "a", TrainingOptions(device="cpu"))
                found[word].append(100 * made.record["history"][-1]["held_out_clean"])
        apart = [b - a for a, b in zip(*found.values(), strict=True)]
        told = [f"{statistics.mean(x):6.2f} ± {statistics.stdev(x):.2f}" for x in found.values()]
        error = statistics.stdev(apart) / seeds**0.5
        difference = f"{statistics.mean(apart):+.2f}, standard error {error:.2f}"
        print(f"{loss:29} {told[0]}  {told[1]}  difference {difference}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--updates", type=int, default=300)
    options = parser.parse_args()
    machine.keep_memory()  # as `robustkit train` does
    torch.set_num_threads(1)
    data = load_dataset("mnist", split="train", root=options.data_root)
    costs(data)
    stacked("mnist-cnn")
    if options.seeds:
        accuracies(data, options.seeds, options.updates)


if __name__ == "__main__":
    main()
