"""How figures look: colours, markers, dashes, fonts, and the widths of the places they go to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import seaborn as sns
from matplotlib.axis import Axis
from matplotlib.ticker import PercentFormatter

Style = Literal["neurips", "icml", "ieee", "talk"]
Width = Literal["single", "double"]

INK = "#000000"
"""text and axes; becomes `currentColor` in a page's SVG, so that light or dark decides"""
FAINT = "#808080"
"""grids and zones: readable on white and on black"""
# seaborn's "colorblind", the strongest contrasts first; its pale pink and yellow vanish on paper
COLOURS = [sns.color_palette("colorblind")[i] for i in (0, 3, 2, 4, 7, 1, 5, 9)]
# as many as share no factor with the dashes: 44 lines before a marker meets its dash again; and
# more than colours, so that a colour that comes again has another marker
MARKERS = "osD^vh<>PX*"
DASHES = ("-", "--", "-.", ":")
# those that share a dash with the line before differ by this, too: in grey it is seen first
FILLS: Sequence[Literal["full", "none"]] = ("full", "none")


class LineStyle(TypedDict):
    """What tells one line from another; marker, fill and dash do so without colour."""

    color: tuple[float, float, float]
    marker: str
    linestyle: str
    fillstyle: Literal["full", "none"]


def percent_axis(axis: Axis) -> None:
    """Shares, shown in per cent."""
    axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def map_text(place: float) -> str:
    """The colour of text on cividis at a place from 0 to 1: at least 4.3 to 1 in contrast.

    Neither is an ink of the page, so that both stay in the dark.
    """
    return "#ffffff" if place < 0.48 else "#101010"


def line_style(number: int) -> LineStyle:
    """The style of the `number`-th line of a figure, counted from 0."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
        "fillstyle": FILLS[number // len(DASHES) % len(FILLS)],
    }


@dataclass(frozen=True, slots=True)
class Venue:
    """Where a figure is to stand."""

    single: float
    """width of a column in inches"""
    double: float
    """width of the text over all columns in inches"""
    size: float
    """of the figure's text in points"""
    family: tuple[str, ...]
    """fonts by preference; all come with matplotlib, so that every machine draws the same"""

    def width(self, width: Width) -> float:
        """In inches."""
        return self.single if width == "single" else self.double


_TIMES = ("STIXGeneral", "DejaVu Sans")  # the venues' styles set Times; STIX is cut after it
_SANS = ("DejaVu Sans",)

# Widths: neurips_20xx.sty sets \textwidth 5.5in, in one column; icml20xx.sty 6.75in with 0.25in
# between two columns; IEEE asks for 3.5in (21 picas) or 7.16in (43 picas). A wide slide of the
# usual presentation programs is 13.33in by 7.5in: half of it, and all of it, less margins. The
# widths are the venues' own. The sizes are a choice: a point or two below body text of 10 points,
# and what can be read from the back of a room.
STYLES: Mapping[Style, Venue] = {
    "neurips": Venue(5.5, 5.5, 8.5, _TIMES),
    "icml": Venue(3.25, 6.75, 8, _TIMES),
    "ieee": Venue(3.5, 7.16, 8, _TIMES),
    "talk": Venue(6.0, 12.0, 16, _SANS),
}
PAGE = Venue(4.6, 4.6, 8.5, _SANS)
"""a figure inside a page: legible on a telephone, too"""


def settings(venue: Venue) -> Any:
    """Matplotlib's settings for figures of a venue; lines and ticks grow with the text."""
    paper = sns.plotting_context("paper")
    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        **sns.axes_style("ticks"),
        **{key: value * venue.size / paper["font.size"] for key, value in paper.items()},
        **dict.fromkeys(ink, INK),
        "errorbar.capsize": 0.25 * venue.size,
        "font.family": list(venue.family),
        "text.parse_math": False,  # a method's name may hold dollar signs
        "axes.unicode_minus": True,
        "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
        "pdf.fonttype": 42,  # TrueType, embedded: what publishers' checks ask for
    }
