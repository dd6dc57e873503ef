"""How far an evaluation, an audit or a training has come."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from robustkit.display.meter import Meter, meter, notebook
from robustkit.display.stream import console, styled, tell
from robustkit.evaluation.options import Progress, RunOptions
from robustkit.parsing import in_percent
from robustkit.training.progress import Callbacks
from robustkit.training.progress import Progress as TrainingProgress

EVERY = 60.0
"""seconds between two lines where nobody sees a bar"""


class _Metered:
    """A bar that is there within a `with`; where none is seen, a line a minute."""

    def __init__(self, unit: str | None) -> None:
        self.meter: Meter = meter(unit)
        self.told = time.monotonic()

    def __enter__(self) -> Self:
        self.meter.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.meter.stop()

    def _say(self, name: str, share: float, *more: str) -> None:
        now = time.monotonic()
        if self.meter.live or now - self.told < EVERY or share >= 1:
            return
        self.told = now
        words = [in_percent(share, 0), self.meter.pace.to_go, *more]
        tell(f"robustkit: {name}: {', '.join(filter(None, words))}")


class Bar(_Metered):
    """Progress of one evaluation, with the time to go."""

    def __init__(self, path: str, which: str = "") -> None:
        """`which` of several it is: "2 of 9"."""
        super().__init__(None)
        self.path = path
        self.name = f"{path} ({which})" if which else path

    def attach(self, options: RunOptions) -> RunOptions:
        """Options that report here."""
        self.meter.begin(self.name, None, visible=False)

        def progress(done: float, total: int) -> None:
            self.meter.update(done, total)
            self._say(self.name, done / total)

        def stage(words: str) -> None:
            self.meter.begin(f"{self.name}: {words}", None)

        def began(share: float) -> None:
            # anew, since the time to go is told by the time that images take
            self.meter.begin(self.name, None, done=share, visible=False)

        def waiting() -> None:
            self.meter.tell(f"robustkit: another process is at work on {self.path}; waiting")

        def told(text: str) -> None:
            self.meter.tell(f"robustkit: {text}")

        return replace(
            options, progress=progress, stage=stage, began=began, waiting=waiting, told=told
        )


class AuditBar(_Metered):
    """The part of an audit that runs now, with the time it still takes."""

    def __init__(self) -> None:
        super().__init__("images")

    def warn(self, texts: Iterable[str]) -> None:
        """Lines that stay, of what the report will say days later."""
        for text in texts:
            self.meter.tell(f"robustkit: {text}")

    def begin(self, part: str, images: int) -> Callable[[float], None]:
        """A new part; what is returned is told the images done."""
        self.meter.begin(part, images)
        if not self.meter.live:
            console(err=True).print(styled(f"{part}: {images:,} images", "dim"))

        def update(done: float) -> None:
            self.meter.update(done, images)
            self._say(part, done / max(1, images))

        return update


class TrainingBar(_Metered):
    """Progress of a training: updates, the time to go, the accuracies of the epoch so far."""

    def __init__(self, name: str) -> None:
        super().__init__("updates")
        self.name, self.begun = name, False
        self.meter.begin(name, None)

    @property
    def callbacks(self) -> Callbacks:
        """What the training calls."""
        return Callbacks(self._step, self._epoch) if self.meter.live else Callbacks(self._step)

    def _step(self, at: TrainingProgress) -> None:
        text = f"epoch {at.epoch}/{at.epochs}, loss {at.seen['loss']:.4g}"
        if (right := at.seen["accuracy_given"]) is not None:
            text += f", accuracy {in_percent(right)}"
        share = at.step / at.steps
        if not self.begun:  # one that goes on has had its first updates before
            self.meter.begin(text, at.steps, done=share)
            self.begun = True
        self.meter.update(at.step, at.steps, text)
        self._say(self.name, share, text)

    def _epoch(self, line: dict[str, Any]) -> None:
        self.meter.tell(f"epoch {line['epoch']}: {epoch_text(line)}")


def epoch_text(line: dict[str, Any]) -> str:
    """A line of a training's history in words."""
    parts = [f"loss {line['loss']:.4g}"]
    if line["accuracy_given"] is not None:
        parts.append(f"accuracy {in_percent(line['accuracy_given'])}")
    if line["memorised"] is not None:
        parts[1] += " on given labels"
        parts.append(f"{in_percent(line['accuracy_clean'])} on clean ones")
        parts.append(f"{in_percent(line['memorised'])} of noisy labels memorised")
    if "held_out" in line:
        parts.append(f"held out {in_percent(line['held_out'])}")
        if line["memorised"] is not None:
            parts[-1] += f" ({in_percent(line['held_out_clean'])} on clean labels)"
    return ", ".join(parts)


# --- for calls from Python ------------------------------------------------------------------------

Watch = Progress | Bar | bool | None
"""who watches: a function of images done and images in all, a bar that was made before, True for a
bar or a line a minute, False for nothing; None for a bar, where it is seen"""


@contextmanager
def watched(options: RunOptions, watch: Watch, name: str) -> Iterator[RunOptions]:
    """Options that report to whoever watches."""
    if watch is None or isinstance(watch, bool):
        watch = Bar(name) if seen(watch) else None
    if isinstance(watch, Bar):
        with watch:
            yield watch.attach(options)
        return
    yield options if watch is None else replace(options, progress=watch)


def seen(asked: bool | None = None) -> bool:
    """Whether to show a bar: as is asked, else on a terminal and in a notebook."""
    if asked is not None:
        return asked
    return notebook() is not None or console(err=True).is_terminal
