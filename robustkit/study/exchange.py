"""The files of a study's jobs at a URL that several machines reach."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustkit.checkpoint import named
from robustkit.errors import InputError, RobustkitError, one_line
from robustkit.files import write_atomic
from robustkit.study.store import StudyStore
from robustkit.study.work import Job

Result = Callable[[str, str], dict[str, Any] | None]
"""what a "cell" or "test" of some key came to; None: not yet"""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Files of a study at a URL, named as in its folder."""

    url: str

    def put(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            InputError: the URL cannot be written.
        """
        with self._told():
            system, path = self._place(name)
            partial = f"{path}.{uuid.uuid4().hex}.tmp"
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.pipe_file(partial, data)
            system.mv(partial, path)

    def get(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none.

        Raises:
            InputError: the URL cannot be read.
        """
        with self._told(), suppress(FileNotFoundError):
            system, path = self._place(name)
            return bytes(system.cat_file(path))
        return None

    def drop(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._told(), suppress(FileNotFoundError):
            system, path = self._place(name)
            system.rm_file(path)

    def result(self, kind: str, key: str) -> dict[str, Any] | None:
        """What a cell or test came to; None: not yet.

        Raises:
            InputError: its file is damaged.
        """
        text = self.get(name := json_of(kind, key))
        try:
            return None if text is None else dict(json.loads(text))
        except ValueError as error:
            raise InputError(f"{self.url}: {name} is damaged ({error}); remove it") from error

    def done(self, kind: str, key: str) -> dict[str, Any] | None:
        """The same, of those that have not failed."""
        result = self.result(kind, key)
        return result if result is not None and result["status"] == "done" else None

    def bring(self, name: str, folder: Path) -> None:
        """Copy a file into a study's folder.

        Raises:
            InputError: it is not there.
        """
        data = self.get(name)
        if data is None:
            raise InputError(f"{self.url}: {name} has disappeared from it")
        write_atomic(folder / name, data)

    def _place(self, name: str) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        system, root = url_to_fs(self.url)
        return system, f"{root.rstrip('/')}/{name}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever goes wrong with a URL, in one line; each kind has errors of its own."""
        try:
            yield
        except (RobustkitError, FileNotFoundError):
            raise
        except Exception as error:
            raise InputError(f"{self.url}: {one_line(error)}") from error


# --- the files of a job ---------------------------------------------------------------------------


def json_of(kind: str, key: str) -> str:
    """The file of a result."""
    return f"{kind}s/{key}.json"


def network(cell: dict[str, Any]) -> list[str]:
    """The checkpoints of a training's result, unless it was made elsewhere."""
    snapshots = cell.get("snapshots", {}).values()
    paths = [one["checkpoint"] for one in (cell, *snapshots) if "checkpoint" in one]
    own = [path for path in paths if named.parse(path) is None]
    return [path for path in own if not Path(path).is_absolute()]


def state_of(key: str) -> str:
    """The state from which a training goes on."""
    return f"checkpoints/{key}.safetensors.partial/state.pt"


def rows(test: dict[str, Any]) -> list[str]:
    """The record of an evaluation's result."""
    if test["status"] != "done":
        return []
    name = f"runs/{test['evaluation'][:32]}"
    return [f"{name}.examples.npz", f"{name}.parquet"]


def mentioned(kind: str, key: str, result: dict[str, Any]) -> list[str]:
    """The files that the reason of a failure speaks of."""
    candidates = (f"{kind}s/{key}.log", state_of(key))
    return [name for name in candidates if name.rpartition("/")[2] in result["reason"]]


def files(job: Job, result: Result) -> list[str]:
    """Everything that a job came to; a file comes after those that it speaks of, the cell last."""
    keys = [("test", test.key) for test in job.tests] + [("cell", job.cell.key)]
    carried, results = [], []
    for kind, key in keys:
        if (cached := result(kind, key)) is not None:
            carried += rows(cached) if kind == "test" else network(cached)
            carried += mentioned(kind, key, cached)
            results.append(json_of(kind, key))
    if job.pause is not None and (rung := result("rung", job.rung)) is not None:
        carried += [*network(rung), state_of(job.cell.key)]
        results.append(json_of("rung", job.rung))
    return carried + results


def surrogates(job: Job) -> list[str]:
    """Keys of the networks that attacks of the job work on."""
    return sorted({test.surrogate for test in job.tests} - {""})


def results_of(store: StudyStore) -> Result:
    """The results in a study's folder."""
    read = {"cell": store.cell, "rung": store.rung, "test": store.test}
    return lambda kind, key: read[kind](key)
