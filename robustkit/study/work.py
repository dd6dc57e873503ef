"""What a worker does: train a cell, then evaluate it. Every result is a file, written whole."""

import errno
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustkit import compression, machine
from robustkit.data import Dataset, load_dataset
from robustkit.data.loading import file_stamps
from robustkit.data.source import FileStamp
from robustkit.errors import CannotWrite, Hindered, ProcessLost, RobustkitError, Unready, one_line
from robustkit.files import build, file_digest, write_atomic
from robustkit.results.metadata import ITSELF, RecordedValue, check_name
from robustkit.spec import CHOSEN, TRAINED
from robustkit.study.cells import Cell, Test
from robustkit.study.selection import best_pass
from robustkit.study.store import StudyStore, checkpoint_place
from robustkit.study.together import processes_of, together
from robustkit.study.user_files import CHANGED, check_user_files, noise_of
from robustkit.training.recipe import Recipe

if TYPE_CHECKING:
    from robustkit import training
    from robustkit.checkpoint import Checkpoint

LEFT_OUT = (
    ", or leave it out of the study and evaluate it by itself (robustkit evaluate --image-by-image)"
)
"""what can be done about a network whose logits depend on the batch, but to mend it"""


EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""what a machine has run out of"""
MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""how torch says that it was memory, for which it has no error of its own on a processor"""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What the work is done with; nothing here is part of what is asked."""

    folder: Path
    data_root: Path | None = None
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Job:
    """A cell, if it is still to be trained, and evaluations of it."""

    cell: Cell
    tests: tuple[Test, ...]
    pause: int | None = None
    """pass after which its training waits for others; None: it goes on to the end"""
    rungs: tuple[str, ...] = ()
    """what it has paused at before"""

    @property
    def rung(self) -> str:
        """What names the result of a pause."""
        return f"{self.cell.key}-pass{self.pause}"


def carry_out(job: Job, config: WorkerConfig) -> str:
    """Do a job, and return the cell's key. A failure is a result, and kept with its reason.

    Raises:
        Hindered: it could not be done, through nothing of its own; nothing is kept of that.
    """
    import torch

    machine.keep_memory()
    torch.set_num_threads(config.threads)
    store, key = StudyStore(config.folder), job.cell.key
    done = store.cell(key)
    if done is None and job.pause is not None:
        result = _attempted(store, "cell", key, lambda: _train(job.cell, store, config, job.pause))
        failed = result["status"] == "failed"
        store.keep(*(("cell", key) if failed else ("rung", job.rung)), result)
        return key
    if done is None:
        done = _guarded(store, "cell", key, lambda: _train(job.cell, store, config))
    for test in job.tests:
        if store.test(test.key) is None and done["status"] == "done":
            evaluate = partial(_evaluate, test, job.cell, store, config)
            _guarded(store, "test", test.key, evaluate)
    return key


def _guarded(store: StudyStore, kind: str, key: str, work: Any) -> dict[str, Any]:
    """The result of some work, kept; that of failing, where it fails."""
    result = _attempted(store, kind, key, work)
    store.keep(kind, key, result)
    return result


def _attempted(store: StudyStore, kind: str, key: str, work: Any) -> dict[str, Any]:
    """What some work came to, if only that it fails.

    Raises:
        Hindered: it could not be done, through nothing of its own.
    """
    try:
        done: dict[str, Any] = work()
        return {"status": "done", "reason": ""} | done
    except Hindered:
        raise
    except (Exception, SystemExit) as error:  # whatever it is, it must not become a number
        if (hindered := _exhausted(error, f"{kind} {key}: ")) is not None:
            raise hindered from error
        if isinstance(error, RobustkitError):
            return _failed(str(error), store)
        log = store.folder / f"{kind}s" / f"{key}.log"
        write_atomic(log, traceback.format_exc().encode())
        return _failed(f"{one_line(error)} (see {log.name})", store)


def _failed(reason: str, store: StudyStore) -> dict[str, Any]:
    """What failing comes to; files by their place in the study, wherever that stands."""
    return {"status": "failed", "reason": reason.replace(f"{store.folder}{os.sep}", "")}


def _exhausted(error: BaseException, what: str = "") -> Hindered | None:
    """What to raise where a machine has run out of something, however that was told; else None.

    With more of it the same work may succeed: nothing is chosen by how many cells shared a memory.
    """
    said = str(error) if isinstance(error, RobustkitError) else one_line(error)
    cause: BaseException | None = error
    seen: list[BaseException] = []
    while cause is not None and not any(cause is one for one in seen):
        if isinstance(cause, OSError) and cause.errno in EXHAUSTED:
            return CannotWrite(f"{what}{said}")
        told = isinstance(cause, RuntimeError) and any(m in one_line(cause) for m in MEMORY)
        if told or isinstance(cause, MemoryError):
            return ProcessLost(f"{what}{said}; too little memory, run fewer cells at a time")
        seen.append(cause)
        cause = cause.__cause__
    return None


def _train(
    cell: Cell, store: StudyStore, config: WorkerConfig, pause: int | None = None
) -> dict[str, Any]:
    check_user_files(cell.asked)
    if "checkpoint" in cell.asked:
        return _external(cell.asked)
    path = store.checkpoint(cell.key)
    resumed = path.exists() or path.with_name(f"{path.name}.partial").exists()
    began = time.monotonic()
    world, given = processes_of(cell.asked, config.device), (cell.asked, config, path, pause)
    made = _trained(*given) if world == 1 else together(world, config.threads, _trained, *given)
    record: dict[str, Any] = made.record
    if made.paused:
        kept = _snapshots(made.snapshots, store)
        return {"history": record["history"], **kept, "versions": versions(), **used(config)}
    last, data = record["history"][-1], record["data"]
    return {
        "checkpoint": str(path.relative_to(store.folder)),
        "model": cell.asked["model"],
        "history": record["history"],
        "held_out": last.get("held_out"),
        "held_out_clean": last.get("held_out_clean"),
        "training": record["digest"],
        "data": {
            "train": described(
                load_cached(cell.asked["data"]["name"], "train", None, config.data_root)
            )
        },
        "images": data["train"]["images"],
        "wrong_labels": data["train"]["noise"]["flipped"],
        "gradients": record["gradients"],
        "steps": last["step"],
        **_snapshots(made.snapshots, store),
        "seconds": None if resumed else round(time.monotonic() - began, 2),
        "versions": versions(),
        **used(config),
    }


def _trained(
    asked: dict[str, Any], config: WorkerConfig, path: Path, pause: int | None
) -> "training.TrainingResult":
    """A training, or this process's part in it."""
    from robustkit import training

    options = training.TrainingOptions(
        device=config.device,
        snapshots=tuple(asked.get("snapshots", ())),
        scored="score" in asked,
        pause=pause,
        replace=True,
    )
    try:
        return training.train(training_config(asked, config), path, options)
    except Exception as error:
        # told here: to the process that asked for it, an error comes without its causes
        if not isinstance(error, Hindered) and (hindered := _exhausted(error)) is not None:
            raise hindered from error
        raise


def _snapshots(paths: Sequence[Path], store: StudyStore) -> dict[str, Any]:
    """The weights that were kept on the way, by pass; nothing where there are none."""
    from robustkit.checkpoint import read_checkpoint

    found = {}
    for path in paths:
        seen = read_checkpoint(path).extra["training"]["snapshot"]
        found[str(seen.pop("pass"))] = {"checkpoint": str(path.relative_to(store.folder)), **seen}
    return {"snapshots": found} if found else {}


def _external(cell_config: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint made elsewhere says of itself.

    Raises:
        InputError: it says something else than its name.
        Unready: it is another one than was planned with.
    """
    from robustkit.checkpoint import read_checkpoint

    path = Path(cell_config["checkpoint"])
    read = read_checkpoint(path, model=cell_config["model"])
    _check_unchanged(read, cell_config["sha256"])
    recorded = {name: getattr(read, name) for name in ("loss", "seed", *TRAINED)}
    if read.format != "safetensors":  # whose record the plan was made by
        said = {name: RecordedValue(str(value), ITSELF) for name, value in recorded.items()}
        check_name(path, cell_config["fields"], said, ("seed", *TRAINED))
    return {
        "checkpoint": read.published or str(path.resolve()),
        "sha256": cell_config["sha256"],
        "model": cell_config["model"],
        "recorded": recorded,
        "versions": versions(),
    }


def _check_unchanged(read: "Checkpoint", planned: str) -> None:
    """See that a network made elsewhere is the one that the study was planned with.

    Raises:
        Unready: its file, or what is published under its name, is another one.
    """
    # of several files, the plan has the digest of the one that is named
    path = Path(read.path)
    if planned not in (read.sha256, file_digest(path) if path.is_file() else ""):
        raise Unready(f"{read.published or read.path}: {CHANGED}")


def training_config(cell_config: dict[str, Any], config: WorkerConfig) -> "training.TrainingConfig":
    """The training that a cell spells out."""
    from robustkit import training

    return training.TrainingConfig(
        model=cell_config["model"],
        data=load_cached(cell_config["data"]["name"], "train", None, config.data_root),
        loss=cell_config["loss"],
        settings=dict(cell_config["settings"]),
        recipe=recipe(cell_config["recipe"]),
        noise=noise_of(cell_config["noise"]["kind"], cell_config["noise"]["rate"]),
        fraction=Fraction(cell_config["fraction"]),
        seed=cell_config["seed"],
        compress=compression.parse(cell_config["compress"]) if "compress" in cell_config else None,
        memory=cell_config.get("memory", True),
        precision=cell_config.get("precision", "auto"),
    )


def recipe(spelled: dict[str, Any]) -> Recipe:
    """A recipe from its JSON."""
    given = {key: value for key, value in spelled.items() if value is not None}
    return build(Recipe, given, "recipe")


def load_cached(name: str, split: str, limit: int | None, root: Path | None) -> Dataset:
    """A data set, kept for the next cell as long as its files stay as they are."""
    return _loaded(name, split, limit, root, file_stamps(name, split, root))


@lru_cache(maxsize=4)
def _loaded(
    name: str, split: str, limit: int | None, root: Path | None, stamps: tuple[FileStamp, ...]
) -> Dataset:
    return load_dataset(name, split=split, limit=limit, root=root)


def described(data: Dataset) -> dict[str, Any]:
    """A data set as a result names it."""
    return {"name": data.name, "digest": data.digest, "images": len(data)}


def used(config: WorkerConfig) -> dict[str, Any]:
    """What a result was worked out on."""
    import torch

    gpu = config.device.startswith("cuda")
    processor = torch.cuda.get_device_name(config.device) if gpu else machine.processor()
    return {"device": config.device, "threads": config.threads, "processor": processor}


def versions() -> dict[str, str]:
    """Of what a number may depend on."""
    return {name: version(name) for name in ("robustkit", "torch", "torchvision", "foolbox")}


def _planned_images(test: Test, config: WorkerConfig) -> Dataset:
    data = load_cached(test.data, test.split, test.limit, config.data_root)
    if data.digest != test.digest:
        raise Unready(
            f"{test.data}: its {test.split} images are not those that the study was planned with"
        )
    return data


def _evaluate(test: Test, cell: Cell, store: StudyStore, config: WorkerConfig) -> dict[str, Any]:
    from robustkit import evaluation
    from robustkit.checkpoint import read_checkpoint

    check_user_files(cell.asked)
    data = _planned_images(test, config)
    protocol = evaluation.resolve_protocol(test.protocol, data, test.epsilons, norm=test.norm)
    if test.resolved not in (None, protocol.digest):
        raise Unready(f"{test.protocol}: {CHANGED}")

    def evaluated_model(key: str, passes: str = "") -> evaluation.EvaluatedModel:
        made = store.cell(key) or {}
        if passes:
            made = made | made["snapshots"][passes]
        place = checkpoint_place(store.folder, made["checkpoint"])
        read = read_checkpoint(place, model=made.get("model"))
        if "recorded" in made:  # made elsewhere
            if "sha256" in made:
                _check_unchanged(read, made["sha256"])
            evaluation.check_shape(read, data)
            evaluation.check_classes(read, data)
        model = evaluation.from_checkpoint(read, len(data.classes))
        # as the study knows it, wherever a worker has it
        header = {**model.header, "path": made["checkpoint"]}
        return replace(model, header=header, instead=LEFT_OUT)

    chosen, score = test.passes == CHOSEN, cell.asked.get("score")
    passes = best_pass(store.cell(test.cell) or {}, score) if chosen else test.passes
    record = evaluation.run(
        evaluated_model(test.cell, passes),
        data,
        protocol,
        store.runs,
        evaluation.RunOptions(device=config.device, precision=test.precision),
        evaluated_model(test.surrogate) if test.surrogate else None,
    )
    return ({"passes": passes} if passes else {}) | {
        "evaluation": record.digest,
        "clean": record.clean().value,
        "data": {test.split: described(data)},
        "seconds": record.run["seconds"],
        **used(config),
    }


# --- the times of training steps ------------------------------------------------------------------

TIMING = 2
"""revision of how steps are timed: times of an earlier one are taken anew"""


def time_steps(
    cells: Sequence[Cell], config: WorkerConfig, rounds: int, steps: int
) -> dict[str, list[float]]:
    """Seconds of a training step of each method, by rounds in turn, alone on the machine.

    Those of several processes have their rounds after the others.

    Args:
        cells: one a method.
        config: device and threads.
        rounds: in each, every method takes its steps once.
        steps: taken in a round, after as many to warm up before the first.
    """
    from robustkit.training.processes import leave

    world = {cell.method: processes_of(cell.asked, config.device) for cell in cells}
    try:
        seconds = _in_turn([c for c in cells if world[c.method] == 1], config, rounds, steps)
    finally:
        leave()  # compressed gradients need a group, which nothing after them is to find
    for cell in cells:
        if (several := world[cell.method]) > 1:
            seconds |= together(several, config.threads, _in_turn, [cell], config, rounds, steps)
    return seconds


def _in_turn(
    cells: Sequence[Cell], config: WorkerConfig, rounds: int, steps: int
) -> dict[str, list[float]]:
    """The same in this process, or in one of several."""
    from robustkit.device import with_threads
    from robustkit.training.run import bench

    with with_threads(config.threads):  # the process may be a user's own
        benches = {
            cell.method: bench(_long(training_config(cell.asked, config)), config.device)
            for cell in cells
        }
        for run in benches.values():
            run(steps)
        seconds: dict[str, list[float]] = {method: [] for method in benches}
        for _ in range(rounds):
            for method, run in benches.items():
                began = time.perf_counter()
                run(steps)
                seconds[method].append((time.perf_counter() - began) / steps)
        return seconds


def _long(config: "training.TrainingConfig") -> "training.TrainingConfig":
    """The same training with no end in sight."""
    return replace(config, recipe=replace(config.recipe, steps=10**6))


# --- a worker process -----------------------------------------------------------------------------
