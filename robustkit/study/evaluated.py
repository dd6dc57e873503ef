"""Evaluated networks found by name, and which of their records belong together. Needs no torch.

    names --Finder--> groups of networks --sides--> rows

A group is one network, or the networks of one method over seeds.
"""

import json
import shlex
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fractions import Fraction
from functools import cached_property
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from robustkit.errors import InputError, RecordError
from robustkit.files import canonical, digest, file_digest, shipped
from robustkit.protocol import epsilon, parse
from robustkit.study.brought import FIELD, matches
from robustkit.study.rows import UNBROKEN, Rows, read

if TYPE_CHECKING:
    from robustkit.record import Evaluation

CLEAN = "clean"
"""the level at which nothing is attacked"""
FEATURES = ("loss", "model", "trained_on", "label_noise", "data_fraction")
"""by what methods are told apart where only records say how networks were made"""
NETWORK = ("weights", "model", "mean", "std")
"""networks of two records are the same one where these are"""
Right = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Record:
    """One evaluation, on file or in memory."""

    header: Mapping[str, Any]
    source: "Path | Evaluation"
    started: str = ""
    """when it was made, in UTC"""

    @property
    def checkpoint(self) -> Mapping[str, Any]:
        """What is known of the network."""
        made: Mapping[str, Any] = self.header["checkpoint"]
        return made

    @property
    def identity(self) -> str:
        """Equal for equal networks, wherever their files stand."""
        return canonical([self.checkpoint[key] for key in NETWORK])

    @cached_property
    def rows(self) -> Rows:
        """Which budget broke each image."""
        if isinstance(self.source, Path):
            return read(self.source)
        budgets = self.source.epsilons
        broken_at = self.source.broken_at
        places = np.searchsorted([0.0, *map(float, budgets)], broken_at)
        broken = np.where(np.isinf(broken_at), UNBROKEN, places).astype(np.int8)
        return Rows(self.header, broken, tuple(e.text for e in budgets))


@dataclass(frozen=True, slots=True)
class Network:
    """A network and its evaluations."""

    name: str
    """what the user may call it: the path of a checkpoint or of a record"""
    seed: int | None
    records: tuple[Record, ...]
    fields: tuple[tuple[str, str], ...] = ()
    """what a pattern found in its name, but for the seed"""


@dataclass(frozen=True, slots=True)
class Group:
    """One network, or those of one method over seeds."""

    name: str
    networks: tuple[Network, ...]
    given: str
    """as the user wrote it"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which evaluations are meant, where several are on file."""

    at: tuple[str, ...] = ()
    """budgets, and "clean" for no attack; everything that is on file where empty"""
    attack: str | None = None
    """name of the protocol, or the beginning of its digest"""
    data: str | None = None
    """name of the data set, or the beginning of its digest"""
    surrogate: str | None = None
    """path of the network whose attacks were transferred; None for attacks on the network itself"""

    def __post_init__(self) -> None:
        for text in self.budgets:
            epsilon(text, "--at")

    @property
    def budgets(self) -> tuple[str, ...]:
        """Those of `at`."""
        return tuple(text for text in self.at if text != CLEAN)

    @property
    def largest(self) -> Fraction | float:
        """Largest budget that plays a part; 0 where there is none."""
        return max(map(Fraction, self.budgets), default=0) if self.at else inf


class Condition(NamedTuple):
    """How a network was tested; those that are compared are equal in all of it."""

    data: str
    """digest of images and labels"""
    protocol: str
    """digest of attacks, norm, target and seed"""
    epsilons: tuple[Fraction, ...]
    """Budgets that play a part: what a smaller one broke is broken at a larger one."""
    surrogate: str
    """digest of weights"""
    revision: int
    """of the attack engine"""


def condition(header: Mapping[str, Any], largest: Fraction | float) -> Condition:
    """The condition of a record, as far as it can change a row at budgets up to `largest`."""
    data = header["data"]["digest"]
    if not largest:
        return Condition(data, "", (), "", 0)
    asked = dict(header["protocol"]["resolved"])
    budgets = tuple(Fraction(text) for text in asked.pop("epsilons"))
    return Condition(
        data,
        digest(canonical(asked)),
        tuple(value for value in budgets if value <= largest),
        header.get("surrogate", {}).get("weights", ""),
        header["engine"]["revision"],
    )


# --- from names to groups -------------------------------------------------------------------------


@dataclass(frozen=True)
class Finder:
    """Finds what names mean, among files and in a folder of records."""

    runs: Path
    wanted: Wanted

    @cached_property
    def known(self) -> list[Record]:
        """The records of the folder."""
        return [load(path) for path in sorted(self.runs.glob("*.parquet"))]

    def groups(self, names: Sequence[str]) -> tuple[Group, ...]:
        """The groups that names mean, in their order.

        Raises:
            InputError: nothing of that name, not evaluated yet, one network twice, one seed twice.
        """
        found = self.networks(names)
        groups = [group for name, networks in found for group in split(name, networks)]
        check_twice(groups)
        return named(groups)

    def networks(self, names: Sequence[str]) -> list[tuple[str, list[Network]]]:
        """The networks that each name means.

        Raises:
            InputError: nothing of that name, or not evaluated yet.
        """
        found = [(name, self._meant(name)) for name in names]
        everyone = [network for _, networks in found for network in networks]
        for network in everyone:
            if not network.records:
                like = next((n.records[0] for n in everyone if n.records), None)
                raise InputError(self._not_evaluated(network.name, like))
        return found

    def _meant(self, name: str) -> list[Network]:
        if Path(name).is_file() or not (FIELD.search(name) or set("*?") & set(name)):
            return [self._one(name)]
        found = matches(name)
        if any(one.path.suffix != ".parquet" for one in found):
            return [self._one(str(one.path), one.fields) for one in found]
        records = self._chosen([load(one.path) for one in found])
        if not records:
            raise InputError(f"{name}: none of these records is of {self._attacker}")
        return _by_network(records)

    def _one(self, name: str, fields: Mapping[str, str] = MappingProxyType({})) -> Network:
        if name.endswith(".parquet"):
            records = [load(Path(name))]
        else:
            self._check(name)
            known = _matcher(name)
            records = self._chosen([r for r in self.known if known(r.checkpoint)])
        if len({record.identity for record in records}) > 1:
            raise InputError(
                f"{name}: was evaluated with different architectures or preprocessing; name the "
                f"record that is meant: {', '.join(str(record.source) for record in records)}"
            )
        seed = records[0].checkpoint["seed"] if records else None
        if "seed" in fields:
            seed = _seed(fields["seed"], name)
        others = tuple((key, value) for key, value in fields.items() if key != "seed")
        return Network(name, seed, tuple(records), others)

    def _check(self, name: str) -> None:
        """Nothing, if a checkpoint of that name is there, or a record of it."""
        paths = {_plain(record.checkpoint["path"]) for record in self.known}
        if Path(name).is_dir():
            raise InputError(f"{name}: is a folder; name records or checkpoints in it: '{name}/*'")
        if not _located(name).is_file() and _plain(name) not in paths:
            close = get_close_matches(_plain(name), paths, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; give the path of either"
            raise InputError(f"{name}: no such file, and no record of it in {self.runs}{hint}")

    def _chosen(self, records: Iterable[Record]) -> list[Record]:
        """Those attacked by way of the surrogate that is meant, if any is."""
        if self.wanted.surrogate is None:
            return [record for record in records if "surrogate" not in record.header]
        meant = _matcher(self.wanted.surrogate)
        return [r for r in records if "surrogate" in r.header and meant(r.header["surrogate"])]

    @property
    def _attacker(self) -> str:
        by = self.wanted.surrogate
        return "an attack on the network itself" if by is None else f"a transfer from {by}"

    def _not_evaluated(self, name: str, like: Record | None) -> str:
        """What to do, with the very command."""
        was = any(_plain(name) == _plain(r.checkpoint["path"]) for r in self.known)
        changed = was and not any(map(_matcher(name), (r.checkpoint for r in self.known)))
        state = "has changed since its evaluation" if changed else "has no such evaluation"
        header = like.header if like else None
        run = evaluate_command(name, header, self.runs, self.wanted)
        return f"{name}: {state} in {self.runs} ({self._attacker}); run: {run}"


def load(path: Path) -> Record:
    """A record without its rows.

    Raises:
        RecordError: no such file, an evaluation that has not finished, or not one of ours.
    """
    if path.with_suffix(".partial").is_dir() and not path.is_file():
        raise RecordError(f"{path}: not finished; run its robustkit evaluate again, which goes on")
    try:
        metadata = pq.read_schema(path).metadata or {}
        header = json.loads(metadata[b"robustkit.header"])
        run = json.loads(metadata[b"robustkit.run"])
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise RecordError(f"{path}: not a robustkit evaluation: {error}") from error
    return Record(header, path, run.get("started", ""))


def _located(name: str) -> Path:
    """The file of a checkpoint that may be a shipped one."""
    inside = shipped("data") / f"{name}.safetensors"
    return inside if not Path(name).exists() and inside.is_file() else Path(name)


def _matcher(name: str) -> Callable[[Mapping[str, Any]], bool]:
    """Tells whether a header speaks of a checkpoint: by its bytes, or by its path if it is gone."""
    file = _located(name)
    if file.is_file():
        sha256 = file_digest(file)
        return lambda checkpoint: bool(checkpoint["sha256"] == sha256)
    return lambda checkpoint: _plain(checkpoint["path"]) == _plain(name)


def _plain(path: object) -> str:
    """One way to write a path."""
    return str(Path(str(path)))


def _seed(text: str, where: str) -> int:
    if not text.isdigit():
        raise InputError(f"{where}: seed {text!r} is no whole number")
    return int(text)


def _by_network(records: Iterable[Record]) -> list[Network]:
    """Records, those of one network together."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.identity, []).append(record)
    return [
        Network(str(own[0].source), own[0].checkpoint["seed"], tuple(own)) for own in found.values()
    ]


def split(given: str, networks: Sequence[Network]) -> Iterable[Group]:
    """Networks of one name or pattern, by method."""
    if len(networks) == 1 and not networks[0].fields:
        (one,) = networks
        path = one.records[0].checkpoint["path"]
        yield Group(str(path) if one.name.endswith(".parquet") else one.name, (one,), given)
        return
    methods: dict[str, list[Network]] = {}
    for name, network in zip(_methods(networks), networks, strict=True):
        methods.setdefault(name or given, []).append(network)
    for name, own in sorted(methods.items()):
        yield Group(name, in_order(own), given)


def in_order(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Networks by their seeds, those without one last."""
    return tuple(sorted(networks, key=lambda one: (one.seed is None, one.seed or 0)))


def _methods(networks: Sequence[Network]) -> list[str]:
    """What each network's method is called: by its loss, and by what differs among them."""
    told: list[dict[str, Any]] = [
        dict(one.fields) or {key: one.records[0].checkpoint[key] for key in FEATURES}
        for one in networks
    ]
    varied = [key for key in told[0] if len({str(one[key]) for one in told}) > 1]
    shown = [key for key in told[0] if key == "loss" or key in varied]
    return [
        ", ".join(_feature(key, one[key]) for key in shown if one[key] is not None) for one in told
    ]


def _feature(key: str, value: object) -> str:
    """'l2-margin', 'label noise 0.2'."""
    number = str(value).replace(".", "", 1).isdigit()
    return f"{key.replace('_', ' ')} {value}" if number else str(value)


def named(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Groups by names that tell them apart."""
    often, parts = Counter(g.name for g in groups), Counter(g.given for g in groups)

    def name(group: Group) -> str:
        if often[group.name] == 1:
            return group.name
        return group.given if parts[group.given] == 1 else f"{group.name} ({group.given})"

    return tuple(replace(group, name=name(group)) for group in groups)


def check_twice(groups: Sequence[Group]) -> None:
    """Nothing, if every network is there once, and every seed of a group.

    Raises:
        InputError: they are not.
    """
    seen: dict[str, str] = {}
    for group in groups:
        seeds: dict[int, str] = {}
        for network in group.networks:
            identity = network.records[0].identity
            if identity in seen:
                raise InputError(f"{network.name} and {seen[identity]} are the same network")
            seen[identity] = network.name
            if network.seed is None:
                continue
            if network.seed in seeds:
                raise InputError(
                    f"{network.name} and {seeds[network.seed]} are both {group.name}, seed "
                    f"{network.seed}; tell them apart by a pattern with more fields, such as "
                    "'nets/{loss}_seed{seed}.pt'"
                )
            seeds[network.seed] = network.name


# --- the evaluations that belong together ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared: which images each network of a method got right."""

    name: str
    seeds: tuple[int | None, ...]
    rows: tuple[Rows, ...]

    def right(self, level: str) -> Right:
        """Right at a level, whichever way its number is written, [S, N]."""
        return np.stack([rows.right(_text(rows, level)) for rows in self.rows])

    def of(self, seeds: Sequence[int]) -> "Side":
        """The networks of these seeds, in their order."""
        places = [self.seeds.index(seed) for seed in seeds]
        return replace(self, seeds=tuple(seeds), rows=tuple(self.rows[i] for i in places))


def _text(rows: Rows, level: str) -> str:
    """A level as a record writes it; "" without attack."""
    if level == CLEAN:
        return ""
    return next((text for text in rows.epsilons if Fraction(text) == Fraction(level)), level)


def sides(groups: Sequence[Group], wanted: Wanted, runs: Path = Path("runs")) -> tuple[Side, ...]:
    """The rows of groups under the one condition under which all were evaluated.

    Raises:
        InputError: no such condition, or several; the message lists them, or has the command that
            makes the evaluation that is missing.
    """
    networks = [network for group in groups for network in group.networks]
    offered = [_offered(network, wanted, runs) for network in networks]
    common = set(offered[0]).intersection(*offered)
    newest = max((c.revision for c in common), default=0)
    common = {c for c in common if c.revision == newest}
    if not common:
        raise InputError(_different(networks, offered, wanted, runs))
    if len(common) > 1:
        raise InputError(_ambiguous([offered[0][c] for c in common]))
    (chosen,) = common
    rows = iter([records[chosen].rows for records in offered])
    return tuple(
        Side(g.name, tuple(n.seed for n in g.networks), tuple(next(rows) for _ in g.networks))
        for g in groups
    )


def _offered(network: Network, wanted: Wanted, runs: Path) -> dict[Condition, Record]:
    """A network's records that fit what is wanted; of two by one condition the later."""
    fitting = [record for record in network.records if not _misfit(record.header, wanted)]
    if not fitting:
        first = network.records[0].header
        run = evaluate_command(_path(network), first, runs, wanted)
        raise InputError(f"{network.name}: {_misfit(first, wanted)}; run: {run}")
    fitting.sort(key=lambda record: record.started)
    return {condition(record.header, wanted.largest): record for record in fitting}


def _misfit(header: Mapping[str, Any], wanted: Wanted) -> str:
    """Why a record is not what is wanted; "" if it is."""
    data, protocol = header["data"], header["protocol"]
    if wanted.data and not _called(wanted.data, data):
        return f"was evaluated on {data['name']}, not on {wanted.data}"
    if wanted.attack and wanted.largest and not _called(wanted.attack, protocol):
        return f"was attacked by {protocol['name']}, not by {wanted.attack}"
    there = {Fraction(text) for text in protocol["resolved"]["epsilons"]}
    texts = [text for text in wanted.budgets if Fraction(text) not in there]
    if texts:
        return f"was not attacked at ε = {', '.join(texts)}, only at {_budgets(header)}"
    return ""


def _called(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether a protocol or data set is meant, by its name or the beginning of its digest."""
    return name == entry["name"] or (len(name) >= 6 and str(entry["digest"]).startswith(name))


def _path(network: Network) -> str:
    """The checkpoint's path."""
    recorded = network.name.endswith(".parquet")
    return str(network.records[0].checkpoint["path"]) if recorded else network.name


def _budgets(header: Mapping[str, Any]) -> str:
    return ", ".join(entry["epsilon"] for entry in header["protocol"]["epsilons"]) or "none"


def in_words(header: Mapping[str, Any]) -> str:
    """The condition of a record, for reading."""
    data, protocol = header["data"], header["protocol"]
    by = f" by transfer from {header['surrogate']['path']}" if "surrogate" in header else ""
    target = protocol["resolved"]["target"]
    towards = "" if target == "none" else f" towards {target}"
    return (
        f"{protocol['name']}{towards}{by} ({protocol['norm']}, ε = {_budgets(header)}) on "
        f"{data['n']:,} {data['split']} images of {data['name']}"
    )


def _ambiguous(records: Sequence[Record]) -> str:
    told = (
        f"{in_words(record.header)} [attack {record.header['protocol']['digest'][:8]}, data "
        f"{record.header['data']['digest'][:8]}]"
        for record in records
    )
    return (
        f"all were evaluated in {len(records)} ways; choose one with --attack, --data (by name or "
        f"digest) and --at, or name records: {'; '.join(sorted(told))}"
    )


def _different(
    networks: Sequence[Network],
    offered: Sequence[Mapping[Condition, Record]],
    wanted: Wanted,
    runs: Path,
) -> str:
    """The first network that was not evaluated as most were, how it differs, and what to run."""
    often = Counter(one for records in offered for one in records)
    usual = max(often, key=often.__getitem__)
    pairs = list(zip(networks, offered, strict=True))
    model, like = next((n, r[usual]) for n, r in pairs if usual in r)
    network, own = next((n, r) for n, r in pairs if usual not in r)
    differs = {one: [x != y for x, y in zip(one, usual, strict=True)] for one in own}
    nearest = min(own, key=lambda one: sum(differs[one]))
    how = _DIFFERENCES[differs[nearest].index(True)]
    run = evaluate_command(_path(network), like.header, runs, wanted)
    clean = "compare --at clean, or " if nearest.data == usual.data else ""
    return (
        f"{network.name} was evaluated {how} than {model.name}: {in_words(own[nearest].header)}; "
        f"{in_words(like.header)}; {clean}run: {run}"
    )


_DIFFERENCES = (
    "on other images",
    "with another attack",
    "at other budgets",
    "by way of another network",
    "by another revision of the attacks",
)
"""how two conditions differ, by field"""


def evaluate_command(path: str, like: Mapping[str, Any] | None, runs: Path, wanted: Wanted) -> str:
    """The command that evaluates a checkpoint as a record's header says, or as is wanted."""
    words = ["robustkit", "evaluate", path]
    words += [*_attack(like, wanted), *_data(like, wanted)]
    if (by := wanted.surrogate or (like or {}).get("surrogate", {}).get("path")) is not None:
        words += ["--surrogate", by]
    if runs != Path("runs"):
        words += ["--out", str(runs)]
    return shlex.join(words)


def _attack(like: Mapping[str, Any] | None, wanted: Wanted) -> Iterable[str]:
    """The protocol of a header, unless another is wanted, with the budgets of both."""
    same = like is not None and _called(wanted.attack or like["protocol"]["name"], like["protocol"])
    texts = list(wanted.budgets)
    if like is None or not same:
        yield from ("--attack", wanted.attack) if wanted.attack else ()
    else:
        protocol, asked = like["protocol"], like["protocol"]["resolved"]
        yield from ("--attack", protocol["name"], *_settings(protocol))
        yield from ("--targeted", asked["target"]) if asked["target"] != "none" else ()
        yield from ("--seed", str(asked["seed"])) if asked["seed"] else ()
        there = {Fraction(text) for text in asked["epsilons"]}
        texts = [text for text in texts if Fraction(text) not in there]
        texts = [*(entry["epsilon"] for entry in protocol["epsilons"]), *texts]
    for text in texts:
        yield from ("--epsilon", text)


def _data(like: Mapping[str, Any] | None, wanted: Wanted) -> Iterable[str]:
    """The images of a header, unless others are wanted."""
    if like is None or not _called(wanted.data or like["data"]["name"], like["data"]):
        yield from ("--data", wanted.data) if wanted.data else ()
        return
    data = like["data"]
    yield from ("--data", data["name"])
    yield from ("--split", data["split"]) if data["split"] not in ("test", "all") else ()
    for name, value in data["transform"].items():
        yield from (f"--{name}", str(value))
    yield from ("--limit", str(data["n"]))


def _settings(protocol: Mapping[str, Any]) -> Iterable[str]:
    """`--set` for every number that is not the one of the protocol's file."""
    if not protocol["file"]:
        return
    name = protocol["name"]
    usual = parse(tomllib.loads(protocol["file"]), name, name).resolved()["attacks"]
    pairs = zip(usual, protocol["resolved"]["attacks"], strict=True)
    changes = {
        f"{now['kind']}.{key}={value}": None
        for before, now in pairs
        for key, value in now.items()
        if before.get(key) != value
    }
    for change in changes:
        yield from ("--set", change)
