"""What can go wrong, as one tree; every message says what is wrong, where, and what to do.

RobustkitError            exit status 2
├── InputError            the user named or gave something unusable
│   ├── UnknownName       no such attack, data set, model, …
│   ├── CheckpointError   the weights cannot be loaded, or may not be
│   ├── DataError         images or labels are missing or out of range
│   ├── ProtocolError     an attack's file or its settings
│   ├── RecordError       a stored evaluation cannot be read
│   ├── FetchError        what is published under a name is not there, or not as it was stated
│   │   ├── Unreachable   no connection, or one that broke off
│   │   └── NotPermitted  whoever publishes it asks for a permission
│   └── BadFile           a file's bytes are damaged, or ask for more work than any honest file does
├── EvaluationFailed      exit status 3: the evaluation itself broke (NaN logits, a full disk)
│   ├── NetworkFailed     the network raised something, told in its own words
│   └── ProofContradicted an image was fooled where it is proved to withstand
├── TrainingFailed        exit status 3: the training broke (the loss became NaN or infinite)
└── Hindered              nothing is wrong with the work itself, and the same may succeed later
    ├── Unready           an InputError, too: a file is in use, or was changed meanwhile
    ├── CannotWrite       an EvaluationFailed, too: a full disk, a folder that cannot be written
    └── ProcessLost       a TrainingFailed, too: one of its processes was ended
"""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from unicodedata import category

LINE = 80
"""width of a line, to which a refused value is cut"""
LONGEST = 1000
"""of a message, whatever it quotes"""
_LINES = re.compile(r"[^\n\t]+")
_ENDLESS = re.compile(r"\S{300,}")


def shown(text: str) -> str:
    """Text as a terminal, a page or a table may show it: on one line, and all of it visible.

    What is not printable is written as Python's `repr` writes it: line breaks, the escapes that
    steer a terminal, marks that turn the direction of writing, bytes that are no UTF-8. Names come
    from files and folders of others, and must not speak for the program that shows them.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or category(c) == "Zs" else c.encode("unicode_escape").decode()
        for c in text
    )


def shown_lines(text: str) -> str:
    """A text of several lines, each as it may be shown; tabs stay."""
    return _LINES.sub(lambda found: shown(found[0]), text)


def cut(text: str, width: int = LINE) -> str:
    """Text without its middle, where it is longer than a line."""
    if len(text) <= width:
        return text
    return f"{text[: width // 2]}…{text[-(width // 2 - 1) :]}"


def quoted(value: object) -> str:
    """A refused value in a message: as Python writes it, cut to a line."""
    try:
        return cut(shown(repr(value)))
    except Exception:  # an integer of too many digits, an object of another's
        return f"a value of type {type(value).__name__}"


class RobustkitError(Exception):
    """Root of the tree. `str(error)` is one line, fit for a terminal."""

    exit_status = 2

    def __str__(self) -> str:
        text = _ENDLESS.sub(lambda found: cut(found[0]), shown(super().__str__()))
        return cut(text, LONGEST)


class InputError(RobustkitError):
    """The user named or gave something unusable."""


class UnknownName(InputError):
    """A name that stands on no shelf and in no registry.

    `what` is the kind of thing ("attack"), `known` the names that would have worked; `close` is the
    one that may have been meant, None if none is like it.
    """

    def __init__(self, what: str, name: str, known: Iterable[str], advice: str = "") -> None:
        self.name = name
        close = get_close_matches(name, list(known := sorted(known)), n=1)
        self.close = close[0] if close else None
        hint = f"did you mean {close[0]!r}?" if close else f"known: {_some(known)}"
        advised = f" ({advice})" if advice else ""
        super().__init__(f"unknown {what} {quoted(name)}; {hint}{advised}")

    def __reduce__(self) -> tuple[object, ...]:
        # as a message that is there already: an error travels from worker processes
        return _remade, (self.args[0], self.name, self.close)


def _some(names: list[str], most: int = 40) -> str:
    """Names in a row, as many as can be read."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def _remade(text: str, name: str, close: str | None) -> UnknownName:
    error = UnknownName.__new__(UnknownName, text)
    error.name, error.close = name, close
    return error


class CheckpointError(InputError):
    """The weights cannot be loaded, or may not be."""


class DataError(InputError):
    """Images or labels are missing, unreadable or out of range."""


class ProtocolError(InputError):
    """An attack's file or its settings make no sense."""


class RecordError(InputError):
    """A stored evaluation cannot be read."""


class FetchError(InputError):
    """What is published under a name is not there, or not as it was stated."""


class Unreachable(FetchError):
    """There is no connection, or it broke off."""


class NotPermitted(FetchError):
    """Whoever publishes it asks for a permission."""


class BadFile(InputError):
    """A file's bytes are damaged, or ask for more work than any honest file does.

    Raised where the file's name is not known; who knows it raises an error of its own from this.
    """


class EvaluationFailed(RobustkitError):
    """The evaluation itself broke: NaN logits, a full disk. It never becomes a robust row."""

    exit_status = 3


class NetworkFailed(EvaluationFailed):
    """The network raised something of its own, which is the cause."""


class ProofContradicted(EvaluationFailed):
    """An image was fooled at a budget that it is proved to withstand: no row can be believed."""


class TrainingFailed(RobustkitError):
    """The training broke: its loss became NaN or infinite. The last good state is kept."""

    exit_status = 3


class Hindered(RobustkitError):
    """Something around the work was in its way, which says nothing of the work itself.

    A study that meets it ends, and keeps no result: as the result of a training it would decide
    which configuration is chosen.
    """


class Unready(Hindered, InputError):
    """A file is in use by another process, or is another than when the work was planned."""


class CannotWrite(Hindered, EvaluationFailed):
    """A disk is full, or a folder cannot be written."""


class ProcessLost(Hindered, TrainingFailed):
    """One of the processes of a training was ended, or had too little memory."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return _said(error) or type(error).__name__


def unreadable(path: Path | str, error: BaseException, otherwise: str) -> str:
    """What is said of a file that cannot be read: it is missing, or may not be read; else why."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{path}: no such file"
    if isinstance(error, OSError) and error.errno:
        return f"{path}: cannot be read: {os.strerror(error.errno)}"
    return f"{path}: {otherwise}: {first_line(error)}"


def cause(error: Exception) -> Exception:
    """The error that was raised first, where one was raised of another."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def one_line(error: BaseException) -> str:
    """The kind of an error and what it says, in one line: "ValueError: no such mode"."""
    said = _said(error)
    return type(error).__name__ + (f": {said}" if said else "")


def _said(error: BaseException) -> str:
    """The first line of an error's words, of a length that a message can hold; "" if none."""
    try:
        text = str(error).strip()
    except Exception:  # an error of others may fail to speak
        text = ""
    return cut(shown(text.splitlines()[0].strip()), 4 * LINE) if text else ""


def unforeseen(error: BaseException) -> str:
    """What is said of an error that is none of ours: its words, and where it was raised."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; try a smaller --batch-size"
    package, place, trace = Path(__file__).parent, "", error.__traceback__
    while trace is not None:
        if (file := Path(trace.tb_frame.f_code.co_filename)).is_relative_to(package):
            place = f" ({file.relative_to(package.parent)}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return f"unforeseen {one_line(error)}{place}; --debug shows more"
