"""From a drawing to bytes: an SVG inside a page, or files fit for a paper.

Pages and files are made through matplotlib's objects, never through pyplot's global state. The same
drawing gives the same bytes: no dates, no random ids.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from robustkit.figures.hover import add_titles, named_lines
from robustkit.figures.style import INK, PAGE, STYLES, Style, Venue, Width, settings

Draw = Callable[[Axes], Axes]

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_FORMATS: Mapping[str, Mapping[str, Any]] = {
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "png": {"metadata": {"Software": None}, "dpi": 300},
}


def render(
    draw: Draw, name: str, *, style: Style, width: Width = "single", height: float
) -> dict[str, bytes]:
    """What `draw` draws as files fit for a paper, bytes by suffix: vectors, and 300 dots per inch.

    `width` is in columns of the style's venue, see `STYLES`; `height` is in inches, and a legend
    below the plot adds its own.

    Text that none of matplotlib's own fonts has is drawn as boxes in PDF and PNG, not in SVG.
    """
    venue = STYLES[style]
    with _drawn(draw, venue, (venue.width(width), height), name) as figure:
        return {suffix: _bytes(figure, suffix, **how) for suffix, how in _FORMATS.items()}


def svg(draw: Draw, size: tuple[float, float], prefix: str, alternative: str) -> str:
    """What `draw` draws, as an SVG element to stand inside an HTML page.

    `size` is in inches, less a legend's height; `alternative` is the text for those who do not see
    the figure; `prefix` keeps the ids of several figures of a page apart.
    """
    with _drawn(draw, PAGE, size, prefix) as figure:
        titles = named_lines(figure)
        root = ElementTree.fromstring(_bytes(figure, "svg", **_FORMATS["svg"], transparent=True))
    add_titles(root, titles, _SVG)
    return _inline(root, prefix, alternative)


def plot(draw: Draw, ax: Axes | None, size: Callable[[], tuple[float, float]]) -> Axes:
    """What `draw` draws, on `ax` or on axes of a new figure, which a notebook shows.

    Fonts and lines are as the caller has set them, but a dollar sign in a name begins no formula.
    `size` is of a new figure, in inches.
    """
    ax = _own_axes(size()) if ax is None else ax
    before = {text: text.get_text() for text in ax.findobj(Text)}
    with mpl.rc_context({"text.parse_math": False}):
        draw(ax)
    for text in ax.findobj(Text):
        if before.get(text, "") != text.get_text():  # labels were there, and were empty
            text.set_parse_math(False)
    return ax


def _own_axes(size: tuple[float, float]) -> Axes:
    from matplotlib import pyplot  # where a notebook looks for figures; slow to import

    return pyplot.subplots(figsize=size, layout="constrained")[1]


@contextmanager
def _drawn(draw: Draw, venue: Venue, size: tuple[float, float], salt: str) -> Iterator[Figure]:
    """A figure with one `ax`, drawn on, under the venue's settings; legends add to its height."""
    with mpl.rc_context(settings(venue) | {"svg.hashsalt": salt}), warnings.catch_warnings():
        # a name may hold any letters; a page's SVG is set in the reader's fonts, which have them
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        legends = sum(legend.get_window_extent().height for legend in figure.legends)
        figure.set_figheight(size[1] + legends / figure.dpi)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, the same for every format
        yield figure


def _bytes(figure: Figure, suffix: str, **how: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format=suffix, **how)
    return buffer.getvalue()


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
