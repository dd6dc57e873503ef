"""What is written to stdout and stderr: encodable, and never a reason for a command to stop."""

import io
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import ENAMETOOLONG, EPIPE
from pathlib import Path
from select import select
from threading import Event, Thread
from typing import Any, TextIO

from robustkit.display.stream import FetchLines as FetchLines
from robustkit.display.stream import console as console
from robustkit.display.stream import say_styled as say_styled
from robustkit.display.stream import styled as styled
from robustkit.display.stream import tell as tell
from robustkit.display.stream import tell_notes as tell_notes
from robustkit.display.stream import tell_warnings as tell_warnings
from robustkit.errors import InputError, cut, first_line, shown
from robustkit.files import LONGEST_NAME, write_atomic


class _Kept(io.FileIO):
    """A descriptor that keeps its first failure, and takes whatever comes after it in silence.

    A reader that has gone, or a full disk, must not cut short a command whose files are still to be
    written, nor turn a failed policy into another exit status.
    """

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        """All bytes, or none after a failure."""
        try:
            while self.fault is None:
                if (written := super().write(data)) is not None:
                    return written
                select([], [self], [])  # another process has made the terminal non-blocking
        except OSError as error:
            self.fault = error
        return len(data)


def guard() -> None:
    """Put stdout and stderr where no failure to write can raise, and text is always encodable.

    Streams that somebody has put in their place, such as a test, stay as they are.
    """
    if sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(sys.stdout, "replace")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(sys.stderr, "backslashreplace", lines=True)


def _guarded(before: TextIO | None, errors: str, lines: bool = False) -> TextIO:
    if before is None:  # closed from the start
        return io.TextIOWrapper(io.BufferedWriter(_Kept(os.devnull, "wb")), "utf-8", errors)
    before.flush()
    raw = getattr(before.buffer, "raw", before.buffer)
    if isinstance(before, io.TextIOWrapper) and not isinstance(raw, io.FileIO):
        # Windows' console, which takes letters and not bytes
        before.reconfigure(errors=errors)
        return before
    kept = _Kept(before.fileno(), "wb", closefd=False)
    lines = lines or kept.isatty()
    return io.TextIOWrapper(io.BufferedWriter(kept), before.encoding, errors, line_buffering=lines)


def fault() -> str:
    """Why stdout could not be written; "" if it could, or if its reader has gone."""
    if sys.stdout is None:
        return ""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = raw.fault if isinstance(raw, _Kept) else None
    if error is None or error.errno == EPIPE:
        return ""
    return error.strerror or type(error).__name__


# --- text -----------------------------------------------------------------------------------------


def say(text: str = "") -> None:
    """A line on stdout."""
    sys.stdout.write(f"{shown(text)}\n")


def trace(error: BaseException) -> None:
    """The traceback on stderr, where the user wants to see it."""
    if os.environ.get("ROBUSTKIT_DEBUG", "0") not in ("", "0") or "--debug" in sys.argv[1:]:
        import traceback

        traceback.print_exception(error)


@contextmanager
def patience() -> Iterator[None]:
    """Within, a terminal is told what takes so long, where torch has been loaded for a second."""
    done = Event()
    if sys.stderr.isatty():
        Thread(target=_watch, args=(done,), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(done: Event, every: float = 0.25, after: float = 1.0) -> None:
    waited = 0.0
    while waited < after:
        if done.wait(every):
            return
        torch = sys.modules.get("torch")
        if torch is not None and not getattr(torch.__spec__, "_initializing", False):
            return  # it is there
        waited += every if torch is not None else 0
    tell("robustkit: loading torch …")


# --- files ----------------------------------------------------------------------------------------


def check_file(option: str, target: str | Path | None) -> None:
    """Nothing, if an option's file can be written, as far as its name tells.

    Raises:
        InputError: it is a folder, or no name that a system takes.
    """
    if target is not None and str(target) != "-" and _is_folder(option, Path(target)):
        raise InputError(f"{option} {target}: is a folder; give a file name")


def check_files(targets: Mapping[str, str | Path | None]) -> None:
    """Nothing, if the files of a command's options can be written, as `check_file` has it.

    Raises:
        InputError: likewise, or two options name one file, of which the last would be left.
    """
    seen: dict[str, str] = {}
    for option, target in targets.items():
        check_file(option, target)
        if target is None or str(target) == "-":
            continue
        place = os.path.realpath(target)
        if place in seen and not _written_through(place):
            raise InputError(f"{option} {target}: is the file of {seen[place]}, too; give two")
        seen[place] = option


def _written_through(place: str) -> bool:
    """Whether something that is no file takes all that is written to it, such as /dev/null."""
    return os.path.exists(place) and not os.path.isfile(place)  # noqa: PTH110, PTH113


def check_folder(option: str, target: Path) -> None:
    """Nothing, if an option's folder can be written, as far as its name tells.

    Raises:
        InputError: it is a file, or no name that a system takes.
    """
    if not _is_folder(option, target) and target.exists():
        raise InputError(f"{option} {target}: is a file; give the name of a folder")


def _is_folder(option: str, target: Path) -> bool:
    try:
        if len(os.fsencode(target.name)) > LONGEST_NAME:
            raise OSError(ENAMETOOLONG, os.strerror(ENAMETOOLONG))
        return stat.S_ISDIR(target.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{option} {cut(str(target))}: {reason}; give another name") from error


def write_json(value: object, target: str) -> None:
    """Write JSON to a file, or to stdout for "-", where it is the same in every encoding."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_atomic(Path(target), text.encode())
