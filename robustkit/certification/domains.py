"""Parts of one image's region, told apart by the signs that some of its neurons have there.

A neuron here is one number before a ReLU whose interval crosses 0; U of them are counted, over all
ReLUs. B domains stand side by side, each with a logit of its own to be held against the label's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod

import torch
from torch import Tensor

from robustkit.certification.bounds import Interval, Multipliers, carried, chunk, local_errors
from robustkit.certification.graph import BoundGraph, Relu, flattened
from robustkit.certification.region import Region


@dataclass(frozen=True, slots=True)
class Neurons:
    """Where the U neurons stand."""

    shapes: Mapping[int, tuple[int, ...]]
    """of each ReLU that has any, by its step"""
    sources: Mapping[int, int]
    """the step before it"""
    places: Mapping[int, Tensor]
    """in its flattened input, rising"""
    layer: Tensor
    """the ReLU of each neuron, counted from 0, int64 U"""
    slope: Tensor
    """below 0, of each neuron's ReLU: float64 U"""

    @classmethod
    def of(cls, graph: BoundGraph, bounds: Sequence[Interval]) -> "Neurons":
        """Those of one image's intervals, each 1 × shape."""
        relus = {i: step for i, step in enumerate(graph.steps) if isinstance(step, Relu)}
        places = {}
        for i, step in relus.items():
            low, high = (side.flatten() for side in bounds[step.source])
            places[i] = ((low < 0) & (high > 0)).nonzero()[:, 0]
        relus = {i: step for i, step in relus.items() if len(places[i])}
        device = bounds[0][0].device
        counts = torch.tensor([len(places[i]) for i in relus], dtype=torch.int64, device=device)
        slopes = torch.tensor([s.slope for s in relus.values()], device=device).double()
        return cls(
            {i: step.shape for i, step in relus.items()},
            {i: step.source for i, step in relus.items()},
            {i: places[i] for i in relus},
            torch.arange(len(relus), device=device).repeat_interleave(counts),
            slopes.repeat_interleave(counts),
        )

    def __len__(self) -> int:
        return len(self.layer)

    def spread(self, values: Tensor) -> dict[int, Tensor]:
        """Values of the neurons, B × U, to B × 1 × shape by ReLU, 0 where no neuron is."""
        if not self.places:
            return {}
        parts = torch.split(values, [len(p) for p in self.places.values()], dim=1)
        whole = {}
        for (i, where), part in zip(self.places.items(), parts, strict=True):
            shape = self.shapes[i]
            empty = part.new_zeros(len(part), prod(shape))
            whole[i] = empty.index_copy(1, where, part).view(len(part), 1, *shape)
        return whole

    def gathered(self, whole: Mapping[int, Tensor]) -> Tensor:
        """The other way round; 0 for a ReLU that is missing."""
        if not self.places:
            return torch.zeros(1, 0, dtype=torch.float64, device=self.layer.device)
        present = next(iter(whole.values()))
        parts = [
            flattened(whole[i])[:, where]
            if i in whole
            else present.new_zeros(len(present), len(where))
            for i, where in self.places.items()
        ]
        return torch.cat(parts, 1)


@dataclass(frozen=True, slots=True)
class Domains:
    """B parts of the region, and what is known of each."""

    rival: Tensor
    """which of the image's linear functions is bounded, int64 B"""
    signs: Tensor
    """what is presumed of each neuron: 1 not below 0, −1 not above, 0 nothing; int8 B × U"""
    alpha: Tensor
    """multipliers as in `bounds.Multipliers`, B × U"""
    beta: Tensor
    """their size, at least 0, B × U"""
    low: Tensor
    """lowest value of each neuron there, B × U"""
    high: Tensor
    """highest"""
    stale: Tensor
    """signs presumed since the intervals behind them were last bounded, int64 B"""
    lower: Tensor
    """a lower bound of the function there, B"""

    def __len__(self) -> int:
        return len(self.rival)

    def take(self, rows: Tensor) -> "Domains":
        """Some of them."""
        return Domains(*(getattr(self, f.name)[rows] for f in fields(self)))

    @property
    def open(self) -> Tensor:
        """Which neurons may still have either sign, bool B × U."""
        return (self.low < 0) & (self.high > 0)

    def split(self, neurons: Tensor) -> "Domains":
        """2B domains: the sign of one neuron each, int64 B, presumed one way, then the other."""
        rows = torch.arange(len(self), device=neurons.device)
        twice = self.take(rows.repeat(2))
        signs, low, high = twice.signs.clone(), twice.low.clone(), twice.high.clone()
        signs[rows, neurons], low[rows, neurons] = 1, 0.0
        other = rows + len(self)
        signs[other, neurons], high[other, neurons] = -1, 0.0
        return replace(twice, signs=signs, low=low, high=high, stale=twice.stale + 1)

    @staticmethod
    def joined(parts: "Sequence[Domains]") -> "Domains":
        """One after the other."""
        return Domains(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Domains)))


@dataclass(frozen=True, slots=True)
class Problem:
    """One image: linear functions of its logits that are to be shown positive over its region."""

    graph: BoundGraph
    region: Region
    """of the one image"""
    bounds: Sequence[Interval]
    """of every step, each 1 × shape"""
    neurons: Neurons
    slopes: Tensor
    """float64 R × K: the label's logit less each rival's"""
    errors: Sequence[Tensor | None]
    """`bounds.local_errors` of the whole region, which hold in each part of it"""
    scale: Tensor
    """float64 U: size of the slopes that arrive at each neuron's ReLU"""

    @classmethod
    def of(
        cls, graph: BoundGraph, region: Region, bounds: Sequence[Interval], slopes: Tensor
    ) -> "Problem":
        """The problem of one image, from the intervals of its steps."""
        neurons = Neurons.of(graph, bounds)
        scale = torch.ones(len(neurons), dtype=torch.float64, device=slopes.device)
        problem = cls(graph, region, bounds, neurons, slopes, local_errors(graph, bounds), scale)
        if len(neurons) == 0:
            return problem
        whole = problem.whole()
        _, arriving = problem.lower(whole, problem.intervals(whole), whole.alpha, whole.beta)
        sizes = problem.neurons.gathered({i: a.abs() for i, a in arriving.items()}).amax(0)
        layers = torch.zeros(int(neurons.layer.max()) + 1, dtype=torch.float64, device=sizes.device)
        layers.scatter_reduce_(0, neurons.layer, sizes, "amax")
        return replace(problem, scale=layers[neurons.layer])

    def rows(self, domains: Domains) -> Region:
        """The region, once for each domain."""
        image = self.region.images
        whole = image.expand(len(domains), *image.shape[1:])
        return Region(self.region.norm, whole, self.region.radius)

    def intervals(self, domains: Domains) -> list[Interval]:
        """Every step's interval in each domain, B × shape."""
        B = len(domains)
        whole = [
            (low.expand(B, *low.shape[1:]), high.expand(B, *high.shape[1:]))
            for low, high in self.bounds
        ]
        low, high = self.neurons.spread(domains.low), self.neurons.spread(domains.high)
        there = self.neurons.spread(torch.ones_like(domains.low[:1]))
        for i, source in self.neurons.sources.items():
            below, above = whole[source]
            own = there[i][:, 0] > 0
            # two ReLUs may have one input
            whole[source] = (
                torch.where(own, torch.maximum(low[i][:, 0], below), below),
                torch.where(own, torch.minimum(high[i][:, 0], above), above),
            )
        return whole

    def lower(
        self, domains: Domains, bounds: Sequence[Interval], alpha: Tensor, beta: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """A lower bound of each domain's function, B, by multipliers B × U.

        Beside it the slopes that arrive at the images and at each ReLU, B × 1 × shape.
        """
        spread, last = self.neurons.spread, len(self.graph.steps) - 1
        arriving, total, _ = carried(
            self.graph,
            bounds,
            last,
            self.slopes[domains.rival][:, None],
            relax=True,
            errors=self.errors,
            multipliers=Multipliers(spread(alpha), spread(-domains.signs * beta)),
        )
        return (total + self.rows(domains).minimum(arriving[0]))[:, 0], arriving

    @property
    def at_once(self) -> int:
        """How many domains a pass has room for."""
        return chunk(self.graph, 1, 2)

    def whole(self) -> Domains:
        """The region itself, once for each function, with no sign presumed and nothing known."""
        R, U = len(self.slopes), len(self.neurons)
        sides = [
            {i: self.bounds[s][k][:, None] for i, s in self.neurons.sources.items()} for k in (0, 1)
        ]
        low, high = (self.neurons.gathered(side) for side in sides)
        alpha = torch.where(high > -low, 1.0, self.neurons.slope)
        return Domains(
            torch.arange(R, device=alpha.device),
            torch.zeros(R, U, dtype=torch.int8, device=alpha.device),
            alpha.expand(R, -1),
            torch.zeros_like(alpha).expand(R, -1),
            low.expand(R, -1),
            high.expand(R, -1),
            torch.zeros(R, dtype=torch.int64, device=alpha.device),
            torch.full((R,), -torch.inf, dtype=torch.float64, device=alpha.device),
        )
