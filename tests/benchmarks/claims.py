"""The summary page of the published studies, `reports/README.md`.

    python tests/benchmarks/claims.py            writes it
    python tests/benchmarks/claims.py --check    says whether it is as it would be written

Differences, intervals, verdicts and numbers of seeds are those of each study's `numbers.csv`. Which
level decides a claim, and how many seeds an open one would take, follows from its
`evidence.parquet`, by the same rules as its report.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

from robustkit.analysis.evidence import NAME, read_evidence
from robustkit.analysis.judge import judge_study
from robustkit.analysis.outcome import Judgement
from robustkit.reporting.wording import signed, tenths
from robustkit.spec import Study, TrainingSpec, load_study
from robustkit.training.defaults import default_recipe

REPORTS = Path(__file__).parents[2] / "reports"
IMAGES = {"mnist": 60_000, "cifar10": 50_000}
"""training images, those held out included"""
QUESTIONS = {
    "1": "At 80 % label noise on MNIST the l2 margin reaches 96.4 %, cross-entropy 93.9 %",
    "2": "The margins beat cross-entropy over the whole range of label noise; the paper's own "
    "figure looks about the same at 0 and at 60 %",
    "3": "On CIFAR-10 the l2 margin is better over the whole range of label noise",
    "4": "The margin costs 20 to 60 % more than cross-entropy",
    "5": "Without label noise the margin makes no difference",
    "6": "Large-margin softmax is better than softmax",
    "7": "With fewer training images, and under attack, the margins are better",
    "compression": "Compressed gradients change neither accuracy nor robustness",
}
"""what a review says of Elsayed et al. (2018) and Liu et al. (2016), by number; and a question of
this project's own"""
PAPER = {"better": "better", "equivalent": "no difference"}


@dataclass(frozen=True, slots=True)
class Row:
    """A claim in one published study."""

    question: str
    study: str
    judgement: Judgement
    verdict: str
    paper: str
    ours: str
    where: str
    units: str
    length: str
    network: str
    pair: str
    """the two methods, and the analysis that compares them"""


# --- read -----------------------------------------------------------------------------------------


def rows(reports: Path) -> list[Row]:
    """Every claim of every published study, by question and study."""
    found = [row for path in sorted(reports.glob(f"*/{NAME}")) for row in _rows(path)]
    return sorted(found, key=lambda row: list(QUESTIONS).index(row.question))


def _rows(path: Path) -> Iterator[Row]:
    kept = read_evidence(path)
    with (path.parent / "numbers.csv").open(encoding="utf-8", newline="") as file:
        numbers = list(csv.DictReader(file))
    for judgement in judge_study(kept.study, kept.findings).judgements:
        own = [row for row in numbers if row["panel"] == judgement.name]
        (claim,) = (row for row in own if row["section"] == "claim" and row["verdict"])
        level = judgement.decisive.level if judgement.decisive else None
        decisive = [r for r in own if r["section"] == "comparison" and r["level"] == level]
        asked = next(c for c in kept.study.claims if c.name == judgement.name)
        factor = {a.name: a.factor for a in kept.study.analyses}.get(asked.analysis)
        share = level if level and factor == "data_fraction" else "1"
        yield Row(
            _question(kept.study.name, judgement.name),
            kept.study.name,
            judgement,
            claim["verdict"],
            _paper(kept.study, judgement),
            _ours(claim, decisive),
            judgement.where,
            decisive[0]["unit"] if decisive else _rounds(claim),
            _length(kept.study.trained, Fraction(share)),
            kept.study.trained.model if kept.study.trained else "",
            f"{asked.a} vs {asked.b} ({asked.analysis})",
        )


def _question(study: str, claim: str) -> str:
    return "compression" if study.startswith("gradient-compression") else claim[0]


def _paper(study: Study, judgement: Judgement) -> str:
    """What the paper says, as the study's file quotes it."""
    if judgement.bounds is not None:
        return f"× {judgement.bounds[0]:g} to {judgement.bounds[1]:g}"
    quoted = judgement.text.partition("(")[2].partition(")")[0]
    says = next(claim.says for claim in study.claims if claim.name == judgement.name)
    return quoted if "%" in quoted else PAPER.get(says, "")


def _ours(claim: dict[str, str], decisive: Sequence[dict[str, str]]) -> str:
    """The difference in points, or the ratio, with its interval."""
    if claim["quantity"] == "ratio":
        value, low, high = (f"{float(claim[key]):.2f}" for key in ("value", "low", "high"))
        return f"× {value} ({low} to {high})"
    if not decisive or not decisive[0]["value"]:
        return ""
    value, low, high = (float(decisive[0][key]) for key in ("value", "low", "high"))
    digits = 2  # an end that is told as 0 would not say on which side it lies
    while digits < 5 and any(end and not round(100 * end, digits) for end in (low, high)):
        digits += 1
    return f"{signed(value, digits)} ({tenths(low, digits)} to {tenths(high, digits)})"


def _rounds(claim: dict[str, str]) -> str:
    return f"{claim['n']} rounds" if claim["n"] else ""


def _length(trained: TrainingSpec | None, fraction: Fraction) -> str:
    """Passes that a training takes over the data, of which it has so much."""
    if trained is None or trained.data not in IMAGES:
        return ""
    held = Fraction(trained.hold_out) if trained.hold_out else None
    share = held if held is not None else default_recipe("", trained.data).hold_out
    images = IMAGES[trained.data]
    kept = int(fraction * (images - int(share if share >= 1 else share * images)))
    return f"{trained.steps / ceil(kept / trained.batch_size):,.1f}"


# --- written --------------------------------------------------------------------------------------


def page(found: Sequence[Row], asked: Sequence[Study] = ()) -> str:
    """The summary in Markdown."""
    parts = [OPENING, *_table(found), *_disagreements(found), *_open(found), *_asked(asked)]
    parts.append(CLOSING)
    return "\n".join(parts).rstrip() + "\n"


OPENING = """# The claims, and what became of them

Each row is one claim in one published study, as its file fixed it. Numbers are those of the study's `numbers.csv`: the
difference of accuracy to the baseline in percentage points, or a ratio of times, with its 95 % confidence interval, at
the level that decides the claim. The papers' numbers are quoted from a review's reading of them, as in the studies'
files. A verdict holds for the passes over the data, the network and the seeds beside it, and for no other.
"""
CLOSING = """## Again

    python tests/benchmarks/claims.py

writes this page from the studies' `numbers.csv` and `evidence.parquet`; a test holds every number in it against them.
"""
HEAD = (
    "| claim | paper | here (95 % CI) | decided | verdict | passes | n | network | study |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def _table(found: Sequence[Row]) -> Iterator[str]:
    yield HEAD
    for question, said in QUESTIONS.items():
        own = [row for row in found if row.question == question]
        number = f"{question}: " if question.isdigit() else ""
        if own:
            yield f"| **{number}{said}** |{' |' * 8}"
        for row in own:
            tested = row.verdict != "not tested"
            cells = [
                f"{row.judgement.name}. {row.judgement.text}",
                row.paper,
                row.ours or "–",
                row.where or "–",
                f"**{row.verdict}**",
                row.length if tested and row.length else "–",
                row.units or "–",
                row.network if tested else "–",
                f"[{row.study}]({row.study}/report.html)",
            ]
            yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
    yield ""


def _disagreements(found: Sequence[Row]) -> Iterator[str]:
    """Claims about the same two methods on which studies come to opposite verdicts."""
    yield "## What contradicts what\n"
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in found:
        says = row.paper if row.paper in PAPER.values() else ""
        groups[row.question, row.pair, says].append(row)
    told = False
    for (question, pair, _), own in groups.items():
        if {"holds", "contradicted"} <= {row.verdict for row in own}:
            yield f"- Claim {question}, {pair}:"
            for row in own:
                where = f" {row.where}" if row.where else ""
                yield (
                    f"    - {row.verdict} in {row.study}: {row.ours}{where}; {row.length} passes, "
                    f"{row.units}, {row.network}"
                )
            told = True
    if not told:
        yield "- No two studies come to opposite verdicts on one claim."
    yield ""


def _open(found: Sequence[Row]) -> Iterator[str]:
    """What is undecided, and what it would take."""
    yield "## What remains open\n"
    yield "Numbers of seeds are for a power of 80 %, by an upper 80 % bound of the spread of the seeds there are.\n"
    for row in found:
        one = row.judgement
        if row.verdict == "undecided":
            needs = one.needs.partition(" (power")[0].rstrip(".")
            needs = needs[:1].lower() + needs[1:]
            yield f"- {one.name} in {row.study}: {needs or 'the interval crosses an end of the claimed range'}."
    untested: dict[str, list[str]] = defaultdict(list)
    for row in found:
        if row.verdict == "not tested":
            untested[row.study].append(row.judgement.name)
    for study, names in untested.items():
        yield f"- Not tested in {study}: claims {', '.join(names)}."
    yield ""


def _asked(studies: Sequence[Study]) -> Iterator[str]:
    """What is asked again, by studies whose claims are fixed and whose cells are not all done."""
    if studies:
        yield "## What is asked again\n"
        yield "These studies have a file, with claims, Δ and reasons, and no result yet.\n"
    for study in studies:
        names = "; ".join(claim.name for claim in study.claims)
        told = f"- [{study.name}]({study.name}.toml): {study.title}."
        if trained := study.trained:
            told += (
                f" {trained.steps:,} updates of {trained.batch_size}, {len(trained.seeds)} seeds."
            )
        yield f"{told} Claims: {names}."
    yield ""


def unpublished(reports: Path) -> list[Study]:
    """Studies with claims, made for this machine, that have a file and no report."""
    names = [path.stem for path in sorted(reports.glob("*.toml"))]
    wanted = [name for name in names if not name.endswith(("-small", "-large"))]
    studies = [load_study(name) for name in wanted if not (reports / name / NAME).exists()]
    return [study for study in studies if study.claims]


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--reports", type=Path, default=REPORTS)
    options = parser.parse_args()
    path, text = (
        options.reports / "README.md",
        page(rows(options.reports), unpublished(options.reports)),
    )
    if not options.check:
        path.write_text(text, encoding="utf-8")
        return 0
    same = path.is_file() and path.read_text(encoding="utf-8") == text
    print(f"{path}: {'as it would be written' if same else 'out of date; run this script'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
