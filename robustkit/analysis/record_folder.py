"""A folder of evaluations as the findings of a study, by what the records say of their making."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from robustkit.analysis.findings import (
    ELSEWHERE,
    Findings,
    Number,
    gaps_of,
    images_in_words,
    not_found,
)
from robustkit.errors import RecordError
from robustkit.protocol import budget_key, default_norm, protocol_in_words
from robustkit.results.finder import FEATURES, short_paths, told_apart
from robustkit.results.grid import LISTED
from robustkit.results.metadata import same
from robustkit.results.records import Condition, Record, condition, open_record
from robustkit.results.rows import budgets
from robustkit.results.sides import difference
from robustkit.spec import TRAINED, Analysis, Study
from robustkit.statistics.comparison import listed


def findings_of_records(study: Study, folder: Path, command: str) -> Findings:
    """What a folder of evaluations has for each analysis, by what the records say of their making.

    Raises:
        RecordError: no such folder, a damaged file, or two records of the same network.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder of records")
    headers = {path: open_record(path).header for path in sorted(folder.glob("*.parquet"))}
    asked = [analysis for analysis in study.analyses if analysis.factor != "cost"]
    taken = {a.name: _taken(a, headers, whatever=_free(study, a)) for a in asked}
    found = [(a, n) for a in asked for n in _numbers(a, taken[a.name].headers)]
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


def _other_images(study: Study, headers: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """That the images are not those that the study's claims are about."""
    if not study.claims:
        return
    tested = study.tested
    for name in dict.fromkeys(header["data"]["name"] for header in headers):
        if name != tested.data:
            yield f"The study's claims are about {tested.data}; these evaluations are of {name}."


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
    analysis: Analysis, headers: Mapping[Path, Mapping[str, Any]], *, whatever: bool
) -> _Taken:
    """The evaluations that fit, under the condition under which most networks were evaluated."""
    reasons = {path: _unfit(analysis, header, whatever) for path, header in headers.items()}
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
    """Equal for records of one network; each is its own where weights are not on record."""
    weights = header["checkpoint"].get("weights")
    return Record(header, path).identity if weights else str(path)


def _left_out(taken: Iterable[_Taken], headers: Mapping[Path, Mapping[str, Any]]) -> Iterable[str]:
    """The evaluations that no analysis takes, with what each has against it."""
    out: dict[str, list[str]] = defaultdict(list)  # files by reason
    analyses = list(taken)
    for path in headers:
        reasons = [one.reasons.get(path, "") for one in analyses]
        if all(reasons):
            out[listed(list(dict.fromkeys(reasons)))].append(path.name)
    for reason, names in out.items():
        more = len(names) - LISTED
        shown = [*names[:LISTED], *([f"{more} more"] if more > 0 else [])]
        yield f"Left out, since {reason}: {listed(shown)}."


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
    for factor in () if whatever else TRAINED:
        if factor == analysis.factor or made.get(factor) is None:
            continue
        own, asked = Fraction(str(made[factor])), getattr(analysis, factor)
        if not same(factor, own, Fraction(asked)):
            return f"{analysis.name} takes {factor} {asked}, not {made[factor]:.6g}"
    return ""


def _numbers(analysis: Analysis, headers: Mapping[Path, Mapping[str, Any]]) -> Iterable[Number]:
    """The networks of an analysis; methods are told apart by more than the loss where it takes it.

    Raises:
        RecordError: two networks that nothing tells apart but their files, at one level.
    """
    whole = analysis.factor == "epsilon"
    taken: dict[tuple[str, Fraction, int], Path] = {}
    levels = {} if whole else _levels(analysis, [h["checkpoint"] for h in headers.values()])
    for (path, header), method in zip(headers.items(), _methods(headers, analysis), strict=True):
        made = header["checkpoint"]
        level = levels.get(made.get(analysis.factor), "")
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

    Of label noise the share that came of it is on record, which is another with every seed.
    """
    factor = analysis.factor
    texts = [*analysis.levels]
    found: dict[Any, str] = {}
    for value in sorted({one[factor] for one in made}):
        own = Fraction(str(value))
        near = [text for text in texts if same(factor, own, Fraction(text))]
        if not near:
            short, exact = (f"{value:.{digits}g}" for digits in (2, 6))
            near = [short if same(factor, own, Fraction(short)) else exact]
            texts.append(near[0])
        found[value] = min(near, key=lambda text: abs(own - Fraction(text)))
    return found


def _methods(headers: Mapping[Path, Mapping[str, Any]], analysis: Analysis) -> list[str]:
    """What the method of each network is called: its loss.

    Under attack, where two networks of one seed share that, by what else is on record of their
    making, and where this is the same, too, by their files.
    """
    made = [header["checkpoint"] for header in headers.values()]
    names = [str(one["loss"] or one["model"] or "unknown") for one in made]
    if analysis.factor != "epsilon" or not made:
        return names
    seeds = [int(one["seed"] or 0) for one in made]
    features = told_apart([{key: one[key] for key in FEATURES} for one in made])
    for others in (features, short_paths([str(one["path"]) for one in made])):
        doubled = _doubled(names, seeds)
        names = [
            o if name in doubled and o else name for o, name in zip(others, names, strict=True)
        ]
    return names


def _doubled(names: Sequence[str], seeds: Sequence[int]) -> set[str]:
    """The names that several networks of one seed have."""
    often = Counter(zip(names, seeds, strict=True))
    return {name for (name, _), count in often.items() if count > 1}
