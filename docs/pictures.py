"""Draw the diagrams of the concept pages, and the gallery's figures by the gallery's own code.

python docs/pictures.py
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

PAGES = Path(__file__).parent / "pages"
IMAGES = PAGES / "images"
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"

Row = tuple[str, float, float, str]
"""label, ends of an interval, what is read off it"""

VERDICTS: Sequence[Row] = (
    ("A", 0.56, 0.62, "believable, unless an indicator is unresolved"),
    ("B", 0.51, 0.57, "believable, likewise: begins above claim − Δ"),
    ("C", 0.46, 0.58, "not established: too few images"),
    ("D", 0.38, 0.44, "overstated by 11 points or more"),
)
DIFFERENCES: Sequence[Row] = (
    ("A", 0.4, 1.9, "better"),
    ("B", -0.6, 0.7, "equivalent"),
    ("C", 0.2, 0.8, "equivalent: not 0, but too small to count"),
    ("D", -0.5, 1.8, "inconclusive: more seeds"),
    ("E", -2.2, -0.3, "worse"),
)


def main() -> None:
    """Draw everything anew."""
    for name, draw in (("verdict", _verdict), ("equivalence", _equivalence), ("record", _record)):
        figure, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
        draw(ax)
        figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)
    gallery()


def gallery() -> None:
    """Run the gallery's code in an empty folder, and keep the figures that it saves."""
    text = (PAGES / "gallery.md").read_text("utf-8").partition("## A study")[0]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        for language, block in re.findall(r"```(sh|python)\n(.*?)```", text, re.DOTALL):
            command = ["sh", "-ec", block] if language == "sh" else [sys.executable, "-c", block]
            subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PATH": path})
        for made in Path(folder).glob("*.png"):
            (IMAGES / made.name).write_bytes(made.read_bytes())


def _intervals(ax: Axes, rows: Sequence[Row]) -> None:
    for place, (_, low, high, verdict) in enumerate(rows):
        ax.plot([low, high], [place, place], color=BLUE, lw=3, solid_capstyle="butt")
        ax.plot((low + high) / 2, place, "o", color=BLUE)
        ax.annotate(verdict, (1.02, place), xycoords=("axes fraction", "data"), va="center")
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _verdict(ax: Axes) -> None:
    _intervals(ax, VERDICTS)
    ax.axvspan(0.5, 0.55, color=ORANGE, alpha=0.2, lw=0)
    ax.axvline(0.55, color=ORANGE)
    ax.text(0.551, -0.62, "claim", color=ORANGE, va="bottom")
    ax.text(0.499, -0.62, "claim − Δ", color=ORANGE, va="bottom", ha="right")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.set_xlabel("robust accuracy after all attacks, 95 % confidence interval")


def _equivalence(ax: Axes) -> None:
    _intervals(ax, DIFFERENCES)
    ax.axvspan(-1, 1, color=GREY, alpha=0.2, lw=0)
    ax.axvline(0, color=GREY)
    ax.text(1.02, -0.62, "+Δ", color=GREY, va="bottom")
    ax.text(-1.02, -0.62, "−Δ", color=GREY, va="bottom", ha="right")
    ax.set_xlabel("difference to the baseline, points, simultaneous 95 % confidence interval")


def _record(ax: Axes) -> None:
    ax.axis("off")
    head = ("image", "label", "predicted", "fooled at ε = 0.1", "at 0.2", "distance")
    rows = (
        ("mnist5k/test/0", "7", "7", "no", "yes", "0.143"),
        ("mnist5k/test/1", "2", "2", "no", "no", "–"),
        ("mnist5k/test/2", "1", "7", "wrong without attack", "yes", "0"),
        ("mnist5k/test/3", "0", "0", "yes", "yes", "0.087"),
        ("robust accuracy", "", "", "2 of 4", "1 of 4", ""),
    )
    table = ax.table(rows, colLabels=head, loc="center", cellLoc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.5)
    table.auto_set_column_width(range(len(head)))
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor("#cccccc")
        if row in {0, len(rows)}:
            cell.set_text_props(weight="bold")


if __name__ == "__main__":
    sys.exit(main())
