"""Broken defences before an audit: what naive PGD says, what fired, and what told the truth.

    python tests/benchmarks/broken_defences.py --out DIR [--limit 100] [--epsilon 0.1] [NAME ...]

Writes a page a defence and a table, `defences.json`, to DIR. The network is the shipped LeNet-5.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.defences import After, Before, Detached, Jpeg, Noisy, Rounded, Scaled, WinnersLeNet

from robustkit import evaluation
from robustkit.auditing import plan as plans
from robustkit.auditing.run import AuditRequest, run_audit
from robustkit.auditing.stages import StageSettings, ThreatModel
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset
from robustkit.protocol import parse_epsilon
from robustkit.reporting.audit import write

DEFENCES = {
    "none": lambda net: net,
    "gradient killer": lambda net: Before(Detached(), net),
    "rounding": lambda net: Before(Rounded(), net),
    "jpeg-like": lambda net: Before(Jpeg(), net),
    "saturated logits": lambda net: After(Scaled(), net),
    "random noise": lambda net: Before(Noisy(), net),
    "k-winners-take-all": lambda net: WinnersLeNet(net),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--epsilon", default="0.1")
    parser.add_argument("--budget", default="quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("mnist5k", limit=options.limit)
    judged = parse_epsilon(options.epsilon)
    rows = []
    for name in options.names or DEFENCES:
        net = read_checkpoint("lenet5-mnist5k").load(torch.device("cpu"))
        if name == "k-winners-take-all":
            # its ReLUs are replaced: the network inside, whose pixels need no normalisation
            net = next(m for m in net.modules() if type(m).__name__ == "LeNet5")
        defended = evaluation.from_module(DEFENCES[name](net), name)
        request = AuditRequest(
            model=defended,
            data=data,
            threat=ThreatModel("linf", judged, (judged,), 0),
            plan=plans.load_plan(options.budget),
            budget=options.budget,
            command="python tests/benchmarks/broken_defences.py",
        )
        started = time.monotonic()
        bench = StageSettings(
            options.out / "work", evaluation.RunOptions(device="cpu"), lambda *_: lambda done: None
        )
        audit = run_audit(request, bench)
        write(audit, options.out / name.replace(" ", "-"))
        row = {
            "defence": name,
            "images": len(data),
            "clean": audit.clean.value,
            "naive": audit.claim.accuracy,
            "naive source": audit.claim.source,
            "audit": audit.survived.value,
            "verdict": audit.verdict.word,
            "stages": {s.name: s.so_far.value if s.so_far else s.status for s in audit.stages},
            "unresolved": [
                [r.name, r.adaptive_attack, r.before, r.after]
                for r in audit.indicators
                if r.status == "unresolved"
            ],
            "resolved": [r.name for r in audit.indicators if r.status == "resolved"],
            "seconds": round(time.monotonic() - started),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        (options.out / "defences.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
