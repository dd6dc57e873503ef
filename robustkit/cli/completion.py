"""What a shell completes: commands and options by typer, names from the shelves here. No torch."""

import os
from typing import Any

from robustkit.files import names, shipped

VARIABLE = "_ROBUSTKIT_COMPLETE"
"""set by the shell's script where it asks"""


def asked() -> bool:
    """Whether a shell asks, and no command is to be carried out."""
    return VARIABLE in os.environ


def answer(command: Any) -> int:
    """Answer the shell by typer's own means; the status."""
    try:
        command(prog_name="robustkit", complete_var=VARIABLE)
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def attacks(incomplete: str) -> list[str]:
    """Protocols."""
    return _begun(incomplete, names("attacks"))


def data(incomplete: str) -> list[str]:
    """Data sets."""
    return _begun(incomplete, names("data"))


def reports(incomplete: str) -> list[str]:
    """Studies."""
    return _begun(incomplete, names("reports"))


def checkpoints(incomplete: str) -> list[str]:
    """Shipped checkpoints; a shell adds files by itself."""
    return _begun(incomplete, sorted(path.stem for path in shipped("data").glob("*.safetensors")))


def models(incomplete: str) -> list[str]:
    """Architectures."""
    from robustkit.models import MODELS

    return _begun(incomplete, sorted(MODELS))


def losses(incomplete: str) -> list[str]:
    """Losses."""
    from robustkit.losses import LOSSES

    return _begun(incomplete, sorted(LOSSES))


def _begun(incomplete: str, known: list[str]) -> list[str]:
    return [name for name in known if name.startswith(incomplete)]
