"""Snapshots: the weights after chosen passes over the data, each a checkpoint of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustkit.checkpoint import read_checkpoint
from robustkit.errors import InputError, RobustkitError
from robustkit.files import extended


def snapshot_path(out: Path, number: int) -> Path:
    """Where the weights after a pass stand, beside those that a training ends with."""
    return out.with_name(extended(out.stem, f"-pass{number}{out.suffix}"))


def recorded(path: Path, digest: str, number: int | None) -> dict[str, Any]:
    """The record of a training in a file.

    Args:
        path: the file.
        digest: of the training.
        number: the pass after which its weights are meant; None: the end.

    Raises:
        InputError: it holds something else.
    """
    advice = "give another --out, or --fresh to replace it"
    try:
        found = read_checkpoint(path).extra.get("training")
    except RobustkitError as error:
        raise InputError(f"{path}: exists and is not a robustkit checkpoint; {advice}") from error
    record = found if isinstance(found, dict) else {}
    snapshot = record.get("snapshot", {"pass": None})
    if record.get("digest") != digest or snapshot["pass"] != number:
        raise InputError(f"{path}: exists and holds another training; {advice}")
    return record


def check_scored(kept: Mapping[str, Any], where: Path) -> None:
    """Raise InputError where a history on file has no calibrated likelihoods of its passes."""
    lines = kept["history"]
    if lines and "log_likelihood" not in lines[-1]:
        raise InputError(
            f"{where}: was trained without a look at held-out images after every pass; --fresh "
            "trains it again"
        )
