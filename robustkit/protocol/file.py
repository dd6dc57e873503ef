"""A protocol's file: read strictly for one norm, written with every number spelled out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from robustkit.errors import InputError, ProtocolError, UnknownName
from robustkit.files import build, find, names, read_text, read_toml
from robustkit.parsing import parse_integer, parse_toml
from robustkit.protocol.attacks import KINDS, Attack, kind_of
from robustkit.protocol.budgets import parse_epsilon
from robustkit.protocol.norms import BALLS, NORMS, Norm, symbol
from robustkit.protocol.protocol import (
    BudgetOrder,
    Protocol,
    Target,
    checked_protocol,
    search_of,
)

Table = Mapping[str, Any]
Given = Protocol | Attack | Sequence[Attack] | str | Path
"""what a call from Python may be given as its attack"""


@dataclass(frozen=True, slots=True)
class _ProtocolFile:
    """The top level of a protocol's TOML file: what holds in every norm that it has."""

    title: str
    norm: tuple[Norm, ...]
    """the first is the default"""
    attack: tuple[dict, ...] | None = None  # type: ignore[type-arg]
    epsilon: tuple[str, ...] = ()
    target: Target = "none"
    search: BudgetOrder = "bisect"


@dataclass(frozen=True, slots=True)
class _NormSection:
    """What a file says of one norm, `[l2]`. A key here stands in the place of the top level's."""

    title: str | None = None
    attack: tuple[dict, ...] | None = None  # type: ignore[type-arg]
    epsilon: tuple[str, ...] | None = None
    target: Target | None = None
    search: BudgetOrder | None = None


@dataclass(frozen=True, slots=True)
class _Search:
    """The setting of a protocol that belongs to none of its attacks."""

    search: BudgetOrder


def load_protocol(name: str, settings: Sequence[str] = (), norm: Norm | None = None) -> Protocol:
    """A protocol in one norm, with settings applied, budgets as in its file.

    Args:
        name: on the shelf `attacks/`, or a path.
        settings: changes to its attacks, "steps=100", "pgd.steps=100", or "search=scan".
        norm: one that the file has; otherwise its default.

    Raises:
        UnknownName: no such protocol.
        ProtocolError: no such norm in it, or a key, type or number that makes no sense; the message
            names file and key.
    """
    path = _file(name)
    table = read_toml(path)
    if norm not in (None, *_norms(table)):
        raise ProtocolError(_lacking(path.stem, table, norm))
    text = read_text(path)
    return replace(parse_protocol(table, path.stem, str(path), settings, norm), text=text)


def protocol_of(given: Given, settings: Sequence[str] = (), norm: Norm | None = None) -> Protocol:
    """What a call from Python names as its attack: a protocol, its name or file, or attacks.

    Raises:
        ProtocolError: it is none, or of another norm.
    """
    if isinstance(given, str | Path):
        return load_protocol(str(given), settings, norm)
    if not isinstance(given, Protocol):
        given = Protocol(given, norm)  # type: ignore[arg-type]
    for setting in settings:
        given = _set(given, setting)
    if norm not in (None, given.norm):
        raise ProtocolError(f"{given.name}: is a protocol in {given.norm}, not in {norm}")
    return given


def parse_protocol(
    table: Table,
    name: str,
    where: str,
    settings: Sequence[str] = (),
    norm: Norm | None = None,
) -> Protocol:
    """A protocol from the table of its file; see `load_protocol`."""
    with _as_protocol_error():
        sections: Table = {key: table[key] for key in NORMS if key in table}
        top = {key: value for key, value in table.items() if key not in sections}
        file = build(_ProtocolFile, top | _as_list(top), where)
        _check_norms(file, sections, where)
        # all of them, so that a slip in one norm is not found only on the day that it is asked for
        found = {n: _in_norm(file, n, sections.get(n), name, where) for n in file.norm}
        if norm not in (None, *found):
            raise ProtocolError(f"{where}: has no {norm} version, only {', '.join(found)}")
        protocol = found[norm or file.norm[0]]
    for setting in settings:
        protocol = _set(protocol, setting)
    return checked_protocol(protocol)


def norms_of(name: str) -> tuple[str, ...]:
    """The norms that a protocol's file has, the default first.

    Raises:
        UnknownName: no such protocol.
    """
    return _norms(read_toml(_file(name)))


def default_norm(protocol: Table) -> str:
    """The norm that the file of a header's protocol names first; without a file its own."""
    with suppress(ValueError):
        for norm in _norms(parse_toml(protocol["file"])):
            return norm
    return str(protocol["norm"])


def default_target(protocol: Table) -> str:
    """The target that the file of a header's protocol names in its norm; without a file its own."""
    with suppress(ValueError, TypeError):
        table = parse_toml(protocol["file"])
        if _norms(table):
            section = table.get(protocol["norm"], {})
            return str({**table, **section}.get("target", "none"))
    return target_of(protocol)


def target_of(protocol: Table) -> str:
    """The target of a header's protocol; "none" where any other class will do."""
    return str(protocol.get("resolved", {}).get("target", "none"))


def towards(protocol: Table) -> str:
    """The end of the name of a header's protocol, where it has a target."""
    target = target_of(protocol)
    return "" if target == "none" else f" towards {target}"


def by_transfer(header: Mapping[str, Any]) -> str:
    """The end of an attack's name in a record's header, where it was crafted on another network."""
    return f" by transfer from {header['surrogate']['path']}" if "surrogate" in header else ""


def protocol_in_words(protocol: Table) -> str:
    """A header's protocol by its name and target, with a norm that is not its file's default."""
    own = protocol["norm"]
    norm = "" if own == default_norm(protocol) else f" ({symbol(own)})"
    return f"{protocol['name']}{towards(protocol)}{norm}"


def protocol_options(protocol: Table) -> tuple[str, ...]:
    """A header's protocol as `robustkit evaluate` takes it: --attack pgd --norm l2."""
    own = protocol["norm"]
    return (
        *("--attack", str(protocol["name"])),
        *(() if own == default_norm(protocol) else ("--norm", str(own))),
    )


def protocol_toml(protocol: Table) -> str:
    """The protocol of a header as a file with every number spelled out.

    Together with its seed it has the digest of the one that was run.
    """
    resolved = protocol["resolved"]
    search = search_of(resolved)
    head = {key: protocol[key] for key in ("title", "norm")} | {
        "target": resolved["target"],
        **({"search": search} if search else {}),
        "epsilon": [entry["epsilon"] for entry in protocol["epsilons"]],
    }
    if not resolved["attacks"]:
        head["attack"] = []
    return "\n[[attack]]\n".join(map(_toml_lines, [head, *resolved["attacks"]]))


def _toml_lines(table: Table) -> str:
    # strings, whole numbers, booleans and lists of strings read the same in JSON and TOML, but for
    # pairs of surrogates, which TOML forbids, and DEL, which it forbids as it is
    told = {key: json.dumps(value, ensure_ascii=False) for key, value in table.items()}
    return "".join(f"{key} = {text}\n" for key, text in told.items()).replace("\x7f", "\\u007f")


def _file(name: str) -> Path:
    """The file that a protocol's name means."""
    try:
        return find("attacks", name)
    except UnknownName as error:
        attack, _, norm = name.rpartition("-")
        if norm not in NORMS or attack not in names("attacks"):
            raise
        hint = f"did you mean --attack {attack} --norm {norm}?"
        raise ProtocolError(f"unknown attack {name!r}; {hint}") from error


# --- norms ----------------------------------------------------------------------------------------


def _as_list(table: Table) -> dict[str, Any]:
    """The key `norm` as a list, of which a file with one norm writes the only word."""
    norm = table.get("norm")
    return {} if norm is None else {"norm": norm if isinstance(norm, list) else [norm]}


def _norms(table: Table) -> tuple[str, ...]:
    """The norms that a file's table names, the default first; not yet checked."""
    return tuple(map(str, _as_list(table).get("norm", ())))


def _check_norms(file: _ProtocolFile, sections: Table, where: str) -> None:
    if not file.norm or len(set(file.norm)) < len(file.norm):
        raise ProtocolError(f"{where}: norm: name one or more, each once")
    for section in sections:
        if section not in file.norm:
            raise ProtocolError(
                f"{where}: [{section}]: not among its norms, {', '.join(file.norm)}"
            )
    if len(file.norm) > 1 and file.epsilon:
        raise ProtocolError(
            f"{where}: epsilon: a budget belongs to one norm; put it under [{file.norm[0]}]"
        )


def _in_norm(
    file: _ProtocolFile, norm: Norm, section: Table | None, name: str, where: str
) -> Protocol:
    """What a file says for one of its norms."""
    inside = where if section is None else f"{where}: [{norm}]"
    own = build(_NormSection, {} if section is None else _table(section, inside), inside)
    entries, key = (
        (own.attack, f"{norm}.attack") if own.attack is not None else (file.attack, "attack")
    )
    if entries is None:
        raise ProtocolError(f"{inside}: the key 'attack' is missing")
    attacks = tuple(_attack(e, f"{where}: [[{key}]] {i}") for i, e in enumerate(entries, 1))
    texts = file.epsilon if own.epsilon is None else own.epsilon
    if texts and not attacks:
        raise ProtocolError(f"{inside}: has no attack, so it cannot have budgets")
    title, target, search = (
        getattr(own, key) or getattr(file, key) for key in ("title", "target", "search")
    )
    budgets = tuple(parse_epsilon(text, f"{inside}: epsilon") for text in texts)
    found = Protocol(attacks, norm, budgets, target, search, name=name, title=title)
    return checked_protocol(found)


def _lacking(name: str, table: Table, norm: Norm | None) -> str:
    """That a file has no such norm, which it has, and which attacks have it.

    Those of its kinds; where the norm is no ball, and has attacks of its own, any.
    """
    kinds = _kinds(table)
    others = {other: read_toml(find("attacks", other)) for other in names("attacks")}
    having = [other for other, t in others.items() if norm in _norms(t)]
    like = [other for other in having if norm not in BALLS or kinds & _kinds(others[other])]
    hint = f"; {', '.join(like)} {'has' if len(like) == 1 else 'have'} one" if like else ""
    return f"{name}: has no {norm} version, only {', '.join(_norms(table))}{hint}"


def _kinds(table: Table) -> set[str]:
    """The kinds of a table's attacks; of a table that cannot be read, none."""
    attacks = table.get("attack", ())
    return {str(entry.get("kind")) for entry in attacks if isinstance(entry, dict)}


@contextmanager
def _as_protocol_error() -> Iterator[None]:
    """Whatever is refused inside, is refused as a protocol."""
    try:
        yield
    except ProtocolError:
        raise
    except InputError as error:
        raise ProtocolError(str(error)) from error


def _table(value: object, where: str) -> Table:
    if not isinstance(value, Mapping):
        raise ProtocolError(f"{where}: expected a table, got {value!r}")
    return value


# --- attacks --------------------------------------------------------------------------------------


def _attack(entry: Mapping[str, Any], where: str) -> Attack:
    if "kind" not in entry:
        raise ProtocolError(f"{where}: the key 'kind' is missing")
    if entry["kind"] not in KINDS:
        raise ProtocolError(f"{where}: {UnknownName('kind', str(entry['kind']), KINDS)}")
    return build(KINDS[entry["kind"]], {k: v for k, v in entry.items() if k != "kind"}, where)


def _set(protocol: Protocol, setting: str) -> Protocol:
    """Apply `search=value`, or `key=value` or `kind.key=value` to every attack that has the key."""
    key, equals, text = setting.partition("=")
    word, dot, name = key.strip().rpartition(".")
    if equals and key.strip() == "search":
        with _as_protocol_error():
            chosen = build(_Search, {name: text.strip()}, f"--set {setting}")
            return replace(protocol, search=chosen.search)
    attacks = protocol.attacks
    have = [a for a in attacks if (not dot or kind_of(a) == word) and hasattr(a, name)]
    if not equals or not have:
        known = sorted({f.name for a in attacks for f in fields(a)} | {"search"})
        problem = UnknownName("setting", name, known) if equals else "expected key=value"
        raise ProtocolError(f"--set {setting}: {problem}")
    changed = (_changed(a, name, text.strip(), setting) if a in have else a for a in attacks)
    return replace(protocol, attacks=tuple(changed))


def _changed(attack: Attack, name: str, text: str, setting: str) -> Attack:
    """The attack with one field read from text, as its TOML would be."""
    current = getattr(attack, name)
    value: object = text
    if isinstance(current, bool):
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif isinstance(current, int):
        with suppress(ValueError):
            value = parse_integer(text)
    given = {
        f.name: v for f in fields(attack) if not isinstance(v := getattr(attack, f.name), Fraction)
    }
    exact = {
        f.name: str(v) for f in fields(attack) if isinstance(v := getattr(attack, f.name), Fraction)
    }
    try:
        return build(type(attack), given | exact | {name: value}, f"--set {setting}")
    except InputError as error:
        raise ProtocolError(str(error)) from error
