"""A view of each result that a call from Python returns."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial, singledispatch
from pathlib import PurePath

import pandas as pd

from robustkit import figures
from robustkit.analysis.compare import Compared
from robustkit.analysis.outcome import Outcome
from robustkit.analysis.rank import Ranking
from robustkit.auditing.outcome import Audit
from robustkit.checkpoint import Checkpoint, describe
from robustkit.data import Dataset
from robustkit.display.view import View
from robustkit.record import Evaluation
from robustkit.record.certification import OUTCOMES, Certification
from robustkit.reporting.evaluation import sentence
from robustkit.reporting.numbers import rows as number_rows
from robustkit.reporting.wording import NOTHING, count, ends, in_points, interval, p_value, percent
from robustkit.results.sides import in_words
from robustkit.showing import Shown
from robustkit.statistics import Comparison, Estimate
from robustkit.summary import certified_points, reference, robust_points

PICTURES = 8
"""of a data set, that are drawn"""


@singledispatch
def view(result: Shown) -> View:
    """What a result shows.

    Raises:
        TypeError: it is none of ours.
    """
    raise TypeError(f"nothing is known of how to show a {type(result).__name__}")


# --- evaluations ----------------------------------------------------------------------------------


@view.register
def _(found: Evaluation) -> View:
    points = robust_points(found)
    levels = {"clean": found.clean()} | {p.epsilon.text: p.accuracy for p in points}
    certified = {p.epsilon.text: p.accuracy for p in certified_points(found)}
    kinds = {"accuracy": levels} | ({"certified": certified} if certified else {})
    name, norm = _name(found.header["checkpoint"]["path"]), found.header["protocol"]["norm"]
    curve = figures.CheckpointCurve(name, found.clean(), points, certified_points(found))
    at = reference(points) if points else None
    return View(
        title=f"Evaluation of {name}: {in_words(found.header)}",
        head=(f"ε ({norm})", *(part for kind in kinds for part in (kind, "95 % interval"))),
        rows=[
            (level, *(part for kind in kinds.values() for part in _share(kind.get(level))))
            for level in levels
        ],
        frame=partial(_estimates, kinds, "epsilon"),
        sentences=() if at is None else (sentence(found, found.clean(), at),),
        draw=partial(figures.robustness_curve, curves=[curve], norm=norm) if points else None,
        spoken=_in_words(levels),
    )


@view.register
def _(found: Certification) -> View:
    header = found.header
    shares = {outcome: found.share(outcome) for outcome in OUTCOMES}
    counts = [count(found.count(outcome)) for outcome in OUTCOMES]
    return View(
        title=f"Certification of {_name(header['checkpoint']['path'])}: {in_words(header)}",
        head=("outcome", "images", "share", "95 % interval"),
        rows=[
            (outcome, number, *_share(share))
            for (outcome, share), number in zip(shares.items(), counts, strict=True)
        ],
        frame=lambda: pd.DataFrame([asdict(row) for row in found.rows]),
    )


@view.register
def _(found: Audit) -> View:
    robust = {level.epsilon: level.accuracy for level in found.robust}
    proved = {bound.epsilon: bound.certified for bound in found.certificate.levels}
    attacked = {"clean": found.clean} | robust
    levels = dict.fromkeys([*attacked, *proved])
    kinds = {"accuracy": attacked, "certified": proved}
    return View(
        title=f"Audit of {_name(found.checkpoint['path'])}: {found.verdict.word}",
        head=(f"ε ({found.norm})", "accuracy", "95 % interval", "certified", "95 % interval"),
        rows=[
            (level, *_share(attacked.get(level)), *_share(proved.get(level))) for level in levels
        ],
        frame=partial(_estimates, kinds, "epsilon"),
        sentences=(found.verdict.sentence, *found.verdict.reasons),
        draw=partial(
            figures.bounds,
            clean=found.clean,
            robust=found.robust,
            certified=found.certificate.levels,
            norm=found.norm,
        ),
        spoken=_in_words(attacked),
    )


# --- comparisons ----------------------------------------------------------------------------------


@view.register
def _(found: Compared) -> View:
    head = ("method", "against", "ε", "difference, points", "interval", "p", "verdict")
    return View(
        title=f"Comparison: {in_words(found.header)}",
        head=head,
        rows=[
            (c.a, c.b, c.level, in_points(c), ends(c), p_value(c.p, c), c.verdict)
            for c in found.comparisons
        ],
        frame=partial(_differences, found.comparisons),
        sentences=[c.sentence(where=found.where(c.level)) for c in found.comparisons],
        draw=partial(figures.forest, comparisons=found.comparisons),
        spoken=" ".join(c.sentence(where=found.where(c.level)) for c in found.comparisons),
        words=3,
    )


@view.register
def _(found: Ranking) -> View:
    ranks = found.ranks.mean_ranks
    order = sorted(range(len(ranks)), key=lambda place: ranks[place])
    return View(
        title=f"Ranking of {len(ranks)} methods over {len(found.data)} data sets",
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
        draw=partial(figures.critical_difference, names=found.methods, ranks=found.ranks),
        spoken=" ".join(found.sentences),
    )


@view.register
def _(found: Outcome) -> View:
    drawn = next((panel for panel in found.panels if panel.lines), None)
    return View(
        title=f"Study {found.name}: {found.title}",
        head=("claim", "verdict", "what was claimed"),
        rows=[(j.name, j.verdict, j.text) for j in found.judgements],
        frame=lambda: pd.DataFrame([asdict(row) for row in number_rows(found)]),
        sentences=[j.sentence for j in found.judgements] or [found.question],
        draw=None if drawn is None else partial(figures.accuracy_curves, panel=drawn),
        spoken="" if drawn is None else f"{drawn.title}: {drawn.measure} against {drawn.factor}.",
        words=3,
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
        sentences=found.warnings,
        draw=partial(_pictures, found),
        size=(6.0, 1.0),
        spoken=f"The first {min(PICTURES, len(found))} images.",
    )


@view.register
def _(found: Checkpoint) -> View:
    known = describe(found)
    return View(
        title=f"Checkpoint {_name(found.path)}: {found.model or 'unknown architecture'}",
        head=("what", "value"),
        rows=[(label, text) for label, text in known if text not in ("unknown", "none")],
        frame=lambda: pd.DataFrame(known, columns=["what", "value"]),
        sentences=found.warnings,
        words=2,
    )


def _pictures(found: Dataset, ax: figures.Axes) -> figures.Axes:
    images = found.images(0, min(PICTURES, len(found)))
    names = [found.classes[label] for label in found.labels[: len(images)].tolist()]
    return figures.picture_row(ax, images, names)


# --- parts ----------------------------------------------------------------------------------------


def _name(path: object) -> str:
    """A checkpoint as a title names it."""
    return PurePath(str(path)).name


def _share(estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None:
        return NOTHING, NOTHING
    return percent(estimate.value), interval(estimate)


def _in_words(levels: dict[str, Estimate]) -> str:
    return " ".join(f"At {level}: {percent(found.value)}." for level, found in levels.items())


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
    plain = ("a", "b", "level", "verdict", "p", "p_holm", "delta", "confidence", "test", "unit")
    return pd.DataFrame(
        [
            {key: getattr(one, key) for key in plain}
            | {end: getattr(one.difference, end, None) for end in ("value", "low", "high", "n")}
            for one in comparisons
        ]
    )
