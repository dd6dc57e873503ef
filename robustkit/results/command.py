"""The command line that makes an evaluation which is missing."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from robustkit.parsing import parse_toml
from robustkit.protocol import budget_key, parse_protocol, protocol_options, search_of
from robustkit.results.records import RecordQuery


def evaluate_command(
    path: str, like: Mapping[str, Any] | None, runs: Path, query: RecordQuery
) -> str:
    """The command that evaluates a checkpoint as a record's header says, or as is asked."""
    words = ["robustkit", "evaluate", path]
    words += [*_attack(like, query), *_data(like, query)]
    if (by := query.surrogate or (like or {}).get("surrogate", {}).get("path")) is not None:
        words += ["--surrogate", by]
    if runs != Path("runs"):
        words += ["--out", str(runs)]
    return shlex.join(words)


def _attack(like: Mapping[str, Any] | None, query: RecordQuery) -> Iterable[str]:
    """The protocol of a header, unless another is asked, with the budgets of both."""
    texts = list(query.budgets)
    if like is None or not _same(like["protocol"], query):
        name = query.attack or (like["protocol"]["name"] if like else None)
        yield from ("--attack", name) if name else ()
        yield from ("--norm", query.norm) if query.norm else ()
    else:
        protocol, asked = like["protocol"], like["protocol"]["resolved"]
        yield from (*protocol_options(protocol), *_settings(protocol))
        yield from ("--target", asked["target"]) if asked["target"] != "none" else ()
        yield from ("--seed", str(asked["seed"])) if asked["seed"] else ()
        there = set(map(budget_key, asked["epsilons"]))
        texts = [text for text in texts if budget_key(text) not in there]
        texts = [*(entry["epsilon"] for entry in protocol["epsilons"]), *texts]
    for text in texts:
        yield from ("--epsilon", text)


def _same(protocol: Mapping[str, Any], query: RecordQuery) -> bool:
    """Whether a header's protocol is what is asked, as far as anything is."""
    known = called(query.attack or protocol["name"], protocol)
    return known and query.norm in (None, protocol["norm"])


def _data(like: Mapping[str, Any] | None, query: RecordQuery) -> Iterable[str]:
    """The images of a header, unless others are asked."""
    if like is None or not called(query.data or like["data"]["name"], like["data"]):
        yield from ("--data", query.data) if query.data else ()
        return
    data = like["data"]
    yield from ("--data", data["name"])
    yield from ("--split", data["split"]) if data["split"] not in ("test", "all") else ()
    for name, value in data["transform"].items():
        # a pipeline is the checkpoint's own, which is taken without being asked for
        yield from (f"--{name}", str(value)) if name != "pipeline" else ()
    yield from ("--limit", str(data["n"]))


def _settings(protocol: Mapping[str, Any]) -> Iterable[str]:
    """`--set` for whatever is not as the protocol's file has it."""
    if not protocol["file"]:
        return
    name, table = protocol["name"], parse_toml(protocol["file"])
    usual = parse_protocol(table, name, name, norm=protocol["norm"])
    if search_of(protocol["resolved"]) not in (None, usual.search):
        yield from ("--set", f"search={search_of(protocol['resolved'])}")
    pairs = zip(usual.resolved()["attacks"], protocol["resolved"]["attacks"], strict=True)
    changes = {
        f"{now['kind']}.{key}={value}": None
        for before, now in pairs
        for key, value in now.items()
        if before.get(key) != value
    }
    for change in changes:
        yield from ("--set", change)


def called(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether a protocol or data set is meant, by its name or the beginning of its digest."""
    return name == entry["name"] or (len(name) >= 6 and str(entry["digest"]).startswith(name))
