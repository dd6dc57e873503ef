"""The set an attack may reach: a norm ball around each image, inside the box [0, 1]."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.certification.roundoff import DOUBLE
from robustkit.geometry import TOLERANCE
from robustkit.protocol import Norm

HALVINGS = 20
"""steps of bisection for the multiplier of the L2 ball; every multiplier gives a sound bound"""


@dataclass(frozen=True, slots=True)
class Region:
    """Every x with ‖x − image‖ ≤ radius and pixels in [0, 1], for N images at once."""

    norm: Norm
    images: Tensor
    """float64 N × C × H × W in [0, 1]"""
    radius: float

    def take(self, rows: Tensor) -> "Region":
        """The regions of some of the images."""
        return Region(self.norm, self.images[rows], self.radius)

    def interval(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each pixel, both N × C × H × W; no norm has wider ones."""
        x, radius = self.images, self.radius + 4 * DOUBLE * (1 + self.radius)
        if self.radius == 0:
            return x, x
        return (x - radius).clamp_(min=0), (x + radius).clamp_(max=1)

    def minimum(self, slopes: Tensor) -> Tensor:
        """A lower bound of Σ slopes · x over each region; N × S × C × H × W to N × S.

        Exact for Linf and L1 (the pixels of the largest slope first, as far as the box lets them);
        for L2 by weak duality at a multiplier found by bisection, exact up to its resolution.
        """
        a, x = slopes.flatten(2), self.images.flatten(1)[:, None]
        low, high = (side.flatten(1)[:, None] - x for side in self.interval())
        # every term here is at most |a| (1 + radius), and none passes through more than a few
        # roundings beside those of the sums; the multiplier of L2 is at most |a| / radius
        roundings = 16 * (a.shape[2] + 64) * DOUBLE
        here = (a @ x.transpose(1, 2))[..., 0]
        here -= roundings * (1 + self.radius) * a.abs().sum(2)
        if self.norm == "linf":
            return here + _boxed(a, low, high)
        if self.norm == "l1":
            return here - _greedy(a, low, high, self.radius)
        return here + torch.maximum(_dual(a, low, high, self.radius), _boxed(a, low, high))

    def corner(self, slopes: Tensor) -> Tensor:
        """Where Σ slopes · x is least, or nearly: B × C × H × W for the region of one image.

        The minimum's gradient by the slopes is where it is attained (Danskin's theorem).
        """
        with torch.enable_grad():
            a = slopes.detach().requires_grad_()
            least = Region(self.norm, self.images, self.radius).minimum(a[None]).sum()
            (point,) = torch.autograd.grad(least, a)
        low, high = self.interval()
        return torch.maximum(torch.minimum(point, high), low)


def _boxed(a: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The minimum of Σ a · d over low ≤ d ≤ high, N × S."""
    rising, falling = a.clamp(min=0) @ low.transpose(1, 2), a.clamp(max=0) @ high.transpose(1, 2)
    result: Tensor = (rising + falling)[..., 0]
    return result


def _greedy(a: Tensor, low: Tensor, high: Tensor, radius: float) -> Tensor:
    """How far Σ a · d can fall over low ≤ d ≤ high and ‖d‖₁ ≤ radius, N × S."""
    room = torch.where(a > 0, -low, high)
    size, order = a.abs().sort(dim=2, descending=True)
    room = room.gather(2, order)
    before = room.cumsum(2) - room
    return (size * torch.minimum(room, (radius - before).clamp_(min=0))).sum(2)


def _dual(a: Tensor, low: Tensor, high: Tensor, radius: float) -> Tensor:
    """A lower bound of Σ a · d over low ≤ d ≤ high and ‖d‖₂ ≤ radius, N × S.

    For any λ > 0 the minimum of Σ a · d + λ/2 (‖d‖² − radius²) over the box is one. The best λ
    makes ‖d‖ = radius; without the box it is ‖a‖ / radius, and the box can only lower it.
    """
    if radius == 0:
        return torch.zeros_like(a[..., 0])
    above = a.norm(dim=2, keepdim=True).clamp(min=1e-300) / radius
    below = torch.zeros_like(above)
    for _ in range(HALVINGS):
        middle = (above + below) / 2
        inside = _clipped(a, low, high, middle).norm(dim=2, keepdim=True) <= radius
        above, below = torch.where(inside, middle, above), torch.where(inside, below, middle)
    d = _clipped(a, low, high, above)
    slack = d.square().sum(2) - radius**2
    result: Tensor = (a * d).sum(2) + above[..., 0] / 2 * slack
    return result


def _clipped(a: Tensor, low: Tensor, high: Tensor, multiplier: Tensor) -> Tensor:
    result: Tensor = torch.maximum(torch.minimum(-a / multiplier, high), low)
    return result


def reach(epsilon: float) -> float:
    """The radius within which an attack's result counts as within ε; see `geometry.TOLERANCE`.

    0 of 0, which is no attack's budget: the image itself.
    """
    return epsilon + TOLERANCE * max(1.0, epsilon) if epsilon else 0.0
