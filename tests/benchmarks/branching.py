"""How many images branch and bound leaves open, by the time it has, beside AutoAttack.

A dense 784-256-256-10 network is trained on mnist5k with a fixed seed. At each time limit every image
ends certified, fooled or open; AutoAttack says how many of the same images it leaves right.

    python tests/benchmarks/branching.py [EPSILON] [IMAGES] [SECONDS ...]
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import robustkit
from robustkit.checkpoint import Checkpoint
from robustkit.record.certification import OUTCOMES

NET = """
from torch import nn

def net(num_classes=10):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
        nn.Linear(256, num_classes))
"""


def trained(folder: Path) -> Checkpoint:
    """The network, from its file."""
    (folder / "net.py").write_text(NET)
    command = [
        sys.executable,
        "-m",
        "robustkit",
        "train",
        "--model",
        "net.py:net",
        "--data",
        "mnist5k",
    ]
    rest = ["--epochs", "15", "--seed", "0", "--device", "cpu", "--out", "net.safetensors"]
    subprocess.run([*command, *rest], cwd=folder, check=True)
    return robustkit.read_checkpoint(folder / "net.safetensors", model=f"{folder / 'net.py'}:net")


def main() -> None:
    """Print a line a time limit."""
    epsilon = sys.argv[1] if len(sys.argv) > 1 else "0.03"
    images = int(sys.argv[2]) if len(sys.argv) > 2 else 50
    limits = [float(text) for text in sys.argv[3:]] or [2.0, 10.0, 60.0]
    with TemporaryDirectory() as name:
        folder = Path(name)
        network = trained(folder)
        auto = robustkit.evaluate(
            network, "mnist5k", "autoattack", epsilon=[epsilon], limit=images, out=folder / "runs"
        )
        (point,) = auto.robust()
        print(
            f"ε {epsilon}, {images} images; right under AutoAttack: {point.accuracy.value * images:.0f}"
        )
        for limit in limits:
            found = robustkit.certify(
                network, "mnist5k", epsilon, limit=images, time_limit=limit, out=folder / "runs"
            )
            counts = ", ".join(f"{found.count(one)} {one}" for one in OUTCOMES)
            print(f"{limit:g} s an image: {counts}", flush=True)


if __name__ == "__main__":
    main()
