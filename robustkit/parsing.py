"""Numbers and tables as users and files write them, within bounds.

Python's own parsers have none: `Fraction("1e999999999")` works for hours, an integer of 400 digits
is no float, `"²".isdigit()` holds and `int("²")` fails, and nested brackets end in a
`RecursionError`.
"""

import re
import struct
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from math import isfinite
from operator import index
from typing import Any, SupportsIndex

from robustkit.errors import InputError, quoted

LONGEST = 100
"""characters of a number"""
LARGEST = 10**18
"""integer that is read: what fits into 64 bits"""
MAGNITUDE = Fraction(10**100)
"""largest number that is read, and the inverse of the smallest above 0: far within a float's"""
DEEPEST = 50
"""tables and lists inside one another"""
SHORT, NAMED = 8, 1000
"""characters of a decimal that is as plain as any fraction, and the largest denominator of one that
a longer decimal may have been written as"""
FLOAT32 = 4
"""bytes of a number"""
FURTHER = 5
"""digits at most that a share is told with before it is told as none or as all"""
_NUMBER = re.compile(r"[+-]?(\d+/\d+|(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?)", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"\d{1,18}", re.ASCII)
_DEEP_KEY = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{DEEPEST},}}"""
)
_INTEGER = re.compile(r"[+-]?\d{1,19}", re.ASCII)


def parse_fraction(text: str) -> Fraction:
    """An exact number from "8/255", "0.3" or "3e-2".

    Raises:
        ValueError: it is none, divides by zero, or is too long, too large or too small.
    """
    plain = text.strip()
    if len(plain) > LONGEST or not _NUMBER.fullmatch(plain):
        raise ValueError("no number")
    if "/" in plain and not int(plain.partition("/")[2]):
        raise ValueError("divides by zero")
    value = Fraction(plain)
    if value and not 1 / MAGNITUDE <= abs(value) <= MAGNITUDE:
        raise ValueError("out of range")
    return value


def fraction(value: object, where: str) -> Fraction:
    """An exact number from "8/255", "0.3" or an integer; a float has already lost the exactness.

    Raises:
        InputError: anything else.
    """
    try:
        if isinstance(value, str):
            return parse_fraction(value)
        if type(value) is int:
            return Fraction(checked_integer(value, where))
    except ValueError:
        pass
    expected = "8/255 or 0.3" if isinstance(value, str) else '"8/255" or "0.3" in quotes'
    raise InputError(f"{where}: expected a number such as {expected}, got {quoted(value)}")


def exact(value: object, where: str) -> Fraction:
    """An exact number from what Python has: of a float the simplest that it stands for.

    Raises:
        InputError: no number.
    """
    if isinstance(value, Fraction):
        return value
    value = plain_number(value)
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        value = index(value)
    return fraction(spelled(value) if isinstance(value, float) else value, where)


def plain_number(value: object) -> object:
    """A number of numpy's or torch's as Python's own; anything else as it is.

    One of float32 is the number that it was rounded from: 0.1, not 0.10000000149.
    """
    item = getattr(value, "item", None)
    if not callable(item) or getattr(value, "ndim", None) != 0:
        return value
    number: object = item()
    narrow = isinstance(number, float) and getattr(value, "itemsize", 8) == FLOAT32
    return _unrounded(number) if narrow and isinstance(number, float) else number


def _unrounded(value: float) -> float:
    """The plainest number that float32 rounds to this one: a short decimal, else a fraction."""
    if not isfinite(value):
        return value
    decimals = [float(f"{value:.{digits}g}") for digits in range(1, SHORT + 1)]
    simple = float(Fraction(value).limit_denominator(NAMED))
    # six digits are as many as tell numbers of float32 apart: 0.0627451 may be 16/255
    for plain in (*decimals[:5], simple, *decimals[5:]):
        if struct.unpack("f", struct.pack("f", plain))[0] == value:
            return plain
    return value


def spelled(value: float) -> str:
    """A float as a person would write it: "8/255" for the one nearest to 8/255, "0.1" for 0.1.

    The text reads as the same float. What is no short number stays as Python prints it.
    """
    text = repr(float(value))
    simple = Fraction(text).limit_denominator(NAMED) if isfinite(value) else Fraction(0)
    return str(simple) if len(text) > SHORT and float(simple) == value else text


def share(value: object, where: str) -> Fraction:
    """An exact share from "0.05", "1/20" or "5%"; from Python also 0.05.

    Raises:
        InputError: anything else.
    """
    percent = isinstance(value, str) and value.endswith("%")
    try:
        return exact(str(value)[:-1] if percent else value, where) / (100 if percent else 1)
    except InputError:
        text = spelled(value) if isinstance(value, float) else value
        raise InputError(f"{where} {text}: expected a number such as 0.05, 1/20 or 5%") from None


def in_percent(share: float, digits: int = 1) -> str:
    """A share as people are told of it: "96.6 %".

    With further digits where it would be told as none or as all, and is not: "99.96 %".
    """
    text = f"{100 * share:.{digits}f}"
    for more in range(digits, digits + FURTHER if digits else 0):
        exact = f"{100 * share:.{more}f}"
        if not 0 < share < 1 or 0 < float(exact) < 100:
            return f"{exact}\u00a0%"
    return f"{text}\u00a0%"


def ends_in_percent(low: float, value: float, high: float) -> str:
    """The ends of an interval of shares, in per cent: "93.8 to 98.1".

    With further digits where both would be told as one number, or the value as outside of them:
    of 0 of 10,000 images, "0.00 to 0.04".
    """
    told = float(in_percent(value).removesuffix("\u00a0%"))
    texts = ["", ""]
    for digits in range(1, 1 + FURTHER):
        texts = [f"{round(100 * end, digits) + 0.0:.{digits}f}" for end in (low, high)]
        first, last = map(float, texts)
        outside = low <= value <= high and not first <= told <= last
        if not outside and (first < last or low == high):
            break
    return " to ".join(texts).replace("-", "−")


def parse_integer(text: str) -> int:
    """An integer in ASCII digits.

    Raises:
        ValueError: it is none, or does not fit into 64 bits.
    """
    plain = text.strip()
    if not _INTEGER.fullmatch(plain) or abs(value := int(plain)) > LARGEST:
        raise ValueError("no integer of 64 bits")
    return value


def whole(text: str) -> int | None:
    """A number from 0 on in ASCII digits alone; None: it is none."""
    return int(text) if _WHOLE.fullmatch(text) else None


def checked_integer(value: int, where: str) -> int:
    """The integer itself, if it fits into 64 bits.

    Raises:
        InputError: it does not.
    """
    if abs(value) > LARGEST:
        raise InputError(f"{where}: expected an integer of 64 bits, got {quoted(value)}")
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document as a dictionary.

    Raises:
        ValueError: it is none, or goes deeper than any that is meant.
    """
    # tomllib's time grows with the square of a dotted key's parts
    if _DEEP_KEY.search(text):
        raise ValueError("nested too deeply")
    try:
        table = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    level: list[Any] = [table]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return table
    raise ValueError("nested too deeply")


def _inside(value: Any) -> list[Any]:
    """What stands in a table or a list."""
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []
