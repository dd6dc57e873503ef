"""A few images in company: in another order, and among so many that nothing repeats itself.

`contract` compares every row with that of its own image. A network that answers for other rows than
it was given, in a piece of a batch or by exchanging them, is found out where its images stand in
an order that no such exchange leaves as it is.
"""

import torch
from torch import Tensor

FEW = 16
"""images that are passed; with their negatives they are the company of each other"""
CROWD, NUMBERS = 128, 2**22
"""images that are passed at once as well, and numbers in them at most: as an evaluation does on a
CPU, unless its batch size is known"""


def usual(images: Tensor) -> int:
    """How many are passed at once at least."""
    return min(CROWD, NUMBERS // max(1, images[0].numel()))


def companies_of(images: Tensor, batch: int) -> list[Tensor]:
    """What images are passed among: few of them, and so many at once if that is more.

    As many few at all times, so that a rule for large batches shows with few images, too. The
    first, asked alone and beside copies of itself, has half the contrast: with the darkest and
    brightest pixel of all it would not show that a batch is scaled by them.
    """
    company = images.repeat(-(-FEW // len(images)), 1, 1, 1)[:FEW]
    company = torch.cat([0.25 + company[:1] / 2, company[1:], 1 - company])
    if batch <= len(company):
        return [company]
    return [company, crowd(company, batch)]


def crowd(rows: Tensor, size: int) -> Tensor:
    """So many rows: a company's images, or their logits, again and again, turned each time.

    By 0, 1, 3, 6, … rows, so that no later piece is like an earlier one: a period comes after 64
    of 32.
    """
    times = range(-(-size // len(rows)))
    return torch.cat([rows.roll(k * (k + 1) // 2, 0) for k in times])[:size]


def turned(rows: Tensor) -> Tensor:
    """A company with first and last exchanged, and those between moved on by one.

    An exchange of rows by halves, pieces or in reverse order is the same when seen from the end,
    and would not show where the order is merely reversed.
    """
    return rows[_order(len(rows))]


def turned_back(rows: Tensor) -> Tensor:
    """The logits of `turned` images in their company's order."""
    order = _order(len(rows))
    return rows[sorted(range(len(order)), key=order.__getitem__)]


def _order(count: int) -> list[int]:
    return [count - 1, count - 2, *range(1, count - 2), 0]
