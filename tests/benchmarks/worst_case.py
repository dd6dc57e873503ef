"""The worst-case protocol beside AutoAttack, the authors' own and ours: robust accuracy and cost.

    python tests/benchmarks/worst_case.py --official DIR --out results.json NETWORK:DATA:EPSILON ...

A network is a checkpoint's file or name, or one of the defences of the tests around the shipped
LeNet-5: saturated, rounded, jpeg, winners. Cost is forward passes plus twice the backward passes, an
image that is classified correctly, whoever makes them. The official code
(github.com/fra31/auto-attack) is read from --official; nothing of it is ours. What is done stands in
the results; a run that was cut off goes on.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.defences import After, Before, Jpeg, Rounded, Scaled, WinnersLeNet

from robustkit import evaluation
from robustkit.attack import Block, attack_block, in_budget
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset

SHIPPED = "lenet5-mnist5k"
DEFENCES = {
    "saturated": lambda net: After(Scaled(), net),
    "rounded": lambda net: Before(Rounded(), net),
    "jpeg": lambda net: Before(Jpeg(), net),
    "winners": lambda net: WinnersLeNet(
        next(m for m in net.modules() if type(m).__name__ == "LeNet5")
    ),
}


class Counted(torch.nn.Module):
    """Counts images that pass, forward and back."""

    def __init__(self, network):
        super().__init__()
        self.network, self.forwards, self.backwards = network, 0, 0
        self.requires_grad_(False).eval()

    def forward(self, x):
        self.forwards += len(x)
        logits = self.network(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, gradient):
        self.backwards += len(gradient)
        return gradient

    @property
    def cost(self):
        return self.forwards + 2 * self.backwards


def network(name, model, data_root):
    net = read_checkpoint(SHIPPED if name in DEFENCES else name, model=model)
    net = net.load(torch.device("cpu"))
    return DEFENCES[name](net) if name in DEFENCES else net


def official(net, x, y, epsilon, seed, batch):
    from autoattack import AutoAttack

    whole = AutoAttack(net, norm="Linf", eps=epsilon, seed=seed, verbose=False, device="cpu")
    found = whole.run_standard_evaluation(x, y, bs=batch)
    with torch.no_grad():
        return net.network(found).argmax(1) == y


def ours(protocol):
    def run(net, x, y, epsilon, seed, batch):
        data = evaluation.resolve_protocol  # the budget as a number, not a data set's usual ones
        asked = data(protocol, load_dataset("mnist5k", limit=1), [repr(epsilon)], seed=seed)
        ids = [f"{i}" for i in range(len(x))]
        found = attack_block(net, Block(x, y, ids, 0), asked, batch)
        return ~in_budget(found.distance, float(asked.epsilons[0]))

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", help="NETWORK:DATA:EPSILON[:FILE.py:FUNCTION]")
    parser.add_argument("--official", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--protocols", nargs="+", default=["worst-case", "autoattack"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.official:
        sys.path.insert(0, str(options.official))
    runs = {name: ours(name) for name in options.protocols}
    runs |= {"official": official} if options.official else {}
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {(r["network"], r["seed"], r["who"], r["limit"]) for r in results}
    for seed in options.seeds:
        for asked in options.networks:
            name, dataset, text, *model = asked.split(":", 3)
            data = load_dataset(dataset, root=options.data_root, limit=options.limit)
            x, y = torch.from_numpy(data.images(0, len(data))), torch.from_numpy(data.labels)
            top, _, bottom = text.partition("/")
            epsilon = float(top) / float(bottom or 1)
            net = Counted(network(name, model[0] if model else None, options.data_root))
            with torch.no_grad():
                right = net.network(x).argmax(1) == y
            for who, run in runs.items():
                if (name, seed, who, len(data)) in done:
                    continue
                net.forwards = net.backwards = 0
                torch.manual_seed(seed)
                began = time.process_time()
                robust = run(net, x[right], y[right], epsilon, seed, options.batch_size)
                results.append(
                    {
                        "network": name,
                        "seed": seed,
                        "who": who,
                        "limit": len(data),
                        "clean": float(right.double().mean()),
                        "robust": int(robust.sum()) / len(data),
                        "cost": net.cost / int(right.sum()),
                        "forwards": net.forwards,
                        "backwards": net.backwards,
                        "cpu_seconds": round(time.process_time() - began, 1),
                    }
                )
                options.out.write_text(json.dumps(results, indent=1))
                print(json.dumps(results[-1]), flush=True)


if __name__ == "__main__":
    main()
