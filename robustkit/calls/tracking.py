"""`track`: results, once they are on disk, copied to a tracker."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustkit.display.stream import tell_warnings

if TYPE_CHECKING:
    from robustkit.analysis.outcome import Outcome
    from robustkit.auditing.outcome import Audit
    from robustkit.record import Evaluation
    from robustkit.record.certification import Certification
    from robustkit.statistics.estimate import Method
    from robustkit.tracking import Tracker, TrackingRun
    from robustkit.tracking.content import Content
    from robustkit.training import Callbacks, TrainingResult


def asked(text: str | None) -> "Tracker | None":
    """What --track says; None where it does not, or where another process of a group tells.

    Raises:
        InputError: no such tracker, or one that is not installed.
    """
    if text is None or os.environ.get("RANK", "0") != "0":
        return None
    from robustkit.tracking import parse_tracker

    return parse_tracker(text)


@contextmanager
def run(tracker: "Tracker | None", title: str, command: str) -> "Iterator[TrackingRun | None]":
    """A run of that title; None where nothing is tracked."""
    if tracker is None:
        yield None
        return
    with tracker.run(title, lambda text: tell_warnings([text])) as found:
        found.parameters({"command": command})
        yield found


def track_evaluation(
    tracker: "Tracker | None",
    name: str,
    found: "Evaluation",
    command: str,
    method: "Method" = "wilson",
) -> None:
    """A run for a record, with intervals of that kind."""

    def content() -> "Content":
        from robustkit.tracking.content import of_evaluation

        return of_evaluation(found, method)

    _track(tracker, f"{name} {found.header['protocol']['name']}", content, command)


def track_audit(tracker: "Tracker | None", found: "Audit", folder: Path) -> None:
    """A run for an audit, whose report lies in `folder`."""

    def content() -> "Content":
        from robustkit.tracking.content import of_audit

        return of_audit(found, folder)

    _track(tracker, f"{found.checkpoint.get('path')} audit", content, found.command)


def track_certification(
    tracker: "Tracker | None",
    name: str,
    found: "Certification",
    command: str,
    method: "Method" = "wilson",
) -> None:
    """A run for a certification, with intervals of that kind."""

    def content() -> "Content":
        from robustkit.tracking.content import of_certification

        return of_certification(found, method)

    _track(tracker, f"{name} certification", content, command)


def track_study(tracker: "Tracker | None", found: "Outcome", folder: Path, command: str) -> None:
    """A run for a study, whose report lies in `folder`."""

    def content() -> "Content":
        from robustkit.tracking.content import of_study

        return of_study(found, folder)

    _track(tracker, f"{found.name} study", content, command)


def _track(
    tracker: "Tracker | None", title: str, content: "Callable[[], Content]", command: str
) -> None:
    with run(tracker, title, command) as found:
        if found is not None:
            found.attempt(lambda: found.content(content()))


def also(callbacks: "Callbacks", run: "TrackingRun | None") -> "Callbacks":
    """What a training calls, with the run told of each line of its history, too."""
    if run is None:
        return callbacks

    def line(found: dict[str, Any]) -> None:
        callbacks.line(found)
        run.line(found)

    return callbacks._replace(line=line)


def track_training(run: "TrackingRun | None", trained: "TrainingResult") -> None:
    """All that a finished training tells: lines of an earlier run of it, too, and its files."""
    if run is None:
        return
    from robustkit.tracking.content import of_training

    for line in trained.record["history"]:
        run.line(line)
    files = [trained.path, *trained.snapshots]
    run.attempt(lambda: run.content(of_training(trained.record, files)))
