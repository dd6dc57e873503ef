"""Made-up outcomes of studies: real shapes and types, invented numbers, no training."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from helpers.evaluations import evaluation
from robustkit.analysis.outcome import (
    CellRow,
    Cost,
    Gallery,
    History,
    Judgement,
    Line,
    Outcome,
    Panel,
    TransferMatrix,
    Value,
)
from robustkit.statistics import Comparison, Estimate, SecondaryTest

METHODS = (
    "cross-entropy",
    "l2-margin",
    "l1-margin",
    "linf-margin",
    "hinge",
    "l2-margin, all layers",
    "large-margin softmax",
    "generalised cross-entropy",
)
NOISE = ("0", "0.2", "0.4", "0.6", "0.8")
FRACTIONS = ("0.00125", "0.005", "0.01", "0.05", "0.25", "1")
EPSILONS = ("0.05", "0.1", "0.2", "0.3")
HOSTILE = (
    """<script>alert(1)</script>"'><img src=x onerror=alert(1)>&{{ 7*7 }}$x_1^2$ 50% \\input{x}"""
)


def estimate(
    value: float, half: float, n: int = 10_000, method: str = "two-way t, 95 %"
) -> Estimate:
    return Estimate(value, value - half, value + half, n, method)


def value(level: str, share: float, half: float = 0.004, seeds: Sequence[int] = (0, 1, 2)) -> Value:
    each = tuple(share + 0.002 * (i - 1) for i in range(len(seeds)))
    return Value(level, float(level), estimate(share, half), each, tuple(seeds))


def comparison(
    a: str, b: str, level: str, difference: float, half: float = 0.012, delta: float | None = 0.005
) -> Comparison:
    """With the verdict that its interval calls for."""
    low, high = difference - half, difference + half
    word = "better" if low > 0 else "worse" if high < 0 else "inconclusive"
    if delta and -delta < low and high < delta:
        word = "equivalent"
    return Comparison(
        a=a,
        b=b,
        level=level,
        difference=estimate(difference, half, method="simultaneous 95 % interval, two-way t"),
        p=0.0004 if word in ("better", "worse") else 0.21,
        p_equivalence=None if delta is None else 0.012 if word == "equivalent" else 0.64,
        delta=delta,
        test="two-way t",
        correction="Holm over 5 levels",
        unit="5 paired seeds, 10,000 images",
        verdict=word,
        secondary=(
            SecondaryTest("sign-flip permutation", 0.0625, 0.0625, "cannot decide with 5 seeds"),
        ),
    )


def not_tested(a: str, b: str, level: str) -> Comparison:
    return Comparison(
        a, b, level, None, 1.0, None, 0.005, "", "", "", "not tested", reason="1 of 2 cells failed"
    )


def label_noise(count: int = 3, levels: Sequence[str] = NOISE) -> Panel:
    """Accuracy of some methods; the others lose less to noise than the first."""
    lines = []
    for i, method in enumerate(METHODS[:count]):
        shares = [0.992 - 0.002 * i - (0.055 - 0.006 * i) * float(v) ** 2 for v in levels]
        halves = [0.002 + 0.008 * float(level) for level in levels]
        lines.append(Line(method, tuple(map(value, levels, shares, halves))))
    return Panel(
        name="label-noise",
        title="MNIST under label noise",
        factor="label noise",
        percent=True,
        log=False,
        measure="accuracy on 10,000 test images",
        baseline=METHODS[0],
        lines=tuple(lines),
        comparisons=tuple(
            comparison(
                line.method,
                METHODS[0],
                v.level,
                v.estimate.value - base.estimate.value,
                0.003 + 0.012 * v.x,
            )
            for line in lines[1:]
            for v, base in zip(line.values, lines[0].values, strict=True)
        ),
        notes=("3 seeds; every cell has 4,000 optimiser steps.",),
    )


def data_fraction(count: int = 3) -> Panel:
    lines = [
        Line(
            method,
            tuple(
                value(v, 0.995 - 0.2 * (0.0125 / float(v)) ** 0.3 * (1 - 0.05 * i) * 0.8, 0.012)
                for v in FRACTIONS
            ),
        )
        for i, method in enumerate(METHODS[:count])
    ]
    return replace(
        label_noise(1),
        name="data-fraction",
        title="MNIST with less data",
        factor="data fraction",
        log=True,
        lines=tuple(lines),
        comparisons=(),
        notes=(),
    )


def adversarial(count: int = 3) -> Panel:
    lines = [
        Line(
            method,
            tuple(value(v, max(0.99 - (3.2 - 0.2 * i) * float(v), 0.02), 0.02) for v in EPSILONS),
        )
        for i, method in enumerate(METHODS[:count])
    ]
    return replace(
        label_noise(1),
        name="fgsm",
        title="FGSM, white box",
        factor="ε (ℓ∞)",
        percent=False,
        lines=tuple(lines),
        comparisons=tuple(
            comparison(line.method, METHODS[0], v.level, 0.2 * i * v.x, 0.03, None)
            for i, line in enumerate(lines[1:], 1)
            for v in line.values
        ),
        notes=(),
    )


def judgements() -> tuple[Judgement, ...]:
    return tuple(replace(one, registered="preregistered") for one in _judgements())


def _judgements() -> tuple[Judgement, ...]:
    better = comparison("l2-margin", "cross-entropy", "0.8", 0.025, 0.014)
    level = comparison("l2-margin", "cross-entropy", "0", 0.001, 0.003)
    return (
        Judgement(
            "1",
            "On MNIST with 80 % noisy labels, l2-margin is better than cross-entropy.",
            "Elsayed et al. 2018, figure 2",
            "holds",
            "At 80 % label noise, l2-margin is better than cross-entropy after 4,000 steps: "
            "+2.5 points (simultaneous 95 % CI 1.1 to 3.9; 5 paired seeds, 10,000 images, two-way "
            "t, Holm over 5 levels).",
            0.005,
            "half a point is what two seeds of one method differ by",
            (better,),
            decisive=better,
            where="at 80 % label noise",
        ),
        Judgement(
            "2a",
            "At 0 % noise l2-margin and cross-entropy are about the same.",
            "the paper's reviewer",
            "holds",
            "At 0 % label noise, l2-margin is equivalent to cross-entropy within ±0.5 points.",
            0.005,
            "half a point is what two seeds of one method differ by",
            (level,),
        ),
        Judgement(
            "4",
            "A training step with the margin loss costs 20 % to 60 % more.",
            "Elsayed et al. 2018, section 4",
            "contradicted",
            "A step of l2-margin takes 2.1 times as long as one of cross-entropy.",
            None,
            "",
            ratio=Estimate(2.1, 1.96, 2.25, 15, "geometric mean over seeds, t on logs, 95 %"),
            bounds=(1.2, 1.6),
        ),
        Judgement(
            "2b",
            "The l1 margin is better than cross-entropy over the whole range of noise.",
            "Elsayed et al. 2018",
            "undecided",
            "At 20 % and 40 % noise, the difference is inconclusive.",
            0.005,
            "as above",
            (
                comparison("l1-margin", "cross-entropy", "0.4", 0.004, 0.009),
                not_tested("l1-margin", "cross-entropy", "0.8"),
            ),
        ),
        Judgement(
            "6",
            "Large-margin softmax is better than softmax on LFW.",
            "Liu et al. 2016",
            "not tested",
            "",
            0.005,
            "as above",
        ),
    )


def history(method: str, level: str, speed: float) -> History:
    steps = tuple(range(200, 4001, 200))
    learnt = tuple(1 - np.exp(-step / 4000 * speed) for step in steps)
    held_out = tuple(0.98 - 0.1 * share for share in learnt)
    return History(method, level, steps, tuple(float(v) for v in learnt), held_out)


def cost(method: str, ratio: float, gain: float) -> Cost:
    return Cost(
        method,
        Estimate(ratio, 0.95 * ratio, 1.06 * ratio, 5, "t on logs, 95 %"),
        estimate(gain, 0.012),
        "label noise 80 %",
    )


def cells(count: int = 3) -> tuple[CellRow, ...]:
    rows = [
        CellRow(f"{m}-{v}-{s}", m, "label noise", v, s, "done", "", 0.97, 4000, 61.25, "lr 0.01")
        for m in METHODS[:count]
        for v in NOISE
        for s in range(3)
    ]
    failed = replace(
        rows[4],
        status="failed",
        reason="the loss became NaN or infinite at step 1,312",
        clean=0.123,
    )
    return (*rows[:4], failed, *rows[5:-1], replace(rows[-1], status="missing", clean=None))


def outcome(count: int = 3) -> Outcome:
    """A study of `count` methods in three panels, with one failed cell."""
    names = METHODS[:count]
    return Outcome(
        name="elsayed2018-mnist",
        title="Large-margin deep networks on MNIST",
        question="Does a large margin make a network less sensitive to wrong labels, little data "
        "and adversarial examples than cross-entropy does?",
        panels=(label_noise(count), data_fraction(count), adversarial(count)),
        judgements=judgements(),
        cells=cells(count),
        histories=tuple(history(m, "0.8", 2.5 / (i + 1)) for i, m in enumerate(names)),
        costs=tuple(cost(m, 1.4 + 0.2 * i, 0.025 - 0.006 * i) for i, m in enumerate(names[1:])),
        matrices=(
            TransferMatrix(
                "FGSM at ε = 0.2",
                names,
                names,
                tuple(
                    tuple(
                        None if i == 0 and j == 1 else 0.3 + 0.4 * abs(i - j) / count
                        for j in range(count)
                    )
                    for i in range(count)
                ),
            ),
        ),
        galleries=(
            Gallery(
                "pgd",
                "cross-entropy, seed 0, under pgd",
                "linf",
                tuple("0123456789"),
                tuple(evaluation().examples[:6]),
            ),
        ),
        notes=("Verdicts hold for 4,000 steps, not for the paper's 200 epochs.",),
        protocols={"pgd": evaluation().header["protocol"]},
        provenance={
            "study": {"digest": "0123abcd" * 8},
            "data": {"mnist": "origin stated", "test images": "10,000"},
            "versions": {"robustkit": "0.1.0", "torch": "2.13.0"},
        },
        command="robustkit report elsayed2018-mnist",
        file='title = "Large-margin deep networks on MNIST"\n',
    )


def hostile() -> Outcome:
    """The same with every word replaced by one that tries to be something else."""
    small = outcome(2)
    names = {method: f"{HOSTILE} {i} 模型 \u202e\x07" for i, method in enumerate(METHODS)}

    def renamed(c: Comparison) -> Comparison:
        secondary = tuple(replace(b, test=HOSTILE, note=HOSTILE) for b in c.secondary)
        return replace(
            c, a=names[c.a], b=names[c.b], test=HOSTILE, unit=HOSTILE, secondary=secondary
        )

    panels = tuple(
        replace(
            panel,
            name=f"../{HOSTILE}",
            title=HOSTILE,
            factor=HOSTILE,
            measure=HOSTILE,
            baseline=names[METHODS[0]],
            lines=tuple(replace(line, method=names[line.method]) for line in panel.lines),
            comparisons=tuple(map(renamed, panel.comparisons)),
            notes=(HOSTILE,),
        )
        for panel in small.panels
    )
    protocol = small.protocols["pgd"] | {"title": HOSTILE, "name": HOSTILE, "file": HOSTILE}
    return replace(
        small,
        name=HOSTILE,
        title=HOSTILE,
        question=HOSTILE,
        panels=panels,
        judgements=tuple(
            replace(
                j,
                name=HOSTILE,
                text=HOSTILE,
                source=HOSTILE,
                sentence=HOSTILE,
                reason=HOSTILE,
                comparisons=tuple(
                    replace(c, a=HOSTILE, b=HOSTILE, level=HOSTILE) for c in j.comparisons
                ),
            )
            for j in small.judgements
        ),
        cells=tuple(
            replace(c, method=HOSTILE, factor=HOSTILE, level=HOSTILE, reason=HOSTILE, key=HOSTILE)
            for c in small.cells
        ),
        histories=tuple(replace(h, method=names[h.method], level=HOSTILE) for h in small.histories),
        costs=tuple(replace(c, method=names[c.method], where=HOSTILE) for c in small.costs),
        matrices=tuple(
            replace(m, title=HOSTILE, sources=(HOSTILE, "b"), targets=(HOSTILE, "b"))
            for m in small.matrices
        ),
        galleries=tuple(
            replace(g, name=HOSTILE, title=HOSTILE, norm=HOSTILE, classes=(HOSTILE,) * 10)
            for g in small.galleries
        ),
        notes=(HOSTILE,),
        protocols={HOSTILE: protocol},
        provenance={HOSTILE: {HOSTILE: HOSTILE}, "study": {"digest": HOSTILE}},
        command=HOSTILE,
        file=HOSTILE,
    )
