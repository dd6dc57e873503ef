"""What a study's folder holds: numbers, failures, histories."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from robustkit.analysis.findings import Findings, Number, gaps_of, not_found
from robustkit.analysis.outcome import CellRow, History
from robustkit.errors import RecordError
from robustkit.spec import CHOSEN, Study
from robustkit.spec.amendments import differences
from robustkit.study.cells import Candidate, Context, choices
from robustkit.study.provenance import askings, configuration_in_words, digests, provenance
from robustkit.study.store import StudyStore

MISSING = "not yet trained"
TOLD = 20
"""changes of one amendment that a note lists"""


def findings_of_store(study: Study, store: StudyStore, command: str) -> Findings:
    """What the cells of a study came to.

    Raises:
        RecordError: the folder holds no study, or another one.
    """
    request, plan = store.asked(), store.plan()
    if request is None or study.digest not in digests(request):
        raise RecordError(
            f"{store.folder}: contains another study than {study.name} as its file is now; "
            "give another --out"
        )
    done = {key: store.cell(key) for key in plan["cells"]}
    numbers = [_number(store, entry, done) for entry in plan["wanted"]]
    return Findings(
        numbers,
        {name: cost["seconds"] for name, cost in _costs(study, store)},
        tuple(_histories(study, plan, done)),
        tuple(_cell_rows(study, store, plan, done)),
        provenance(study, store, request, plan, done),
        (
            *_notes(study, request, plan, done),
            *_passes(study, store, plan),
            *_unlike(study, plan, numbers),
        ),
        command,
        askings(request),
    )


def _number(
    store: StudyStore, entry: Mapping[str, Any], done: Mapping[str, dict[str, Any] | None]
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


def _costs(study: Study, store: StudyStore) -> Iterable[tuple[str, dict[str, Any]]]:
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
    store: StudyStore,
    plan: Mapping[str, Any],
    done: Mapping[str, dict[str, Any] | None],
) -> Iterable[CellRow]:
    """Every training: what for, and what it came to."""
    compared = {entry["cell"] for entry in plan["wanted"]}
    clean = _clean(store, plan)
    for key, cell in plan["cells"].items():
        result = done[key] or {"status": "missing", "reason": MISSING}
        yield CellRow(
            key=key,
            method=cell["method"],
            factor="label noise, data fraction",
            level=", ".join(cell["context"]),
            seed=cell["seed"],
            status=result["status"],
            reason=result["reason"],
            clean=clean.get(key),
            steps=result.get("steps"),
            seconds=result.get("seconds"),
            settings=_settings(study, cell),
            purpose="compared" if key in compared else "tuning",
        )


def _clean(store: StudyStore, plan: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy of each cell that has an evaluation on file."""
    accuracies: dict[str, float] = {}
    for entry in plan["wanted"]:
        if entry["cell"] in accuracies:
            continue
        test = store.test(entry["test"])
        if test is not None and test["status"] == "done":
            accuracies[entry["cell"]] = test["clean"]
    return accuracies


def _settings(study: Study, cell: Mapping[str, Any]) -> str:
    """A configuration in words."""
    method = next((m for m in study.methods if m.name == cell["method"]), None)
    if method is None:
        return ""
    return configuration_in_words(method.choose[cell["configuration"]])


def _notes(
    study: Study,
    request: Mapping[str, Any],
    plan: Mapping[str, Any],
    done: Mapping[str, dict[str, Any] | None],
) -> Iterable[str]:
    yield from _amended(request)
    yield from not_found(study, {entry["method"] for entry in plan["wanted"]})
    missing = sum(1 for cell in done.values() if cell is None)
    failed = sum(1 for cell in done.values() if cell and cell["status"] == "failed")
    if missing or plan["later"]:
        later = sum(plan["later"].values())
        yield f"Unfinished: {missing} trainings are missing, {later} more wait for a selection."
    if failed:
        yield f"{failed} trainings failed and have no result."
    yield from _chosen(study, plan, done)


def _passes(study: Study, store: StudyStore, plan: Mapping[str, Any]) -> Iterable[str]:
    """Which passes held-out labels chose, in the analyses that ask for that."""
    for analysis in study.analyses:
        counts: Counter[tuple[str, int]] = Counter()
        for entry in plan["wanted"] if analysis.passes == CHOSEN else ():
            test = store.test(entry["test"]) or {}
            if entry["analysis"] == analysis.name and "passes" in test:
                counts[entry["method"], int(test["passes"])] += 1
        if counts:
            said = ", ".join(f"{name} {n} ({counts[name, n]})" for name, n in sorted(counts))
            yield f"Passes selected by held-out accuracy in {analysis.name} (networks): {said}."


def _chosen(
    study: Study, plan: Mapping[str, Any], done: Mapping[str, dict[str, Any] | None]
) -> Iterable[str]:
    """How configurations were chosen, and what an interval carries of it."""
    tuning = study.tuning
    if not plan["candidates"] or tuning is None:
        return
    yield (
        f"Each method's configuration is the best of {len(study.methods[0].choose)} by held-out "
        f"accuracy, selected {'by each seed' if tuning.every_seed else 'on a separate seed'}"
        "; held-out labels are as noisy as those trained on."
    )
    if tuning.every_seed and study.trained is not None and len(study.trained.seeds) > 1:
        if plan["wanted"]:
            said = "; ".join(f"{name}: {', '.join(taken)}" for name, taken in _taken(study, plan))
            but = (
                ""
                if tuning.seed is None
                else ", except for that of a surrogate, which is made once"
            )
            yield (
                "The selection is repeated with every seed, so intervals over seeds include "
                f"it{but}. Compared networks of each configuration: {said}."
            )
    elif leads := _leads(plan, bool(tuning.at), done):
        said = ", ".join(f"{method} {100 * lead:.2f}" for method, lead in leads.items())
        yield (
            "Smallest lead of the selected configuration over the runner-up (held-out accuracy, "
            f"points): {said}. Where it is small, another seed or machine might select "
            "differently; the intervals do not include this."
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
                f"{configuration_in_words(changes)} ({counts[method.name, number]})"
                for number, changes in enumerate(method.choose)
            ],
        )


def _amended(request: Mapping[str, Any]) -> Iterable[str]:
    """What each amendment changed."""
    for before, after in pairwise([request, *request["amendments"]]):
        changed = [change.text for change in differences(before, after)]
        message = f": {'; '.join(changed[:TOLD])}" if changed else ""
        more = f"; and {len(changed) - TOLD} more" if len(changed) > TOLD else ""
        yield (
            f"The study, or a file that it names, was amended after {after['cells_done']} cells "
            f"were done, so what was amended is not preregistered{message}{more}."
        )


def _unlike(study: Study, plan: Mapping[str, Any], numbers: Sequence[Number]) -> Iterable[str]:
    """Which networks made elsewhere are left out, and which are missing."""
    yield from plan.get("notes", ())
    if study.external is not None:
        yield from gaps_of(study, numbers)
