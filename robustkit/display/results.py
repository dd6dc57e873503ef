"""A view of each result that a call from Python returns."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial, singledispatch
from pathlib import PurePath
from typing import Any

import pandas as pd

from robustkit import figures
from robustkit.analysis.compare import Compared
from robustkit.analysis.leaderboard import Board, BoardRow, Leaderboard
from robustkit.analysis.needs import PowerAnalysis
from robustkit.analysis.outcome import Outcome, Panel
from robustkit.analysis.rank import Ranking
from robustkit.auditing.outcome import Audit
from robustkit.checkpoint import Checkpoint, describe
from robustkit.checkpoint.recognised import Description
from robustkit.data import Dataset
from robustkit.display.pace import span
from robustkit.display.progress import epoch_text
from robustkit.display.studies import StudyPlan
from robustkit.display.view import View
from robustkit.integrity import FileCheck
from robustkit.protocol.norms import symbol
from robustkit.record import Evaluation
from robustkit.record.certification import OUTCOMES, Certification
from robustkit.reporting.evaluation import curve_in_words, sentence
from robustkit.reporting.numbers import rows as number_rows
from robustkit.reporting.wording import (
    NOTHING,
    board_in_words,
    count,
    curves_in_words,
    ends,
    in_points,
    interval,
    p_value,
    percent,
    verdict_in_words,
    with_ends,
    with_interval,
)
from robustkit.results.sides import in_words
from robustkit.shelves import Listing
from robustkit.showing import Shown
from robustkit.statistics import Comparison, Estimate
from robustkit.statistics.comparison import listed
from robustkit.statistics.estimate import Method
from robustkit.summary import certified_points, reference, robust_points
from robustkit.training import TrainingResult

KNOWN = ["what", "value"]
CERTIFIED = (
    "Dotted: certified accuracy, which no attack can lower; true robust accuracy lies between."
)
"""the caption of a curve where some of it is proved"""
SHARES = {
    "accuracy_given": "accuracy",
    "accuracy_clean": "on clean labels",
    "memorised": "noisy labels memorised",
    "held_out": "held out",
}
"""of a training's history, as they are headed"""
PICTURES = 8
"""of a data set, that are drawn"""


@singledispatch
def view(result: Shown, **how: Any) -> View:
    """What a result shows; an evaluation or a certification with intervals of `method`.

    Raises:
        TypeError: it is none of ours.
    """
    raise TypeError(f"nothing is known of how to show a {type(result).__name__}")


# --- evaluations ----------------------------------------------------------------------------------


@view.register
def _(found: Evaluation, method: Method = "wilson") -> View:
    points, proved = robust_points(found, method), certified_points(found, method)
    clean = found.clean(method)
    levels = {"clean": clean} | {p.epsilon.text: p.accuracy for p in points}
    certified = {p.epsilon.text: p.accuracy for p in proved}
    kinds = {"accuracy": levels} | ({"certified": certified} if certified else {})
    name, norm = _name(found.header["checkpoint"]["path"]), found.header["protocol"]["norm"]

    def curve(ax: "figures.Axes") -> "figures.Axes":
        one = figures.CheckpointCurve(name, clean, points, proved)
        return figures.robustness_curve(ax, [one], norm)

    at = reference(points) if points else None
    return View(
        title=f"Evaluation of {name}: {in_words(found.header)}",
        head=(f"ε ({symbol(norm)})", *(part for kind in kinds for part in (kind, "95 % CI"))),
        rows=[
            (level, *(part for kind in kinds.values() for part in _share(kind.get(level))))
            for level in levels
        ],
        frame=partial(_estimates, kinds, "epsilon"),
        sentences=() if at is None else (sentence(found, clean, at),),
        warnings=found.header["warnings"],
        draw=curve if points else None,
        spoken=f"{curve_in_words(clean, points, proved)}.",
        caption=CERTIFIED if proved else "",
    )


@view.register
def _(found: Certification, method: Method = "wilson") -> View:
    header = found.header
    shares = {outcome: found.share(outcome, method) for outcome in OUTCOMES}
    counts = [count(found.count(outcome)) for outcome in OUTCOMES]
    return View(
        title=f"Certification of {_name(header['checkpoint']['path'])}: {in_words(header)}",
        head=("outcome", "images", "share", "95 % CI"),
        rows=[
            (outcome, number, *_share(share))
            for (outcome, share), number in zip(shares.items(), counts, strict=True)
        ],
        frame=lambda: pd.DataFrame([asdict(row) for row in found.rows]),
        warnings=header.get("warnings", ()),
    )


@view.register
def _(found: Audit) -> View:
    robust = {level.epsilon: level.accuracy for level in found.robust}
    proved = {bound.epsilon: bound.certified for bound in found.certificate.levels}
    attacked = {"clean": found.clean} | robust
    levels = dict.fromkeys([*attacked, *proved])
    kinds = {"accuracy": attacked, "certified": proved}
    few = proved and found.certificate.n != found.clean.n
    return View(
        title=f"Audit of {_name(found.checkpoint['path'])}: {found.verdict.word}",
        head=(
            f"ε ({symbol(found.norm)})",
            "accuracy",
            "95 % CI",
            f"certified, first {found.certificate.n:,} images" if few else "certified",
            "95 % CI",
        ),
        rows=[
            (level, *_share(attacked.get(level)), *_share(proved.get(level))) for level in levels
        ],
        frame=partial(_estimates, kinds, "epsilon"),
        sentences=(found.verdict.sentence, *found.verdict.reasons),
        warnings=found.warnings,
        draw=drawn(
            "bounds",
            clean=found.clean,
            robust=found.robust,
            certified=found.certificate.levels,
            norm=found.norm,
        ),
        spoken=_in_words(attacked, proved),
    )


# --- comparisons ----------------------------------------------------------------------------------


@view.register
def _(found: Compared) -> View:
    head = ("method", "against", "ε", "difference, points", "interval", "p", "verdict")
    return View(
        title=f"Comparison: {found.condition}",
        head=head,
        rows=[
            (c.a, c.b, c.level, in_points(c), ends(c), p_value(c.p, c), c.word)
            for c in found.comparisons
        ],
        frame=partial(_differences, found.comparisons),
        sentences=[c.sentence(where=found.where(c.level)) for c in found.comparisons],
        notes=found.notes,
        warnings=found.warnings,
        draw=drawn("forest", comparisons=found.comparisons, numbers=with_ends),
        size=lambda: (4.5, figures.forest_height(found.comparisons, figures.PAGE.size)),
        spoken=" ".join(c.sentence(where=found.where(c.level)) for c in found.comparisons),
        words=3,
    )


@view.register
def _(found: Ranking) -> View:
    ranks = found.ranks.mean_ranks
    order = sorted(range(len(ranks)), key=lambda place: ranks[place])
    return View(
        title=f"Ranking of {len(ranks)} methods over {len(found.data)} data sets: "
        f"{listed(found.attacks)}",
        head=("method", "mean rank", *found.data),
        rows=[
            (found.methods[i], f"{ranks[i]:.2f}", *(percent(row[i]) for row in found.accuracies))
            for i in order
        ],
        frame=lambda: pd.DataFrame(
            {"method": found.methods, "mean_rank": ranks}
            | dict(zip(found.data, found.accuracies, strict=True))
        ),
        sentences=found.sentences,
        draw=drawn("critical_difference", names=found.methods, ranks=found.ranks),
        spoken=" ".join(found.sentences),
    )


@view.register
def _(found: PowerAnalysis) -> View:
    rows = [(one, one.power) for one in found.comparisons]
    asked = rows[0][1]
    delta = f"{100 * asked.delta:.10g} point{'' if asked.delta == 0.01 else 's'}"
    return View(
        title=f"Seeds for {delta}, power {100 * asked.power:.6g}\u00a0%",
        head=("method", "against", "ε", "for a difference", "for equivalence"),
        rows=[(one.a, one.b, one.level, *p.in_words) for one, p in rows],
        frame=lambda: pd.DataFrame(
            [
                {"a": one.a, "b": one.b, "level": one.level}
                | {"seeds_difference": p.seeds_difference, "seeds_equivalence": p.seeds_equivalence}
                for one, p in rows
            ]
        ),
        sentences=(found.sentence,),
        notes=found.notes,
        words=2,
    )


@view.register
def _(found: Outcome) -> View:
    panel = next((panel for panel in found.panels if panel.lines), None)
    curves = "robustness" if panel is not None and "ε" in panel.factor else "accuracy_curves"
    return View(
        title=f"Study {found.name}: {found.title}",
        head=("claim", "verdict", "what was claimed"),
        rows=[(j.name, verdict_in_words(j), j.text) for j in found.judgements],
        frame=lambda: pd.DataFrame([asdict(row) for row in number_rows(found)]),
        sentences=[j.sentence for j in found.judgements] or [found.question],
        draw=None if panel is None else drawn(curves, panel=panel),
        spoken="" if panel is None else f"{_against(panel)}. {curves_in_words(panel)}",
        caption="" if panel is None else f"{panel.title}: {_against(panel)}, with intervals.",
        words=3,
    )


@view.register
def _(found: StudyPlan) -> View:
    rows = found.expected.rows if found.expected is not None else ()
    return View(
        title=f"Plan of {found.run.study.name}",
        head=("method", "now", "after a choice", "time"),
        rows=[(row.method, str(row.now), str(row.later), _time(row.seconds)) for row in rows],
        frame=lambda: pd.DataFrame([row._asdict() for row in rows]),
        sentences=(found.text,),
    )


@view.register
def _(found: TrainingResult) -> View:
    record = found.record
    lines = record["history"]
    kept = next(line for line in lines if line["epoch"] == record["epoch_kept"])
    shares = [key for key in SHARES if any(line.get(key) is not None for line in lines)]
    return View(
        title=f"Training of {record['model']['name']} with {record['loss']['name']}: {found.path}",
        head=("epoch", "loss", *(SHARES[key] for key in shares)),
        rows=[
            (str(line["epoch"]), f"{line['loss']:.4g}", *(percent(line.get(k)) for k in shares))
            for line in lines
        ],
        frame=lambda: pd.DataFrame(lines),
        sentences=(f"Kept: epoch {kept['epoch']}, {epoch_text(kept)}.",),
        warnings=(found.warning,) if found.warning else (),
        draw=drawn("learning_curve", history=lines, shares={k: SHARES[k] for k in shares}),
        spoken=f"{epoch_text(lines[-1])} after epoch {lines[-1]['epoch']}.",
    )


@view.register
def _(found: Leaderboard) -> View:
    board = found.boards[0] if found.boards else None
    rows = board.rows if board else ()
    levels = board.levels if board else ()
    others = len(found.boards) - 1
    more = f" (and {others} more boards)" if others > 0 else ""
    return View(
        title=f"Leaderboard: {board.title}{more}" if board else "Leaderboard: empty",
        head=("method", "networks", "clean", *levels),
        rows=_board_rows(rows, levels, with_interval),
        brief=_board_rows(rows, levels, lambda estimate: percent(estimate.value)),
        frame=lambda: pd.DataFrame([line for one in found.boards for line in _lines(one)]),
        notes=found.notes,
        draw=drawn("board_curves", board=board) if levels else None,
        spoken=board_in_words(rows),
    )


def _board_rows(
    rows: Sequence[BoardRow], levels: Sequence[str], told: Callable[[Estimate], str]
) -> list[tuple[str, ...]]:
    """Each row of a board in words; `told` says an accuracy."""
    found = [(row, [row.clean, *map(row.robust.get, levels)]) for row in rows]
    return [
        (row.name, str(len(row.networks)), *(told(one) if one else NOTHING for one in each))
        for row, each in found
    ]


def _against(panel: Panel) -> str:
    return f"{panel.measure} against {panel.factor}"


def _lines(board: Board) -> Iterator[dict[str, Any]]:
    """A board's numbers, a line each."""
    for row in board.rows:
        for level, found in ({"clean": row.clean} | dict(row.robust)).items():
            parts = {part: getattr(found, part) for part in ("value", "low", "high", "n")}
            yield {"board": board.title, "method": row.name, "epsilon": level} | parts


@view.register
def _(found: FileCheck) -> View:
    counts = Counter(
        (str(place), one.state, one.kind) for place, files in found.places.items() for one in files
    )
    damaged = count(len(found.damaged))
    return View(
        title=f"Check of {count(len(found.files))} files: {damaged} damaged",
        head=("folder", "state", "kind", "files"),
        rows=[(*what, count(many)) for what, many in sorted(counts.items())],
        frame=lambda: pd.DataFrame([asdict(one) for one in found.files]),
        sentences=[one.reason for one in found.damaged],
        words=3,
    )


@view.register
def _(found: Listing) -> View:
    return View(
        title=f"{found.what.capitalize()}: {count(len(found))}",
        head=("name", "what it is"),
        rows=list(found.titles.items()),
        frame=lambda: pd.DataFrame(found.titles.items(), columns=["name", "what"]),
        words=2,
    )


# --- what goes in ---------------------------------------------------------------------------------


@view.register
def _(found: Dataset) -> View:
    counts = Counter(found.labels.tolist())
    size = "×".join(map(str, found.shape))
    return View(
        title=f"{found.title}: {len(found):,} images of {size}, {len(found.classes)} classes",
        head=("class", "label", "images"),
        rows=[(name, str(i), count(counts[i])) for i, name in enumerate(found.classes)],
        frame=lambda: pd.DataFrame(
            {
                "id": found.ids,
                "label": found.labels,
                "class": [found.classes[label] for label in found.labels.tolist()],
            }
        ),
        warnings=found.warnings,
        draw=partial(_pictures, found),
        size=lambda: (6.0, 1.0),
        spoken=f"The first {min(PICTURES, len(found))} images.",
    )


@view.register
def _(found: Description) -> View:
    return replace(view(found.checkpoint), frame=lambda: pd.DataFrame(found.rows, columns=KNOWN))


@view.register
def _(found: Checkpoint) -> View:
    known = describe(found)
    return View(
        title=f"Checkpoint {_name(found.path)}: {found.model or 'unknown architecture'}",
        head=("what", "value"),
        rows=[(label, text) for label, text in known if text not in ("unknown", "none")],
        frame=lambda: pd.DataFrame(known, columns=KNOWN),
        warnings=found.warnings,
        words=2,
    )


def _pictures(found: Dataset, ax: "figures.Axes") -> "figures.Axes":
    images = found.images(0, min(PICTURES, len(found)))
    names = [found.classes[label] for label in found.labels[: len(images)].tolist()]
    return figures.picture_row(ax, images, names)


# --- parts ----------------------------------------------------------------------------------------


def drawn(figure: str, **values: Any) -> "figures.Draw":
    """What draws a figure of that name; matplotlib is imported when it does."""
    return lambda ax: getattr(figures, figure)(ax, **values)


def _time(seconds: float | None) -> str:
    return "?" if seconds is None else span(seconds)


def _name(path: object) -> str:
    """A checkpoint as a title names it."""
    return PurePath(str(path)).name


def _share(estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None:
        return NOTHING, NOTHING
    return percent(estimate.value), interval(estimate)


def _in_words(levels: Mapping[str, Estimate], proved: Mapping[str, Estimate]) -> str:
    told = [f"At {level}: {percent(found.value)}." for level, found in levels.items()]
    told += [f"Certified at {level}: {percent(found.value)}." for level, found in proved.items()]
    return " ".join(told)


def _estimates(kinds: dict[str, dict[str, Estimate]], key: str) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"kind": kind, key: level}
            | {part: getattr(found, part) for part in ("value", "low", "high", "n", "method")}
            for kind, levels in kinds.items()
            for level, found in levels.items()
        ]
    )


def _differences(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    judged = ("a", "b", "level", "verdict", "at_chance", "p", "p_holm", "delta")
    plain = (*judged, "confidence", "test", "unit")
    return pd.DataFrame(
        [
            {key: getattr(one, key) for key in plain}
            | {end: getattr(one.difference, end, None) for end in ("value", "low", "high", "n")}
            for one in comparisons
        ]
    )
