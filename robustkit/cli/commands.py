"""The commands, and how their arguments are read."""

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from robustkit.cli import completion, settings
from robustkit.cli.audit import audit
from robustkit.cli.certify import certify
from robustkit.cli.compare import compare
from robustkit.cli.describe import describe
from robustkit.cli.evaluate import evaluate
from robustkit.cli.leaderboard import leaderboard
from robustkit.cli.listing import list_names
from robustkit.cli.output import say, tell_notes
from robustkit.cli.power import power
from robustkit.cli.rank import rank
from robustkit.cli.report import report
from robustkit.cli.train import train
from robustkit.cli.verify import verify
from robustkit.errors import InputError


class _Commands(TyperGroup):
    """Commands whose list shows each description whole."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list, in lines as long as the terminal has them."""
        with formatter.section("Commands"):
            found = self.commands.items()
            formatter.write_dl([(name, one.get_short_help_str(10_000)) for name, one in found])


class _Command(TyperCommand):
    """A command that leaves nothing out unsaid that was typed to be measured or judged."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments read, as typer does."""
        if not ctx.resilient_parsing:  # as completion asks
            _, _, typed = self.make_parser(ctx).parse_args(args=list(args))
            for name, several in ONCE.items():
                one = [param for param in typed if name in param.opts and not param.multiple]
                if len(one) > 1:
                    raise InputError(f"{name} is given twice; {several}")
        return super().parse_args(ctx, args)


ONCE = {
    "--attack": "it takes one protocol, whose file may have several attacks",
    "--claim": "an audit judges one: run it once for each",
    "--claim-from": "an audit judges one claim: run it once for each",
    "--corruptions": "it takes one folder",
    "--data": "it takes one data set: run the command once for each",
    "--policy": "an audit takes one: put all rules in one file",
    "--surrogate": "it takes one network: run the command once for each",
}
"""of which two are likely to be meant together. Elsewhere the last wins, as usual: `--steps` at the
end of a line, or `--out`, which the GitHub Action adds behind the arguments of others"""


app = typer.Typer(
    name="robustkit",
    cls=_Commands,
    help="Measure how robust image classifiers are, and whether the numbers can be believed.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help, with its Markdown, takes as long to import as all else
)
app.command("evaluate", cls=_Command)(evaluate)
app.command("audit", cls=_Command)(audit)
app.command("certify", cls=_Command)(certify)
app.command("train", cls=_Command)(train)
app.command("report", cls=_Command)(report)
app.command("compare", cls=_Command)(compare)
app.command("power", cls=_Command)(power)
app.command("rank", cls=_Command)(rank)
app.command("leaderboard", cls=_Command)(leaderboard)
app.command("describe", cls=_Command)(describe)
app.command("list", cls=_Command)(list_names)
app.command("verify", cls=_Command)(verify)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"robustkit {version('robustkit')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Carry out a command; the status to exit with, where it raises nothing.

    Raises:
        InputError: an option or an argument that no command takes.
        RobustkitError: as the command.
    """
    command = _commands()
    if completion.asked():
        return completion.answer(command)
    if not arguments:
        names = ", ".join(command.commands)
        raise InputError(f"name a command: {names}; see robustkit --help")
    try:
        with _context(command, arguments) as context:
            return command.invoke(context) or 0
    except typer.Exit as done:
        return done.exit_code
    except Exception as error:
        # typer has had usage errors of its own and click's, and neither as a public name
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        raise _refused(error) from error


def _context(command: TyperGroup, arguments: Sequence[str]) -> Any:
    try:
        return command.make_context("robustkit", list(arguments))
    except SystemExit as done:  # so end typer's options for completion, before any command
        raise typer.Exit(int(done.code or 0)) from done


@cache
def _commands() -> TyperGroup:
    """All commands, read once: many in one process would spend most of their time here."""
    command = get_command(app)  # with typer's options for completion
    assert isinstance(command, TyperGroup)
    for one in (command, *command.commands.values()):
        one.params.append(_debug())
    for one in command.commands.values():
        one.params.append(_config())
    return command


def with_settings(arguments: Sequence[str]) -> list[str]:
    """The arguments with those that `robustkit.toml` adds, which are told.

    Raises:
        InputError: what the file says is none.
    """
    if completion.asked():
        return list(arguments)
    options = {
        name: [param for param in one.params if isinstance(param, TyperOption)]
        for name, one in _commands().commands.items()
    }
    found = settings.settings_for(arguments, options)
    if found is None:
        return list(arguments)
    if os.environ.get("RANK", "0") == "0":
        tell_notes(found.note())
    return [arguments[0], *found.arguments(), *arguments[1:]]


def _config() -> TyperOption:
    """An option of every command, which `with_settings` looks for by itself."""
    text = f"File with default options; default: {settings.NAME} in the working directory."
    return TyperOption(
        param_decls=[settings.OPTION], metavar="FILE.toml", expose_value=False, help=text
    )


def _debug() -> TyperOption:
    """An option of every command, which `main` looks for by itself."""
    text = "Show the traceback of an error, as ROBUSTKIT_DEBUG=1 does."
    return TyperOption(param_decls=["--debug"], is_flag=True, expose_value=False, help=text)


def _refused(error: Any) -> InputError:
    """A usage error in one line, with where to look."""
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "robustkit"
    return InputError(f"{error.format_message().rstrip('.')}; see {where} --help")
