"""Images and their perturbations, for looking at."""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from PIL import Image

from robustkit.figures.names import shortened
from robustkit.record import Example

FACTORS = (0.5, *(m * 10**e for e in range(5) for m in (1, 2, 5)))
"""how much a difference image may be amplified"""

WORD = 12
"""letters of a class's name above an example"""


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


def example_grid(ax: Axes, examples: Sequence[Example], classes: Sequence[str] = ()) -> Axes:
    """A column an example: clean, perturbed, and the amplified difference around mid grey.

    Images stand on a grid of unit squares, whatever their size; `classes` are the names of the
    labels, which are numbers where there are none.
    """
    words = shortened(classes, WORD)
    for column, example in enumerate(examples):
        change, factor = difference(example)
        for row, image in enumerate((example.clean, example.perturbed, change)):
            _tile(ax, image, column, row)
        pair = [class_name(number, words) for number in (example.label, example.predicted)]
        ax.text(column + 0.48, -0.05, " → ".join(pair), ha="center", va="bottom", size="small")
        ax.text(column + 0.48, 3.0, f"× {factor:g}", ha="center", va="top", size="small")
    for row, name in enumerate(("clean", "perturbed", "difference")):
        ax.text(-0.06, row + 0.48, name, ha="right", va="center", rotation=90, size="small")
    ax.set(xlim=(0, max(len(examples), 1)), ylim=(3, 0), aspect="equal")
    ax.set_axis_off()
    return ax


def picture_row(ax: Axes, images: npt.NDArray[np.float32], names: Sequence[str]) -> Axes:
    """Images N × C × H × W in [0, 1] side by side, each with the name of its class."""
    kinds = list(dict.fromkeys(names))
    short = dict(zip(kinds, shortened(kinds, WORD), strict=True))
    for column, (image, name) in enumerate(zip(images, names, strict=True)):
        _tile(ax, image, column, 0)
        ax.text(column + 0.48, -0.05, short[name], ha="center", va="bottom", size="small")
    ax.set(xlim=(0, max(len(images), 1)), ylim=(1, 0), aspect="equal")
    ax.set_axis_off()
    return ax


def _tile(ax: Axes, image: npt.NDArray[np.float32], column: int, row: int) -> None:
    pixels = np.clip(visible(image), 0, 1)
    extent = (column, column + 0.96, row + 0.96, row)
    ax.imshow(pixels, extent=extent, interpolation="nearest", aspect="equal")


def class_name(number: int, classes: Sequence[str]) -> str:
    """What a label is called; its number where it has no name."""
    return classes[number] if number < len(classes) else str(number)
