"""Figures: functions that draw on an `ax`, return it, and compute nothing.

This is the only door to seaborn. Everything goes through matplotlib's objects, never through
pyplot's global state. Colours stay apart for the colour-blind, markers and dashes without colour.
"""

import warnings
from base64 import b64encode
from collections.abc import Callable, Sequence
from io import BytesIO, StringIO
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from robustkit.record import Example, Point
from robustkit.statistics import Estimate

INK = "#000000"
"""text and axes; becomes `currentColor` in SVG, so that a page's light or dark scheme decides"""
# seaborn's "colorblind", the strongest contrasts first; its pale pink and yellow vanish on paper
COLOURS = [sns.color_palette("colorblind")[i] for i in (0, 3, 2, 4, 7, 1, 5, 9)]
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")
STYLE: Any = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper"),
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
    "text.parse_math": False,  # a checkpoint's name may hold dollar signs
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "savefig.transparent": True,
}
FACTORS = (0.5, *(m * 10**e for e in range(5) for m in (1, 2, 5)))
"""how much a difference image may be amplified"""
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


class Curve(NamedTuple):
    """One checkpoint's accuracy against the budget."""

    label: str
    clean: Estimate
    points: Sequence[Point]


def robustness_curve(ax: Axes, curves: Sequence[Curve], norm: str) -> Axes:
    """Accuracy against ε with intervals, one line a checkpoint; ε = 0 is accuracy without attack.

    Lines stand side by side by a point or two, so that no interval hides another.
    """
    shift = min(2.5, 10 / len(curves))  # in points
    for i, curve in enumerate(curves):
        _line(ax, curve, i, shift * (i - (len(curves) - 1) / 2))
    _epsilon_ticks(ax, {"0": 0.0} | {p.epsilon.text: float(p.epsilon) for p in curves[0].points})
    largest = max(float(point.epsilon) for curve in curves for point in curve.points)
    ax.set(xlim=(-0.04 * largest, 1.04 * largest), ylim=(-0.02, 1.02))
    ax.set(xlabel=f"ε ({norm})", ylabel="accuracy")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(axis="y", color="#808080", alpha=0.3, linewidth=0.6)
    sns.despine(ax=ax)
    if len(curves) > 1:
        _legend(ax, [curve.label for curve in curves])
    return ax


def _line(ax: Axes, curve: Curve, number: int, shift: float) -> None:
    """The `number`-th line with its error bars, `shift` points to the right of its place."""
    estimates = [curve.clean, *(point.accuracy for point in curve.points)]
    ends = [(e.value - e.low, e.high - e.value) for e in estimates]
    ax.errorbar(
        [0.0, *(float(point.epsilon) for point in curve.points)],
        [e.value for e in estimates],
        yerr=np.array(ends).T,
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)],
        # another dash in each round of colours, so that many lines still differ
        linestyle=DASHES[(number + number // len(COLOURS)) % len(DASHES)],
        markersize=4,
        linewidth=1.3,
        elinewidth=1,
        capsize=2,
        label=str(number),
        transform=ax.transData + ScaledTranslation(shift / 72, 0, ax.figure.dpi_scale_trans),
    )


def _epsilon_ticks(ax: Axes, values: dict[str, float]) -> None:
    """A tick at every budget, labelled as the budget was written, as far as labels have room."""
    span = max(values.values())
    room = 0.025 * span * max(map(len, values))
    shown = [0.0]
    for value in sorted(values.values(), reverse=True):
        if all(abs(value - other) >= room for other in shown):
            shown.append(value)
    ax.set_xticks(list(values.values()), [t if v in shown else "" for t, v in values.items()])


def _legend(ax: Axes, labels: Sequence[str]) -> None:
    """A legend along the foot of the figure, one line a checkpoint, names exactly as given."""
    legend = ax.figure.legend(
        handles=ax.get_legend_handles_labels()[0],
        loc="outside lower left",
        frameon=False,
        handlelength=3,
    )
    # set afterwards, since matplotlib leaves out a label that begins with an underscore
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def svg(
    draw: Callable[[Axes], Axes], size: tuple[float, float], prefix: str, alternative: str
) -> str:
    """What `draw` draws, as an SVG element to stand inside an HTML page.

    The same drawing gives the same bytes. `size` is in inches, `alternative` the text for those
    who do not see the figure; `prefix` keeps the ids of several figures of a page apart.
    """
    buffer = StringIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": prefix}), warnings.catch_warnings():
        # text stays text, so the reader's fonts count, not those that matplotlib has here
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(ElementTree.fromstring(buffer.getvalue()), prefix, alternative)


def _inline(root: ElementTree.Element, prefix: str, alternative: str) -> str:
    """An SVG document as an element of a page: own ids, the page's ink, no metadata, no rules."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
        for key, value in parent.items():
            parent.set(key, _own(key, value, prefix))
    # a rule inside an inline SVG would hold for the whole page; these are inherited instead
    root.set("style", "fill: currentColor; stroke-linejoin: round; stroke-linecap: butt")
    root.set("role", "img")
    root.set("aria-label", alternative)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _own(key: str, value: str, prefix: str) -> str:
    """An attribute with its ids made the figure's own, and its ink the page's."""
    if key == "id":
        return f"{prefix}-{value}"
    if key in ("href", f"{{{_XLINK}}}href"):
        return value.replace("#", f"#{prefix}-", 1)
    return value.replace("url(#", f"url(#{prefix}-").replace(INK, "currentColor")


def visible(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A C × H × W image as H × W × 3 to look at: grey, or the first three channels as colours."""
    channels = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    return np.moveaxis(channels, 0, -1)


def difference(example: Example) -> tuple[npt.NDArray[np.float32], float]:
    """The perturbation as a C × H × W image around mid grey, and the factor it is amplified by."""
    change = example.perturbed - example.clean
    largest = float(np.abs(change).max())
    factor = max((f for f in FACTORS if f * largest <= 0.5), default=FACTORS[0])
    return 0.5 + factor * change, factor


def png_uri(image: npt.NDArray[np.float32]) -> str:
    """A C × H × W image in [0, 1] as a `data:` address: 8 bits, for looking at only."""
    pixels = np.rint(np.clip(visible(image), 0, 1) * 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()
