"""Networks of a command beside the one that its options are of: a surrogate, others to compare."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from robustkit import models
from robustkit.cli.options import CheckpointOptions
from robustkit.cli.output import FetchLines
from robustkit.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from robustkit.checkpoint import Checkpoint

READING = re.compile(r"--(model|num-classes|mean|std|weights|ignore|rename)\b")
"""options by which the first network is read, and no other"""


def read_other(path: str, first: CheckpointOptions) -> "Checkpoint":
    """Another network than the first, of which the options are.

    What it is say its file and its sidecar. Where they leave the architecture open, or name the
    code that --model runs anyhow, it is that of --model.

    Raises:
        InputError: it cannot be read so, or nothing says what it is.
    """
    from robustkit.checkpoint import read_checkpoint

    trusted = first.trust_program
    read = partial(read_checkpoint, path, trust_program=trusted, progress=FetchLines())
    try:
        found = read()
        if not found.has_architecture and first.model and _may_be(found.model, first.model):
            found = _as(first.model, read)
        found.check_architecture()
    except CheckpointError as error:
        raise CheckpointError(_of_the_first(str(error), path)) from error
    told = (_of_the_first(t, path) if "pass --mean" in t else t for t in found.warnings)
    return replace(found, warnings=tuple(told))


def _as(model: str, read: Callable[..., "Checkpoint"]) -> "Checkpoint":
    """A network of the first one's architecture.

    Raises:
        CheckpointError: it does not fit.
    """
    try:
        return read(model=model)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (tried as the first network's --model {model})") from error


def _may_be(recorded: str | None, given: str) -> bool:
    """Whether a network on record as `recorded` may be of the architecture that --model names."""
    if recorded is None:
        return True
    if not models.names_code(given) or Path(recorded).name != Path(given).name:
        return False
    with suppress(InputError):  # a file that was elsewhere when the network was trained
        return models.source(recorded) == models.source(given)
    return True


def _of_the_first(text: str, path: str) -> str:
    """What is said of another network, with what to do where it names the first one's options."""
    if not READING.search(text):
        return text
    python = f", or FILE.py:FUNCTION to robustkit.read_checkpoint({path!r}, model=…) in Python"
    return (
        f"{text}; but here such options are the first network's: give this one's to its sidecar, "
        f"robustkit describe {path} … --sidecar{python if '--model' in text else ''}"
    )
