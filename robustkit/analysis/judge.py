"""From what was found to what the study says. Reads files; needs no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import inf

from robustkit.analysis.contrast import pair
from robustkit.analysis.findings import BROKE, Findings, Number
from robustkit.analysis.outcome import (
    Cost,
    History,
    Judged,
    Judgement,
    Outcome,
    Regret,
    TransferMatrix,
)
from robustkit.analysis.registration import (
    CHANCE,
    REWORDED,
    Registration,
    registration,
    rule_amendment,
)
from robustkit.analysis.table import AnalysisTable, protocols
from robustkit.results.replicates import Replicates
from robustkit.spec import Analysis, Claim, Study
from robustkit.statistics import Comparison, Estimate, components, mean_over_seeds, plan, ratio
from robustkit.statistics.comparison import AT_CHANCE, capital, listed, times
from robustkit.statistics.power import SEEDS

POWER = 0.8
"""at which it is told what an undecided claim would take"""


def judge_study(study: Study, findings: Findings) -> Outcome:
    """Everything that the study's report says.

    Raises:
        RecordError: rows that are missing, damaged, or of different images.
    """
    tables = {
        a.name: AnalysisTable(study, a, findings) for a in study.analyses if a.factor != "cost"
    }
    judge = _Judge(study, tables, findings, registration(findings))
    judged = tuple(judge.judge(claim) for claim in study.claims)
    return Outcome(
        name=study.name,
        title=study.title,
        question=study.question,
        panels=tuple(table.panel() for table in tables.values()),
        judgements=judged,
        cells=findings.cells,
        histories=tuple(map(_banded, findings.histories)),
        regrets=tuple(map(_estimated, findings.regrets)),
        costs=tuple(_costs(study, tables, findings)),
        matrices=tuple(_matrices(study, tables)),
        galleries=tuple(g for t in tables.values() if (g := t.gallery()) is not None),
        notes=(
            *study.notes,
            *_scope(study),
            *_amended(judged),
            *(note for note in findings.notes if not note.startswith(REWORDED)),
        ),
        protocols=protocols(tables.values()),
        provenance=findings.provenance,
        command=findings.command,
        file=study.text,
        changes=study.changes,
        figures=study.figures,
        tables=study.tables,
        failed=tuple(dict.fromkeys(n.reason for n in findings.numbers if _broke(n))),
    )


def _broke(number: Number) -> bool:
    """Whether a network is there, and its evaluation failed."""
    return number.path is None and number.reason.startswith(BROKE)


def _banded(history: History) -> History:
    """A course with the intervals of its means, where several seeds are known."""
    columns = zip(*history.each, strict=True) if len(history.each) > 1 else ()
    return replace(history, band=tuple(None if None in c else _varying(c) for c in columns))


def _estimated(regret: Regret) -> Regret:
    return replace(regret, estimate=_varying(regret.each))


def _varying(values: Sequence[float]) -> Estimate | None:
    """The mean of shares with an interval; None where nothing varies: one of no length is none."""
    if len(set(values)) < 2:
        return None
    found = mean_over_seeds(values)
    # t's interval is symmetric and does not know that no share or regret lies beyond
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def _scope(study: Study) -> Iterable[str]:
    """What every verdict is about, where that is not the methods."""
    if study.statistics.unit == "network":
        yield (
            "Every verdict is about these very networks; what training them again would give is "
            "not known."
        )


def _amended(judged: Sequence[Judgement]) -> Iterable[str]:
    """Which claims do not stand as they were preregistered."""
    words = [j.name for j in judged if j.registered == "wording amended"]
    tests = [j.name for j in judged if j.registered == "amended"]
    if words:
        yield (
            f"Words of {_claims(words)} were amended; what is judged is as preregistered. Old and "
            "new words stand under Amendments."
        )
    if tests:
        yield f"What is judged of {_claims(tests)} was amended, see Amendments."
    for one in judged:
        if one.without is not None:
            yield (
                f"The verdict on claim {one.name} rests on a rule that is newer than its data; "
                f'without it the verdict would be "{one.without}". See Amendments.'
            )


def _claims(names: Sequence[str]) -> str:
    return f"claim{'s' if len(names) > 1 else ''} {listed(names)}"


# --- claims ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Judge:
    study: Study
    tables: Mapping[str, AnalysisTable]
    findings: Findings
    registration: Registration

    def judge(self, claim: Claim) -> Judgement:
        """What the data say of a claim."""
        if claim.says == "ratio":
            return self._ratio(claim)
        table = self.tables.get(claim.analysis)
        if table is None:
            return self._untested(claim, "this study has no such analysis")
        delta = claim.delta / 100
        # a claim is about methods, of which one network each says nothing
        found = table.compare(claim.a, claim.b, delta, at=claim.levels, seeds=2)
        lacking = table.lacking(claim.a, claim.b, claim.levels)
        if all(one.verdict == "not tested" for one in found):
            untested = self._untested(claim, found[0].reason if found else "no levels")
            return replace(untested, lacking=lacking)
        decide = _better if claim.says == "better" else _equivalent
        verdict = decide(found, delta)
        judged = self._judgement(claim, verdict, _sentence(table, found), delta, found)
        if self.registration.newer(CHANCE):
            every = decide([replace(one, at_chance=False) for one in found], delta)
            judged = _by_newer_rule(judged, every)
        needs, seeds = self._needs(claim, table, found) if verdict == "undecided" else ("", None)
        decisive = _decisive(claim.says, verdict, found)
        where = table.where(decisive.level) if decisive else ""
        return replace(
            judged,
            decisive=decisive,
            where=where,
            percent=table.percent,
            needs=needs,
            seeds_needed=seeds,
            lacking=lacking,
        )

    def _needs(
        self, claim: Claim, table: AnalysisTable, found: Sequence[Comparison]
    ) -> tuple[str, float | None]:
        """How many seeds it would take to decide an undecided claim, where it takes most.

        No number, but why there is none, where the data speak against what a plan assumes.
        """
        delta, better = claim.delta / 100, claim.says == "better"
        goal = "a true difference of " if better else "equivalence within ±"
        goal += f"{claim.delta:.10g} point{'' if claim.delta == 1 else 's'}"
        seeds: list[tuple[float, str]] = []
        for one in _open(claim.says, found, delta) if 0 < delta < 1 else ():
            left, right = table.at(one.a, one.level), table.at(one.b, one.level)
            pairs = pair(left, right) if left and right else None
            if pairs is None or len(pairs[0].seeds) < 2:
                continue
            where = table.where(one.level)
            if against := _against(one, delta, better, f"{goal} {where}"):
                return against, None
            spread = components(*(side.right for side in pairs))
            planned = plan(spread, delta=delta, power=POWER, family=len(table.drawn))
            least = planned.seeds_difference if better else planned.seeds_equivalence
            seeds.append((least or inf, where))
        if not seeds:
            return "", None
        most, where = max(seeds)
        many = f"more than {SEEDS[-1]}" if most == inf else f"{most:.0f}"
        goal = goal if better else f"if there is no difference at all, {goal}"
        return (
            f"{capital(goal)} {where} takes {many} paired seeds to show (power "
            f"{100 * POWER:.0f} %, by an upper 80 % bound of the spread of these seeds).",
            most,
        )

    def _ratio(self, claim: Claim) -> Judgement:
        measured = self.findings.times.get(claim.analysis, {})
        if claim.a not in measured or claim.b not in measured:
            return self._untested(claim, "no times were measured")
        found, (low, high) = ratio(measured[claim.a], measured[claim.b]), claim.bounds
        inside = low <= found.low and found.high <= high
        outside = found.high < low or high < found.low
        verdict: Judged = "holds" if inside else "contradicted" if outside else "undecided"
        value, *ends = times(found, claim.bounds)
        text = (
            f"A training step with {claim.a} takes {value} times one with {claim.b} "
            f"(95 % CI {' to '.join(ends)}; {found.n} rounds in turn on one "
            f"machine, t on logarithms); claimed are {low:g} to {high:g}."
        )
        judged = self._judgement(claim, verdict, text, None)
        return replace(judged, ratio=found, bounds=(low, high))

    def _untested(self, claim: Claim, reason: str) -> Judgement:
        return self._judgement(claim, "not tested", f"Not tested: {reason}.", claim.delta / 100)

    def _judgement(
        self,
        claim: Claim,
        verdict: Judged,
        sentence: str,
        delta: float | None,
        comparisons: tuple[Comparison, ...] = (),
    ) -> Judgement:
        registered, amendments = self.registration.of(claim)
        return Judgement(
            claim.name,
            claim.text,
            claim.source,
            verdict,
            sentence,
            delta,
            claim.reason,
            comparisons,
            registered=registered,
            amendments=amendments,
        )


def _by_newer_rule(judged: Judgement, without: Judged) -> Judgement:
    """A judgement that says what it would be without the rule that is newer than its data."""
    if without == judged.verdict:
        return judged
    amendment = rule_amendment(CHANCE, without, judged.verdict)
    return replace(judged, amendments=(*judged.amendments, amendment), without=without)


def _better(found: Sequence[Comparison], delta: float) -> Judged:
    """Better everywhere; one level at which it is worse, or equivalent, contradicts that."""
    words = {one.verdict for one in found if not one.at_chance}
    if words == {"better"}:
        return "holds"
    return "contradicted" if words & {"worse", "equivalent"} else "undecided"


def _equivalent(found: Sequence[Comparison], delta: float) -> Judged:
    """Equivalent everywhere; one difference that is surely larger than Δ contradicts that."""
    judged = [one for one in found if not one.at_chance]
    if judged and all(one.verdict == "equivalent" for one in judged):
        return "holds"
    return "contradicted" if any(_larger(one, delta) for one in judged) else "undecided"


def _larger(one: Comparison, delta: float) -> bool:
    """Whether a difference is surely larger than Δ, either way."""
    return one.difference is not None and (
        one.difference.low > delta or one.difference.high < -delta
    )


def _decisive(says: str, verdict: Judged, found: Sequence[Comparison]) -> Comparison | None:
    """The comparison that a verdict rests on most, see `Judgement.decisive`."""
    known = [one for one in found if one.difference is not None]
    judged = [one for one in known if not one.at_chance] or known
    match verdict, says:
        case "contradicted", "better":
            against = [one for one in judged if one.verdict in ("worse", "equivalent")]
            return min(against, key=_high, default=None)
        case "contradicted", _:
            against = [one for one in judged if _larger(one, one.delta or 0.0)]
            return max(against, key=lambda one: max(_low(one), -_high(one)), default=None)
        case "undecided", _:
            rest = _open(says, judged, judged[0].delta or 0.0) or judged
            return max(rest, key=lambda one: _high(one) - _low(one), default=None)
    if says == "better":
        return min(judged, key=_low)
    return max(judged, key=lambda one: max(-_low(one), _high(one)))


def _open(says: str, found: Sequence[Comparison], delta: float) -> list[Comparison]:
    """The comparisons that leave a claim undecided."""
    known = [one for one in found if one.difference is not None and not one.at_chance]
    if says == "better":
        return [one for one in known if one.verdict == "inconclusive"]
    return [one for one in known if one.verdict != "equivalent" and not _larger(one, delta)]


def _against(one: Comparison, delta: float, better: bool, goal: str) -> str:
    """Why no number of seeds is told for a goal; "" where one may be.

    A plan is for a true difference of Δ, or for equivalence where there is no difference at all.
    """
    seen = one.difference
    if seen is not None and not better and abs(seen.value) > delta:
        return (
            f"{capital(goal)} is not to be expected of more seeds: the difference seen lies beyond."
        )
    if seen is None or seen.low <= (delta if better else 0.0) <= seen.high:
        return ""
    assumed = "it" if better else "a plan assumes a difference of 0, which"
    return f"No number of seeds is told for {goal}: {assumed} lies outside the interval."


def _low(one: Comparison) -> float:
    return one.difference.low if one.difference else -inf


def _high(one: Comparison) -> float:
    return one.difference.high if one.difference else inf


def _sentence(table: AnalysisTable, found: Sequence[Comparison]) -> str:
    """The comparisons in words: one in full, several by their verdicts."""
    if len(found) == 1:
        return found[0].sentence(where=table.where(found[0].level), after=table.after)
    words: dict[str, list[str]] = {}
    for one in found:
        word = one.word if one.at_chance else f"{one.word}{one.lean}"
        words.setdefault(word, []).append(table.where(one.level))
    short = "; ".join(f"{word} {_listed(levels)}" for word, levels in words.items())
    decides = ", which decides nothing" if AT_CHANCE in words else ""
    return f"{found[0].a} vs {found[0].b}: {short}{decides}."


def _listed(levels: Sequence[str]) -> str:
    """Levels in words, what all begin and end with said once: "at 0 % and 40 % label noise"."""
    rows = [level.split(" ") for level in levels]
    start = _shared(rows)
    end = _shared([row[start:][::-1] for row in rows])
    if len(rows) == 1 or not start:
        return listed(levels)
    after = rows[0][len(rows[0]) - end :]
    unit, after = (after[:1], after[1:]) if after[:1] == ["%"] else ([], after)
    own = [" ".join(row[start : len(row) - end] + unit) for row in rows]
    return " ".join([*rows[0][:start], listed(own), *after])


def _shared(rows: Sequence[Sequence[str]]) -> int:
    """How many words all rows begin with."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return sum(1 for _ in columns)


# --- costs and transfer ---------------------------------------------------------------------------


def _costs(study: Study, tables: Mapping[str, AnalysisTable], findings: Findings) -> Iterable[Cost]:
    """Each method's price beside its gain, at the last level of the first analysis."""
    table = next(iter(tables.values()), None)
    if table is None or not table.levels:
        return
    level = table.levels[-1]
    for measured in findings.times.values():
        for method, seconds in measured.items():
            if method == study.baseline or study.baseline not in measured:
                continue
            (compared,) = table.compare(method, study.baseline, None, at=[level])
            if compared.difference is not None:
                price = ratio(seconds, measured[study.baseline])
                yield Cost(method, price, compared.difference, table.where(level))


def _matrices(study: Study, tables: Mapping[str, AnalysisTable]) -> Iterable[TransferMatrix]:
    """For each attack that was also made by transfer: both ways, at a middle budget."""
    for name, table in tables.items():
        analysis = table.analysis
        own = next(
            (
                other
                for other in tables.values()
                if not other.analysis.surrogate
                and other.analysis.factor == "epsilon"
                and _attacked(study, other.analysis) == _attacked(study, analysis)
            ),
            None,
        )
        if not analysis.surrogate or own is None or not (own.found and table.found):
            continue
        level = table.levels[(len(table.levels) - 1) // 2]
        yield TransferMatrix(
            f"{name}: robust accuracy at ε = {level}",
            ("itself", f"independent {analysis.surrogate} network"),
            table.methods,
            tuple(tuple(_mean(t.at(m, level)) for m in table.methods) for t in (own, table)),
        )


def _attacked(study: Study, analysis: Analysis) -> tuple[object, ...]:
    """What two analyses share where they differ in nothing but the network an attack works on."""
    trained = study.trained.seeds if study.trained else ()
    return (
        analysis.protocol,
        analysis.norm,
        analysis.label_noise,
        analysis.data_fraction,
        analysis.passes,
        analysis.limit or study.tested.limit,
        sorted(analysis.seeds or trained),
    )


def _mean(found: Replicates | None) -> float | None:
    return None if found is None else float(found.right.mean())
