"""How fast this machine is at the parts of a study: one short training, one short evaluation."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from robustkit.errors import EvaluationFailed, one_line
from robustkit.parallel.processes import end_with, end_workers, without_script
from robustkit.study.cells import Cell, Test
from robustkit.study.store import StudyStore, checkpoint_place
from robustkit.study.work import (
    Job,
    WorkerConfig,
    carry_out,
    load_cached,
    time_steps,
)

if TYPE_CHECKING:
    import torch

    from robustkit.data import Dataset

HELD_OUT = 100
"""images at most that the short training holds out"""
STEPS = 3
"""updates that are timed of each method, after as many to warm up"""
PASSES = 3
"""over a batch of test images, after one to warm up"""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Seconds that parts of a study take."""

    start: float
    """until a worker process is at work"""
    steps: dict[str, float | None]
    """of an update, by method; None: it cannot be timed"""
    cell: float
    """of a training but for its updates and its looks at held-out images"""
    evaluation: float
    """of an evaluation but for its passes"""
    forward: float
    """of a pass over one image, at the batch size of evaluations"""
    gradient: float
    """of a pass forth and back over one image"""


def measure_throughput(cells: Sequence[Cell], test: Test, config: WorkerConfig) -> Throughput:
    """Time the parts in a worker process that is gone afterwards, and its memory with it.

    Args:
        cells: one a method; the first that works stands for what they have in common.
        test: how networks are tested.
        config: as a worker has them.

    Raises:
        EvaluationFailed: something that is timed does not work.
    """
    began = time.monotonic()
    context = get_context("spawn")  # as workers are
    with (
        # of this process: an interruption ends the worker at once, and what it made would stay
        TemporaryDirectory(prefix="robustkit-") as folder,
        ProcessPoolExecutor(1, context, end_with, (os.getpid(),)) as pool,
    ):
        try:
            with without_script():
                timing = pool.submit(timed, cells, test, replace(config, folder=Path(folder)))
            seconds, throughput = timing.result()
        except Exception as error:
            # a network without gradients, a process that died: the study itself will say so
            raise EvaluationFailed(f"cannot be timed: {one_line(error)}") from error
        except BaseException:
            # an interruption: leaving the pool would wait for its job
            end_workers(pool)
            raise
    return replace(throughput, start=time.monotonic() - began - seconds)


def timed(cells: Sequence[Cell], test: Test, config: WorkerConfig) -> tuple[float, Throughput]:
    """The parts, and the seconds it took to time them; what comes only once is not among these.

    `config.folder` is left with what that made.
    """
    import torch

    torch.set_num_threads(config.threads)
    first, scratch = (replace(config, folder=config.folder / name) for name in ("first", "again"))
    cell = _short(_first_that_works(cells, test, first))
    began = time.monotonic()
    training = _seconds(lambda: carry_out(Job(cell, ()), scratch))
    judged = replace(test, cell=cell.key)
    evaluation = _seconds(lambda: carry_out(Job(cell, (judged,)), scratch))
    forward, gradient = _passes(cell, judged, scratch)
    steps = {one.method: _step(one, config) for one in cells if "recipe" in one.asked}
    throughput = Throughput(0, steps, training, evaluation, forward, gradient)
    return time.monotonic() - began, throughput


def _short(cell: Cell) -> Cell:
    """The training of a single update, with few held-out images; one made elsewhere is itself."""
    if "recipe" not in cell.asked:
        return cell
    asked = cell.asked["recipe"]
    held = Fraction(asked["hold_out"])
    fewer = min(held, Fraction(HELD_OUT)) if held >= 1 else held and Fraction(HELD_OUT)
    recipe = asked | {"steps": 1, "hold_out": str(fewer)}
    kept = {name: value for name, value in cell.asked.items() if name != "snapshots"}
    return replace(cell, asked=kept | {"recipe": recipe})


def _first_that_works(cells: Sequence[Cell], test: Test, config: WorkerConfig) -> Cell:
    """The first cell whose short training and evaluation succeed, whatever they import loaded.

    Raises:
        EvaluationFailed: none does.
    """
    store = StudyStore(config.folder)
    for cell in cells:
        short = _short(cell)
        judged = replace(test, cell=short.key)
        carry_out(Job(short, (judged,)), config)
        result = store.test(judged.key)
        if result is not None and result["status"] == "done":
            return cell
    raise EvaluationFailed("no cell of the study can be timed")


def _step(cell: Cell, config: WorkerConfig) -> float | None:
    try:
        return time_steps([cell], config, 1, STEPS)[cell.method][0]
    except Exception:
        return None  # whatever it is, the study itself will say so


def _passes(cell: Cell, test: Test, config: WorkerConfig) -> tuple[float, float]:
    """Seconds of a pass over an image: forth, and forth and back."""
    import torch

    from robustkit.checkpoint import read_checkpoint
    from robustkit.device import device as find

    device, store = find(config.device), StudyStore(config.folder)
    made = store.cell(cell.key) or {}
    network = read_checkpoint(
        checkpoint_place(store.folder, made["checkpoint"]), model=made["model"]
    ).load(device)
    images = _batch(load_cached(test.data, test.split, None, config.data_root), device)

    def forth() -> None:
        with torch.no_grad():
            network(images).sum().item()

    def back() -> None:
        x = images.clone().requires_grad_()
        torch.autograd.grad(network(x).logsumexp(1).sum(), x)[0].sum().item()

    forward, gradient = (_seconds(one, PASSES) / len(images) for one in (forth, back))
    return forward, gradient


def _batch(data: "Dataset", device: "torch.device") -> "torch.Tensor":
    """As many images as an evaluation takes at a time."""
    import torch

    from robustkit.evaluation import block_size

    pixels = 1
    for side in data.shape:
        pixels *= side
    fitting = max(1, min(128, 2**22 // pixels))
    count = fitting if device.type == "cpu" else block_size(data, device)
    return torch.from_numpy(data.images(0, min(count, len(data)))).to(device)


def _seconds(work: Callable[[], Any], times: int = 0) -> float:
    """Of doing something once, or the mean of so many times after one to warm up."""
    if times:
        work()
    began = time.perf_counter()
    for _ in range(times or 1):
        work()
    return (time.perf_counter() - began) / (times or 1)
