"""The constants of Hendrycks & Dietterich 2019, as published in their two benchmarks. No torch.

A table belongs to the side of the images it was chosen for: 32 pixels (CIFAR-10-C) and 224 pixels
(ImageNet-C). Other images take the table whose side is nearer on a log scale, with every length
scaled, but for images below 32 pixels. The authors' own constants for 64 pixels lie near the former
table so scaled, and far from the latter.

Not everything published rises from severity to severity: the pixels' mean squared change falls in
places under glass-blur, frost and elastic-transform.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from robustkit.errors import InputError, UnknownName

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian-noise", "shot-noise", "impulse-noise"),
    "blur": ("defocus-blur", "glass-blur", "motion-blur", "zoom-blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic-transform", "pixelate", "jpeg-compression"),
}
"""the corruptions by kind, in the paper's order"""
NAMES: tuple[str, ...] = tuple(name for group in GROUPS.values() for name in group)
SEVERITIES: tuple[int, ...] = (1, 2, 3, 4, 5)
SMALLEST = 8
"""the least height and width, in pixels: below it blurs are wider than the image"""

Side = Literal[32, 224]
BENCHMARKS: dict[Side, str] = {32: "CIFAR-10-C", 224: "ImageNet-C"}
Constants = tuple[float, ...]
"""of one corruption at one severity, as `FIELDS` names them"""


class Field(NamedTuple):
    """What a constant means, and how it grows with the image."""

    name: str
    power: int = 0
    """0 for a pure number, 1 for a length in pixels, 2 where a product of lengths"""
    least: float = 0.0
    """a scaled value is never below this"""
    whole: bool = False
    """a scaled value is rounded to an integer"""


FIELDS: dict[str, tuple[Field, ...]] = {
    "gaussian-noise": (Field("scale"),),
    "shot-noise": (Field("photons"),),
    "impulse-noise": (Field("amount"),),
    "defocus-blur": (Field("radius", 1), Field("alias")),
    "glass-blur": (Field("sigma", 1), Field("reach", 1, 1, True), Field("rounds")),
    "motion-blur": (Field("radius", 1), Field("sigma", 1)),
    "zoom-blur": (Field("stop"), Field("step")),
    "snow": (
        *(Field("mean"), Field("scale"), Field("zoom", 1, 1), Field("threshold")),
        *(Field("radius", 1), Field("sigma", 1), Field("kept")),
    ),
    "frost": (Field("kept"), Field("ice"), Field("reduction")),
    "fog": (Field("thickness"), Field("decay")),
    "brightness": (Field("added"),),
    "contrast": (Field("kept"),),
    # smoothing by sigma divides a random field by sigma, so that a displacement is alpha / sigma
    "elastic-transform": (Field("alpha", 2), Field("sigma", 1), Field("shift", 1)),
    "pixelate": (Field("share"),),
    "jpeg-compression": (Field("quality"),),
}
"""the constants of each corruption, in the order of its table"""

TABLES: dict[Side, dict[str, tuple[Constants, ...]]] = {
    32: {
        "gaussian-noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
        "shot-noise": ((500,), (250,), (100,), (75,), (50,)),
        "impulse-noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
        "defocus-blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "glass-blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "motion-blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom-blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "frost": (
            (1, 0.2, 0.2),
            (1, 0.3, 0.2),
            (0.9, 0.4, 0.2),
            (0.85, 0.4, 0.2),
            (0.75, 0.45, 0.2),
        ),
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
        "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
        "elastic-transform": (
            (0, 0, 32 * 0.08),
            (32 * 0.05, 32 * 0.2, 32 * 0.07),
            (32 * 0.08, 32 * 0.06, 32 * 0.06),
            (32 * 0.1, 32 * 0.04, 32 * 0.05),
            (32 * 0.1, 32 * 0.03, 32 * 0.03),
        ),
        "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
        "jpeg-compression": ((80,), (65,), (58,), (50,), (40,)),
    },
    224: {
        "gaussian-noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
        "shot-noise": ((60,), (25,), (12,), (5,), (3,)),
        "impulse-noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
        "defocus-blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "glass-blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion-blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom-blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "frost": ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
        "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
        "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
        # 244 is what was published; 224 was meant
        "elastic-transform": (
            (244 * 2, 244 * 0.7, 244 * 0.1),
            (244 * 2, 244 * 0.08, 244 * 0.2),
            (244 * 0.05, 244 * 0.01, 244 * 0.02),
            (244 * 0.07, 244 * 0.01, 244 * 0.02),
            (244 * 0.12, 244 * 0.01, 244 * 0.02),
        ),
        "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
        "jpeg-compression": ((25,), (18,), (15,), (10,), (7,)),
    },
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """The constants of a corruption for images of one size."""

    name: str
    side: int
    """the shorter side of the images, in pixels"""
    table: Side
    """the side that the published constants were chosen for"""
    levels: tuple[Constants, ...]
    """per severity; lengths are scaled to `side`, those for 32 pixels never to less"""

    @property
    def fields(self) -> tuple[str, ...]:
        """What the constants are called, in their order."""
        return tuple(field.name for field in FIELDS[self.name])

    @property
    def scaled(self) -> bool:
        """Whether a length was changed."""
        return self.levels != TABLES[self.table][self.name]

    @property
    def source(self) -> str:
        """Where the constants are from: "ImageNet-C's for 224 pixels"."""
        own = f"{BENCHMARKS[self.table]}'s for {self.table} pixels"
        if self.scaled:
            return f"{own}, lengths scaled to {self.side}"
        if self.side == self.table:
            return own
        if any(field.power for field in FIELDS[self.name]):
            return f"{own}, used at {self.side} unscaled: shorter lengths would be below a pixel"
        return f"{own}, used at {self.side}: none is a length"


def parameters(name: str, height: int, width: int) -> Parameters:
    """The constants of a corruption for images of height × width pixels.

    Raises:
        UnknownName: no such corruption.
        InputError: the images are too small.
    """
    if name not in FIELDS:
        raise UnknownName("corruption", name, NAMES)
    if (side := min(height, width)) < SMALLEST:
        raise InputError(
            f"images of {height} × {width} pixels are too small to corrupt: at least "
            f"{SMALLEST} × {SMALLEST} are needed"
        )
    table = _nearest(side)
    # lengths of the table for 32 pixels are about a pixel, where a shorter blur is none at all
    ratio = side / table if table > min(TABLES) else max(1.0, side / table)
    levels = tuple(
        tuple(_scaled(value, field, ratio) for value, field in zip(row, FIELDS[name], strict=True))
        for row in TABLES[table][name]
    )
    return Parameters(name, side, table, levels)


def _nearest(side: int) -> Side:
    return min(TABLES, key=lambda table: abs(math.log(side / table)))


def _scaled(value: float, field: Field, ratio: float) -> float:
    if field.power == 0 or ratio == 1:
        return value
    scaled = max(value * ratio**field.power, field.least)
    return round(scaled) if field.whole else scaled
