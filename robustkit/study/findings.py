"""What a study's folder, or a folder of evaluations, holds: numbers, failures, histories."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robustkit.errors import RecordError
from robustkit.study.analysis import Findings, Number
from robustkit.study.outcome import CellRow, History
from robustkit.study.spec import TRAINED, Analysis, Study
from robustkit.study.store import Store

MISSING = "not yet trained"


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
        _provenance(study, asked, plan, done),
        tuple(_notes(study, asked, plan, done)),
        command,
    )


def _digests(asked: Mapping[str, Any]) -> list[str]:
    return [asked["digest"], *(one["digest"] for one in asked["amendments"])]


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
    chosen = method.choose[cell["configuration"]]
    flat = {k: v for k, v in chosen.items() if k != "settings"} | chosen.get("settings", {})
    return ", ".join(f"{key} {value}" for key, value in flat.items())


def _provenance(
    study: Study,
    asked: Mapping[str, Any],
    plan: Mapping[str, Any],
    done: Mapping[str, dict[str, Any] | None],
) -> dict[str, dict[str, str]]:
    finished = [cell for cell in done.values() if cell and cell["status"] == "done"]
    versions: dict[str, set[str]] = defaultdict(set)
    for cell in finished:
        for name, text in cell.get("versions", {}).items():
            versions[name].add(text)
    sections = {
        "Study": {
            "name": study.name,
            "digest": study.digest,
            "claims fixed": "before the first training"
            if len(_digests(asked)) == 1
            else "changed later, see the notes",
        },
        "Cells": {
            "planned": str(len(plan["cells"])),
            "done": str(len(finished)),
            "failed": str(sum(1 for c in done.values() if c and c["status"] == "failed")),
            "devices": ", ".join(sorted({cell.get("device", "") for cell in finished} - {""})),
        },
        "Versions": {name: ", ".join(sorted(texts)) for name, texts in sorted(versions.items())},
    }
    if plan["chosen"]:
        sections["Configurations chosen"] = {
            where: str(number + 1) for where, number in plan["chosen"].items()
        }
    return sections


def _notes(
    study: Study,
    asked: Mapping[str, Any],
    plan: Mapping[str, Any],
    done: Mapping[str, dict[str, Any] | None],
) -> Iterable[str]:
    for change in asked["amendments"]:
        yield (
            f"The study's file was changed after {change['cells_done']} cells were done, so what "
            "was changed in it was not fixed beforehand."
        )
    missing = sum(1 for cell in done.values() if cell is None)
    failed = sum(1 for cell in done.values() if cell and cell["status"] == "failed")
    if missing or plan["later"]:
        later = sum(plan["later"].values())
        yield f"Unfinished: {missing} cells are missing, {later} more wait for a choice."
    if failed:
        yield f"{failed} cells failed; they count as no number."
    if plan["candidates"]:
        count = len(study.methods[0].choose)
        yield (
            f"For every method {count} configurations were tried with a seed of their own, and the "
            "one with the best held-out accuracy was taken; the held-out labels are as wrong as "
            "those trained on."
        )


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
        raise RecordError(f"{folder}: no evaluation in it fits an analysis of {study.name}")
    return Findings(numbers, provenance={"Study": {"digest": study.digest}}, command=command)


def _header(path: Path) -> dict[str, Any]:
    try:
        metadata = pq.read_schema(path).metadata or {}
        return dict(json.loads(metadata[b"robustkit.header"]))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise RecordError(f"{path}: not a robustkit evaluation: {error}") from error


def _of_headers(analysis: Analysis, headers: Mapping[Path, dict[str, Any]]) -> Iterable[Number]:
    taken: dict[tuple[str, Fraction, int], Path] = {}
    for path, header in headers.items():
        made = header["checkpoint"]
        attacked = analysis.factor == "epsilon"
        if attacked and header["protocol"]["name"] != analysis.protocol:
            continue
        if not attacked and made.get(analysis.factor) is None:
            continue
        if any(
            Fraction(str(made[name])) != Fraction(getattr(analysis, name))
            for name in TRAINED
            if name != analysis.factor and made.get(name) is not None
        ):
            continue
        level = "" if attacked else f"{made[analysis.factor]:.6g}"
        method, seed = str(made["loss"] or made["model"] or "unknown"), int(made["seed"] or 0)
        where = (method, Fraction(level or 0), seed)
        if where in taken:
            raise RecordError(
                f"{path} and {taken[where]}: both of {method}, {analysis.factor} {level}, seed "
                f"{seed}; keep one of them in the folder"
            )
        taken[where] = path
        yield Number(analysis.name, method, level, seed, path)
