"""What a study's folder, or a folder of evaluations, holds: numbers, failures, histories."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robustkit.errors import RecordError
from robustkit.statistics.comparison import listed
from robustkit.study.amendments import differences
from robustkit.study.analysis import Findings, Number
from robustkit.study.cells import Candidate, Context, choices
from robustkit.study.grid import LISTED, gaps
from robustkit.study.outcome import CellRow, History
from robustkit.study.spec import TRAINED, Analysis, Study
from robustkit.study.store import Store

MISSING = "not yet trained"
FIRST = "before the first training"
ELSEWHERE = "the networks were made elsewhere"
TOLD = 20
"""changes of one amendment that a note lists"""


def of_store(study: Study, store: Store, command: str) -> Findings:
    """What the cells of a study came to.

    Raises:
        RecordError: the folder holds no study, or another one.
    """
    asked, plan = store.asked(), store.plan()
    if asked is None or study.digest not in _digests(asked):
        raise RecordError(
            f"{store.folder}: holds another study than {study.name} as its file is now; give "
            "another --out"
        )
    done = {key: store.cell(key) for key in plan["cells"]}
    numbers = [_number(store, entry, done) for entry in plan["wanted"]]
    return Findings(
        numbers,
        {name: cost["seconds"] for name, cost in _costs(study, store)},
        tuple(_histories(study, plan, done)),
        tuple(_cell_rows(study, store, plan, done)),
        _provenance(study, store, asked, plan, done),
        (*_notes(study, asked, plan, done), *_unlike(study, plan, numbers)),
        command,
        _askings(asked),
    )


def _askings(asked: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """What was asked at first, and after each amendment."""
    first = {key: asked[key] for key in ("digest", "file", "changes")}
    return first, *asked["amendments"]


def _digests(asked: Mapping[str, Any]) -> list[str]:
    return [one["digest"] for one in _askings(asked)]


def _number(
    store: Store, entry: Mapping[str, Any], done: Mapping[str, dict[str, Any] | None]
) -> Number:
    cell, test = done.get(entry["cell"]), store.test(entry["test"])
    path, reason = None, ""
    if cell is None:
        reason = MISSING
    elif cell["status"] == "failed":
        reason = f"training failed: {cell['reason']}"
    elif test is None:
        reason = "not yet evaluated"
    elif test["status"] == "failed":
        reason = f"evaluation failed: {test['reason']}"
    else:
        path = store.runs / f"{test['evaluation'][:32]}.parquet"
    where = (entry["analysis"], entry["method"], entry["level"], entry["seed"])
    return Number(*where, path, reason)


def _costs(study: Study, store: Store) -> Iterable[tuple[str, dict[str, Any]]]:
    for analysis in study.analyses:
        if analysis.factor == "cost" and (cost := store.cost(analysis.name)) is not None:
            yield analysis.name, cost


def _histories(
    study: Study, plan: Mapping[str, Any], done: Mapping[str, dict[str, Any] | None]
) -> Iterable[History]:
    """Means over seeds of the first analysis of label noise, where there are wrong labels."""
    analysis = next((a for a in study.analyses if a.factor == "label_noise"), None)
    if analysis is None:
        return
    groups: dict[tuple[str, str], list[list[dict[str, Any]]]] = defaultdict(list)
    for entry in plan["wanted"]:
        cell = done.get(entry["cell"])
        if entry["analysis"] == analysis.name and cell and cell.get("history"):
            groups[entry["method"], entry["level"]].append(cell["history"])
    for (method, level), histories in groups.items():
        if Fraction(level) == 0:
            continue
        # an earlier version wrote fewer lines
        steps = max((tuple(line["step"] for line in h) for h in histories), key=len)
        if len(steps) < 2:
            continue  # no course to be drawn
        alike = [h for h in histories if tuple(line["step"] for line in h) == steps]
        yield History(
            method, level, steps, _means(alike, "memorised"), _means(alike, "held_out_clean")
        )


def _means(histories: Sequence[Sequence[Mapping[str, Any]]], key: str) -> tuple[float | None, ...]:
    columns = zip(*([line.get(key) for line in history] for history in histories), strict=True)
    return tuple(None if None in column else sum(column) / len(column) for column in columns)


def _cell_rows(
    study: Study,
    store: Store,
    plan: Mapping[str, Any],
    done: Mapping[str, dict[str, Any] | None],
) -> Iterable[CellRow]:
    """Every training: what for, and what it came to."""
    compared = {entry["cell"] for entry in plan["wanted"]}
    clean = _clean(store, plan)
    for key, cell in plan["cells"].items():
        known = done[key] or {"status": "missing", "reason": MISSING}
        yield CellRow(
            key=key,
            method=cell["method"],
            factor="label noise, data fraction",
            level=", ".join(cell["context"]),
            seed=cell["seed"],
            status=known["status"],
            reason=known["reason"],
            clean=clean.get(key),
            steps=known.get("steps"),
            seconds=known.get("seconds"),
            settings=_settings(study, cell),
            purpose="compared" if key in compared else "tuning",
        )


def _clean(store: Store, plan: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy of each cell that has an evaluation on file."""
    found: dict[str, float] = {}
    for entry in plan["wanted"]:
        if entry["cell"] in found:
            continue
        test = store.test(entry["test"])
        if test is not None and test["status"] == "done":
            found[entry["cell"]] = test["clean"]
    return found


def _settings(study: Study, cell: Mapping[str, Any]) -> str:
    """A configuration in words."""
    method = next((m for m in study.methods if m.name == cell["method"]), None)
    if method is None:
        return ""
    return _in_words(method.choose[cell["configuration"]])


def _in_words(configuration: Mapping[str, Any]) -> str:
    rest = configuration.get("settings", {})
    flat = {k: v for k, v in configuration.items() if k != "settings"} | rest
    return ", ".join(f"{key} {value}" for key, value in flat.items()) or "as given"


def _provenance(
    study: Study,
    store: Store,
    asked: Mapping[str, Any],
    plan: Mapping[str, Any],
    done: Mapping[str, dict[str, Any] | None],
) -> dict[str, dict[str, str]]:
    finished = [cell for cell in done.values() if cell and cell["status"] == "done"]
    known = {key: test for key in plan["tests"] if (test := store.test(key)) is not None}
    tested = {key: test for key, test in known.items() if test["status"] == "done"}
    sections = {
        "Study": {"name": study.name} | _asked(study, asked),
        "Cells": {
            "planned": str(len(plan["cells"])),
            "done": str(len(finished)),
            "failed": str(sum(1 for c in done.values() if c and c["status"] == "failed")),
        }
        | _machines([*finished, *tested.values()]),
        "Data": _data(store, plan, finished, tested),
        "Versions": _versions(finished),
    }
    if plan["chosen"]:
        sections["Configurations chosen"] = {
            where: str(number + 1) for where, number in plan["chosen"].items()
        }
    return sections


def _asked(study: Study, asked: Mapping[str, Any]) -> dict[str, str]:
    """What was asked first, and what later."""
    first, *later = _digests(asked)
    fixed = FIRST if study.brought is None else f"before the first evaluation here; {ELSEWHERE}"
    if not later:
        return {"digest": study.digest, "claims fixed": fixed}
    fixed = "changed later, see the notes"
    return {
        "digest": study.digest,
        "claims fixed": fixed if study.brought is None else f"{fixed}; {ELSEWHERE}",
        "digest as first asked": first,
    } | {
        f"digest of amendment {i}": f"{one['digest']}, after {one['cells_done']} cells"
        for i, one in enumerate(asked["amendments"], 1)
    }


def _machines(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Devices, threads and processors of results; networks made elsewhere say nothing of theirs."""
    known = [one for one in results if "device" in one]
    said = {
        "devices": {one["device"] for one in known},
        "threads": {str(one.get("threads", "unknown")) for one in known},
        "processors": {one.get("processor", "unknown") for one in known},
    }
    return {what: ", ".join(sorted(texts)) or "unknown" for what, texts in said.items()}


def _versions(finished: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    versions: dict[str, set[str]] = defaultdict(set)
    for cell in finished:
        for name, text in cell.get("versions", {}).items():
            versions[name].add(text)
    return {name: ", ".join(sorted(texts)) for name, texts in sorted(versions.items())}


def _data(
    store: Store,
    plan: Mapping[str, Any],
    finished: Sequence[Mapping[str, Any]],
    tested: Mapping[str, Mapping[str, Any]],
) -> dict[str, str]:
    """The data sets that networks were trained and tested on, by name and split."""
    told: dict[str, dict[str, str]] = defaultdict(dict)  # text by digest, by name and split
    for cell in plan["cells"].values():
        if (data := cell["asked"].get("data")) is not None:
            told[f"{data['name']}, train"][data["digest"]] = _digest_told(data["digest"])
    for cell in finished:
        for split, data in cell.get("data", {}).items():
            told[f"{data['name']}, {split}"][data["digest"]] = _data_told(data)
    for key, test in plan["tests"].items():
        data = _tested_on(store, test["digest"], tested.get(key), told)
        if data is not None:
            told[f"{data['name']}, {test['split']}"][test["digest"]] = _data_told(data)
        elif not any(test["digest"] in texts for texts in told.values()):
            told[f"{test['data']}, {test['split']}"][test["digest"]] = _digest_told(test["digest"])
    return {name: "; ".join(texts.values()) for name, texts in told.items()}


def _tested_on(
    store: Store,
    digest: str,
    test: Mapping[str, Any] | None,
    told: Mapping[str, Mapping[str, str]],
) -> Mapping[str, Any] | None:
    """Images that were tested, by an evaluation of them; None: unknown, or told already."""
    if test is None or any("images" in texts.get(digest, "") for texts in told.values()):
        return None
    if "data" in test:
        return next(iter(test["data"].values()), None)
    data = _header(store.runs / f"{test['evaluation'][:32]}.parquet")["data"]
    return {"name": data["name"], "images": data["n"], "digest": data["digest"]}


def _data_told(data: Mapping[str, Any]) -> str:
    return f"{data['images']:,} images, {_digest_told(data['digest'])}"


def _digest_told(digest: str) -> str:
    return f"digest {digest}"


def _notes(
    study: Study,
    asked: Mapping[str, Any],
    plan: Mapping[str, Any],
    done: Mapping[str, dict[str, Any] | None],
) -> Iterable[str]:
    yield from _amended(asked)
    yield from not_found(study, {entry["method"] for entry in plan["wanted"]})
    missing = sum(1 for cell in done.values() if cell is None)
    failed = sum(1 for cell in done.values() if cell and cell["status"] == "failed")
    if missing or plan["later"]:
        later = sum(plan["later"].values())
        yield f"Unfinished: {missing} cells are missing, {later} more wait for a choice."
    if failed:
        yield f"{failed} cells failed; they count as no number."
    yield from _chosen(study, plan, done)


def _chosen(
    study: Study, plan: Mapping[str, Any], done: Mapping[str, dict[str, Any] | None]
) -> Iterable[str]:
    """How configurations were chosen, and what an interval carries of it."""
    tuning = study.tuning
    if not plan["candidates"] or tuning is None:
        return
    yield (
        f"For every method {len(study.methods[0].choose)} configurations were tried "
        f"{'by every seed for itself' if tuning.every_seed else 'with a seed of their own'}, and "
        "the one with the best held-out accuracy was taken; the held-out labels are as wrong as "
        "those trained on."
    )
    if tuning.every_seed and study.trained is not None and len(study.trained.seeds) > 1:
        if plan["wanted"]:
            said = "; ".join(f"{name}: {', '.join(taken)}" for name, taken in _taken(study, plan))
            but = "" if tuning.seed is None else ", but for that of a surrogate, which is made once"
            yield (
                f"The choice is repeated with every seed, so intervals over seeds carry it{but}. "
                f"Compared networks of each configuration: {said}."
            )
    elif leads := _leads(plan, bool(tuning.at), done):
        said = ", ".join(f"{method} {100 * lead:.2f}" for method, lead in leads.items())
        yield (
            f"By how many points of held-out accuracy the one taken led the next, at least: {said}."
            " Where that is little, another seed or machine may take another, and no interval here "
            "carries what that would change."
        )


def _leads(
    plan: Mapping[str, Any], together: bool, done: Mapping[str, dict[str, Any] | None]
) -> dict[str, float]:
    """By method, how far its best configuration was ahead of the next, where that was closest."""
    held_out = {key: cell.get("held_out") or 0.0 for key, cell in done.items() if cell}
    tried = [
        Candidate(**{**one, "context": Context(*one["context"])}) for one in plan["candidates"]
    ]
    least: dict[str, float] = {}
    for who, choice in choices(tried, together, held_out).items():
        if choice is None:
            return {}
        least[who.method] = min(choice.lead, least.get(who.method, 1.0))
    return least


def _taken(study: Study, plan: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    """By method: its configurations in words, each with the number of its compared networks."""
    compared = {entry["cell"] for entry in plan["wanted"]}
    cells = [cell for key, cell in plan["cells"].items() if key in compared]
    counts = Counter((cell["method"], cell["configuration"]) for cell in cells)
    for method in study.methods:
        yield (
            method.name,
            [
                f"{_in_words(changes)} ({counts[method.name, number]})"
                for number, changes in enumerate(method.choose)
            ],
        )


def _amended(asked: Mapping[str, Any]) -> Iterable[str]:
    """What each amendment changed."""
    for before, after in pairwise([asked, *asked["amendments"]]):
        changed = differences(before, after)
        told = f": {'; '.join(changed[:TOLD])}" if changed else ""
        more = f"; and {len(changed) - TOLD} more" if len(changed) > TOLD else ""
        yield (
            f"The study's file was changed after {after['cells_done']} cells were done, so what "
            f"was changed in it was not fixed beforehand{told}{more}."
        )


def not_found(study: Study, methods: Collection[str]) -> list[str]:
    """Methods that a study of networks made elsewhere speaks of, and no network is of, in words."""
    if study.brought is None:
        return []
    named = {study.baseline: "the baseline"} if study.baseline else {}
    for claim in study.claims:
        if any(analysis.name == claim.analysis for analysis in study.analyses):
            for method in (claim.a, claim.b):
                named.setdefault(method, f"claim {claim.name}")
    found = f"methods found: {', '.join(sorted(methods)) or 'none'}"
    return [
        f"No network of method {method} was found, of which {where} speaks; {found}."
        if where != "the baseline"
        else f"No network of method {method}, the baseline, was found; {found}."
        for method, where in named.items()
        if method not in methods
    ]


def _unlike(study: Study, plan: Mapping[str, Any], numbers: Sequence[Number]) -> Iterable[str]:
    """Which networks made elsewhere are left out, and which are missing."""
    yield from plan.get("notes", ())
    if study.brought is not None:
        yield from _gaps(study, numbers)


def _gaps(study: Study, numbers: Iterable[Number]) -> Iterable[str]:
    levels = {a.name: a.levels for a in study.analyses if a.factor != "epsilon"}
    return gaps(((n.analysis, (n.method, n.level, n.seed)) for n in numbers), levels)


# --- a folder of evaluations ----------------------------------------------------------------------


def of_runs(study: Study, folder: Path, command: str) -> Findings:
    """What a folder of evaluations has for each analysis, by what the records say of their making.

    Raises:
        RecordError: no such folder, a damaged file, or two records of the same network.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder of records")
    headers = {path: _header(path) for path in sorted(folder.glob("*.parquet"))}
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
            *_gaps(study, numbers),
        ),
        command=command,
    )


def _data_of(headers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The data sets of evaluations, by name and split."""
    told: dict[str, dict[str, None]] = defaultdict(dict)  # texts in order, each once
    for header in headers:
        data = header["data"]
        text = _data_told({"images": data["n"], "digest": data["digest"]})
        told[f"{data['name']}, {data['split']}"][text] = None
    return {name: "; ".join(texts) for name, texts in told.items()}


def _header(path: Path) -> dict[str, Any]:
    try:
        metadata = pq.read_schema(path).metadata or {}
        return dict(json.loads(metadata[b"robustkit.header"]))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise RecordError(f"{path}: not a robustkit evaluation: {error}") from error


def _left_out(study: Study, headers: Mapping[Path, dict[str, Any]]) -> Iterable[str]:
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
    made, name = header["checkpoint"], header["protocol"]["name"]
    if analysis.factor == "epsilon":
        if name != analysis.protocol:
            return f"{analysis.name} takes the protocol {analysis.protocol}, not {name}"
    elif made.get(analysis.factor) is None:
        return f"their {analysis.factor} is not on record"
    for factor in TRAINED:
        if factor == analysis.factor or made.get(factor) is None:
            continue
        if Fraction(str(made[factor])) != Fraction(asked := getattr(analysis, factor)):
            return f"{analysis.name} takes {factor} {asked}, not {made[factor]:.6g}"
    return ""


def _of_headers(analysis: Analysis, headers: Mapping[Path, dict[str, Any]]) -> Iterable[Number]:
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
