"""What a study's folder holds: numbers, failures, histories."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from math import inf
from typing import Any

from robustkit.analysis.findings import BROKE, Findings, Number, gaps_of, not_found
from robustkit.analysis.outcome import CellRow, History
from robustkit.errors import RecordError
from robustkit.spec import ACCURACY, CHOSEN, Score, Study, Tuning
from robustkit.spec.amendments import differences
from robustkit.statistics.comparison import listed
from robustkit.statistics.estimate import counted
from robustkit.study.provenance import askings, configuration_in_words, digests, provenance
from robustkit.study.regret import regrets
from robustkit.study.selection import Candidate, Context, Scores, score_at, select
from robustkit.study.store import StudyStore

MISSING = "not yet trained"
TOLD = 20
"""changes of one amendment that a note lists"""
WORDS: dict[Score, str] = {
    "accuracy": "held-out accuracy",
    "mean accuracy of three passes": "held-out accuracy averaged over the last three passes",
    "calibrated log-likelihood": "the log-likelihood of held-out labels after a temperature fitted "
    "on the other half of the held-out images",
}


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
    numbers = [_number(store, entry, plan, done) for entry in plan["wanted"]]
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
        regrets=tuple(regrets(study, plan, candidates(plan), done)),
    )


def _number(
    store: StudyStore,
    entry: Mapping[str, Any],
    plan: Mapping[str, Any],
    done: Mapping[str, dict[str, Any] | None],
) -> Number:
    cell, test = done.get(entry["cell"]), store.test(entry["test"])
    attacker = done.get(plan["tests"][entry["test"]].get("surrogate", "")) or {}
    path, reason = None, ""
    if cell is None:
        reason = MISSING
    elif cell["status"] == "failed":
        reason = f"training failed: {cell['reason']}"
    elif test is None and attacker.get("status") == "failed":
        reason = f"the surrogate's training failed: {attacker['reason']}"
    elif test is None:
        reason = "not yet evaluated"
    elif test["status"] == "failed":
        reason = f"{BROKE}{test['reason']}"
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
    """Of the first analysis of label noise, or along a training, where there are wrong labels."""
    of = {a.factor: a for a in reversed(study.analyses) if a.factor in ("label_noise", "passes")}
    analysis = of.get("label_noise", of.get("passes"))
    if analysis is None:
        return
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for entry in plan["wanted"]:
        cell = done.get(entry["cell"])
        if entry["analysis"] == analysis.name and cell and cell.get("history"):
            along = analysis.factor == "passes"
            level = analysis.label_noise if along else entry["level"]
            groups[entry["method"], level][entry["cell"]] = cell["history"]
    for (method, level), histories in groups.items():
        if Fraction(level) and (found := _history(method, level, list(histories.values()))):
            yield found


def _history(
    method: str, level: str, histories: Sequence[Sequence[Mapping[str, Any]]]
) -> History | None:
    """Means over seeds, of those with most lines, and what each memorised."""
    # an earlier version wrote fewer lines
    steps = max((tuple(line["step"] for line in h) for h in histories), key=len)
    if len(steps) < 2:
        return None  # no course to be drawn
    alike = [h for h in histories if tuple(line["step"] for line in h) == steps]
    return History(
        method,
        level,
        steps,
        _means(alike, "memorised"),
        _means(alike, "held_out_clean"),
        _passes_at(alike[0]),
        tuple(tuple(line.get("memorised") for line in h) for h in alike),
    )


def _passes_at(history: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Passes over the data at each line; none where no line ends one."""
    whole = [line for line in history[:-1] if line.get("epoch")] or history[-1:]
    if any("epoch" not in line for line in whole):
        return ()
    each = min(line["step"] / line["epoch"] for line in whole)
    return tuple(round(line["step"] / each, 6) for line in history)


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
    clean = _clean(study, store, plan)
    for key, cell in plan["cells"].items():
        settings = _settings(study, cell)
        result = done[key] or {"status": "missing", "reason": MISSING}
        if done[key] is None and (one := plan.get("dropped", {}).get(key)) is not None:
            score = "none" if one["score"] is None else f"{one['score']:.5g}".replace("-", "−")
            reason = f"dropped after pass {one['pass']} with a score of {score}: {settings}"
            result = {"status": "dropped", "reason": reason}
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
            settings=settings,
            purpose="compared" if key in compared else "tuning",
        )


def _clean(study: Study, store: StudyStore, plan: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy of each cell as its training ended, on the most images that any is tested on.

    A cell that was tested on fewer, or after an earlier pass only, has none: beside the others it
    would be taken for what they are.
    """
    images = [one.limit or study.tested.limit for one in study.analyses if one.factor != "cost"]
    most = max((limit or inf for limit in images), default=inf)
    accuracies: dict[str, float] = {}
    for key, asked in plan["tests"].items():
        if asked.get("passes") or (asked["limit"] or inf) != most or asked["cell"] in accuracies:
            continue
        test = store.test(key)
        if test is not None and test["status"] == "done":
            accuracies[asked["cell"]] = test["clean"]
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
    dropped = plan.get("dropped", {})
    missing = sum(1 for key, cell in done.items() if cell is None and key not in dropped)
    failed = sum(1 for cell in done.values() if cell and cell["status"] == "failed")
    if missing or plan["later"]:
        later = sum(plan["later"].values())
        yield f"Unfinished: {missing} trainings are missing, {later} more wait for a selection."
    if failed:
        yield f"{failed} trainings failed and have no result."
    yield from _chosen(study, plan, done)
    retried = request.get("retried", 0)
    if retried:
        yield (
            f"{counted(retried, 'training')} that had failed, and can change what is selected, "
            f"{'was' if retried == 1 else 'were'} tried again after test images had been evaluated."
        )
    elif study.tuning is not None and study.tuning.test_last != "no" and not _asked_anew(request):
        what = "configuration and pass" if plan["candidates"] else "pass"
        of = " of its seed" if study.tuning.test_last == "by seed" else ""
        yield f"No test image was evaluated before every {what}{of} was selected."


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
            by = WORDS[study.tuning.score if study.tuning else ACCURACY]
            yield f"Passes selected by {by} in {analysis.name} (networks): {said}."


def _chosen(
    study: Study, plan: Mapping[str, Any], done: Mapping[str, dict[str, Any] | None]
) -> Iterable[str]:
    """How configurations were chosen, and what an interval carries of it."""
    tuning = study.tuning
    if not plan["candidates"] or tuning is None:
        return
    yield (
        f"Each method's configuration is the best of {len(study.methods[0].choose)} by "
        f"{WORDS[tuning.score]}, selected "
        f"{'by each seed' if tuning.every_seed else 'on a separate seed'}"
        "; held-out labels are as noisy as those trained on."
    )
    yield from _halved(tuning, plan)
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
    elif leads := _leads(plan, bool(tuning.at), tuning.recorded_score, done):
        nats = tuning.score == "calibrated log-likelihood"
        unit = "nats" if nats else "held-out accuracy, points"
        scale = 1 if nats else 100
        said = ", ".join(f"{m} {scale * lead:.{4 if nats else 2}f}" for m, lead in leads.items())
        yield (
            f"Smallest lead of the selected configuration over the runner-up ({unit}): "
            f"{said}. Where it is small, another seed or machine might select "
            "differently; the intervals do not include this."
        )


def _halved(tuning: Tuning, plan: Mapping[str, Any]) -> Iterable[str]:
    """What successive halving gave up, and when."""
    dropped = plan.get("dropped", {})
    if not tuning.halving:
        return
    passes = dict.fromkeys(one["pass"] for one in dropped.values())
    rungs = listed(
        [
            f"after {100 * rung.after:g} % of the updates the best {100 * rung.keep:g} %"
            for rung in tuning.halving
        ]
    )
    yield (
        f"Successive halving: {rungs} of a method's configurations went on, by the same score; "
        f"{len(dropped)} trainings were dropped"
        f"{f', after pass {listed(list(map(str, passes)))}' if passes else ''}. The table of "
        "trainings has each with its score."
    )


def _leads(
    plan: Mapping[str, Any],
    together: bool,
    score: Score | None,
    done: Mapping[str, dict[str, Any] | None],
) -> dict[str, float]:
    """By method, how far its best configuration was ahead of the next, where that was closest."""
    end = {key: score_at(cell, score) for key, cell in done.items() if cell}
    left = [one for one in candidates(plan) if one.cell not in plan.get("dropped", {})]
    least: dict[str, float] = {}
    for who, choice in select(left, Scores(end), together=together).end.items():
        if choice is None:
            return {}
        if choice.lead is not None:
            least[who.method] = min(choice.lead, least.get(who.method, inf))
    return least


def candidates(plan: Mapping[str, Any]) -> list[Candidate]:
    """The configurations that a plan on file tries."""
    return [Candidate(**{**one, "context": Context(*one["context"])}) for one in plan["candidates"]]


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


def _asked_anew(request: Mapping[str, Any]) -> bool:
    """Whether what is selected, or by what, may have been amended when there were results.

    Claims are read off what was selected, and select nothing. The code of a loss or the images that
    a study names may be others while its digest stays.
    """
    for before, after in pairwise([request, *request["amendments"]]):
        changes = differences(before, after)
        claims_alone = changes and all(change.part == "claim" for change in changes)
        if after["cells_done"] and not claims_alone:
            return True
    return False


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
