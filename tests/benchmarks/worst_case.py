"""The worst-case protocol beside AutoAttack, the authors' own and ours: robust accuracy and cost.

    python tests/benchmarks/worst_case.py --official DIR --out results.jsonl NETWORK:DATA:EPSILON ...
    python tests/benchmarks/worst_case.py --out results.jsonl --show

A network is a checkpoint's file or name, or one of the defences of the tests around the shipped
LeNet-5: saturated, rounded, jpeg, winners, shattered. Cost is forward passes plus twice the backward
passes, an image that is classified correctly, whoever makes them. The official code
(github.com/fra31/auto-attack) is read from --official; nothing of it is ours. Each network, seed and
protocol is a line of the results once it is done, so that a run that was cut off goes on there; with
--blocks N it ends after so many. --show prints the table of what there is.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import mean

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.defences import After, Before, Jpeg, Rounded, Scaled, Shattered, WinnersLeNet

from robustkit import evaluation
from robustkit.attacks import Block, attack_block, in_budget
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset

SHIPPED = "lenet5-mnist5k"
DEFENCES = {
    "saturated": lambda net: After(Scaled(), net),
    "rounded": lambda net: Before(Rounded(), net),
    "jpeg": lambda net: Before(Jpeg(), net),
    "shattered": lambda net: Before(Shattered(), net),
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


def read(path):
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]  # not one that was cut off


def show(results):
    """A row a network: robust accuracy by seed and its mean, cost, of each protocol."""
    whole = {}
    for r in results:
        whole.setdefault((r["network"], r["limit"]), {}).setdefault(r["who"], {})[r["seed"]] = r
    for (name, limit), protocols in whole.items():
        print(f"{Path(name).stem}, {limit} images")
        for who, seeds in protocols.items():
            robust = [100 * seeds[seed]["robust"] for seed in sorted(seeds)]
            cost = mean(r["cost"] for r in seeds.values())
            by_seed = " ".join(f"{each:.1f}" for each in robust)
            print(f"  {who:12} {mean(robust):6.2f} %  ({by_seed}), cost {cost:7.0f} an image")


def piece(options, runs, who, asked, seed):
    """One protocol on one network with one seed: a row of the results."""
    name, dataset, text, *model = asked.split(":", 3)
    data = load_dataset(dataset, root=options.data_root, limit=options.limit)
    x, y = torch.from_numpy(data.images(0, len(data))), torch.from_numpy(data.labels)
    top, _, bottom = text.partition("/")
    epsilon = float(top) / float(bottom or 1)
    net = Counted(network(name, model[0] if model else None, options.data_root))
    with torch.no_grad():
        right = net.network(x).argmax(1) == y
    torch.manual_seed(seed)
    began = time.process_time()
    robust = runs[who](net, x[right], y[right], epsilon, seed, options.batch_size)
    return {
        "network": name,
        "epsilon": text,
        "seed": seed,
        "who": who,
        "limit": options.limit,
        "clean": float(right.double().mean()),
        "robust": int(robust.sum()) / len(data),
        "cost": net.cost / int(right.sum()),
        "forwards": net.forwards,
        "backwards": net.backwards,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="NETWORK:DATA:EPSILON[:FILE.py:FUNCTION]")
    parser.add_argument("--official", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--protocols", nargs="+", default=["worst-case", "autoattack"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--blocks", type=int, help="end after so many")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.official:
        sys.path.insert(0, str(options.official))
    runs = {name: ours(name) for name in options.protocols}
    runs |= {"official": official} if options.official else {}
    pieces = [(s, n, w) for s in options.seeds for n in options.networks for w in runs]
    made = 0
    for seed, asked, who in pieces:
        name, _, text, *_ = asked.split(":", 3)
        wanted = (name, text, seed, who, options.limit)
        keys = ("network", "epsilon", "seed", "who", "limit")
        if any(tuple(r.get(k) for k in keys) == wanted for r in read(options.out)):
            continue
        if made == options.blocks:
            break
        made += 1
        found = json.dumps(piece(options, runs, who, asked, seed))
        with options.out.open("a") as out:
            out.write(f"\n{found}\n")  # on a line of its own, whatever was cut off before
        print(found, flush=True)
    if options.show:
        show(read(options.out))


if __name__ == "__main__":
    main()
