"""The report of a study: a page, its numbers, tables and figures fit for a paper.

What a report says follows from the outcome alone: no date, no network. The same outcome gives the
same bytes. Every string is escaped.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from markupsafe import Markup

from robustkit.analysis import evidence
from robustkit.analysis.outcome import Judgement, Line, Outcome, Panel
from robustkit.analysis.registration import RULE
from robustkit.errors import InputError, UnknownName
from robustkit.figures import PAGE, STYLES, Style, Width, level_text, render, svg
from robustkit.files import file_digest, write_together
from robustkit.reporting import html
from robustkit.reporting.comparisons import ComparisonTable, comparison_table
from robustkit.reporting.html import PageFigure
from robustkit.reporting.illustrations import (
    Illustration,
    Illustrations,
    PanelFigures,
    illustrations,
)
from robustkit.reporting.methods import of_study
from robustkit.reporting.numbers import numbers_csv
from robustkit.reporting.tables import areas, summed_up, tables
from robustkit.reporting.wording import attacks
from robustkit.statistics import Comparison

T = TypeVar("T")

SCHEMA = "robustkit.report/1"
MANIFEST = "manifest.json"
CELLS_SHOWN = 400
"""with more cells than this, the page lists those that failed first; numbers.csv has all"""
FAILURES_SHOWN = 50
SENTENCES_SHOWN = 60


@dataclass(frozen=True, slots=True)
class StudyFiles:
    """A report that was written."""

    folder: Path
    page: Path
    manifest: Path
    files: Mapping[str, str]
    """SHA-256 by path relative to the folder, the manifest's own left out"""
    removed: tuple[str, ...]
    """what an earlier build of the report had and this one has not"""


@dataclass(frozen=True, slots=True)
class PanelSection:
    """A panel as the page shows it."""

    panel: Panel
    levels: Sequence[str]
    """by rising place on the axis"""
    curves: PageFigure | None
    differences: PageFigure | None
    notes: Sequence[str]
    """its own, less those of all panels"""
    table: ComparisonTable
    sentences: Sequence[str]
    """the comparisons in words"""
    summed_up: Sequence[Line]
    """the lines with an area or a median"""
    areas: str
    """what these are"""


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A claim as the page shows it."""

    judgement: Judgement
    place: int
    table: ComparisonTable | None
    """its comparisons, where there are several"""


def write(
    outcome: Outcome,
    folder: Path,
    style: str = "neurips",
    width: Width | None = None,
    source: bytes | None = None,
) -> StudyFiles:
    """Write a study's report into `folder`, which may hold an earlier build of it.

    `width` is that of all figures' files, in columns of the style's venue; by default one, and two
    for what needs them. The page's own figures do not depend on style and width. `source` is the
    evidence that the outcome was drawn from, to be kept beside the page.

    All files are written, or none: where one cannot be, the earlier build stands as it was. Files
    that the earlier build wrote and this one does not are removed, unless they were changed since;
    nothing else is touched.

    Raises:
        UnknownName: no such style.
        InputError: the folder's manifest is not a report's.
        EvaluationFailed: the disk is full or the folder cannot be written.
    """
    known = _style(style)
    earlier = _earlier(folder)
    files = _files(stable(outcome), known, width)
    if source is not None:
        files[evidence.NAME] = source
    digests = {name: sha256(content).hexdigest() for name, content in sorted(files.items())}
    manifest = {"schema": SCHEMA, "name": outcome.name, "study": _digest(outcome), "style": style}
    manifest |= {"width": width} if width else {}
    text = json.dumps(manifest | {"files": digests}, indent=2, allow_nan=False) + "\n"
    write_together(folder, {**files, MANIFEST: text.encode()})
    removed = tuple(
        name for name in earlier if name not in files and _remove(folder, earlier, name)
    )
    return StudyFiles(folder, folder / "report.html", folder / MANIFEST, digests, removed)


def _style(name: str) -> Style:
    for style in STYLES:
        if style == name:
            return style
    raise UnknownName("style", name, STYLES)


def _earlier(folder: Path) -> dict[str, str]:
    """Digests by name from the manifest of an earlier build; none where there is no manifest."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["schema"] == SCHEMA:
            return {str(name): str(digest) for name, digest in manifest["files"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(f"{path}: not the manifest of a report; choose another folder or remove it")


def _remove(folder: Path, earlier: Mapping[str, str], name: str) -> bool:
    """Remove a file of an earlier build; whether it was there, inside, and as it was written."""
    parts = PurePosixPath(name).parts
    path = folder.joinpath(*parts)
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name:
        return False
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return False
    if file_digest(path) != earlier[name]:
        return False
    with suppress(OSError):
        path.unlink()
        return True
    return False


def _digest(outcome: Outcome) -> str | None:
    """The study's digest, from the section of the provenance that tells it."""
    return _request(outcome).get("digest")


def _request(outcome: Outcome) -> Mapping[str, str]:
    """The section of the provenance that tells of the study itself."""
    found = (e for title, e in outcome.provenance.items() if title.lower() == "study")
    return next(found, {})


def _changes(outcome: Outcome) -> list[str]:
    """What options changed in the study's file, in words."""
    return [
        f"{f'[{section}] ' if section else ''}{key} = {value}"
        for section, keys in outcome.changes.items()
        for key, value in keys.items()
    ]


def stable(value: T) -> T:
    """An outcome, or a part of one, with every float rounded to twelve digits.

    The digits behind differ between processors, which add up in another order; on all of them the
    same evidence must make the same bytes.
    """
    given: Any = value
    if isinstance(value, float):
        given = float(f"{value:.12g}")
    elif type(value) is tuple:
        given = tuple(stable(one) for one in given)
    elif is_dataclass(value) and not isinstance(value, type):
        given = replace(value, **{f.name: stable(getattr(value, f.name)) for f in fields(value)})
    return cast(T, given)


def _files(outcome: Outcome, style: Style, width: Width | None) -> dict[str, bytes]:
    """Every file of the report by its path, but for the manifest."""
    drawn = illustrations(outcome)
    files = {"report.html": _page(outcome, drawn).encode(), "numbers.csv": numbers_csv(outcome)}
    for name, table in tables(outcome).items():
        files[f"tables/{name}"] = table.encode("utf-8", "replace")
    for figure in drawn:
        wide = width or figure.width
        _, height = figure.size(STYLES[style], wide)
        rendered = render(figure.draw, figure.name, style=style, width=wide, height=height)
        for suffix, content in rendered.items():
            files[f"figures/{figure.name}.{suffix}"] = content
    return files


def _page(outcome: Outcome, drawn: Illustrations) -> str:
    code, source = html.script("sort.js")
    cells = sorted(outcome.cells, key=lambda c: c.status == "done")  # what failed comes first
    return html.render(
        "study.html.jinja",
        outcome=outcome,
        verdicts=Counter(j.verdict for j in outcome.judgements),
        lacking=sum(bool(j.lacking) for j in outcome.judgements),
        claims=[_claim(j, place) for place, j in enumerate(outcome.judgements, 1)],
        common=(common := _common_notes(outcome.panels)),
        sections=[
            _section(p, f, common) for p, f in zip(outcome.panels, drawn.panels, strict=True)
        ],
        histories=[_page_figure(figure) for figure in drawn.histories],
        costs=[_page_figure(figure) for figure in drawn.costs],
        matrices=[_page_figure(figure) for figure in drawn.matrices],
        galleries=[_page_figure(figure) for figure in drawn.galleries],
        failed=[cell for cell in cells if cell.status == "failed"][:FAILURES_SHOWN],
        cells=cells[:CELLS_SHOWN],
        preregistered=_preregistered(outcome.judgements),
        rounds=", ".join(dict.fromkeys(f"{cost.ratio.n:,}" for cost in outcome.costs)),
        amended=any(j.amendments for j in outcome.judgements),
        rule=RULE,
        some=any(j.registered != "not preregistered" for j in outcome.judgements),
        changes=_changes(outcome),
        states=Counter(cell.status for cell in cells),
        attacks={name: attacks(protocol) for name, protocol in outcome.protocols.items()},
        methods=of_study(outcome),
        script=code,
        script_source=source,
    )


def _preregistered(judgements: Sequence[Judgement]) -> str:
    """Which claims were preregistered, as a sentence."""
    stand = {j.registered for j in judgements}
    if stand == {"preregistered"}:
        return "Each claim, preregistered, with its verdict."
    if stand <= {"not preregistered"}:
        return "Each claim with its verdict."
    return "Each claim with its verdict; preregistered as it stands unless it says otherwise."


def _claim(judgement: Judgement, place: int) -> ClaimRow:
    several = len(judgement.comparisons) > 1
    title = f"Claim {judgement.name}"
    table = comparison_table(judgement.comparisons, title) if several else None
    return ClaimRow(judgement, place, table)


def _common_notes(panels: Sequence[Panel]) -> list[str]:
    """The notes of all analyses that have any, where these are several."""
    noted = [panel.notes for panel in panels if panel.notes]
    if len(noted) < 2:
        return []
    return [note for note in noted[0] if all(note in notes for notes in noted)]


def _section(panel: Panel, drawn: PanelFigures, common: Sequence[str]) -> PanelSection:
    places = {value.level: value.x for line in panel.lines for value in line.values}
    return PanelSection(
        panel=panel,
        levels=sorted(places, key=lambda level: places[level]),
        curves=_page_figure(drawn.curves) if drawn.curves else None,
        differences=_page_figure(drawn.differences) if drawn.differences else None,
        notes=[note for note in panel.notes if note not in common],
        table=comparison_table(panel.comparisons, panel.title),
        sentences=[
            comparison.sentence(where=_where(comparison, panel))
            for comparison in panel.comparisons[:SENTENCES_SHOWN]
        ],
        summed_up=summed_up(panel),
        areas=areas(panel) if summed_up(panel) else "",
    )


def _where(comparison: Comparison, panel: Panel) -> str:
    """A comparison's level in words: "at 80 % label noise"."""
    if not comparison.level:
        return ""
    level = level_text(comparison.level, panel.percent)
    return f"at {level} {panel.factor}" if panel.percent else f"at {panel.factor} = {level}"


def _page_figure(figure: Illustration) -> PageFigure:
    drawing = svg(figure.draw, figure.size(PAGE), figure.name, figure.alternative)
    return PageFigure(figure.name, figure.caption, Markup(drawing))
