"""`robustkit.compare`, `power` and `rank`: what is found of evaluated networks that are named."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from robustkit.analysis.compare import Compared, compare_sides
from robustkit.analysis.needs import PowerAnalysis, needs, needs_of_bounds
from robustkit.analysis.rank import Ranking
from robustkit.analysis.rank import rank as ranked
from robustkit.calls.given import record_name
from robustkit.errors import InputError, UnknownName, quoted
from robustkit.files import whole_number
from robustkit.parsing import plain_number
from robustkit.protocol import Epsilon, Norm, Number, parse_epsilon
from robustkit.record import Evaluation
from robustkit.results.finder import Finder, NetworkGroup, check_twice, in_order, named, split
from robustkit.results.records import CLEAN, NetworkRecords, Record, RecordQuery
from robustkit.results.sides import Side, sides

One = Evaluation | Path | str
Method = One | Sequence[One]
"""an evaluation, or several of one method over seeds; each the record itself or its file, the
path of a checkpoint that was evaluated, or a pattern of either: "nets/l2_seed{seed}.pt" """
Level = Number | Epsilon
Levels = Level | Iterable[Level]
""""clean" and budgets"""


def compare(
    *methods: Method,
    at: Levels = (),
    delta: float | None = None,
    level: float = 0.95,
    attack: Path | str | None = None,
    norm: Norm | None = None,
    data: Path | str | None = None,
    surrogate: Path | str | None = None,
    baseline: str | None = None,
    runs: Path | str = "runs",
) -> Compared:
    """Compare evaluations with the first, by image and, where several are given, by seed.

        found = robustkit.compare("nets/ce_seed{seed}.pt", "nets/trades_seed{seed}.pt", delta=1)
        found.comparisons[0].verdict

    Args:
        methods: evaluations, lists of those of one method over seeds, or what names them: their
            files, evaluated checkpoints, patterns. Each is compared with the first.
        at: budgets ("8/255") and "clean"; everything that was evaluated where empty.
        delta: the margin of equivalence, in points: 0.5 is half a percentage point.
        level: of confidence, of all levels of one comparison together.
        attack: evaluations by this protocol only, by its name, its file or the beginning of its
            digest; so norm, data and surrogate choose.
        norm: evaluations in this norm only.
        data: evaluations on this data set only.
        surrogate: transfer attacks that were crafted on this network.
        baseline: what the others are compared with, where one name means several methods.
        runs: folder with the records of evaluated checkpoints.

    Raises:
        InputError: other images or protocols, a network or a seed twice, budgets that are missing.
    """
    share = None if delta is None else _share(delta, "--delta")
    levels = _levels(at)
    query = RecordQuery(levels, _text(attack), _text(data), _text(surrogate), norm)
    return compare_sides(
        _sides(methods, query, baseline, runs), at=levels, delta=share, level=level
    )


def power(
    *methods: Method,
    delta: float,
    power: float = 0.8,
    at: Levels = (),
    level: float = 0.95,
    family: int | None = None,
    images: int | None = None,
    attack: Path | str | None = None,
    norm: Norm | None = None,
    data: Path | str | None = None,
    surrogate: Path | str | None = None,
    baseline: str | None = None,
    runs: Path | str = "runs",
    seed_sd: float | None = None,
    discordant: float | None = None,
) -> PowerAnalysis:
    """Plan seeds and images from the spread on file; the observed difference plays no part.

        robustkit.power("nets/ce_seed{seed}.pt", "nets/trades_seed{seed}.pt", delta=1)
        robustkit.power(delta=1, seed_sd=0.8, discordant=6, images=10_000)   # nothing on file yet

    Args:
        methods: as for `compare`; or none, and `seed_sd`, `discordant` and `images`.
        delta: the difference to show, or to rule out, in points.
        power: probability to show it, if it is there.
        at: budgets and "clean"; everything that was evaluated where empty.
        level: of confidence, of the family.
        family: comparisons judged together; otherwise all levels of a pair.
        images: to plan on; otherwise as many as on file.
        attack: as for `compare`, and so are norm, data, surrogate, baseline and runs.
        norm: likewise.
        data: likewise.
        surrogate: likewise.
        baseline: likewise.
        runs: likewise.
        seed_sd: without networks: an upper bound, in points, of how the paired difference varies
            over seeds.
        discordant: without networks: an upper bound, in per cent, of the images that one network of
            a pair gets right and the other wrong.

    Raises:
        InputError: too few seeds, or numbers that go with something else.
    """
    share = _share(delta, "--delta")
    if family is not None:
        family = whole_number(family, "--family", least=1)
    if seed_sd is None and discordant is None:
        levels = _levels(at)
        query = RecordQuery(levels, _text(attack), _text(data), _text(surrogate), norm)
        return needs(
            _sides(methods, query, baseline, runs),
            delta=share,
            at=levels,
            power=power,
            level=level,
            members=family,
            images=None if images is None else whole_number(images, "--images", least=2),
        )
    if methods:
        raise InputError("give networks, or --seed-sd, --discordant and --images, not both")
    if seed_sd is None or discordant is None or images is None:
        raise InputError("--seed-sd, --discordant and --images go together; give all three")
    chosen = {"--at": tuple(_levels(at)), "--attack": attack, "--norm": norm, "--data": data}
    for option, value in (chosen | {"--surrogate": surrogate, "--baseline": baseline}).items():
        if value:
            raise InputError(f"{option} chooses networks, and --seed-sd goes without any")
    return needs_of_bounds(
        _share(seed_sd, "--seed-sd"),
        _share(discordant, "--discordant"),
        whole_number(images, "--images", least=2),
        delta=share,
        power=power,
        level=level,
        members=1 if family is None else family,
    )


def rank(
    *names: One,
    at: Level | Mapping[str, Level] = CLEAN,
    level: float = 0.95,
    attack: Path | str | None = None,
    norm: Norm | None = None,
    surrogate: Path | str | None = None,
    runs: Path | str = "runs",
) -> Ranking:
    """Rank three methods or more over independent data sets: Friedman, Nemenyi.

        robustkit.rank("nets/{loss}_{data}_seed{seed}.pt", at={"mnist": "0.1", "cifar10": "8/255"})

    Args:
        names: of evaluated networks, as patterns, or of their records; or evaluations on file.
        at: a budget or "clean" on all data sets, or by data set; "clean" on those not named.
        level: of confidence.
        attack: as for `compare`, and so are norm, surrogate and runs.
        norm: likewise.
        surrogate: likewise.
        runs: likewise.

    Raises:
        InputError: fewer than three methods or two data sets, or data sets that share images.
    """
    if not names:
        raise InputError("name evaluated networks: 'nets/{loss}_{data}_seed{seed}.pt'")
    given = at if isinstance(at, Mapping) else {"": at}
    levels = {"": CLEAN} | {name: _level(v) for name, v in given.items()}
    query = RecordQuery(tuple(levels.values()), _text(attack), None, _text(surrogate), norm)
    return ranked(list(map(record_name, names)), Finder(Path(runs), query), at=levels, level=level)


# --- parts ----------------------------------------------------------------------------------------


def _share(points: float, option: str) -> float:
    """Points as a share.

    Raises:
        InputError: not between 0 and 100.
    """
    if isinstance(points, bool | str) or not 0 < points < 100:
        text = points if isinstance(points, str) else f"{points:g}"
        raise InputError(f"{option} {text}: expected points, above 0 and below 100")
    return points / 100


def _text(given: Path | str | None) -> str | None:
    return None if given is None else str(given)


def _levels(given: Levels) -> tuple[str, ...]:
    """Budgets and "clean", as text."""
    given = plain_number(given)  # type: ignore[assignment]
    several = [given] if isinstance(given, Level) else given
    if not isinstance(several, Iterable):
        raise InputError(f"at: {quoted(given)} is no budget; give such as '8/255', or 'clean'")
    return tuple(
        CLEAN if isinstance(one, str) and one == CLEAN else parse_epsilon(one, "--at").text
        for one in several
    )


def _level(given: Levels) -> str:
    """One budget, or "clean", as text.

    Raises:
        InputError: none, or several.
    """
    found = _levels(given)
    if len(found) != 1:
        raise InputError(f"at: {', '.join(found) or 'nothing'}; a ranking has one of a data set")
    return found[0]


def _sides(
    methods: Sequence[Method], query: RecordQuery, baseline: str | None, runs: Path | str
) -> tuple[Side, ...]:
    """What is on file of the methods that are named, the baseline first.

    Raises:
        InputError: a name, or evaluations that do not belong together.
    """
    if not methods:
        raise InputError("name two networks or more; the first is the baseline")
    finder = Finder(Path(runs), query)
    texts = [record_name(one) for given in methods for one in _members(given) if not _held(one)]
    for one in (one for given in methods for one in _members(given) if isinstance(one, Evaluation)):
        finder.check_attacker(str(one.header["checkpoint"]["path"]), Record(one.header, one))
    networks = dict(finder.networks(texts))  # together: a message names what another one has
    groups = [group for given in methods for group in _groups(given, networks)]
    check_twice(groups)
    found = sides(named(groups), query, finder.runs)
    if baseline is None:
        return found
    known = [side.name for side in found]
    if baseline not in known:
        raise UnknownName("baseline", baseline, known)
    return tuple(sorted(found, key=lambda side: side.name != baseline))


def _held(given: object) -> bool:
    return isinstance(given, Evaluation)


def _members(given: Method) -> Sequence[One]:
    several = [given] if isinstance(given, Evaluation | Path | str) else given
    if not isinstance(several, Sequence):
        raise InputError(f"{quoted(given)}: no evaluation; give records, their files or patterns")
    return several


def _groups(given: Method, known: Mapping[str, Sequence[NetworkRecords]]) -> Iterable[NetworkGroup]:
    """One name's groups, or the one group of what is listed."""
    if isinstance(given, Path | str):
        return split(str(given), known[str(given)])
    networks = [
        network
        for one in _members(given)
        for network in (_in_memory(one) if isinstance(one, Evaluation) else known[record_name(one)])
    ]
    if not networks:
        raise InputError("an empty list of evaluations; give at least one")
    names = " + ".join(_called(network) for network in networks)
    losses = {network.records[0].checkpoint["loss"] for network in networks} - {None}
    name = losses.pop() if len(losses) == 1 and len(networks) > 1 else names
    return [NetworkGroup(str(name), in_order(networks), names)]


def _in_memory(found: Evaluation) -> list[NetworkRecords]:
    record = Record(found.header, found)
    checkpoint = record.checkpoint
    return [NetworkRecords(str(checkpoint["path"]), checkpoint["seed"], (record,))]


def _called(network: NetworkRecords) -> str:
    """A network by its checkpoint, where it was named by a record."""
    if network.name.endswith(".parquet"):
        return str(network.records[0].checkpoint["path"])
    return network.name
