"""What is written to stdout and stderr: encodable, and never a reason for a command to stop."""

import io
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import ENAMETOOLONG, EPIPE
from pathlib import Path
from select import select
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TextIO

from robustkit.errors import InputError, cut, first_line, shown
from robustkit.files import write_atomic

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


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


def tell(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"{shown(text)}\n")


class FetchLines:
    """How far downloads are: a line for each file on stderr, on a terminal with its share."""

    def __init__(self) -> None:
        self.name, self.told = "", -1

    def __call__(self, name: str, done: int, total: int | None) -> None:
        """Tell it; as `robustkit.fetching.Progress`."""
        if name != self.name:
            self.name, self.told = name, -1
            tell(f"fetching {name}" + (f" ({total / 1e6:,.1f} MB)" if total else ""))
        if not total or total == done == 0 or not sys.stderr.isatty():
            return
        if (percent := 100 * done // total) != self.told:
            self.told = percent
            sys.stderr.write("\r\x1b[K" if done == total else f"\r{percent:>3} %")
            sys.stderr.flush()


def console(*, err: bool = False) -> "Console":
    """What draws tables and colours, on stdout or stderr; square brackets are no commands."""
    from rich.console import Console

    # the file is named, since only then its encoding decides on the lines of a table
    return Console(file=sys.stderr if err else sys.stdout, markup=False, emoji=False)


def styled(text: str, style: str = "") -> "Text":
    """Text in a style, all of it visible."""
    from rich.text import Text

    return Text(shown(text), style)


def trace(error: BaseException) -> None:
    """The traceback on stderr, where the user wants to see it."""
    if os.environ.get("ROBUSTKIT_DEBUG", "0") not in ("", "0") or "--debug" in sys.argv[1:]:
        import traceback

        traceback.print_exception(error)


def say_styled(text: str, style: str, *, err: bool = False) -> None:
    """A line in a style."""
    console(err=err).print(styled(text, style), soft_wrap=True)


def tell_notes(*notes: str) -> None:
    """What was taken from where, on stderr."""
    for note in notes:
        say_styled(f"note: {note}", "dim", err=True)


def tell_warnings(warnings: Iterable[str]) -> None:
    """Lines on stderr."""
    for warning in warnings:
        say_styled(f"warning: {warning}", "yellow", err=True)


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

NAME = 255
"""bytes of a file's name that systems hold"""


def check_file(option: str, target: str | Path | None) -> None:
    """Nothing, if an option's file can be written, as far as its name tells.

    Raises:
        InputError: it is a folder, or no name that a system takes.
    """
    if target is not None and str(target) != "-" and _is_folder(option, Path(target)):
        raise InputError(f"{option} {target}: is a folder; give the name of a file")


def check_folder(option: str, target: Path) -> None:
    """Nothing, if an option's folder can be written, as far as its name tells.

    Raises:
        InputError: it is a file, or no name that a system takes.
    """
    if not _is_folder(option, target) and target.exists():
        raise InputError(f"{option} {target}: is a file; give the name of a folder")


def _is_folder(option: str, target: Path) -> bool:
    try:
        if len(os.fsencode(target.name)) > NAME:
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
