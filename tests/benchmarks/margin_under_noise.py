"""Which large margins train where most labels are wrong, by held-out labels alone.

    nice -n 19 python tests/benchmarks/margin_under_noise.py --data-root DIR --out DIR [--processes 2]
    python tests/benchmarks/margin_under_noise.py --out DIR [--known trials.csv] --status | --note DIR

Trains on MNIST at 40 and 80 % label noise, in bfloat16, one thread a training, and keeps a JSON
line of each trial in `OUT/trials.jsonl`; the test images are never read. Trials of a few hundred
updates go over the whole grid: margins at the output, where distances are exact and cheap, then at
the input, the hidden layers and all. One of each kind goes on to 20 passes, beside cross-entropy
and the published settings. Interrupted, the same command goes on, within a training too; trials of
`--known`, a note's table, are not made again. `--status` prints what there is, as a table; `--note`
writes the table and the figures of a note, of those alone of which all histories are at hand.

What to expect without clips: class c leads by t at an image whose label is c with probability P and
any other class with (1 - P) / 9. Labels that are c push t up, once for each of the top k others that
the sum is over; every other label has c among its k and pulls it down once. So t grows where
k P > 1 - P: with the maximum, or k = 1, only where P > 1/2, and with k = 9 where P > 1/10. At 80 %
noise P is 0.2: k = 3 pulls down (0.25 is needed), k = 5 and more do not.

With clips: alpha = 1 leaves out every label that does not lead, so whichever class leads first is
pushed on, right or wrong. With alpha = 2 a distance and its mirror add up to a constant, and the loss
is symmetric: nothing is pulled beyond gamma on either side. Larger alpha and none stop at gamma above
and go on below, so that a leader is held at gamma by the labels that are not it. A gamma that is never
reached makes the loss linear: it has no minimum, and grows until something else ends it.
"""

import argparse
import csv
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

EARLY, PASSES = 600, 20
"""updates of a first trial; passes over the data of a long one"""
CHANCE = 0.1
MEASURED = ("held_out", "held_out_clean", "memorised", "updates", "cpu_seconds")
"""of a trial"""


@dataclass(frozen=True)
class Trial:
    """One training: a loss, and what it is trained with."""

    noise: str = "0.8"
    loss: str = "large-margin"
    layers: str = "output"
    norm: str = "l2"
    on: str = "logits"
    aggregate: str = "max"
    top_k: int = 1
    gamma: float = 1.0
    alpha: float | None = None
    recipe: str = "ours"
    """ours: SGD, no batch norm; published: RMSProp, batch norm, norms by unit"""
    passes: int = 0
    """over the data; 0: an early trial"""
    seed: int = 0

    @property
    def name(self) -> str:
        """All of it, as a file is named."""
        return "-".join(str(value).replace(",", "+") for value in asdict(self).values())


# --- the grid -------------------------------------------------------------------------------------


PUBLISHED = Trial(
    layers="input,conv1,conv2",
    norm="linf",
    on="probabilities",
    gamma=1e4,
    alpha=4.0,
    recipe="published",
)
WAYS = [("sum", 9), ("max", 1), ("sum", 3)]


def early() -> list[Trial]:
    """The first trials, those first that are cheap."""
    found = [Trial(loss="cross-entropy")]
    lengths = [(1.0, None), (1.0, 2.0), (1.0, 4.0), (1.0, 1.0), (10.0, None), (10.0, 2.0)]
    for gamma, alpha in [*lengths, (1e4, 4.0), (1e4, 1.0)]:
        for aggregate, k in [*WAYS, ("sum", 5), ("max", 9)]:
            found.append(Trial(gamma=gamma, alpha=alpha, aggregate=aggregate, top_k=k))
    for aggregate, k in WAYS:
        for alpha in (None, 2.0):
            found.append(Trial(on="probabilities", alpha=alpha, aggregate=aggregate, top_k=k))
        for layers in ("output", PUBLISHED.layers):
            found.append(replace(PUBLISHED, aggregate=aggregate, top_k=k, layers=layers))
        for layers in ("input", "hidden", "all"):
            found.append(Trial(layers=layers, aggregate=aggregate, top_k=k))
    return [replace(trial, noise=noise) for trial in found for noise in ("0.8", "0.4")]


def long() -> list[Trial]:
    """The trials that go on: one of each kind, as those alike in the first trials stay alike."""
    found = [Trial(loss="cross-entropy")]
    found += [Trial(aggregate=aggregate, top_k=k) for aggregate, k in [*WAYS, ("sum", 5)]]
    found.append(Trial(aggregate="sum", top_k=9, alpha=2.0))
    found.append(Trial(aggregate="sum", top_k=9, on="probabilities"))
    found += [replace(PUBLISHED, aggregate=aggregate, top_k=k) for aggregate, k in WAYS[:2]]
    return [
        replace(trial, noise=noise, passes=PASSES, seed=seed)
        for seed in (0, 1)
        for noise in ("0.8", "0.4")
        for trial in found
    ]


# --- a training -----------------------------------------------------------------------------------


def train(trial: Trial, root: Path | None, out: Path) -> dict[str, Any]:
    """Train, and return what is kept of it."""
    import torch

    from robustkit import machine, training
    from robustkit.data import load_dataset
    from robustkit.data.noise import LabelNoise
    from robustkit.errors import RobustkitError
    from robustkit.training.defaults import PAPER_MARGIN, default_recipe

    machine.keep_memory()
    torch.set_num_threads(1)
    published = trial.recipe == "published"
    length = {"epochs": trial.passes} if trial.passes else {"steps": EARLY}
    held_out = default_recipe(trial.loss, "mnist").hold_out
    recipe = replace(PAPER_MARGIN if published else default_recipe(trial.loss, "mnist"), **length)
    if not published:  # no schedule, so that an early trial is the beginning of a long one
        recipe = replace(recipe, schedule="constant", learning_rate=0.01, weight_decay=0.0)
    config = training.TrainingConfig(
        model="mnist-cnn-bn" if published else "mnist-cnn",
        data=load_dataset("mnist", split="train", root=root),
        loss=trial.loss,
        settings={} if trial.loss == "cross-entropy" else settings(trial),
        recipe=replace(recipe, hold_out=held_out),
        noise=LabelNoise(rate=Fraction(trial.noise)),
        seed=trial.seed,
        precision="bf16",
    )
    path = trained(trial, out)
    path.parent.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    try:
        record = training.train(config, path, training.TrainingOptions(device="cpu")).record
    except RobustkitError as error:
        return {"trial": asdict(trial), "failed": str(error), "held_out": 0.0}
    last = record["history"][-1]
    return {
        "trial": asdict(trial),
        "held_out": last["held_out"],
        "held_out_clean": last["held_out_clean"],
        "memorised": last["memorised"],
        "cpu_seconds": round(time.process_time() - began, 1),
        "updates": last["step"],
        "gradients": record["gradients"],
        "history": record["history"],
    }


def trained(trial: Trial, out: Path) -> Path:
    """Where a network stands until its line is written."""
    return out / "networks" / f"{trial.name}.safetensors"


def settings(trial: Trial) -> dict[str, Any]:
    """The loss's settings."""
    return {
        "norm": trial.norm,
        "layers": trial.layers.split(","),
        "gamma": trial.gamma,
        "alpha": trial.alpha,
        "top_k": trial.top_k,
        "aggregate": trial.aggregate,
        "on": trial.on,
        "normalise": trial.recipe == "published",
    }


# --- all of them ----------------------------------------------------------------------------------


def finished(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The trials on file, by name."""
    path, out = options.known, options.out
    told = known(path) if path else {}
    path = out / "trials.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    # a line that a kill cut short is trained again
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return told | {Trial(**row["trial"]).name: row for row in rows}


def known(path: Path) -> dict[str, dict[str, Any]]:
    """The trials of a note's table, without their histories, by name."""
    read: dict[str, Callable[[str], Any]] = {
        "gamma": float,
        "alpha": lambda text: float(text) if text else None,
        **dict.fromkeys(("top_k", "passes", "seed"), int),
    }
    found = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            own = {key: read.get(key, str)(row[key]) for key in asdict(Trial())}
            number = {key: float(row[key]) if row[key] else None for key in MEASURED}
            number["updates"] = int(row["updates"])
            found[Trial(**own).name] = {"trial": own, **number}
    return found


def work(trials: Iterable[Trial], options: argparse.Namespace) -> None:
    """Train what is missing, and write a line for each as it ends."""
    done = finished(options)
    missing = [trial for trial in trials if trial.name not in done]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        jobs = [pool.submit(train, trial, options.data_root, options.out) for trial in missing]
        for number, job in enumerate(as_completed(jobs), 1):
            row = job.result()
            with (options.out / "trials.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            trained(Trial(**row["trial"]), options.out).unlink(missing_ok=True)
            print(f"{number} of {len(missing)}: {'  '.join(cells(row))}", flush=True)


def cells(row: dict[str, Any]) -> Iterator[str]:
    """A trial in a line of a table."""
    trial = Trial(**row["trial"])
    yield f"{trial.noise}"
    if trial.loss == "cross-entropy":
        yield f"{'cross-entropy':48}"
    else:
        clip = "none" if trial.alpha is None else f"{trial.alpha:g}"
        way = f"{trial.aggregate} of {trial.top_k}"
        yield f"{trial.layers:18} {trial.on[:5]:5} {way:8} {trial.gamma:5g} {clip:4}"
    yield f"{trial.recipe:9} {trial.passes or 'early':>5} {trial.seed}"
    if "failed" in row:
        yield row["failed"]
    else:
        learnt = "-" if row["memorised"] is None else f"{row['memorised']:.3f}"
        yield f"{row['held_out']:.3f} {row['held_out_clean']:.3f} {learnt}"


def show(options: argparse.Namespace) -> None:
    """All trials on file, the best first."""
    done = finished(options)
    left = [sum(trial.name not in done for trial in trials) for trials in (early(), long())]
    print(f"{len(done)} trials on file; left: {left[0]} early ones, {left[1]} long ones")
    print("noise, layers, on, classes, gamma, alpha, recipe, passes, seed; accuracy held out by")
    print("wrong and by clean labels; wrong training labels learnt")
    order = sorted(
        done.values(),
        key=lambda row: (row["trial"]["passes"], row["trial"]["noise"], row["held_out"]),
        reverse=True,
    )
    for row in order:
        print("  ".join(cells(row)))


# --- what a reader is given -----------------------------------------------------------------------

NOISES = ("0.8", "0.4")
PUBLISHED_AT = "published,\n"
"""begins the names of columns with the published settings"""


def word(trial: Trial) -> str:
    """A way of margins, as a legend says it."""
    if trial.loss == "cross-entropy":
        return "cross-entropy"
    classes = {("max", 1): "maximum", ("max", 9): "maximum of 9"}
    return classes.get((trial.aggregate, trial.top_k), f"sum of {trial.top_k}")


def line_of(trial: Trial) -> str:
    """The same, with its clip from above."""
    return word(trial) + ("" if trial.alpha is None else f", α = {trial.alpha:g}")


def kept(options: argparse.Namespace) -> list[tuple[Trial, dict[str, Any]]]:
    """The trials of the grid that ended with a number."""
    done = finished(options)
    return [(t, done[t.name]) for t in (*early(), *long()) if "updates" in done.get(t.name, {})]


def write_note(options: argparse.Namespace) -> None:
    """The trials as a table, and the figures."""
    to = options.note
    to.mkdir(parents=True, exist_ok=True)
    trials = kept(options)
    with (to / "trials.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*asdict(Trial()), *MEASURED])
        rows.writerows([*asdict(t).values(), *(row[key] for key in MEASURED)] for t, row in trials)
    draw_clips(to, [(t, row) for t, row in trials if not t.passes])
    draw_layers(to, [(t, row) for t, row in trials if not t.passes])
    draw_history(to / "first-updates", [(t, row) for t, row in trials if not t.passes])
    draw_history(to / "passes", [(t, row) for t, row in trials if t.passes and not t.seed])


def draw_clips(to: Path, trials: list[tuple[Trial, dict[str, Any]]]) -> None:
    """Clean held-out accuracy after the first updates: which classes count, by gamma and clip."""
    ways = ["maximum", "maximum of 9", "sum of 3", "sum of 5", "sum of 9"]
    lengths = list(dict.fromkeys((t.gamma, t.alpha) for t in early() if t.loss == "large-margin"))
    lengths = [length for length in lengths if length != (PUBLISHED.gamma, None)]
    names = [f"{gamma:g}, {'none' if alpha is None else f'{alpha:g}'}" for gamma, alpha in lengths]
    figure, panels = heat_maps()
    for ax, noise in zip(panels, NOISES, strict=True):
        table = [[math.nan] * len(lengths) for _ in ways]
        for t, row in trials:
            plain = t.recipe == "ours" and t.layers == "output" and t.on == "logits"
            if t.noise == noise and t.loss == "large-margin" and plain:
                value = 100 * row["held_out_clean"]
                table[ways.index(word(t))][lengths.index((t.gamma, t.alpha))] = value
        heat_map(ax, table, names, ways)
        ax.set(title=f"{100 * float(noise):.0f} % label noise", xlabel="γ, α")
    save(figure, to / "clips")


def heat_maps() -> tuple[Any, Any]:
    """A figure and its panels, one for each noise."""
    import matplotlib.pyplot as plt

    return plt.subplots(1, 2, figsize=(7.2, 2.6), sharey=True, layout="constrained")


def heat_map(ax: Any, table: list[list[float]], columns: list[str], rows: list[str]) -> None:
    """A table of percentages in colours; what is not there stays white."""
    import seaborn as sns

    sns.heatmap(
        table, ax=ax, annot=True, fmt=".0f", vmin=0, vmax=100, cmap="viridis", cbar=False,
        xticklabels=columns, yticklabels=rows,
    )  # fmt: skip
    ax.tick_params(axis="x", rotation=45)
    ax.tick_params(axis="y", rotation=0)


def draw_layers(to: Path, trials: list[tuple[Trial, dict[str, Any]]]) -> None:
    """The same by the layers at which margins are, and of the published settings."""
    ways = ["maximum", "sum of 3", "sum of 9"]
    names = [
        "output",
        "input",
        "hidden",
        "all",
        *(PUBLISHED_AT + at for at in ("output", "layers")),
    ]
    figure, panels = heat_maps()
    for ax, noise in zip(panels, NOISES, strict=True):
        table = [[math.nan] * len(names) for _ in ways]
        for t, row in trials:
            published = t.recipe == "published"
            plain = published or (t.on == "logits" and (t.gamma, t.alpha) == (1.0, None))
            if t.noise == noise and t.loss == "large-margin" and plain and word(t) in ways:
                layers = "layers" if t.layers == PUBLISHED.layers else t.layers
                name = PUBLISHED_AT + layers if published else layers
                table[ways.index(word(t))][names.index(name)] = 100 * row["held_out_clean"]
        heat_map(ax, table, names, ways)
        ax.set(title=f"{100 * float(noise):.0f} % label noise")
    save(figure, to / "layers")


def draw_history(path: Path, trials: list[tuple[Trial, dict[str, Any]]]) -> None:
    """Accuracy on the true labels of the training images, and wrong labels learnt, by updates."""
    import matplotlib.pyplot as plt

    shown = [t for t in long() if t.recipe == "ours" and t.on == "logits"]
    styles = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(line_of(t) for t in shown))}
    wanted = {replace(t, passes=0, seed=0) for t in shown}
    # one line alone compares nothing
    trials = [(t, row) for t, row in trials if replace(t, passes=0, seed=0) in wanted]
    noises = [noise for noise in NOISES if sum(t.noise == noise for t, _ in trials) > 1]
    if not noises or any("history" not in row for _, row in trials):
        return
    figure, panels = plt.subplots(
        1, len(noises), figsize=(7.2, 3.0), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, noise in zip(panels[0], noises, strict=True):
        for t, row in trials:
            if t.noise == noise:
                steps = [point["step"] for point in row["history"]]
                for key, line in (("accuracy_clean", "-"), ("memorised", ":")):
                    y = [100 * point[key] for point in row["history"]]
                    label = line_of(t) if line == "-" else None
                    ax.plot(steps, y, line, color=styles[line_of(t)], label=label)
        ax.axhline(100 * CHANCE, color="0.6", linewidth=0.8, linestyle="--")
        ax.set(title=f"{100 * float(noise):.0f} % label noise", xlabel="updates", ylim=(0, 101))
    panels[0, 0].set_ylabel("training images (%)")
    names, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(names, labels, loc="outside right upper", fontsize="small", frameon=False)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """As a picture for reading and one for printing."""
    import matplotlib as mpl

    mpl.rcParams["svg.hashsalt"] = "robustkit"  # the same names in the file each time
    figure.savefig(path.with_suffix(".png"), dpi=150)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--known", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--status", action="store_true")
    parser.add_argument("--note", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.note:
        write_note(options)
        return
    if not options.status:
        work(early(), options)
        work(long(), options)
    show(options)


if __name__ == "__main__":
    main()
