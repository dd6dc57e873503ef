"""Noise: of the sensor, of counting photons, of broken bits."""

import torch
from torch import Tensor

from robustkit.corruption.draws import Drawn, normal, uniform
from robustkit.corruption.pixels import cut, unit
from robustkit.corruption.tables import Constants


def draw_gaussian(image: Tensor, constants: Constants, source: torch.Generator) -> Drawn:
    """A standard normal number for every value of the image."""
    return (normal(tuple(image.shape), source),)


def gaussian(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """Normal noise of standard deviation `scale` added."""
    (scale,), (noise,) = constants, drawn
    return cut(unit(images) + noise * scale)


def draw_shot(image: Tensor, constants: Constants, source: torch.Generator) -> Drawn:
    """The photons counted at every value of the image, which is white at `photons` on average."""
    (photons,) = constants
    return (torch.poisson(unit(image) * photons, generator=source),)


def shot(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """Every value the number of photons counted over that of white."""
    (photons,), (counts,) = constants, drawn
    return cut(counts / photons)


def draw_impulse(image: Tensor, constants: Constants, source: torch.Generator) -> Drawn:
    """Two uniform numbers for every value: whether it is lost, and what to; 2 × C × H × W."""
    return (uniform((2, *image.shape), source),)


def impulse(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """A share `amount` of all values lost, half of them to 0, half to 255."""
    (amount,), (chances,) = constants, drawn
    lost, salt = chances[:, 0] <= amount, chances[:, 1] <= 0.5
    return torch.where(lost, salt.to(torch.uint8) * 255, images)
