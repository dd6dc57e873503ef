"""A folder of evaluations as the findings of a study, by what the records say of their making."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from robustkit.analysis.contrast import unlike_note
from robustkit.analysis.findings import (
    ELSEWHERE,
    Findings,
    Number,
    gaps_of,
    images_in_words,
    not_found,
)
from robustkit.errors import RecordError
from robustkit.parsing import parse_toml
from robustkit.protocol import budget_key, default_norm, protocol_in_words
from robustkit.protocol.file import default_target, target_of
from robustkit.results.command import called
from robustkit.results.finder import FEATURES, features, short_paths, told_apart
from robustkit.results.grid import LISTED
from robustkit.results.metadata import number as numeric
from robustkit.results.metadata import same, setting
from robustkit.results.records import Condition, Record, condition, open_record
from robustkit.results.rows import budgets
from robustkit.results.sides import difference
from robustkit.spec import TRAINED, Analysis, Study
from robustkit.statistics.comparison import listed

T = TypeVar("T")


def findings_of_records(study: Study, folder: Path, command: str) -> Findings:
    """What a folder of evaluations has for each analysis, by what the records say of their making.

    Raises:
        RecordError: no such folder, a damaged file, or two records of the same network.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder of records")
    records = {path: open_record(path) for path in sorted(folder.glob("*.parquet"))}
    best_first = sorted(records, key=lambda path: records[path].standing, reverse=True)
    headers = {path: records[path].header for path in best_first}
    asked = [analysis for analysis in study.analyses if analysis.factor != "cost"]
    chosen = study.changes.get("test", {}).get("data")  # by the command's option
    taken = {a.name: _taken(a, headers, chosen, whatever=_free(study, a)) for a in asked}
    found = [(a, n) for a in asked for n in _numbers(study, a, taken[a.name].headers)]
    numbers = [n for a, n in found if _wanted(a, n)]
    if not numbers:
        why = "; ".join(_left_out(taken.values(), headers)) or "it is empty"
        raise RecordError(f"{folder}: no evaluation in it fits an analysis of {study.name}: {why}")
    fixed = f"not known: the evaluations were there before; {ELSEWHERE}"
    return Findings(
        numbers,
        provenance={
            "Study": {"name": study.name, "digest": study.digest, "claims fixed": fixed},
            "Data": _data_of(headers[number.path] for number in numbers if number.path),
        },
        notes=(
            *_left_out(taken.values(), headers),
            *_unwanted(n for a, n in found if not _wanted(a, n)),
            *_unlike(numbers, headers),
            *_other_images(study, (headers[n.path] for n in numbers if n.path)),
            *not_found(study, {number.method for number in numbers}),
            *gaps_of(study, numbers),
        ),
        command=command,
    )


def _wanted(analysis: Analysis, number: Number) -> bool:
    """Whether an analysis names the method and the seed, where it names any."""
    return number.method in (analysis.methods or [number.method]) and number.seed in (
        analysis.seeds or [number.seed]
    )


def _unwanted(numbers: Iterable[Number]) -> Iterable[str]:
    """The networks of other methods and seeds than an analysis names."""
    out: dict[str, list[str]] = defaultdict(list)
    for number in numbers:
        out[number.analysis].append(f"{number.method}, seed {number.seed}")
    for analysis, networks in out.items():
        named = listed(list(dict.fromkeys(networks)))
        yield f"Left out, since {analysis} names other methods or seeds: {named}."


def _unlike(numbers: Iterable[Number], headers: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """Which networks are no replicates of each other, though an analysis takes them for seeds."""
    alike: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for n in numbers:
        if n.path is not None:
            alike[n.analysis, n.method, n.level].append(headers[n.path]["checkpoint"])
    notes = (note for (_, method, _), own in alike.items() for note in unlike_note(method, own))
    return list(dict.fromkeys(notes))


def _other_images(study: Study, headers: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """That the images are not those that the study's claims are about."""
    if not study.claims:
        return
    own = parse_toml(study.text).get("test", {}).get("data")  # whatever is chosen here
    if own is None:
        return
    others = (h["data"]["name"] for h in headers if not called(own, h["data"]))
    for name in dict.fromkeys(others):
        yield f"The study's claims are about {own}; these evaluations are of {name}."


def _data_of(headers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The data sets of evaluations, by name and split."""
    told: dict[str, dict[str, None]] = defaultdict(dict)  # texts in order, each once
    for header in headers:
        data = header["data"]
        text = images_in_words(data["n"], data["digest"])
        told[f"{data['name']}, {data['split']}"][text] = None
    return {name: "; ".join(texts) for name, texts in told.items()}


class _Taken(NamedTuple):
    """What an analysis takes of a folder."""

    headers: Mapping[Path, Mapping[str, Any]]
    reasons: Mapping[Path, str]
    """why it takes the others not, in words"""


def _free(study: Study, analysis: Analysis) -> bool:
    """Whether an analysis takes networks however they were trained: it says nothing of it."""
    said = analysis.label_noise != "0" or analysis.data_fraction != "1"
    claimed = any(claim.analysis == analysis.name for claim in study.claims)
    return analysis.factor == "epsilon" and not said and not claimed


def _taken(
    analysis: Analysis,
    headers: Mapping[Path, Mapping[str, Any]],
    data: str | None,
    *,
    whatever: bool,
) -> _Taken:
    """The evaluations that fit, under the condition under which most networks were evaluated.

    Of two of one network, or of two conditions, that counts which comes first. Of other data sets
    than `data` none fits, where one is chosen.
    """
    reasons = {
        path: _unchosen(data, header) or _unfit(analysis, header, whatever)
        for path, header in headers.items()
    }
    largest = max((budget_key(text)[0] for text in analysis.levels), default=inf)
    if analysis.factor != "epsilon":
        largest = 0
    conditions = {
        path: condition(headers[path], largest) for path, reason in reasons.items() if not reason
    }
    networks: dict[Condition, set[str]] = defaultdict(set)
    for path, one in conditions.items():
        networks[one].add(_network(headers[path], path))
    size = {one: headers[path]["data"]["n"] for path, one in conditions.items()}
    usual = max(networks, key=lambda one: (len(networks[one]), size[one]), default=None)
    of: dict[str, Path] = {}
    for path, one in conditions.items():
        header = headers[path]
        if usual is not None and one != usual:
            how = difference(one, usual)
            how = f"on {size[usual]:,} other images" if how == "on other images" else how
            reasons[path] = f"most networks were evaluated {how}"
        elif (known := of.setdefault(_network(header, path), path)) != path:
            reasons[path] = f"{known.name} is of the same network"
    kept = {path: headers[path] for path in conditions if not reasons[path]}
    return _Taken(kept, {path: reason for path, reason in reasons.items() if reason})


def _network(header: Mapping[str, Any], path: Path) -> str:
    """Equal for records of one network; each is its own where that is not on record."""
    return Record(header, path).identity


def _left_out(taken: Iterable[_Taken], headers: Mapping[Path, Mapping[str, Any]]) -> Iterable[str]:
    """The evaluations that no analysis takes, with what each has against it."""
    out: dict[str, list[str]] = defaultdict(list)  # files by reason
    analyses = list(taken)
    for path in sorted(headers):
        reasons = [one.reasons.get(path, "") for one in analyses]
        if all(reasons):
            out[listed(list(dict.fromkeys(reasons)))].append(path.name)
    for reason, names in out.items():
        more = len(names) - LISTED
        shown = [*names[:LISTED], *([f"{more} more"] if more > 0 else [])]
        yield f"Left out, since {reason}: {listed(shown)}."


def _unchosen(data: str | None, header: Mapping[str, Any]) -> str:
    """Why an evaluation is of another data set than the chosen one, in words; "" if it is not."""
    if data is None or called(data, header["data"]):
        return ""
    return f"--data chooses {data}, not {header['data']['name']}"


def _unfit(analysis: Analysis, header: Mapping[str, Any], whatever: bool) -> str:
    """Why an evaluation is none of an analysis's, in words; "" where it is one.

    `whatever`: the network's training is no reason.
    """
    made, protocol = header["checkpoint"], header["protocol"]
    if analysis.factor == "epsilon":
        norm = analysis.norm or default_norm(protocol)
        if (protocol["name"], protocol["norm"]) != (analysis.protocol, norm):
            asked = analysis.protocol + (f" in {norm}" if analysis.norm else "")
            return f"{analysis.name} takes the protocol {asked}, not {protocol_in_words(protocol)}"
        if (target := target_of(protocol)) != (usual := default_target(protocol)):
            return f"{analysis.name} takes the target of the protocol's file, {usual}, not {target}"
        if ("surrogate" in header) != bool(analysis.surrogate):
            only = "only" if analysis.surrogate else "no"
            return f"{analysis.name} takes {only} attacks by transfer"
        there = set(map(budget_key, budgets(header)))
        if lacking := [text for text in analysis.levels if budget_key(text) not in there]:
            return (
                f"{analysis.name} takes ε = {', '.join(lacking)}, at which they were not attacked"
            )
    elif made.get(analysis.factor) is None:
        return f"their {analysis.factor} is not on record"
    elif numeric(str(made[analysis.factor])) is None:
        return f"their {analysis.factor} is no number"
    for factor in () if whatever else TRAINED:
        if factor == analysis.factor or made.get(factor) is None:
            continue
        own, asked = setting(made, factor), getattr(analysis, factor)
        if not same(factor, Fraction(str(own)), Fraction(asked)):
            return f"{analysis.name} takes {factor} {asked}, not {own:.6g}"
    return ""


def _numbers(
    study: Study, analysis: Analysis, headers: Mapping[Path, Mapping[str, Any]]
) -> Iterable[Number]:
    """The networks of an analysis; methods are told apart by more than the loss where it takes it.

    Raises:
        RecordError: two networks that nothing tells apart but their files, at one level.
    """
    whole = analysis.factor == "epsilon"
    taken: dict[tuple[str, Fraction, int], Path] = {}
    levels = {} if whole else _levels(analysis, [h["checkpoint"] for h in headers.values()])
    methods = _methods(headers, analysis, whatever=_free(study, analysis))
    for (path, header), method in zip(headers.items(), methods, strict=True):
        made = header["checkpoint"]
        level = levels.get(setting(made, analysis.factor), "")
        seed = None if made["seed"] is None else int(made["seed"])
        if seed is not None:  # networks of unknown seeds are not known to be the same
            where = (method, Fraction(level or 0), seed)
            if where in taken:
                raise RecordError(
                    f"{path} and {taken[where]}: both of {method}, {analysis.factor} {level}, "
                    f"seed {seed}; keep one of them in the folder"
                )
            taken[where] = path
        yield Number(analysis.name, method, level, seed, path)


def _levels(analysis: Analysis, made: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    """The level of each value on record: that of the analysis, or one for values that are the same.

    Where of label noise only the share is on record that came of it, it is another with every seed.
    """
    factor = analysis.factor
    texts = [*analysis.levels]
    found: dict[Any, str] = {}
    for value in sorted({setting(one, factor) for one in made}, key=lambda v: Fraction(str(v))):
        own = Fraction(str(value))
        near = [text for text in texts if same(factor, own, Fraction(text))]
        if not near:
            short, exact = (f"{float(own):.{digits}g}" for digits in (2, 6))
            near = [short if same(factor, own, Fraction(short)) else exact]
            texts.append(near[0])
        found[value] = min(near, key=lambda text: abs(own - Fraction(text)))
    return found


def _methods(
    headers: Mapping[Path, Mapping[str, Any]], analysis: Analysis, *, whatever: bool
) -> list[str]:
    """What the method of each network is called: its loss.

    Where networks of one loss are no replicates, by what else is on record of their making; under
    attack, where two of one seed share this, too, by their files.
    """
    made = [header["checkpoint"] for header in headers.values()]
    if not made:
        return []
    losses = [str(one["loss"] or one["model"] or "unknown") for one in made]
    alike = () if whatever else TRAINED  # all are as the analysis asks
    full = told_apart(features(made, [key for key in FEATURES if key not in alike]))
    mixed = _repeated(loss for loss, _ in set(zip(losses, full, strict=True)))
    names = [
        more if loss in mixed and more else loss for loss, more in zip(losses, full, strict=True)
    ]
    if analysis.factor != "epsilon":
        return names
    seeds = [int(one["seed"] or 0) for one in made]
    doubled = {name for name, _ in _repeated(zip(names, seeds, strict=True))}
    paths = short_paths([str(one["path"]) for one in made])
    return [path if name in doubled else name for path, name in zip(paths, names, strict=True)]


def _repeated(items: Iterable[T]) -> set[T]:
    """What is there more than once."""
    return {one for one, count in Counter(items).items() if count > 1}
