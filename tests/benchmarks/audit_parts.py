"""Which part of an audit takes how long, in seconds of the processor.

python tests/benchmarks/audit_parts.py ROBUST.safetensors --data mnist --data-root DIR --budget quick
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from robustkit import evaluation
from robustkit.auditing.plan import parse_budget
from robustkit.auditing.request import threat_model
from robustkit.auditing.run import AuditRequest, run_audit
from robustkit.auditing.stages import StageSettings
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--budget", default="quick")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan, _ = parse_budget(options.budget)
    limit = options.limit or plan.images or None
    data = load_dataset(options.data, limit=limit, root=options.data_root)
    request = AuditRequest(
        model=evaluation.from_checkpoint(read_checkpoint(options.checkpoint), len(data.classes)),
        data=data,
        threat=threat_model(data, None),
        plan=plan,
        budget=options.budget,
        command="",
    )
    begun: list[tuple[str, float]] = []

    def begin(part: str, images: int) -> Callable[[float], None]:
        begun.append((part, time.process_time()))
        if len(begun) > 1:
            print(f"{begun[-1][1] - begun[-2][1]:8.1f}  {begun[-2][0]}", flush=True)
        return lambda done: None

    start = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        given = evaluation.RunOptions(device="cpu")
        audit = run_audit(request, StageSettings(Path(out), given, begin))
    begin("", 0)
    print(f"{time.process_time() - start:8.1f}  in all, {len(data):,} images")
    print(audit.verdict.sentence)


if __name__ == "__main__":
    main()
