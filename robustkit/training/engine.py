"""The loop: update after update, with what an epoch has shown, and a state that resumes it.

Every draw comes from a generator that is seeded by what it is for, the data, the seed, and where
the run stands, never by the loss: runs to be compared share their batches and, where shapes match,
their first weights. A run is therefore resumed from its weights, the optimiser's memory and a step.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, isnan
from typing import Any

import torch
from torch import Tensor, nn

from robustkit.compression import Compressor
from robustkit.errors import InputError, NetworkFailed, TrainingFailed
from robustkit.losses.loss import Loss, Step
from robustkit.network import asked
from robustkit.seeding import seed_all
from robustkit.training.examples import Batch, Examples, augmented
from robustkit.training.held_out import accuracy, scores
from robustkit.training.numerics import channels_last, lowered
from robustkit.training.processes import ProcessGroup
from robustkit.training.progress import Callbacks, Progress
from robustkit.training.recipe import Recipe, period, rate

COURSE = 20
"""lines of history where epochs are too long for so many"""
SPAN = 10
"""updates at least that such a line is of: fewer show how batches differ"""
WATCHING = 0.03
"""share of the training's time, at most, that looks at held-out images within an epoch add"""
PASSES = 3
"""times that an update passes its images through the network: once forward, twice's work back"""
TOGETHER = 25
"""updates between two looks where several processes have to agree on what they see"""
ADVICE = "try a smaller --learning-rate, or --clip 1"


@dataclass(slots=True, eq=False, kw_only=True)
class Engine:
    """One training run."""

    network: nn.Module
    """the bare one, whose weights are kept"""
    model: nn.Module
    """the same, or wrapped for several processes"""
    loss: Loss
    recipe: Recipe
    examples: Examples
    held_out: Examples | None
    seed: int
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    compressor: Compressor | None = None
    precision: str = "float32"
    keep_best: bool = False
    """keep the weights of the epoch with the best held-out accuracy, not the last"""
    scored: bool = False
    """see `TrainingOptions`"""
    pause: int | None = None
    """updates after which a run ends before its end, to be resumed"""
    epoch_kept: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    optimizer: torch.optim.Optimizer = field(init=False)
    device: torch.device = field(init=False)
    _sums: Tensor = field(init=False)
    """since the last line: loss × images, answers right by the given and by the clean labels,
    wrong labels that were learnt, wrong labels, images; NaN where a loss tells no answers"""
    _batches: tuple[Tensor, ...] = ()
    _answered: tuple[int, dict[str, float]] = (-1, {})
    """after which update held-out images were last asked about, and what they said"""

    def __post_init__(self) -> None:
        self.device = self.examples.given.device
        self.optimizer = optimizer(self.recipe, self.network)
        self._sums = torch.zeros(6, dtype=torch.float64, device=self.device)

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch."""
        return max(1, -(-len(self.examples) // self.recipe.batch_size))

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.recipe.steps or self.recipe.epochs * self.steps_per_epoch

    @property
    def _period(self) -> int:
        """Updates to a saved state and a line that counts: an epoch's, or several short ones'."""
        if self.recipe.steps is None or self.scored:
            return self.steps_per_epoch
        return period(self.steps, self.steps_per_epoch)

    @property
    def _span(self) -> int:
        """Updates between two lines of history: a period, or an even part of a long one."""
        if self.recipe.steps is None:
            return self._period
        return _part(self._period, max(SPAN, self.steps // COURSE))

    @property
    def _apart(self) -> int:
        """Updates between two looks at the held-out images within a period.

        So many that looks cost at most `WATCHING`: each passes every image through the network.
        """
        worked = WATCHING * PASSES * self.recipe.batch_size / self.processes.world
        held_out = 0 if self.held_out is None else len(self.held_out)
        return self._span * max(1, ceil(held_out / (worked * self._span)))

    @property
    def _look(self) -> int:
        """Updates between two looks at the numbers, each of which makes a GPU wait."""
        return 1 if self.device.type == "cpu" else 25

    def run(
        self,
        save: Callable[[], None],
        seconds: float,
        callbacks: Callbacks,
        passed: Callable[[int], None] = lambda number: None,
    ) -> None:
        """Train to the end, or a pause; `save` is called at epochs' ends and every so many seconds.

        Before, `passed` is called after every whole pass over the data, with its number: whatever
        is resumed has its earlier passes behind it. Where the number of updates is given, lines of
        history stand within long epochs, too.

        Raises:
            TrainingFailed: the loss or a weight became NaN or infinite; that is never saved.
        """
        due = time.monotonic() + seconds
        while self.step < (self.pause or self.steps):
            self.update()
            if self._write_line():
                callbacks.line(self.history[-1])
            if self.step % self.steps_per_epoch == 0:
                passed(self.step // self.steps_per_epoch)
            if self._closes(self.step):
                callbacks.epoch(self.history[-1])
                save()
            elif time.monotonic() > due and self.processes.world == 1:
                self._check(self.step - 1)
                self._check_weights()
                save()
                due = time.monotonic() + seconds
            if callbacks.step is not None and self.step % self._look == 0:
                callbacks.step(self._progress())

    def update(self) -> None:
        """One step of the optimiser."""
        epoch, index = divmod(self.step, self.steps_per_epoch)
        # the epoch's order is drawn anew after a resumption: nothing of it is part of the state
        if index == 0 or not self._batches:
            self._batches = self.examples.batches(self.recipe.batch_size, self.seed, epoch)
            self.model.train()
        rows = self.processes.share(self._batches[index])
        batch = self.examples.take(rows.to(self.device))
        images = self._formatted(self._augmented(batch.images))
        eta = rate(self.recipe, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = eta
        if self.compressor is not None:
            self.compressor.learning_rate(eta)
        self.optimizer.zero_grad(set_to_none=True)
        # dropout draws from torch's global generator, a user's loss perhaps from numpy's: seeded at
        # every step, they depend neither on what drew before nor on where the run was resumed
        seed_all(self._key("network", self.processes.rank, self.step), self.device)
        generator = torch.Generator(self.device)
        generator.manual_seed(self._key("loss", self.processes.rank, self.step))
        with self._told(), lowered(self.precision, self.device):
            # a copy: a loss that writes into its labels must not falsify what is counted
            given, step = batch.given.clone(), Step(self.step, generator, self.steps)
            result = self.loss.backward(self.model, images, given, step)
        self._count(batch, result.loss, result.logits)
        if self.step == 0:
            self._check_start()
        if self.step % (self._look if self.processes.world == 1 else TOGETHER) == 0:
            self._check(self.step)
        clip(self.recipe, self.network)
        self.optimizer.step()
        self.step += 1

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever network and loss raise, as a training that failed; memory may be the batch's."""
        try:
            with asked("in training"):
                yield
        except (InputError, NetworkFailed) as error:
            raise TrainingFailed(f"{error}, {self._place(self.step)}") from error
        except torch.OutOfMemoryError as error:
            place = self._place(self.step)
            raise TrainingFailed(f"out of memory {place}; try a smaller --batch-size") from error

    def _augmented(self, images: Tensor) -> Tensor:
        if not self.recipe.augment:
            return images
        generator = self._generator("augment", self.processes.rank, self.step)
        return augmented(images, self.recipe.augment, generator)

    def _formatted(self, images: Tensor) -> Tensor:
        if channels_last(self.precision, self.device):
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def _key(self, purpose: str, *place: int) -> int:
        """A seed for one purpose at one place."""
        return self.examples.key(purpose, self.seed, *place)

    def _generator(self, purpose: str, *place: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._key(purpose, *place))

    # --- what an epoch has shown ------------------------------------------------------------------

    def _count(self, batch: Batch, loss: Tensor, logits: Tensor | None) -> None:
        n = len(batch.given)
        self._sums[0] += loss * n
        self._sums[5] += n
        if logits is None:
            self._sums[1:5] += torch.nan
            return
        predicted = logits.argmax(1)
        given, wrong = predicted == batch.given, batch.given != batch.clean
        # added up on the device, looked at seldom: every look at a number makes a GPU wait
        counts = torch.stack(
            [given.sum(), (predicted == batch.clean).sum(), (given & wrong).sum(), wrong.sum()]
        )
        self._sums[1:5] += counts

    def _check(self, step: int) -> None:
        """Raise if the loss became NaN or infinite: nothing after that may be saved."""
        if not self.processes.agree(torch.isfinite(self._sums[0])):
            raise TrainingFailed(f"the loss became NaN or infinite {self._place(step)}; {ADVICE}")

    def standing(self) -> dict[str, float]:
        """What held-out images say of the weights as they are; empty if there are none.

        Raises:
            TrainingFailed: a weight became NaN or infinite.
        """
        self._check_weights()
        return self._answers()

    def _answers(self) -> dict[str, float]:
        if self.held_out is None:
            return {}
        if self._answered[0] != self.step:
            with self._told():
                if self.scored:
                    found = scores(self.network, self.held_out, self.seed)
                else:
                    found = accuracy(self.network, self.held_out)
            self._answered = self.step, found
        return self._answered[1]

    def _check_weights(self) -> None:
        """Raise if what is to be saved is no longer finite, though the loss before it was."""
        tensors = [*self.network.state_dict().values(), *memories(self.optimizer)]
        # one look at a GPU, however many tensors
        finite = torch.stack([torch.isfinite(t).all().to(self.device) for t in tensors]).all()
        if not self.processes.agree(finite):
            place = self._place(self.step - 1)
            raise TrainingFailed(f"the weights became NaN or infinite {place}; {ADVICE}")

    def _check_start(self) -> None:
        """Raise if there was never a number: no smaller step would help.

        Once in a run; later a broken gradient shows in the weights.
        """
        gradients = [w.grad for w in self.network.parameters() if w.grad is not None]
        flags = [torch.isfinite(value).all() for value in (self._sums[0], *gradients)]
        for what, finite in (("loss", flags[0]), ("gradient", torch.stack(flags).all())):
            if not self.processes.agree(finite):
                raise TrainingFailed(
                    f"the {what} is not a finite number on the very first batch, before any "
                    "update; check the loss, its settings and the network"
                )

    def _place(self, step: int) -> str:
        """Where an update stands, for a message."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return f"in epoch {epoch + 1}, by batch {index + 1} of {self.steps_per_epoch}"

    def _progress(self) -> Progress:
        seen = summarised(self._sums.tolist()) if self._sums[5] else self.history[-1]
        epoch = min(self._epoch + 1, self._epochs)
        return Progress(self.step, self.steps, epoch, self._epochs, seen)

    def _closes(self, step: int) -> bool:
        """Whether a period, or the training, ends with this update."""
        return step % self._period == 0 or step == self.steps

    def _write_line(self) -> bool:
        """Write into the history where that is due, and the weights aside if they are the best."""
        within, closes = self.step % self._period, self._closes(self.step)
        if not closes and within % self._span:
            return False
        line: dict[str, Any] = {"epoch": self._epoch, "step": self.step} | self._seen()
        if closes:
            self._check_weights()
        if closes or (within % self._apart == 0 and not self.scored):
            line |= self._answers()
        if closes:
            self._keep(line)
        self.history.append(line)
        return True

    def _seen(self) -> dict[str, Any]:
        """What the updates since the last line have shown, in all processes."""
        sums = self.processes.total(self._sums.clone())
        self._sums.zero_()
        if not torch.isfinite(sums[0]):
            epoch = (self.step - 1) // self.steps_per_epoch + 1
            raise TrainingFailed(f"the loss became NaN or infinite in epoch {epoch}; {ADVICE}")
        return summarised(sums.tolist())

    def _keep(self, line: Mapping[str, Any]) -> None:
        """Decide whether the weights at a period's end are the ones to keep."""
        past = (p.get("held_out", 0.0) for p in self.history if self._closes(p["step"]))
        if not self.keep_best:
            self.epoch_kept = self._epoch
        elif line["held_out"] > max(past, default=-1.0):
            self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
            self.epoch_kept = self._epoch

    @property
    def _epoch(self) -> int:
        """Epochs finished; one that the last update cut short counts."""
        return self._epochs if self.step == self.steps else self.step // self.steps_per_epoch

    @property
    def _epochs(self) -> int:
        return -(-self.steps // self.steps_per_epoch)

    # --- the state --------------------------------------------------------------------------------

    def state(self) -> dict[str, Any] | None:
        """Everything that a resumed run needs, in the first process; None in the others."""
        own = self.compressor.state_dict() if self.compressor else None
        compressors = self.processes.collect(own)
        sums = self.processes.collect(self._sums.cpu())
        if compressors is None or sums is None:
            return None
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": self.history,
            "best": self.best,
            "epoch_kept": self.epoch_kept,
            "sums": sums,
            "compressors": compressors,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.history = state["step"], state["history"]
        self.best, self.epoch_kept = state["best"], state["epoch_kept"]
        self._sums = state["sums"][self.processes.rank].to(self.device)
        if self.compressor is not None:
            self.compressor.load_state_dict(state["compressors"][self.processes.rank])


def _part(period: int, wanted: int) -> int:
    """The length of even parts of a period, of at most `wanted` updates each."""
    return ceil(period / ceil(period / wanted))


def summarised(sums: list[float]) -> dict[str, Any]:
    """Sums as means, None where not known; `memorised` is of the wrong labels, None without any."""
    loss, given, clean, learnt, wrong, images = sums
    known = not isnan(given)
    return {
        "loss": loss / images,
        "accuracy_given": given / images if known else None,
        "accuracy_clean": clean / images if known else None,
        "memorised": learnt / wrong if known and wrong else None,
    }


def clip(recipe: Recipe, network: nn.Module) -> None:
    """Bound the norm of the whole gradient, where that is asked, with or without weight decay."""
    if recipe.clip is None:
        return
    for weight in network.parameters() if recipe.clip_decay else ():
        if weight.grad is not None:
            weight.grad.add_(weight.detach(), alpha=recipe.weight_decay)
    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)


def optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser over the weights that are trained."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    eta = recipe.learning_rate
    decay = 0.0 if recipe.clip_decay else recipe.weight_decay
    of_adam: Any = {"eps": recipe.stabiliser, "weight_decay": decay, "fused": True}
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(
                weights,
                eta,
                momentum=recipe.momentum,
                weight_decay=decay,
                nesterov=recipe.nesterov,
                fused=True,
            )
        case "rmsprop":
            made = torch.optim.RMSprop(
                weights,
                eta,
                alpha=recipe.smoothing,
                eps=recipe.stabiliser,
                weight_decay=decay,
                momentum=recipe.momentum,
            )
            for weight in weights if recipe.start else ():
                made.state[weight] = {
                    "step": torch.zeros(()),
                    "square_avg": torch.full_like(weight, recipe.start),
                    "momentum_buffer": torch.zeros_like(weight),
                }
            return made
        case "adam":
            return torch.optim.Adam(weights, eta, **of_adam)
        case "adamw":
            return torch.optim.AdamW(weights, eta, **of_adam)


def memories(made: torch.optim.Optimizer) -> list[Tensor]:
    """Everything that an optimiser remembers of the gradients."""
    kept = (value for state in made.state.values() for value in state.values())
    return [value for value in kept if isinstance(value, Tensor)]
