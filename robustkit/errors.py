"""What can go wrong, as one tree; every message says what is wrong, where, and what to do.

RobustkitError            exit status 2
├── InputError            the user named or gave something unusable
│   ├── UnknownName       no such attack, data set, model, …
│   ├── CheckpointError   the weights cannot be loaded, or may not be
│   ├── DataError         images or labels are missing or out of range
│   ├── ProtocolError     an attack's file or its settings
│   └── RecordError       a stored evaluation cannot be read
├── EvaluationFailed      exit status 3: the evaluation itself broke (NaN logits, a full disk)
└── TrainingFailed        exit status 3: the training broke (the loss is no longer a number)
"""

from collections.abc import Iterable
from difflib import get_close_matches


class RobustkitError(Exception):
    """Root of the tree. `str(error)` is one line, fit for a terminal."""

    exit_status = 2


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
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
        super().__init__(f"unknown {what} {name!r}; {hint}{'; ' + advice if advice else ''}")


class CheckpointError(InputError):
    """The weights cannot be loaded, or may not be."""


class DataError(InputError):
    """Images or labels are missing, unreadable or out of range."""


class ProtocolError(InputError):
    """An attack's file or its settings make no sense."""


class RecordError(InputError):
    """A stored evaluation cannot be read."""


class EvaluationFailed(RobustkitError):
    """The evaluation itself broke: NaN logits, a full disk. It never becomes a robust row."""

    exit_status = 3


class TrainingFailed(RobustkitError):
    """The training broke: its loss is no longer a number. The last good state is kept."""

    exit_status = 3


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
