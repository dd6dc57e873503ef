"""An epoch's numbers, for TensorBoard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustkit.errors import InputError


@contextmanager
def logged(folder: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
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
