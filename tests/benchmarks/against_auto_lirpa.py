"""Certified bounds beside auto_LiRPA's: margins, images certified and CPU time, in one run.

auto_LiRPA (github.com/Verified-Intelligence/auto_LiRPA) is read from --auto-lirpa; nothing of it is
ours; it needs appdirs, graphviz and tqdm. Both bound the smallest logit_label − logit_other over
the same Linf box, on images that the network has right (a random network is right by definition),
twice: with intervals between the layers, and with linear relaxation (CROWN) there, too. auto_LiRPA
computes in float32 and ignores rounding; ours are float64, less what float32's rounding may take of
the network. Every batch is bounded by both in turn, so that a machine whose speed drifts is slow
for both.

    OMP_NUM_THREADS=1 python tests/benchmarks/against_auto_lirpa.py --auto-lirpa DIR [--images 25] \
        [--before DIR]

--before is a folder with another version of robustkit, whose certified images are counted, too.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from robustkit.certification import certify
from robustkit.certification.bounds import intervals, lowest
from robustkit.certification.deterministic import BUDGET
from robustkit.certification.graph import BoundGraph
from robustkit.certification.refine import refined
from robustkit.certification.region import Region, reach
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset

NETS = """
from itertools import pairwise
from torch import nn

def dense(layers, num_classes):
    parts = [nn.Flatten()]
    for before, after in pairwise([784, *[200] * (layers - 1), num_classes]):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])

def dense3(num_classes=10):
    return dense(3, num_classes)

def dense5(num_classes=10):
    return dense(5, num_classes)

def dense9(num_classes=10):
    return dense(9, num_classes)

def dense9he(num_classes=10):
    network = dense9(num_classes)
    for part in network:
        if isinstance(part, nn.Linear):  # He et al. 2015: from torch's own start it learns nothing
            nn.init.kaiming_normal_(part.weight)
    return network

def convolutional(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100), nn.ReLU(), nn.Linear(100, num_classes))
"""
LENET = "lenet5-mnist5k"
CASES = {
    "dense3 random": (0.002, 0.01),
    "dense5 random": (0.002, 0.01),
    "dense9 random": (0.002, 0.01),
    "convolutional random": (0.002, 0.01),
    "dense3 trained": (0.005, 0.02),
    "dense5 trained": (0.005, 0.02),
    "dense9he trained": (0.005, 0.02),
    "convolutional trained": (0.005, 0.02),
    "lenet5 shipped": (0.005, 0.02),
    "lenet5 adversarial": (0.02, 0.05),
}
"""by network, how it came by its weights, and ε"""
BATCH = 25
ROUNDS = 2
"""more timings of each batch; the shortest counts"""


def made(name: str, folder: Path) -> nn.Module:
    """A network of `CASES`; what is trained is kept in the folder."""
    kind, how = name.split()
    source = f"{folder / 'nets.py'}:{kind}"
    if how == "random":
        names: dict[str, object] = {}
        exec(NETS, names)
        torch.manual_seed(0)
        network: nn.Module = names[kind]()
        return network.requires_grad_(False).eval()
    if how == "shipped":
        return read_checkpoint(LENET).load(torch.device("cpu"))
    kept = folder / f"{name.replace(' ', '-')}.safetensors"
    if not kept.exists():
        command = ["-m", "robustkit", "train", "--model", source, "--device", "cpu"]
        if how == "adversarial":
            command = [str(Path(__file__).parent / "networks.py"), str(kept), "--model", kind]
            command += ["--robust", "0.1", "--epochs", "3"]
        else:
            command += ["--epochs", "10", "--seed", "0", "--out", str(kept)]
        command = [sys.executable, *command, "--data", "mnist5k"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    model = None if how == "adversarial" else source
    return read_checkpoint(kept, model=model).load(torch.device("cpu"))


@torch.no_grad()
def right(network: nn.Module, name: str, number: int) -> tuple[Tensor, Tensor]:
    """The first test images that the network has right, and their labels."""
    data = load_dataset("mnist5k", split="test")
    images, labels = torch.from_numpy(data.images(0, 1000)), torch.from_numpy(data.labels[:1000])
    answers = network(images).argmax(1)
    rows = (answers == (answers if name.endswith("random") else labels)).nonzero()[:number, 0]
    return images[rows], answers[rows]


def counts(folder: Path, number: int) -> dict[str, list[int]]:
    """How many images of each case `certify` proves at each of its ε, and at 0 of the clear ones."""
    found: dict[str, list[int]] = {}
    for name, epsilons in CASES.items():
        network = made(name, folder)
        images, labels = right(network, name, number)
        proved = [certify(network, images, labels, "linf", e).robust for e in (*epsilons, 0.0)]
        clear = decided(network, images, labels)
        found[name] = [*(int(p.sum()) for p in proved[:-1]), int(proved[-1][clear].sum())]
    return found


@torch.no_grad()
def decided(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Bool N: the margin is over 100 times the largest error of float32's logits of the image."""
    logits = network(images)
    exact = copy.deepcopy(network).double()(images.double())
    error = (logits - exact).abs().amax(1)
    rest = exact.scatter(1, labels[:, None], -torch.inf).amax(1)
    return exact.gather(1, labels[:, None])[:, 0] - rest > 100 * error


def theirs(network: nn.Module, image: Tensor) -> Callable[[Region, Tensor, str], Tensor]:
    """auto_LiRPA's lower bound of the smallest of each image's functions, N, by a method's name."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    module = BoundedModule(copy.deepcopy(network), image, device="cpu")

    def bound(region: Region, slopes: Tensor, method: str) -> Tensor:
        low, high = (side.float() for side in region.interval())
        ball = PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high)
        x = (BoundedTensor(region.images.float(), ball),)
        found, _ = module.compute_bounds(x=x, C=slopes.float(), method=method, bound_upper=False)
        return found.detach().amin(1).double()

    return bound


@torch.no_grad()
def ours(graph: BoundGraph, region: Region, slopes: Tensor, *, refine: bool) -> Tensor:
    """The same by this project's bounds."""
    bounds = intervals(graph, region)
    if refine:
        bounds, _ = refined(graph, bounds, region, BUDGET)
    last = len(graph.steps) - 1
    return lowest(graph, bounds, region, last, slopes, relax=True).values.amin(1)


def timed(seconds: list[float], run: Callable[[], Tensor]) -> Tensor:
    """What it returns; its CPU time is appended."""
    clock = time.process_time()
    found = run()
    seconds.append(time.process_time() - clock)
    return found


def compared(network: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> list[object]:
    """Cells of the table, our CPU time over theirs last."""
    # a version given by --before has none of these
    from robustkit.certification.deterministic import differences, graph_of
    from robustkit.certification.roundoff import Roundoff

    graph = graph_of(network, images[0])
    free = replace(graph, roundoff=Roundoff(0.0))
    bound = theirs(network, images[:1])
    margins: dict[str, list[Tensor]] = {}
    spent = {"theirs": 0.0, "ours": 0.0}
    for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        region, slopes = Region("linf", x.double(), reach(epsilon)), differences(y, 10)
        ways = {
            "theirs": partial(bound, region, slopes, "CROWN"),
            "ours": partial(ours, graph, region, slopes, refine=True),
            "theirs, intervals": partial(bound, region, slopes, "CROWN-IBP"),
            "ours, intervals": partial(ours, graph, region, slopes, refine=False),
            "ours, nothing for rounding": partial(ours, free, region, slopes, refine=True),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for way in ("theirs", "ours") * ROUNDS:
            timed(seconds[way], ways[way])
        for way, run in ways.items():
            margins.setdefault(way, []).append(timed(seconds[way], run))
        spent = {who: spent[who] + min(seconds[who]) for who in spent}
    every = {way: torch.cat(parts) for way, parts in margins.items()}
    mean = {way: float(values.mean()) for way, values in every.items()}
    cells: list[object] = [
        f"{mean[f'{who}{at}']:.4g}" for at in (", intervals", "") for who in spent
    ]
    lost = mean["ours, nothing for rounding"] - mean["ours"]
    certified = int((every["theirs"] > 0).sum())
    return [*cells, f"{lost:.1g}", certified, f"{spent['ours'] / spent['theirs']:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--auto-lirpa", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--images", type=int, default=25)
    parser.add_argument("--networks", type=Path, help="where trained ones are kept; else nowhere")
    parser.add_argument("--counts", action="store_true", help="only what certify proves, in JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        folder = options.networks or Path(name)
        folder.mkdir(exist_ok=True)
        (folder / "nets.py").write_text(NETS)
        if options.counts:
            print(json.dumps(counts(folder, options.images)))
            return
        sys.path.append(str(options.auto_lirpa))
        table(folder, options.images, options.before)


def table(folder: Path, number: int, before: Path | None) -> None:
    """Print a row a network and ε, then one a network at ε = 0."""
    for name in CASES:
        made(name, folder)
    versions = [counts(folder, number)]
    if before:
        command = [sys.executable, __file__, "--counts", "--networks", str(folder)]
        told = subprocess.run(
            [*command, "--images", str(number)],
            env=os.environ | {"PYTHONPATH": str(before)},
            check=True,
            capture_output=True,
            text=True,
        )
        versions.append(json.loads(told.stdout))
    counted = " | ".join(["theirs", "ours", "before"][: 1 + len(versions)])
    print(
        "network | ε | mean margin by CROWN over intervals: theirs | ours | by CROWN: theirs | ours | "
        f"what rounding takes of ours | certified: {counted} | our CPU time over theirs"
    )
    for name, epsilons in CASES.items():
        network = made(name, folder)
        images, labels = right(network, name, number)
        for i, epsilon in enumerate(epsilons):
            *cells, certified, ratio = compared(network, images, labels, epsilon)
            row = [name, epsilon, *cells, certified, *(v[name][i] for v in versions), ratio]
            print(" | ".join(map(str, row)), flush=True)
    for name in CASES:
        network = made(name, folder)
        clear = int(decided(network, *right(network, name, number)).sum())
        print(f"{name}, ε 0: of {clear} images decided by far:", [v[name][-1] for v in versions])


if __name__ == "__main__":
    main()
