"""Rotation and translation: a grid of them, or random ones, and the smallest that fools.

Engstrom et al. 2019, "Exploring the landscape of spatial robustness". A point is told by its
numbers alone, and how far it lies by them (`Ray`); the picture is made anew for the verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from robustkit.attacks.block import batches
from robustkit.attacks.draws import generator
from robustkit.attacks.forecast import BlockForecast, Standing
from robustkit.attacks.verdicts import Verifier
from robustkit.geometry import transformed
from robustkit.network import answer
from robustkit.protocol import Epsilon, Protocol, SpatialGrid, SpatialRandom

SAME = 1e-9
"""of a budget's number, by which a distance may be rounded"""


@dataclass(frozen=True, slots=True)
class Ray:
    """Nested boxes of rotations and translations, one for each number of degrees, or of pixels.

    The distance of a transform is the number of the smallest box that holds it.
    """

    degrees: float | None
    """of the box of number `value`; None: nothing is rotated"""
    shift: float | None
    """its pixels along each axis; None: nothing is moved"""
    value: float

    @classmethod
    def of(cls, epsilon: Epsilon) -> "Ray":
        """That on which a budget lies."""
        degrees, shift = epsilon.degrees, epsilon.shift
        return cls(
            None if degrees is None else float(degrees),
            None if shift is None else float(shift),
            float(epsilon),
        )

    def distance(self, transforms: Tensor) -> Tensor:
        """Of transforms … × 3 (degrees, pixels down and right), float64; inf: none holds it."""
        sizes = torch.tensor(
            [self.degrees or 0.0, self.shift or 0.0, self.shift or 0.0], dtype=torch.float64
        )
        share = torch.where(
            sizes > 0,
            transforms.abs() / sizes.clamp(min=1e-300),
            torch.where(transforms == 0, 0.0, torch.inf),
        )
        return share.amax(-1) * self.value


def grid(attack: SpatialGrid, epsilon: Epsilon) -> Tensor:
    """Evenly spaced transforms of a budget's box, its corners among them, float64 P × 3."""
    angles = _evenly(epsilon.degrees, attack.angles)
    shifts = _evenly(epsilon.shift, attack.shifts)
    return torch.cartesian_prod(angles, shifts, shifts)


def _evenly(size: Fraction | None, count: int) -> Tensor:
    if size is None:
        return torch.zeros(1, dtype=torch.float64)
    return torch.linspace(-1, 1, count, dtype=torch.float64) * float(size)


def random_points(attack: SpatialRandom, epsilon: Epsilon, *names: object) -> Tensor:
    """Uniform draws from a budget's box, float64 P × 3."""
    draws = torch.rand(attack.draws, 3, generator=generator(*names), dtype=torch.float64) * 2 - 1
    sizes = (epsilon.degrees, epsilon.shift, epsilon.shift)
    return draws * torch.tensor([float(size or 0) for size in sizes])


@dataclass(frozen=True, slots=True)
class SpatialAttack:
    """One such attack on a block: each image's transforms, the nearest first, until one fools."""

    verifier: Verifier
    protocol: Protocol
    attack: SpatialGrid | SpatialRandom
    name: str
    position: int
    """place of the attack in the protocol; its draws are keyed by it"""
    batch_size: int
    forecast: BlockForecast

    def run(self) -> None:
        """Attack every image that is right."""
        outcomes = self.verifier.outcomes
        rows = outcomes.attacked(self.protocol)
        levels = [range(len(self.protocol.epsilons)) for _ in rows]
        self.forecast.begin(self.position, levels)
        if not len(rows):
            return
        points = self._points(rows.tolist())
        ray = Ray.of(self.protocol.epsilons[-1])
        far = ray.distance(points)
        known = outcomes.distance[rows.to(outcomes.distance.device)].cpu()
        # what lies as far as what is known already tells nothing new
        stop = (far < known[:, None] * (1 - SAME)).sum(1)
        place = torch.zeros_like(stop)
        while bool((left := place < stop).any()):
            going = left.nonzero()[:, 0]
            width = max(1, self.batch_size // len(going))
            self._pass(rows, points, far, place, stop, going, width)
            done = float((place / stop.clamp(min=1)).mean())
            self.forecast.passed(len(going))
            self.forecast.tell(map(Standing, levels), min(done, 1.0))

    def _points(self, rows: Sequence[int]) -> Tensor:
        """Of each image all transforms by rising distance, float64 N × P × 3."""
        epsilons, ray = self.protocol.epsilons, Ray.of(self.protocol.epsilons[-1])
        if isinstance(self.attack, SpatialGrid):
            every = torch.cat([grid(self.attack, e) for e in epsilons])
            return _by_distance(every[every.abs().sum(1) > 0][None], ray).expand(len(rows), -1, -1)
        seed, ids = self.protocol.seed, self.verifier.block.ids
        drawn = [
            torch.cat(
                [
                    random_points(self.attack, e, seed, ids[i], self.position, e.exact)
                    for e in epsilons
                ]
            )
            for i in rows
        ]
        return _by_distance(torch.stack(drawn), ray)

    def _pass(
        self,
        rows: Tensor,
        points: Tensor,
        far: Tensor,
        place: Tensor,
        stop: Tensor,
        going: Tensor,
        width: int,
    ) -> None:
        """Ask for the next points of the images that are under way; `place` and `stop` follow."""
        ahead = place[going, None] + torch.arange(width)
        inside = ahead < stop[going, None]
        which, column = inside.nonzero(as_tuple=True)
        owner, at = going[which], ahead[which, column]
        hits = torch.zeros_like(inside)
        for some in batches(torch.arange(len(owner)), self.batch_size):
            hits[which[some], column[some]] = self._fool(
                rows[owner[some]], points[owner[some], at[some]]
            )
        first = torch.where(hits.any(1), hits.int().argmax(1), inside.sum(1) - 1)
        # those beyond the first that fools were only passed along
        self.verifier.victim.passes.add(rows[going], first + 1)
        place[going] += first + 1
        found = hits.any(1).nonzero()[:, 0]
        if len(found):
            own, at = going[found], ahead[found, first[found]]
            held = self.verifier.keep_transformed(
                rows[own], points[own, at], far[own, at], self.name
            )
            stop[own[held]] = 0

    def _fool(self, rows: Tensor, transforms: Tensor) -> Tensor:
        """Which transforms of which images fool, on the CPU; the passes are not counted."""
        victim, block = self.verifier.victim, self.verifier.block
        there = rows.to(block.images.device)
        with torch.no_grad():
            logits = answer(victim.model, transformed(block.images[there], transforms))
        classes = self.verifier.outcomes.classes[there]
        return victim.checked_hits(logits, rows, classes, self.name)


def _by_distance(points: Tensor, ray: Ray) -> Tensor:
    """Transforms N × P × 3, the nearest first."""
    order = ray.distance(points).argsort(dim=1, stable=True)
    return points.gather(1, order[:, :, None].expand_as(points))
