"""A verdict on fewer seeds than planned says so, wherever it is shown."""

import csv
import io
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from helpers.evaluations import evaluation

from robustkit import record, reporting, spec
from robustkit.analysis.evidence import collect, read_evidence
from robustkit.analysis.findings import FIRST, NOT_YET, Findings, Number
from robustkit.analysis.judge import judge_study
from robustkit.display.results import view
from robustkit.study.findings import MISSING

STUDY = """
title    = "t"
question = "q"
baseline = "b"

[test]
data = "mnist5k"

[[analysis]]
name   = "noise"
factor = "label_noise"
levels = ["0", "0.4"]

[[analysis]]
name     = "attacked"
factor   = "epsilon"
protocol = "pgd"
levels   = ["0.1", "0.2"]
"""
TRAINED = """
[train]
model = "lenet5"
data  = "mnist5k"
seeds = [0, 1, 2, 3, 4]
steps = 10
"""
CLAIM = """
[[claim]]
name     = "{name}"
text     = "a is better"
source   = "s"
reason   = "r"
analysis = "{analysis}"
says     = "better"
a        = "a"
b        = "b"
delta    = 1.0
levels   = {levels}
"""
PLACES = [
    *product(("noise",), "abc", ("0", "0.4"), range(5)),
    *product(("attacked",), "abc", ("",), range(5)),
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Records by method and seed; a is better than b."""
    folder = tmp_path_factory.mktemp("runs")
    paths = {}
    for method, seed in product("abc", range(5)):
        strength = {"a": 0.2, "b": 0.15, "c": 0.15}[method]
        made = evaluation(f"{method}{seed}", n=80, seed=seed, strength=strength)
        paths[method, seed] = folder / f"{method}{seed}.parquet"
        record.Blocks(paths[method, seed]).finish(made.header, made.run, made.table)
    return paths


def study_of(tmp_path, trained=True):
    text = STUDY + (TRAINED if trained else '[checkpoints]\nruns = "runs"\n')
    text += "".join(f'[[method]]\nname = "{m}"\nloss = "hinge"\n' for m in "abc" if trained)
    text += CLAIM.format(name="all", analysis="noise", levels=[])
    text += CLAIM.format(name="one", analysis="noise", levels='["0.40"]')
    text += CLAIM.format(name="attack", analysis="attacked", levels='["0.2"]')
    (tmp_path / "made.toml").write_text(text)
    return spec.load_study(str(tmp_path / "made.toml"))


def judged(study, paths, reason):
    """The outcome where `reason(place)` says why there is no number; None: it was never planned."""
    numbers = [
        Number(*place, None if why else paths[place[1], place[3]], why)
        for place in PLACES
        if (why := reason(*place)) is not None
    ]
    fixed = {"Study": {"claims fixed": FIRST}}
    asked = ({"file": study.text, "changes": {}, "digest": study.digest, "rules": ["chance"]},)
    return judge_study(study, Findings(numbers, provenance=fixed, asked=asked))


FAILED = "training failed: the loss became NaN"


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (lambda n, m, level, s: "", ("", "", "")),
        (lambda n, m, level, s: FAILED if m == "c" else "", ("", "", "")),
        (
            lambda n, m, level, s: FAILED if (m, s) == ("a", 4) else "",
            ("4 of 5 planned seeds; 1 failed",) * 3,
        ),
        (
            lambda n, m, level, s: FAILED if (m, s) in {("a", 4), ("b", 0)} else "",
            ("3 of 5 planned seeds; 2 failed",) * 3,
        ),
        (
            lambda n, m, level, s: FAILED if (m, level, s) == ("a", "0", 4) else "",
            ("4 of 5 planned seeds; 1 failed", "", ""),
        ),
        (lambda n, m, level, s: MISSING if s > 1 else "", ("interim: 2 of 5 planned seeds",) * 3),
        # a configuration is still to be chosen
        (
            lambda n, m, level, s: None if (m, s) == ("b", 3) else "",
            ("interim: 4 of 5 planned seeds",) * 3,
        ),
        (
            lambda n, m, level, s: {3: "evaluation failed: no memory", 4: "not yet evaluated"}.get(
                s, ""
            ),
            ("interim: 3 of 5 planned seeds; 1 failed",) * 3,
        ),
        (lambda n, m, level, s: None, ("interim: 0 of 5 planned seeds",) * 3),
    ],
)
def test_a_judgement_says_which_planned_seeds_it_lacks(tmp_path, paths, reason, told):
    found = judged(study_of(tmp_path), paths, reason).judgements
    assert tuple(one.lacking for one in found) == told
    assert MISSING.startswith(NOT_YET)


def test_networks_made_elsewhere_are_planned_where_they_were_found(tmp_path, paths):
    study = study_of(tmp_path, trained=False)
    for why, told in ((None, ""), ("evaluation failed: x", "4 of 5 planned seeds; 1 failed")):
        found = judged(study, paths, lambda n, m, _, s, w=why: w if (m, s) == ("a", 4) else "")
        assert [one.lacking for one in found.judgements] == [told] * 3


@pytest.mark.thorough
def test_a_seed_that_is_missing_is_told_wherever_the_verdict_is(tmp_path, paths):
    study = study_of(tmp_path)
    whole = judged(study, paths, lambda *place: "")
    part = judged(study, paths, lambda n, m, _, s: FAILED if (n, m, s) == ("noise", "b", 2) else "")
    said = "4 of 5 planned seeds; 1 failed"
    for outcome, often in ((whole, 0), (part, 2)):
        files = reporting.write(replace(outcome, figures=()), tmp_path / f"report{often}")
        page = files.page.read_text()
        assert page.count(f'<span class="range">{said}</span>') == often
        assert ("On fewer seeds than planned: 2." in page) is bool(often)
        assert (files.folder / "tables" / "claims.tex").read_text().count(f"({said})") == often
        rows = csv.DictReader(io.StringIO((files.folder / "numbers.csv").read_text()))
        claims = [row["unit"] for row in rows if row["section"] == "claim" and row["verdict"]]
        assert claims.count(said) == often
        assert [f"({said})" in row[1] for row in view(outcome).rows].count(True) == often


def test_a_published_verdict_that_a_lost_seed_turns_says_so():
    """Found by a review: undecided with five seeds, contradicted where one diverged."""
    kept = read_evidence(Path(__file__).parents[1] / "reports/elsayed2018-cifar10/evidence.parquet")
    claims = tuple(claim for claim in kept.study.claims if claim.name == "7a")
    study = replace(kept.study, claims=claims)
    for reason, lacking in (("", ""), (FAILED, "4 of 5 planned seeds; 1 failed")):
        numbers = [
            n._replace(path=None, reason=reason)
            if reason and (n.method, n.seed) == ("l2-margin", 4)
            else n
            for n in kept.findings.numbers
        ]
        (found,) = judge_study(study, replace(kept.findings, numbers=numbers)).judgements
        assert found.lacking == lacking
        assert found.verdict == ("contradicted" if reason else "undecided")


def test_evidence_remembers_what_was_planned(tmp_path, paths):
    study = study_of(tmp_path)
    numbers = [
        Number(*place, None if place[3] > 2 else paths[place[1], place[3]], MISSING)
        for place in PLACES
    ]
    again = collect(study, Findings(numbers)).findings
    lacking = [one.lacking for one in judge_study(study, again).judgements]
    assert lacking == ["interim: 3 of 5 planned seeds"] * 3
