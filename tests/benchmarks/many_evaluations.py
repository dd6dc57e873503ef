"""A report from a store of many made-up evaluations: seconds and peak memory.

    python tests/benchmarks/many_evaluations.py --evaluations 10000 --images 10000

Methods, noise levels and seeds share the evaluations; rows are drawn, written once as a store of
Parquet files, and read by `robustkit report FILE.toml --runs FOLDER` in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from robustkit import protocol, record
from robustkit.evaluation import protocol_header
from robustkit.files import canonical

METHODS, LEVELS = 10, 10
STUDY = """
title    = "Many"
question = "How long does a report take?"
baseline = "method 0"

[checkpoints]
runs = "runs"

[test]
data = "made up"

[[analysis]]
name   = "label-noise"
factor = "label_noise"
delta  = 1.0
"""


def main() -> None:
    """Make the store, unless it is there, and report on it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=Path("many"))
    options = parser.parse_args()
    runs = options.folder / "runs"
    if not runs.is_dir():
        make(runs, options.evaluations, options.images)
    study = options.folder / "many.toml"
    study.write_text(STUDY, encoding="utf-8")
    command = [sys.executable, "-m", "robustkit", "report", str(study), "--runs", str(runs)]
    began = time.perf_counter()
    subprocess.run([*command, "--out", str(options.folder / "out")], check=True)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        f"{options.evaluations:,} evaluations of {options.images:,} images: {seconds:.1f} s, "
        f"peak {peak:.2f} GiB"
    )


def make(runs: Path, evaluations: int, images: int) -> None:
    """Write the store."""
    rng = np.random.default_rng(0)
    budgets = [f"0.{i}" for i in (1, 2, 3)]
    attacked = replace(protocol.load_protocol("pgd"), epsilons=budgets)
    asked = protocol_header(attacked)
    samples = pa.array([f"{i:032x}:0" for i in range(images)])
    difficulty = rng.random(images)
    for number in range(evaluations):
        seed, place = divmod(number, METHODS * LEVELS)
        method, level = divmod(place, LEVELS)
        skill = 0.99 - 0.04 * level + 0.003 * method + 0.005 * rng.standard_normal()
        wrong = difficulty + 0.05 * rng.standard_normal(images) > skill
        draw = rng.integers(0, 4, images)
        fooled = np.where(wrong, 0, np.where(draw == 3, -1, draw + 1))
        texts = np.array(["0", *budgets, None], dtype=object)[fooled]
        rows = record.table(
            {
                "sample": samples,
                "index": np.arange(images),
                "label": np.zeros(images, np.int32),
                "predicted": wrong.astype(np.int32),
                "fooled_at": pa.array(texts.tolist()),
                "distance": pa.array(np.where(fooled < 0, np.nan, fooled / 10), from_pandas=True),
                "fooled_by": pa.array(np.where(wrong, "clean", "pgd").tolist()),
                "fooled_as": pa.nulls(len(wrong), pa.int32()),
            }
        )
        header = {
            "schema": "robustkit.evaluation/1",
            "digest": f"{number:064x}",
            "checkpoint": {
                "path": f"{number}.pt",
                "model": "made up",
                "loss": f"method {method}",
                "label_noise": level / 10,
                "data_fraction": 1.0,
                "seed": seed,
            },
            "data": {"name": "made up", "split": "test", "digest": "0", "n": images},
            "protocol": asked,
            "warnings": [],
        }
        table = rows.replace_schema_metadata(
            {"robustkit.header": canonical(header), "robustkit.run": json.dumps({})}
        )
        path = runs / f"{number:032x}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record._parquet_bytes(table))


if __name__ == "__main__":
    main()
