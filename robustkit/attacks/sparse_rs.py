"""Sparse-RS: few pixels or features by the scores alone (Croce et al. 2022, algorithms 1 and 2).

Croce et al. 2022, "Sparse-RS: a versatile framework for query-efficient sparse black-box
adversarial attacks".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustkit.attacks.draws import stream
from robustkit.attacks.library import foolbox
from robustkit.attacks.objectives import objective
from robustkit.attacks.search import Search
from robustkit.attacks.state import State
from robustkit.geometry import entries
from robustkit.protocol import Norm

UNTIL = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
SHARES = (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)
"""by how much the share of moved entries is divided, up to each of those queries of 10,000"""


@dataclass(slots=True)
class SparseBuffers:
    """What Sparse-RS remembers."""

    best: Tensor
    """proposals of the highest margin, N × C × H × W"""
    best_value: Tensor
    """their margins, N"""
    chosen: Tensor
    """the entries that `best` may change, bool N × E"""
    proposed: Tensor
    """those of the iterate"""


class SparseSearch(Search[SparseBuffers], foolbox.attacks.base.FixedEpsilonAttack):  # type: ignore[misc]
    """As many entries as the budget, each at a corner of the box; some of them are moved at a time.

    An entry is a pixel with all its channels, or in l0-features one value. A new colour is never
    the image's own, which would spend the budget on nothing.
    """

    gradient = False
    random_start = False
    transfers = False

    def __init__(
        self, norm: Norm, *, queries: int = 10000, restarts: int = 1, alpha_init: float = 0.3
    ) -> None:
        self.norm = norm
        self.steps = queries - 1  # the first query is the starting point
        self.restarts = restarts
        self.alpha_init = alpha_init

    def start(
        self, state: State[None], sources: Sequence[torch.Generator | None]
    ) -> State[SparseBuffers]:
        """Random entries at random corners."""
        images = entries(state.images, self.norm)
        count = self._budget(state, images.shape[2])
        draws = self._draws(state.key, torch.zeros_like(state.step), images)
        order, colours = draws[:, : images.shape[2]], self._colours(draws, images)
        chosen = _first(order, torch.ones_like(order, dtype=torch.bool), count)
        x = torch.where(chosen[:, None], colours, images).view_as(state.images)
        nothing = torch.full_like(state.epsilon, -torch.inf)
        return state.started(x, SparseBuffers(x.clone(), nothing, chosen, chosen.clone()))

    def value(self, logits: Tensor, state: State[SparseBuffers], targeted: bool) -> Tensor:
        """The margin, N."""
        return objective(logits, state.classes, state.clean, "margin", targeted)

    def advance(self, state: State[SparseBuffers], value: Tensor, gradient: Tensor) -> None:
        """Keep the last proposal where it is better; move some of its entries elsewhere."""
        b = state.buffers
        better = value > b.best_value
        b.best_value = torch.where(better, value, b.best_value)
        kept = better.nonzero()[:, 0]
        b.best.index_copy_(0, kept, state.x[kept])
        b.chosen.index_copy_(0, kept, b.proposed[kept])
        images, best = entries(state.images, self.norm), entries(b.best, self.norm)
        size = images.shape[2]
        moved = self._moved(state, size)
        draws = self._draws(state.key, state.step + 1, images)
        order = draws[:, :size]
        back, new = _first(order, b.chosen, moved), _first(order, ~b.chosen, moved)
        x = torch.where(back[:, None], images, best)
        x = torch.where(new[:, None], self._colours(draws, images), x)
        b.proposed = (b.chosen & ~back) | new
        state.x = x.view_as(state.images)

    def _budget(self, state: State[None] | State[SparseBuffers], size: int) -> Tensor:
        return state.epsilon.clamp(max=size).long()

    def _moved(self, state: State[SparseBuffers], size: int) -> Tensor:
        """How many entries of each row's are moved: fewer and fewer, N."""
        budget = self._budget(state, size)
        place = ((state.step + 1) * 10000).div(self.steps + 1, rounding_mode="floor")
        until = torch.tensor(UNTIL, device=place.device)
        divisor = torch.tensor(SHARES, device=place.device)[torch.bucketize(place, until)]
        share = (self.alpha_init * budget.double() / divisor).long().clamp(min=1)
        return torch.minimum(torch.minimum(share, budget), size - budget)

    def _draws(self, keys: Tensor, step: Tensor, images: Tensor) -> Tensor:
        """An order of all entries, and their colours: N × (E + V E)."""
        return stream(keys, step, images.shape[2] * (1 + images.shape[1]))

    def _colours(self, draws: Tensor, images: Tensor) -> Tensor:
        """A random corner for each entry that is not its own colour, N × V × E."""
        size = images.shape[2]
        colours = (draws[:, size:] < 0.5).view_as(images).to(images)
        same = (colours == images).all(1, keepdim=True)
        return torch.where(same, 1 - colours, colours)


def _first(order: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The `count` entries N of the lowest order N × E among some, as bool N × E."""
    most = int(count.max()) if len(count) else 0
    if most == 0:
        return torch.zeros_like(among)
    lowest, places = torch.where(among, order, 2.0).topk(most, dim=1, largest=False, sorted=True)
    run = torch.arange(most, device=count.device)
    taken = (run < count[:, None]) & (lowest < 2.0)
    return torch.zeros_like(among).scatter_(1, places, taken)
