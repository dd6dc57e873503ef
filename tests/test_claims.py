"""The summary of the published studies: every number in it stands in a study's `numbers.csv`."""

import csv
import re
import tomllib
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from robustkit.analysis.evidence import read_evidence
from robustkit.statistics import components, plan

REPORTS = Path(__file__).parents[1] / "reports"
ROW = re.compile(r"^\| (?P<name>[^.*|]+)\. (?P<text>.*?) \| (?P<rest>.*) \|$")
NUMBER = re.compile(r"[+−-]?\d+(?:\.\d+)?")
KEPT = {"mnist": 55_000, "cifar10": 45_000}
"""training images, less those held out"""


def numbers_of(text):
    return [float(found.replace("−", "-")) for found in NUMBER.findall(text)]


@pytest.fixture(scope="module")
def page():
    return (REPORTS / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def claims(page):
    """The rows of the table, by study and claim."""
    found = {}
    for match in filter(None, map(ROW.match, page.splitlines())):
        cells = [cell.strip() for cell in match["rest"].split("|")]
        study = re.fullmatch(r"\[(.+)\]\(\1/report\.html\)", cells[-1])[1]
        assert (study, match["name"]) not in found
        found[study, match["name"]] = (match["text"], *cells[:-1])
    return found


@pytest.fixture(scope="module")
def numbers():
    """The rows of each published study's numbers."""
    found = {}
    for path in REPORTS.glob("*/numbers.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            found[path.parent.name] = list(csv.DictReader(file))
    return found


def verdicts(rows):
    return {r["panel"]: r for r in rows if r["section"] == "claim" and r["verdict"]}


def test_every_claim_of_every_study_is_there_with_its_verdict(claims, numbers):
    published = {(study, name) for study, rows in numbers.items() for name in verdicts(rows)}
    assert set(claims) == published
    for (study, name), (text, *_, verdict, _, _, _) in claims.items():
        row = verdicts(numbers[study])[name]
        assert (text, verdict) == (row["note"], f"**{row['verdict']}**")


def test_every_difference_and_ratio_is_a_row_of_its_study(claims, numbers):
    for (study, name), (_, _, ours, where, verdict, _, units, _) in claims.items():
        claim = verdicts(numbers[study])[name]
        if claim["quantity"] == "ratio":
            expected = [float(claim[key]) for key in ("value", "low", "high")]
            assert units == f"{claim['n']} rounds"
        elif ours == "–":
            assert verdict == "**not tested**"
            continue
        else:
            (row,) = (
                row
                for row in numbers[study]
                if (row["section"], row["panel"]) == ("comparison", name)
                and re.search(rf"\b{re.escape(level_as_said(row['level'], where))}( |$)", where)
            )
            expected = [100 * float(row[key]) for key in ("value", "low", "high")]
            assert units == row["unit"]
        assert numbers_of(ours) == pytest.approx(expected, abs=0.0051)


def level_as_said(level, where):
    """As in "at 80 % label noise", "under ifgsm at ε = 1/255"."""
    return level if "ε" in where else f"{100 * float(level):g} %"


def test_passes_and_network_are_those_of_the_study(claims):
    for (study, _), (*_, where, verdict, passes, _, network) in claims.items():
        asked = tomllib.loads((REPORTS / f"{study}.toml").read_text(encoding="utf-8"))["train"]
        if verdict == "**not tested**":
            assert (passes, network) == ("–", "–")
            continue
        part = re.search(r"with ([\d.]+) % of the training images", where)
        images = int(KEPT[asked["data"]] * Fraction(part[1]) / 100 if part else KEPT[asked["data"]])
        updates = ceil(images / asked["batch_size"])
        assert (passes, network) == (f"{asked['steps'] / updates:,.1f}", asked["model"])


def test_what_remains_open_names_every_undecided_claim_and_the_seeds_it_takes(
    page, claims, numbers
):
    """With what a number of seeds assumes, and none where the data speak against that."""
    part = page.partition("## What remains open")[2].partition("## ")[0]
    told = dict(re.findall(r"^- (.+? in \S+): (.*)\.$", part, re.MULTILINE))
    undecided = {
        f"{name} in {study}" for (study, name), row in claims.items() if "undecided" in row[4]
    }
    assert {key for key in told if not key.startswith("Not")} == undecided
    for where, said in told.items():
        name, _, study = where.partition(" in ")
        if many := re.search(r"(\w.*) takes (.+) paired seeds to show$", said):
            (row,) = (
                r
                for r in numbers[study]
                if r["panel"] == name and r["quantity"].startswith("paired seeds needed")
            )
            assert many[2] == (f"{float(row['value']):.0f}" if row["value"] else "more than 50")
            goal = re.fullmatch(
                r"(a true difference of |if there is no difference at all, equivalence within ±)"
                r"([\d.]+) points? (.*)",
                many[1],
            )
            _, _, ours, where, *_ = claims[study, name]
            value, low, high = numbers_of(ours)
            assumed = float(goal[2]) if goal[1].startswith("a true") else 0
            assert low <= assumed <= high or where != goal[3]
            assert assumed or abs(value) <= float(goal[2])


def test_the_seeds_that_an_open_claim_takes_are_those_of_its_spread(page):
    """Recomputed for one study, from its rows."""
    study = "elsayed2018-mnist-choice"
    kept = read_evidence(REPORTS / study / "evidence.parquet")
    right = {
        method: np.stack(
            [kept.findings.records.rows(n.path).right() for n in own if n.method == method]
        )
        for own in [sorted(kept.findings.numbers, key=lambda n: n.seed)]
        for method in ("l2-margin", "cross-entropy")
    }
    spread = components(right["l2-margin"], right["cross-entropy"])
    seeds = plan(spread, delta=0.005, power=0.8, family=1).seeds_difference
    said = "a true difference of 0.5 points at 80 % label noise takes"
    assert f"- 1 in {study}: {said} {seeds} paired seeds" in page


def test_numbers_beside_the_tables_stand_in_them(page, claims):
    """What contradicts what is told in the words of the table."""
    part = page.partition("## What contradicts what")[2].partition("## ")[0]
    lines = re.findall(
        r"^    - (.+?) in (\S+): (.+?)(?: (?:at|under|with) .*)?; ", part, re.MULTILINE
    )
    assert lines
    for verdict, study, ours in lines:
        same = [row for (own, _), row in claims.items() if own == study and row[2] == ours]
        assert any(row[4] == f"**{verdict}**" for row in same), (study, ours)
