"""`robustkit.toml`: options that repeat, from the working directory's file or that of --config.

Its values become options on the command line, ahead of those that are there. What is on record of a
command is therefore whole, and an option that is given wins.

What is typed wins, with all that it rules out (`APART`). What stands in a command's own table
counts as if it were typed. What stands above all tables is for whom it may concern: a command takes
it where it has the option and can take the value (a list, where it takes several), where an option
that it goes with is there (`TOGETHER`) and none that it does not go with, and where it does not
change what a file of its own says (`OWN`).

A file that lies in a folder of somebody else's must not do more than the folder: it names no code
to be run, and where it was not asked for by --config it writes nothing elsewhere and reaches no
network.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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
Texts = tuple[str, ...]
"""of an option, as on a command line; none of a flag"""


Clash = Callable[[str, str], bool]


class Apart(NamedTuple):
    """Two options that do not go together."""

    first: str
    second: str
    clash: Clash = lambda first, second: True
    """at which of their values; a flag's is empty"""
    unless: str = ""
    """an option beside which they do go together"""

    def turned(self) -> "Apart":
        """The same, the second first."""
        turned: Clash = lambda first, second: self.clash(second, first)  # noqa: E731
        return Apart(self.second, self.first, turned, self.unless)


def _parts(claim: str) -> tuple[str, str]:
    """Norm and budget of a claim: linf:8/255=0.45."""
    norm, _, rest = claim.partition(":")
    return norm, rest.partition("=")[0]


LOW = ("tf32", "bf16", "fp16")
WORK = ("workers", "hours", "ray", "shared", "cpus-per-cell", "gpus-per-cell", "retry", "plan")
"""options of trainings and evaluations"""
WHERE = Apart("", "device", lambda _, device: device != "auto"), Apart("", "data-root")
CHOOSING = ("at", "attack", "norm", "data", "surrogate", "baseline")
"""options that choose networks, and what is known of them"""
STUDY = ("checkpoints", "data", "limit", "model", "baseline")
"""options that change what a study's file asks"""
OWN = {"report": ("runs", "data", "limit", "model", "baseline")}
"""options that a command takes from its own table alone: a study's file says them, too"""
TOGETHER: Mapping[str, Mapping[str, Sequence[str]]] = {
    "audit": {"policy": ("junit", "sarif")},
    "describe": {
        "labels": (
            "data", "data-root", "split", "noise-kind", "resize", "interpolation", "crop",
            "channels",
        ),
    },
    "report": {"ray": ("shared", "cpus-per-cell", "gpus-per-cell")},
    "train": {"compress": ("no-memory",)},
}  # fmt: skip
"""by command and option, those that go with it alone"""
_SPREAD = Apart("ray", "device", lambda _, devices: devices == "all" or "," in devices)
APART: Mapping[str, Sequence[Apart]] = {
    "audit": (
        Apart("claim", "claim-from"),
        Apart("claim", "norm", lambda claim, norm: norm != _parts(claim)[0]),
        Apart("claim", "epsilon", lambda claim, epsilon: epsilon != _parts(claim)[1]),
        Apart("claim-from", "norm"),
        _SPREAD,
    ),
    "evaluate": (
        *(Apart("dry-run", other) for other in ("json", "html", "track")),
        *(
            Apart("attack", other, lambda attack, _: attack == "clean")
            for other in ("target", "surrogate", "epsilon")
        ),
        Apart("attack", "precision", lambda attack, word: attack == "clean" and word in LOW),
        Apart("surrogate", "precision", lambda _, word: word in LOW),
        _SPREAD,
        Apart("ray", "workers"),
        Apart("device", "workers", lambda device, _: device not in ("cpu", "auto")),
    ),
    "power": tuple(Apart(one, o) for one in ("seed-sd", "discordant") for o in CHOOSING),
    "report": (
        *(Apart(one, other) for one in ("only-report", "runs") for other in WORK),
        *(one._replace(first=first) for first in ("only-report", "runs") for one in WHERE),
        *(Apart("runs", other) for other in ("amend", "limit", "model", "checkpoints")),
        *(Apart("only-report", other, unless="runs") for other in STUDY),
        Apart("plan", "track"),
    ),
    "train": (
        Apart("steps", "epochs"),
        Apart("noise-kind", "noise-stratified", lambda kind, _: kind.startswith("file:")),
    ),
}
"""by command: of two that stand above all tables the second is left out"""


def pairs_of(command: str) -> list[Apart]:
    """The pairs of a command's options that do not go together."""
    return [*APART.get(command, ()), *(_of_recipes() if command == "train" else ())]


def _of_recipes() -> Iterator[Apart]:
    """Settings of a training that play no part beside the value of another."""
    from robustkit.training.recipe import FURTHER, GOES_WITH  # no other command needs it

    def vain(word: str, text: str, *, field: str, values: Collection[str]) -> bool:
        key = text.partition("=")[0].strip()
        return word not in values and (field not in FURTHER or key == field)

    for field, (by, values) in GOES_WITH.items():
        option = "recipe-set" if field in FURTHER else field
        yield Apart(by, option, partial(vain, field=field, values=values))


class Option(Protocol):
    """An option of a command, as far as it is asked here."""

    opts: list[str]
    multiple: bool
    is_flag: bool


@dataclass(frozen=True, slots=True)
class OptionFile:
    """What a file says for one command."""

    path: Path
    given: Mapping[str, Texts]
    """by option, without dashes"""

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
    command = arguments[0]
    typed = _typed(arguments, known[command])
    above, own = _read(path, known, free=asked is not None)[command]
    own = _beside(command, own, typed)
    above = _concerned(command, _beside(command, above, own | typed), {*own, *typed})
    return OptionFile(path, given) if (given := above | own) else None


def _beside(
    command: str, given: Mapping[str, Texts], there: Mapping[str, Texts]
) -> dict[str, Texts]:
    """Options of the file without those that are there, and what does not go with these."""
    found = {name: texts for name, texts in given.items() if name not in there}
    for pair in pairs_of(command):
        for one in (pair, pair.turned()):
            if one.first in there and one.unless not in {*there, *found}:
                found = _less(found, one, there[one.first])
    return found


def _concerned(
    command: str, given: Mapping[str, Texts], there: Collection[str]
) -> dict[str, Texts]:
    """What stands above all tables, without what goes with an option that is not there."""
    found = dict(given)
    for pair in pairs_of(command):
        if pair.first in found and pair.unless not in {*there, *found}:
            found = _less(found, pair, found[pair.first])
    there = {*there, *found}
    out = {
        n for one, others in TOGETHER.get(command, {}).items() if one not in there for n in others
    }
    return {name: texts for name, texts in found.items() if name not in out}


def _less(given: dict[str, Texts], pair: Apart, first: Texts) -> dict[str, Texts]:
    """Options without the values of a pair's second that do not go with the first's."""
    if pair.second not in given:
        return given
    texts = given[pair.second] or ("",)  # a flag's
    kept = tuple(text for text in texts if not any(pair.clash(x, text) for x in first or ("",)))
    if kept == texts:
        return given
    return {name: t for name, t in given.items() if name != pair.second} | (
        {pair.second: kept} if kept else {}
    )


def value_of(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option, the last one where there are several."""
    found = None
    for place, argument in enumerate(arguments):
        if argument == option and place + 1 < len(arguments):
            found = arguments[place + 1]
        elif argument.startswith(f"{option}="):
            found = argument.partition("=")[2]
    return found


def _typed(arguments: Sequence[str], options: Mapping[str, Option]) -> dict[str, Texts]:
    """The options of a command line with their values; a flag has none."""
    found: dict[str, Texts] = {}
    for place, argument in enumerate(arguments):
        if argument == "--":
            break
        if not argument.startswith("--"):
            continue
        name, given, text = argument[2:].partition("=")
        texts: Texts = (text,) if given else ()
        if not given and name in options and not options[name].is_flag:
            texts = tuple(arguments[place + 1 : place + 2])
        found[name] = found.get(name, ()) + texts
    return found


def _named(options: Sequence[Option]) -> dict[str, Option]:
    names = {opt[2:]: option for option in options for opt in option.opts if opt.startswith("--")}
    return {name: option for name, option in names.items() if name not in NEVER}


def _read(
    path: Path, known: Mapping[str, Mapping[str, Option]], *, free: bool
) -> dict[str, tuple[dict[str, Texts], dict[str, Texts]]]:
    """What the file says, for every command: above all tables and not in its own, then in that."""
    table = read_toml(path)
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    for key in tables:
        if key not in known:
            raise InputError(f"{path}: {UnknownName('command', key, known)}")
    anywhere = {name for options in known.values() for name in options}
    above = _hyphens({k: v for k, v in table.items() if k not in tables}, anywhere, str(path))
    several = {k for options in known.values() for k, one in options.items() if one.multiple}
    lists = {key for key, value in above.items() if isinstance(value, list)} & several
    found = {}
    for command, options in known.items():
        where = f"{path}: [{command}]"
        own = _hyphens(tables.get(command, {}), options, where)
        single = {key for key in lists if key in options and not options[key].multiple}
        not_its = {*own, *OWN.get(command, ()), *single}
        general = {k: v for k, v in above.items() if k in options and k not in not_its}
        texts = partial(_texts, options=options, free=free)
        found[command] = texts(general, where=str(path)), texts(own, where=where)
    return found


def _texts(
    table: Mapping[str, Any], options: Mapping[str, Option], where: str, free: bool
) -> dict[str, Texts]:
    given = {key: _given(key, value, options[key], where, free) for key, value in table.items()}
    return {key: texts for key, texts in given.items() if texts is not None}


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


def _given(name: str, value: Any, option: Option, where: str, free: bool) -> Texts | None:
    """The texts of an option; None for a flag that is off.

    Raises:
        InputError: a value of another kind, or one that a file must not set.
    """
    where = f"{where}: {name}"
    if option.is_flag:
        if not isinstance(value, bool):
            raise InputError(f"{where}: expected true or false, got {quoted(value)}")
        texts: Texts = ()
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
