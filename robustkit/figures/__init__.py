"""Figures: functions that draw on an `ax`, return it, and compute nothing.

This is the only door to seaborn. Pages and files are made through matplotlib's objects, never
through pyplot's global state. Colours stay apart for the colour-blind, markers and dashes without
colour. `svg` makes a drawing part of a page, `render` files for a paper.
"""

from typing import TYPE_CHECKING

from robustkit.lazy import lazily

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from robustkit.figures.audit import ANNOTATED, bounds, confusion, smoothed, stages
    from robustkit.figures.board import COLOURED, board_curves
    from robustkit.figures.curves import (
        CheckpointCurve,
        CostCurve,
        accuracy_against_passes,
        accuracy_curves,
        banded,
        robustness,
        robustness_curve,
    )
    from robustkit.figures.differences import (
        beyond,
        cost_against_gain,
        critical_difference,
        forest,
        forest_height,
        forest_rows,
    )
    from robustkit.figures.images import (
        class_name,
        difference,
        example_grid,
        picture_row,
        png_uri,
        visible,
    )
    from robustkit.figures.names import level_text, shortened
    from robustkit.figures.output import Draw, plot, render, svg
    from robustkit.figures.style import INK, PAGE, STYLES, Style, Venue, Width
    from robustkit.figures.training import Quantity, course, learning_curve, memorisation
    from robustkit.figures.transfer import transfer_matrix

__all__ = [
    "ANNOTATED",
    "COLOURED",
    "INK",
    "PAGE",
    "STYLES",
    "Axes",
    "CheckpointCurve",
    "CostCurve",
    "Draw",
    "Quantity",
    "Style",
    "Venue",
    "Width",
    "accuracy_against_passes",
    "accuracy_curves",
    "banded",
    "beyond",
    "board_curves",
    "bounds",
    "class_name",
    "confusion",
    "cost_against_gain",
    "course",
    "critical_difference",
    "difference",
    "example_grid",
    "forest",
    "forest_height",
    "forest_rows",
    "learning_curve",
    "level_text",
    "memorisation",
    "picture_row",
    "plot",
    "png_uri",
    "render",
    "robustness",
    "robustness_curve",
    "shortened",
    "smoothed",
    "stages",
    "svg",
    "transfer_matrix",
    "visible",
]

_HOMES = {
    "ANNOTATED": "audit",
    "bounds": "audit",
    "confusion": "audit",
    "smoothed": "audit",
    "stages": "audit",
    "COLOURED": "board",
    "board_curves": "board",
    "CheckpointCurve": "curves",
    "CostCurve": "curves",
    "accuracy_against_passes": "curves",
    "accuracy_curves": "curves",
    "banded": "curves",
    "robustness": "curves",
    "robustness_curve": "curves",
    "beyond": "differences",
    "cost_against_gain": "differences",
    "critical_difference": "differences",
    "forest": "differences",
    "forest_height": "differences",
    "forest_rows": "differences",
    "class_name": "images",
    "difference": "images",
    "example_grid": "images",
    "picture_row": "images",
    "png_uri": "images",
    "visible": "images",
    "level_text": "names",
    "shortened": "names",
    "Draw": "output",
    "plot": "output",
    "render": "output",
    "svg": "output",
    "INK": "style",
    "PAGE": "style",
    "STYLES": "style",
    "Style": "style",
    "Venue": "style",
    "Width": "style",
    "Quantity": "training",
    "course": "training",
    "learning_curve": "training",
    "memorisation": "training",
    "transfer_matrix": "transfer",
    "Axes": "output",
}

__getattr__ = lazily(__name__, _HOMES)
"""matplotlib and seaborn take a second, and who only reads numbers does not wait for them."""
