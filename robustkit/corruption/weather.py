"""Weather: snow, frost, fog, and too much light."""

import torch
from torch import Tensor

from robustkit.corruption.draws import Drawn, normal, uniform
from robustkit.corruption.filters import enlarge, streak
from robustkit.corruption.pixels import cut, luma, unit
from robustkit.corruption.tables import Constants


def draw_snow(image: Tensor, constants: Constants, source: torch.Generator) -> Drawn:
    """A standard normal field, H × W, and the direction of the fall in degrees."""
    return normal(tuple(image.shape[1:]), source), uniform((), source, -135, -45)


def snow(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """The image paled, and falling flakes from above and, the same turned by 180°, from below."""
    mean, scale, zoom, threshold, radius, sigma, kept = constants
    field, angles = drawn
    flakes = enlarge((mean + scale * field)[:, None], zoom)
    falling = cut(torch.where(flakes < threshold, 0.0, flakes))
    flakes = unit(streak(falling, radius, sigma, angles))
    single = unit(images).float()
    pale = kept * single + (1 - kept) * torch.maximum(single, luma(single) * 1.5 + 0.5)
    return cut(pale.double() + flakes + flakes.flip((2, 3)))


ICE: tuple[tuple[float, ...], ...] = (
    (77, 149, 165, 10, 16, -1.27, 14, -1.09),
    (197, 202, 211, 7, 20, -1.96, 18, -0.76),
    (197, 202, 211, 7, 20, -1.96, 18, -0.76),
    (144, 159, 172, 8, 26, -1.61, 26, -0.38),
    (101, 112, 124, 14, 35, -1.90, 34, -1.13),
)
"""measured of the five photographs that the benchmarks draw from, whose second and third are one:
mean red, green, blue; standard deviation between cuttings, within one, and the exponent of its
power spectrum, at full size; the last two at a fifth of it"""
NEEDLES = 0.5
"""weight of ridges in the ice, beside a plain random field: to the eye, crystals"""


def draw_frost(image: Tensor, constants: Constants, source: torch.Generator) -> Drawn:
    """Which ice (an index), its brightness (standard normal), and two normal fields, 2 × H × W."""
    which = torch.randint(len(ICE), (), generator=source)
    return which, normal((), source), normal((2, *image.shape[1:]), source)


def frost(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """The image under ice: random fields with the colours and spectra of the benchmarks' photos."""
    (kept, ice, reduction), (which, brightness, fields) = constants, drawn
    chosen = torch.tensor(ICE, dtype=torch.float64, device=images.device)[which]
    within, exponent = (chosen[:, 6:8] if reduction < 1 else chosen[:, 4:6]).T
    colour = chosen[:, :3] if images.shape[1] == 3 else luma(chosen[:, :3, None, None])[:, :, 0, 0]
    texture = _crystals(fields, exponent) * within[:, None, None]
    texture = texture + (brightness * chosen[:, 3])[:, None, None]
    sheet = (colour[:, :, None, None] + texture[:, None]).clamp(0, 255).round()
    covered: Tensor = kept * images.double() + ice * sheet
    return covered.clamp(0, 255).to(torch.uint8)


def _crystals(fields: Tensor, exponent: Tensor) -> Tensor:
    """Mean 0 and variance 1, N × H × W: a field of that power spectrum, and ridges of another."""
    size = fields.shape[2:]
    down = torch.fft.fftfreq(size[0], device=fields.device, dtype=torch.float64)
    across = torch.fft.rfftfreq(size[1], device=fields.device, dtype=torch.float64)
    frequency = torch.hypot(down[:, None], across)
    frequency[0, 0] = torch.inf  # a negative power of it is 0: no mean
    envelope = frequency ** (exponent[:, None, None, None] / 2)
    plain, other = torch.fft.irfft2(torch.fft.rfft2(fields) * envelope, s=size).unbind(1)
    ridges = -_standard(other).abs()
    return _standard((1 - NEEDLES) * _standard(plain) + NEEDLES * _standard(ridges))


def _standard(fields: Tensor) -> Tensor:
    mean = fields.mean((1, 2), keepdim=True)
    return (fields - mean) / fields.std((1, 2), keepdim=True)


def draw_fog(image: Tensor, constants: Constants, source: torch.Generator) -> Drawn:
    """A number in [−1, 1) for every point of the fog but one, level by level."""
    side = fog_side(*image.shape[1:])
    return (uniform((side * side - 1,), source, -1, 1),)


def fog_side(height: int, width: int) -> int:
    """The side of the square of fog that the image is cut from: the next power of two."""
    return 1 << (max(height, width) - 1).bit_length()


def fog(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """Clouds added, and the sum brought back below the image's own brightest value."""
    (thickness, decay), (chances,) = constants, drawn
    clean = unit(images)
    most = clean.amax((1, 2, 3), keepdim=True)
    height, width = images.shape[2:]
    clouds = plasma(chances, fog_side(height, width), decay)[:, None, :height, :width]
    return cut((clean + thickness * clouds) * most / (most + thickness))


def plasma(chances: Tensor, side: int, decay: float) -> Tensor:
    """A plasma fractal on a torus (Fournier, Fussell & Carpenter 1982), N × side × side, in [0, 1].

    Args:
        chances: N × (side² − 1) numbers in [−1, 1).
        side: a power of two.
        decay: what the roughness is divided by from level to level; its square enters.
    """
    field = torch.zeros(len(chances), side, side, dtype=chances.dtype, device=chances.device)
    step, rough, used = side, 100.0, 0

    def offset(like: Tensor) -> Tensor:
        nonlocal used
        part = chances[:, used : used + like[0].numel()].view_as(like)
        used += like[0].numel()
        return rough * (rough * part)

    while step > 1:
        half = step // 2
        corners = field[:, ::step, ::step]
        below = corners + corners.roll(-1, 1)
        around = below + below.roll(-1, 2)
        field[:, half::step, half::step] = around / 4 + offset(around)
        centres = field[:, half::step, half::step]
        around = centres + centres.roll(1, 1) + (corners + corners.roll(-1, 2))
        field[:, ::step, half::step] = around / 4 + offset(around)
        around = centres + centres.roll(1, 2) + (corners + corners.roll(-1, 1))
        field[:, half::step, ::step] = around / 4 + offset(around)
        step, rough = half, rough / decay
    field -= field.amin((1, 2), keepdim=True)
    return field / field.amax((1, 2), keepdim=True)


def brightness(images: Tensor, constants: Constants, drawn: Drawn) -> Tensor:
    """The value of hue, saturation and value raised."""
    (added,) = constants
    clean = unit(images)
    if images.shape[1] == 1:
        return cut(clean + added)
    hue, saturation, value = _to_hsv(clean)
    return cut(_from_hsv(hue, saturation, (value + added).clamp(0, 1)))


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in [0, 1), saturation and value, N × H × W each (Smith 1978)."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    spread = value - images.amin(1)
    safe = torch.where(spread == 0, 1.0, spread)
    hue = torch.where(value == green, 2 + (blue - red) / safe, (green - blue) / safe)
    hue = torch.where(value == blue, 4 + (red - green) / safe, hue)
    hue = torch.where(spread == 0, 0.0, (hue / 6).remainder(1))
    saturation = spread / torch.where(value == 0, 1.0, value)
    return hue, saturation, value


def _from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """N × 3 × H × W."""
    sector = (hue * 6).floor()
    part = hue * 6 - sector
    low = value * (1 - saturation)
    falling = value * (1 - part * saturation)
    rising = value * (1 - (1 - part) * saturation)
    index = sector.long().remainder(6)
    orders = (
        torch.stack([value, falling, low, low, rising, value], 1),
        torch.stack([rising, value, value, falling, low, low], 1),
        torch.stack([low, low, rising, value, value, falling], 1),
    )
    return torch.cat([order.gather(1, index[:, None]) for order in orders], 1)
