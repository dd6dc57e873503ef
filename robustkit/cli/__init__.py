"""The command line: the only floor that prints, and the only one that exits.

Commands import what they need in their bodies, since torch takes seconds.
"""

import os
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import NoReturn

import typer

from robustkit import machine
from robustkit.cli.audit import audit
from robustkit.cli.compare import compare
from robustkit.cli.describe import describe
from robustkit.cli.evaluate import evaluate
from robustkit.cli.listing import list_names
from robustkit.cli.power import power
from robustkit.cli.rank import rank
from robustkit.cli.report import report
from robustkit.cli.train import train
from robustkit.errors import RobustkitError

PROCESSES = "robustkit.training.processes"

app = typer.Typer(
    name="robustkit",
    help="Robustness numbers that can be believed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help, with its Markdown, takes as long to import as all else
)
app.command("evaluate")(evaluate)
app.command("audit")(audit)
app.command("train")(train)
app.command("report")(report)
app.command("compare")(compare)
app.command("power")(power)
app.command("rank")(rank)
app.command("describe")(describe)
app.command("list")(list_names)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"robustkit {version('robustkit')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


class Stopped(BaseException):
    """A signal, raised so that files are closed and claims released."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def main() -> None:
    """Run a command. Exit status: 0 done, 2 bad input, 3 failed, 130 and 143 interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    machine.keep_memory()
    try:
        status = app(standalone_mode=False) or 0
    except RobustkitError as error:
        status = _say(f"error: {error}", error.exit_status)
    except Stopped as stop:
        text = "interrupted; what is finished is kept, and the same command goes on from there"
        status = _say(text, 128 + stop.args[0], begun=PROCESSES in sys.modules)
    except BrokenPipeError:
        # the reader has gone; Python's own flush at exit must not complain about it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "show"):
            raise
        if _speaks():
            error.show()  # a usage error, in typer's own words
        status = error.exit_code
    sys.exit(status)


def _say(text: str, status: int, begun: bool = True) -> int:
    if _speaks(begun):
        typer.echo(" ".join(f"robustkit: {text}".split()), err=True)
    return status


def _speaks(begun: bool = True) -> bool:
    """Whether this process tells what went wrong: of several, the first that failed does.

    Args:
        begun: False where an interruption may have left torch half imported, so that the others
            cannot be asked; nothing is lost then.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    for number in (signal.SIGINT, signal.SIGTERM):
        # from here on: `torchrun` ends all processes when one has failed, which is no news
        signal.signal(number, signal.SIG_IGN)
    return begun and import_module(PROCESSES).first_to_fail()
