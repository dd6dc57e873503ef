"""Square attack: random search by the scores alone (Andriushchenko et al. 2020, algorithms 1 to 3).

In L1 as in AutoAttack: the L2 moves with L1 sizes, projected onto ball and box.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, sqrt

import torch
from torch import Tensor
from torch.nn.functional import pad

from robustkit.attacks.draws import stream
from robustkit.attacks.library import foolbox
from robustkit.attacks.objectives import objective
from robustkit.attacks.projections import onto_l1_ball
from robustkit.attacks.search import Search
from robustkit.attacks.state import State, take
from robustkit.geometry import ORDER, column
from robustkit.protocol import Norm

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""steps after which the share of pixels in a square is halved"""
BEHIND = 0.9
"""share of the way from the clean margin to that of the gradient attacks; a search that has come
less far trails them"""
AHEAD = 50
"""steps whose draws are made at once; the draws are the same"""
TILES = 5
"""L2 and L1 start from so many tiles along an edge"""


@dataclass(slots=True)
class SquareBuffers:
    """What Square remembers."""

    best: Tensor
    """proposals of the highest margin, N × C × H × W"""
    best_value: Tensor
    """their margins, N"""
    draws: Tensor
    """of the next steps, float64 N × AHEAD × draws a step"""
    drawn_from: Tensor
    """the first of those steps, int64 N; -1 before there are any"""


class SquareSearch(Search[SquareBuffers], foolbox.attacks.base.FixedEpsilonAttack):  # type: ignore[misc]
    """Squares of one colour each, kept where the margin grows. No gradient is asked for.

    Positions are drawn for every image on its own, up to the image's edge. Inputs that are no
    images (N × D, sequences, volumes) are laid out as squares.
    """

    gradient = False
    random_start = False
    transfers = False

    def __init__(
        self,
        norm: Norm,
        *,
        queries: int = 5000,
        restarts: int = 1,
        p_init: float = 0.8,
        patience: int = 0,
    ) -> None:
        self.norm = norm
        self.steps = queries - 1  # the first query is the starting point
        self.restarts = restarts
        self.p_init = p_init
        self.patience = patience
        self.compares = patience > 0

    def start(
        self, state: State[None], sources: Sequence[torch.Generator | None]
    ) -> State[SquareBuffers]:
        """Linf: vertical stripes of ±ε. L2, L1: tiles of the shapes that later moves add."""
        grid = _grid(state.images)
        x = _back(self._first(replace(state, images=grid)), state.images)
        nothing = torch.full_like(state.epsilon, -torch.inf)
        size = len(state), AHEAD, 5 + grid.shape[1]
        draws = torch.zeros(size, dtype=torch.float64, device=x.device)
        return state.started(
            x, SquareBuffers(x.clone(), nothing, draws, torch.full_like(state.step, -1))
        )

    def _first(self, state: State[None]) -> Tensor:
        n, c, _, w = state.images.shape
        if self.norm == "linf":
            # convolutions react to high frequencies: stripes fool more often than a plain start
            sign = _signs(stream(state.key, state.step, c * w)).view(n, c, 1, w)
            change = column(state.epsilon, state.images) * sign.to(state.images)
            return (state.images + change).clamp(0, 1)
        return self._placed(state.images, self._tiles(state), state.epsilon)

    def value(self, logits: Tensor, state: State[SquareBuffers], targeted: bool) -> Tensor:
        """The margin, N."""
        return objective(logits, state.classes, state.clean, "margin", targeted)

    def gives_up(self, state: State[SquareBuffers], value: Tensor, targeted: bool) -> Tensor | None:
        """Rows whose `patience` is at its end, and which trail the gradient attacks.

        Where gradients are right they come far closer than a search at random does; where they are
        masked they do not, and the search goes on to its last query.
        """
        if not self.patience:
            return None
        best = torch.maximum(value, state.buffers.best_value)
        clean = self.value(state.clean, state, targeted)
        trails = best - clean < BEHIND * (state.closest - clean)
        return (state.step == self.patience - 1) & trails

    def advance(self, state: State[SquareBuffers], value: Tensor, gradient: Tensor) -> None:
        """Keep the last proposal where it is better; propose the next."""
        b = state.buffers
        better = value > b.best_value
        b.best_value = torch.where(better, value, b.best_value)
        kept = better.nonzero()[:, 0]  # few of many, once the search has come far
        b.best.index_copy_(0, kept, state.x[kept])
        on_grid = replace(b, best=_grid(b.best))
        grid = replace(state, images=_grid(state.images), x=_grid(state.x), buffers=on_grid)
        state.x = _back(self._proposal(grid), state.images)

    def _proposal(self, state: State[SquareBuffers]) -> Tensor:
        h, w = state.images.shape[-2:]
        sides = _sides(self.norm, self.steps, self.p_init, h, w)
        side = sides.to(state.step.device)[state.step]
        draws = self._draws(state, 5 + state.images.shape[1])
        if self.norm == "linf":
            return self._recoloured(state, side, draws)
        # their shape depends on their size: windows of one size at a time
        x = torch.empty_like(state.x)
        for s in sorted(set(side.tolist())):
            rows = (side == s).nonzero()[:, 0]
            x[rows] = self._reshaped(take(state, rows), s, draws[rows])
        return x

    def _draws(self, state: State[SquareBuffers], count: int) -> Tensor:
        """Those of each row's next proposal, float64 N × count; made for `AHEAD` steps at once."""
        b, place = state.buffers, state.step % AHEAD
        due = (state.step - place != b.drawn_from).nonzero()[:, 0]
        if len(due):
            b.drawn_from[due] = (state.step - place)[due]
            key = state.key[due].repeat_interleave(AHEAD)
            steps = b.drawn_from[due, None] + torch.arange(1, AHEAD + 1, device=due.device)
            b.draws[due] = stream(key, steps.flatten(), count).view(len(due), AHEAD, count)
        return b.draws[torch.arange(len(state), device=place.device), place]

    # --- Linf ---------------------------------------------------------------------------------

    def _recoloured(self, state: State[SquareBuffers], side: Tensor, draws: Tensor) -> Tensor:
        """A square whose every channel is at the upper or the lower end of the ball."""
        n, c, h, w = state.images.shape
        sign = _signs(draws[:, 4 : 4 + c]).view(n, c, 1, 1).to(state.images)
        top, left = _corner(draws[:, 0], side, h), _corner(draws[:, 1], side, w)
        mask = _window(top, left, side, h, w)
        # always at an end of the ball (algorithm 2): perturbations that succeed are mostly found at
        # its corners, where a search of all its points would take far longer to arrive
        colour = state.images + column(state.epsilon, state.images) * sign
        return torch.where(mask, colour.clamp_(0, 1), state.buffers.best)

    # --- L2 and L1 ----------------------------------------------------------------------------

    def _reshaped(self, state: State[SquareBuffers], side: int, draws: Tensor) -> Tensor:
        """Move the mass of a window to another one, in the shape of a peak and a trough."""
        n, c, h, w = state.images.shape
        sides = torch.full((n,), side, device=state.key.device)
        at_row, at_column, from_row, from_column = (
            _corner(draws[:, k], sides, size) for k, size in enumerate((h, w, h, w))
        )
        first = _window(at_row, at_column, sides, h, w)
        second = _window(from_row, from_column, sides, h, w)
        change = state.buffers.best - state.images
        # the budget is spent from the start, so a window grows only by what another one gives up
        # (algorithm 3), and by what the box took from the rest
        epsilon = state.epsilon.view(-1, 1, 1, 1)
        spare = self._spare(epsilon, self._size(change, (1, 2, 3)))
        held = self._size(change * (first | second), (2, 3))
        at = _places(at_row, at_column, side, n, c)
        old = change[at]
        sign = _signs(draws[:, 4 : 4 + c]).view(n, c, 1, 1)
        turned = draws[:, 4 + c].view(n, 1, 1, 1) < 0.5
        shape = _peaks(side, ORDER[self.norm]).to(change)
        new = torch.where(turned, shape.T, shape) * sign.to(change)
        # what the window holds already is kept in part, by its shape
        new = new + old / self._size(old, (2, 3)).clamp(min=1e-12)
        new = new / self._size(new, (2, 3)).clamp(min=1e-12)
        change = change.masked_fill(second.expand_as(change), 0)
        change[at] = new * self._mass(spare, held, c)
        return self._placed(state.images, change, state.epsilon)

    def _size(self, change: Tensor, dim: tuple[int, ...]) -> Tensor:
        result: Tensor = torch.linalg.vector_norm(
            change, ord=ORDER[self.norm], dim=dim, keepdim=True
        )
        return result

    def _spare(self, epsilon: Tensor, used: Tensor) -> Tensor:
        """What is left of the budget; squared in L2, where squares add up."""
        if self.norm == "l2":
            return (epsilon**2 - used**2).clamp(min=0)
        return (epsilon - used).clamp(min=0)

    def _mass(self, spare: Tensor, held: Tensor, channels: int) -> Tensor:
        """Size of the new window in each channel: what the two windows held, and what was spare."""
        if self.norm == "l2":
            return (spare / channels + held**2).sqrt()
        return (spare / channels + held) * channels

    def _placed(self, images: Tensor, change: Tensor, epsilon: Tensor) -> Tensor:
        """Images with a change brought to the size of the budget, in the box."""
        if self.norm == "l2":
            size = self._size(change, (1, 2, 3)).clamp(min=1e-12)
            return (images + change / size * column(epsilon, change)).clamp(0, 1)
        # scaled and clipped, an L1 change would lose most of its budget to the box
        flat = onto_l1_ball((images + change).flatten(1), images.flatten(1), epsilon)
        return flat.view_as(change)

    def _tiles(self, state: State[None]) -> Tensor:
        n, c, h, w = state.images.shape
        side = max(1, min(h, w) // TILES)
        down, across = h // side, w // side
        draws = _signs(stream(state.key, state.step, c * down * across))
        sign = draws.view(n, c, down, across).to(state.images)
        shape = _peaks(side, ORDER[self.norm]).to(state.images)
        tiles = torch.einsum("ncij,uv->nciujv", sign, shape)
        tiles = tiles.reshape(n, c, down * side, across * side)
        change = torch.zeros_like(state.images)
        top, left = (h - down * side) // 2, (w - across * side) // 2
        change[:, :, top : top + down * side, left : left + across * side] = tiles
        return change


@lru_cache(maxsize=64)
def _sides(norm: Norm, steps: int, p_init: float, h: int, w: int) -> Tensor:
    """Edge of the square at each step, in pixels."""
    p = p_init / 2.0 ** torch.bucketize(torch.arange(steps + 1), torch.tensor(HALVINGS))
    # the share p of the pixels is halved at fixed steps: large squares find the rough shape of
    # a perturbation, small ones refine it once large ones are hardly ever accepted any more
    side = (p * h * w).sqrt().round().long()
    if norm == "linf":
        return side.clamp(1, min(h, w))
    # a peak and a trough need three pixels, and an odd edge has a centre
    side = side.clamp(min=3)
    return (side + 1 - side % 2).clamp(max=min(h, w))


def _grid(values: Tensor) -> Tensor:
    """Images as they are; what is no image, such as N × D, as squares of one channel.

    Those are filled up with entries that no model sees: what a move spends on them is lost, and
    spent again by a later one.
    """
    if values.ndim == 4:
        return values
    flat = values.flatten(1)
    side = ceil(sqrt(flat.shape[1]))
    return pad(flat, (0, side**2 - flat.shape[1])).view(-1, 1, side, side)


def _back(grid: Tensor, like: Tensor) -> Tensor:
    """From a grid to the shape of the values that it was made from."""
    if like.ndim == 4:
        return grid
    return grid.flatten(1)[:, : like[0].numel()].reshape(like.shape)


def _signs(draws: Tensor) -> Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0)


def _corner(draw: Tensor, side: Tensor, length: int) -> Tensor:
    """A first row or column such that the window lies inside, N."""
    return (draw * (length - side + 1)).long()


def _window(top: Tensor, left: Tensor, side: Tensor, h: int, w: int) -> Tensor:
    """The pixels of each row's square, N × 1 × H × W."""
    rows = torch.arange(h, device=top.device) - top[:, None]
    columns = torch.arange(w, device=top.device) - left[:, None]
    down = (rows >= 0) & (rows < side[:, None])
    across = (columns >= 0) & (columns < side[:, None])
    return (down[:, :, None] & across[:, None, :])[:, None]


def _places(top: Tensor, left: Tensor, side: int, n: int, c: int) -> tuple[Tensor, ...]:
    """Indices of each row's square in N × C × H × W, which read and write N × C × side × side."""
    device, run = top.device, torch.arange(side, device=top.device)
    return (
        torch.arange(n, device=device).view(n, 1, 1, 1),
        torch.arange(c, device=device).view(1, c, 1, 1),
        (top[:, None] + run).view(n, 1, side, 1),
        (left[:, None] + run).view(n, 1, 1, side),
    )


@lru_cache(maxsize=64)
def _peaks(side: int, order: float) -> Tensor:
    """A peak above a trough, side × side, of norm 1 (algorithm 3)."""
    upper = _peak(side // 2, side, order)
    shape: Tensor = torch.cat([upper, -_peak(side - side // 2, side, order)])
    shape /= torch.linalg.vector_norm(shape, ord=order)
    return shape


def _peak(height: int, width: int, order: float) -> Tensor:
    """Concentric rectangles, each adding the inverse square (L1: fourth power) of its radius."""
    centre = max(height // 2 + 1, width // 2 + 1)
    power = 2 if order == 2 else 4
    terms = 1 / torch.arange(1, centre + 1, dtype=torch.float64) ** power
    sums = terms.flip(0).cumsum(0).flip(0)
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(down[:, None], across[None, :])
    shape: Tensor = sums[ring]
    if height:
        shape /= torch.linalg.vector_norm(shape, ord=order)
    return shape
