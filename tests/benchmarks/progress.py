"""Whether the bar tells the time: the share shown against the share of the time that is gone.

    python tests/benchmarks/progress.py lenet5-mnist5k ROBUST.safetensors --data mnist5k

What a terminal shows, which goes on between two passes, is sampled each second (or a fiftieth of the
run, where that is less). The largest difference from the
first tenth of the time on is to be at most 10 points. Processor time is told, too, by which a machine
that others load is as good as a quiet one.
"""

import argparse
import tempfile
import time
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

import torch

from robustkit import evaluation
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset
from robustkit.display.pace import Pace

BUDGETS = [f"{k}/20" for k in range(1, 9)]
ATTACKS = {
    "pgd": ("pgd", [], BUDGETS),
    "autoattack": ("autoattack", [], ["1/10", "3/10"]),
    "few": ("pgd", ["steps=4", "restarts=1"], ["1/255"]),
}
"""name, settings and budgets; few: so few passes that each is a large share of the time"""


Sample = tuple[float, float, float]
"""seconds of the clock, of the processor, and the share shown"""


def sampled(pace: Pace, samples: list[Sample], ended: Event) -> None:
    """What a bar on a terminal shows, ten times a second, as it is drawn."""
    begun = time.perf_counter(), time.process_time()
    while not ended.wait(0.1):
        now = time.perf_counter() - begun[0], time.process_time() - begun[1]
        samples.append((*now, pace.share))


def largest_difference(times: list[float], shares: list[float], whole: float) -> float:
    """In points, over samples from the first tenth on of what was shown last."""
    step = min(1.0, whole / 50)
    seconds = [step * k for k in range(1, int(whole / step))]
    shown = [shares[bisect_right(times, at) - 1] if at >= times[0] else 0.0 for at in seconds]
    pairs = [(at / whole, share) for at, share in zip(seconds, shown, strict=True)]
    return 100 * max(abs(gone - share) for gone, share in pairs if gone >= 0.1)


def measured(given: tuple[Any, Any, Any], batch_size: int | Literal["auto"]) -> list[Sample]:
    """One evaluation of a network, data and protocol; what was shown while images were at work."""
    samples, ended, paces = list[Sample](), Event(), list[Pace]()

    def began(share: float) -> None:
        paces.append(Pace(share))
        Thread(target=sampled, args=(paces[0], samples, ended), daemon=True).start()

    def progress(done: float, total: int) -> None:
        paces[0].tell(done / total)

    how = evaluation.RunOptions(batch_size, "cpu", began=began, progress=progress)
    with tempfile.TemporaryDirectory() as out:
        evaluation.run(*given, Path(out), how)
    ended.set()
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--model")
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--attack", nargs="*", choices=list(ATTACKS), default=["pgd", "autoattack"])
    parser.add_argument("--verbose", action="store_true", help="all that was shown, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset(options.data, limit=options.limit, root=options.data_root)
    for path in options.checkpoints:
        checkpoint = read_checkpoint(path, model=options.model)
        model = evaluation.from_checkpoint(checkpoint, len(data.classes))
        for attack in options.attack:
            name, settings, budgets = ATTACKS[attack]
            protocol = evaluation.resolve_protocol(name, data, budgets, settings=settings)
            samples = measured((model, data, protocol), options.batch_size or "auto")
            wall, processor, shares = (list(column) for column in zip(*samples, strict=True))
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
