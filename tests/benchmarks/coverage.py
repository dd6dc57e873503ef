"""Whether the intervals hold: simulated studies whose truth is known, as Markdown tables.

Usage: python tests/benchmarks/coverage.py [--studies 2000] [--seed 0] [--only NAME]...

A sample is right when a latent sum is positive: a level, an effect of the seed (of the training),
of the image, of the image under this method, and of all of these together, each normal. What
share of the variance of a mean the seeds bring is set; the true accuracies are then known in
closed form. An entry is the share of studies, in per cent, with its own standard error in the
caption. All draws come from one seed.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, ndtri, stdtrit
from scipy.stats import binom, multivariate_normal

from robustkit.statistics import (
    Contrast,
    Curve,
    Member,
    compare_images,
    compare_seeds,
    compare_unpaired,
    components,
    curve,
    family,
    median_distance,
    median_over_seeds,
    outperforming,
    over_seeds,
    plan,
    proportion,
)

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
SHARES = {"images": 0.1, "balanced": 0.5, "seeds": 0.9}
SEEDS = (3, 5, 10)
IMAGE, OWN = 1.0, 1.0  # variance of an image, and of an image under one method; the residual has 1


class World(NamedTuple):
    """Where studies come from."""

    seeds: int
    images: int
    variance: float
    """of the seed's effect on the latent sum"""

    def draw(self, accuracies: Sequence[float], rng: Generator) -> Booleans:
        """[len(accuracies), S, N] right and wrong; seeds are independent, images shared."""
        image = sqrt(IMAGE) * rng.standard_normal(self.images, np.float32)
        return np.stack([self._one(accuracy, image, rng) for accuracy in accuracies])

    def _one(self, accuracy: float, image: NDArray[np.float32], rng: Generator) -> Booleans:
        level = ndtri(accuracy) * sqrt(1 + IMAGE + OWN + self.variance)
        own = image + sqrt(OWN) * rng.standard_normal(self.images, np.float32)
        seed = sqrt(self.variance) * rng.standard_normal((self.seeds, 1), np.float32)
        latent = rng.standard_normal((self.seeds, self.images), np.float32)
        return np.asarray(latent + own + seed > -np.float32(level))


def world(seeds: int, images: int, share: float) -> World:
    """That in which seeds bring this share of the variance of a difference at 90 % accuracy."""

    def excess(variance: float) -> float:
        return _share(seeds, images, 0.9, variance) - share

    return World(seeds, images, float(brentq(excess, 1e-7, 20.0)))


def _share(seeds: int, images: int, accuracy: float, variance: float) -> float:
    total = 1 + IMAGE + OWN + variance
    seed = covariance(accuracy, variance / total)
    shared = covariance(accuracy, IMAGE / total)
    image = covariance(accuracy, (IMAGE + OWN) / total) - shared
    residual = accuracy * (1 - accuracy) - shared - seed - image
    of_images = image / images + residual / (seeds * images)
    return seed / seeds / (seed / seeds + of_images)


Settings = dict[str, tuple[int, Callable[[World, Generator], bool]]]


def covariance(accuracy: float, correlation: float) -> float:
    """Of two samples that are right with this accuracy and whose latent sums correlate."""
    z = ndtri(accuracy)
    joint = multivariate_normal([0, 0], [[1, correlation], [correlation, 1]])
    return float(joint.cdf([z, z])) - accuracy**2


def worlds(images: int) -> Iterator[tuple[str, World]]:
    for (name, share), seeds in product(SHARES.items(), SEEDS):
        yield f"{name}, {seeds}", world(seeds, images, share)


def rate(studies: int, rng: Generator, found: Callable[[Generator], bool]) -> float:
    """Share of studies in which something was found, in per cent."""
    return 100 * sum(found(rng) for _ in range(studies)) / studies


def table(title: str, columns: Sequence[str], rows: Iterator[tuple[str, Sequence[float]]]) -> None:
    print(f"\n### {title}\n\n| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for name, values in rows:
        print(f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |", flush=True)


def covers(ends: tuple[float, float], truth: float) -> bool:
    return ends[0] <= truth <= ends[1]


def over_worlds(title: str, settings: Settings, studies: int, rng: Generator) -> None:
    """A table of coverage, worlds by settings."""

    def row(share: float, seeds: int) -> Iterator[float]:
        for images, found in settings.values():
            here = world(seeds, images, share)
            yield rate(studies, rng, partial(found, here))

    rows = (
        (f"{name}, {S}", list(row(share, S))) for (name, share), S in product(SHARES.items(), SEEDS)
    )
    table(f"{title}: coverage of the 95 % interval", list(settings), rows)


def one_method(studies: int, rng: Generator) -> None:
    def covered(accuracy: float) -> Callable[[World, Generator], bool]:
        def found(here: World, rng: Generator) -> bool:
            estimate = over_seeds(here.draw([accuracy], rng)[0])
            return covers((estimate.low, estimate.high), accuracy)

        return found

    settings = {
        f"{accuracy:.1%} of {images}": (images, covered(accuracy))
        for images, accuracy in product((200, 1000), (0.9, 0.98, 0.995))
    }
    over_worlds("One accuracy over seeds", settings, studies, rng)


def difference(studies: int, rng: Generator, *, paired: bool) -> None:
    def contrast(a: Booleans, b: Booleans, rng: Generator) -> Contrast:
        return compare_seeds(a, b, rng) if paired else compare_unpaired(a, b[: max(2, len(b) - 1)])

    def covered(pair: tuple[float, float]) -> Callable[[World, Generator], bool]:
        def found(here: World, rng: Generator) -> bool:
            ends = contrast(*_pair(here, pair, rng), rng).interval(0.05)
            return covers(ends, pair[0] - pair[1])

        return found

    pairs = ((0.9, 0.9), (0.9, 0.93), (0.98, 0.98), (0.995, 0.98))
    settings = {
        f"{100 * pair[0]:g} − {100 * pair[1]:g} of {images}": (images, covered(pair))
        for images, pair in product((200, 1000), pairs)
    }
    kind = "paired seeds" if paired else "unpaired seeds (one fewer on one side)"
    over_worlds(f"Difference of two methods over {kind}", settings, studies, rng)


def sizes(studies: int, rng: Generator) -> None:
    """Tests at 5 % where what they would show is false.

    The tests beside hold for these images only: their columns split one method's seeds in two.
    That for the equivalence test has the difference at delta.
    """
    delta = 0.03

    def row(here: World) -> list[float]:
        found = []
        for _ in range(studies):
            (same,) = here._replace(seeds=2 * here.seeds).draw((0.9,), rng)
            tests = compare_seeds(same[: here.seeds], same[here.seeds :], rng).secondary
            edge = compare_seeds(*_pair(here, (0.9, 0.9 + delta), rng), rng)
            null = compare_seeds(*_pair(here, (0.9, 0.9), rng), rng).p
            beside = [test.p for test in tests] + [1.0] * (3 - len(tests))
            found.append([null, edge.p_equivalence(delta), *beside])
        return [float(share) for share in 100 * (np.array(found) <= 0.05).mean(axis=0)]

    table(
        "Tests at 5 % on 1,000 images: false findings",
        ["two-way t", "equivalence at ±Δ", "sign-flip", "Wilcoxon", "bootstrap"],
        ((name, row(here)) for name, here in worlds(1000)),
    )


def _pair(
    here: World, accuracies: tuple[float, float], rng: Generator
) -> tuple[Booleans, Booleans]:
    a, b = here.draw(accuracies, rng)
    return a, b


def critical_values(studies: int, rng: Generator) -> None:
    """Coverage of a normal mean whose variance is partly known and partly estimated, no drawing.

    The known part is many images', the other few seeds'.
    """
    chi = (np.arange(studies * 10) + 0.5) / (studies * 10)

    def row(seeds: int, level: float) -> Iterator[float]:
        df, alpha = seeds - 1, 1 - level
        for share in SHARES.values():
            of_seeds, of_images = share * chdtri(df, 1 - chi) / df, 1 - share
            variance = of_seeds + of_images
            satterthwaite = -stdtrit(df * (variance / of_seeds) ** 2, alpha / 2)
            weighted = of_seeds * stdtrit(df, alpha / 2) + of_images * ndtri(alpha / 2)
            for critical in (satterthwaite, -weighted / variance):
                yield 100 * float((1 - 2 * ndtr(-critical * np.sqrt(variance))).mean())

    table(
        "Why the t quantiles are averaged: Satterthwaite's t, and the mean of quantiles used",
        [f"{name}: {rule}" for name in SHARES for rule in ("Satterthwaite", "mean")],
        ((f"{S} seeds, {level:.0%}", list(row(S, level))) for level in (0.95, 0.99) for S in SEEDS),
    )


class Judged(NamedTuple):
    """A family of five in one study, true where something went wrong."""

    interval: bool
    verdict: bool
    holm: bool
    holm_cut: bool


def judge(world: World, a: Sequence[float], delta: float, rng: Generator) -> Judged:
    """Five levels on the same images; the baseline is at 90 % at each."""
    drawn = world.draw((*a, *[0.9] * len(a)), rng)
    truths = [value - 0.9 for value in a]
    contrasts = [compare_seeds(drawn[i], drawn[i + len(a)], rng) for i in range(len(a))]
    found = family([Member("a", "b", str(i), c) for i, c in enumerate(contrasts)], delta=delta)
    missed, verdict, holm, cut = False, False, False, False
    for one, truth in zip(found, truths, strict=True):
        assert one.difference is not None
        miss = not covers((one.difference.low, one.difference.high), truth)
        false_sign = one.p_holm < 0.05 and truth * one.difference.value <= 0
        missed |= miss
        holm |= false_sign
        cut |= miss or false_sign
        verdict |= {
            "better": truth <= 0,
            "worse": truth >= 0,
            "equivalent": abs(truth) >= delta,
        }.get(one.verdict, False)
    return Judged(missed, verdict, holm, cut)


def families(studies: int, rng: Generator) -> None:
    delta = 0.03
    truths = {
        "all equal": [0.9] * 5,
        "one equal": [0.9, 0.98, 0.98, 0.5, 0.5],
        "at ±Δ": [0.93, 0.93, 0.87, 0.87, 0.93],
    }

    def row(world: World) -> Iterator[float]:
        for a in truths.values():
            wrong = np.array([judge(world, a, delta, rng) for _ in range(studies)]).mean(axis=0)
            yield from (100 - 100 * wrong[0], 100 * wrong[1], 100 * wrong[2], 100 - 100 * wrong[3])

    names = ("all intervals cover", "a false verdict", "a false sign by Holm", "Holm-cut cover")
    table(
        "Families of five on the same 500 images",
        [f"{truth}: {name}" for truth in truths for name in names],
        ((name, list(row(world))) for name, world in worlds(500)),
    )


def single_checkpoints(studies: int, rng: Generator) -> None:
    """Intervals are kept by what was counted, so that many more studies cost nothing."""
    known: dict[tuple[int, int, int], tuple[float, float, float]] = {}

    def contrast(wins: int, losses: int, n: int) -> tuple[float, float, float]:
        if (wins, losses, n) not in known:
            a, b = np.zeros((2, n), bool)
            a[:wins], b[wins : wins + losses] = True, True
            made = compare_images(a, b)
            known[wins, losses, n] = (*made.interval(0.05), made.p)
        return known[wins, losses, n]

    def row(n: int, differ: float, lean: float) -> list[float]:
        shares = [differ * lean, differ * (1 - lean), 1 - differ]
        drawn = rng.multinomial(n, shares, size=10 * studies)
        found = np.array([contrast(int(w), int(x), n) for w, x, _ in drawn])
        truth = shares[0] - shares[1]
        covered = (found[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= found[:, 1])
        agrees = (found[:, 2] < 0.05) == ((found[:, 0] > 0) | (found[:, 1] < 0))
        size = [100 * float((found[:, 2] < 0.05).mean())] if lean == 0.5 else [float("nan")]
        return [100 * float(covered.mean()), *size, 100 * float(agrees.mean())]

    table(
        "Two checkpoints on the same images (McNemar; exact below 25 discordant pairs)",
        ["coverage", "rejects (where equal)", "interval agrees with p"],
        (
            (f"{n} images, {differ:.1%} differ, {lean:.0%} of them for a", row(n, differ, lean))
            for n, differ, lean in product((50, 200, 1000), (0.01, 0.05, 0.2), (0.5, 0.7, 0.95))
        ),
    )


def curves(studies: int, rng: Generator) -> None:
    """Curves of one method on the same images, whose levels share their networks, or do not.

    A robustness curve has five budgets and is right at a budget only where it is right below it;
    the effects of its seeds are the same at all of them, or half of their variance is a budget's
    own. Elsewhere each of six levels, all at 90 %, has trainings of its own.
    """
    accuracies = np.array([0.95, 0.9, 0.75, 0.4, 0.05])
    x = np.array([0.0, 1.0, 2.0, 4.0, 8.0])

    def budgets(here: World, own: float, rng: Generator) -> Booleans:
        shape = (here.seeds, here.images)
        latent = rng.standard_normal(shape)
        shared = rng.standard_normal((here.seeds, 1))
        apart = rng.standard_normal((len(x), here.seeds, 1))
        latent += sqrt(IMAGE + OWN) * rng.standard_normal(here.images)
        effect = sqrt(here.variance) * (sqrt(1 - own) * shared + sqrt(own) * apart)
        levels = ndtri(accuracies) * sqrt(1 + IMAGE + OWN + here.variance)
        return np.asarray(latent + effect > -levels[:, None, None])

    def covered(made: Curve, truths: Floats, span: Floats) -> list[bool]:
        inside = [covers((p.low, p.high), t) for p, t in zip(made.points, truths, strict=True)]
        area = float(np.trapezoid(truths, span) / (span[-1] - span[0]))
        return [all(inside), covers((made.area.low, made.area.high), area)]

    def row(here: World) -> list[float]:
        found, six, alike = [], np.arange(6.0), np.full(6, 0.9)
        for _ in range(studies):
            same, partly = (curve(budgets(here, own, rng), x, rng) for own in (0.0, 0.5))
            apart = curve(here.draw([0.9] * 6, rng), six, rng, same_networks=False)
            found.append(
                [
                    *covered(same, accuracies, x),
                    covered(partly, accuracies, x)[0],
                    *covered(apart, alike, six),
                ]
            )
        return [float(share) for share in 100 * np.array(found).mean(axis=0)]

    few = [(f"{name}, 2", world(2, 500, share)) for name, share in SHARES.items()]
    table(
        "Curves on 500 images: the band covers everywhere, and the area",
        [
            "five budgets, the same seeds' effects: band",
            "area",
            "half their own: band",
            "six levels with trainings of their own: band",
            "area",
        ],
        (
            (name, row(here))
            for name, here in [*few, *worlds(500), ("one seed", World(1, 500, 0.0))]
        ),
    )


def medians(studies: int, rng: Generator) -> None:
    """The median distance over seeds; of all seeds and images half lie within 1."""

    def drawn(here: World, digits: int) -> Callable[[Generator], bool]:
        def found(rng: Generator) -> bool:
            seed = sqrt(here.variance) * rng.standard_normal((here.seeds, 1))
            image = sqrt(IMAGE + OWN) * rng.standard_normal(here.images)
            latent = seed + image + rng.standard_normal((here.seeds, here.images))
            # rounded up to a grid, as a protocol's budgets do
            made = median_over_seeds(np.ceil(np.exp(latent) * 10**digits) / 10**digits)
            return covers((made.low, made.high), 1.0)

        return found

    rows = (
        (
            f"{name}, {S}",
            [
                rate(studies, rng, drawn(world(S, images, share), digits))
                for images, digits in ((200, 6), (200, 1), (2000, 6))
            ],
        )
        for (name, share), S in product(SHARES.items(), SEEDS)
    )
    columns = ["200 images", "200 images, a grid of 0.1", "2,000 images"]
    table("Median distance over seeds: coverage of the 95 % interval", columns, rows)


def exact(studies: int, rng: Generator) -> None:
    """Coverage of the exact intervals, by summing the binomial and not by drawing."""
    truths = np.linspace(0.005, 0.995, 199)

    def least(n: int, ends: Callable[[int], tuple[float, float]]) -> float:
        low, high = np.array([ends(count) for count in range(n + 1)]).T
        weight = binom.pmf(np.arange(n + 1)[:, None], n, truths)
        inside = (low[:, None] <= truths) & (truths <= high[:, None])
        return 100 * float((weight * inside).sum(axis=0).min())

    def share(n: int) -> Callable[[int], tuple[float, float]]:
        def ends(count: int) -> tuple[float, float]:
            made = proportion(count, n, "exact")
            return made.low, made.high

        return ends

    def pairs(n: int) -> Callable[[int], tuple[float, float]]:
        def ends(count: int) -> tuple[float, float]:
            made = outperforming([1.0] * count + [0.0] * (n - count), [0.5] * n)
            return made.low, made.high

        return ends

    def median(n: int) -> float:
        inside = []
        for _ in range(studies):
            made = median_distance(rng.exponential(size=n))
            inside.append(made.low <= np.log(2) <= made.high)
        return 100 * float(np.mean(inside))

    table(
        "Exact intervals: least coverage over 199 true values (median: by drawing)",
        ["share", "probability of outperforming", "median distance"],
        ((f"n = {n}", [least(n, share(n)), least(n, pairs(n)), median(n)]) for n in (5, 20, 100)),
    )


def planned(studies: int, rng: Generator) -> None:
    """Power with the seeds that a plan asks for, were the spread known (seen on 3,000 seeds)."""
    delta = 0.03

    def power(here: World, seeds: int | None, *, differ: bool) -> Iterator[float]:
        yield float(seeds or "nan")
        if seeds is None:
            yield float("nan")
            return
        grown, pair = here._replace(seeds=seeds), (0.9 + delta * differ, 0.9)

        def shown(rng: Generator) -> bool:
            contrast = compare_seeds(*_pair(grown, pair, rng), rng)
            return (contrast.p if differ else contrast.p_equivalence(delta)) < 0.05

        yield rate(studies, rng, shown)

    def row(here: World) -> list[float]:
        spread = components(*here._replace(seeds=3000).draw((0.9, 0.9), rng), confidence=0.5)
        made = plan(spread, delta=delta, images=here.images)
        difference = power(here, made.seeds_difference, differ=True)
        return [*difference, *power(here, made.seeds_equivalence, differ=False)]

    table(
        "Plans for 3 points on 2,000 images with power 80 %",
        ["seeds for a difference", "power", "seeds for equivalence", "power"],
        ((name, row(here)) for name, here in worlds(2000) if here.seeds > 3),
    )


TABLES: dict[str, Callable[[int, Generator], None]] = {
    "critical": critical_values,
    "one": one_method,
    "paired": lambda studies, rng: difference(studies, rng, paired=True),
    "unpaired": lambda studies, rng: difference(studies, rng, paired=False),
    "sizes": sizes,
    "families": families,
    "checkpoints": single_checkpoints,
    "curves": curves,
    "exact": exact,
    "planned": planned,
    "medians": medians,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=TABLES)
    options = parser.parse_args()
    for number, (name, made) in enumerate(TABLES.items()):
        if not options.only or name in options.only:
            made(options.studies, np.random.default_rng([options.seed, number]))


if __name__ == "__main__":
    main()
