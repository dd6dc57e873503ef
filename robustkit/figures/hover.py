"""What a page's figure says where a reader points at it: an SVG's own titles, no script."""

from collections.abc import Iterable, Mapping, Sequence
from xml.etree import ElementTree

from matplotlib.artist import Artist
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robustkit.errors import shown
from robustkit.parsing import ends_in_percent, in_percent
from robustkit.statistics import Estimate

_MARK = "_hover\n"
"""begins a label that holds texts; no legend shows a label that begins with an underscore"""


def hover(artist: ErrorbarContainer | Line2D, texts: Sequence[str]) -> None:
    """Say the texts at the markers of a line, in their order; all of its markers must be drawn."""
    line = artist[0] if isinstance(artist, ErrorbarContainer) else artist
    line.set_label(_MARK + "\n".join(map(shown, texts)))


def share_text(share: float) -> str:
    """A share: "81.8 %"; further digits where a tenth would tell none or all, as in a table."""
    return in_percent(share).replace("\u00a0", " ")


def estimate_text(estimate: Estimate) -> str:
    """A share with its interval: "81.8 % (67.0 to 90.9)"."""
    ends = ends_in_percent(estimate.low, estimate.value, estimate.high)
    return f"{share_text(estimate.value)} ({ends})"


def named_lines(figure: Figure) -> dict[str, list[str]]:
    """The texts of all lines that have some, by the id that the SVG's element will have."""
    found: dict[str, list[str]] = {}
    for artist in _lines(figure):
        artist.set_gid(f"hover{len(found)}")
        found[str(artist.get_gid())] = str(artist.get_label()).removeprefix(_MARK).split("\n")
    return found


def _lines(figure: Figure) -> Iterable[Artist]:
    return (a for a in figure.findobj(Line2D) if str(a.get_label()).startswith(_MARK))


def add_titles(root: ElementTree.Element, texts: Mapping[str, Sequence[str]], svg: str) -> None:
    """Put each text into the element of its marker; `svg` is the namespace."""
    for group in root.iter(f"{{{svg}}}g"):
        markers, own = list(group.iter(f"{{{svg}}}use")), texts.get(group.get("id", ""), ())
        if len(markers) != len(own):
            continue  # not all are drawn, and which ones is not known
        for marker, text in zip(markers, own, strict=True):
            marker.set("pointer-events", "all")  # also inside of a marker that is not filled
            ElementTree.SubElement(marker, f"{{{svg}}}title").text = text
