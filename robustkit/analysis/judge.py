"""From what was found to what the study says. Reads files; needs no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from robustkit.analysis.findings import Findings
from robustkit.analysis.outcome import (
    Cost,
    Judged,
    Judgement,
    Outcome,
    TransferMatrix,
)
from robustkit.analysis.table import AnalysisTable
from robustkit.protocol import protocol_in_words
from robustkit.results.replicates import Replicates
from robustkit.spec import Claim, Study
from robustkit.statistics import (
    Comparison,
    ratio,
)


def judge_study(study: Study, findings: Findings) -> Outcome:
    """Everything that the study's report says.

    Raises:
        RecordError: rows that are missing, damaged, or of different images.
    """
    tables = {
        a.name: AnalysisTable(study, a, findings) for a in study.analyses if a.factor != "cost"
    }
    judged = tuple(_Judge(study, tables, findings).judge(claim) for claim in study.claims)
    return Outcome(
        name=study.name,
        title=study.title,
        question=study.question,
        panels=tuple(table.panel() for table in tables.values()),
        judgements=judged,
        cells=findings.cells,
        histories=findings.histories,
        costs=tuple(_costs(study, tables, findings)),
        matrices=tuple(_matrices(study, tables)),
        galleries=tuple(g for t in tables.values() if (g := t.gallery()) is not None),
        notes=(*study.notes, *_scope(study), *findings.notes),
        protocols={
            protocol_in_words(table.header["protocol"]): table.header["protocol"]
            for table in tables.values()
            if table.header and table.header["protocol"]["name"]
        },
        provenance=findings.provenance,
        command=findings.command,
        file=study.text,
        changes=study.changes,
        figures=study.figures,
        tables=study.tables,
    )


def _scope(study: Study) -> Iterable[str]:
    """What every verdict is about, where that is not the methods."""
    if study.statistics.unit == "network":
        yield (
            "Every verdict is about these very networks: what training them again would give, is "
            "not known."
        )


# --- claims ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Judge:
    study: Study
    tables: Mapping[str, AnalysisTable]
    findings: Findings

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
        if all(one.verdict == "not tested" for one in found):
            return self._untested(claim, found[0].reason if found else "no levels")
        verdict = (_better if claim.says == "better" else _equivalent)(found, delta)
        return self._judgement(claim, verdict, _sentence(table, found), delta, found)

    def _ratio(self, claim: Claim) -> Judgement:
        times = self.findings.times.get(claim.analysis, {})
        if claim.a not in times or claim.b not in times:
            return self._untested(claim, "no times were measured")
        found, (low, high) = ratio(times[claim.a], times[claim.b]), claim.bounds
        inside = low <= found.low and found.high <= high
        outside = found.high < low or high < found.low
        verdict: Judged = "holds" if inside else "contradicted" if outside else "undecided"
        text = (
            f"A training step with {claim.a} takes {found.value:.2f} times one with {claim.b} "
            f"(95 % interval {found.low:.2f} to {found.high:.2f}; {found.n} rounds in turn on one "
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
        return Judgement(
            claim.name,
            claim.text,
            claim.source,
            verdict,
            sentence,
            delta,
            claim.reason,
            comparisons,
        )


def _better(found: Sequence[Comparison], delta: float) -> Judged:
    """Better everywhere; one level at which it is worse, or equivalent, contradicts that."""
    words = {one.verdict for one in found}
    if words == {"better"}:
        return "holds"
    return "contradicted" if words & {"worse", "equivalent"} else "undecided"


def _equivalent(found: Sequence[Comparison], delta: float) -> Judged:
    """Equivalent everywhere; one difference that is surely larger than Δ contradicts that."""
    if all(one.verdict == "equivalent" for one in found):
        return "holds"
    known = [one.difference for one in found if one.difference is not None]
    larger = any(d.low > delta or d.high < -delta for d in known)
    return "contradicted" if larger else "undecided"


def _sentence(table: AnalysisTable, found: Sequence[Comparison]) -> str:
    """The comparisons in words: one in full, several by their verdicts and then each in full."""
    said = [one.sentence(where=table.where(one.level), after=table.after) for one in found]
    if len(said) == 1:
        return said[0]
    words: dict[str, list[str]] = {}
    for one in found:
        words.setdefault(one.verdict, []).append(table.where(one.level))
    short = "; ".join(f"{word} {_listed(levels)}" for word, levels in words.items())
    return f"{found[0].a} beside {found[0].b}: {short}."


def _listed(words: Sequence[str]) -> str:
    """Levels in words, what they begin with said once."""
    first, *rest = words
    start = first[: first.rfind(" ", 0, max(1, _digits(first))) + 1]
    shorter = [word.removeprefix(start) for word in rest]
    return ", ".join([first, *shorter])


def _digits(text: str) -> int:
    """Where the first digit stands."""
    return next((i for i, letter in enumerate(text) if letter.isdigit()), 0)


# --- costs and transfer ---------------------------------------------------------------------------


def _costs(study: Study, tables: Mapping[str, AnalysisTable], findings: Findings) -> Iterable[Cost]:
    """Each method's price beside its gain, at the last level of the first analysis."""
    table = next(iter(tables.values()), None)
    if table is None or not table.levels:
        return
    level = table.levels[-1]
    for times in findings.times.values():
        for method, seconds in times.items():
            if method == study.baseline or study.baseline not in times:
                continue
            (compared,) = table.compare(method, study.baseline, None, at=[level])
            if compared.difference is not None:
                price = ratio(seconds, times[study.baseline])
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
                and other.analysis.protocol == analysis.protocol
                and other.analysis.norm == analysis.norm
                and other.analysis.label_noise == analysis.label_noise
            ),
            None,
        )
        if not analysis.surrogate or own is None or not (own.found and table.found):
            continue
        level = table.levels[(len(table.levels) - 1) // 2]
        yield TransferMatrix(
            f"{name}: accuracy at ε = {level}",
            ("the network itself", f"another of {analysis.surrogate}"),
            table.methods,
            tuple(tuple(_mean(t.at(m, level)) for m in table.methods) for t in (own, table)),
        )


def _mean(found: Replicates | None) -> float | None:
    return None if found is None else float(found.right.mean())
