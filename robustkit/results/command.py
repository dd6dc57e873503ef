"""The command line that makes an evaluation which is missing."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustkit.data.shelf import path_given
from robustkit.errors import InputError
from robustkit.files import find, is_file, read_text
from robustkit.models import names_code
from robustkit.parsing import parse_toml
from robustkit.protocol import budget_key, parse_protocol, protocol_options, search_of
from robustkit.results.records import RecordQuery

TRANSFORM = ("resize", "crop", "channels", "interpolation")
"""of how images are made, what is asked for; a pipeline is the checkpoint's, pairs the data's"""


def evaluate_command(
    path: str,
    like: Mapping[str, Any] | None,
    runs: Path,
    query: RecordQuery,
    made: Mapping[str, Any] | None = None,
) -> str:
    """The command that evaluates a checkpoint as a record's header says, or as is asked.

    Args:
        path: of the checkpoint.
        like: the header.
        runs: folder of the records.
        query: what is asked.
        made: what an earlier record says of this checkpoint.
    """
    words = ["robustkit", "evaluate", path]
    words += [*_attack(like, query), *_data(like, query), *_network(like, made)]
    if (by := query.surrogate or (like or {}).get("surrogate", {}).get("path")) is not None:
        words += ["--surrogate", by]
    if runs != Path("runs"):
        words += ["--out", str(runs)]
    return shlex.join(words)


def _attack(like: Mapping[str, Any] | None, query: RecordQuery) -> Iterable[str]:
    """The protocol of a header, unless another is asked, with the budgets of both."""
    texts, own = list(query.budgets), like and like["protocol"]
    if own is None or not _same(own, query):
        name = query.attack or (own["name"] if own else None)
        yield from ("--attack", name) if name else ()
        yield from ("--norm", query.norm) if query.norm else ()
        # of a file that has changed since the budgets are still those that are meant
        alike = own and name and of_file(name, own) and query.norm in (None, own["norm"])
        own = own if alike else None
    else:
        path = query.attack if query.attack and of_file(query.attack, own) else _named(own)
        yield from (*protocol_options({**own, "name": path}), *_settings(own))
        asked = own["resolved"]
        yield from ("--target", asked["target"]) if asked["target"] != "none" else ()
        yield from ("--seed", str(asked["seed"])) if asked["seed"] else ()
    if own is not None:
        there = set(map(budget_key, own["resolved"]["epsilons"]))
        texts = [text for text in texts if budget_key(text) not in there]
        texts = [*(entry["epsilon"] for entry in own["epsilons"]), *texts]
    for text in texts:
        yield from ("--epsilon", text)


def _named(protocol: Mapping[str, Any]) -> str:
    """A protocol by its name, or as a file, where that name now means another protocol or none."""
    name = str(protocol["name"])
    with suppress(InputError):
        if not changed_since(str(find("attacks", name)), protocol):
            return name
    return f"{name}.toml"


def _same(protocol: Mapping[str, Any], query: RecordQuery) -> bool:
    """Whether a header's protocol is what is asked, as far as anything is."""
    known = called(query.attack or protocol["name"], protocol)
    return known and query.norm in (None, protocol["norm"])


def _data(like: Mapping[str, Any] | None, query: RecordQuery) -> Iterable[str]:
    """The images of a header, unless others are asked."""
    if like is None or (query.data and not called(query.data, like["data"])):
        yield from ("--data", query.data) if query.data else ()
        return
    for name, values in data_options(like["data"]).items():
        usual = name == "--split" and like["data"]["split"] in ("test", "all")
        yield from (word for value in values if not usual for word in (name, value))


def _network(like: Mapping[str, Any] | None, made: Mapping[str, Any] | None) -> Iterable[str]:
    """How the checkpoint was read before; else what was given for another, and is not in a file."""
    if made is None:
        if like is None:
            return
        other = like["checkpoint"]
        code = other.get("model") if names_code(other.get("model") or "") else None
        made = {key: other.get(key) for key in ("preprocessing", "mean", "std")} | {"model": code}
    for name, values in network_options(made).items():
        yield from (word for value in values for word in (name, value))
    yield from network_flags([made])


# --- what was given, as an evaluation's page has it, too ------------------------------------------


def network_options(checkpoint: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """The options by which a checkpoint was read; its own mean and deviation it brings along."""
    given = ("mean", "std") if checkpoint.get("preprocessing") == "given" else ()
    lists = [key for key in ("ignore", "rename") if checkpoint.get(key)]
    key = checkpoint.get("weights_key")
    return {
        "--model": [checkpoint["model"]] if checkpoint.get("model") else [],
        **{f"--{name}": [",".join(map(str, checkpoint[name]))] for name in given},
        "--weights": [key] if key else [],
        **{f"--{name}": [",".join(checkpoint[name])] for name in lists},
    }


def network_flags(networks: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was switched on for a network and, if there is one, its surrogate."""
    # of a program, and of nothing else, the weights' digest is that of the file
    files = [one for one in networks if one.get("sha256")]
    programs = [one for one in files if one.get("weights") == one["sha256"]]
    alone = ["--image-by-image"] if networks[0].get("image_by_image") else []
    return [*alone, *(["--trust-program"] if programs else [])]


def data_options(data: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """The options by which images were named and made, of a record's entry."""
    source, made = data["source"], data["transform"]
    classes = source.get("class_map", {}).get("classes")
    return {
        "--data": [place(data)],
        "--data-root": [source["folder"]]
        if "pairs" in made and place(data) == data["name"]
        else [],
        "--split": [data["split"]],
        "--limit": [str(data["n"])],
        **{f"--{name}": [str(made[name])] for name in TRANSFORM if made.get(name)},
        "--classes": [classes] if classes else [],
    }


def place(data: Mapping[str, Any]) -> str:
    """What `--data` was: a path, or a name on the shelf."""
    return path_given(data.get("title", ""), data["source"] or {}) or str(data["name"])


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
    """Whether a protocol or data set is meant: by name, path, or the beginning of its digest.

    A protocol by the path of its file, as that is now, or where it is gone, by its name.
    """
    if name == entry["name"] or (len(name) >= 6 and str(entry["digest"]).startswith(name)):
        return True
    if "source" in entry:
        return Path(name).absolute() == Path(place(entry)).absolute()
    return of_file(name, entry) and not changed_since(name, entry)


def of_file(name: str, protocol: Mapping[str, Any]) -> bool:
    """Whether a path is that of a protocol's file, as far as its name tells."""
    return name.endswith(".toml") and Path(name).stem == protocol["name"]


def changed_since(name: str, protocol: Mapping[str, Any]) -> bool:
    """Whether a protocol's file, if it is there, has other attacks than when it was run."""

    def attacks(text: str) -> tuple[object, ...]:
        found = parse_protocol(parse_toml(text), name, name, norm=protocol["norm"])
        return found.attacks, found.target, found.search

    if not is_file(Path(name)):
        return False
    try:
        return attacks(read_text(Path(name))) != attacks(protocol["file"])
    except (ValueError, InputError):  # it is no protocol any more, or none of that norm
        return True
