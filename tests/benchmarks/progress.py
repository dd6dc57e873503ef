"""Whether the bar tells the time: the share shown against the share of the time that is gone.

    python tests/benchmarks/progress.py lenet5-mnist5k ROBUST.safetensors --data mnist5k

Sampled each second (or a fiftieth of the run, where that is less). The largest difference from the
first tenth of the time on is to be at most 10 points. Processor time is told, too, by which a machine
that others load is as good as a quiet one.
"""

import argparse
import tempfile
import time
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path

import torch

from robustkit import evaluation
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset

BUDGETS = [f"{k}/20" for k in range(1, 9)]
ATTACKS = {"pgd": BUDGETS, "autoattack": ["1/10", "3/10"]}


def largest_difference(times: list[float], shares: list[float], whole: float) -> float:
    """In points, over samples from the first tenth on of what was shown last."""
    step = min(1.0, whole / 50)
    samples = [step * k for k in range(1, int(whole / step))]
    shown = [shares[bisect_right(times, at) - 1] if at >= times[0] else 0.0 for at in samples]
    pairs = [(at / whole, share) for at, share in zip(samples, shown, strict=True)]
    return 100 * max(abs(gone - share) for gone, share in pairs if gone >= 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--attack", nargs="*", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--verbose", action="store_true", help="all that was shown, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset(options.data, limit=options.limit, root=options.data_root)
    for path in options.checkpoints:
        model = evaluation.from_checkpoint(read_checkpoint(path), len(data.classes))
        for attack in options.attack:
            protocol = evaluation.resolve_protocol(attack, data, ATTACKS[attack])
            told: list[tuple[float, float, float]] = []
            start = time.perf_counter(), time.process_time()

            def progress(done: float, total: int, start=start, told=told) -> None:
                now = time.perf_counter() - start[0], time.process_time() - start[1]
                told.append((*now, done / total))

            with tempfile.TemporaryDirectory() as out:
                given = evaluation.RunOptions(progress=progress, device="cpu")
                evaluation.run(model, data, protocol, Path(out), given)
            wall, processor, shares = (list(column) for column in zip(*told, strict=True))
            assert all(a <= b for a, b in pairwise(shares))
            by = [largest_difference(t, shares, t[-1]) for t in (wall, processor)]
            print(
                f"{Path(path).stem}, {attack}, {len(data)} images: {wall[-1]:.0f} s, of the processor "
                f"{processor[-1]:.0f} s; off by {by[0]:.1f} points, by processor time {by[1]:.1f}",
                flush=True,
            )
            if options.verbose:
                for at, share in zip(processor, shares, strict=True):
                    print(f"  {at / processor[-1]:7.1%} {share:7.1%}")


if __name__ == "__main__":
    main()
