"""Two methods compared, and what the data say of them, in numbers and in words."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Literal

from robustkit.statistics.estimate import Estimate, percent
from robustkit.statistics.resampling import SecondaryTest

_MOST_DIGITS = 9
AT_CHANCE = "both at chance"
"""what is said of a comparison whose accuracies are no better than guessing"""

Verdict = Literal["better", "worse", "equivalent", "inconclusive", "not tested"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods compared, and what the data say; interval, p values and verdict always agree."""

    a: str
    b: str
    level: str
    difference: Estimate | None
    """a − b as a share (0.025 is 2.5 points) with its simultaneous interval; None if not tested"""
    p: float
    """of "no difference", two-sided, adjusted; 1 if not tested"""
    p_equivalence: float | None
    """of "they differ by delta or more", adjusted, see `Contrast.p_equivalence`; None without"""
    delta: float | None
    """the difference that counts as none, as a share"""
    test: str
    correction: str
    """"Bonferroni over 5 levels"; "" for a family of one"""
    unit: str
    verdict: Verdict
    secondary: tuple[SecondaryTest, ...] = ()
    p_holm: float = 1.0
    """of "no difference" by Holm's correction; shown beside, see `family`"""
    outperforms: Estimate | None = None
    """probability that a run of a beats its paired run of b, on its own; None without such pairs"""
    confidence: float = 0.95
    """at which all intervals of the family hold together"""
    reason: str = ""
    """why it was not tested"""
    at_chance: bool = False
    """neither is better than guessing, so that this level speaks for neither"""

    @property
    def word(self) -> str:
        """The verdict, unless both are at chance, which decides nothing."""
        return AT_CHANCE if self.at_chance else self.verdict

    @property
    def lean(self) -> str:
        """Of what is equivalent, that its interval excludes 0; else ""."""
        if self.verdict != "equivalent" or self.difference is None:
            return ""
        if self.difference.low > 0:
            return " (better, by less than Δ)"
        return " (worse, by less than Δ)" if self.difference.high < 0 else ""

    def sentence(self, *, where: str = "", after: str = "") -> str:
        """The verdict in words fit for a paper, then which tests beside it cannot decide.

        `where` begins it ("at 80 % label noise"), `after` says for what it holds ("after 4,000
        steps").
        """
        statement = " ".join(part for part in (self._statement(), after) if part)
        # a sentence may begin with a method's name, which stays as it is
        text = (
            f"{capital(where)}, {statement}"
            if where
            else statement.replace("the difference", "The difference", 1)
        )
        chance = [f"{AT_CHANCE.capitalize()}: this level decides nothing."] * self.at_chance
        return " ".join([f"{text}{self._evidence()}.", *chance, *self._undecided()])

    def _statement(self) -> str:
        match self.verdict:
            case "better" | "worse":
                return f"{self.a} is {self.verdict} than {self.b}"
            case "equivalent":
                within = f"±{100 * (self.delta or 0):.10g} points"
                return f"{self.a} is equivalent to {self.b} within {within}{self.lean}"
            case "inconclusive":
                return f"the difference between {self.a} and {self.b} is inconclusive"
            case "not tested":
                return f"{self.a} and {self.b} were not compared"

    def _evidence(self) -> str:
        if self.difference is None:
            return f" ({self.reason or 'no data'})"
        digits = self._digits()
        low, high = (_number(end, digits) for end in self._ends())
        kind = "simultaneous " if self.correction else ""
        interval = f"{kind}{percent(self.confidence)} CI {low} to {high}"
        size = _signed(100 * self.difference.value, digits)
        grounds = ", ".join(x for x in (self.unit, self.test, self.correction) if x)
        return f": {size} points ({interval}; {grounds})"

    def _ends(self) -> tuple[float, float]:
        """Of the interval, in points."""
        if self.difference is None:
            return 0.0, 0.0
        return 100 * self.difference.low, 100 * self.difference.high

    def _digits(self) -> int:
        """Two digits of the interval's length, and as many as the verdict needs to be seen."""
        low, high = self._ends()
        delta = 100 * (self.delta or 0.0)
        least = max(1, 1 - floor(log10(high - low))) if high > low else 1
        marks = [(end, mark) for end in (low, high) for mark in (-delta, 0.0, delta)]
        return faithful(marks, least, _MOST_DIGITS)

    def _undecided(self) -> list[str]:
        noted = [test for test in self.secondary if test.note]
        return [
            f"{capital(listed([test.test for test in noted if test.note == note]))} {note}."
            for note in dict.fromkeys(test.note for test in noted)
        ]


def faithful(pairs: Sequence[tuple[float, float]], least: int, most: int) -> int:
    """Digits, at least and below so many, to which no value leaves its side of its mark.

    `most` where a value is on its mark but for rounding.
    """
    enough = (
        digits
        for digits in range(least, most)
        if all(_same_side(value, mark, digits) for value, mark in pairs)
    )
    return next(enough, most)


def times(ratio: Estimate, bounds: Sequence[float] = ()) -> tuple[str, str, str]:
    """Value and ends of a ratio, with digits that show on which side of 1 and bounds they lie."""
    ends = (ratio.low, ratio.high)
    marks = [(end, mark) for end in ends for mark in (1.0, *bounds)]
    digits = faithful(marks, 2, _MOST_DIGITS)
    digits = 2 if digits == _MOST_DIGITS else digits
    value, low, high = (f"{number:.{digits}f}" for number in (ratio.value, *ends))
    return value, low, high


def _same_side(value: float, mark: float, digits: int) -> bool:
    """Whether rounding leaves a value on its side of a mark."""
    rounded = round(value, digits)
    return (rounded > mark, rounded < mark) == (value > mark, value < mark)


def capital(text: str) -> str:
    """The text with its first letter large."""
    return text[:1].upper() + text[1:]


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", "−")


def _signed(value: float, digits: int) -> str:
    text = _number(round(value, digits) + 0.0, digits)  # + 0.0: no "-0.0"
    return f"+{text}" if value > 0 and text.strip("0.") else text


def listed(names: Sequence[str]) -> str:
    """Names in a row: "a", "a and b", "a, b and c"; nothing for none.

    Where a name has a comma itself, outside of brackets: "a; b, c; and d".
    """
    *most, last = names or [""]
    if most and any(", " in re.sub(r"\([^)]*\)", "", name) for name in names):
        return f"{'; '.join(most)}; and {last}"
    return f"{', '.join(most)} and {last}" if most else last


def numbered(names: Sequence[str]) -> list[str]:
    """Names, those that are there several times with a number: "a (1)", "b", "a (2)"."""
    often = Counter(names)
    return [
        f"{name} ({names[: place + 1].count(name)})" if often[name] > 1 else name
        for place, name in enumerate(names)
    ]
