"""What a gradient is sent as: the schemes of `--compress`, every number spelled out. No torch."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from robustkit.errors import InputError, UnknownName
from robustkit.parsing import fraction, whole

Amount = Fraction | int
"""a share of a bucket's elements, or a count of them"""

Column = Literal["output", "input"]
"""which units of a layer have a pair of levels each"""


@dataclass(frozen=True, slots=True)
class TopK:
    """The k entries of largest magnitude of each bucket (Stich et al. 2018, top_k)."""

    k: Amount

    def __str__(self) -> str:
        return f"top-k:{_written(self.k)}"


@dataclass(frozen=True, slots=True)
class RandomK:
    """k entries of each bucket drawn without replacement, not rescaled (Stich et al., rand_k)."""

    k: Amount

    def __str__(self) -> str:
        return f"random-k:{_written(self.k)}"


@dataclass(frozen=True, slots=True)
class OneBit:
    """The sign of every entry, and two levels a column (Seide et al. 2014), threshold zero.

    A weight of shape out×in×… is a matrix of out rows: `output` gives each row its two levels,
    `input` each of the matrix's columns. A tensor of one dimension is one column either way.
    """

    column: Column = "output"

    def __str__(self) -> str:
        return "one-bit" if self.column == "output" else f"one-bit:{self.column}"


@dataclass(frozen=True, slots=True)
class Half:
    """Two bytes an entry: torch's own hooks of these names, which know no memory."""

    kind: Literal["fp16", "bf16"]

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True, slots=True)
class PowerSGD:
    """Low-rank factors of each weight: torch's own hook, warm-started (Vogels et al. 2019)."""

    rank: int

    def __str__(self) -> str:
        return f"powersgd:{self.rank}"


Scheme = TopK | RandomK | OneBit | Half | PowerSGD

FORMS = {
    "top-k": "top-k:0.01 or top-k:100",
    "random-k": "random-k:0.01 or random-k:100",
    "one-bit": "one-bit, one-bit:output or one-bit:input",
    "fp16": "fp16",
    "bf16": "bf16",
    "powersgd": "powersgd:4",
}


def parse(text: str) -> Scheme:
    """The scheme that `--compress TEXT` means.

    The amount of top-k and random-k is a count when it is written in digits alone ("100"), else a
    share above 0 and at most 1 ("0.01", "1/100", "1%"). `str` of a scheme parses to that scheme.

    Raises:
        UnknownName: no such scheme.
        InputError: its number is missing, superfluous or out of range.
    """
    name, _, rest = text.partition(":")
    match name, rest:
        case "top-k", _:
            return TopK(_amount(rest, text, name))
        case "random-k", _:
            return RandomK(_amount(rest, text, name))
        case "one-bit", "":
            return OneBit()
        case "one-bit", ("output" | "input") as column:
            return OneBit(column)
        case ("fp16" | "bf16") as kind, "":
            return Half(kind)
        case "powersgd", _ if rank := whole(rest):
            return PowerSGD(rank)
    if name in FORMS:
        raise _malformed(text, name)
    raise UnknownName("compression", name, FORMS)


def count(k: Amount, numel: int) -> int:
    """How many of `numel` entries are sent: a share is rounded up, a count cut to what is there."""
    return math.ceil(k * numel) if isinstance(k, Fraction) else min(k, numel)


def _amount(rest: str, text: str, name: str) -> Amount:
    if number := whole(rest):
        return number
    try:
        percent = rest.endswith("%")
        share = fraction(rest.removesuffix("%"), text) / (100 if percent else 1)
    except InputError:
        raise _malformed(text, name) from None
    if whole(rest) is not None or not 0 < share <= 1:
        raise InputError(
            f"compression {text!r}: expected a share above 0 and at most 1, or a count from 1 up, "
            f"such as {FORMS[name]}"
        )
    return share


def _written(k: Amount) -> str:
    """The amount as `parse` reads it: 100 % must not become the count 1."""
    return "100%" if isinstance(k, Fraction) and k == 1 else str(k)


def _malformed(text: str, name: str) -> InputError:
    return InputError(f"compression {text!r}: expected {FORMS[name]}")
