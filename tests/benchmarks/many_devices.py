"""What several workers gain: two on this machine, measured; up to 64 on a cluster, simulated.

    OMP_NUM_THREADS=1 python tests/benchmarks/many_devices.py

A network of about 100 MFLOP a pass is attacked by one process with a thread, then by two. Efficiency
is the time of one over twice the time of two. Beside wall time it is told from the processors' time
alone, which others at work on the machine hardly change: what the parent does, then half of what
both workers do, since their blocks are as many and as long. Of 2 cores it takes less than 4 minutes.

The simulation is of single events. Its parts are measured here: the time of each block, of what the
parent does before, of keeping a block, and, by the clock, of a worker from its start until it asks for
work. What is assumed is printed.
"""

import argparse
import heapq
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from robustkit import evaluate, machine
from robustkit.evaluation import blocks, spreading
from robustkit.parallel.crew import News
from robustkit.parallel.parcel import pack
from robustkit.parallel.processes import Processes

IMAGES, BLOCK = 4096, 256
STEPS, EPSILONS = 12, ["1/1000"]
BANDWIDTH, MACHINE = 125e6, 8
"""assumed: bytes a second of the network, and workers a machine"""
LATENCY = 5e-3
"""assumed: seconds from a worker's result to its next job"""
COUNTS = [1, 2, 4, 8, 16, 32, 64]


class Hundred(nn.Module):
    """A plain convolutional network of about 50 million multiplications, 100 MFLOP, an image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths, layers = [3, 32, 64, 128, 128], []
        for number, (few, many) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(few, many, 3, padding=1), nn.ReLU()]
            if number:
                layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N × 3 × 32 × 32 to N × 10."""
        logits: torch.Tensor = self.layers(x)
        return logits


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and what the network takes it for, so that every image is attacked."""
    made = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = torch.cat([Hundred().eval()(part).argmax(1) for part in made.split(128)])
    return made.numpy(), labels.numpy()


@dataclass(frozen=True)
class Times:
    """Seconds of a run."""

    wall: float
    own: float
    """of the processor, in the parent"""
    others: float
    """and in its workers"""
    rows: str
    begun: float = 0.0
    """of the parent's, until its workers could be started"""
    kept: tuple[float, ...] = ()
    """of the parent's, for each block that it keeps"""
    blocks: tuple[float, ...] = ()
    """of the processor, for each block where there is one process"""
    parcel: int = 0
    """bytes that travel to a machine"""
    starts: tuple[float, ...] = ()
    """by the clock, from the start of each worker until it asks for work"""
    used: tuple[float, ...] = ()
    """of the processor, meanwhile"""


def of_process(who: int) -> float:
    """Seconds of the processor."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def of_other(pid: int) -> float:
    """Seconds of the processor in another process that still runs, on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def child(device: str, count: int) -> Times:
    """One evaluation, timed, in this process."""
    machine.keep_memory()  # as the command line does, and as workers do
    torch.set_num_threads(1)
    given = images(count)
    begun, kept, ended, parcels, starts, used = [], [], [], [], [], []
    keep, attack = spreading.keep, blocks.Attacker.attack

    def timed_keep(*what: object) -> object:
        started = time.process_time()
        found = keep(*what)
        kept.append(time.process_time() - started)
        return found

    def timed_attack(self: object, *what: object) -> object:
        started = time.process_time()
        found = attack(self, *what)
        ended.append(time.process_time() - started)
        return found

    class TimedProcesses(Processes):
        def __init__(self, *given: object) -> None:
            self.at = time.perf_counter()
            super().__init__(*given)

        def news(self, patience: float) -> Sequence[News]:
            found = super().news(patience)
            passed = time.perf_counter() - self.at
            ready = [one.worker for one in found if one.kind == "ready"]
            starts.extend(passed for _ in ready)
            used.extend(of_other(self._workers[number].process.pid) for number in ready)
            return found

    def timed_pack(site: object, file: Path) -> object:
        begun.append(time.process_time())
        made = pack(site, file)
        parcels.append(len(made.content) + file.stat().st_size)
        return made

    spreading.keep, spreading.pack = timed_keep, timed_pack
    spreading.Processes = TimedProcesses
    blocks.Attacker.attack = timed_attack
    before = of_process(resource.RUSAGE_SELF)
    started, at = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        found = evaluate(
            Hundred(),
            given,
            "pgd",
            epsilon=EPSILONS,
            settings=[f"steps={STEPS}", "restarts=1", "relative_step=1/2"],
            device=device,
            prove="off",
            batch_size=128,
            name="hundred",
            out=folder,
            progress=False,
        )
    return Times(
        time.perf_counter() - started,
        of_process(resource.RUSAGE_SELF) - before,
        of_process(resource.RUSAGE_CHILDREN),
        found.rows_digest,
        begun[0] - at if begun else 0.0,
        tuple(kept),
        tuple(ended),
        parcels[0] if parcels else 0,
        tuple(starts),
        tuple(used),
    )


def run(device: str, count: int) -> Times:
    """One evaluation, in a process of its own."""
    command = [sys.executable, __file__, "--child", device, "--images", str(count)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    read = json.loads(said.splitlines()[-1])
    return Times(**{k: tuple(v) if isinstance(v, list) else v for k, v in read.items()})


@dataclass(frozen=True)
class Parts:
    """What the simulation is made of, in seconds."""

    blocks: tuple[float, ...]
    start: float
    """of a worker, until it asks for work"""
    before: float
    """of the parent, until workers are started"""
    keep: float
    """of the parent, for each block"""
    parcel: float
    """bytes that travel to each machine"""


def simulated(parts: Parts, workers: int, total: int, seed: int) -> float:
    """Seconds of an evaluation of so many blocks by that many workers."""
    drawn = np.random.default_rng(seed).choice(parts.blocks, total)
    # machines fetch the parcel from the parent one after the other, over its one link
    fetch = parts.parcel / BANDWIDTH
    ready = [parts.before + parts.start + fetch * (1 + n // MACHINE) for n in range(workers)]
    events = [(at, n, False) for n, at in enumerate(ready)]
    heapq.heapify(events)
    free, left, end = parts.before, list(drawn), 0.0
    while events:
        at, worker, brings = heapq.heappop(events)
        if brings:  # the parent keeps one block at a time
            free = max(free, at) + parts.keep
            at = end = max(end, free)
        if left:
            heapq.heappush(events, (at + LATENCY + left.pop(), worker, True))
    return end


def alone(parts: Parts, total: int, seed: int) -> float:
    """Seconds of one process."""
    drawn = np.random.default_rng(seed).choice(parts.blocks, total)
    return parts.before + float(drawn.sum()) + total * parts.keep


def simulate(parts: Parts, count: int, figure: Path | None) -> None:
    """Print and draw the efficiency of more and more workers."""
    total = -(-count // BLOCK)
    print(f"\nSimulated: {count:,} images in {total} blocks of {BLOCK}; the means of 20 draws")
    print(f"  a block {statistics.mean(parts.blocks):.1f} s (measured, drawn with replacement)")
    print(f"  parent: {parts.before:.2f} s before, {parts.keep * 1e3:.1f} ms to keep a block")
    print(f"  start of a worker {parts.start:.1f} s; {parts.parcel / 1e6:.1f} MB to each machine")
    print(
        f"  assumed: {BANDWIDTH / 1e6:.0f} MB/s from the parent, a machine at a time; {MACHINE} "
        f"workers a machine; {LATENCY * 1e3:.0f} ms between result and next job; all as fast"
    )
    print("\n| workers | seconds | speedup | efficiency | at most, by the number of blocks |")
    print("| --- | --- | --- | --- | --- |")
    rows = []
    for workers in COUNTS:
        several = statistics.mean(simulated(parts, workers, total, s) for s in range(20))
        one = statistics.mean(alone(parts, total, s) for s in range(20))
        most = total / (workers * -(-total // workers))
        rows.append((workers, one / several / workers, most))
        print(
            f"| {workers} | {several:,.0f} | {one / several:.1f} | "
            f"{one / several / workers:.2f} | {most:.2f} |"
        )
    if figure is not None:
        draw(rows, count, figure)


def draw(rows: list[tuple[int, float, float]], count: int, path: Path) -> None:
    """Efficiency over workers, as a figure."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    workers, found, most = zip(*rows, strict=True)
    figure, ax = plt.subplots(figsize=(5, 3))
    ax.plot(workers, most, "--", color="0.6", label="number of blocks alone")
    ax.plot(workers, found, "o-", label="simulated")
    ax.set(xscale="log", xlabel="workers", ylabel="efficiency", ylim=(0, 1.05))
    ax.set_xticks(workers, [str(n) for n in workers])
    ax.set_title(f"{count:,} images", fontsize=10)
    ax.legend(frameon=False)
    figure.savefig(path, bbox_inches="tight", dpi=150)
    print(f"\nfigure: {path}")


def measured(count: int, repeat: int) -> Parts:
    """Print how two workers fare, and return the parts of the simulation."""
    pairs = [(run("cpu", count), run("cpu,cpu", count)) for _ in range(repeat)]
    print(f"{count:,} images in {-(-count // BLOCK)} blocks, PGD-{STEPS}, {machine.cores()} cores")
    print(
        "\n| | one: wall | processor | two: wall | parent | both workers | efficiency: wall | processor |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for number, (one, two) in enumerate(pairs, 1):
        assert one.rows == two.rows, "rows differ"
        by_processor = one.own / (2 * (two.own + two.others / 2))
        print(
            f"| {number} | {one.wall:.1f} | {one.own:.1f} | {two.wall:.1f} | {two.own:.1f} | "
            f"{two.others:.1f} | {one.wall / (2 * two.wall):.2f} | {by_processor:.2f} |"
        )
    print("\nthe rows of both are the same")
    used = [seconds for _, two in pairs for seconds in two.used]
    print(f"a worker takes {statistics.median(used):.1f} s of the processor to start")
    block = [seconds for one, _ in pairs for seconds in one.blocks]
    start = statistics.median(seconds for _, two in pairs for seconds in two.starts)
    return Parts(
        tuple(block),
        start,
        statistics.median(two.begun for _, two in pairs),
        statistics.median(seconds for _, two in pairs for seconds in two.kept),
        pairs[0][1].parcel,
    )


def main() -> None:
    """Measure, then simulate."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--images", type=int, default=IMAGES, help="that are attacked here")
    asked.add_argument("--repeat", type=int, default=1)
    asked.add_argument("--simulated", type=int, default=50_000, help="images of the simulation")
    asked.add_argument("--figure", type=Path, help="where to draw the simulation's efficiency")
    asked.add_argument("--child", help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.child:
        print(json.dumps(asdict(child(given.child, given.images))))
        return
    simulate(measured(given.images, given.repeat), given.simulated, given.figure)


if __name__ == "__main__":
    main()
