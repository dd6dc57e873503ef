"""From a question to a trained checkpoint: resumed where it was cut, answered if on file."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from filelock import FileLock, Timeout
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from robustkit import checkpoint, compression, losses, models
from robustkit.compression import Scheme
from robustkit.data import Dataset
from robustkit.data.noise import Noise
from robustkit.data.subset import Training, prepare
from robustkit.device import device as find_device
from robustkit.errors import InputError, RobustkitError, TrainingFailed, first_line
from robustkit.files import canonical, digest, write_atomic
from robustkit.losses.loss import Loss, unwrapped
from robustkit.training.engine import Engine, Progress, wrapped
from robustkit.training.examples import Examples, gather
from robustkit.training.processes import Processes, join, leave, own_device, together
from robustkit.training.recipe import Recipe, checked, spell

REVISION = 1
"""raised by whatever changes what the same question comes to"""
PROBE = 8
"""images on which loss and network are tried before the training starts"""

Precision = Literal["auto", "float32", "tf32", "bf16"]


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that decides on the weights that come out."""

    model: str
    """an architecture's name; FILE.py:FUNCTION is imported and called"""
    data: Dataset
    """the training split"""
    loss: str = "cross-entropy"
    """a loss's name; FILE.py:FUNCTION is imported"""
    settings: dict[str, Any] = field(default_factory=dict)
    """of the loss"""
    recipe: Recipe = field(default_factory=Recipe)
    noise: Noise = field(default_factory=Noise)
    fraction: Fraction = Fraction(1)
    """of the images that are not held out"""
    seed: int = 0
    keep: Literal["last", "best"] = "last"
    """best: the epoch with the highest held-out accuracy"""
    clean_selection: bool = False
    """held-out labels are clean, whatever the noise"""
    compress: Scheme | None = None
    memory: bool = True
    """of the compressor: what was not sent is sent later"""
    precision: Precision = "auto"
    deterministic: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """How the question is answered; nothing here changes the weights on a CPU."""

    device: str = "auto"
    fresh: bool = False
    """start anew, whatever is on file"""
    seconds: float = 30.0
    """between two saved states"""
    log: Path | None = None
    """folder for TensorBoard"""
    progress: Progress = field(default_factory=Progress)


class Trained(NamedTuple):
    """What a training leaves."""

    path: Path
    record: dict[str, Any]
    """the checkpoint's own account: the question, realised counts, history per epoch"""
    first: bool = True
    """of several processes, whether this one wrote it and speaks for all"""


def train(question: Question, out: str | Path, options: Options = Options()) -> Trained:
    """Train, write a self-describing checkpoint, and say what it holds.

    The same question with the same `out` is answered from the file; after an interruption the run
    goes on from its last saved state, to the same weights.

    Raises:
        InputError: the question makes no sense, or `out` holds the answer to another one.
        TrainingFailed: the loss or a weight is no longer a number, or another process has ended;
            the last good state is kept.
        EvaluationFailed: the disk is full or cannot be written.
    """
    checked(question.recipe)
    if Path(out).is_dir():
        raise InputError(f"--out {out}: is a folder; give the name of a file")
    device = own_device(find_device(options.device))
    processes = join(device, alone=question.compress is not None)
    try:
        with together(processes), _claimed(_partial(Path(out)), processes):
            return _Run(question, Path(out), options, device, processes).answer()
    finally:
        leave()


def _partial(out: Path) -> Path:
    """The folder of an unfinished run."""
    return out.with_name(f"{out.name}.partial")


@contextmanager
def _claimed(folder: Path, processes: Processes) -> Iterator[None]:
    """The right to work on an output; an empty folder is taken away afterwards."""
    if not processes.first:
        yield
        return
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{folder}: another process trains into it; wait, or change --out"
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror or error}; give an --out in a folder that can "
            "be written"
        ) from error
    try:
        yield
    finally:
        if not (folder / "state.pt").exists():
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


@dataclass(frozen=True, slots=True)
class _Run:
    question: Question
    out: Path
    options: Options
    device: torch.device
    processes: Processes

    def answer(self) -> Trained:
        asked, loss = self.question, losses.build(self.question.loss, self.question.settings)
        training = self.prepared()
        if asked.keep == "best" and training.held_out is None:
            raise InputError("--keep best needs held-out images; give --hold-out")
        account = self._account(loss, training)
        known = self.processes.tell(self._on_file(account) if self.processes.first else None)
        if known is not None:
            return Trained(self.out, known, self.processes.first)
        state = self.processes.tell(self._state(account) if self.processes.first else None)
        with numerics(self.precision, asked.deterministic):
            engine = self.engine(loss, training)
            if state is not None:
                engine.resume(state)
            self._fit(engine, account)
        return self._finish(engine, account)

    def prepared(self) -> Training:
        """Who is trained on, and who is held out."""
        asked = self.question
        return prepare(
            asked.data,
            hold_out=asked.recipe.hold_out,
            fraction=asked.fraction,
            noise=asked.noise,
            seed=asked.seed,
            clean_selection=asked.clean_selection,
        )

    # --- what is known beforehand -----------------------------------------------------------------

    @property
    def precision(self) -> str:
        if self.question.precision == "auto":
            return "tf32" if self.device.type == "cuda" else "float32"
        return self.question.precision

    def _account(self, loss: Loss, training: Training) -> dict[str, Any]:
        """The question in full, as JSON, with a digest of all that can change the weights."""
        asked = self.question
        decisive: dict[str, Any] = {
            "model": {"name": asked.model, "code": models.source(asked.model)},
            "loss": {
                "name": asked.loss,
                "settings": losses.spell(loss),
                "code": losses.source(asked.loss),
            },
            "data": training.record() | {"name": asked.data.name, "digest": asked.data.digest},
            "recipe": spell(asked.recipe),
            "seed": asked.seed,
            "keep": asked.keep,
            "compress": None if asked.compress is None else str(asked.compress),
            "memory": asked.memory,
            "precision": self.precision,
            "deterministic": asked.deterministic,
            "processes": self.processes.world,
            "device": self.device.type,
            "torch": torch.__version__,
            "revision": REVISION,
        }
        return decisive | {
            "digest": digest(canonical(decisive)),
            "robustkit": version("robustkit"),
        }

    def _on_file(self, account: dict[str, Any]) -> dict[str, Any] | None:
        """The record in `out`, if it answers this very question.

        Raises:
            InputError: it holds something else.
        """
        if self.options.fresh or not self.out.exists():
            return None
        advice = "give another --out, or --fresh to replace it"
        try:
            record = checkpoint.read(self.out).extra.get("training")
        except RobustkitError as error:
            raise InputError(
                f"{self.out}: exists and is no checkpoint of ours; {advice}"
            ) from error
        if not isinstance(record, dict) or record.get("digest") != account["digest"]:
            raise InputError(f"{self.out}: exists and holds another training; {advice}")
        return record

    def _state(self, account: dict[str, Any]) -> dict[str, Any] | None:
        """The state that an interrupted run left.

        Raises:
            InputError: it was another run's.
        """
        path = _partial(self.out) / "state.pt"
        if self.options.fresh:
            path.unlink(missing_ok=True)
        if not path.exists():
            return None
        try:
            saved = torch.load(path, map_location=self.device, weights_only=True)
            same = saved["digest"] == account["digest"]
        except Exception as error:  # a damaged file may raise anything
            raise InputError(f"{path}: damaged; --fresh starts anew") from error
        if not same:
            raise InputError(
                f"{path}: an unfinished training, asked differently or with other versions; "
                "give another --out, or --fresh to start anew"
            )
        state: dict[str, Any] = saved["state"]
        return state

    def engine(self, loss: Loss, training: Training) -> Engine:
        """The loop, before its first update."""
        asked = self.question
        examples = gather(asked.data, training.train, self.device)
        smallest = len(examples) % asked.recipe.batch_size or asked.recipe.batch_size
        if min(smallest, len(examples)) < self.processes.world:
            raise InputError(
                f"the smallest batch has {min(smallest, len(examples))} of {len(examples)} images "
                f"for {self.processes.world} processes; change --batch-size or --hold-out"
            )
        held = training.held_out
        network = self._network(examples)
        loss = loss.prepare(network, examples.take(torch.arange(min(PROBE, len(examples)))).images)
        model = wrapped(network, self.processes, self.device)
        compressor = None
        if asked.compress is not None and isinstance(model, DistributedDataParallel):
            compressor = compression.attach(
                model, asked.compress, seed=asked.seed, memory=asked.memory
            )
        return Engine(
            network,
            model,
            loss,
            asked.recipe,
            examples,
            None if held is None else gather(asked.data, held, self.device),
            asked.seed,
            self.processes,
            compressor,
            self.precision,
            asked.keep == "best",
        )

    def _network(self, examples: Examples) -> nn.Module:
        """The architecture with its first weights, which fit images and classes.

        Raises:
            InputError: they don't.
        """
        asked, classes = self.question, len(self.question.data.classes)
        seed = examples.key("weights", asked.seed)
        network = models.build(asked.model, num_classes=classes, seed=seed).to(self.device)
        if self.device.type == "cuda":
            network = network.to(memory_format=torch.channels_last)
        shape = "×".join(map(str, asked.data.shape))
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                logits = network.eval()(examples.take(torch.arange(1)).images)
        except (RuntimeError, ValueError, IndexError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{asked.model} does not take images of {shape}: {reason}; "
                "choose another --model, or --resize, --crop or --channels"
            ) from error
        if logits.shape != (1, classes):
            raise InputError(
                f"{asked.model} gives {'×'.join(map(str, logits.shape))} for one image; "
                f"{asked.data.name} has {classes} classes, so 1×{classes} is needed"
            )
        return network

    # --- the training -----------------------------------------------------------------------------

    def _fit(self, engine: Engine, account: dict[str, Any]) -> None:
        def save() -> None:
            state = engine.state()
            if state is not None:
                buffer = io.BytesIO()
                torch.save({"digest": account["digest"], "state": state}, buffer)
                write_atomic(_partial(self.out) / "state.pt", buffer.getvalue())

        with logged(self.options.log if self.processes.first else None) as log:
            progress = self.options.progress if self.processes.first else Progress()

            def epoch(line: dict[str, Any]) -> None:
                progress.epoch(line)
                log(line)

            devices = [self.device] if self.device.type == "cuda" else []
            try:
                with torch.random.fork_rng(devices=devices):
                    engine.run(save, self.options.seconds, Progress(progress.step, epoch))
            except TrainingFailed as error:
                kept = _partial(self.out) / "state.pt"
                text = f"; the last good state is kept in {kept}" if kept.exists() else ""
                raise TrainingFailed(f"{self.out}: {error}{text}") from error

    def _finish(self, engine: Engine, account: dict[str, Any]) -> Trained:
        """Write the checkpoint and clear away the state."""
        asked, data = self.question, account["data"]
        record = account | {
            "history": engine.history,
            "epoch_kept": engine.epoch_kept,
            "threads": torch.get_num_threads(),
            "gradients": engine.loss.backward_mode(unwrapped(engine.model)),
        }
        if engine.compressor is not None:
            record["communication"] = engine.compressor.record()
        if self.processes.first:
            if engine.best is not None:
                engine.network.load_state_dict(engine.best)
            kept = next(line for line in engine.history if line["epoch"] == engine.epoch_kept)
            checkpoint.save(
                self.out,
                engine.network,
                model=asked.model,
                num_classes=len(asked.data.classes),
                input_shape=asked.data.shape,
                loss=asked.loss,
                label_noise=data["train"]["noise"]["realised"],
                data_fraction=float(asked.fraction),
                seed=asked.seed,
                trained_on=asked.data.name,
                **asked.data.transform,
                recorded_accuracy=kept.get("held_out_clean"),
                training=record,
            )
            (_partial(self.out) / "state.pt").unlink(missing_ok=True)
        return Trained(self.out, json.loads(canonical(record)), self.processes.first)


def bench(question: Question, device: str = "auto") -> Callable[[int], None]:
    """A function that takes so many updates of a training, to be timed; nothing is written."""
    found = find_device(device)
    processes = join(found, alone=question.compress is not None)
    run = _Run(question, Path(), Options(), found, processes)
    with numerics(run.precision, question.deterministic):
        engine = run.engine(losses.build(question.loss, question.settings), run.prepared())

    def updates(count: int) -> None:
        devices = [run.device] if run.device.type == "cuda" else []
        with numerics(run.precision, question.deterministic), torch.random.fork_rng(devices):
            for _ in range(count):
                engine.update()
            if devices:
                torch.cuda.synchronize(run.device)

    return updates


@contextmanager
def numerics(precision: str, deterministic: bool) -> Iterator[None]:
    """Set how exactly, and how repeatably, a GPU multiplies; as it was afterwards.

    Raises:
        InputError: an operation knows no deterministic way, and one is asked for.
    """
    before = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )
    loose = precision != "float32"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_float32_matmul_precision("high" if loose else "highest")
    torch.backends.cudnn.allow_tf32 = loose
    torch.use_deterministic_algorithms(deterministic)
    try:
        yield
    except RuntimeError as error:
        if not deterministic or "deterministic implementation" not in str(error):
            raise
        reason = first_line(error).partition(",")[0]
        raise InputError(f"--deterministic: {reason}; train without it, or change that") from error
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        torch.use_deterministic_algorithms(before[2])


@contextmanager
def logged(folder: Path | None) -> Iterator[Any]:
    """A function that writes an epoch's numbers for TensorBoard; one that does nothing without.

    Raises:
        InputError: TensorBoard is not installed, or the folder cannot be written.
    """
    if folder is None:
        yield lambda line: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "--log needs TensorBoard; install it with: pip install 'robustkit[tensorboard]'"
        ) from error
    try:
        made = SummaryWriter(folder)
    except OSError as error:
        raise InputError(
            f"--log {folder}: cannot be written: {error.strerror or error}; give another folder"
        ) from error
    with made as writer:

        def write(line: dict[str, Any]) -> None:
            for name, value in line.items():
                if value is not None and name != "epoch":
                    writer.add_scalar(name, value, line["epoch"])

        yield write
