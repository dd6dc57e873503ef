"""An epoch of training beside the bare forward and backward passes over the same batches.

    python tests/benchmarks/epoch_cost.py --data-root DIR [--data mnist] [--model mnist-cnn]

After every update of the engine the same network makes a bare pass, forward and backward with
cross-entropy, on a batch of the same size that lies ready: so both suffer alike from other work.
The engine's time is all of the epoch's: batches, the optimiser, counting, held-out accuracy, and
one saved state. Prints a JSON line.
"""

import argparse
import io
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from robustkit import losses, machine, models
from robustkit.data import load_dataset
from robustkit.data.subset import prepare_training_data
from robustkit.device import device as find_device
from robustkit.training.defaults import default_recipe
from robustkit.training.engine import Engine
from robustkit.training.examples import gather
from robustkit.training.progress import Callbacks, Progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--model", default="mnist-cnn")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    machine.keep_memory()  # as `robustkit train` does

    device = find_device(options.device)
    digits = load_dataset(options.data, split="train", root=options.data_root)
    recipe = replace(default_recipe("cross-entropy", options.data), epochs=1)
    parts = prepare_training_data(digits, hold_out=recipe.hold_out)
    examples, held_out = (gather(digits, part, device) for part in (parts.train, parts.held_out))
    network = models.build(options.model, seed=0).to(device)
    twin = models.build(options.model, seed=0).to(device)
    loss = losses.build("cross-entropy")
    engine = Engine(
        network=network,
        model=network,
        loss=loss,
        recipe=recipe,
        examples=examples,
        held_out=held_out,
        seed=0,
    )
    ready = examples.take(torch.arange(recipe.batch_size))
    bare: list[float] = []
    whole: list[float] = []
    clock = time.perf_counter()

    def pause() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def step(at: Progress) -> None:
        nonlocal clock
        pause()
        whole.append(time.perf_counter() - clock)
        clock = time.perf_counter()
        twin.zero_grad()
        cross_entropy(twin(ready.images), ready.given).backward()
        pause()
        bare.append(time.perf_counter() - clock)
        clock = time.perf_counter()

    engine.run(lambda: torch.save(engine.state(), io.BytesIO()), 1e9, Callbacks(step))
    print(
        json.dumps(
            {
                "data": options.data,
                "images": len(examples),
                "updates": len(bare),
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "seconds": {"engine": round(sum(whole), 1), "bare": round(sum(bare), 1)},
                "engine / bare, whole epoch": round(sum(whole) / sum(bare), 3),
                "engine / bare, median update": round(
                    statistics.median(w / b for w, b in zip(whole, bare, strict=True)), 3
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
