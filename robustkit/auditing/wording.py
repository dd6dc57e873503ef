"""Shares and lists in an audit's sentences, so rounded that none contradicts itself."""

from collections.abc import Sequence
from math import floor

from robustkit.auditing.plan import Smoothing
from robustkit.protocol.norms import symbol
from robustkit.statistics.comparison import capital, listed
from robustkit.statistics.estimate import counted

__all__ = [
    "at_most",
    "budget",
    "capital",
    "contradicted_smoothing",
    "counted",
    "in_points",
    "least_points",
    "listed",
    "sentence",
    "shares",
    "tolerance",
]

MOST_DIGITS = 6


def shares(*values: float) -> list[str]:
    """Shares in per cent, all to as many digits as keep apart and in order what differs.

    So a claim of 44.96 % never "lies above" a bound of "45.0 %"; nor is one of 99.96 % told as all.
    """
    for digits in range(1, MOST_DIGITS):
        texts = [_percent(value, digits) for value in values]
        told = all(0 < round(100 * v, digits) < 100 for v in values if 0 < v < 1)
        if told and len(set(texts)) == len(set(values)):
            return texts
    return [_percent(value, MOST_DIGITS) for value in values]


def in_points(difference: float, digits: int = 1) -> str:
    """A difference of shares in points; as many digits as show that it is not nothing."""
    while digits < MOST_DIGITS and difference and not round(100 * difference, digits):
        digits += 1
    return f"{100 * difference + 0.0:.{digits}f}\u00a0points".replace("-", "−")


def least_points(difference: float) -> str:
    """A difference of shares in points that is shown to be there: rounded down, to be "or more"."""
    digits = 1
    while digits < MOST_DIGITS and not _floored(difference, digits):
        digits += 1
    return in_points(_floored(difference, digits), digits)


def _floored(difference: float, digits: int) -> float:
    """A difference of shares, rounded down to so many digits of points."""
    scale = 10.0 ** (2 + digits)
    # 0.5 − 0.48 is not quite 0.02, nor need it be more
    return floor(round(scale * difference, MOST_DIGITS)) / scale


def contradicted_smoothing(n: int, of: int, smoothing: Smoothing) -> str:
    """That images have a certificate of a smoothed classifier, and were broken all the same.

    An image has one certificate, and an answer at the attacked point of each radius.
    """
    answers = 1 + len(smoothing.radii)
    return (
        f"smoothed classifier: {n} of {counted(of, 'image')}, certified, fell to an attack within "
        "the certified radius; they count neither as certified nor as withstanding it. One of "
        f"an image's {answers} answers is wrong with a probability of "
        f"{answers * smoothing.alpha:g} at most, by the draws"
    )


def tolerance(delta: float) -> str:
    """A Δ in points, as it was written: "5 points", "0.5 points"."""
    return f"{100 * delta:.6g}\u00a0{'point' if delta == 0.01 else 'points'}"


def budget(norm: str, epsilon: str) -> str:
    """A threat in words: "ε = 8/255 (ℓ∞)"."""
    return f"ε\u00a0=\u00a0{epsilon} ({symbol(norm)})"


def sentence(*parts: str) -> str:
    """The parts as one sentence: with a capital, and with one stop at its end."""
    text = capital(" ".join(filter(None, parts))).rstrip(" .;:")
    return text if text.endswith(("?", "!")) else f"{text}."


def at_most(items: Sequence[str], most: int = 5) -> str:
    """The first few of a list, and how many more there are; semicolons where items have commas."""
    if len(items) > most:
        items = [*items[:most], f"{len(items) - most:,} more"]
    return listed(items) if not any("," in item for item in items) else "; ".join(items)


def _percent(value: float, digits: int) -> str:
    # + 0.0: no "-0.0"
    return f"{round(100 * value, digits) + 0.0:.{digits}f}\u00a0%".replace("-", "−")
