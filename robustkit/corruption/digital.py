"""Digital: less contrast, elastic warping, large pixels, JPEG."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustkit.corruption.draws import Drawn, uniform
from robustkit.corruption.filters import mirror, reflect, sample, smooth_widely
from robustkit.corruption.pixels import cut, unit
from robustkit.corruption.tables import Constants


def contrast(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """Every channel drawn towards its mean over the image."""
    (kept,) = constants
    # a sum of integers: the same in any order
    mean = images.long().sum((2, 3), keepdim=True).double() / (images[0, 0].numel() * 255)
    return cut((unit(images) - mean) * kept + mean)


def draw_elastic(image: Tensor, constants: Constants, source: torch.Generator) -> Drawn:
    """Where three points go (3 × 2), and two fields of displacements (2 × H × W), in [−1, 1)."""
    corners = uniform((3, 2), source, -1, 1)
    return corners, uniform((2, *image.shape[1:]), source, -1, 1)


def elastic(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """An affine map that moves three points, then smooth displacements across and down."""
    (alpha, sigma, shift), (corners, fields) = constants, drawn
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device, dtype=torch.float64)[:, None]
    columns = torch.arange(width, device=images.device, dtype=torch.float64)
    ys, xs = _affine(corners * shift, height, width, rows, columns)
    # float32 in between, as in the benchmarks
    warped = sample(unit(images).float().double(), ys, xs, mirror).float().double()
    across, down = ((smooth_widely(fields[:, k], sigma) * alpha).float().double() for k in (0, 1))
    return cut(sample(warped, rows + down, columns + across, reflect).float())


def _affine(
    moves: Tensor, height: int, width: int, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows and columns, N × H × W, that an affine map takes each pixel from.

    It takes three corners of a square around the middle to where `moves` (N × 3 × 2, across and
    down, in pixels) puts them. Positions are multiples of 1/32 pixel, as OpenCV has them.
    """
    x, y, reach = width // 2, height // 2, min(height, width) // 3
    points = [[x + reach, y + reach], [x + reach, y - reach], [x - reach, y - reach]]
    before = torch.tensor(points, dtype=torch.float32)
    after = (before + moves.cpu().float()).double()
    ones = torch.ones(len(after), 3, 1, dtype=torch.float64)
    # on the CPU, one by one: a batched solver may round differently in batches of another size
    maps = [torch.linalg.solve(p, before.double()) for p in torch.cat([after, ones], 2)]
    weights = torch.stack(maps).to(rows.device) * 1024  # N × 3 × 2: of column, row and one
    by_column, by_row, constant = weights[:, :, :, None, None].unbind(1)
    fixed = (by_column * columns).round() + (by_row * rows + constant).round() + 16
    across, down = ((fixed / 32).floor() / 32).unbind(1)
    return down, across


def pixelate(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """Shrunk to `share` of either side and enlarged again, both with Pillow's box filter."""
    (share,) = constants
    height, width = images.shape[2:]
    small = (max(1, int(width * share)), max(1, int(height * share)))

    def resize(picture: Image.Image) -> Image.Image:
        less = picture.resize(small, Image.Resampling.BOX)
        return less.resize((width, height), Image.Resampling.BOX)

    return _by_pillow(images, resize)


def jpeg(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """Written as JPEG by Pillow with its defaults (chroma at half the size) and read again."""
    (quality,) = constants

    def compress(picture: Image.Image) -> Image.Image:
        file = BytesIO()
        picture.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _by_pillow(images, compress)


def _by_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Every image changed by Pillow, on the CPU; one of a single channel as a grey picture."""
    grey = images.shape[1] == 1
    done = []
    for image in images.cpu().numpy():
        picture = image[0] if grey else np.ascontiguousarray(image.transpose(1, 2, 0))
        changed = np.asarray(change(Image.fromarray(picture)))
        done.append(changed[None] if grey else changed.transpose(2, 0, 1))
    return torch.from_numpy(np.stack(done)).to(images.device)
