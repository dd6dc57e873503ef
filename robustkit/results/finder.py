"""Evaluated networks found by name, and put together by method.

    names --Finder--> networks --split--> groups

A group is one network, or the networks of one method over seeds.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from robustkit.errors import InputError, RobustkitError
from robustkit.files import canonical, file_digest, is_file, shipped
from robustkit.parsing import parse_integer
from robustkit.results.command import evaluate_command
from robustkit.results.folders import folder_digest
from robustkit.results.metadata import NAMED, check_name, recorded_values, same, setting
from robustkit.results.pattern import FIELD, Match, match_files
from robustkit.results.records import (
    COMPUTED,
    NETWORK,
    NetworkRecords,
    Record,
    RecordQuery,
    computed_by,
    identity_of,
    may_be_one,
    open_record,
)
from robustkit.spec import TRAINED
from robustkit.statistics.comparison import numbered

FEATURES = ("loss", "model", "trained_on", "label_noise", "data_fraction")
"""by what methods are told apart where only records say how networks were made"""


@dataclass(frozen=True, slots=True)
class NetworkGroup:
    """One network, or those of one method over seeds."""

    name: str
    networks: tuple[NetworkRecords, ...]
    given: str
    """as the user wrote it"""


@dataclass(frozen=True)
class Finder:
    """Finds what names mean, among files and in a folder of records."""

    runs: Path
    query: RecordQuery

    @cached_property
    def known(self) -> list[Record]:
        """The records of the folder."""
        return [open_record(path) for path in sorted(self.runs.glob("*.parquet"))]

    @cached_property
    def _paths(self) -> set[str]:
        """Where the checkpoints of these records stood."""
        return {_plain(record.checkpoint["path"]) for record in self.known}

    def groups(self, names: Sequence[str]) -> tuple[NetworkGroup, ...]:
        """The groups that names mean, in their order.

        Raises:
            InputError: nothing of that name, not evaluated yet, one network twice, one seed twice.
        """
        found = self.networks(names)
        groups = [group for name, networks in found for group in split(name, networks)]
        check_twice(groups)
        return named(groups)

    def networks(self, names: Sequence[str]) -> list[tuple[str, list[NetworkRecords]]]:
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

    def _meant(self, name: str) -> list[NetworkRecords]:
        # not Path.exists, which raises for a name too long
        if os.path.exists(name) or not (FIELD.search(name) or set("*?") & set(name)):  # noqa: PTH110
            return [self._one(name)]
        found = self._matching(name)
        if any(one.path.suffix != ".parquet" for one in found):
            return [self._one(str(one.path), one.fields) for one in found]
        records = self._chosen([open_record(one.path) for one in found])
        if not records:
            raise InputError(f"{name}: none of these records is of {self._attacker}")
        return _by_network(records)

    def _matching(self, pattern: str) -> list[Match]:
        """The records and checkpoints that a pattern finds, folders among them.

        Beside files, what wildcards alone find may be a folder of anything: it counts if evaluated.
        """

        def is_meant(path: Path) -> bool:
            return path.is_file() or _plain(path) in self._paths or _is_checkpoint(path)

        found = match_files(pattern, is_one=is_meant)
        files = [one for one in found if one.path.is_file()]
        if not files or FIELD.search(pattern):
            return found
        return [one for one in found if one.path.is_file() or self._is_evaluated(one.path)]

    def _is_evaluated(self, folder: Path) -> bool:
        return _plain(folder) in self._paths or bool(_records_of(str(folder), self.known))

    def _one(self, name: str, fields: Mapping[str, str] = MappingProxyType({})) -> NetworkRecords:
        if name.endswith(".parquet"):
            records = [open_record(Path(name))]
            self.check_attacker(name, records[0])
        else:
            self._check(name)
            records = _of_the_latest_code(self._chosen(_records_of(name, self.known)))
        if not may_be_one(records):
            raise InputError(f"{name}: {_several(records)}")
        seed = records[0].checkpoint["seed"] if records else None
        if "seed" in fields:
            seed = _seed(fields["seed"], name)
        if records:
            check_name(Path(name), fields, recorded_values(records[0].checkpoint), NAMED)
        others = tuple((key, value) for key, value in fields.items() if key != "seed")
        return NetworkRecords(name, seed, tuple(records), others)

    def _check(self, name: str) -> None:
        """Nothing, if a checkpoint of that name is there, or a record of it."""
        paths = self._paths
        folder = os.path.isdir(name)  # noqa: PTH112 - a name too long is none
        if folder and _plain(name) not in paths and not _is_checkpoint(Path(name)):
            raise InputError(f"{name}: is a folder; name records or checkpoints in it: '{name}/*'")
        if not folder and not is_file(_located(name)) and _plain(name) not in paths:
            close = get_close_matches(_plain(name), paths, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; give the path of either"
            raise InputError(f"{name}: no such file, and no record of it in {self.runs}{hint}")

    def check_attacker(self, name: str, record: Record) -> None:
        """Nothing, if a record that was itself given is of the surrogate that is meant, if any is.

        Raises:
            InputError: it is not.
        """
        if self.query.surrogate is not None and not self._chosen([record]):
            raise InputError(
                f"{name}: this evaluation is not of {self._attacker}; give one that is, or leave "
                "--surrogate out"
            )

    def _chosen(self, records: Iterable[Record]) -> list[Record]:
        """Those attacked by way of the surrogate that is meant, if any is."""
        if self.query.surrogate is None:
            return [record for record in records if "surrogate" not in record.header]
        transfers = [record for record in records if "surrogate" in record.header]
        return _records_of(self.query.surrogate, transfers, "surrogate")

    @property
    def _attacker(self) -> str:
        by = self.query.surrogate
        return "an attack on the network itself" if by is None else f"a transfer from {by}"

    def _not_evaluated(self, name: str, like: Record | None) -> str:
        """What to do, with the very command."""
        was = [r for r in self.known if _plain(name) == _plain(r.checkpoint["path"])]
        changed = was and not _records_of(name, self.known)
        last = max(was, key=lambda record: record.started).checkpoint if was else None
        state = "has changed since its evaluation" if changed else "has no such evaluation"
        header = like.header if like else None
        run = evaluate_command(name, header, self.runs, self.query, last)
        return f"{name}: {state} in {self.runs} ({self._attacker}); run: {run}"


def _located(name: str) -> Path:
    """The file of a checkpoint that may be a shipped one."""
    inside = shipped("data") / f"{name}.safetensors"
    return inside if not os.path.exists(name) and is_file(inside) else Path(name)  # noqa: PTH110


def _records_of(name: str, records: Sequence[Record], part: str = "checkpoint") -> list[Record]:
    """Those whose `part` is a checkpoint: by its bytes, its network, or its path if it is gone.

    One network may stand in several files, and an evaluation of one answers for the others.
    """
    path = _located(name)
    sha256 = _digest(path)
    if sha256 is None:
        return [r for r in records if _plain(r.header[part]["path"]) == _plain(name)]
    own = [r for r in records if r.header[part]["sha256"] == sha256]
    if not own:
        known = _network_in(path, sha256)
        return [r for r in records if known and _is_of(r.header[part], known)]
    told = [r.header[part] for r in own if r.header[part].get("weights")]
    weights, networks = {one["weights"] for one in told}, {identity_of(one) for one in told}
    others = (r for r in records if r.header[part]["sha256"] != sha256)
    near = (r for r in others if r.header[part].get("weights") in weights)
    return [*own, *(r for r in near if identity_of(r.header[part]) in networks)]


def _several(records: Sequence[Record]) -> str:
    """That records of one name are of several networks, why, and which they are."""
    weights = {record.checkpoint["weights"] for record in records}
    why = "other weights" if len(weights) > 1 else "different architectures or preprocessing"
    each = ", ".join(f"{record.source} ({record.started})" for record in records)
    return f"was evaluated with {why}; name the record that is meant, by when it was begun: {each}"


def _of_the_latest_code(records: list[Record]) -> list[Record]:
    """Of a file whose user code was edited between evaluations, those of the code asked last."""
    bare = {identity_of({**record.checkpoint, COMPUTED: None}) for record in records}
    if may_be_one(records) or len(bare) > 1:
        return records
    last = max(records, key=lambda record: record.started).checkpoint.get(COMPUTED)
    return [record for record in records if record.checkpoint.get(COMPUTED) == last]


@lru_cache(maxsize=1024)
def _network_in(path: Path, sha256: str) -> Mapping[str, Any]:
    """What a checkpoint says of its network; nothing where it cannot be read.

    All of its weights are read, so the bytes are asked first; their digest is here for the cache.
    """
    from robustkit.checkpoint import read_checkpoint  # here, since hardly any name needs it

    with suppress(RobustkitError):
        made = read_checkpoint(path)
        known = {name: getattr(made, name) for name in NETWORK}
        # what was recognised by shapes is a guess, and others may have been given
        known |= {"model": None} if made.recognised else {}
        return known | {COMPUTED: computed_by(made.identity, made.model)}
    return {}


def _is_of(entry: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a record's entry is of a network, as far as its checkpoint says what it is."""
    said = {name: value for name, value in known.items() if value is not None}
    if entry.get(COMPUTED) is None:  # an older record
        said.pop(COMPUTED, None)
    return all(canonical(entry.get(name)) == canonical(value) for name, value in said.items())


def _digest(path: Path) -> str | None:
    """SHA-256 of a checkpoint; None where there is none to be read."""
    if is_file(path):
        return file_digest(path)
    return folder_digest(path) if os.path.isdir(path) else None  # noqa: PTH112


def _is_checkpoint(folder: Path) -> bool:
    return folder_digest(folder) is not None


def _plain(path: object) -> str:
    """One way to write a path."""
    return str(Path(str(path)))


def _seed(text: str, where: str) -> int:
    try:
        return parse_integer(text)
    except ValueError as error:
        raise InputError(f"{where}: seed {text!r} is not an integer") from error


def _by_network(records: Iterable[Record]) -> list[NetworkRecords]:
    """Records, those of one network together."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.identity, []).append(record)
    return [
        NetworkRecords(str(own[0].source), own[0].checkpoint["seed"], tuple(own))
        for own in found.values()
    ]


def split(given: str, networks: Sequence[NetworkRecords]) -> Iterable[NetworkGroup]:
    """Networks of one name or pattern, by method."""
    if len(networks) == 1 and not networks[0].fields:
        (one,) = networks
        path = one.records[0].checkpoint["path"]
        yield NetworkGroup(str(path) if one.name.endswith(".parquet") else one.name, (one,), given)
        return
    methods: dict[str, list[NetworkRecords]] = {}
    for name, network in zip(_methods(networks), networks, strict=True):
        methods.setdefault(name or given, []).append(network)
    for name, own in sorted(methods.items()):
        yield NetworkGroup(name, in_order(own), given)


def in_order(networks: Iterable[NetworkRecords]) -> tuple[NetworkRecords, ...]:
    """Networks by their seeds, those without one last."""
    return tuple(sorted(networks, key=lambda one: (one.seed is None, one.seed or 0)))


def _methods(networks: Sequence[NetworkRecords]) -> list[str]:
    """What each network's method is called: by its loss, and by what differs among them."""
    known = features([one.records[0].checkpoint for one in networks])
    return told_apart([dict(n.fields) or own for n, own in zip(networks, known, strict=True)])


def method_names(checkpoints: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the method of each checkpoint is called, by what is on record; "" where nothing is."""
    return told_apart(features(checkpoints))


def features(
    checkpoints: Sequence[Mapping[str, Any]], names: Sequence[str] = FEATURES
) -> list[dict[str, Any]]:
    """What is on record of each checkpoint by which methods are told apart.

    Shares that are one setting are written as the smallest of them: where of label noise only the
    share is on record that came of it, it may be another with every seed.
    """
    told = [{name: setting(one, name) for name in names} for one in checkpoints]
    for name in {*names} & {*TRAINED}:
        shares = sorted({one[name] for one in told if one[name] is not None})
        exact = {share: Fraction(str(share)) for share in shares}
        for one in told:
            if (own := exact.get(one[name])) is not None:
                one[name] = next(share for share in shares if same(name, exact[share], own))
    return told


def told_apart(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each table of features: by the loss, and by what differs among them."""
    varied = [key for key in told[0] if len({str(one[key]) for one in told}) > 1]
    shown = [key for key in told[0] if key == "loss" or key in varied]
    return [
        ", ".join(_feature(key, one[key]) for key in shown if one[key] is not None) for one in told
    ]


def short_paths(paths: Sequence[str]) -> list[str]:
    """The shortest ends of paths that tell them apart; numbered where none does."""
    parts = [PurePath(path).parts for path in paths]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        ends = ["/".join(part[-depth:]) for part in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [f"{path} ({i})" for i, path in enumerate(paths, 1)]


def _feature(key: str, value: object) -> str:
    """'l2-margin', 'label noise 0.2'."""
    number = str(value).replace(".", "", 1).isdigit()
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{key.replace('_', ' ')} {text}" if number else text


def named(groups: Sequence[NetworkGroup]) -> tuple[NetworkGroup, ...]:
    """Groups by names that tell them apart."""
    often, parts = Counter(g.name for g in groups), Counter(g.given for g in groups)

    def name(group: NetworkGroup) -> str:
        if often[group.name] == 1:
            return group.name
        if parts[group.given] == 1 or group.given == group.name:
            return group.given
        return f"{group.name} ({group.given})"

    names = numbered([name(group) for group in groups])
    return tuple(replace(group, name=one) for group, one in zip(groups, names, strict=True))


def check_twice(groups: Sequence[NetworkGroup]) -> None:
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
