"""What lies beside a training's output until it is done: the claim on it, and its saved state."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from robustkit.errors import InputError, Unready
from robustkit.files import extended, write_atomic
from robustkit.seals import seal_of_bytes, unsealed_bytes
from robustkit.training.processes import ProcessGroup


def state_path(out: Path) -> Path:
    """Where an unfinished run keeps its state."""
    return out.with_name(extended(out.name, ".partial")) / "state.pt"


@contextmanager
def claimed(out: Path, fresh: bool, processes: ProcessGroup) -> Iterator[None]:
    """The right to work on an output; an empty folder is taken away afterwards.

    What is there already needs none: it may stand where nothing can be written.

    Raises:
        Unready: another process has it, or the folder cannot be written.
    """
    if not processes.first:
        yield
        return
    folder = state_path(out).parent
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise Unready(
            f"{folder}: another process is training into it; wait, or change --out"
        ) from None
    except (OSError, NotImplementedError) as error:
        if out.is_file() and not fresh:
            yield
            return
        reason = getattr(error, "strerror", None) or error
        raise Unready(
            f"cannot write {folder}: {reason}; give an --out in a folder that can be written"
        ) from error
    try:
        yield
    finally:
        if not state_path(out).exists():
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def write_state(out: Path, digest: str, state: dict[str, Any]) -> None:
    """Keep the state of a training of that digest."""
    buffer = io.BytesIO()
    torch.save({"digest": digest, "state": state}, buffer)
    content = buffer.getvalue()
    write_atomic(state_path(out), [content, seal_of_bytes(content)])


def read_state(out: Path, digest: str) -> dict[str, Any] | None:
    """The state that an unfinished training of that digest left; None where there is none.

    On the processor: an optimiser leaves its counts of steps where they are, and each of several
    processes has a device of its own.

    Raises:
        InputError: it is damaged, or another training's.
    """
    path = state_path(out)
    if not path.exists():
        return None
    try:
        content = io.BytesIO(unsealed_bytes(path.read_bytes()))
        saved = torch.load(content, map_location="cpu", weights_only=True)
        same = saved["digest"] == digest
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"{path}: damaged; --fresh starts again") from error
    if not same:
        raise InputError(
            f"{path}: an unfinished training with another configuration or other "
            "versions; give another --out, or --fresh to start again"
        )
    state: dict[str, Any] = saved["state"]
    return state
