"""Budgets: exact numbers in the words of their norm."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf, prod

from robustkit.errors import InputError, ProtocolError
from robustkit.parsing import exact, fraction, plain_number, spelled
from robustkit.protocol.norms import BALLS, Norm

MOST = 126
"""budgets of one evaluation"""
_TRANSFORM = re.compile(
    r"(?:(?P<degrees>[\d./]+)deg)?(?:(?(degrees)\+)(?P<shift>[\d./]+)px)?", re.ASCII
)
COUNTS = {"l0": "pixels", "l0-features": "values", "patch": "pixels along a square's side"}
"""what a budget counts, in norms where it is a whole number"""
HALF_TURN = 180
"""degrees, to either side: all rotations that there are"""

Number = str | int | float | Fraction


@dataclass(frozen=True, slots=True, order=True)
class Epsilon:
    """A budget: the exact number, and the text it was written as."""

    value: Fraction
    """of a rotation and translation its degrees; its pixels where nothing is rotated"""
    text: str
    degrees: Fraction | None = None
    """of a rotation and translation, which other budgets have not"""
    shift: Fraction | None = None
    """pixels along each axis; likewise"""

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        return self.text

    @property
    def transforms(self) -> bool:
        """Whether it is a rotation and translation."""
        return self.degrees is not None or self.shift is not None

    @property
    def ray(self) -> tuple[bool, Fraction | None]:
        """Whether something is rotated, and how many pixels go with a unit of `value`."""
        return self.degrees is not None, None if self.shift is None else self.shift / self.value

    def doubled(self) -> "Epsilon":
        """Twice the budget."""
        twice = [None if n is None else 2 * n for n in (self.degrees, self.shift)]
        return Epsilon(2 * self.value, f"2 × {self.text}", *twice)

    @property
    def exact(self) -> str:
        """The number, or for a rotation and translation both, in one spelling."""
        if not self.transforms:
            return str(self.value)
        parts = [(self.degrees, "deg"), (self.shift, "px")]
        return "+".join(f"{number}{unit}" for number, unit in parts if number is not None)


Epsilons = Number | Epsilon | Iterable[Number | Epsilon]
"""budgets as Python gives them: "8/255", 8 / 255, or several"""


def parse_epsilon(given: object, where: str = "--epsilon") -> Epsilon:
    """A budget from "8/255" or "0.3", from Python also 8 / 255 or 0.3; from "30deg+3px".

    Raises:
        ProtocolError: not a number, or not above 0.
    """
    if isinstance(given, Epsilon):
        return given
    given = plain_number(given)
    try:
        if isinstance(given, str) and given.strip().endswith(("deg", "px")):
            return _transform(given.strip(), where)
        value = _above_0(exact(given, where), given, where)
    except InputError as error:
        raise ProtocolError(str(error)) from error
    return Epsilon(value, spelled(given) if isinstance(given, float) else str(given).strip())


def _transform(text: str, where: str) -> Epsilon:
    found = _TRANSFORM.fullmatch(text)
    if found is None or not any(found.groupdict().values()):
        raise ProtocolError(f"{where}: write 30deg+3px, 30deg or 3px, not {text!r}")
    degrees, shift = (
        None if part is None else _above_0(fraction(part, where), text, where)
        for part in found.group("degrees", "shift")
    )
    value = shift if degrees is None else degrees
    assert value is not None
    return Epsilon(value, text, degrees, shift)


def _above_0(value: Fraction, text: object, where: str) -> Fraction:
    if value <= 0:
        raise ProtocolError(f"{where}: a budget must be above 0, got {text}")
    return value


def budget_key(text: str) -> tuple[Fraction, str]:
    """Equal for one budget however it is written, and in order of size; also of "0", no attack.

    `text` is one that was read before, or any level that is a number.
    """
    if text.endswith(("deg", "px")):
        epsilon = parse_epsilon(text)
        return epsilon.value, epsilon.exact
    value = Fraction(text)
    return value, str(value)


def check_budgets(norm: Norm, epsilons: Sequence[Epsilon]) -> None:
    """Nothing, if budgets are such as the norm has.

    Raises:
        ProtocolError: one is not, or they are not nested.
    """
    if len(epsilons) > MOST:
        raise ProtocolError(f"--epsilon: {len(epsilons)} budgets; at most {MOST} fit into a record")
    for epsilon in epsilons:
        if epsilon.transforms != (norm == "spatial"):
            raise ProtocolError(
                f"--epsilon: {epsilon.text} is a rotation and translation, no {norm} budget"
                if epsilon.transforms
                else f"--epsilon: {epsilon.text}: write how far is rotated and moved: 30deg+3px, "
                "30deg or 3px"
            )
        if epsilon.ray != epsilons[0].ray:
            raise ProtocolError(
                f"--epsilon: {epsilons[0].text} and {epsilon.text}: not in one proportion, so "
                "neither holds the other; give each to an evaluation of its own"
            )
        if norm in COUNTS and epsilon.value.denominator != 1:
            raise ProtocolError(
                f"--epsilon: {epsilon.text}: a budget in {norm} counts {COUNTS[norm]}; give a "
                "whole number"
            )


def excessive_budgets(norm: Norm, epsilons: Sequence[Epsilon], shape: Sequence[int]) -> list[str]:
    """Warnings of budgets within which any image can become any other, or all the same grey one.

    Args:
        norm: of the budgets.
        epsilons: the budgets, of pixels in [0, 1].
        shape: of an image.
    """
    across = diameter(norm, shape)
    whole = [e for e in epsilons if float(e) >= across]
    half = [e for e in epsilons if norm in BALLS and across / 2 <= float(e) < across]
    told = []
    if whole and norm in COUNTS:
        told.append(
            f"{norm} budget{'s' * (len(whole) > 1)} {', '.join(e.text for e in whole)}: covers the "
            f"whole image, {across:g} {COUNTS[norm]}: any image can become any other, so no "
            "network is robust"
        )
    elif whole:
        meant = f"; did you mean {whole[0].text}/255?" if 1 <= whole[0].value <= 255 else ""
        told.append(
            f"{norm} budget{'s' * (len(whole) > 1)} {', '.join(e.text for e in whole)}: covers the "
            f"whole range of pixels, whose diameter is {across:.4g}: any image can become any "
            f"other, so no network is robust{meant}"
        )
    if half:
        told.append(
            f"{norm} budget{'s' * (len(half) > 1)} {', '.join(e.text for e in half)}: at "
            f"{across / 2:.4g} and above all images can become the same grey image, so no "
            "network is right on more than one class"
        )
    return told + _out_of_view(epsilons, shape)


def _out_of_view(epsilons: Sequence[Epsilon], shape: Sequence[int]) -> list[str]:
    """Warnings of translations that leave nothing to classify, and of more than half a turn."""
    side, told = min(shape[1:]), []
    if away := [e.text for e in epsilons if e.shift is not None and e.shift >= side]:
        told.append(
            f"spatial budget{'s' * (len(away) > 1)} {', '.join(away)}: moves the whole picture, "
            f"{side} pixels, out of view: nothing is left to classify, and no network is robust"
        )
    if turned := [e.text for e in epsilons if e.degrees is not None and e.degrees > HALF_TURN]:
        told.append(
            f"spatial budget{'s' * (len(turned) > 1)} {', '.join(turned)}: {HALF_TURN}deg holds "
            "every rotation already"
        )
    return told


def diameter(norm: Norm, shape: Sequence[int]) -> float:
    """From one corner of the box to the opposite one; inf where no budget holds every image."""
    match norm:
        case "linf":
            return 1.0
        case "l2":
            return float(prod(shape) ** 0.5)
        case "l1" | "l0-features":
            return float(prod(shape))
        case "l0":
            return float(prod(shape[-2:]))
        case "patch":
            return float(max(shape[-2:]))
        case "spatial":
            return inf
