"""Filters and resampling on batches N × C × H × W, float64 unless said otherwise.

No sum here depends on what else is in the batch: they are taken term by term, or image by image.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

Fold = Callable[[Tensor, int], Tensor]
"""from positions that may lie outside 0 … n − 1 to positions inside"""


def edge(positions: Tensor, n: int) -> Tensor:
    """The border goes on: a a a | a b c d | d d d."""
    return positions.clamp(0, n - 1)


def mirror(positions: Tensor, n: int) -> Tensor:
    """Mirrored at the middle of the border pixels: d c b | a b c d | c b a."""
    if n == 1:
        return torch.zeros_like(positions)
    folded = positions.remainder(2 * n - 2)
    return torch.minimum(folded, 2 * n - 2 - folded)


def reflect(positions: Tensor, n: int) -> Tensor:
    """Mirrored at the border itself: c b a | a b c d | d c b."""
    folded = positions.remainder(2 * n)
    return torch.minimum(folded, 2 * n - 1 - folded)


def padded(images: Tensor, by: int, fold: Fold) -> Tensor:
    """Images with `by` pixels more on all four sides."""
    for axis in (2, 3):
        n = images.shape[axis]
        positions = torch.arange(-by, n + by, device=images.device)
        images = images.index_select(axis, fold(positions, n))
    return images


def smooth(images: Tensor, sigma: float) -> Tensor:
    """Gaussian filter of standard deviation sigma, in pixels, cut at 4 sigma; the edge goes on.

    Pairs at equal distance are added first, from the outside in: flat areas then round exactly as
    they do in the published images, and white stays white or turns 254 as it does there.
    """
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 / sigma**2 * np.arange(-radius, radius + 1) ** 2)
    weights = (weights / weights.sum())[: radius + 1]
    for axis in (2, 3):
        n = images.shape[axis]
        here = torch.arange(n, device=images.device)
        total = images * weights[radius]
        for weight, distance in zip(weights, range(radius, 0, -1), strict=False):
            before = images.index_select(axis, edge(here - distance, n))
            after = images.index_select(axis, edge(here + distance, n))
            total += (before + after) * weight
        images = total
    return images


@lru_cache(maxsize=16)
def _smoothing(n: int, sigma: float) -> Tensor:
    """The n × n matrix of a Gaussian filter, reflecting at the border, cut at 3 sigma."""
    if sigma == 0:
        return torch.eye(n, dtype=torch.float64)
    rows = ndimage.gaussian_filter1d(np.eye(n), sigma, axis=0, mode="reflect", truncate=3)
    return torch.from_numpy(rows)


def smooth_widely(fields: Tensor, sigma: float) -> Tensor:
    """Gaussian filter of fields N × H × W, for any sigma: a filter may be wider than the field."""
    down = _smoothing(fields.shape[1], sigma).to(fields.device)
    across = _smoothing(fields.shape[2], sigma).to(fields.device)
    # one product a field: a batched one may round differently in batches of another size
    return torch.stack([down @ field @ across.T for field in fields])


def disk(radius: float, alias: float) -> Tensor:
    """A disk of that radius in pixels with its rim softened, K × K, K odd.

    The rim is softened by a Gaussian of standard deviation `alias` over 3 pixels, or 5 where the
    radius is above 8. Its sum is 1; yet where the disk touches the border of its grid, of 17 pixels
    or as many as the radius needs, the softening mirrors there and adds up to a hundredth. So it is
    in the benchmarks, whose images of 224 pixels it brightens at severities 4 and 5.
    """
    reach = max(8, math.ceil(radius))
    grid = np.arange(-reach, reach + 1)
    inside = grid[:, None] ** 2 + grid**2 <= radius**2
    rim = 1 if radius <= 8 else 2
    weights = np.exp(-0.5 * (np.arange(-rim, rim + 1) / alias) ** 2)
    soft = inside / inside.sum()
    for axis in (0, 1):
        soft = ndimage.correlate1d(soft, weights / weights.sum(), axis=axis, mode="mirror")
    soft = soft.astype(np.float32)
    used = int(np.abs(grid[soft.any(axis=0)]).max())
    return torch.from_numpy(soft[reach - used : reach + used + 1, reach - used : reach + used + 1])


def convolve(images: Tensor, kernel: Tensor) -> Tensor:
    """Images filtered with a symmetric K × K kernel, mirrored at the border; by Fourier transform.

    Sums are right to about 1e-15, which is not the last bit.
    """
    reach = len(kernel) // 2
    wide = padded(images, reach, mirror)
    size = (wide.shape[2], wide.shape[3])
    spectrum = torch.fft.rfft2(kernel.to(images.device, torch.float64), s=size)
    result: Tensor = torch.fft.irfft2(torch.fft.rfft2(wide) * spectrum, s=size)
    return result[:, :, 2 * reach :, 2 * reach :]


def streak(levels: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """Motion blur: each pixel a half Gaussian of the pixels that lie ahead in one direction.

    Rounded to 16 bits and then cut to 8, as ImageMagick does it.

    Args:
        levels: uint8 N × C × H × W.
        radius: 2 ⌈radius⌉ + 1 pixels are summed.
        sigma: standard deviation in pixels.
        angles: N, in degrees, clockwise from the right as the image is seen.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    turned = np.deg2rad(angles.cpu().numpy())[:, None]
    # the nearest pixel, halves down
    across = torch.from_numpy(np.ceil(steps * np.cos(turned) - 0.5)).long().to(levels.device)
    down = torch.from_numpy(np.ceil(steps * np.sin(turned) - 0.5)).long().to(levels.device)
    images = levels.double()
    n, c, height, width = images.shape
    which = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(c, device=images.device)[None, :, None, None]
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    total = torch.zeros_like(images)
    for step, weight in enumerate(weights):
        row = edge(rows + down[:, step, None], height)[:, None, :, None]
        column = edge(columns + across[:, step, None], width)[:, None, None, :]
        total += images[which, channel, row, column] * weight
    return ((total * 257).round() / 257).to(torch.uint8)


def enlarge(images: Tensor, factor: float) -> Tensor:
    """The middle of each image, enlarged linearly to the image's size; the corners are its ends."""
    for axis in (2, 3):
        n = images.shape[axis]
        kept = math.ceil(n / factor)
        size = round(kept * factor)
        first, trimmed = (n - kept) // 2, (size - n) // 2
        step = (kept - 1) / max(size - 1, 1)
        at = (torch.arange(n, dtype=torch.float64, device=images.device) + trimmed) * step
        below = at.floor().clamp(max=kept - 1).long()
        share = (at - below).view(-1, *[1] * (3 - axis))
        low = images.index_select(axis, first + below)
        high = images.index_select(axis, first + (below + 1).clamp(max=kept - 1))
        images = low * (1 - share) + high * share
    return images


def sample(images: Tensor, rows: Tensor, columns: Tensor, fold: Fold) -> Tensor:
    """Images at real positions, N × H × W each, in pixels, by linear interpolation."""
    n, c, height, width = images.shape
    flat = images.flatten(2)
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    ys = [fold(top.long() + step, height) for step in (0, 1)]
    xs = [fold(left.long() + step, width) for step in (0, 1)]

    def pixels(y: Tensor, x: Tensor) -> Tensor:
        index = (y * width + x).flatten(1)[:, None].expand(n, c, -1)
        return flat.gather(2, index).view_as(images)

    upper = pixels(ys[0], xs[0]) * (1 - right) + pixels(ys[0], xs[1]) * right
    lower = pixels(ys[1], xs[0]) * (1 - right) + pixels(ys[1], xs[1]) * right
    return upper * (1 - down) + lower * down
