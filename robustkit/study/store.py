"""The folder of a study: what was asked, and what each cell came to. Needs no torch.

OUT/study.json           the study as it was first asked, and every later change
OUT/plan.json            the cells it needs, as far as known
OUT/cells/KEY.json       a training: done, or failed and why
OUT/rungs/KEY-passN.json a training that paused after a pass, before configurations were dropped
OUT/tests/KEY.json       an evaluation likewise
OUT/costs/NAME.json      times of training steps, by analysis
OUT/checkpoints/KEY.safetensors, OUT/runs/DIGEST.parquet
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from robustkit.checkpoint import named
from robustkit.errors import CannotWrite, RecordError, Unready
from robustkit.files import canonical, extended, write_atomic
from robustkit.seals import read_sealed, sealed
from robustkit.study.cells import CellRequirement, Plan

VERSION = 1


def checkpoint_place(folder: Path, checkpoint: str) -> str | Path:
    """Where a study's network is read: a file of its folder or of elsewhere, or a name."""
    return folder / checkpoint if named.parse(checkpoint) is None else checkpoint


@dataclass(frozen=True, slots=True)
class StudyStore:
    """A study's folder."""

    folder: Path

    def checkpoint(self, key: str) -> Path:
        """The network of a cell."""
        return self.folder / "checkpoints" / f"{key}.safetensors"

    @property
    def runs(self) -> Path:
        """The folder of the evaluations' records."""
        return self.folder / "runs"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """The right to work on the study: two commands would be in each other's way.

        Raises:
            Unready: another command has it.
            CannotWrite: the folder cannot be written, or its file system knows no locks.
        """
        lock = FileLock(self.folder / "study.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise Unready(
                f"{self.folder}: another command works on this study; wait for its end, or give "
                "another --out"
            ) from None
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CannotWrite(
                f"cannot lock {lock.lock_file}: {reason}; give an --out in a writable folder"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def cell(self, key: str) -> dict[str, Any] | None:
        """What a training came to; None: not yet."""
        return _read(self._place("cell", key))

    def rung(self, name: str) -> dict[str, Any] | None:
        """What a training had come to when it paused; None: not yet."""
        return _read(self._place("rung", name))

    def test(self, key: str) -> dict[str, Any] | None:
        """What an evaluation came to; None: not yet."""
        return _read(self._place("test", key))

    def cost(self, name: str) -> dict[str, Any] | None:
        """Times of training steps; None: not yet."""
        return _read(self._place("cost", name))

    def keep(self, kind: str, key: str, result: dict[str, Any]) -> None:
        """Write what a cell, rung, test or cost came to."""
        write_atomic(self._place(kind, key), _pretty(result))

    def forget(self, kind: str, key: str) -> None:
        """Drop a result, so that it is worked out again."""
        self._place(kind, key).unlink(missing_ok=True)

    def _place(self, kind: str, key: str) -> Path:
        """Where such a result stands; the name of an analysis may be of any length."""
        return self.folder / f"{kind}s" / extended(key, ".json")

    def keep_plan(self, plan: Plan) -> None:
        """Write the plan, so that a report can be made from files alone."""
        table = asdict(plan)
        table["version"] = VERSION
        write_atomic(self.folder / "plan.json", canonical(sealed(table)).encode())

    def plan(self) -> dict[str, Any]:
        """The plan that was written.

        Raises:
            RecordError: there is none.
        """
        plan = _read(self.folder / "plan.json")
        if plan is None:
            raise RecordError(
                f"{self.folder}: contains no study; run it without --only-report first"
            )
        if plan["version"] > VERSION:
            raise RecordError(f"{self.folder}: written by a newer robustkit; upgrade")
        return plan

    def wanted(self) -> list[CellRequirement]:
        """The numbers that the analyses need."""
        return [CellRequirement(**entry) for entry in self.plan()["wanted"]]

    def asked(self) -> dict[str, Any] | None:
        """The study as it was first asked; None: not yet."""
        return _read(self.folder / "study.json")

    def keep_asked(self, request: dict[str, Any]) -> None:
        """Write what was asked."""
        write_atomic(self.folder / "study.json", _pretty(request))


@dataclass(frozen=True, slots=True)
class RetriedStore(StudyStore):
    """The same folder as it would be without what failed, which stays; to plan with."""

    def cell(self, key: str) -> dict[str, Any] | None:
        """What a training came to; None: not yet, or it failed."""
        return _unless_failed(StudyStore.cell(self, key))

    def test(self, key: str) -> dict[str, Any] | None:
        """What an evaluation came to; None: not yet, or it failed."""
        return _unless_failed(StudyStore.test(self, key))


def _unless_failed(result: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if result is None or result["status"] == "failed" else result


def _pretty(value: dict[str, Any]) -> bytes:
    return (json.dumps(sealed(value), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file; None where there is none.

    Raises:
        RecordError: it is damaged, or was changed since it was written.
    """
    try:
        return read_sealed(path, "restore it, or remove it, and it is made again").contents
    except FileNotFoundError:
        return None
