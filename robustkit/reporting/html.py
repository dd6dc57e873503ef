"""Pages from templates: self-contained, every string escaped."""

from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from robustkit.errors import shown_lines
from robustkit.figures import level_text
from robustkit.protocol.norms import symbol
from robustkit.reporting import wording
from robustkit.reporting.comparisons import grounds
from robustkit.statistics.comparison import times

PAGES = Path(__file__).parents[1] / "pages"


@dataclass(frozen=True, slots=True)
class PageFigure:
    """A figure as a page shows it."""

    name: str
    caption: str
    svg: Markup


def render(template: str, **values: object) -> str:
    """A page from the template of that name; the same values give the same bytes."""
    html = _environment().get_template(template).render(values)
    # what HTML or UTF-8 cannot hold, from a path say, must not keep the page from being written,
    # and what turns the direction of writing must not turn the page's own words
    return shown_lines(html)


def script(name: str) -> tuple[Markup, str]:
    """A script of ours, and the source expression by which a page's policy admits only it."""
    code = (PAGES / name).read_text(encoding="utf-8")
    return Markup(code), f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'"


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(PAGES),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": wording.percent,
        "distance": wording.distance,
        "distances": wording.distances,
        "interval": wording.interval,
        "signed": wording.signed,
        "difference": wording.difference,
        "difference_ends": wording.difference_ends,
        "in_points": wording.in_points,
        "ends": wording.ends,
        "delta_in_points": wording.delta_in_points,
        "p_value": wording.p_value,
        "count": wording.count,
        "measured": wording.measured,
        "times": times,
        "level": level_text,
        "norm": symbol,
        "grounds": grounds,
    }
    return environment
