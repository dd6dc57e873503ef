"""What can be wrong with a study's file beyond the types of its keys."""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from robustkit.errors import InputError, UnknownName
from robustkit.parsing import fraction
from robustkit.protocol import budget_key, parse_epsilon
from robustkit.spec.study import (
    CHOSEN,
    TRAINED,
    Analysis,
    Claim,
    Study,
    TestSpec,
    TrainingSpec,
    Tuning,
)

UNCHANGED = {"label_noise": "0", "data_fraction": "1"}
"""what trainings have where nothing is asked for"""
MOST_STEPS = 10**8
"""of a training; more are a slip of the finger"""


def checked(study: Study, where: str) -> Study:
    """The study itself, if its parts go together.

    Raises:
        InputError: they don't; the message says which.
    """
    if (study.trained is None) == (study.external is None):
        raise InputError(
            f"{where}: give either [train], for networks to be trained, or [checkpoints], for "
            "networks made elsewhere"
        )
    made = study.external
    if made is not None and not (made.pattern or made.names or made.runs):
        raise InputError(f"{where}: [checkpoints] needs a pattern of files, names, or runs")
    if not study.analyses:
        raise InputError(f"{where}: needs at least one [[analysis]]")
    if study.trained is not None:
        _check_amounts(study.trained, f"{where}: [train]")
    _distinct(where, "[[method]] name", [m.name for m in study.methods])
    _distinct(where, "[[analysis]] name", [a.name for a in study.analyses])
    _distinct(where, "[[claim]] name", [c.name for c in study.claims])
    _distinct(where, "figures", study.figures)
    _distinct(where, "tables", study.tables)
    _distinct(where, "[statistics] tests", study.statistics.tests)
    _check_limit(study.tested.limit, f"{where}: [test]")
    _check_unattacked(study.tested, f"{where}: [test]")
    for analysis in study.analyses:
        if not analysis.name.strip() or {*analysis.name} & {*"/\\"}:  # it names a file
            raise InputError(f"{where}: [[analysis]] name {analysis.name!r}: must have no slash")
        _check_analysis(study, analysis, f"{where}: analysis {analysis.name!r}")
    for claim in study.claims:
        _check_claim(study, claim, f"{where}: claim {claim.name!r}")
    if study.tuning is not None:
        _check_tuning(study.tuning, study, where)
    if study.trained is not None:
        _check_trained(study, study.trained, where)
    return study


def _check_trained(study: Study, trained: TrainingSpec, where: str) -> None:
    if not study.methods or not trained.seeds:
        raise InputError(f"{where}: [train] needs seeds, and at least one [[method]]")
    _known(where, "baseline", study.baseline, [m.name for m in study.methods])
    _distinct(where, "[train] seeds", trained.seeds)
    _check_seeds(trained.seeds, f"{where}: [train] seeds")
    if study.statistics.unit == "network" and len(trained.seeds) > 1:
        raise InputError(
            f'{where}: [statistics] unit "network" takes one network of a method, but [train] has '
            f"{len(trained.seeds)} seeds; leave one, or leave the unit out"
        )
    counts = {len(m.choose) for m in study.methods}
    if len(counts) > 1:
        said = ", ".join(f"{m.name} {len(m.choose)}" for m in study.methods)
        raise InputError(
            f"{where}: every method needs the same number of configurations to choose from, but "
            f"there are {said}"
        )
    if counts == {0}:
        raise InputError(f"{where}: choose = [] leaves no configuration; leave it out")
    if counts != {1} and study.tuning is None:
        raise InputError(f"{where}: configurations to choose from need a [tuning]")


def _check_amounts(trained: TrainingSpec, where: str) -> None:
    if trained.steps < 1 or trained.batch_size < 1:
        raise InputError(f"{where} steps and batch_size must be above 0")
    if trained.steps > MOST_STEPS:
        raise InputError(f"{where} steps {trained.steps}: must be at most {MOST_STEPS:,}")
    _distinct(where.rpartition(": ")[0], "[train] snapshots", trained.snapshots)
    for number in trained.snapshots:
        if number < 1:
            raise InputError(f"{where} snapshots {number}: passes are numbered from 1")
    held = fraction(trained.hold_out, f"{where} hold_out") if trained.hold_out else Fraction(0)
    if held < 0:
        raise InputError(f"{where} hold_out {trained.hold_out}: must not be negative")
    if held > 1 and held.denominator > 1:
        raise InputError(f"{where} hold_out {trained.hold_out}: a share below 1, or whole images")


def _holds_none(trained: TrainingSpec) -> bool:
    """Whether nothing is held out, however that is written."""
    return bool(trained.hold_out) and not fraction(trained.hold_out, "hold_out")


def _check_tuning(tuning: Tuning, study: Study, where: str) -> None:
    chosen = any(len(m.choose) > 1 for m in study.methods)
    if tuning.seed is None and not tuning.every_seed and (chosen or not tuning.recorded_score):
        raise InputError(f"{where}: [tuning] needs a seed, or every_seed = true")
    if tuning.every_seed and all(len(m.choose) == 1 for m in study.methods):
        raise InputError(
            f"{where}: [tuning] every_seed: no method has configurations to choose from"
        )
    if tuning.seed is not None:
        _check_seeds([tuning.seed], f"{where}: [tuning] seed")
        if study.trained is not None and tuning.seed in study.trained.seeds:
            raise InputError(f"{where}: [tuning] seed {tuning.seed} is also one of the compared")
    if tuning.test_last == "by seed" and chosen and not tuning.every_seed:
        raise InputError(
            f'{where}: [tuning] test_last = "by seed": one choice holds for all seeds; '
            "give every_seed = true, or test_last = true"
        )
    _check_scores(tuning, study, where)
    _distinct(where, "[tuning] at", tuning.at)
    for level in tuning.at:
        _known(where, "[tuning] at", level, study.analyses[0].levels)


def _check_scores(tuning: Tuning, study: Study, where: str) -> None:
    """There are held-out images to score by, and configurations to drop."""
    if tuning.recorded_score and (study.trained is None or _holds_none(study.trained)):
        raise InputError(f"{where}: [tuning] scores are of held-out images; change hold_out")
    if tuning.halving and all(len(m.choose) == 1 for m in study.methods):
        raise InputError(f"{where}: [tuning] halving: there are no configurations to drop")
    before = 0.0
    for rung in tuning.halving:
        if not before < rung.after < 1 or not 0 < rung.keep < 1:
            raise InputError(
                f"{where}: [tuning] halving after {rung.after:g}, keep {rung.keep:g}: must be "
                "shares between 0 and 1, and each rung after the one before"
            )
        before = rung.after


def _check_seeds(seeds: Sequence[int], where: str) -> None:
    for seed in seeds:
        if seed < 0:
            raise InputError(f"{where}: {seed} must not be negative")


def _check_limit(limit: int | None, where: str) -> None:
    if limit is not None and limit < 2:
        raise InputError(f"{where} limit {limit}: must be at least 2: one image has no spread")


def _check_unattacked(tested: TestSpec, where: str) -> None:
    """Attacks belong to analyses: accuracies of any other than these are clean ones."""
    if tested.protocol != "clean" or tested.norm is not None:
        name = "norm" if tested.protocol == "clean" else "protocol"
        raise InputError(
            f"{where} {name}: has no effect; attacks belong to an [[analysis]] with "
            'factor = "epsilon"'
        )


def _check_analysis(study: Study, analysis: Analysis, where: str) -> None:
    names = [m.name for m in study.methods]
    _distinct(where, "methods", analysis.methods)
    _distinct(where, "seeds", analysis.seeds)
    for name in analysis.methods if names else ():
        _known(where, "methods", name, names)
    if study.trained is not None:
        _known(where, "factor", analysis.factor, [*TRAINED, "passes", "epsilon", "cost"])
        if analysis.factor in (*TRAINED, "passes") and not analysis.levels:
            raise InputError(f"{where}: levels are missing")
        for seed in analysis.seeds:
            if seed not in study.trained.seeds:
                raise InputError(f"{where}: seed {seed} is not among those of [train]")
    if analysis.factor == "epsilon" and not analysis.protocol:
        raise InputError(f"{where}: the factor epsilon needs a protocol")
    _check_effect(analysis, where)
    _check_passes(study, analysis, where)
    _check_delta(analysis.delta or 0.0, where)
    _check_limit(analysis.limit, f"{where}:")
    _check_levels(analysis.factor, analysis.levels, where)
    for factor in TRAINED:
        _check_levels(factor, [getattr(analysis, factor)], where)
    if analysis.surrogate:
        _known(where, "surrogate", analysis.surrogate, names)
        if study.tuning is None or study.tuning.seed is None:
            raise InputError(f"{where}: a surrogate is trained with [tuning]'s seed; give one")


def _check_effect(analysis: Analysis, where: str) -> None:
    """Nothing is asked for that the factor leaves without effect."""
    factor = analysis.factor
    if factor in TRAINED and getattr(analysis, factor) != UNCHANGED[factor]:
        raise InputError(f"{where}: {factor} is the factor, whose levels are given by levels")
    if factor == "epsilon":
        return
    for key in ("protocol", "norm", "surrogate"):
        if getattr(analysis, key):
            raise InputError(
                f"{where}: {key} has no effect where the factor is {factor}; for accuracy under "
                'attack, give an [[analysis]] with factor = "epsilon"'
            )


def _check_passes(study: Study, analysis: Analysis, where: str) -> None:
    """An analysis along a training asks for weights that the training keeps."""
    if study.trained is None:
        if analysis.passes:
            raise InputError(f"{where}: passes are kept by networks that are trained in the study")
        return
    along = analysis.factor == "passes"
    if analysis.passes and analysis.factor in ("passes", "cost"):
        raise InputError(f"{where}: passes do not go with the factor {analysis.factor}")
    if analysis.passes == CHOSEN and _holds_none(study.trained):
        raise InputError(f"{where}: without held-out images no pass is chosen; change hold_out")
    kept = [str(number) for number in study.trained.snapshots]
    for passes in analysis.levels if along else (analysis.passes,):
        if not kept and passes:
            raise InputError(f"{where}: passes need [train] snapshots, the passes that are kept")
        if passes and (along or passes != CHOSEN):
            _known(where, "passes", passes, kept)


def _check_levels(factor: str, levels: Sequence[str], where: str) -> None:
    """Each within the factor's range, and no number twice, however it is written."""
    seen: dict[tuple[Fraction, str], str] = {}
    for text in levels:
        if factor == "epsilon":
            parse_epsilon(text, f"{where}: level")
        else:
            fraction(text, f"{where}: level")
        key = budget_key(text)
        if key in seen:
            raise InputError(f"{where}: levels {seen[key]} and {text} are the same number")
        seen[key] = text
        value = key[0]
        if (wrong := outside(factor, value)) is not None:
            raise InputError(f"{where}: level {text}: {wrong}")


def outside(factor: str, value: Fraction) -> str | None:
    """What is wrong with a level; None: nothing."""
    match factor:
        case "label_noise" if not 0 <= value < 1:
            return "label noise must be from 0 to below 1"
        case "data_fraction" if not 0 < value <= 1:
            return "a data fraction must be above 0 and at most 1"
    return None


def _check_delta(delta: float, where: str) -> None:
    if not 0 <= delta < 100:
        raise InputError(f"{where}: delta {delta:g}: must be points, from 0 to below 100")


def _check_claim(study: Study, claim: Claim, where: str) -> None:
    if claim.a == claim.b:
        raise InputError(f"{where}: compares {claim.a!r} with itself; a and b must differ")
    _check_delta(claim.delta, where)
    if claim.says == "equivalent" and not claim.delta:
        raise InputError(f"{where}: delta must be above 0 points to claim equivalence")
    if claim.says == "ratio":
        _check_bounds(claim.bounds, where)
    if not claim.reason:
        raise InputError(f"{where}: give the reason for its delta or bounds")
    analysis = next((a for a in study.analyses if a.name == claim.analysis), None)
    _check_levels(analysis.factor if analysis else "", claim.levels, where)
    if analysis is None:
        _check_elsewhere(study, claim, where)
    else:
        _check_tested(study, claim, analysis, where)


def _check_bounds(bounds: Sequence[float], where: str) -> None:
    if len(bounds) != 2:
        raise InputError(f"{where}: a ratio needs bounds = [lowest, highest]")
    if not 0 < bounds[0] < bounds[1] < math.inf:
        low, high = bounds
        raise InputError(
            f"{where}: bounds [{low:g}, {high:g}]: must be above 0, finite, and the lowest first"
        )


def _check_elsewhere(study: Study, claim: Claim, where: str) -> None:
    """A claim about an analysis of another study is "not tested" here; one misspelt is refused."""
    # a known name with words added, such as cifar10-label-noise, is meant as it stands
    others = [a.name for a in study.analyses if f"-{a.name}-" not in f"-{claim.analysis}-"]
    unknown = UnknownName(
        "analysis",
        claim.analysis,
        others,
        "where another study's analysis is meant, its name must be less similar",
    )
    if unknown.close is not None:
        raise InputError(f"{where}: {unknown}")


def _check_tested(study: Study, claim: Claim, analysis: Analysis, where: str) -> None:
    """What a claim says can be read off its analysis."""
    if (claim.says == "ratio") != (analysis.factor == "cost"):
        measured = "times" if analysis.factor == "cost" else "accuracies"
        fitting = '"ratio"' if analysis.factor == "cost" else '"better" or "equivalent"'
        raise InputError(
            f"{where}: says {claim.says!r}, but the analysis {analysis.name!r} has {measured}, of "
            f"which a claim says {fitting}"
        )
    if not study.methods:
        return
    for name in (claim.a, claim.b):
        _known(where, "method", name, analysis.methods or [m.name for m in study.methods])
    # without levels an analysis has those that are there, which are known when it is judged
    keys = list(map(budget_key, analysis.levels))
    for level in claim.levels if keys else ():
        if budget_key(level) not in keys:
            _known(where, "level", level, analysis.levels)


def _known(where: str, what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise InputError(f"{where}: {UnknownName(what, name, known)}")


def _distinct(where: str, what: str, values: Sequence[object]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise InputError(f"{where}: {what}: {value} occurs {count} times")
