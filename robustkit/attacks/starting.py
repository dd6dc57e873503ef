"""Where attacks by decisions begin if noise fools nothing: the nearest of other points that do."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from robustkit.attacks.draws import generator
from robustkit.attacks.library import eagerpy
from robustkit.geometry import distance
from robustkit.protocol import Norm

TILES, DRAWS = (2, 4, 8), 8
"""noise of so many tiles along an edge, each so often: networks that take pixels of noise for
nothing often take blots for something"""
MOST = 3
"""channels up to which every corner of the box is a colour to begin with"""


def nearest_start(
    image: Tensor,
    found: Tensor | None,
    held: Callable[[Tensor], Tensor],
    is_adversarial: Callable[[Any], Any],
    norm: Norm,
    names: Sequence[object],
) -> Tensor | None:
    """The nearest point that fools, 1 × C × H × W; None: none does.

    Args:
        image: 1 × C × H × W; it depends on no other.
        found: what an earlier attack found, likewise; None: nothing.
        held: a point with what may not change as it is in the image.
        is_adversarial: foolbox's, of one point.
        norm: in which it is near.
        names: key of the draws.
    """
    points = [held(point[None]) for point in _points(image[0], names)]
    reached = [float(distance(image, point, norm)) for point in points]
    order = sorted(range(len(points)), key=reached.__getitem__)
    known = [] if found is None else [found]
    for point in [*known, *(points[k] for k in order if reached[k] > 0)]:
        if bool(is_adversarial(eagerpy.astensor(point)).raw.all()):
            return point
    return None


def _points(image: Tensor, names: Sequence[object]) -> Iterator[Tensor]:
    """The image inverted, plain colours and blots."""
    yield 1 - image
    channels = image.shape[0] if image.ndim == 3 else 1
    colours = product((0.0, 1.0), repeat=channels) if channels <= MOST else ((0.0,), (1.0,))
    for colour in (*colours, (0.5,)):
        yield torch.tensor(colour).to(image).view(-1, *[1] * (image.ndim - 1)).expand_as(image)
    if image.ndim != 3:
        return
    for side in TILES:
        for draw in range(DRAWS):
            source = generator(*names, "start", side, draw)
            tiles = torch.rand((1, image.shape[0], side, side), generator=source)
            yield interpolate(tiles, image.shape[1:])[0].to(image)
