"""The command line: the only floor that prints, and the only one that exits.

Commands import what they need in their bodies, since torch takes seconds.
"""

import _thread
import os
import signal
import sys
import threading
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from robustkit.errors import RobustkitError, unforeseen

PROCESSES = "robustkit.training.processes"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
FAULT = 3
"""exit status of what nobody foresaw, as of an evaluation that failed"""


class Stopped(BaseException):
    """A signal, raised so that files are closed and claims released."""


def start() -> NoReturn:
    """Run a command as a shell does."""
    options = {word.partition("=")[0] for word in sys.argv[1:]}
    if options & {"--ray", "--config"} and hasattr(os, "fork"):
        from robustkit.cli.guard import cluster, in_own_process

        if address := cluster(sys.argv[1:]):
            in_own_process(address)
    main()


def main() -> NoReturn:
    """Run a command and exit.

    Status 0: done; 1: a rule of the policy does not hold; 2: bad input; 3: failed; 130 and 143:
    interrupted. stdout and stderr can be closed, full or unable to show a letter, and no status
    depends on it but a 0 whose output could not be written.
    """
    signals: list[int] = []

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        _listen(signal.SIG_DFL)
        signals.append(number)
        raise Stopped(number)

    def unraisable(what: Any) -> None:
        if what.exc_type is not Stopped:
            sys.__unraisablehook__(what)
            return
        # it was raised where no error can go on, as in a weak reference's callback: once more,
        # when that is over
        _listen(stop)
        threading.Timer(0.01, _thread.interrupt_main, signals[-1:]).start()

    try:
        sys.unraisablehook = unraisable
        _listen(stop)
        status = _command()
        if signals:
            raise Stopped(signals[0])  # a library has caught it
        status = _finished(status)
    except BaseException as error:
        _listen(signal.SIG_DFL)
        status = _finished(_told(error, signals))
    sys.exit(status)


def _listen(handler: Any) -> None:
    """Handle interruptions, but none that is ignored.

    A shell starts a script's `robustkit … &` with SIGINT ignored: Ctrl-C is not meant for it.
    """
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _command() -> int:
    # here, since an interruption may come while they are imported
    from robustkit import machine
    from robustkit.cli import output
    from robustkit.cli.commands import run, with_settings

    output.guard()
    machine.keep_memory()
    machine.give_way()
    with output.patience():
        # in place, since what is on record of a command must be all of it
        sys.argv[1:] = with_settings(sys.argv[1:])
        return run(sys.argv[1:])


def _told(error: BaseException, signals: list[int]) -> int:
    """Say in one line what ended a command; its exit status."""
    from robustkit.cli.output import trace

    trace(error)
    if signals or isinstance(error, KeyboardInterrupt):
        # whatever else it is, a library that was interrupted has made it of that
        same = f"the same command{' without --fresh' * ('--fresh' in sys.argv)}"
        text = f"interrupted; what is finished is kept, and {same} goes on from there"
        number = signals[0] if signals else signal.SIGINT
        return _say(text, 128 + number, begun=PROCESSES in sys.modules)
    if isinstance(error, RobustkitError):
        return _say(f"error: {error}", error.exit_status)
    return _say(f"error: {unforeseen(error)}", FAULT)


def _finished(status: int) -> int:
    """The status after all is written; a signal that comes later ends the process at once."""
    from robustkit.cli.output import fault

    _listen(signal.SIG_DFL)
    if reason := fault():
        return _say(f"error: cannot write to stdout: {reason}", status or FAULT)
    return status


def _say(text: str, status: int, begun: bool = True) -> int:
    from robustkit.cli.output import tell

    if _speaks(begun):
        tell(f"robustkit: {text}")
    return status


def _speaks(begun: bool = True) -> bool:
    """Whether this process tells what went wrong: of several, the first that failed does.

    Args:
        begun: False where an interruption may have left torch half imported, so that the others
            cannot be asked; nothing is lost then.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    # from here on: `torchrun` ends all processes when one has failed, which is no news
    _listen(signal.SIG_IGN)
    return begun and import_module(PROCESSES).first_to_fail()
