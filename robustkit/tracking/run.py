"""`--track WHAT[:WHERE]`, and a run of a tracker that cannot stop anything."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from robustkit.errors import InputError, UnknownName, first_line
from robustkit.tracking.backends import BACKENDS, Backend
from robustkit.tracking.content import Content, line_metrics

PROJECT = "robustkit"
"""the experiment of MLflow's and the project of W&B's that runs go to, where none is named"""


@dataclass(frozen=True, slots=True)
class Tracker:
    """Which tracker, and where it keeps its runs."""

    name: str
    where: str = ""
    """folder, address or project; "" for the tracker's own default"""

    @contextmanager
    def run(self, title: str, tell: Callable[[str], None]) -> Iterator["TrackingRun"]:
        """A run of that title, closed in the end; what goes wrong is told in a line and no more."""
        run = TrackingRun(str(self), tell)
        run.attempt(lambda: run.begin(BACKENDS[self.name].begin(self.where, PROJECT, title)))
        try:
            yield run
        except BaseException:
            run.close(failed=True)
            raise
        run.close(failed=False)

    def __str__(self) -> str:
        """As on a command line."""
        return f"{self.name}:{self.where}" if self.where else self.name


def parse_tracker(text: str) -> Tracker:
    """What --track says.

    Raises:
        InputError: no such tracker, or one that is not installed.
    """
    name, _, where = text.partition(":")
    if name not in BACKENDS:
        raise UnknownName("tracker", name, BACKENDS)
    if find_spec(BACKENDS[name].package) is None:
        raise InputError(
            f"--track {name} needs {BACKENDS[name].title}; install it with: "
            f"pip install 'robustkit[{name}]'"
        )
    return Tracker(name, where)


@dataclass(slots=True)
class TrackingRun:
    """One run; after a failure it takes everything in silence."""

    what: str
    """as on the command line"""
    tell: Callable[[str], None]
    """of a failure, in a line"""
    backend: Backend | None = None
    failed: bool = False
    updates: set[int] = field(default_factory=set)
    """whose lines of history it has been told"""

    def begin(self, backend: Backend) -> None:
        """Speak to this backend from now on."""
        self.backend = backend

    def attempt(self, step: Callable[[], object]) -> None:
        """Carry a step out, if nothing has failed yet."""
        if self.failed:
            return
        try:
            # stdout is for what a command prints, which others may read
            with warnings.catch_warnings(), redirect_stdout(sys.stderr):
                warnings.simplefilter("ignore")
                step()
        except (Exception, SystemExit) as error:
            self.failed = True
            self.tell(
                f"--track {self.what}: {first_line(error)}; nothing more is tracked of this run, "
                "the results on disk are whole"
            )

    def parameters(self, values: Mapping[str, Any]) -> None:
        """What was asked for."""
        self._do(lambda backend: backend.parameters({k: str(v) for k, v in values.items()}))

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of a training's history, once, by its update: several may stand in one epoch."""
        number = int(line["step"])
        if number not in self.updates:
            self.updates.add(number)
            self._do(lambda backend: backend.metrics(line_metrics(line), number))

    def content(self, found: Content) -> None:
        """All that a result has to tell."""
        self.parameters(found.parameters)
        known = {k: float(v) for k, v in found.metrics.items() if v is not None and isfinite(v)}
        self._do(lambda backend: backend.metrics(known, None))
        if found.figure is not None:
            self._do(lambda backend: backend.figure(found.figure_name, found.figure()))  # type: ignore[misc]
        for path in found.files:
            self.file(path)

    def file(self, path: Path) -> None:
        """A file of the result's, as an artefact."""
        self._do(lambda backend: backend.artefact(path.resolve()))

    def close(self, *, failed: bool) -> None:
        """End the run, even after a failure."""
        if self.backend is not None:
            broken, self.failed = self.failed, False
            self._do(lambda backend: backend.close(failed or broken))
            self.backend = None

    def _do(self, step: Callable[[Backend], object]) -> None:
        if (backend := self.backend) is not None:
            self.attempt(lambda: step(backend))
