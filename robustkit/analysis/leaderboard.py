"""A leaderboard of evaluated networks: a row a method, or a network, by what was tested alike.

Records in, plain values out; needs no torch. Networks share a board only where the same images were
attacked by the same protocol, so that its rows may be compared. Accuracy under corruptions and the
verdict of an audit stand beside them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from robustkit.analysis.contrast import classes_of, unlike_note
from robustkit.analysis.corruptions import (
    CorruptedLevel,
    corrupted_levels,
    is_corrupted,
    mean_accuracy,
    one_set,
    shown_to_all,
)
from robustkit.errors import InputError
from robustkit.files import canonical, digest
from robustkit.protocol import budget_key, by_transfer, parse_epsilon, pools, protocol_in_words
from robustkit.protocol.file import towards
from robustkit.protocol.norms import symbol
from robustkit.results.finder import method_names, short_paths
from robustkit.results.records import Record
from robustkit.results.rows import budgets
from robustkit.showing import Shown
from robustkit.statistics import Estimate, over_seeds
from robustkit.statistics.comparison import listed


class AuditMark(NamedTuple):
    """What an audit says of a network."""

    weights: str
    """digest of the network that was audited"""
    norm: str
    epsilon: str
    claimed: float | None
    """None: no claim was there to be judged"""
    word: str
    """believable, overstated, not established"""
    path: str
    """of its JSON"""
    data: str
    """name of the images that it was audited on"""
    split: str
    network: str
    """`Record.identity` of the network: its normalisation belongs to it, too"""


@dataclass(frozen=True, slots=True)
class BoardRow:
    """A method over its seeds, or one network."""

    name: str
    method: str
    """equal for the networks of one method"""
    networks: tuple[str, ...]
    """paths of the checkpoints"""
    seeds: tuple[int | None, ...]
    model: str
    clean: Estimate
    robust: Mapping[str, Estimate]
    """by budget, as the board writes it"""
    corrupted: float | None
    """mean accuracy over the corruptions that each of the board's networks with any was shown: the
    benchmark's fifteen, if all are there; none where severities differ"""
    corruptions: int
    """over how many corruptions and severities"""
    passes: float | None
    """forward and backward, an image: what the attack took"""
    audits: tuple[AuditMark, ...] = ()

    @property
    def verdicts(self) -> tuple[tuple[AuditMark, str], ...]:
        """Each verdict once, and of how many of the row's networks it is; "" where that has one."""
        alike: dict[tuple[object, ...], list[AuditMark]] = {}
        for audit in self.audits:
            alike.setdefault((audit.word, audit.claimed, audit.epsilon), []).append(audit)
        whole = len(self.networks)
        return tuple(
            (own[0], f"{len({one.network for one in own})} of {whole} networks" * (whole > 1))
            for own in alike.values()
        )


@dataclass(frozen=True, slots=True)
class Board:
    """Rows that may be compared: the same images, attacked by the same protocol."""

    title: str
    norm: str
    attack: str
    """"" for clean images only"""
    images: int
    levels: tuple[str, ...]
    """budgets, rising"""
    chance: float | None
    rows: tuple[BoardRow, ...]
    """the most robust first"""


@dataclass(frozen=True, slots=True, repr=False)
class Leaderboard(Shown):
    """Everything that was evaluated, board by board."""

    boards: tuple[Board, ...]
    notes: tuple[str, ...]


def leaderboard(
    records: Sequence[Record], *, audits: Sequence[AuditMark] = (), by_method: bool = True
) -> Leaderboard:
    """The boards of some records, that with most networks first.

    Of two records of one network under one protocol that with more budgets counts, then the one
    that was searched in float32, then the later.

    Args:
        records: as `open_record` gives them; transferred attacks have boards of their own.
        audits: what audits say of networks, wherever they are.
        by_method: seeds of one method are one row, with an interval over seeds and images.

    Raises:
        InputError: there are none.
    """
    if not records:
        raise InputError("no evaluation is there to make a leaderboard of")
    plain = [r for r in records if not is_corrupted(r.header)]
    corrupted = corrupted_levels(r for r in records if is_corrupted(r.header))
    groups: dict[str, list[Record]] = {}
    for record in plain:
        groups.setdefault(_together(record.header), []).append(record)
    latest = _without_doubles([_latest(own) for own in groups.values()])
    titles = _titles([own[0].header for own in latest])
    boards: list[Board] = []
    notes: list[str] = []
    for title, own in zip(titles, latest, strict=True):
        boards.append(board := _board(title, own, corrupted, audits, by_method))
        notes += _uneven(board, own, corrupted)
        notes += _left_out(title, own, groups[_together(own[0].header)])
    notes += _only_corrupted(records, {record.identity for record in plain})
    return Leaderboard(
        tuple(sorted(boards, key=lambda board: (-_count(board), board.title))), tuple(notes)
    )


def _uneven(
    board: Board, records: Sequence[Record], corrupted: Mapping[str, Mapping[str, CorruptedLevel]]
) -> Iterable[str]:
    """What the order of a board, or a column that it has not, does not say of itself."""
    levels = _shared(board.levels, board.rows)
    if len(board.levels) > len(levels):
        by = f"accuracy at ε = {', '.join(levels)}" if levels else "clean accuracy"
        yield (
            f"{board.title}: not all were attacked at the same budgets; the order is that of {by}."
        )
    low = sorted({r.low_precision for r in records} - {""})
    if low and not all(r.low_precision for r in records):
        yield f"{board.title}: some attacks searched in {' or '.join(low)}, the others in float32."
    for row in (row for row in board.rows if len(row.networks) > 1):
        own = [r.checkpoint for r in records if str(r.checkpoint["path"]) in row.networks]
        yield from (f"{board.title}: {note}" for note in unlike_note(row.name, own))
    shown = [corrupted[r.identity] for r in records if r.identity in corrupted]
    if shown and not (common := shown_to_all(records, corrupted)):
        yield f"{board.title}: no corrupted images were shown to all that were shown any."
    elif shown:
        chosen = one_set([shown[0][images] for images in common])
        mean, counted = mean_accuracy(chosen)
        if mean is not None:
            yield f"{board.title}: corruptions are those of {chosen[0].data}."
        elif counted:
            yield f"{board.title}: no mean over corruptions, whose severities differ."


def _only_corrupted(records: Iterable[Record], plain: Set[str]) -> Iterable[str]:
    """Which networks stand on no board, for want of an evaluation of `plain` images."""
    paths = [str(r.checkpoint["path"]) for r in records if r.identity not in plain]
    if not plain:
        yield "Only corrupted images were evaluated, and no clean ones to set beside them."
    elif paths:
        yield (
            f"Left out, with only corrupted images evaluated: {listed(sorted({*paths}))}; evaluate "
            "clean ones, too."
        )


def _count(board: Board) -> int:
    return sum(len(row.networks) for row in board.rows)


def _without_doubles(boards: Sequence[list[Record]]) -> list[list[Record]]:
    """Without those of clean images only that were attacked as well, network and images alike."""

    def shown(records: Sequence[Record]) -> set[tuple[str, str]]:
        return {(record.header["data"]["digest"], record.identity) for record in records}

    under_attack = [own for own in boards if budgets(own[0].header)]
    attacked = set[tuple[str, str]]().union(*map(shown, under_attack))
    return [own for own in boards if budgets(own[0].header) or not shown(own) <= attacked]


def _left_out(title: str, kept: Sequence[Record], records: Sequence[Record]) -> Iterable[str]:
    """Budgets of a network that only a record has which does not count."""
    for record in kept:
        own = {budget_key(text) for text in budgets(record.header)}
        others = (r for r in records if r.identity == record.identity)
        texts = {budget_key(text): text for other in others for text in budgets(other.header)}
        if missing := [texts[key] for key in sorted(texts.keys() - own)]:
            yield (
                f"{title}: {record.checkpoint['path']} was attacked at ε = {listed(missing)} as "
                "well, in another evaluation; evaluate all budgets at once to have them here."
            )


def _titles(headers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Titles of boards; equal ones with all that differs between these."""
    titles = [_title(header) for header in headers]
    told = [_parts(header) for header in headers]
    for title in {title for title in titles if titles.count(title) > 1}:
        places = [place for place, one in enumerate(titles) if one == title]
        for name in told[places[0]]:
            if len({told[place][name] for place in places}) > 1:
                for place in places:
                    titles[place] += f", {name} {told[place][name]}"
    return titles


def _parts(header: Mapping[str, Any]) -> dict[str, str]:
    """What a title leaves out of how networks were tested."""
    resolved = header["protocol"]["resolved"]
    return {
        "images": header["data"]["digest"][:8],
        "seed": str(resolved["seed"]),
        "budgets": _proportion(header),
        "attacks of revision": str(header["engine"]["revision"]),
        "settings": digest(canonical(resolved["attacks"]))[:8],
        "surrogate": str(header.get("surrogate", {}).get("weights", ""))[:8],
    }


def _together(header: Mapping[str, Any]) -> str:
    """Equal for records whose rows may be compared, at the budgets that they share."""
    resolved = header["protocol"]["resolved"]
    # one budget has no search among budgets, and any search gives the same at each but for luck
    left_out = () if pools(resolved) else ("epsilons", "search")
    asked = {k: v for k, v in resolved.items() if k not in left_out}
    by = header.get("surrogate", {}).get("weights", "")
    revision = header["engine"]["revision"] if asked["attacks"] else 0
    return digest(canonical([header["data"]["digest"], asked, by, revision, _proportion(header)]))


def _proportion(header: Mapping[str, Any]) -> str:
    """Equal where `check_budgets` lets the budgets stand together, with a title's words for it."""
    rotated, shift = next((parse_epsilon(text).ray for text in budgets(header)), (False, None))
    if rotated:
        return "in degrees" if shift is None else f"of {shift} px per degree"
    return "" if shift is None else "in pixels"


def _latest(records: Sequence[Record]) -> list[Record]:
    """One record a network: of most budgets, then the one that `Record.standing` says."""
    kept: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: (len(budgets(r.header)), *r.standing)):
        kept[record.identity] = record
    return list(kept.values())


def _board(
    title: str,
    records: Sequence[Record],
    corrupted: Mapping[str, Mapping[str, CorruptedLevel]],
    audits: Sequence[AuditMark],
    by_method: bool,
) -> Board:
    header = records[0].header
    levels: dict[tuple[Fraction, str], str] = {}
    for text in (text for record in records for text in budgets(record.header)):
        levels.setdefault(budget_key(text), text)
    written = tuple(levels[key] for key in sorted(levels))
    norm, data = str(header["protocol"]["norm"]), header["data"]
    where = (norm, data["name"], data["split"])
    audited = [a for a in audits if (a.norm, a.data, a.split) == where]
    alike = shown_to_all(records, corrupted)
    same = {n: {i: share[i] for i in alike} for n, share in corrupted.items() if alike <= {*share}}
    rows = [
        _row(name, method, own, written, same, audited)
        for name, method, own in _rows(records, by_method)
    ]
    classes = classes_of(header)
    shared = _shared(written, rows)
    return Board(
        title,
        norm,
        protocol_in_words(header["protocol"]) if written else "",
        int(header["data"]["n"]),
        written,
        1 / classes if classes > 1 else None,
        tuple(sorted(rows, key=lambda row: _strength(row, shared), reverse=True)),
    )


def _title(header: Mapping[str, Any]) -> str:
    data, protocol = header["data"], header["protocol"]
    by_attack = f"{protocol['name']}, {symbol(protocol['norm'])}"
    attack = by_attack if protocol["epsilons"] else "no attack"
    by = towards(protocol) + by_transfer(header)
    return f"{data['name']} {data['split']} ({data['n']:,} images), {attack}{by}"


def _shared(levels: Sequence[str], rows: Sequence[BoardRow]) -> list[str]:
    """The budgets at which all rows were attacked."""
    return [level for level in levels if all(level in row.robust for row in rows)]


def _strength(row: BoardRow, levels: Sequence[str]) -> tuple[float, ...]:
    """Mean robust accuracy over the budgets that all rows have, then clean accuracy."""
    return (fmean(row.robust[level].value for level in levels) if levels else 0.0, row.clean.value)


def _rows(
    records: Sequence[Record], by_method: bool
) -> Iterable[tuple[str, str, tuple[Record, ...]]]:
    """Name, method and records of each row; where seeds occur twice, paths tell methods apart."""
    paths = short_paths([str(record.checkpoint["path"]) for record in records])
    methods: dict[str, list[tuple[str, Record]]] = {}
    named = method_names([record.checkpoint for record in records])
    for method, path, record in zip(named, paths, records, strict=True):
        methods.setdefault(method or path, []).append((path, record))
    for method, own in _by_seed(methods):
        seeds = Counter(record.checkpoint["seed"] for _, record in own)
        alike = len(own) > 1 and None not in seeds and max(seeds.values()) == 1
        # one image tells nothing of how seeds vary
        alike = alike and own[0][1].header["data"]["n"] > 1
        if by_method and alike:
            ordered = sorted((r for _, r in own), key=lambda r: int(r.checkpoint["seed"]))
            yield method, method, tuple(ordered)
            continue
        for path, record in own:
            yield path, method if alike else path, (record,)


def _by_seed(
    methods: Mapping[str, list[tuple[str, Record]]],
) -> Iterable[tuple[str, list[tuple[str, Record]]]]:
    """The methods; one with a seed twice is taken apart by paths that differ but in the seed."""
    for method, own in methods.items():
        seeds = [record.checkpoint["seed"] for _, record in own]
        if len(set(seeds)) == len(seeds):
            yield method, own
            continue
        patterns: dict[str, list[tuple[str, Record]]] = {}
        for path, record in own:
            before, seed, after = path.rpartition(str(record.checkpoint["seed"]))
            after = after.rpartition(".")[0] if "." in after else after
            pattern = f"{before}{{seed}}{after}" if seed else path
            patterns.setdefault(pattern, []).append((path, record))
        yield from patterns.items()


def _row(
    name: str,
    method: str,
    records: Sequence[Record],
    levels: Sequence[str],
    corrupted: Mapping[str, Mapping[str, CorruptedLevel]],
    audits: Sequence[AuditMark],
) -> BoardRow:
    own = [set(map(budget_key, budgets(record.header))) for record in records]
    robust = {
        level: over_seeds(np.stack([record.rows.right(level) for record in records]))
        for level in levels
        if all(budget_key(level) in asked for asked in own)
    }
    shown = [[*corrupted.get(record.identity, {}).values()] for record in records]
    means = [mean_accuracy(one_set(own)) for own in shown]
    shares = [mean for mean, _ in means if mean is not None]
    networks = {record.identity for record in records}
    costs = [record.rows.passes for record in records]
    return BoardRow(
        name,
        method,
        tuple(str(record.checkpoint["path"]) for record in records),
        tuple(record.checkpoint["seed"] for record in records),
        str(records[0].checkpoint["model"] or ""),
        over_seeds(np.stack([record.rows.right() for record in records])),
        robust,
        fmean(shares) if len(shares) == len(records) else None,
        min(counted for _, counted in means),
        fmean(c.forward + c.backward for c in costs if c) if levels and all(costs) else None,
        tuple(audit for audit in audits if audit.network in networks),
    )
