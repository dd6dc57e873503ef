"""Evaluations that belong together: the rows of networks that were tested under one condition."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from robustkit.data.source import WHOLE
from robustkit.data.transform import USUAL
from robustkit.errors import InputError
from robustkit.protocol import budget_key, by_transfer, protocol_in_words, symbol
from robustkit.protocol.file import towards
from robustkit.record import MeanPasses
from robustkit.results.command import called, evaluate_command, of_file
from robustkit.results.finder import NetworkGroup
from robustkit.results.records import (
    CLEAN,
    Condition,
    NetworkRecords,
    Record,
    RecordQuery,
    condition,
)
from robustkit.results.replicates import Replicates
from robustkit.results.rows import Rows


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared: which images each network of a method got right."""

    name: str
    seeds: tuple[int | None, ...]
    rows: tuple[Rows, ...]
    attacked: bool = True
    """False: compared on clean images alone, whatever attacks its records are of"""

    def of(self, seeds: Sequence[int]) -> "Side":
        """Its networks of these seeds; all, where there are none."""
        if not seeds:
            return self
        places = [self.seeds.index(seed) for seed in seeds]
        return replace(self, seeds=tuple(seeds), rows=tuple(self.rows[place] for place in places))

    @property
    def checkpoints(self) -> tuple[Mapping[str, Any], ...]:
        """What is on record of its networks."""
        return tuple(rows.header["checkpoint"] for rows in self.rows)

    @property
    def passes(self) -> MeanPasses | None:
        """Passes an image, the mean over its networks; None where one's record does not say.

        None, too, where its records are of any attacks.
        """
        known = [rows.passes for rows in self.rows if rows.passes is not None and self.attacked]
        if len(known) < len(self.rows):
            return None
        return MeanPasses(*map(fmean, zip(*known, strict=True)))

    def at(self, level: str) -> Replicates:
        """The networks at a level, whichever way its number is written."""
        attacked = "" if level == CLEAN else level
        return Replicates(self.seeds, np.stack([rows.right(attacked) for rows in self.rows]))


def sides(
    groups: Sequence[NetworkGroup], query: RecordQuery, runs: Path = Path("runs")
) -> tuple[Side, ...]:
    """The rows of groups under the one condition under which all were evaluated.

    Where that is asked at some levels alone, under one attack and at the same budgets, if possible.

    Raises:
        InputError: no such condition, or several; the message lists them, or has the command that
            makes the evaluation that is missing.
    """
    networks = [network for group in groups for network in group.networks]
    offered = [_offered(network, query, runs) for network in networks]
    common = _newest(set(offered[0]).intersection(*offered))
    if not common:
        raise InputError(_different(networks, offered, query, runs))
    if len(common) > 1:
        raise InputError(_ambiguous([offered[0][c] for c in common]))
    (chosen,) = common
    found = _under_one_attack([_attacked(network, query, chosen) for network in networks])
    rows = iter([one.rows for one in found or [records[chosen] for records in offered]])
    return tuple(
        Side(
            group.name,
            tuple(network.seed for network in group.networks),
            tuple(next(rows) for _ in group.networks),
            attacked=found is not None,
        )
        for group in groups
    )


def _attacked(network: NetworkRecords, query: RecordQuery, chosen: Condition) -> list[Record]:
    """A network's records under the chosen condition, of an attack that is asked for.

    Without an attack they may be of any, and in any precision.
    """
    own = [
        record
        for record in network.records
        if not (_misfit(record.header, query) or _other_attack(record.header, query))
        and condition(record.header, query.largest) == chosen
    ]
    exact = [record for record in own if not record.low_precision]
    return exact or own if query.largest else own


def _under_one_attack(offered: Sequence[Sequence[Record]]) -> list[Record] | None:
    """One record of each network, all of one attack; None where they share none.

    At the same budgets, or where no budgets are shared by all, at each network's most. Of several
    that have the most budgets, whichever was run last: a family is not to hang on what is shown.
    """
    for alike in (True, False):
        known: list[dict[Condition, Record]] = []
        for records in offered:
            whole = [(condition(one.header, inf), one) for one in records]
            whole.sort(key=lambda pair: (len(pair[0].epsilons), pair[1].standing))
            known.append({c if alike else c._replace(epsilons=()): one for c, one in whole})
        if common := _newest(set(known[0]).intersection(*known)):
            chosen = max(common, key=lambda one: (len(one.epsilons), one))
            return [records[chosen] for records in known]
    return None


def _newest(common: set[Condition]) -> set[Condition]:
    """Without those of which a later revision is there, of the same attack on the same images."""
    newest: dict[Condition, int] = {}
    for one in common:
        alike = one._replace(revision=0)
        newest[alike] = max(newest.get(alike, 0), one.revision)
    return {one for one in common if one.revision == newest[one._replace(revision=0)]}


def _offered(network: NetworkRecords, query: RecordQuery, runs: Path) -> dict[Condition, Record]:
    """A network's records that fit what is asked, by condition.

    Of two by one condition that counts which `Record.standing` says.
    """
    fitting = [record for record in network.records if not _misfit(record.header, query)]
    if not fitting:
        first = network.records[0].header
        run = evaluate_command(_path(network), first, runs, query, first["checkpoint"])
        raise InputError(f"{network.name}: {_misfit(first, query)}; run: {run}")
    fitting.sort(key=lambda record: record.standing)
    return {condition(record.header, query.largest): record for record in fitting}


def _misfit(header: Mapping[str, Any], query: RecordQuery) -> str:
    """Why a record is not what is asked; "" if it is."""
    data, protocol = header["data"], header["protocol"]
    if query.data and not called(query.data, data):
        return f"was evaluated on {data['name']}, not on {query.data}"
    if query.largest and (told := _other_attack(header, query)):
        return told
    there = set(map(budget_key, protocol["resolved"]["epsilons"]))
    texts = [text for text in query.budgets if budget_key(text) not in there]
    if texts:
        return f"was not attacked at ε = {', '.join(texts)}, only at {_budgets(header)}"
    return ""


def _other_attack(header: Mapping[str, Any], query: RecordQuery) -> str:
    """Why a record is not of the attack and norm that are asked; "" if it is."""
    protocol = header["protocol"]
    if query.attack and not called(query.attack, protocol):
        told = f"was attacked by {protocol_in_words(protocol)}"
        if of_file(query.attack, protocol):
            return f"{told}, but {query.attack} has been changed since, or is another"
        return f"{told}, not by {query.attack}"
    if query.norm and query.norm != protocol["norm"]:
        return f"was attacked in {protocol['norm']}, not in {query.norm}"
    return ""


def _path(network: NetworkRecords) -> str:
    """The checkpoint's path."""
    recorded = network.name.endswith(".parquet")
    return str(network.records[0].checkpoint["path"]) if recorded else network.name


def _budgets(header: Mapping[str, Any]) -> str:
    return ", ".join(entry["epsilon"] for entry in header["protocol"]["epsilons"]) or "none"


def in_words(header: Mapping[str, Any], level: str = "") -> str:
    """The condition of a record, for reading; at one budget, or "clean", where that is given."""
    data = header["data"]
    part = "" if data["split"] == WHOLE else f"{data['split']} "
    return f"{attack_in_words(header, level)} on {data['n']:,} {part}images of {data['name']}"


def attack_in_words(header: Mapping[str, Any], level: str = "") -> str:
    """The first half of `in_words`."""
    if level == CLEAN:
        return "no attack"
    protocol = header["protocol"]
    by = towards(protocol) + by_transfer(header)
    return f"{protocol['name']}{by} ({symbol(protocol['norm'])}, ε = {level or _budgets(header)})"


def _ambiguous(records: Sequence[Record]) -> str:
    told = (
        f"{in_words(record.header)} [norm {record.header['protocol']['norm']}, attack "
        f"{record.header['protocol']['digest'][:8]}, data {record.header['data']['digest'][:8]}]"
        for record in records
    )
    return (
        f"all were evaluated in {len(records)} ways; choose one with --attack, --data (by name or "
        f"digest), --norm and --at, or name records: {'; '.join(sorted(told))}"
    )


def _different(
    networks: Sequence[NetworkRecords],
    offered: Sequence[Mapping[Condition, Record]],
    query: RecordQuery,
    runs: Path,
) -> str:
    """The first network that was not evaluated as most were, how it differs, and what to run."""
    often = Counter(one for records in offered for one in records)
    usual = max(often, key=often.__getitem__)
    pairs = list(zip(networks, offered, strict=True))
    model, like = next((n, r[usual]) for n, r in pairs if usual in r)
    network, own = next((n, r) for n, r in pairs if usual not in r)
    nearest = min(own, key=lambda one: sum(x != y for x, y in zip(one, usual, strict=True)))
    how = difference(nearest, usual)
    made = network.records[0].checkpoint
    if prepared := otherwise_prepared(own[nearest].header["data"], like.header["data"]):
        return f"{network.name} and {model.name} were evaluated on the same images, {prepared}"
    run = evaluate_command(_path(network), like.header, runs, query, made)
    clean = "compare --at clean, or " if nearest.data == usual.data else ""
    return (
        f"{network.name} was evaluated {how} than {model.name}: {in_words(own[nearest].header)}; "
        f"{in_words(like.header)}; {clean}run: {run}"
    )


def otherwise_prepared(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """How images that networks' libraries prepare for them differ, and what would make them alike.

    "": they do not, or no library does. The command that evaluates a network prepares its images
    as its own library does, which is how they came to differ.
    """
    same = all(one[key] == other[key] for key in ("name", "split", "n", "source"))
    if not same or not any("pipeline" in entry["transform"] for entry in (one, other)):
        return ""
    parts, others = (_prepared(entry["transform"]) for entry in (one, other))
    differs = [
        f"{key} {_in_words(parts[key])} against {_in_words(others[key])}"
        for key in parts
        if key in others and parts[key] != others[key] and key not in ("library", "processor")
    ]
    if one["digest"] == other["digest"] or not differs:
        return ""
    told = f"prepared otherwise: {', '.join(differs)}"
    if "torch" in (parts["by"], others["by"]):  # whose resizing no option replaces
        return told
    return f"{told}; evaluate both with the same --resize, --crop and --interpolation"


def _prepared(made: Mapping[str, Any]) -> Mapping[str, Any]:
    """How images are made, in a pipeline's terms."""
    if (pipeline := made.get("pipeline")) is not None:
        whole: Mapping[str, Any] = pipeline
        return whole
    side, resize = made.get("crop"), made.get("resize")
    return {
        "resize": resize,
        "interpolation": made.get("interpolation", USUAL),
        "by": "Pillow",
        "crop": None if side is None else [side, side],
        "upright": False,
        "on_white": False,
    }


def _in_words(value: object) -> str:
    if isinstance(value, list | tuple):
        return "×".join(map(str, value))
    return "none" if value is None else str(value)


def difference(one: Condition, other: Condition) -> str:
    """How two conditions differ, in words: in the first field that does."""
    differs = [x != y for x, y in zip(one, other, strict=True)]
    return _DIFFERENCES[differs.index(True)]


_DIFFERENCES = (
    "on other images",
    "with another attack",
    "at other budgets",
    "by way of another network",
    "by another revision of the attacks",
)
"""how two conditions differ, by field"""
