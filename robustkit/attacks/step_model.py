"""What an attack takes its steps by: the victim or a surrogate, and in which precision."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustkit.attacks.precision import Low, LowPrecision, lowered
from robustkit.attacks.prepared import prepare
from robustkit.attacks.search import Search, passes
from robustkit.attacks.state import B, State, take


@dataclass(frozen=True, slots=True)
class SearchNetwork:
    """A network as a search asks it."""

    exact: nn.Module
    """in float32"""
    low: LowPrecision | None = None
    """where its error decides nothing"""


def search_network(model: nn.Module, images: Tensor, precision: Low | None = None) -> SearchNetwork:
    """A network made cheaper to search by, and tried beside itself on a few images.

    Args:
        model: frozen, from pixels in [0, 1] to logits; it draws nothing at random.
        images: a few, N × C × H × W.
        precision: of the search; None: float32.

    Raises:
        InputError: the network fails in this precision, or says something else.
    """
    exact = prepare(model, images)
    low = None if precision is None else lowered(model, exact, precision, images)
    return SearchNetwork(exact, low)


class Passed(NamedTuple):
    """What a pass over the rows of a state gave."""

    logits: Tensor
    """N × K"""
    value: Tensor
    gradient: Tensor
    broken: Tensor
    """which gradients were no finite numbers, N on the CPU"""
    exact: Tensor
    """which rows are searched in float32 from here on, N"""
    asked: Tensor | int
    """how many networks each row was passed through, N on the CPU, or all alike"""


@dataclass(frozen=True, slots=True)
class StepModel:
    """The network that an attack takes its steps by."""

    network: SearchNetwork
    clean: Tensor
    """its logits of the block's clean images, N × K"""
    surrogate: bool
    """whether it is another network than the victim"""

    def passes(
        self, state: State[B], exact: Tensor, attack: Search[B], targeted: bool, moving: bool
    ) -> Passed:
        """As `search.passes`; rows that are not `exact`, N, in low precision, if there is one.

        Rows that low precision calls fooled, or so nearly that its error may hide it, are passed
        again in float32, and so from then on: whoever is found, or given up close to the boundary,
        is so in float32. So are those that have no gradient in it.
        """
        low, whole = self.network.low, self.network.exact
        if low is None or bool(exact.all()):
            return Passed(*passes(whole, state, attack, targeted, moving), exact, 1)
        rows = (~exact).nonzero()[:, 0]
        part = state if len(rows) == len(exact) else take(state, rows)
        with low.multiplied():
            loose = passes(low.network, part, attack, targeted, moving)
        unsure = low.unsure(loose[0], part.classes, targeted) | loose[3].to(exact.device)
        before, exact = exact, exact.index_fill(0, rows[unsure], True)
        if not bool(exact.any()):
            return Passed(*loose, exact, 1)
        again = exact.nonzero()[:, 0]
        sharp = passes(whole, take(state, again), attack, targeted, moving)
        place = torch.cat([rows[~unsure], again]).argsort()
        logits, value, gradient, broken = (
            torch.cat([a[~unsure.to(a.device)], b])[place.to(a.device)]
            for a, b in zip(loose, sharp, strict=True)
        )
        asked = ((~before).int() + exact.int()).cpu()
        return Passed(logits, value, gradient, broken, exact, asked)
