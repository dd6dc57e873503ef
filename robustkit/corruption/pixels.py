"""Pixels as the corruptions take and leave them: 8 bits, as in the published benchmarks.

The benchmarks are files of 8 bits a channel, so what is corrupted is rounded to 8 bits first, and
every corruption truncates where theirs does.
"""

import torch
from torch import Tensor

RED, GREEN, BLUE = 0.299, 0.587, 0.114
"""the weights of luma (ITU-R BT.601)"""


def levels(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, to the nearest of the 256 levels."""
    return (images.double() * 255).round().to(torch.uint8)


def unit(levels: Tensor) -> Tensor:
    """Levels as float64 in [0, 1]."""
    return levels.double() / 255


def cut(images: Tensor) -> Tensor:
    """Real values as levels, cut to [0, 1] and truncated: the benchmarks end with a plain cast."""
    return (images.clamp(0, 1) * 255).to(torch.uint8)


def luma(images: Tensor) -> Tensor:
    """Brightness, N × 1 × H × W, of N × C × H × W; an image of one channel is its own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (red * RED + green * GREEN + blue * BLUE)[:, None]
