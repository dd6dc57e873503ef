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
from robustkit.attacks.state import State, overwrite, take
from robustkit.geometry import ORDER, column, drawn_in
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
    corners: Tensor
    """the first pixels of two windows in each of the next steps, int64 N × AHEAD × 2"""
    signs: Tensor
    """of their channels, and which way they are turned, N × AHEAD × (C + 1): ±1, in Linf ±ε"""
    drawn_until: Tensor
    """the first step without, int64 N"""


@dataclass(slots=True)
class _Move:
    """What a proposal is made from, as images, with the draws for it."""

    images: Tensor
    best: Tensor
    epsilon: Tensor
    corners: Tensor
    signs: Tensor


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
        corners = state.step.new_zeros(len(state), AHEAD, 2)
        signs = grid.new_zeros(len(state), AHEAD, grid.shape[1] + 1)
        buffers = SquareBuffers(x.clone(), nothing, corners, signs, state.step.clone())
        return state.started(x, buffers)

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
        better = value > b.best_value  # few of many, once the search has come far
        b.best_value = torch.where(better, value, b.best_value)
        overwrite(b.best, better, state.x)
        images = _grid(state.images)
        sides = _sides(self.norm, self.steps, self.p_init, *images.shape[-2:])
        sides, step = sides.to(state.step.device), _common(state.step)
        move = _Move(images, _grid(b.best), state.epsilon, *self._draws(state, step, sides, images))
        state.x = _back(self._proposal(move, _common(sides[step])), state.images)

    def _proposal(self, move: _Move, side: int | Tensor) -> Tensor:
        if self.norm == "linf":
            return self._recoloured(move, side)
        if isinstance(side, int):
            return self._reshaped(move, side)
        # their shape depends on their size: windows of one size at a time
        x = torch.empty_like(move.best)
        for s in sorted(set(side.tolist())):
            rows = (side == s).nonzero()[:, 0]
            x[rows] = self._reshaped(take(move, rows), s)
        return x

    def _draws(
        self, state: State[SquareBuffers], step: int | Tensor, sides: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Corners N × 2 and signs N × (C + 1) of each row's next proposal."""
        b = state.buffers
        if bool((state.step >= b.drawn_until).any()):
            due = (state.step >= b.drawn_until).nonzero()[:, 0]
            first = (state.step - state.step % AHEAD)[due]
            b.drawn_until[due] = first + AHEAD
            b.corners[due], signs = self._drawn(state.key[due], first, sides, images)
            scale = state.epsilon[due, None, None] if self.norm == "linf" else 1
            b.signs[due] = scale * signs
        if isinstance(step, int):
            return b.corners[:, step % AHEAD], b.signs[:, step % AHEAD]
        rows = torch.arange(len(step), device=step.device)
        return b.corners[rows, step % AHEAD], b.signs[rows, step % AHEAD]

    def _drawn(
        self, key: Tensor, first: Tensor, sides: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Corners and signs of `AHEAD` steps of rows, from their first ones on."""
        c, h, w = images.shape[1:]
        steps = (first[:, None] + torch.arange(AHEAD, device=first.device)).flatten()
        draws = stream(key.repeat_interleave(AHEAD), steps + 1, 5 + c)
        side = sides[steps.clamp(max=len(sides) - 1)]
        rows, columns = (
            torch.stack([_corner(draws[:, k + axis], side, size) for k in (0, 2)], 1)
            for axis, size in enumerate((h, w))
        )
        signs = _signs(draws[:, 4:]).to(images)
        return (rows * w + columns).view(-1, AHEAD, 2), signs.view(-1, AHEAD, 1 + c)

    # --- Linf ---------------------------------------------------------------------------------

    def _recoloured(self, move: _Move, side: int | Tensor) -> Tensor:
        """A square whose every channel is at the upper or the lower end of the ball."""
        n, c, h, w = move.images.shape
        offsets = _offsets(side, c, h, w) if isinstance(side, int) else _each_offset(side, c, h, w)
        at = move.corners[:, :1] + offsets.to(move.corners.device)
        # always at an end of the ball (algorithm 2): perturbations that succeed are mostly found at
        # its corners, where a search of all its points would take far longer to arrive
        colour = move.images.flatten(1).gather(1, at).view(n, c, -1)
        colour.add_(move.signs[:, :c, None]).clamp_(0, 1)
        return move.best.flatten(1).scatter(1, at, colour.flatten(1)).view_as(move.best)

    # --- L2 and L1 ----------------------------------------------------------------------------

    def _reshaped(self, move: _Move, side: int) -> Tensor:
        """Move the mass of a window to another one, in the shape of a peak and a trough."""
        n, c, h, w = move.images.shape
        (at_row, from_row), (at_column, from_column) = (
            place.unbind(1) for place in (move.corners // w, move.corners % w)
        )
        first = _window(at_row, at_column, side, h, w)
        second = _window(from_row, from_column, side, h, w)
        change = move.best - move.images
        # the budget is spent from the start, so a window grows only by what another one gives up
        # (algorithm 3), and by what the box took from the rest
        epsilon = column(move.epsilon, change)
        spare = self._spare(epsilon, self._size(change, (1, 2, 3)))
        held = self._size(change * (first | second), (2, 3))
        at = _places(at_row, at_column, side, n, c)
        old = change[at]
        sign, turned = move.signs[:, :c], column(move.signs[:, c] < 0, change)
        shape = _peaks(side, ORDER[self.norm]).to(change)
        new = torch.where(turned, shape.T, shape) * sign[..., None, None]
        # what the window holds already is kept in part, by its shape
        new = new + old / self._size(old, (2, 3)).clamp(min=1e-12)
        new = new / self._size(new, (2, 3)).clamp(min=1e-12)
        change = change.masked_fill(second.expand_as(change), 0)
        change[at] = new * self._mass(spare, held, c)
        return self._placed(move.images, change, move.epsilon)

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
            x = (images + change / size * column(epsilon, change)).clamp(0, 1)
            return drawn_in(x, images, epsilon, "l2")
        # scaled and clipped, an L1 change would lose most of its budget to the box
        flat = onto_l1_ball((images + change).flatten(1), images.flatten(1), epsilon)
        return drawn_in(flat.view_as(change), images, epsilon, "l1")

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


def _common(values: Tensor) -> int | Tensor:
    """The number that all of them are, as one; else the numbers."""
    low, high = (int(end) for end in values.aminmax())
    return low if low == high else values


@lru_cache(maxsize=64)
def _offsets(side: int, c: int, h: int, w: int) -> Tensor:
    """From a square's first pixel to all of its pixels in all channels, C·S²."""
    return _each_offset(torch.tensor([side]), c, h, w)[0]


def _each_offset(side: Tensor, c: int, h: int, w: int) -> Tensor:
    """The same of squares of several sizes, N × C·S²; smaller ones have some more than once."""
    run = torch.arange(int(side.max()), device=side.device)
    run = torch.minimum(run, side[:, None] - 1)
    channels = torch.arange(0, c * h * w, h * w, device=side.device)[:, None, None]
    return (channels + run[:, None, :, None] * w + run[:, None, None, :]).flatten(1)


def _window(top: Tensor, left: Tensor, side: int, h: int, w: int) -> Tensor:
    """The pixels of each row's square, N × 1 × H × W."""
    rows = torch.arange(h, device=top.device) - top[:, None]
    columns = torch.arange(w, device=top.device) - left[:, None]
    down = (rows >= 0) & (rows < side)
    across = (columns >= 0) & (columns < side)
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
