"""The report of an audit: a page, its numbers as JSON, a section for a model card. Needs no torch.

What they say follows from the audit alone: no date, no network, no script. The same audit gives
the same bytes. Every string is escaped.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import TypeVar

from markupsafe import Markup

from robustkit import figures
from robustkit.auditing.outcome import Audit, ClassRow, Stage, by_robustness, worst_classes
from robustkit.auditing.stored import FIRST, encoded, read_audit
from robustkit.auditing.wording import budget, tolerance
from robustkit.errors import shown
from robustkit.figures import Draw, svg
from robustkit.files import write_together
from robustkit.protocol.norms import symbol
from robustkit.reporting import html
from robustkit.reporting.annex import places
from robustkit.reporting.evaluation import CLASSES_SHOWN, GalleryImage, gallery
from robustkit.reporting.html import PageFigure
from robustkit.reporting.methods import of_audit
from robustkit.reporting.modelcard import model_card, severity_heads
from robustkit.reporting.wording import interval, percent, readable
from robustkit.statistics import Estimate

__all__ = ["AuditFiles", "page", "read_audit", "write"]

CONFUSIONS_SHOWN = 10
WIDTH = 4.6
"""of a figure, in inches"""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AuditFiles:
    """A report that was written."""

    folder: Path
    page: Path
    json: Path
    card: Path


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A row of the table of budgets: what is known at one ε."""

    epsilon: str
    judged: bool
    robust: Estimate | None
    certified: Estimate | None
    stages: int
    """that completed and attacked there"""


@dataclass(frozen=True, slots=True)
class Confused:
    """Images of one class that are taken for another."""

    label: str
    taken_for: str
    images: int
    share: float
    """of all images of the label's class"""


def write(audit: Audit, out: Path) -> AuditFiles:
    """Write `audit.html`, `audit.json` and `audit.md` to the folder `out`, all or none.

    Raises:
        EvaluationFailed: the disk is full or the folder cannot be written.
    """
    files = {
        "audit.html": page(audit).encode(),
        "audit.md": model_card(audit).encode("utf-8", "replace"),
    }
    found = encoded(audit, files)
    text = json.dumps(found, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    # last: where it is new, the others are
    write_together(out, {**files, "audit.json": text.encode()})
    return AuditFiles(out, out / "audit.html", out / "audit.json", out / "audit.md")


def page(audit: Audit) -> str:
    """The page of an audit, one self-contained file."""
    classes = class_names(audit)
    shares = _shares(audit)
    return html.render(
        "audit.html.jinja",
        title=f"Audit of {PurePath(str(audit.checkpoint.get('path'))).name}",
        audit=audit,
        rules_failed=[rule for rule in audit.policy if not rule.passed],
        budgets=_budgets(audit),
        certified_by=_certified_by(audit),
        bounds=_bounds(audit),
        smoothed=_smoothed(audit),
        stages=_stages(audit),
        alone={stage.name: _alone(stage, audit.epsilon) for stage in audit.stages},
        classes=lowest(audit.classes),
        worst=worst_classes(audit.classes),
        confusion=_confusion(audit, shares, classes),
        confused=_confused(audit, shares, classes),
        gallery=_gallery(audit, classes),
        severity_heads=severity_heads(audit.corruptions),
        corruptions=_grouped(audit.corruptions.rows, lambda row: row.group),
        checklist=_grouped(audit.checklist, lambda item: item.part),
        answers=_counts([item.answer for item in audit.checklist]),
        statuses=_counts([result.status for result in audit.indicators]),
        annex_places=places(audit),
        methods=of_audit(audit),
        made=_made(audit),
        digest=audit.checkpoint.get("sha256") or audit.checkpoint.get("weights") or "",
        facts=_facts(audit),
        provenance=_provenance(audit),
    )


def class_names(audit: Audit) -> list[str]:
    """Names of all classes, in the order of their numbers; numbers where there are no names."""
    names = list(audit.data.get("classes") or ())
    return [
        str(names[number]) if number < len(names) else str(number)
        for number in range(max(len(audit.confusion), len(names)))
    ]


def lowest(classes: Sequence[ClassRow], most: int = CLASSES_SHOWN) -> Sequence[ClassRow]:
    """The classes with the lowest robust accuracy, the lowest first."""
    return by_robustness(classes)[:most]


def _facts(audit: Audit) -> dict[str, str]:
    """What was audited, in a few lines."""
    data, checkpoint = audit.data, audit.checkpoint
    survived, claim = audit.survived, audit.claim
    return {
        "claim": f"{percent(claim.number)} at {budget(claim.norm, claim.epsilon)}; source: "
        f"{'user' if claim.source == 'given' else claim.source}",
        "Δ": f"{tolerance(audit.verdict.delta)}: a claim too high by less may be believed",
        "robust accuracy found": "unknown" if survived is None else _with_interval(survived),
        "accuracy without attack": _with_interval(audit.clean),
        "images": f"{audit.clean.n:,} of {data.get('name')} {data.get('split')}"
        f"{_called(data.get('title'))}",
        "model": readable(checkpoint.get("model")),
        "budget of the audit": audit.budget,
    }


def _called(title: object) -> str:
    """A data set's title behind its name."""
    return f" ({title})" if title else ""


def _made(audit: Audit) -> list[str]:
    """What was audited, when and with what, as far as it is on record."""
    run = audit.provenance.get("Run") or {}
    day = str(run.get("finished") or run.get("started") or "")[:10]
    version = run.get("robustkit")
    told = [str(audit.checkpoint.get("path") or ""), day, f"robustkit {version}" if version else ""]
    return [text for text in told if text]


def _with_interval(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} (95\u00a0% CI {interval(estimate)})"


def _budgets(audit: Audit) -> list[BudgetRow]:
    """Every budget that was attacked or certified, rising."""
    robust = {level.value: level for level in audit.robust}
    certified = {bound.value: bound for bound in audit.certificate.levels}
    rows = []
    for value in sorted(robust.keys() | certified.keys()):
        level, bound = robust.get(value), certified.get(value)
        text = level.epsilon if level else bound.epsilon if bound else ""
        rows.append(
            BudgetRow(
                text,
                text == audit.epsilon,
                level.accuracy if level else None,
                bound.certified if bound else None,
                len(audit.attacked_at(text)),
            )
        )
    return rows


def _alone(stage: Stage, epsilon: str) -> Estimate | None:
    """What the stage left by itself at the judged budget."""
    return next((lv.accuracy for lv in stage.robust if lv.epsilon == epsilon), None)


def _figure(draw: Draw, height: float, prefix: str, caption: str, spoken: str) -> PageFigure:
    return PageFigure(prefix, caption, Markup(svg(draw, (WIDTH, height), prefix, shown(spoken))))


def _bounds(audit: Audit) -> PageFigure | None:
    levels = audit.certificate.levels
    if not audit.robust and not levels:
        return None
    caption = f"Robust accuracy against ε ({symbol(audit.norm)}) with 95\u00a0% CI."
    if levels:
        caption += _beside_bounds(audit)
    spoken = [f"{percent(audit.clean.value)} without attack."]
    spoken += [
        f"At ε = {lv.epsilon}, {_with_interval(lv.accuracy)} attacked." for lv in audit.robust
    ]
    spoken += [f"At ε = {b.epsilon}, {_with_interval(b.certified)} certified." for b in levels]
    draw = partial(
        figures.bounds,
        clean=audit.clean,
        robust=audit.robust,
        certified=levels,
        norm=audit.norm,
    )
    return _figure(draw, 2.6, "bounds", caption, " ".join(spoken))


def _beside_bounds(audit: Audit) -> str:
    """What the two curves are of, and what follows of the truth."""
    upper, lower = "The upper curve is what the attacks left", f"the lower one what {_plain(audit)}"
    all_, n = audit.clean.n, audit.certificate.n
    if n == all_:
        return f" {upper}, {lower} certifies; true robust accuracy lies between them."
    return (
        f" {upper} of all {all_:,} images, {lower} certifies of the first {n:,}: shares of "
        "different images, so that true robust accuracy need not lie between them."
    )


METHODS = {
    "interval": "interval bounds",
    "linear": "linear relaxation",
    "linear throughout": "linear relaxation with the layers between bounded likewise",
}
"""what a page calls the methods of a certificate; another goes by its name"""


def _certified_by(audit: Audit) -> list[str]:
    """Which method certified how many, and what rounding cost, at each budget: a sentence each."""
    sentences = []
    for bound in audit.certificate.levels:
        if bound.methods is None:
            continue
        parts = [f"{n:,} by {METHODS.get(name, name)}" for name, n in bound.methods.items() if n]
        text = f"At ε = {bound.epsilon}: {', '.join(parts) or 'none'}"
        if bound.rounding is not None:
            text += f"; float32 rounding took {bound.rounding:.2g} off the median margin"
            text += f" and left {bound.lost:,} open" if bound.lost else ""
        sentences.append(f"{text}.")
    return sentences


def _plain(audit: Audit) -> str:
    return audit.certificate.method or "the bound"


def _smoothed(audit: Audit) -> PageFigure | None:
    found = audit.smoothed
    if found is None or not found.levels:
        return None
    spoken = [
        f"At radius {lv.radius:g}, {_with_interval(lv.certified)} certified and "
        f"{_with_interval(lv.attacked)} under attack."
        for lv in found.levels
    ]
    caption = (
        f"The smoothed classifier (σ = {found.sigma:g}): certified and attacked accuracy against "
        "the ℓ₂ radius, with 95\u00a0% CI."
    )
    return _figure(
        partial(figures.smoothed, found=found), 2.4, "smoothed", caption, " ".join(spoken)
    )


def _stages(audit: Audit) -> PageFigure | None:
    if not audit.stages:
        return None
    spoken = [
        f"{s.title}: {_with_interval(s.so_far)} left, {s.first:,} images new."
        if s.status == "complete" and s.so_far
        else f"{s.title}: {s.status}."
        for s in audit.stages
    ]
    claim = None if audit.claim.number is None else audit.claim
    caption = (
        f"Robust accuracy at ε = {audit.epsilon} after each stage, over all stages so far, with "
        "95\u00a0% CI. At the right: images that the stage fooled and none before it."
        f"{'' if claim is None else ' Dashed: the claim.'}"
    )
    draw = partial(figures.stages, clean=audit.clean, stages=audit.stages, claim=claim)
    height = 0.28 * (len(audit.stages) + 1) + 0.65
    return _figure(draw, height, "stages", caption, " ".join(spoken))


def _shares(audit: Audit) -> list[list[float]]:
    """The confusion matrix by shares of each row; rows without images are 0."""
    return [[n / max(sum(row), 1) for n in row] for row in audit.confusion]


def _confusion(
    audit: Audit, shares: Sequence[Sequence[float]], classes: Sequence[str]
) -> PageFigure | None:
    if not audit.confusion:
        return None
    many = len(shares) > figures.ANNOTATED
    caption = (
        f"Images of each class (rows) by predicted class under attack (columns) at ε = "
        f"{audit.epsilon}{'; colours by the root of the share' if many else ', in %'}. "
        "The diagonal is still classified correctly."
    )
    spoken = [
        f"{c.label} is classified as {c.taken_for} in {c.images:,} images."
        for c in _confused(audit, shares, classes)
    ]
    draw = partial(figures.confusion, shares=shares, classes=classes[: len(shares)])
    height = min(4.3, 1.3 + 0.3 * len(shares))
    return _figure(draw, height, "confusion", caption, "Most frequent: " + " ".join(spoken))


def _confused(
    audit: Audit, shares: Sequence[Sequence[float]], classes: Sequence[str]
) -> list[Confused]:
    """The most frequent mistakes under attack, most images first."""
    pairs = [
        Confused(classes[i], classes[j], n, shares[i][j])
        for i, row in enumerate(audit.confusion)
        for j, n in enumerate(row)
        if i != j and n
    ]
    return sorted(pairs, key=lambda c: (-c.images, -c.share))[:CONFUSIONS_SHOWN]


def _gallery(audit: Audit, classes: Sequence[str]) -> list[GalleryImage]:
    return gallery(audit.examples, classes, audit.norm)


def _grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Items under their groups, both in the order in which they come."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _counts(words: Sequence[str]) -> dict[str, int]:
    return {word: words.count(word) for word in dict.fromkeys(words)}


def _provenance(audit: Audit) -> dict[str, Mapping[str, str]]:
    """Everything that is on record of where the numbers come from, by section."""
    data = {k: v for k, v in audit.data.items() if k not in ("classes", "source", FIRST)}
    sections = {
        "Checkpoint": audit.checkpoint,
        "Data": data,
        "Data source": audit.data.get("source") or {},
        **audit.provenance,
    }
    records = {s.title: s.digest for s in audit.stages if s.digest}
    if records:
        sections["Records of the stages"] = records
    return {
        title: {key: readable(value) for key, value in section.items()}
        for title, section in sections.items()
        if section
    }
