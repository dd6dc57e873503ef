"""The boundary around reading a file: what goes wrong within leaves as an error of the project."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustkit.errors import BadFile, CheckpointError, RobustkitError, first_line


@contextmanager
def boundary(path: Path) -> Iterator[None]:
    """Turn every exception within into an error of the project, which is one printable line.

    Interrupts pass, since they are the user's. A lack of memory does not: the file asks for it, and
    what was allocated for it is free again once the error has left.

    Raises:
        CheckpointError: an exception within was no error of the project, or named no file.
        RobustkitError: as raised within.
    """
    try:
        yield
    except BadFile as error:
        raise CheckpointError(f"{path}: {error}") from error
    except RobustkitError:
        raise
    except MemoryError as error:
        raise _no_memory(path) from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: nested too deeply; refused as damaged") from error
    except OSError as error:
        why = error.strerror or first_line(error)
        raise CheckpointError(f"{path}: cannot be read: {why}") from error
    except Exception as error:  # torch, NumPy and zipfile raise nearly anything on hostile numbers
        if "alloc" in str(error) and "memory" in str(error):
            raise _no_memory(path) from error
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason})") from error


def _no_memory(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: not enough memory for its contents")
