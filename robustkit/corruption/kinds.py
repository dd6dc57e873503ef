"""The fifteen corruptions: what each draws for an image, and what it makes of a batch."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustkit.corruption import blur, digital, noise, weather
from robustkit.corruption.draws import Draw, Drawn, nothing, source
from robustkit.corruption.pixels import levels
from robustkit.corruption.tables import NAMES, SEVERITIES, Constants, parameters
from robustkit.errors import DataError, InputError, UnknownName


class Kind(NamedTuple):
    """A corruption in two parts, so that one draw can be fed to another implementation."""

    apply: Callable[[Tensor, Constants, Drawn], Tensor]
    """from uint8 N × C × H × W, the constants and the draws, stacked, to uint8 of the same shape"""
    draw: Draw = nothing


KINDS: dict[str, Kind] = {
    "gaussian-noise": Kind(noise.gaussian, noise.draw_gaussian),
    "shot-noise": Kind(noise.shot, noise.draw_shot),
    "impulse-noise": Kind(noise.impulse, noise.draw_impulse),
    "defocus-blur": Kind(blur.defocus),
    "glass-blur": Kind(blur.glass, blur.draw_glass),
    "motion-blur": Kind(blur.motion, blur.draw_motion),
    "zoom-blur": Kind(blur.zoom),
    "snow": Kind(weather.snow, weather.draw_snow),
    "frost": Kind(weather.frost, weather.draw_frost),
    "fog": Kind(weather.fog, weather.draw_fog),
    "brightness": Kind(weather.brightness),
    "contrast": Kind(digital.contrast),
    "elastic-transform": Kind(digital.elastic, digital.draw_elastic),
    "pixelate": Kind(digital.pixelate),
    "jpeg-compression": Kind(digital.jpeg),
}


@torch.no_grad()
def corrupt(images: Tensor, name: str, severity: int, ids: Sequence[str], seed: int = 0) -> Tensor:
    """Images as one of the common corruptions leaves them (Hendrycks & Dietterich 2019).

    What is drawn for an image depends on seed, id, corruption and severity alone. The result holds
    multiples of 1/255, as the published benchmarks do; so does what is corrupted, after rounding.

    Args:
        images: float N × C × H × W in [0, 1], C = 1 or 3, H and W at least 8; on any device.
        name: one of `NAMES`.
        severity: 1 to 5.
        ids: N names.
        seed: of every draw.

    Returns:
        float32 N × C × H × W in [0, 1], on the same device.

    Raises:
        UnknownName: no such corruption.
        InputError: no such severity, or images that are too small.
        DataError: images of another form, or as many ids as there are not images.
    """
    constants = parameters(*_checked(images, name, severity, ids)).levels[severity - 1]
    if not len(images):
        return images.float()
    # Apple's GPUs know no float64
    device = torch.device("cpu") if images.device.type == "mps" else images.device
    pixels = levels(images.to(device))
    there = pixels.cpu()
    draws = [
        KINDS[name].draw(image, constants, source(seed, name, severity, id_))
        for image, id_ in zip(there, ids, strict=True)
    ]
    drawn = tuple(torch.stack(parts).to(device) for parts in zip(*draws, strict=True))
    return (KINDS[name].apply(pixels, constants, drawn).float() / 255).to(images.device)


def check(name: str, severity: int) -> None:
    """See that there is such a corruption and such a severity.

    Raises:
        UnknownName, InputError: there is none.
    """
    if name not in KINDS:
        raise UnknownName("corruption", name, NAMES)
    if severity not in SEVERITIES:
        raise InputError(f"{name}: the severity is a whole number from 1 to 5, got {severity}")


def _checked(images: Tensor, name: str, severity: int, ids: Sequence[str]) -> tuple[str, int, int]:
    """The name, height and width, of a question that makes sense."""
    check(name, severity)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
        raise DataError(
            f"{name}: expected floats N × C × H × W with 1 or 3 channels, "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    if len(ids) != len(images):
        raise DataError(f"{name}: {len(images)} images, but {len(ids)} ids")
    # NaN is in no interval
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise DataError(f"{name}: the images have values outside [0, 1]")
    return name, images.shape[2], images.shape[3]
