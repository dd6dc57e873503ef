"""Accuracy on mnist5k under gradient compression: two gloo processes, five seeds.

    OMP_NUM_THREADS=1 python tests/benchmarks/compression.py OUT.jsonl

Plain allreduce against one-bit, top-k and random-k at 1 %, with and without the memory. LeNet-5,
plain SGD at a constant rate, 2 × 32 images a step, 10 epochs. Each scheme has its own rate, the best
of a grid on 500 images held out from the training set, with a seed of its own; then five seeds train
on all 4,000 images and meet the test set once. One JSON line a run; runs whose line is in OUT are
not made again. At the end a table: 95 % t-intervals over seeds, payload and time of a step.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy import stats
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from robustkit import compression, models
from robustkit.data import load_dataset

SCHEMES = [
    ("plain", False),
    *(
        (text, memory)
        for text in ("one-bit", "top-k:1%", "random-k:1%")
        for memory in (True, False)
    ),
]
RATES = (0.02, 0.05, 0.1, 0.2, 0.4)
# unscaled and without memory, a hundredth of each gradient arrives
FURTHER = {("random-k:1%", False): (1.0, 2.0, 4.0, 10.0)}
SEEDS = range(5)
TUNING_SEED = 100
HELD_OUT = 500
BATCH = 32
WORLD = 2


@dataclass(frozen=True, slots=True)
class Run:
    """One training."""

    scheme: str
    memory: bool
    rate: float
    seed: int
    tuning: bool
    """train without the held-out images and score on them, not on the test set"""
    epochs: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    tuning = [
        Run(scheme, memory, rate, TUNING_SEED, True, options.epochs)
        for scheme, memory in SCHEMES
        for rate in (*RATES, *FURTHER.get((scheme, memory), ()))
    ]
    make(tuning, options.out)
    best = {}
    for run, line in finished(options.out).items():
        if run in tuning:
            key = run.scheme, run.memory
            best[key] = max(best.get(key, (-1.0, 0.0)), (line["accuracy"], run.rate))
    final = [
        Run(scheme, memory, best[scheme, memory][1], seed, False, options.epochs)
        for seed in SEEDS
        for scheme, memory in SCHEMES
    ]
    make(final, options.out)
    report({run: line for run, line in finished(options.out).items() if run in final})


def finished(out: Path) -> dict[Run, dict[str, Any]]:
    """The lines of the file by run."""
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return {Run(**line["run"]): line for line in lines}


def make(runs: list[Run], out: Path) -> None:
    """Train what is missing."""
    done = finished(out)
    if missing := [run for run in runs if run not in done]:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(work, (missing, out, f"file://{folder}/store"), nprocs=WORLD)


def work(rank: int, runs: list[Run], out: Path, store: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    sets = {split: tensors(split) for split in ("train", "test")}
    for run in runs:
        result = train(run, rank, *sets["train"], *sets["test"])
        if rank == 0:
            line = json.dumps({"run": asdict(run), **result})
            print(line, flush=True)
            with out.open("a") as file:
                file.write(line + "\n")
    dist.destroy_process_group()


def tensors(split: str) -> tuple[Tensor, Tensor]:
    dataset = load_dataset("mnist5k", split=split)
    return torch.from_numpy(dataset.images(0, len(dataset))), torch.from_numpy(dataset.labels)


def train(
    run: Run, rank: int, images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor
) -> dict[str, Any]:
    if run.tuning:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        test_images, test_labels = images[order[:HELD_OUT]], labels[order[:HELD_OUT]]
        images, labels = images[order[HELD_OUT:]], labels[order[HELD_OUT:]]
    network = models.build("lenet5", seed=run.seed)
    ddp = DistributedDataParallel(network)
    compressor = None
    if run.scheme != "plain":
        scheme = compression.parse(run.scheme)
        compressor = compression.attach(ddp, scheme, seed=run.seed, memory=run.memory)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=run.rate)
    generator = torch.Generator().manual_seed(run.seed)
    times = []
    for _ in range(run.epochs):
        whole = len(images) // (BATCH * WORLD) * BATCH * WORLD
        batches = torch.randperm(len(images), generator=generator)[:whole].view(-1, WORLD, BATCH)
        for rows in batches[:, rank]:
            start = perf_counter()
            optimizer.zero_grad()
            if compressor is not None:
                compressor.learning_rate(run.rate)
            cross_entropy(ddp(images[rows]), labels[rows]).backward()
            optimizer.step()
            times.append(perf_counter() - start)
    with torch.no_grad():
        accuracy = float((network(test_images).argmax(1) == test_labels).double().mean())
    plain = sum(4 * parameter.numel() for parameter in network.parameters())
    return {
        "accuracy": accuracy,
        "bytes_per_step": compressor.record()["bytes_per_step"] if compressor else plain,
        "plain_bytes_per_step": plain,
        "ms_per_step": round(1000 * statistics.median(times), 3),
        "steps": len(times),
    }


def report(lines: dict[Run, dict[str, Any]]) -> None:
    print(
        "| scheme | memory | rate | accuracy | 95 % interval | bytes a step | of plain | ms a step |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for scheme, memory in SCHEMES:
        mine = [
            (run, line)
            for run, line in lines.items()
            if (run.scheme, run.memory) == (scheme, memory)
        ]
        accuracies = [100 * line["accuracy"] for _, line in mine]
        mean = statistics.mean(accuracies)
        spread = statistics.stdev(accuracies) / len(accuracies) ** 0.5
        half = stats.t.ppf(0.975, len(accuracies) - 1) * spread
        run, line = mine[0]
        share = line["bytes_per_step"] / line["plain_bytes_per_step"]
        time = statistics.median(line["ms_per_step"] for _, line in mine)
        word = "" if scheme == "plain" else "yes" if memory else "no"
        print(
            f"| {scheme} | {word} | {run.rate} | {mean:.2f} | {mean - half:.2f} to {mean + half:.2f} "
            f"| {line['bytes_per_step']:,} | {share:.2%} | {time:.1f} |"
        )


if __name__ == "__main__":
    main()
