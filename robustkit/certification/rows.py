"""Rows of a linear map against the dual of L1: their largest entries.

A power mean of the entries would be a linear map again, but it underflows where scales lie far
apart, and a row that is taken for 0 is a neuron that seems not to move. So the products themselves
are compared.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

CELLS = 2**20
"""numbers in the largest tensor of a pass: 8 MiB in float64; larger ones only miss the cache"""
CACHED = 2**15
"""numbers that are worked on again and again"""


def largest_products(weight: Tensor, numbers: Tensor) -> Tensor:
    """The largest weight · number of each row, G × O × K and G × K × L to G × O × L."""
    if weight.shape[2] < numbers.shape[2]:
        some = torch.split(numbers, max(1, CACHED // weight.shape[1]), dim=2)
        return torch.cat([_one_by_one(weight, part) for part in some], 2)
    each = max(1, CELLS // numbers.numel())
    rows = torch.split(weight, each, dim=1)
    return torch.cat([(part[..., None] * numbers[:, None]).amax(2) for part in rows], 1)


def _one_by_one(weight: Tensor, numbers: Tensor) -> Tensor:
    """The same, without a tensor of all products."""
    result = weight[..., :1] * numbers[:, None, 0]
    for k in range(1, weight.shape[2]):
        torch.maximum(result, weight[..., k : k + 1] * numbers[:, None, k], out=result)
    return result


def windows(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
) -> Tensor:
    """What each place of a convolution sees, N × C × H × W to N × (C · kernel) × places."""
    edges: list[int] = []
    for k in (1, 0):  # `functional.pad` begins with the last dimension
        if padding == "same":  # an odd one more stands behind
            both = dilation[k] * (kernel[k] - 1)
            edges += [both // 2, both - both // 2]
        else:
            edges += [0, 0] if isinstance(padding, str) else [padding[k], padding[k]]
    return functional.unfold(functional.pad(x, edges), kernel, dilation, 0, stride)  # type: ignore[arg-type]
