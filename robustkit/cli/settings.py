"""`robustkit.toml`: options that repeat, from the working directory's file or that of --config.

Its values become options on the command line, ahead of those that are there. What is on record of a
command is therefore whole, and an option that is given wins.

A file that lies in a folder of somebody else's must not do more than the folder: it names no code
to be run, and where it was not asked for by --config it writes nothing elsewhere and reaches no
network.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from robustkit.errors import InputError, UnknownName, quoted
from robustkit.files import is_file, read_toml

NAME = "robustkit.toml"
OPTION = "--config"
CODE = ("trust-program",)
"""options that let a file run code"""
_CODE = re.compile(r"\.py:")
REACHING = ("ray", "shared")
"""options that hand work to other machines"""
PUBLISHED = re.compile(r"(hf|timm|torchvision|robustbench):")
"""begins the name of published weights, which are fetched; of an architecture, `hf:` reads files of
the hub, while the libraries build theirs without"""
WRITTEN = (
    "out", "json", "html", "junit", "sarif", "figure", "save-adversarial", "track", "labels",
    "sidecar-path",
)  # fmt: skip
"""options that say where to write"""
NEVER = ("config", "debug", "help", "version")


class Option(Protocol):
    """An option of a command, as far as it is asked here."""

    opts: list[str]
    multiple: bool
    is_flag: bool


@dataclass(frozen=True, slots=True)
class OptionFile:
    """What a file says for one command."""

    path: Path
    given: Mapping[str, tuple[str, ...]]
    """texts by option, without dashes; none for a flag"""

    def arguments(self) -> list[str]:
        """The same on a command line."""
        return [
            f"--{name}={text}" if text is not None else f"--{name}"
            for name, texts in self.given.items()
            for text in texts or (None,)
        ]

    def note(self) -> str:
        """What was taken, in a line."""
        told = (
            f"{name} = {', '.join(texts)}" if texts else name for name, texts in self.given.items()
        )
        return f"from {self.path}: {'; '.join(told)}"


def settings_for(
    arguments: Sequence[str], commands: Mapping[str, Sequence[Option]]
) -> OptionFile | None:
    """What the file says for the command that these arguments name; None where nothing.

    Args:
        arguments: of the command line, the command's name first.
        commands: the options of every command.

    Raises:
        InputError: the file cannot be read, or says something that no command takes.
    """
    if not arguments or arguments[0] not in commands or "--help" in arguments:
        return None
    asked = value_of(arguments, OPTION)
    path = Path(asked if asked is not None else NAME)
    if asked is None and not is_file(path):
        return None
    known = {command: _named(options) for command, options in commands.items()}
    found = _read(path, known, free=asked is not None)[arguments[0]]
    mentioned = set(_mentioned(arguments))
    given = {name: texts for name, texts in found.items() if name not in mentioned}
    return OptionFile(path, given) if given else None


def value_of(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option, the last one where there are several."""
    found = None
    for place, argument in enumerate(arguments):
        if argument == option and place + 1 < len(arguments):
            found = arguments[place + 1]
        elif argument.startswith(f"{option}="):
            found = argument.partition("=")[2]
    return found


def _mentioned(arguments: Sequence[str]) -> Iterator[str]:
    for argument in arguments:
        if argument == "--":
            return
        if argument.startswith("--"):
            yield argument[2:].partition("=")[0]


def _named(options: Sequence[Option]) -> dict[str, Option]:
    names = {opt[2:]: option for option in options for opt in option.opts if opt.startswith("--")}
    return {name: option for name, option in names.items() if name not in NEVER}


def _read(
    path: Path, known: Mapping[str, Mapping[str, Option]], *, free: bool
) -> dict[str, dict[str, tuple[str, ...]]]:
    """What the file says, for every command: a table's own before what stands above all tables."""
    table = read_toml(path)
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    for key in tables:
        if key not in known:
            raise InputError(f"{path}: {UnknownName('command', key, known)}")
    anywhere = {name for options in known.values() for name in options}
    above = _hyphens({k: v for k, v in table.items() if k not in tables}, anywhere, str(path))
    found = {}
    for command, options in known.items():
        where = f"{path}: [{command}]"
        own = _hyphens(tables.get(command, {}), options, where)
        values = {key: (above[key], str(path)) for key in above if key in options}
        values |= {key: (value, where) for key, value in own.items()}
        given = {k: _given(k, v, options[k], at, free) for k, (v, at) in values.items()}
        found[command] = {key: texts for key, texts in given.items() if texts is not None}
    return found


def _hyphens(table: Mapping[str, Any], known: Collection[str], where: str) -> dict[str, Any]:
    """A table by the names of options, which a file may also write with underscores.

    Raises:
        InputError: no such option, or one that is there in both spellings.
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in known:
            raise InputError(f"{where}: {UnknownName('option', key, known)}")
        if name in found:
            raise InputError(f"{where}: {key}: is given twice, with hyphens and with underscores")
        found[name] = value
    return found


def _given(name: str, value: Any, option: Option, where: str, free: bool) -> tuple[str, ...] | None:
    """The texts of an option; None for a flag that is off.

    Raises:
        InputError: a value of another kind, or one that a file must not set.
    """
    where = f"{where}: {name}"
    if option.is_flag:
        if not isinstance(value, bool):
            raise InputError(f"{where}: expected true or false, got {quoted(value)}")
        texts: tuple[str, ...] = ()
        if not value:
            return None
    elif isinstance(value, list) and not option.multiple:
        raise InputError(f"{where}: takes one value, got {quoted(value)}")
    else:
        texts = tuple(_text(one, where) for one in (value if isinstance(value, list) else [value]))
    _check(name, texts, where, free)
    return texts


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{where}: expected a text or a number, got {quoted(value)}")
    return str(value)


def _check(name: str, texts: Sequence[str], where: str, free: bool) -> None:
    """Nothing, if a file may say so.

    Raises:
        InputError: it would run code, write elsewhere, or reach a network.
    """
    if name in CODE or any(map(_CODE.search, texts)):
        raise InputError(
            f"{where}: would run code, which no file may ask for; give --{name} itself"
        )
    if free:
        return
    places = [text.partition(":")[2] if name == "track" else text for text in texts]
    outside = [p for p in places if Path(p).is_absolute() or ".." in Path(p).parts]
    if name in REACHING or any(_reaches(name, text) for text in texts):
        raise InputError(
            f"{where}: reaches another machine; give --{name}, or name the file by {OPTION}"
        )
    if name in WRITTEN and outside:
        raise InputError(
            f"{where}: writes outside of this folder; give --{name}, or name the file by {OPTION}"
        )


def _reaches(name: str, text: str) -> bool:
    """Whether a value is to be had from another machine."""
    fetched = text.startswith("hf:") if name == "model" else PUBLISHED.match(text) is not None
    return "://" in text or (fetched and name in ("model", "surrogate", "against"))
