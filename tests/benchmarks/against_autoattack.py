"""AutoAttack beside the official one: robust accuracy after each attack, and the time of each.

The official code (github.com/fra31/auto-attack) is read from --official; nothing of it is ours. All
run in turn in one process; on a processor seconds are its own (`process_time`, one thread), so that
another load of the machine weighs on all alike. Ours in one precision after the other.

    python tests/benchmarks/against_autoattack.py --official DIR --checkpoint CKPT --epsilon 0.3 \
        --data mnist --data-root ROOT --limit 1000 --seeds 0 1 2 --out results.json
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from robustkit import data as datasets
from robustkit import evaluation, machine
from robustkit.attacks import Block, attack_block, in_budget, search_network, square
from robustkit.attacks.company import FEW
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset
from robustkit.device import in_float32
from robustkit.evaluation import Config, from_module, speed
from robustkit.protocol import labels_of

NORM = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def official(model, images, labels, epsilon, norm, seed, batch_size, only):
    """Robust accuracy after each attack, seconds of each."""
    from autoattack import AutoAttack

    whole = AutoAttack(
        model, norm=NORM[norm], eps=epsilon, seed=seed, verbose=False, device=str(images.device)
    )
    clock = clock_of(images.device)
    names = [name for name in whole.attacks_to_run if name in (only or whole.attacks_to_run)]
    done, spent = {}, {}
    x, y, robust = images, labels, model(images).argmax(1) == labels
    for name in names:
        whole.attacks_to_run = [name]
        started = clock()
        rows = robust.nonzero()[:, 0]
        if len(rows):
            adversarial = whole.run_standard_evaluation(x[rows], y[rows], bs=batch_size)
            with torch.no_grad():
                robust[rows] = model(adversarial).argmax(1) == y[rows]
        spent[name] = clock() - started
        done[name] = float(robust.double().mean())
    return {"after": done, "seconds": spent}


def clock_of(device):
    """The processor's own time, or the clock's where a GPU works meanwhile."""

    def on_gpu():
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return on_gpu if device.type == "cuda" else time.process_time


def chosen(model, images, data, protocol, precision):
    """What is searched by, the precision that `auto` takes, and what was measured."""
    if precision == "auto":
        with TemporaryDirectory() as folder:
            config = Config(from_module(model, "net"), data, protocol, images.device)
            choice = speed.chosen(config, Path(folder), always=True)
        precision, told = choice.precision, str(choice)
    else:
        told = precision
    low = None if precision == "float32" else precision
    return search_network(model, images[:FEW], low), told


def ours(model, images, labels, ids, epsilon, norm, seed, batch_size, only, precision="float32"):
    """The same of this project's protocol."""
    clock = clock_of(images.device)
    data = datasets.from_arrays(images.cpu().numpy(), labels.cpu().numpy(), name="arrays")
    whole = evaluation.resolve_protocol("autoattack", data, [str(epsilon)], norm=norm, seed=seed)
    search_by, told = chosen(model, images, data, whole, precision)
    done, spent = {}, {}
    robust = model(images).argmax(1) == labels
    for position, (attack, word) in enumerate(
        zip(whole.attacks, labels_of(whole.attacks), strict=True)
    ):
        if only and word not in only:
            continue
        one = replace(whole, attacks=(attack,), seed=1000 * seed + position)
        rows = robust.nonzero()[:, 0]
        started = clock()
        if len(rows):
            block = Block(images[rows], labels[rows], [ids[i] for i in rows.tolist()], 0)
            outcomes = attack_block(model, block, one, batch_size, search_by=search_by)
            robust[rows] = ~in_budget(outcomes.distance, float(one.epsilons[0]))
        spent[word] = clock() - started
        done[word] = float(robust.double().mean())
    return {"after": done, "seconds": spent, "searched_in": told}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--official", type=Path)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--model")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--epsilon", required=True)
    parser.add_argument("--attacks", nargs="+", help="of apgd-ce apgd-t fab-t square; else all")
    parser.add_argument(
        "--inner", action="store_true", help="keep our squares off the last row and column too"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", default=["float32"], help="of ours, in turn")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.official:
        sys.path.insert(0, str(options.official))
    data = load_dataset(options.data, root=options.data_root, limit=options.limit)
    device = torch.device(options.device)
    torch.set_num_threads(1)
    machine.keep_memory()
    model = read_checkpoint(options.checkpoint, model=options.model).load(device)
    images = torch.from_numpy(data.images(0, len(data))).to(device)
    labels = torch.from_numpy(data.labels).to(device)
    epsilon = float(evaluation.resolve_protocol("fgsm", data, [options.epsilon]).epsilons[0])
    if options.inner:
        square._corner = lambda draw, side, length: (draw * (length - side)).long()
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in options.seeds:
        for who in [*options.precision, *(["official"] if options.official else [])]:
            key = {
                "who": who if who == "official" else "ours",
                "precision": None if who == "official" else who,
                "seed": seed,
                "checkpoint": Path(options.checkpoint).stem,
                "norm": options.norm,
                "epsilon": options.epsilon,
                "images": len(data),
                "attacks": options.attacks,
                "inner": options.inner or None,
            }
            if any(all(r.get(k) == v for k, v in key.items()) for r in results):
                continue
            asked = (options.norm, seed, options.batch_size, options.attacks)
            if who == "official":
                told = official(model, images, labels, epsilon, *asked)
            else:
                told = ours(model, images, labels, data.ids, options.epsilon, *asked, who)
            results.append(key | told | {"device": str(device), "torch": torch.__version__})
            options.out.write_text(json.dumps(results, indent=1))
            print(json.dumps(results[-1]), flush=True)


if __name__ == "__main__":
    with in_float32():  # both sides, on a GPU, too
        main()
