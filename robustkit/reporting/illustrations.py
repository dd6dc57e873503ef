"""Which figures an outcome has, how high they stand, and what they show in words."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from robustkit import figures
from robustkit.analysis.outcome import Cost, Gallery, History, Outcome, Panel, TransferMatrix
from robustkit.figures import Draw, Quantity, Venue, Width, level_text
from robustkit.protocol.norms import symbol
from robustkit.reporting.names import Names
from robustkit.reporting.wording import (
    curves_in_words,
    difference,
    difference_ends,
    ends,
    in_points,
    percent,
    with_ends,
)
from robustkit.spec import Figure
from robustkit.statistics.comparison import times

MANY = 5
"""columns of a matrix that do not fit into one column of a paper"""
COURSE = 3
"""points at least that show a course"""
_QUANTITIES: dict[Quantity, str] = {
    "memorised": "Share of noisy labels memorised",
    "held_out": "Held-out accuracy, by clean labels",
}
_KINDS: dict[Quantity, Figure] = {"memorised": "memorisation", "held_out": "held-out"}
"""what a study's file calls their figures"""


@dataclass(frozen=True, slots=True)
class Illustration:
    """A figure to be drawn, for the page and as files."""

    name: str
    """of its files"""
    caption: str
    alternative: str
    """what it shows, for those who do not see it"""
    draw: Draw
    height: Callable[[float, float], float]
    """in inches, from the figure's width in inches and the size of its text in points"""
    width: Width = "single"
    """that it needs"""

    def size(self, venue: Venue, width: Width | None = None) -> tuple[float, float]:
        """Width and height in inches, at a venue; as wide as it needs, where nothing is said."""
        inches = venue.width(width or self.width)
        return inches, self.height(inches, venue.size)


@dataclass(frozen=True, slots=True)
class PanelFigures:
    """The figures of a panel."""

    curves: Illustration | None
    differences: Illustration | None


@dataclass(frozen=True, slots=True)
class Illustrations:
    """All figures of an outcome."""

    panels: tuple[PanelFigures, ...]
    histories: tuple[Illustration, ...]
    costs: tuple[Illustration, ...]
    matrices: tuple[Illustration, ...]
    galleries: tuple[Illustration, ...]

    def __iter__(self) -> Iterator[Illustration]:
        for panel in self.panels:
            yield from filter(None, (panel.curves, panel.differences))
        yield from (*self.histories, *self.costs, *self.matrices, *self.galleries)


def illustrations(outcome: Outcome) -> Illustrations:
    """Every figure that the study asks for and has numbers for, each under a name of its own."""
    names, order, wanted = Names(), methods(outcome), outcome.figures
    quantities = [quantity for quantity, kind in _KINDS.items() if kind in wanted]
    panels = tuple(_panel(panel, outcome.histories, names, order) for panel in outcome.panels)
    return Illustrations(
        tuple(_wanted_figures(figures, wanted) for figures in panels),
        tuple(f for q in quantities for f in _histories(outcome.histories, q, names, order)),
        tuple(_costs(outcome.costs, names, order)) if "cost" in wanted else (),
        tuple(_matrix(m, names) for m in outcome.matrices) if "transfer" in wanted else (),
        tuple(_gallery(g, names) for g in outcome.galleries) if "examples" in wanted else (),
    )


def _wanted_figures(drawn: PanelFigures, wanted: Collection[Figure]) -> PanelFigures:
    return PanelFigures(
        drawn.curves if "curves" in wanted else None,
        drawn.differences if "differences" in wanted else None,
    )


def methods(outcome: Outcome) -> list[str]:
    """All methods of an outcome, by which one looks the same in every figure."""
    lines = (line.method for panel in outcome.panels for line in panel.lines)
    trained = (history.method for history in outcome.histories)
    return list(dict.fromkeys([*lines, *trained, *(cost.method for cost in outcome.costs)]))


def _panel(
    panel: Panel, histories: Sequence[History], names: Names, order: Sequence[str]
) -> PanelFigures:
    name = names.new(panel.name)
    drawn = any(line.values for line in panel.lines)
    compared = any(c.difference for c in panel.comparisons)
    return PanelFigures(
        curves=_along(_curves(panel, name, order), panel, histories, order) if drawn else None,
        differences=_forest(panel, names.new(f"{name}-differences")) if compared else None,
    )


def _histories(
    histories: Sequence[History], quantity: Quantity, names: Names, order: Sequence[str]
) -> Iterator[Illustration]:
    """A figure a level, of the methods for which the quantity is known often enough."""
    known = [h for h in histories if sum(v is not None for v in getattr(h, quantity)) >= COURSE]
    for level in dict.fromkeys(h.level for h in known):
        own = [h for h in known if h.level == level]
        noise = f"{level_text(level, True)} label noise"
        what = f"{_QUANTITIES[quantity]}, over the steps of training, at {noise}"
        yield Illustration(
            names.new(f"{quantity}-{level}"),
            f"{what}; means over seeds.",
            f"{what}. " + " ".join(_history_in_words(h, quantity) for h in own),
            partial(figures.memorisation, histories=own, quantity=quantity, order=order),
            _plot_height,
        )


def _costs(costs: Sequence[Cost], names: Names, order: Sequence[str]) -> Iterator[Illustration]:
    """A figure for each place at which a gain was measured."""
    for place in dict.fromkeys(cost.where for cost in costs):
        own = [cost for cost in costs if cost.where == place]
        alternative = " ".join(
            f"{c.method}: {times(c.ratio)[0]} times the time, {_gain(c)} points." for c in own
        )
        yield Illustration(
            names.new(f"cost-{place}"),
            f"Gain over the baseline ({place}) against a training step's time, with 95\u00a0% CI.",
            f"Gain ({place}) against cost. {alternative}",
            partial(figures.cost_against_gain, costs=own, order=order, numbers=_gain),
            _plot_height,
        )


def _gain(cost: Cost) -> str:
    return f"{difference(cost.gain)} ({difference_ends(cost.gain)})"


def _matrix(matrix: TransferMatrix, names: Names) -> Illustration:
    alternative = " ".join(
        f"Crafted on {source}, evaluated on {target}: {percent(value)}."
        for source, values in zip(matrix.sources, matrix.values, strict=True)
        for target, value in zip(matrix.targets, values, strict=True)
        if value is not None
    )
    return Illustration(
        names.new(f"transfer-{matrix.title}"),
        f"{matrix.title}: accuracy in % of each method's networks (columns) on examples crafted "
        "on another (rows), means over seeds; their intervals are in the tables of the analyses.",
        f"{matrix.title}. {alternative}",
        partial(figures.transfer_matrix, matrix=matrix),
        partial(_matrix_height, rows=len(matrix.sources), columns=len(matrix.targets)),
        "double" if len(matrix.targets) > MANY else "single",
    )


def _gallery(gallery: Gallery, names: Names) -> Illustration:
    classes, examples = gallery.classes, gallery.examples
    alternative = ", ".join(
        f"{figures.class_name(e.label, classes)} classified as "
        f"{figures.class_name(e.predicted, classes)} at {e.distance:.3g}"
        for e in examples
    )
    what = f"Smallest successful perturbations ({symbol(gallery.norm)}) of {gallery.title}"
    return Illustration(
        names.new(f"examples-{gallery.name}"),
        f"{what}: clean image, perturbed image, and their difference around mid grey, magnified "
        "by the factor below.",
        f"{what}: {alternative}.",
        partial(figures.example_grid, examples=examples, classes=classes),
        partial(_grid_height, columns=len(examples)),
        "double",
    )


def _curves(panel: Panel, name: str, order: Sequence[str]) -> Illustration:
    made = dict.fromkeys(v.estimate.method for line in panel.lines for v in line.values)
    bands = dict.fromkeys(band.method for band in figures.banded(panel))
    shaded = f" Shaded: {'; '.join(bands)}." if bands else ""
    chance = "" if panel.chance is None else f" Chance: {percent(panel.chance)}."
    alternative = curves_in_words(panel)
    budget = "ε" in panel.factor or "epsilon" in panel.factor
    draw = figures.robustness if budget else figures.accuracy_curves
    return Illustration(
        name,
        f"{panel.title}: {panel.measure} against {panel.factor}, with intervals "
        f"({'; '.join(made)}).{shaded}{chance} Points are offset horizontally for legibility.",
        f"{panel.measure} against {panel.factor}. {alternative}",
        partial(draw, panel=panel, order=order),
        _plot_height,
    )


def _along(
    curves: Illustration, panel: Panel, histories: Sequence[History], order: Sequence[str]
) -> Illustration:
    """Curves along a training with what was memorised below, where that is known."""
    drawn = {line.method for line in panel.lines if line.values}
    own = [
        history
        for history in histories
        if panel.label_noise and history.level == panel.label_noise
        if history.method in drawn  # others look like nothing that the legend names
        if history.passes and any(v is not None for v in history.memorised)
    ]
    if not own:
        return curves
    made = dict.fromkeys(e.method for history in own for e in history.band if e is not None)
    shaded = f", mean over seeds with its interval ({'; '.join(made)})" if made else ""
    said = " ".join(_history_in_words(history, "memorised") for history in own)
    return replace(
        curves,
        caption=f"{curves.caption} Below: share of wrong training labels that the network repeated "
        f"during each pass{shaded}.",
        alternative=f"{curves.alternative} Wrong labels memorised: {said}",
        draw=partial(figures.course, panel=panel, histories=own, order=order),
        height=_course_height,
    )


def _forest(panel: Panel, name: str) -> Illustration:
    alternative = [
        f"{c.a} vs {c.b}{_at(c.level, panel.percent)}: {in_points(c)} points ({ends(c)}), {c.word}."
        for c in panel.comparisons
    ]
    made = dict.fromkeys(c.difference.method for c in panel.comparisons if c.difference)
    arrows = " Arrows: intervals longer than the axis, with their numbers below."
    return Illustration(
        name,
        f"{panel.title}: differences with intervals ({'; '.join(made)}) and verdicts."
        f"{arrows if figures.beyond(panel.comparisons) else ''}",
        f"Differences. {' '.join(alternative)}",
        partial(
            figures.forest,
            comparisons=panel.comparisons,
            percent=panel.percent,
            numbers=with_ends,
        ),
        lambda _, size: figures.forest_height(panel.comparisons, size),
    )


def _at(level: str, share: bool) -> str:
    return f" at {level_text(level, share)}" if level else ""


def _history_in_words(history: History, quantity: Quantity) -> str:
    values = getattr(history, quantity)
    step, value = [(s, v) for s, v in zip(history.steps, values, strict=True) if v is not None][-1]
    return f"{history.method}: {percent(value)} after {step:,} steps."


def _plot_height(width: float, size: float) -> float:
    """A plot half as high as wide, but never too flat for its text."""
    return max(0.48 * width, 22 * size / 72)


def _course_height(width: float, size: float) -> float:
    """Two plots, one above the other."""
    return 1.55 * _plot_height(width, size)


def _matrix_height(width: float, size: float, rows: int, columns: int) -> float:
    """Square cells, as large as the width allows and their text needs, and the names' places."""
    names = 11 * size / 72
    return rows * min(5 * size / 72, (width - names) / columns) + names


def _grid_height(width: float, size: float, columns: int) -> float:
    """Three rows of square pictures, and a line of text above and below."""
    return 3 * width / max(columns, 1) + 4 * size / 72
