"""Made-up audits: real shapes and types, invented numbers, no attack."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, get_origin, get_type_hints

import numpy as np

from helpers.evaluations import evaluation
from robustkit.auditing.annex import annex
from robustkit.auditing.checklist import fill
from robustkit.auditing.outcome import (
    Audit,
    Bound,
    Certificate,
    ClassRow,
    Corrupted,
    Corruptions,
    IndicatorResult,
    Level,
    RobustnessClaim,
    SmoothedAccuracy,
    SmoothedLevel,
    Stage,
)
from robustkit.auditing.policy import judge_policy, parse_policy
from robustkit.auditing.verdict import judge
from robustkit.statistics import Comparison, proportion

EPSILONS = ("2/255", "4/255", "8/255", "16/255")
N = 1000
JUDGED: dict[str, Any] = {"delta": 0.03, "images": N, "looked": 500, "available": 10_000}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&{{7*7}}|**b**`c`[l](http://e.vil) @all $x$"
PGD = """title = "PGD"
norm = "linf"

[[attack]]
kind = "pgd"
steps = 40
relative_step = "1/16"
restarts = 5
"""
POLICY = {
    "title": "Release gate",
    "require": [
        {"robust": "linf:8/255", "at_least": 0.4},
        {"robust": "linf:8/255", "at_least": 0.45, "confidence": 0.99},
        {"certified": "linf:2/255", "at_least": 0.2},
        {"accuracy": "clean", "at_least": 0.8},
        {"accuracy": "corruptions", "at_least": 0.7},
        {"unresolved_indicators": 0},
        {"not_worse_than": "baseline.pt", "by_more_than": 0.03},
        {"verdict": "believable"},
    ],
}


def value(epsilon: str) -> float:
    top, _, bottom = epsilon.partition("/")
    return int(top) / int(bottom)


def level(epsilon: str, right: int, n: int = N) -> Level:
    return Level(epsilon, value(epsilon), proportion(right, n, "exact"))


def stage(
    name: str,
    title: str,
    family: Any,
    right: int,
    first: int,
    *,
    required: bool = True,
    **more: Any,
) -> Stage:
    return Stage(
        name,
        title,
        family,
        required,
        "complete",
        robust=(level("8/255", right + 11),),
        so_far=proportion(right, N),
        first=first,
        **{"seconds": 61.4, "digest": "0123abcd" * 8, **more},
    )


def stages() -> tuple[Stage, ...]:
    pgd = stage(
        "pgd", "PGD, 40 steps, 5 starts", "white box", 480, 401, found_by={"pgd": 390, "fgsm": 11}
    )
    return (
        stage("noise", "Random noise", "floor", 896, 9, required=False),
        stage("fgsm", "FGSM, one step", "white box", 881, 15, required=False),
        replace(pgd, robust=tuple(map(level, EPSILONS, (790, 690, 480, 52)))),
        stage("apgd", "APGD on the logit ratio", "white box", 462, 18),
        stage(
            "square",
            "Square attack, 5,000 queries",
            "black box",
            457,
            5,
            forward=4321.5,
            backward=0.0,
        ),
        Stage(
            "transfer",
            "Transfer from another network",
            "transfer",
            False,
            "skipped",
            reason="no --surrogate was given",
        ),
        stage("adaptive", "PGD through the smoothed loss", "adaptive", 451, 6, required=False),
    )


def results() -> tuple[IndicatorResult, ...]:
    return (
        IndicatorResult(
            "zero-gradients",
            "Do gradients vanish?",
            "Athalye et al. 2018",
            "passed",
            value=0.003,
            threshold=0.05,
            evidence="0.3 % of images have an input gradient of exactly zero.",
            n=500,
        ),
        IndicatorResult(
            "more-steps",
            "Do twice as many iterations find more?",
            "Carlini et al. 2019",
            "resolved",
            value=0.021,
            threshold=0.01,
            evidence="80 instead of 40 steps fooled 2.1 % more of the images that were left.",
            adaptive_attack="PGD through the smoothed loss was added.",
            before=0.457,
            after=0.451,
            n=500,
        ),
        IndicatorResult(
            "black-beats-white",
            "Do attacks without gradients find what gradients miss?",
            "Athalye et al. 2018",
            "passed",
            value=0.005,
            threshold=0.02,
            evidence="Square fooled 5 images that no white-box attack had.",
            n=1000,
        ),
        IndicatorResult(
            "unstable-predictions",
            "Is the output random?",
            "Carlini et al. 2019",
            "not examined",
            evidence="The budget of the audit was used up.",
        ),
    )


def comparison(b: str = "nets/baseline.pt", difference: float = -0.004) -> Comparison:
    ends = proportion(500, N)
    return Comparison(
        a="mnist-cnn.pt",
        b=b,
        level="8/255",
        difference=replace(ends, value=difference, low=difference - 0.012, high=difference + 0.012),
        p=0.51,
        p_equivalence=None,
        delta=None,
        test="McNemar",
        correction="",
        unit="1,000 images",
        verdict="inconclusive",
    )


def corruptions() -> Corruptions:
    names = {
        "noise": ("gaussian noise", "shot noise", "impulse noise"),
        "blur": ("defocus blur", "motion blur"),
        "weather": ("snow", "frost", "fog", "brightness"),
        "digital": ("contrast", "elastic transform", "pixelate", "jpeg compression"),
    }
    rows = [
        Corrupted(
            name, group, tuple(proportion(int(900 - (25 + 17 * i) * s), N) for s in range(1, 6))
        )
        for group, members in names.items()
        for i, name in enumerate(members)
    ]
    mean = float(np.mean([e.value for row in rows for e in row.severities]))
    notes = ("Snow and frost are drawn from formulas, not from the published photographs.",)
    return Corruptions(tuple(rows), mean, notes, N)


def smoothed() -> SmoothedAccuracy:
    levels = [
        SmoothedLevel(r, proportion(c, 200), proportion(a, 200))
        for r, c, a in ((0.25, 120, 141), (0.5, 85, 122), (0.75, 44, 101), (1.0, 21, 88))
    ]
    return SmoothedAccuracy(0.25, 10_000, 0.001, proportion(160, 200), 7, tuple(levels))


def classes(names: Sequence[str]) -> tuple[tuple[ClassRow, ...], tuple[tuple[int, ...], ...]]:
    """Rows and confusion matrix of `names`, about a thousand images."""
    draw = np.random.default_rng(0)
    count, each = len(names), max(N // len(names), 8)
    rows, matrix = [], []
    for i, name in enumerate(names):
        right = int(each * draw.uniform(0.1, 0.8))
        wrong = draw.multinomial(
            each - right, draw.dirichlet(np.full(max(count - 1, 1), 0.4))
        ).tolist()
        matrix.append((*wrong[:i], right, *wrong[i:])[:count])
        clean = min(each, right + int(0.3 * each))
        rows.append(ClassRow(name, proportion(clean, each), proportion(right, each)))
    return tuple(rows), tuple(matrix)


@cache
def full(names: Sequence[str] = tuple("0123456789")) -> Audit:
    """With everything there is, and rules that hold and rules that fail."""
    record = evaluation(classes=names, n=N)
    rows, matrix = classes(names)
    claim = RobustnessClaim("linf", "8/255", 0.532, "given")
    audit = Audit(
        checkpoint=record.header["checkpoint"],
        data=record.header["data"],
        norm="linf",
        epsilon="8/255",
        budget="standard",
        claim=claim,
        verdict=judge(claim, proportion(451, N, "exact"), stages(), results(), **JUDGED),
        clean=proportion(905, N),
        robust=tuple(map(level, EPSILONS, (781, 676, 451, 31))),
        stages=stages(),
        indicators=results(),
        certificate=Certificate(
            "IBP and CROWN",
            tuple(
                Bound(
                    e,
                    value(e),
                    proportion(c, 500),
                    {"interval": c // 2, "linear": c - c // 2},
                    1e-4,
                    3,
                )
                for e, c in zip(EPSILONS, (290, 160, 25, 0), strict=True)
            ),
            n=500,
        ),
        smoothed=smoothed(),
        corruptions=corruptions(),
        classes=rows,
        confusion=matrix,
        comparisons=(comparison(),),
        policy=(),
        checklist=(),
        warnings=("The checkpoint's record names another test set: mnist5k.",),
        protocols={
            "noise": 'title = "Noise"\nnorm = "linf"\n\n[[attack]]\nkind = "noise"\ndraws = 100\n',
            "fgsm": 'title = "FGSM"\nnorm = "linf"\n\n[[attack]]\nkind = "fgsm"\n',
            "pgd": PGD,
        },
        provenance={
            "engine": {"robustkit": "0.1.0", "torch": "2.13.0", "device": "cpu", "revision": 1},
            "run": {"started": "2026-01-02T03:04:05+00:00", "seconds": 811.5, "threads": 2},
        },
        command="robustkit audit models/mnist-cnn.pt \\\n    --claim linf:8/255=0.532 --data mnist5k",
        examples=record.examples,
    )
    return finished(audit)


def finished(audit: Audit) -> Audit:
    """With the rules, the checklist and the annex that its data call for."""
    judged = replace(audit, checklist=fill(audit))
    gated = replace(judged, policy=judge_policy(parse_policy(POLICY, "policy.toml"), judged))
    return replace(gated, annex=annex(gated))


def audited(request: Any, settings: Any) -> Audit:
    """What `run_audit` found of the overstated network, without attacking anything."""
    rules = judge_policy(request.policy, full()) if request.policy else ()
    return replace(full(), policy=rules)


@cache
def broken() -> Audit:
    """Attacks that failed, indicators that were not examined, nothing certified."""
    whole = full()
    square = replace(
        whole.stages[4],
        status="failed",
        reason="the logits are not finite",
        robust=(),
        so_far=None,
        first=0,
        forward=None,
        backward=None,
        seconds=None,
        digest="",
    )
    unresolved = replace(whole.indicators[0], status="unresolved", value=float("nan"), before=0.457)
    tried = (*whole.stages[:4], square, whole.stages[5])
    claim = RobustnessClaim("linf", "8/255", 0.46, "given")
    left = proportion(462, N, "exact")
    seen = (unresolved, *whole.indicators[1:])
    untested = replace(
        comparison(), difference=None, verdict="not tested", reason="its record has other images"
    )
    return finished(
        replace(
            whole,
            checkpoint=dict.fromkeys(whole.checkpoint) | {"path": "model in memory", "notes": []},
            claim=claim,
            verdict=judge(claim, left, tried, seen, **JUDGED),
            stages=tried,
            robust=(level("8/255", 462),),
            indicators=seen,
            certificate=Certificate("", reason="Softmax has no bound"),
            smoothed=None,
            corruptions=Corruptions(reason="the images are smaller than 32 × 32"),
            comparisons=(untested,),
            command="",
            examples=(),
        )
    )


@cache
def minimal() -> Audit:
    """Nothing but accuracy without attack."""
    record = evaluation()
    claim = RobustnessClaim("linf", "8/255", 0.5, "given")
    return Audit(
        checkpoint=record.header["checkpoint"],
        data=record.header["data"],
        norm="linf",
        epsilon="8/255",
        budget="quick",
        claim=claim,
        verdict=judge(claim, None, (), (), delta=0.05, images=200, looked=100),
        clean=proportion(190, 200),
        robust=(),
        stages=(),
        indicators=(),
        certificate=Certificate(""),
        smoothed=None,
        corruptions=Corruptions(),
        classes=(),
        confusion=(),
        comparisons=(),
        policy=(),
        checklist=(),
        warnings=(),
        protocols={},
        provenance={},
        command="",
    )


@cache
def hostile(text: str = HOSTILE) -> Audit:
    """The full one with every free word replaced by one that tries to be something else."""
    audit: Audit = _replaced(full(), text)
    return replace(
        audit,
        norm="linf",
        protocols={text: text},
        provenance={text: {text: text, "nested": {text: [text]}}},
        stages=tuple(replace(s, found_by={text: 3}) for s in audit.stages),
    )


def _replaced(value: Any, text: str) -> Any:
    if is_dataclass(value):
        hints = get_type_hints(type(value))
        kept = ("epsilon", "norm", "level", "examples")
        free = (f.name for f in fields(value) if get_origin(hints[f.name]) is not Literal)
        return replace(
            value,
            **{name: _replaced(getattr(value, name), text) for name in free if name not in kept},
        )
    if isinstance(value, dict):
        digests = ("sha256", "weights", "digest")
        return {k: v if k in digests else _replaced(v, text) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_replaced(item, text) for item in value)
    return text if isinstance(value, str) else value
