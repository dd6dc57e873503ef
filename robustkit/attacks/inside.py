"""Gradients a little inside [0, 1], for networks that have none at its ends.

A clamp to [0, 1] that protects a network has slope 0 at 0 and 1 in some versions of torch, and a
ReLU or abs of the pixels has at 0: on digits nearly all pixels are there, and no step would move
them. What a step finds is verified at the pixels themselves, as ever.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustkit.attacks.build import build_search
from robustkit.attacks.prepared import logits_and_gradient
from robustkit.attacks.step_model import SearchNetwork
from robustkit.errors import NetworkFailed
from robustkit.network import answer
from robustkit.protocol import Protocol
from robustkit.seeding import seeded

INSIDE = 0.001
"""of the way from 0 and 1 inwards: less than a step of 8 bits"""
DROPS = 0.1
"""share of black and white pixels whose gradient is 0 there, not a little inside. Measured: 0 for a
plain network and a crop, 0.9 to 1 on digits behind a clamp, a ReLU or a power"""
FEW = 4
"""images that are asked"""


class ZeroSlopes(NamedTuple):
    """Shares of black and white pixels whose gradient is 0."""

    at: float
    inside: float

    @property
    def drop(self) -> bool:
        """Whether it is there a little inside, and not at the ends."""
        return self.at - self.inside > DROPS


def zero_slopes(network: torch.nn.Module, images: Tensor) -> ZeroSlopes:
    """At the ends of [0, 1] and a little inside, of a few images rounded to black and white.

    Global random generators are left as they were.
    """
    ends, shares = images[:FEW].round(), []
    # whatever breaks here breaks in the attack, and is told there
    with suppress(NetworkFailed, torch.OutOfMemoryError):
        for x in (ends, _inside(ends)):
            with seeded(0, images.device):  # a crop that is drawn is the same in both
                _, slope = logits_and_gradient(network, x)
            shares.append(1.0 if slope is None else float((slope == 0).double().mean()))
        return ZeroSlopes(*shares)
    return ZeroSlopes(0.0, 0.0)


def steps_inside(network: torch.nn.Module, images: Tensor, protocol: Protocol) -> bool:
    """Whether a protocol asks for gradients that are there only a little inside.

    Args:
        network: that is searched by, on the images' device.
        images: a few, N × C × H × W.
        protocol: whose attacks search.
    """
    searches = (build_search(attack, protocol.norm) for attack in protocol.attacks)
    asks = any(one is not None and one.gradient for one in searches)
    return asks and zero_slopes(network, images).drop


def stepping_inside(search: SearchNetwork) -> SearchNetwork:
    """What is searched by, with gradients a little inside."""
    low = search.low and replace(search.low, network=_Inside(search.low.network))
    return SearchNetwork(_Inside(search.exact), low)


def uncopied(search: SearchNetwork | None, network: torch.nn.Module) -> SearchNetwork:
    """The network itself in place of what is searched by: a little inside where that is."""
    itself = SearchNetwork(network)
    inside = search is not None and isinstance(search.exact, _Inside)
    return stepping_inside(itself) if inside else itself


class _Inside(torch.nn.Module):
    """A network that is given pixels a little inside where their gradient is asked for."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False

    def forward(self, x: Tensor) -> Any:
        """As the network: N × C × H × W to N × K."""
        return answer(self.network, _inside(x) if x.requires_grad else x)


def _inside(x: Tensor) -> Tensor:
    return x + INSIDE * (1 - 2 * x)
