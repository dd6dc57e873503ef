"""Robust accuracy where low precision searches, beside a search in float32; verdicts are float32's.

    python tests/benchmarks/search_precision.py --out RUNS NETWORK:DATA:BUDGET[,BUDGET…][:FILE.py:FUNCTION] ...

Each network, seed and precision is an evaluation of its own, kept under --out: the same command goes
on after an interruption. The table has robust accuracy in % by seed, and by how much the mean of low
precision lies above that of float32, in points.
"""

import argparse
from pathlib import Path
from statistics import mean

import torch

import robustkit
from robustkit.checkpoint import read_checkpoint


def robust(asked: str, precision: str, seed: int, options: argparse.Namespace) -> list[float]:
    """Robust accuracy in % at each budget."""
    path, data, budgets, *model = asked.split(":", 3)
    found = robustkit.evaluate(
        read_checkpoint(path, model=model[0] if model else None),
        robustkit.load_dataset(data, root=options.data_root, limit=options.limit),
        options.attack,
        epsilon=budgets.split(","),
        precision=precision,
        seed=seed,
        prove="off",
        device="cpu",
        batch_size=options.batch_size,
        out=options.out,
        progress=False,
    )
    return [100 * point.accuracy.value for point in found.robust()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--attack", default="pgd")
    parser.add_argument("--precisions", nargs="+", default=["bf16"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for asked in options.networks:
        found = {
            precision: [robust(asked, precision, seed, options) for seed in options.seeds]
            for precision in ("float32", *options.precisions)
        }
        for place, budget in enumerate(asked.split(":")[2].split(",")):
            rows = {name: [seed[place] for seed in seeds] for name, seeds in found.items()}
            exact = rows["float32"]
            print(f"{Path(asked.split(':')[0]).stem}, ε = {budget}", flush=True)
            for name, each in rows.items():
                by_seed = " ".join(f"{one:.1f}" for one in each)
                print(f"  {name:8} {by_seed}; {mean(each) - mean(exact):+.2f}", flush=True)


if __name__ == "__main__":
    main()
