"""ImageNet-sized networks from JPEGs to rows: seconds a pass beside a bare loop, memory, the bar.

    python tests/benchmarks/imagenet_sized.py [--networks resnet50 vit_b_16] [--images 64]
        [--steps 4] [--epsilon 1/25500] [--batch-size N]

Random weights of 1,000 classes at 224, JPEGs of several sizes, drawn here, in the folders of the classes
that the network itself takes them for; PGD with a few steps and one start, at a budget so small that images mostly
survive, and nearly all planned passes are made. A bare loop makes passes over the same images in the same
batches, half of them before and half after, so that a load that comes or goes meets both: what the run's passes
would take in it is compared by the processor's clock, and by the wall's on a quiet machine. The target is 1.1.
What comes before (pictures, checks of the network, a choice of batches)
does not grow with the attack, and is timed on its own. Memory is the process's largest during the run (with another
copy of the network and the pixels, for the loop); the bar's share of done
work is held against the share of the time since images began, by the processor's clock and by the wall's, which
it tells. Each network runs in a process of its own.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from hugging_face import stir
from PIL import Image
from progress import largest_difference
from torch.nn.functional import cross_entropy

from robustkit import evaluation
from robustkit.checkpoint import read_checkpoint
from robustkit.evaluation import images_for

SIZES = ((500, 375), (375, 500), (640, 480), (333, 500), (224, 300))


def draw(folder: Path, count: int) -> None:
    """Pictures with structure at several scales, as photographs have, in one class folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        size = SIZES[number % len(SIZES)]
        layers = [
            Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize(size)
            for n in (4, 16, 64)
        ]
        pixels = np.mean([np.asarray(layer, np.float32) for layer in layers], 0)
        path = folder / "0" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)


def label(folder: Path, checkpoint: Any) -> None:
    """Move the pictures to the folders of the classes that the network takes them for."""
    data = images_for(checkpoint, str(folder), resize=256, crop=224, classes="number")
    model = checkpoint.load()
    paths = sorted(folder.glob("0/*.jpg"))
    for place, position in enumerate(data._positions):
        with torch.no_grad():
            found = int(model(torch.from_numpy(data.images(place, place + 1))).argmax())
        path = paths[int(position)]
        (folder / str(found)).mkdir(exist_ok=True)
        path.rename(folder / str(found) / path.name)
    if not any((folder / "0").iterdir()):
        (folder / "0").rmdir()


def memory() -> float:
    """The process's largest since it was last asked, in GiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20


def now() -> np.ndarray:
    """Seconds by the processor's clock and by the wall's."""
    return np.array([time.process_time(), time.perf_counter()])


def bare(model: torch.nn.Module, batches: list[torch.Tensor], backward: bool) -> np.ndarray:
    """Seconds an image by both clocks of a pass over batches, with a backward pass or without."""
    start = now()
    with torch.set_grad_enabled(backward):
        for x in batches:
            given = x.clone().requires_grad_(backward)
            loss = cross_entropy(model(given), torch.zeros(len(x), dtype=torch.long))
            if backward:
                torch.autograd.grad(loss, given)
    return (now() - start) / sum(map(len, batches))


def measure(name: str, options: argparse.Namespace) -> None:
    """A network's figures."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    stir(model, (3, 224, 224))
    with tempfile.TemporaryDirectory() as folder:
        path, data_path = Path(folder) / "model.pth", Path(folder) / "pictures"
        torch.save(model.state_dict(), path)
        draw(data_path, options.images)
        del model
        torch.set_num_threads(1)
        checkpoint = read_checkpoint(
            path, model=f"torchvision:{name}", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )
        label(data_path, checkpoint)
        opened = time.process_time()
        data = images_for(checkpoint, str(data_path), resize=256, crop=224, classes="number")
        opening = time.process_time() - opened
        protocol = evaluation.resolve_protocol(
            "pgd", data, [options.epsilon], settings=[f"steps={options.steps}", "restarts=1"]
        )
        network = checkpoint.load()
        size = options.batch_size or 2**22 // (3 * 224 * 224)
        batches = list(torch.from_numpy(data.images(0, len(data))).split(size))
        # forward, then with backward
        costs = [[bare(network, batches, backward)] for backward in (False, True)]
        memory()
        started, told = now(), []

        def progress(done: float, total: int) -> None:
            told.append((*now(), done / total))

        given = evaluation.RunOptions(
            progress=progress,
            began=lambda share: progress(share, 1),
            device="cpu",
            batch_size=options.batch_size or "auto",
            told=print,
        )
        evaluated = evaluation.from_checkpoint(checkpoint, len(data.classes))
        record = evaluation.run(evaluated, data, protocol, Path(folder) / "runs", given)
        most = memory()
        batch = int(record.run["batch_size"])
        passes: Any = [np.array(record.table[k].to_pylist()).sum() for k in ("forward", "backward")]
        for backward, each in enumerate(costs):
            each.append(bare(network, batches, bool(backward)))
        forward, both = (np.mean(each, 0) for each in costs)
        # a step is a forward pass with its graph and a backward one; the rest is forward alone
        expected = (passes[0] - passes[1]) * forward + passes[1] * both
        took = np.subtract(told[-1][:2], told[0][:2])
        ratios, before = took / expected, told[0][0] - started[0]
        off = [
            largest_difference(
                [t[clock] - told[0][clock] for t in told], [t[2] for t in told], whole
            )
            for clock in (0, 1)
            for whole in [told[-1][clock] - told[0][clock]]
        ]
        left = sum(text is None for text in record.table["fooled_at"].to_pylist())
        print(
            f"{name}, {len(data)} images, PGD-{options.steps}, {left} survive: batches of {batch}; {passes[0]} forward "
            f"and {passes[1]} backward passes in {took[0]:.0f} s of the processor, {ratios[0]:.2f} of the bare "
            f"loop's, in batches of {size} ({forward[0]:.3f} s forward, {both[0]:.3f} s with backward an image), and "
            f"{took[1]:.0f} s of the wall's clock, {ratios[1]:.2f} of the loop's; "
            f"before that the pictures {opening:.1f} s, checks and a choice of batches "
            f"{before:.0f} s; {most:.1f} GiB at most; the bar off by "
            f"{off[0]:.0f} points of the processor's time, {off[1]:.0f} of the clock's",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=["resnet50", "vit_b_16"])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--epsilon", default="1/25500")
    parser.add_argument("--batch-size", type=int, help="else as robustkit chooses")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        measure(options.networks[0], options)
        return
    for name in options.networks:
        subprocess.run([sys.executable, *sys.argv, "--alone", "--networks", name], check=True)


if __name__ == "__main__":
    main()
