"""The order in which a bisection tries budgets, and what it costs. Needs no torch."""

from functools import cache

DEARER = 4
"""how many times an attempt that fails costs what one that succeeds does, about"""


def next_level(open_levels: range, attempts: int) -> int:
    """Which of the open budgets, by index, is tried next with so many attempts.

    Not the middle one: a success takes a few steps, a failure every step of every attempt. With
    x + x^ratio = 1 a share x of the budgets goes with the cheap answer, and both branches cost
    alike, as in Huffman codes of letters of unequal cost (Varn 1971).
    """
    return open_levels[int(_share_below(DEARER * attempts) * len(open_levels))]


@cache
def _share_below(ratio: int) -> float:
    low, high = 0.5, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if middle + middle**ratio < 1 else (low, middle)
    return low


@cache
def most_searches(budgets: int, attempts: int) -> float:
    """Searches of one image to their very end that its bisection costs at most."""
    if budgets == 0:
        return 0.0
    level = next_level(range(budgets), attempts)
    succeeds = 1 / (DEARER * attempts) + most_searches(level, attempts)
    return max(succeeds, 1 + most_searches(budgets - level - 1, attempts))
