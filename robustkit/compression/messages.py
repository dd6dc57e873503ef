"""From a flat gradient to what is sent, and back: selection, quantisation, bytes. No communication.

Everything here runs on the gradient's own device and is deterministic.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustkit.compression.schemes import Column


def largest(values: Tensor, k: int) -> Tensor:
    """The indices, k ascending int64, of the k entries of largest magnitude of `values`, n.

    Among equals the first ones win, and NaN counts as infinite: every rank sends exactly k entries
    even when training has diverged, and all replicas see it.
    """
    magnitude = values.abs().nan_to_num_(nan=torch.inf, posinf=torch.inf)
    least = magnitude.topk(k, sorted=False).values.min()
    chosen = magnitude > least
    ties = (magnitude == least).nonzero()[:, 0]
    chosen[ties[: k - int(chosen.sum())]] = True
    return chosen.nonzero()[:, 0]


def drawn(numel: int, k: int, key: Sequence[int]) -> Tensor:
    """Draw k of `numel` indices without replacement, ascending int64 on the CPU.

    They are a function of `key`, non-negative integers: where it is the same on every rank, no
    index needs to travel.
    """
    indices = np.random.default_rng(key).choice(numel, k, replace=False, shuffle=False)
    return torch.from_numpy(np.sort(indices))


class MatrixShape(NamedTuple):
    """How a parameter's stretch of a flat bucket is read for one-bit quantisation."""

    rows: int
    columns: int
    dim: int
    """the dimension along which entries share their levels"""

    @property
    def groups(self) -> int:
        """How many pairs of levels it takes."""
        return self.rows if self.dim == 1 else self.columns

    def view(self, flat: Tensor) -> Tensor:
        """The stretch as rows × columns."""
        return flat.view(self.rows, self.columns)


def matrix(shape: Sequence[int], column: Column) -> MatrixShape:
    """A parameter's shape as a matrix whose groups are its columns in the sense of the paper."""
    if len(shape) < 2:
        return MatrixShape(1, math.prod(shape), 1)
    return MatrixShape(shape[0], math.prod(shape[1:]), 1 if column == "output" else 0)


def quantise(flat: Tensor, matrices: Sequence[MatrixShape]) -> tuple[Tensor, Tensor]:
    """Bits, packed 8 to a byte, and levels of a bucket (Seide et al. 2014, threshold zero).

    The bit is [value >= 0]. A group's levels are the mean of its negative entries and that of its
    others, zero where there are none. Levels come as all groups' lower ones, then all groups'
    upper ones, matrix by matrix, in the dtype of `flat`: 2 × groups in all.
    """
    levels = []
    for part, shape in zip(_split(flat, matrices), matrices, strict=True):
        values = shape.view(part)
        upper = values >= 0
        levels += [_mean(values, ~upper, shape.dim), _mean(values, upper, shape.dim)]
    return pack(flat >= 0), torch.cat(levels)


def reconstruct(bits: Tensor, levels: Tensor, matrices: Sequence[MatrixShape]) -> Tensor:
    """The flat bucket that `quantise`'s message stands for."""
    total = sum(shape.rows * shape.columns for shape in matrices)
    parts = _split(unpack(bits, total), matrices)
    pairs = torch.split(levels, [2 * shape.groups for shape in matrices])
    out = []
    for part, pair, shape in zip(parts, pairs, matrices, strict=True):
        lower, upper = pair.view(2, -1).unsqueeze(shape.dim + 1)
        out.append(torch.where(shape.view(part), upper, lower).flatten())
    return torch.cat(out)


def pack(bits: Tensor) -> Tensor:
    """Booleans, n, as ⌈n/8⌉ bytes; the first bit is the least significant one."""
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -len(bits) % 8))
    return (padded.view(-1, 8) << _shifts(bits)).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, numel: int) -> Tensor:
    """The first `numel` bits of `packed` as booleans."""
    return (packed[:, None] >> _shifts(packed) & 1).flatten()[:numel].bool()


def join(parts: Sequence[Tensor]) -> Tensor:
    """One message: the bytes of flat tensors, one after the other."""
    return torch.cat([part.view(torch.uint8) for part in parts])


def separate(message: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    """`join` undone, with sizes and dtypes as in `parts`."""
    pieces = torch.split(message, [part.numel() * part.element_size() for part in parts])
    return [piece.clone().view(part.dtype) for piece, part in zip(pieces, parts, strict=True)]


def _split(flat: Tensor, matrices: Sequence[MatrixShape]) -> Sequence[Tensor]:
    return torch.split(flat, [shape.rows * shape.columns for shape in matrices])


def _mean(values: Tensor, chosen: Tensor, dim: int) -> Tensor:
    """The mean of the chosen values along `dim`; nothing chosen means zero."""
    return torch.where(chosen, values, 0).sum(dim) / chosen.sum(dim).clamp(min=1)


def _shifts(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
