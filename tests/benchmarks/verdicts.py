"""How often an audit's verdict on a claim is wrong, by images and Δ: 2,000 claims, true and false.

    python tests/benchmarks/verdicts.py [--claims 2000] [--seed 0]

A claim has a true share of images that survive, drawn evenly from 20 to 98 %, and lies above it by
what its row says; the survivors among n images are binomial, and `robustkit.auditing.verdict.judge` says
the word. *Believable* is wrong of a claim that is too high by Δ or more, *overstated* of a true one.
Beside the simulation stands the worst case over all shares, summed exactly, and what it would be with
Wilson's interval in the place of Clopper and Pearson's.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy.stats import binom

from robustkit.auditing.outcome import IndicatorResult, RobustnessClaim, Stage
from robustkit.auditing.plan import load_plan
from robustkit.auditing.verdict import judge
from robustkit.statistics import proportion

STAGES = (Stage("pgd", "PGD", "white box", True, "complete"),)
INDICATORS = (IndicatorResult("zero-gradients", "Do gradients vanish?", "", "passed"),)
WORDS = ("believable", "overstated", "not established")


class Row(NamedTuple):
    """Claims that lie above the truth by one amount."""

    name: str
    above: float
    """as a multiple of Δ"""
    wrong: tuple[str, ...]
    """the words that would be wrong of them"""


ROWS = (
    Row("true, Δ below the truth", -1.0, ("overstated",)),
    Row("true, the truth itself", 0.0, ("overstated",)),
    Row("too high by Δ/2", 0.5, ()),
    Row("too high by Δ", 1.0, ("believable",)),
    Row("too high by 2 Δ", 2.0, ("believable",)),
)


@cache
def estimate(count: int, n: int, method: str):
    """The share with its interval; made once, since statsmodels takes its time."""
    return proportion(count, n, method)  # type: ignore[arg-type]


def word(claim: float, count: int, n: int, delta: float, method: str = "exact") -> str:
    """The verdict on a claim of which `count` of n images survived sound attacks."""
    stated = RobustnessClaim("linf", "8/255", claim, "given")
    left = estimate(count, n, method)
    return judge(stated, left, STAGES, INDICATORS, delta=delta, images=n, looked=n).word


def simulated(row: Row, n: int, delta: float, claims: int, rng: Generator) -> dict[str, float]:
    """The share of each word over claims of this kind."""
    truths = rng.uniform(0.2, 0.98, claims)
    stated = np.clip(truths + row.above * delta, 0, 1)
    counts = rng.binomial(n, np.maximum(stated - row.above * delta, 0))
    words = [word(c, int(k), n, delta) for c, k in zip(stated, counts, strict=True)]
    return {name: words.count(name) / claims for name in WORDS}


def worst(row: Row, n: int, delta: float, method: str) -> float:
    """The largest chance of a wrong word over true shares from 20 to 99 %, summed exactly."""
    found = []
    for truth in np.linspace(0.2, 0.99, 80):
        claim = min(1.0, truth + row.above * delta)
        # all counts but those that next to never come
        low, high = binom.ppf([1e-9, 1 - 1e-9], n, claim - row.above * delta).astype(int)
        counts = np.arange(low, high + 1)
        wrong = [word(claim, int(k), n, delta, method) in row.wrong for k in counts]
        found.append(binom.pmf(counts, n, claim - row.above * delta)[wrong].sum())
    return float(max(found))


def rows(n: int, delta: float, claims: int, rng: Generator) -> Iterator[str]:
    """The lines of one table."""
    for row in ROWS:
        seen = simulated(row, n, delta, claims, rng)
        cells = [f"{100 * seen[name]:.1f}" for name in WORDS]
        for method in ("exact", "wilson"):
            cells.append(f"{100 * worst(row, n, delta, method):.1f}" if row.wrong else "–")
        yield f"| {row.name} | {' | '.join(cells)} |"


def main(say: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--claims", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in ("quick", "standard", "thorough"):
        plan = load_plan(name)
        for n in (200, plan.images or 10_000):
            say(f"\n{name}, Δ = {100 * plan.delta:g} points, {n:,} images: verdicts in %\n")
            say(f"| claim | {' | '.join(WORDS)} | wrong at worst, exact | wrong at worst, Wilson |")
            say("| --- | --- | --- | --- | --- | --- |")
            rng = np.random.default_rng([options.seed, n, round(1000 * plan.delta)])
            for line in rows(n, plan.delta, options.claims, rng):
                say(line)


if __name__ == "__main__":
    main()
