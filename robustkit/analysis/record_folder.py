"""A folder of evaluations as the findings of a study, by what the records say of their making."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from robustkit.analysis.findings import (
    ELSEWHERE,
    Findings,
    Number,
    gaps_of,
    images_in_words,
    not_found,
)
from robustkit.errors import RecordError
from robustkit.protocol import default_norm, protocol_in_words
from robustkit.results.grid import LISTED
from robustkit.results.records import open_record
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
    numbers = [
        number
        for analysis in study.analyses
        if analysis.factor != "cost"
        for number in _of_headers(analysis, headers)
    ]
    if not numbers:
        why = "; ".join(_left_out(study, headers)) or "it is empty"
        raise RecordError(f"{folder}: no evaluation in it fits an analysis of {study.name}: {why}")
    fixed = f"not known: the evaluations were there before; {ELSEWHERE}"
    return Findings(
        numbers,
        provenance={
            "Study": {"name": study.name, "digest": study.digest, "claims fixed": fixed},
            "Data": _data_of(headers[number.path] for number in numbers if number.path),
        },
        notes=(
            *_left_out(study, headers),
            *not_found(study, {number.method for number in numbers}),
            *gaps_of(study, numbers),
        ),
        command=command,
    )


def _data_of(headers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The data sets of evaluations, by name and split."""
    told: dict[str, dict[str, None]] = defaultdict(dict)  # texts in order, each once
    for header in headers:
        data = header["data"]
        text = images_in_words(data["n"], data["digest"])
        told[f"{data['name']}, {data['split']}"][text] = None
    return {name: "; ".join(texts) for name, texts in told.items()}


def _left_out(study: Study, headers: Mapping[Path, Mapping[str, Any]]) -> Iterable[str]:
    """The evaluations that no analysis takes, with what each has against it."""
    analyses = [analysis for analysis in study.analyses if analysis.factor != "cost"]
    out: dict[str, list[str]] = defaultdict(list)  # files by reason
    for path, header in headers.items():
        reasons = [_unfit(analysis, header) for analysis in analyses]
        if all(reasons):
            out[listed(list(dict.fromkeys(reasons)))].append(path.name)
    for reason, names in out.items():
        more = len(names) - LISTED
        shown = [*names[:LISTED], *([f"{more} more"] if more > 0 else [])]
        yield f"Left out, since {reason}: {listed(shown)}."


def _unfit(analysis: Analysis, header: Mapping[str, Any]) -> str:
    """Why an evaluation is none of an analysis's, in words; "" where it is one."""
    made, protocol = header["checkpoint"], header["protocol"]
    if analysis.factor == "epsilon":
        norm = analysis.norm or default_norm(protocol)
        if (protocol["name"], protocol["norm"]) != (analysis.protocol, norm):
            asked = analysis.protocol + (f" in {norm}" if analysis.norm else "")
            return f"{analysis.name} takes the protocol {asked}, not {protocol_in_words(protocol)}"
    elif made.get(analysis.factor) is None:
        return f"their {analysis.factor} is not on record"
    for factor in TRAINED:
        if factor == analysis.factor or made.get(factor) is None:
            continue
        if Fraction(str(made[factor])) != Fraction(asked := getattr(analysis, factor)):
            return f"{analysis.name} takes {factor} {asked}, not {made[factor]:.6g}"
    return ""


def _of_headers(analysis: Analysis, headers: Mapping[Path, Mapping[str, Any]]) -> Iterable[Number]:
    taken: dict[tuple[str, Fraction, int], Path] = {}
    for path, header in headers.items():
        if _unfit(analysis, header):
            continue
        made = header["checkpoint"]
        level = "" if analysis.factor == "epsilon" else f"{made[analysis.factor]:.6g}"
        method, seed = str(made["loss"] or made["model"] or "unknown"), int(made["seed"] or 0)
        where = (method, Fraction(level or 0), seed)
        if where in taken:
            raise RecordError(
                f"{path} and {taken[where]}: both of {method}, {analysis.factor} {level}, seed "
                f"{seed}; keep one of them in the folder"
            )
        taken[where] = path
        yield Number(analysis.name, method, level, seed, path)
