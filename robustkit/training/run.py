"""From a configuration to a trained checkpoint: resumed where it was cut, read if it is done."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from robustkit import compression, losses, models
from robustkit.checkpoint import save_checkpoint
from robustkit.data.classnames import are_places
from robustkit.data.shelf import resolved_path
from robustkit.data.subset import TrainingData, held_out_doubles, prepare_training_data
from robustkit.device import device as find_device
from robustkit.errors import InputError, TrainingFailed
from robustkit.files import canonical
from robustkit.keys import TrainingKey
from robustkit.losses.loss import Loss, unwrapped
from robustkit.seeding import generators_kept
from robustkit.training.building import first_network, fitted
from robustkit.training.config import REVISION, TrainingConfig, TrainingOptions
from robustkit.training.engine import Engine
from robustkit.training.examples import gather
from robustkit.training.numerics import multiplications, numerics
from robustkit.training.processes import ProcessGroup, join, leave, own_device, together, wrapped
from robustkit.training.progress import Callbacks
from robustkit.training.recipe import checked, snapshot_steps, spell, updates
from robustkit.training.result import TrainingResult
from robustkit.training.saved import claimed, read_state, state_path, write_state
from robustkit.training.snapshots import check_scored, recorded, snapshot_path


def train(
    config: TrainingConfig, out: str | Path, options: TrainingOptions | None = None
) -> TrainingResult:
    """Train, write a self-describing checkpoint, and say what it holds.

    With the same configuration and `out` the file is the answer; after an interruption the run
    goes on from its last saved state, to the same weights.

    Raises:
        InputError: the configuration makes no sense, or `out` holds another training.
        TrainingFailed: the loss or a weight became NaN or infinite, or another process has ended;
            the last good state is kept.
        EvaluationFailed: the disk is full or cannot be written.
    """
    options = options or TrainingOptions()
    checked(config.recipe)
    if Path(out).is_dir():
        raise InputError(f"--out {out}: is a folder; give a file name")
    device = own_device(find_device(options.device))
    processes = join(device, alone=config.compress is not None)
    try:
        with together(processes), claimed(Path(out), options.fresh, processes):
            return _Training(config, Path(out), options, device, processes).result()
    finally:
        leave()


@dataclass(frozen=True, slots=True)
class _Training:
    config: TrainingConfig
    out: Path
    options: TrainingOptions
    device: torch.device
    processes: ProcessGroup

    def result(self) -> TrainingResult:
        config = self.config
        loss = losses.build(config.loss, config.settings)
        training = self.prepared()
        if config.keep == "best" and training.held_out is None:
            raise InputError("--keep best needs held-out images; give --hold-out")
        if self.options.scored and (training.held_out is None or len(training.held_out) < 2):
            raise InputError("a held-out likelihood needs two held-out images; give --hold-out")
        account = self._account(loss, training)
        warning = partial(self._warning, loss, training)
        ends = snapshot_steps(self.options.snapshots, config.recipe, len(training.train))
        first = self.processes.first
        finished, state = partial(self._finished, account), partial(self._state, account, ends)
        record = self.processes.tell(self._usable(finished) if first else None)
        if record is None:
            saved = self.processes.tell(self._usable(state) if first else None)
            with numerics(self.precision, config.deterministic):
                engine = self.engine(loss, training)
                if saved is not None:
                    engine.resume(saved)
                self._fit(engine, account)
            if engine.step < engine.steps:
                record = self._record(engine, account, engine.epoch_kept)
                ends = {n: at for n, at in ends.items() if at <= engine.step}
                kept = tuple(snapshot_path(self.out, n) for n in ends)
                told = warning(record)
                return TrainingResult(self.out, record, first, told, kept, paused=True)
            record = self._finish(engine, account)
        kept = tuple(snapshot_path(self.out, n) for n in ends)
        return TrainingResult(self.out, record, first, warning(record), kept)

    def prepared(self) -> TrainingData:
        """Who is trained on, and who is held out."""
        config = self.config
        return prepare_training_data(
            config.data,
            hold_out=config.recipe.hold_out,
            fraction=config.fraction,
            noise=config.noise,
            seed=config.seed,
            clean_selection=config.clean_selection,
        )

    def _warning(self, loss: Loss, training: TrainingData, record: dict[str, Any]) -> str:
        """What a user should know of the training; empty if nothing."""
        length = updates(self.config.recipe, len(training.train))
        told = [loss.warning(length), self._doubles(training)]
        if any(line["accuracy_given"] is None for line in record["history"]):
            told.append(
                f"the accuracy on training images is not known: {self.config.loss} does not pass "
                "the batch itself through the network, as model(images)"
            )
        return "; ".join(filter(None, told))

    def _doubles(self, training: TrainingData) -> str:
        """What is wrong with held-out images that are trained on, too; "" where hardly any are."""
        held = 0 if training.held_out is None else len(training.held_out)
        doubles = held_out_doubles(self.config.data, training)
        if 100 * doubles <= held:
            return ""
        return (
            f"{doubles:,} of {held:,} held-out images have the pixels of one that is trained on: "
            f"held-out accuracy is too high; remove copies from {self.config.data.name}"
        )

    # --- what is known beforehand -----------------------------------------------------------------

    @property
    def precision(self) -> str:
        return multiplications(self.config.precision, self.device)

    def _account(self, loss: Loss, training: TrainingData) -> dict[str, Any]:
        """The configuration in full, as JSON, with a digest of all that can change the weights."""
        config = self.config
        key = TrainingKey(
            model={"name": config.model, "code": models.source(config.model)},
            loss={
                "name": config.loss,
                "settings": losses.spell(loss),
                "code": losses.source(config.loss),
            },
            data=training.record() | {"name": config.data.name, "digest": config.data.digest},
            recipe=spell(config.recipe),
            seed=config.seed,
            keep=config.keep,
            compress=None if config.compress is None else str(config.compress),
            memory=config.memory,
            precision=self.precision,
            deterministic=config.deterministic,
            processes=self.processes.world,
            device=self.device.type,
            torch=torch.__version__,
            revision=REVISION,
            rescale=config.rescale,
        )
        # which images of a data set they were is told, and no part of the digest: pixels are
        told = {"robustkit": version("robustkit"), "split": config.data.split}
        if (path := resolved_path(config.data.title, config.data.source)) is not None:
            told["path"] = path
        return key.plain() | {"digest": key.digest} | told

    def _usable(self, look: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        """What was left of an earlier training; None where it is to be replaced."""
        try:
            return look()
        except InputError:
            if not self.options.replace:
                raise
            return None

    def _finished(self, account: dict[str, Any]) -> dict[str, Any] | None:
        """The record of this very training, where it and its snapshots are on file.

        Raises:
            InputError: a file holds something else, or snapshots are missing.
        """
        missing, record = self._missing(account), self._on_file(self.out, account)
        if record is not None and missing:
            raise InputError(
                f"{self.out}: is trained, but its weights after pass {missing[0]} were not "
                "kept; --fresh trains it again and keeps them"
            )
        if record is not None and self.options.scored:
            check_scored(record, self.out)
        return record

    def _missing(self, account: dict[str, Any]) -> list[int]:
        """The passes after which the weights are yet to be kept."""
        return [
            number
            for number in self.options.snapshots
            if self._on_file(snapshot_path(self.out, number), account, number) is None
        ]

    def _on_file(
        self, path: Path, account: dict[str, Any], number: int | None = None
    ) -> dict[str, Any] | None:
        """The record in a file, if it is of this very training: its end, or after a pass.

        Raises:
            InputError: it holds something else.
        """
        if self.options.fresh or not path.exists():
            return None
        try:
            return recorded(path, account["digest"], number)
        except InputError:
            with suppress(InputError):
                if read_state(self.out, account["digest"]) is not None:
                    return None  # --fresh has begun to replace it, and was cut off
            raise

    def _state(self, account: dict[str, Any], ends: Mapping[int, int]) -> dict[str, Any] | None:
        """The state that an interrupted run left.

        Args:
            account: what is trained.
            ends: by pass after which weights are kept, its last update.

        Raises:
            InputError: it was another run's, or one that did not keep what is asked for.
        """
        path = state_path(self.out)
        if self.options.fresh:
            path.unlink(missing_ok=True)
        state = read_state(self.out, account["digest"])
        if state is None:
            return None
        if behind := [n for n in self._missing(account) if ends[n] <= state["step"]]:
            raise InputError(
                f"{path}: an unfinished training, whose weights after pass {behind[0]} were "
                "not kept; --fresh starts again and keeps them"
            )
        if self.options.scored:
            check_scored(state, path)
        return state

    def engine(self, loss: Loss, training: TrainingData) -> Engine:
        """The loop, before its first update."""
        config = self.config
        examples = gather(config.data, training.train, self.device)
        smallest = len(examples) // -(-len(examples) // config.recipe.batch_size)
        if smallest < self.processes.world:
            raise InputError(
                f"the smallest batch has {smallest} of {len(examples)} images for "
                f"{self.processes.world} processes; change --batch-size or --hold-out"
            )
        held = training.held_out
        network = first_network(config, examples, self.precision)
        rows = examples.batches(config.recipe.batch_size, config.seed, 0)[0]
        batch = examples.take(self.processes.share(rows).to(self.device))
        loss = fitted(loss, config, network, examples, batch, self.precision)
        model = wrapped(network, self.processes, self.device, alone=config.compress is not None)
        compressor = None
        if config.compress is not None and isinstance(model, DistributedDataParallel):
            compressor = compression.attach(
                model,
                config.compress,
                seed=config.seed,
                memory=config.memory,
                rescale=config.rescale is None,
            )
        return Engine(
            network=network,
            model=model,
            loss=loss,
            recipe=config.recipe,
            examples=examples,
            held_out=None if held is None else gather(config.data, held, self.device),
            seed=config.seed,
            processes=self.processes,
            compressor=compressor,
            precision=self.precision,
            keep_best=config.keep == "best",
            scored=self.options.scored,
            pause=self._pause(len(examples)),
        )

    def _pause(self, images: int) -> int | None:
        """The update after which to stop."""
        number = self.options.pause
        if number is None:
            return None
        return snapshot_steps([number], self.config.recipe, images, "a pause after pass")[number]

    # --- the training -----------------------------------------------------------------------------

    def _fit(self, engine: Engine, account: dict[str, Any]) -> None:
        def save() -> None:
            state = engine.state()
            if state is not None:
                write_state(self.out, account["digest"], state)

        def passed(number: int) -> None:
            if number in self.options.snapshots:
                self._keep(engine, account, number)

        callbacks = self.options.callbacks if self.processes.first else Callbacks()
        try:
            with generators_kept(self.device):
                for line in engine.history:
                    callbacks.line(line)
                engine.run(save, self.options.seconds, callbacks, passed)
            if engine.step < engine.steps:
                save()
        except TrainingFailed as error:
            kept = state_path(self.out)
            text = f"; the last good state is kept in {kept}" if kept.exists() else ""
            raise TrainingFailed(f"{self.out}: {error}{text}") from error

    def _finish(self, engine: Engine, account: dict[str, Any]) -> dict[str, Any]:
        """Write the checkpoint, clear away the state, and return the record."""
        record = self._record(engine, account, engine.epoch_kept)
        if self.processes.first:
            if engine.best is not None:
                engine.network.load_state_dict(engine.best)
            kept = next(line for line in engine.history if line["epoch"] == engine.epoch_kept)
            self._write(self.out, engine.network, record, kept.get("held_out_clean"))
            state_path(self.out).unlink(missing_ok=True)
        written: dict[str, Any] = json.loads(canonical(record))
        return written

    def _keep(self, engine: Engine, account: dict[str, Any], number: int) -> None:
        """Write the weights after a pass."""
        found = engine.standing()
        record = self._record(engine, account, number) | {"snapshot": {"pass": number, **found}}
        if self.processes.first:
            path = snapshot_path(self.out, number)
            self._write(path, engine.network, record, found.get("held_out_clean"))

    def _record(self, engine: Engine, account: dict[str, Any], epoch: int) -> dict[str, Any]:
        """All that is known of the weights after an epoch."""
        record = account | {
            "history": engine.history,
            "epoch_kept": epoch,
            "threads": torch.get_num_threads(),
            "gradients": engine.loss.backward_mode(unwrapped(engine.model)),
        }
        if engine.compressor is not None:
            record["communication"] = engine.compressor.record()
        return record

    def _write(
        self, path: Path, network: nn.Module, record: dict[str, Any], accuracy: float | None
    ) -> None:
        """Write weights that describe themselves."""
        config = self.config
        classes = config.data.classes
        # other images may have them in another order, numbers, too, unless they are their places
        names = {} if are_places(classes) else {"classes": classes}
        save_checkpoint(
            path,
            network,
            model=config.model,
            num_classes=len(classes),
            input_shape=config.data.shape,
            loss=config.loss,
            label_noise=record["data"]["train"]["noise"]["realised"],
            data_fraction=float(config.fraction),
            seed=config.seed,
            trained_on=config.data.name,
            **config.data.transform,
            recorded_accuracy=accuracy,
            training=record,
            **names,
        )


def bench(config: TrainingConfig, device: str = "auto") -> Callable[[int], None]:
    """A function that takes so many updates of a training, to be timed; nothing is written.

    Whoever has timed leaves the group that a compressed one has formed.
    """
    torch_device = find_device(device)
    processes = join(torch_device, alone=config.compress is not None)
    run = _Training(config, Path(), TrainingOptions(), torch_device, processes)
    with numerics(run.precision, config.deterministic):
        engine = run.engine(losses.build(config.loss, config.settings), run.prepared())

    def updates(count: int) -> None:
        with numerics(run.precision, config.deterministic), generators_kept(run.device):
            for _ in range(count):
                engine.update()
            if run.device.type == "cuda":
                torch.cuda.synchronize(run.device)

    return updates
