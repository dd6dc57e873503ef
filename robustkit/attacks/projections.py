"""Euclidean and other nearest points in the box [0, 1]: onto hyperplanes, onto L1 balls.

Each is the root of a monotone, piecewise linear function of one number, found by sorting its
breakpoints, or by Newton's method. Rows are images, flattened.
"""

import torch
from torch import Tensor

from robustkit.protocol import Norm


def onto_hyperplane(x: Tensor, w: Tensor, gap: Tensor, norm: Norm) -> Tensor:
    """The smallest steps in a norm from points to hyperplanes within the box.

    Where the box does not meet the hyperplane: the step to the box's point nearest to it
    (Croce and Hein 2020, Minimally distorted adversarial examples, equation 4).

    Args:
        x: several points for each hyperplane, M × N × D in [0, 1].
        w: their normals, N × D.
        gap: ⟨w, x⟩ − b for the hyperplanes {z : ⟨w, z⟩ = b}, M × N.
        norm: of the steps.
    """
    # a hyperplane has no scale: with 1 as the largest slope neither squares nor sums underflow
    scale = w.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)
    w, gap = w / scale, gap / scale[:, 0]
    # every coordinate that moves closes the gap: which way depends on the side that x is on
    towards = gap.sign()[..., None] * -w.sign()
    # from x to 1 upwards, to 0 downwards; nowhere without a slope
    room = towards * (towards.clamp(min=0) - x)
    slope, gap = w.abs(), gap.abs().clamp(max=torch.finfo(w.dtype).max)
    if norm == "l1":
        return towards * _steepest_first(slope, room, gap)
    # a coordinate moves λ (Linf) or λ |w| (L2) until it has no room: find λ
    speed = torch.ones_like(slope[:, :1]) if norm == "linf" else slope
    size = _multiplier(slope, speed, room, gap)[..., None] * speed
    return towards * torch.minimum(size, room)


def _multiplier(slope: Tensor, speed: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """λ M × N with Σ slope · min(λ · speed, room) = gap, or one at which the sum is at its largest.

    By Newton's method from 0. The sum is concave and linear in pieces, so that every step stays
    below the root and leaves at least one piece behind; it takes a handful, and no sort.
    """
    gain, root = slope * speed, torch.zeros_like(gap)
    nearly = 1 + 8 * torch.finfo(gap.dtype).eps
    for _ in range(room.shape[-1] + 1):
        size = root[..., None] * speed
        left = torch.gt(room, size, out=torch.empty_like(room))
        rate = left.mul_(gain).sum(-1)
        missing = gap - (torch.minimum(size, room) * slope).sum(-1)
        following = (root + missing / rate).clamp(max=torch.finfo(gap.dtype).max)
        # a row that has arrived stays, whatever company goes on
        further = (rate > 0) & (following > root * nearly)
        if not bool(further.any()):
            break
        root = torch.where(further, following, root)
    return root


def _steepest_first(slope: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """Steps M × N × D that close the gap with the least L1 norm: the largest slopes first."""
    # a unit of L1 norm closes |w| of the gap, whichever pixel has it: the largest first, each to
    # its wall, as in a fractional knapsack
    falling, order = slope.sort(dim=1, descending=True, stable=True)
    order = order.expand_as(room)
    room = room.gather(-1, order)
    gain = (falling * room).double()
    open_ = (gap[..., None] - (gain.cumsum(-1) - gain)).clamp(min=0)
    size = torch.minimum(room, (open_ / falling.double().clamp(min=1e-300)).to(room))
    return torch.zeros_like(size).scatter_(-1, order, size)


def onto_l1_ball(points: Tensor, images: Tensor, epsilon: Tensor) -> Tensor:
    """The Euclidean projection onto the box within the L1 ball around each image, N × D.

    Ball and box at once, since one after the other is not their intersection (Croce and Hein 2021,
    Mind the box, proposition 2.1).
    """
    change = points.double() - images.double()
    room = torch.where(change > 0, 1 - images.double(), images.double()).clamp(min=0)
    size = change.abs()
    # a coordinate is min(size − λ, room), not below 0: the sum falls from λ = 0 on
    # it turns twice: below size − room it is held by the wall, above size it is gone
    ends = torch.cat([size, size - room], 1)
    turns = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1)
    ends, order = ends.sort(dim=1, descending=True)
    count = turns.gather(1, order).cumsum(1)
    drop = (ends[:, :-1] - ends[:, 1:]) * count[:, :-1]
    total = torch.cat([torch.zeros_like(ends[:, :1]), drop.cumsum(1)], 1)
    # the first piece, from large λ down, on which the sum reaches ε; λ by its slope
    k = ((total < epsilon.double()[:, None]).sum(1, keepdim=True) - 1).clamp(min=0)
    missing = epsilon.double()[:, None] - total.gather(1, k)
    threshold = ends.gather(1, k) - missing / count.gather(1, k).clamp(min=1)
    # inside the ball already, but for the box: λ = 0
    fits = torch.minimum(size, room).sum(1, keepdim=True) <= epsilon.double()[:, None]
    threshold = torch.where(fits, 0.0, threshold.clamp(min=0))
    kept = torch.minimum((size - threshold).clamp(min=0), room) * change.sign()
    return (images.double() + kept).to(points.dtype)


def onto_l2_ball(points: Tensor, images: Tensor, epsilon: Tensor) -> Tensor:
    """The Euclidean projection onto the box within the L2 ball around each image, N × D.

    Ball and box at once, since one after the other falls short of the ball: the change shrinks by
    one factor c, and each coordinate stops at its wall, so that Σ min(c · size, room)² = ε².
    """
    change = points.double() - images.double()
    room = torch.where(change > 0, 1 - images.double(), images.double()).clamp(min=0)
    size = change.abs()
    # the c at which each coordinate meets its wall: those of small c stand there, others are free
    wall = torch.where(size > 0, room / size.clamp(min=1e-300), torch.inf)
    wall, order = wall.sort(dim=1)
    size, stop = size.gather(1, order), room.gather(1, order)
    free = (size**2).flip(1).cumsum(1).flip(1)
    held = (stop**2).cumsum(1) - stop**2
    budget = epsilon.double()[:, None] ** 2
    # with the first k coordinates at the wall; at the true k, c lies between two of them
    c = ((budget - held).clamp(min=0) / free.clamp(min=1e-300)).sqrt()
    k = (c >= wall).sum(1, keepdim=True).clamp(max=c.shape[1] - 1)
    # none is free below ε: the whole of the change fits
    factor = torch.where((c >= wall).all(1, keepdim=True), 1.0, c.gather(1, k).clamp(max=1))
    kept = torch.minimum(change.abs() * factor, room) * change.sign()
    return (images.double() + kept).to(points.dtype)
