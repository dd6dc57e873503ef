"""AutoAttack's answer with and without proof: verdicts, passes of the network, processor time.

    python tests/benchmarks/networks.py NET.safetensors --data mnist --data-root ROOT \
        --model tests/benchmarks/networks.py:small --certified 0.3 --epochs 20
    python tests/benchmarks/proving.py NET.safetensors --data mnist --data-root ROOT \
        --model tests/benchmarks/networks.py:small --epsilon 0.3 --limit 200
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from robustkit import evaluation
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset


def passes(record):
    """Passes of all images, of which one back counts as two."""
    counts = record.table.select(["forward", "backward"]).to_pylist()
    return sum(sum(row["forward"]) + 2 * sum(row["backward"]) for row in counts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--model")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--attack", default="autoattack")
    parser.add_argument("--norm")
    parser.add_argument("--epsilon", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset(options.data, root=options.data_root, limit=options.limit)
    checkpoint = read_checkpoint(options.checkpoint, model=options.model)
    model = evaluation.from_checkpoint(checkpoint, len(data.classes))
    protocol = evaluation.resolve_protocol(options.attack, data, options.epsilon, norm=options.norm)
    found = {}
    for prove in ("auto", "off"):
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            found[prove] = evaluation.run(
                model, data, protocol, Path(folder), evaluation.RunOptions(), prove=prove
            )
        seconds, record = time.process_time() - began, found[prove]
        print(
            f"{prove}: {[f'{p.accuracy.value:.1%}' for p in record.robust()]} robust, "
            f"{[f'{p.accuracy.value:.1%}' for p in record.certified()]} certified, "
            f"{passes(record):,} passes, {seconds:.1f} s of CPU; "
            f"{record.header['prove']} {record.run['proof']}",
            flush=True,
        )
    same = found["auto"].rows.fooled_at.fillna("") == found["off"].rows.fooled_at.fillna("")
    share = passes(found["auto"]) / passes(found["off"])
    print(f"{(~same).sum()} of {len(same)} verdicts differ; {share:.3f} of the passes")


if __name__ == "__main__":
    main()
