"""Everything that only a GPU shows, in one command, in parts that can be resumed.

    python tests/benchmarks/gpu.py --out DIR [--minutes 9] [--parts NAME ...] [--official DIR]
    python tests/benchmarks/gpu.py --list
    python tests/benchmarks/gpu.py --out DIR --dry        every part, small, on the CPU

A part that is done stands in DIR/NAME.json and is not done again on the same device. None is begun that
is expected to end after --minutes; the same command goes on with it. `results.json` and `results.md`
hold what there is, with the device's name. The official AutoAttack (github.com/fra31/auto-attack) is read from
--official; without it that part is left out.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product

import torch

from robustkit import evaluate, from_arrays, models, training
from robustkit.data import load_dataset
from robustkit.device import in_float32
from robustkit.errors import RobustkitError, first_line
from robustkit.files import names
from robustkit.protocol import load_protocol, norms_of
from robustkit.training.defaults import default_recipe

HERE = Path(__file__).parent
Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a part is given."""

    device: torch.device
    dry: bool
    official: Path | None

    def count(self, whole: int, few: int) -> int:
        """So many, or few of them in a dry run."""
        return few if self.dry else whole

    def seconds(self, call: Callable[[], object]) -> float:
        """What a call takes, all of the device's work done."""
        self.wait()
        began = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def script(self, name: str, *options: object) -> Result:
        """The JSON lines, or all the lines, of another benchmark."""
        asked = [sys.executable, str(HERE / name), *map(str, options)]
        return spoken(subprocess.run(asked, capture_output=True, text=True))


def spoken(ended: subprocess.CompletedProcess[str]) -> Result:
    """What a command said, at most its last lines."""
    found: Result = {"status": ended.returncode, "lines": ended.stdout.splitlines()[-30:]}
    return found if ended.returncode == 0 else found | {"stderr": ended.stderr.splitlines()[-5:]}


# --- the parts ------------------------------------------------------------------------------------


def marked_tests(run: Run) -> Result:
    """The tests that need a GPU."""
    asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests"]
    asked += ["--collect-only"] if run.dry else []
    return spoken(subprocess.run(asked, capture_output=True, text=True, cwd=HERE.parents[1]))


def agreement(run: Run) -> Result:
    """Each protocol of the shelf, on the CPU and on the device: images on which they differ."""
    digits = load_dataset("mnist5k", limit=run.count(100, 2))
    found: Result = {}
    for name, norm in [(a, n) for a in names("attacks") for n in norms_of(a)]:
        budgets = digits.budgets[norm][:1] if name != "clean" else ()
        options = {"norm": norm, "epsilon": budgets, "settings": small(name) if run.dry else []}
        key = f"{name} {norm}"
        try:
            rows, seconds = [], []
            for device in ("cpu", str(run.device)):
                with TemporaryDirectory() as folder:
                    began = time.perf_counter()
                    record = evaluate(
                        "lenet5-mnist5k", digits, name, **options,
                        out=folder, device=device,
                    )  # fmt: skip
                    seconds.append(round(time.perf_counter() - began, 2))
                rows.append(record.table.column("fooled_at").to_pylist())
            other = sum(a != b for a, b in zip(*rows, strict=True))
            found[key] = {"differ": other, "of": len(rows[0]), "cpu_s, device_s": seconds}
        except RobustkitError as error:
            found[key] = {"failed": first_line(error)}
    return found


def small(name: str) -> list[str]:
    """Settings that make a protocol short."""
    short = {"steps": 10, "search_steps": 2, "draws": 2, "queries": 3, "restarts": 1, "eot": 2}
    attacks = [a for norm in norms_of(name) for a in load_protocol(name, norm=norm).attacks]
    return [f"{k}={v}" for k, v in short.items() if attacks and all(hasattr(a, k) for a in attacks)]


def precision(run: Run) -> Result:
    """PGD on a ResNet-18 in each precision: seconds, and the images that are fooled."""
    count = run.count(1024, 4)
    data = drawn(count)
    network = network_of(run)
    found: Result = {}
    for word in ("float32", "tf32", "bf16", "fp16", "auto"):

        def asked(word: Any = word) -> Any:
            return evaluate(
                network,
                data,
                "pgd",
                epsilon=["1/255"],
                settings=["steps=10"],
                device=str(run.device),
                batch_size=run.count(512, 4),  # or each call would look for the fastest
                precision=word,
            )

        try:
            record = asked()
            fooled = sum(at is not None for at in record.table.column("fooled_at").to_pylist())
            found[word] = {"seconds": round(run.seconds(asked), 3), "fooled": fooled, "of": count}
        except RobustkitError as error:
            found[word] = {"failed": first_line(error)}
    return found


def foolbox_beside(run: Run) -> Result:
    """PGD of 40 steps beside foolbox's, on the same network and images: seconds of each, in turn."""
    import foolbox

    count = run.count(2048, 4)
    data, network = drawn(count), network_of(run).to(run.device).eval()
    images = torch.from_numpy(data.images(0, count)).to(run.device)
    labels = network(images[:1]).argmax(1).expand(count).contiguous()
    steps = run.count(40, 2)
    data = from_arrays(images.cpu(), labels.cpu(), name="drawn")
    theirs = foolbox.attacks.LinfPGD(steps=steps, rel_stepsize=1 / 16)
    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device=run.device)
    times: dict[str, list[float]] = {"foolbox": [], "robustkit": []}

    def other() -> None:
        for first in range(0, count, 512):
            part = slice(first, first + 512)
            with in_float32():  # as ours, whose products are not cut either
                theirs(wrapped, images[part], labels[part], epsilons=[1 / 255])

    def ours() -> None:
        evaluate(
            network, data, "pgd", epsilon=["1/255"], settings=[f"steps={steps}", "restarts=1"],
            device=str(run.device), batch_size=512,
        )  # fmt: skip

    for _ in range(run.count(4, 1)):
        times["foolbox"].append(round(run.seconds(other), 3))
        times["robustkit"].append(round(run.seconds(ours), 3))
    return times


def official(run: Run) -> Result:
    """AutoAttack beside its authors' code, in float32 and in the fastest precision."""
    if run.official is None:
        return {"left out": "--official was not given"}
    options = ["--official", run.official, "--checkpoint", "lenet5-mnist5k", "--epsilon", "0.1"]
    options += ["--data", "mnist5k", "--limit", run.count(500, 4), "--seeds", 0]
    options += ["--precision", "float32", "auto"]
    with TemporaryDirectory() as folder:
        options += ["--device", run.device, "--out", Path(folder) / "r.json"]
        return run.script("against_autoattack.py", *options)


def memory(run: Run) -> Result:
    """A batch that does not fit: the evaluation halves it and ends all the same."""
    if run.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        record = evaluate(
            network_of(run), drawn(run.count(8192, 4)), "fgsm", epsilon=["1/255"],
            device=str(run.device), batch_size=8192,
        )  # fmt: skip
    finally:
        if run.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()
    return {"asked": 8192, "taken": record.run.get("batch_size")}


def several(run: Run) -> Result:
    """Two processes on the device, and all devices, beside one: images on which they differ."""
    digits = load_dataset("mnist5k", limit=run.count(1000, 300))
    one = str(run.device)
    count = torch.cuda.device_count() if run.device.type == "cuda" else 1
    asked = [one, f"{one},{one}", *(["all"] if count > 1 else [])]
    rows, found = [], {}
    for device in asked:
        with TemporaryDirectory() as folder:
            began = time.perf_counter()
            record = evaluate(
                "lenet5-mnist5k", digits, "fgsm" if run.dry else "pgd", device=device, out=folder
            )
        rows.append(record.table.column("fooled_at").to_pylist())
        differ = sum(a != b for a, b in zip(rows[0], rows[-1], strict=True))
        seconds = round(time.perf_counter() - began, 2)
        found[device] = {"differ": differ, "of": len(digits), "seconds": seconds}
    return found


def epoch(run: Run) -> Result:
    """An epoch of training beside bare passes; aim: at most 1.1."""
    return run.script("epoch_cost.py", "--data", "mnist5k", "--device", run.device)


def loss(run: Run) -> Result:
    """A step of the large margin beside cross-entropy's; aims as CONTRIBUTING states them."""
    quick = ["--quick", "--steps", 2, "--batch", 8] if run.dry else []
    return run.script("loss_cost.py", "--device", run.device, *quick)


def deterministic(run: Run) -> Result:
    """A training's seconds with deterministic algorithms alone, and whether its bytes repeat."""
    images = drawn(run.count(4096, 64))
    found: Result = {"seconds": {}, "same bytes": {}}
    for word in (False, True):
        recipe = replace(
            default_recipe("cross-entropy", "cifar10"),
            steps=run.count(200, 2),
            batch_size=16 if run.dry else 128,
        )
        config = training.TrainingConfig(
            model="small-cnn-cifar" if run.dry else "resnet18-cifar", data=images, loss="cross-entropy", settings={}, recipe=recipe, seed=0,
            deterministic=word,
        )  # fmt: skip
        digests, seconds = set(), []
        for _ in range(2):
            with TemporaryDirectory() as folder:
                path = Path(folder) / "a.safetensors"
                options = training.TrainingOptions(device=str(run.device))
                seconds.append(run.seconds(partial(training.train, config, path, options)))
                digests.add(path.read_bytes())
        found["seconds"][str(word)] = round(min(seconds), 2)
        found["same bytes"][str(word)] = len(digests) == 1
    return found


def nccl(run: Run) -> Result:
    """A training by torchrun with one process, whose gradients go through NCCL, compressed."""
    with TemporaryDirectory() as folder:
        asked = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "1",
            "-m",
            "robustkit",
        ]
        asked += ["train", "--model", "lenet5", "--data", "mnist5k", "--loss", "cross-entropy"]
        # one process alone would form no group
        asked += ["--epochs", "1", "--device", str(run.device), "--compress", "fp16"]
        asked += ["--out", "a.safetensors"]
        return spoken(subprocess.run(asked, capture_output=True, text=True, cwd=folder))


def stacked(run: Run) -> Result:
    """A step of ten small networks at once (torch.func) beside ten in turn; aim: 5 times."""
    from torch.func import functional_call, grad, stack_module_state, vmap

    count = run.count(10, 2)
    nets = [models.build("mnist-cnn", seed=seed).to(run.device) for seed in range(count)]
    images = torch.rand(run.count(128, 4), 1, 28, 28, device=run.device)
    labels = torch.arange(len(images), device=run.device) % 10
    weights, buffers = stack_module_state(nets)

    def cost(weight: Any, buffer: Any) -> torch.Tensor:
        logits = functional_call(nets[0], (weight, buffer), (images,))
        return torch.nn.functional.cross_entropy(logits, labels)

    together = vmap(grad(cost), randomness="different")

    def turn() -> None:
        for net in nets:
            net.zero_grad()
            torch.nn.functional.cross_entropy(net(images), labels).backward()

    return beside(run, together=lambda: together(weights, buffers), in_turn=turn)


def graphs(run: Run) -> Result:
    """Forward pass and input gradient of a small network, as it is and compiled."""
    network = models.build("mnist-cnn", seed=0).to(run.device).eval().requires_grad_(False)
    images = torch.rand(run.count(128, 4), 1, 28, 28, device=run.device, requires_grad=True)
    compiled = network if run.dry else torch.compile(network, mode="reduce-overhead")

    def passes(net: Any) -> Callable[[], object]:
        return lambda: torch.autograd.grad(net(images).logsumexp(1).sum(), images)

    return beside(run, compiled=passes(compiled), as_it_is=passes(network))


def beside(run: Run, **calls: Callable[[], object]) -> Result:
    """Milliseconds of calls, in turn, the least of several rounds."""
    least = dict.fromkeys(calls, float("inf"))
    for round_ in range(run.count(8, 2)):
        for name, call in calls.items():
            repeated = run.seconds(lambda call=call: [call() for _ in range(run.count(20, 1))])
            if round_:
                least[name] = min(least[name], 1000 * repeated / run.count(20, 1))
    return {f"{name}, ms": round(value, 3) for name, value in least.items()}


def network_of(run: Run) -> torch.nn.Module:
    """A network of the usual size with weights of chance; in a dry run a linear one."""
    if run.dry:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).eval()
    return models.build("resnet18-cifar", seed=0).eval()


def drawn(count: int) -> Any:
    """Colour images of chance, 32 × 32, and labels."""
    source = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 32, 32, generator=source)
    return from_arrays(images, torch.arange(count) % 10, name="drawn")


class Part(NamedTuple):
    """A part and the minutes that it is expected to take on a GPU."""

    work: Callable[[Run], Result]
    minutes: float


PARTS = {
    "tests": Part(marked_tests, 1.5),
    "precision": Part(precision, 1),
    "foolbox": Part(foolbox_beside, 1.5),
    "memory": Part(memory, 0.5),
    "several": Part(several, 1),
    "epoch": Part(epoch, 0.5),
    "loss": Part(loss, 2),
    "deterministic": Part(deterministic, 1.5),
    "nccl": Part(nccl, 1),
    "stacked": Part(stacked, 0.5),
    "graphs": Part(graphs, 1),
    "official": Part(official, 4),
    "agreement": Part(agreement, 8),
}


# --- all of them ----------------------------------------------------------------------------------


def device_name(device: torch.device) -> str:
    """What the results are of."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({platform.processor() or platform.machine()})"


def is_done(row: Result, run: Run) -> bool:
    """Whether what stands on file need not be done again."""
    return row["device"] == device_name(run.device) and "failed" not in row["found"]


def work(run: Run, out: Path, chosen: list[str], minutes: float) -> None:
    """The parts that are missing, as far as the time goes."""
    until = time.monotonic() + 60 * minutes
    for name in chosen:
        path, part = out / f"{name}.json", PARTS[name]
        if path.exists() and is_done(json.loads(path.read_text()), run):
            continue
        if time.monotonic() + 60 * part.minutes > until and not run.dry:
            print(
                f"{name}: {part.minutes:g} minutes are not left; the same command goes on with it"
            )
            continue
        began = time.perf_counter()
        try:
            found = part.work(run)
        except Exception as error:  # a part that breaks must not take the others along
            found = {"failed": re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:500]}
        seconds = round(time.perf_counter() - began, 1)
        row = {"device": device_name(run.device), "torch": torch.__version__, "seconds": seconds}
        path.write_text(json.dumps({**row, "dry": run.dry, "found": found}, indent=1) + "\n")
        print(f"{name}: {seconds} s: {json.dumps(found)[:300]}", flush=True)


def collect(out: Path) -> None:
    """One file of results for programs, and one for readers."""
    found = {
        name: json.loads((out / f"{name}.json").read_text())
        for name in PARTS
        if (out / f"{name}.json").exists()
    }
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = ["# What a GPU shows", ""]
    for name, row in found.items():
        lines += [f"## {name}", "", (PARTS[name].work.__doc__ or "").strip(), ""]
        dry = ", a dry run" if row["dry"] else ""
        lines += [f"{row['device']}, torch {row['torch']}, {row['seconds']} s{dry}.", "", "```json"]
        lines += [json.dumps(row["found"], indent=1), "```", ""]
    (out / "results.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--official", type=Path)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        for name, part in PARTS.items():
            print(f"{name:14} {part.minutes:4g} min  {(part.work.__doc__ or '').splitlines()[0]}")
        return
    if not options.dry and not torch.cuda.is_available():
        sys.exit("no GPU here; --dry goes through every part on the CPU")
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if options.dry else "cuda")
    work(Run(device, options.dry, options.official), options.out, options.parts, options.minutes)
    collect(options.out)


if __name__ == "__main__":
    main()
