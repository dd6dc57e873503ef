"""From rows to verdicts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.evaluations import evaluation
from helpers.studies import CLAIM

from robustkit import protocol, record, reporting, spec
from robustkit.analysis import judge
from robustkit.analysis.evidence import collect, read_evidence
from robustkit.analysis.findings import FIRST, Findings, Number
from robustkit.analysis.judge import judge_study
from robustkit.analysis.outcome import History, Regret
from robustkit.analysis.record_folder import findings_of_records
from robustkit.analysis.registration import registration
from robustkit.analysis.table import AnalysisTable
from robustkit.errors import RecordError
from robustkit.files import shipped
from robustkit.reporting.methods import of_study
from robustkit.reporting.numbers import rows as number_rows
from robustkit.results.replicates import Replicates
from robustkit.statistics import components, curve, mean_over_seeds, plan
from robustkit.statistics.comparison import listed


def rows(folder, name, right, attacked=None, classes=None, beside=None, **made):
    """A record of made-up clean rows, under a protocol that says so or another."""
    from robustkit.evaluation.config import DATA_KEYS
    from robustkit.evaluation.model import CHECKPOINT_KEYS

    header = {
        "schema": "robustkit.evaluation/1",
        "digest": name.ljust(64, "0"),
        "checkpoint": dict.fromkeys(CHECKPOINT_KEYS) | {"path": name} | made,
        "data": dict.fromkeys(DATA_KEYS, "d")
        | {"n": len(right), "name": "d", "source": None}
        | ({"classes": [str(i) for i in range(classes)]} if classes else {}),
        "protocol": {
            "name": "clean",
            "file": "",
            "norm": "linf",
            "digest": "d",
            "epsilons": [],
            "resolved": protocol.load_protocol("clean").resolved(),
            **(attacked or {}),
        },
        "engine": {"revision": 1},
        "warnings": [],
        **(beside or {}),
    }
    columns = {
        "sample": [str(i) for i in range(len(right))],
        "index": range(len(right)),
        "label": [0] * len(right),
        "predicted": [0 if r else 1 for r in right],
        "fooled_at": [None if r else "0" for r in right],
        "distance": [None if r else 0.0 for r in right],
        "fooled_by": [None if r else "clean" for r in right],
        "fooled_as": [None] * len(right),
    }
    blocks = record.Blocks(folder / f"{name}.parquet")
    blocks.finish(header, {}, record.table(columns))
    return folder / f"{name}.parquet"


CLAIMS = """
title = "t"
question = "q"
baseline = "b"

[checkpoints]
runs = "runs"

[test]
data = "d"

[[analysis]]
name = "label-noise"
factor = "label_noise"
"""


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize(
    ("share", "better", "equivalent"),
    [
        ((0.9, 0.9), "holds", "contradicted"),
        ((0.5, 0.5), "contradicted", "holds"),
        ((0.9, 0.5), "contradicted", "contradicted"),
        ((0.2, 0.5), "contradicted", "contradicted"),
        ((0.9, None), "undecided", "contradicted"),
        ((None, None), "not tested", "not tested"),
    ],
)
def test_a_claim_is_judged_at_all_of_its_levels(tmp_path, share, better, equivalent):
    rng = np.random.default_rng(0)
    numbers = []
    for level, of_a in zip(("0", "0.4"), share, strict=True):
        for seed in range(3):
            common = rng.random(4000)
            for method, chance in (("a", of_a), ("b", 0.5)):
                name = f"{method}{level}{seed}"
                path = None
                if chance is not None:
                    right = common < chance
                    right[:3] = rng.random(3) < 0.5  # seeds differ a little
                    path = rows(tmp_path, name.replace(".", "x"), right, loss=method)
                numbers.append(Number("label-noise", method, level, seed, path, "lost"))
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS + "".join(CLAIM.format(says=s) for s in ("better", "equivalent")))
    result = judge_study(spec.load_study(str(path)), Findings(numbers))
    judged = {j.name: j for j in result.judgements}
    assert judged["better"].verdict == better
    assert judged["equivalent"].verdict == equivalent
    if None in share:
        assert any("lost" in note for note in result.panels[0].notes)


@pytest.mark.one_of_many
@pytest.mark.parametrize(
    ("classes", "better", "equivalent"),
    [(None, "contradicted", "contradicted"), (10, "holds", "contradicted")],
)
def test_a_level_at_which_both_are_at_chance_decides_nothing(tmp_path, classes, better, equivalent):
    """a is better at no noise; at 0.4 both guess, and are equivalent."""
    rng = np.random.default_rng(0)
    numbers = []
    for level, of_a, of_b in (("0", 0.9, 0.5), ("0.4", 0.1, 0.1)):
        for seed in range(3):
            common = rng.random(4000)
            for method, share in (("a", of_a), ("b", of_b)):
                name = f"{method}{level}{seed}".replace(".", "x")
                right = common < share
                right[:3] = rng.random(3) < 0.5
                path = rows(tmp_path, name, right, loss=method, classes=classes)
                numbers.append(Number("label-noise", method, level, seed, path))
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS + "".join(CLAIM.format(says=s) for s in ("better", "equivalent")))
    result = judge_study(spec.load_study(str(path)), Findings(numbers))
    judged = {j.name: j for j in result.judgements}
    assert (judged["better"].verdict, judged["equivalent"].verdict) == (better, equivalent)
    marked = [c.at_chance for c in result.panels[0].comparisons]
    assert marked == [False, classes is not None]
    assert result.panels[0].chance == (0.1 if classes else None)
    told = "a vs b: better at 0 % label noise; both at chance at 40 % label noise, which decides"
    assert judged["better"].sentence.startswith(told) is bool(classes)
    assert judged["equivalent"].decisive.level == "0"
    # the rule is told where the verdict would be another, and only where it is newer than the data
    assert judged["better"].without is None
    asked = {"file": path.read_text(), "changes": {}, "digest": "d"}
    for rules, without in ((["chance"], None), ([], "contradicted")):
        fixed = {"Study": {"claims fixed": FIRST}}
        known = Findings(numbers, provenance=fixed, asked=(asked | {"rules": rules},))
        late, same = judge_study(spec.load_study(str(path)), known).judgements
        assert late.without == (without if classes else None)
        assert [one.what for one in late.amendments] == ["rule for the verdict"] * bool(
            late.without
        )
        assert (same.without, late.registered) == (None, "preregistered")


@pytest.mark.parametrize(
    ("old", "new", "better", "equivalent"),
    [
        ('question = "q"', 'question = "r"', "preregistered", "preregistered"),
        ('text = "a and b"', 'text = "a or b"', "wording amended", "preregistered"),
        ("delta = 2.0", "delta = 1.0", "amended", "preregistered"),
        ('factor = "label_noise"', 'factor = "data_fraction"', "amended", "amended"),
        ('data = "d"', 'data = "e"', "amended", "amended"),
        ('name = "better"', 'name = "other"', "not preregistered", "preregistered"),
    ],
)
def test_a_claim_is_called_preregistered_only_where_all_that_judges_it_was(
    old, new, better, equivalent
):
    before = CLAIMS + "".join(CLAIM.format(says=s) for s in ("better", "equivalent"))
    assert old in before
    after = before.replace(old, new, 1)
    study = spec.study_of_text(after, "claims", "claims.toml", {})
    asked = {"file": before, "changes": {}}, {"file": after, "changes": {}, "cells_done": 7}
    for known in (True, False):
        fixed = {"Study": {"claims fixed": FIRST if known else "not known: older"}}
        stand = [
            registration(Findings((), provenance=fixed, asked=asked)).of(claim)
            for claim in study.claims
        ]
        words = (better, equivalent) if known else ("not preregistered",) * 2
        assert tuple(word for word, _ in stand) == words
        for word, amendments in stand:
            told = [one.when for one in amendments]
            assert told == ["after 7 trainings"] * (known and word != "preregistered")


@pytest.mark.parametrize(
    ("weakest", "other"), [((-0.1, 0.9), (-0.3, 0.2)), ((-0.9, 0.1), (-0.2, 0.3))]
)
def test_of_levels_that_are_all_equivalent_the_one_nearest_to_delta_is_shown(weakest, other):
    def level(low, high):
        return SimpleNamespace(difference=SimpleNamespace(low=low, high=high), at_chance=False)

    shown, left = level(*weakest), level(*other)
    for found in ((shown, left), (left, shown)):
        assert judge._decisive("equivalent", "holds", found) is shown


def test_where_all_levels_are_at_chance_nothing_is_decided(tmp_path):
    rng = np.random.default_rng(0)
    numbers = []
    for method in ("a", "b"):
        for seed in range(3):
            right = rng.random(2000) < 0.1
            path = rows(tmp_path, f"{method}{seed}", right, loss=method, classes=10)
            numbers.append(Number("label-noise", method, "0", seed, path))
    path = tmp_path / "claims.toml"
    path.write_text(
        CLAIMS + CLAIM.format(says="equivalent").replace("delta    = 1", "delta    = 9")
    )
    (judged,) = judge_study(spec.load_study(str(path)), Findings(numbers)).judgements
    assert judged.verdict == "undecided"
    assert "Both at chance: this level decides nothing." in judged.sentence


@pytest.mark.thorough
def test_an_undecided_claim_says_how_many_seeds_it_would_take(tmp_path):
    path = tmp_path / "claims.toml"
    for says, goal in (
        ("better", "A true difference of 2"),
        ("equivalent", "If there is no difference at all, equivalence within ±2"),
    ):
        path.write_text(CLAIMS + CLAIM.format(says=says))
        rng = np.random.default_rng(3)
        numbers = []
        for method in "ab":
            for seed in range(4):
                right = rng.random(2000) < 0.8 + 0.01 * rng.normal()
                made = rows(tmp_path, f"{says}{method}{seed}", right, loss=method)
                numbers.append(Number("label-noise", method, "0", seed, made))
        study = spec.load_study(str(path))
        result = judge_study(study, Findings(numbers))
        (judged,) = result.judgements
        assert judged.verdict == "undecided"
        right = [
            np.stack(
                [record.read(tmp_path / f"{says}{m}{s}.parquet").broken_at > 0 for s in range(4)]
            )
            for m in "ab"
        ]
        planned = plan(components(*right), delta=0.02, family=1)
        seeds = planned.seeds_difference if says == "better" else planned.seeds_equivalence
        many = seeds or "more than 50"
        assert judged.needs == (
            f"{goal} points at 0 % label noise takes {many} paired seeds to show (power 80 %, by an "
            "upper 80 % bound of the spread of these seeds)."
        )
        (row,) = [row for row in number_rows(result) if "seeds needed" in row.quantity]
        assert (row.value, row.note) == (judged.seeds_needed, judged.needs)


@pytest.mark.parametrize(
    ("says", "ends", "told"),
    [
        ("equivalent", (-0.030, 0.001), ""),
        ("equivalent", (-0.030, -0.001), "a plan assumes a difference of 0, which lies outside"),
        ("equivalent", (0.001, 0.030), "a plan assumes a difference of 0, which lies outside"),
        ("equivalent", (-0.050, 0.001), "not to be expected of more seeds"),
        ("equivalent", (-0.050, -0.001), "not to be expected of more seeds"),
        ("better", (-0.050, 0.030), ""),
        ("better", (-0.050, 0.010), "for a goal: it lies outside the interval"),
    ],
)
def test_no_seeds_are_promised_where_the_data_speak_against_what_a_plan_assumes(says, ends, told):
    one = SimpleNamespace(
        difference=SimpleNamespace(value=sum(ends) / 2, low=ends[0], high=ends[1])
    )
    said = judge._against(one, 0.02, says == "better", "a goal")
    assert told in said
    assert bool(said) is bool(told)


@pytest.mark.parametrize("step", [0.01, 0.04])
def test_an_open_claim_whose_plan_is_refuted_names_no_number(tmp_path, step):
    """a is worse with every seed, by less than Δ at the estimate or by more."""
    rng = np.random.default_rng(5)
    numbers = []
    for seed in range(6):
        common = rng.random(2000)
        for method, chance in (("a", 0.8 - step * (0.4 + 1.6 * rng.random())), ("b", 0.8)):
            made = rows(tmp_path, f"{method}{seed}", common < chance, loss=method)
            numbers.append(Number("label-noise", method, "0", seed, made))
    path = tmp_path / "claims.toml"
    delta = 100 * step * (1.4 if step == 0.01 else 0.8)
    claim = CLAIM.format(says="equivalent").replace("delta = 2.0", f"delta = {delta:.3f}")
    path.write_text(CLAIMS + claim)
    result = judge_study(spec.load_study(str(path)), Findings(numbers))
    (judged,) = result.judgements
    assert judged.verdict == "undecided"
    assert judged.seeds_needed is None
    told = "lies outside the interval" if step == 0.01 else "is not to be expected of more seeds"
    assert told in judged.needs
    assert not [row for row in number_rows(result) if "seeds needed" in row.quantity]


def test_a_claim_that_equivalence_contradicts_tells_where_it_is_better_all_the_same(tmp_path):
    rng = np.random.default_rng(0)
    numbers = []
    for level, lead in (("0", 0.1), ("0.4", 0.01)):
        for seed in range(4):
            common = rng.random(4000)
            for method, chance in (("a", 0.5 + lead), ("b", 0.5)):
                name = f"{method}{level}{seed}".replace(".", "x")
                path = rows(tmp_path, name, common < chance, loss=method)
                numbers.append(Number("label-noise", method, level, seed, path))
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS + CLAIM.format(says="better"))
    (judged,) = judge_study(spec.load_study(str(path)), Findings(numbers)).judgements
    assert judged.verdict == "contradicted"
    assert judged.sentence == (
        "a vs b: better at 0 % label noise; equivalent (better, by less than Δ) at 40 % label noise."
    )


def test_no_interval_of_shares_reaches_beyond_0_or_1():
    regret = Regret("a", "0.8", "end", (0, 1, 2), (0.0, 0.0, 0.02))
    found = judge._estimated(regret).estimate
    assert (found.value, found.low) == (pytest.approx(0.02 / 3), 0.0)
    assert found.high == pytest.approx(mean_over_seeds(regret.each).high)
    ((band,),) = [
        judge._banded(History("a", "0.8", (1,), (0.99,), (None,), (1.0,), each)).band
        for each in [((1.0,), (1.0,), (0.97,))]
    ]
    assert band.high == 1.0


def test_one_seed_decides_no_claim_about_methods(tmp_path):
    numbers = []
    for method, count in (("a", 1900), ("b", 1000)):
        right = np.arange(2000) < count
        path = rows(tmp_path, method, right, loss=method)
        numbers.append(Number("label-noise", method, "0", 0, path))
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS + CLAIM.format(says="better"))
    result = judge_study(spec.load_study(str(path)), Findings(numbers))
    assert [c.verdict for c in result.panels[0].comparisons] == ["better"]
    assert result.panels[0].comparisons[0].test == "McNemar"
    (judged,) = result.judgements
    assert judged.verdict == "not tested"
    assert "one seed" in judged.sentence


@pytest.mark.parametrize(
    ("networks", "verdict", "said"),
    [(1, "holds", "1 pair of checkpoints"), (2, "not tested", "2 networks a method")],
)
def test_a_claim_about_networks_takes_one_each(tmp_path, networks, verdict, said):
    numbers = []
    for method, count in (("a", 1900), ("b", 1000)):
        for seed in range(networks):
            path = rows(tmp_path, f"{method}{seed}", np.arange(2000) < count + seed, loss=method)
            numbers.append(Number("label-noise", method, "0", seed, path))
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS + '[statistics]\nunit = "network"\n' + CLAIM.format(says="better"))
    result = judge_study(spec.load_study(str(path)), Findings(numbers))
    (judged,) = result.judgements
    assert judged.verdict == verdict
    assert said in judged.sentence
    assert any("these very networks" in note for note in result.notes)


@pytest.mark.parametrize("changed", ["epsilons", "seed", "attacks"])
def test_analyses_with_one_protocol_each_say_their_own(tmp_path, changed):
    """Budgets are an analysis's own, and a protocol's file may have changed between two."""
    first = evaluation(epsilons=("0.1", "0.2")).header["protocol"]
    resolved = dict(first["resolved"])
    if changed == "epsilons":
        other = evaluation(epsilons=("0.05",)).header["protocol"]
    elif changed == "seed":
        other = first | {"resolved": resolved | {"seed": 5}, "digest": "5"}
    else:
        other = first | {"resolved": resolved | {"attacks": resolved["attacks"][:1]}, "digest": "1"}
    numbers, text = [], CLAIMS.replace('"label_noise"', '"epsilon"\nprotocol = "pgd"')
    for name, used in (("label-noise", first), ("more", first), ("wide", other)):
        if name != "label-noise":
            text += f'[[analysis]]\nname = "{name}"\nfactor = "epsilon"\nprotocol = "pgd"\n'
        for method in "ab":
            right = np.arange(50) < 40
            path = rows(tmp_path, f"{name}{method}", right, used, loss=method)
            numbers.append(Number(name, method, "", 0, path))
    path = tmp_path / "claims.toml"
    path.write_text(text)
    study = spec.load_study(str(path))
    result = judge_study(study, Findings(numbers))
    found = result.protocols
    assert {name: p["digest"] for name, p in found.items()} == {
        "pgd (label-noise and more)": first["digest"],
        "pgd (wide)": other["digest"],
    }
    said = " ".join(of_study(result).paragraphs)
    for one in (first, other):
        assert f"at ε = {listed([e['epsilon'] for e in one['epsilons']])}," in said
    alone = replace(study, analyses=study.analyses[:2])
    assert list(judge_study(alone, Findings(numbers)).protocols) == ["pgd"]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("", ["sign-flip permutation", "Wilcoxon"]),
        ('tests = ["Wilcoxon"]', ["Wilcoxon"]),
        ("tests = []", []),
    ],
)
def test_only_the_tests_that_are_asked_for_stand_beside(tmp_path, asked, shown):
    path = tmp_path / "claims.toml"
    path.write_text(f"{CLAIMS}[statistics]\n{asked}\n{CLAIM.format(says='better')}")
    numbers = drawn(tmp_path, dict.fromkeys("ab", (0, 1, 2)), levels=("0",))
    result = judge_study(spec.load_study(str(path)), Findings(numbers))
    (one,) = result.panels[0].comparisons
    assert [test.test for test in one.secondary] == shown
    said = result.judgements[0].sentence.lower()
    assert all(name.lower() in said for name in shown)
    assert ("cannot decide" in said) is bool(shown)


def drawn(tmp_path, seeds, levels=("0", "0.4")):
    """Numbers of methods a and b, each with some seeds at every level; a is a little better."""
    rng = np.random.default_rng(1)
    numbers = []
    for level in levels:
        for method, own in seeds.items():
            for seed in own:
                right = rng.random(2000) < (0.8 if method == "b" else 0.83)
                name = f"{method}{level}{seed}".replace(".", "x")
                path = rows(tmp_path, name, right, loss=method)
                numbers.append(Number("label-noise", method, level, seed, path))
    return numbers


@pytest.mark.parametrize(
    ("name", "analysis", "same"),
    [
        ("elsayed2018-mnist", "label-noise", False),
        ("elsayed2018-mnist", "data-fraction", False),
        ("elsayed2018-mnist-length", "passes", False),
        ("elsayed2018-mnist", "fgsm", True),
        ("elsayed2018-mnist", "ifgsm-transfer", True),
    ],
)
def test_only_a_robustness_curves_band_takes_seeds_to_vary_alike_at_all_levels(
    name, analysis, same, monkeypatch
):
    """Elsewhere each level has weights of its own, and few seeds tell no correlations."""
    asked = []
    monkeypatch.setattr(
        "robustkit.analysis.table.curve",
        lambda *args, **said: asked.append(said) or curve(*args, **said),
    )
    read = read_evidence(shipped("reports") / name / "evidence.parquet")
    drawn = next(a for a in read.study.analyses if a.name == analysis)
    panel = AnalysisTable(read.study, drawn, read.findings).panel()
    assert asked == [{"same_networks": same}] * len(panel.lines)
    assert all(value.band for line in panel.lines for value in line.values)


@pytest.mark.thorough
def test_a_comparison_has_one_interval_wherever_it_stands(tmp_path):
    numbers = drawn(tmp_path, dict.fromkeys("ab", (0, 1, 2)), levels=("0", "0.2", "0.4"))
    path = tmp_path / "claims.toml"
    some = CLAIM.format(says="better").replace("delta", 'levels = ["0.40", "0"]\ndelta')
    turned = CLAIM.format(says="equivalent").replace('a = "a"\nb = "b"', 'a = "b"\nb = "a"')
    path.write_text(CLAIMS + some + turned)
    times = {"cost": {"a": [1.5, 1.6], "b": [1.0, 1.0]}}
    result = judge_study(spec.load_study(str(path)), Findings(numbers, times))
    shown = {c.level: c.difference for c in result.panels[0].comparisons}
    better, equivalent = result.judgements
    assert [c.level for c in better.comparisons] == ["0.4", "0"]
    for one in better.comparisons:
        assert one.correction == "Bonferroni over 3 levels"
        assert one.difference == shown[one.level]
    for one in equivalent.comparisons:
        assert one.difference.low == pytest.approx(-shown[one.level].high)
    (cost,) = result.costs
    assert cost.gain == shown["0.4"]


def test_a_claim_at_a_level_without_data_does_not_hold(tmp_path):
    numbers = drawn(tmp_path, dict.fromkeys("ab", (0, 1, 2, 3, 4)), levels=("0.4",))
    path = tmp_path / "claims.toml"
    for levels, verdict in ('["0.4"]', "holds"), ('["0.4", "0.8"]', "undecided"):
        claim = CLAIM.format(says="better").replace("delta", f"levels = {levels}\ndelta")
        path.write_text(CLAIMS + claim)
        (judged,) = judge_study(spec.load_study(str(path)), Findings(numbers)).judgements
        assert judged.verdict == verdict


@pytest.mark.parametrize(
    ("seeds", "test", "unit", "note"),
    [
        ({"a": (1, 2), "b": (0, 1)}, "two-way Welch t", "2 and 2 unpaired seeds", "not matched"),
        (
            {"a": (0, 1, 2), "b": (1, 2, 3)},
            "two-way t",
            "2 paired seeds",
            "a: omitted from the difference to b, not from the accuracies, for lack of a partner: "
            "seeds 0.",
        ),
        ({"a": (1,), "b": (0, 1)}, "McNemar", "1 pair of", "one pair of networks, seed 1."),
        ({"a": (1,), "b": (0,)}, "McNemar", "1 pair of", "one network each"),
    ],
)
def test_how_seeds_pair_networks_is_told(tmp_path, seeds, test, unit, note):
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS)
    panel = judge_study(
        spec.load_study(str(path)), Findings(drawn(tmp_path, seeds, levels=("0",)))
    ).panels[0]
    (one,) = panel.comparisons
    assert test in one.test
    assert unit in one.unit
    assert any(note in text for text in panel.notes)
    assert sum("one network each" in text for text in panel.notes) == (note == "one network each")
    # or the accuracies are those whose difference is told
    a, b = (np.mean([value.estimate.value for value in line.values]) for line in panel.lines[::-1])
    apart = bool(abs(a - b - one.difference.value) > 1e-12)
    assert apart is any("not from the accuracies" in text for text in panel.notes)


def test_networks_without_a_partner_are_told_of_a_claim_about_others_than_the_baseline(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS + CLAIM.format(says="better").replace('b = "b"', 'b = "c"'))
    seeds = {"b": (0, 1, 2), "a": (0, 1, 2), "c": (0, 1)}
    study = spec.load_study(str(path))
    (panel,) = judge_study(study, Findings(drawn(tmp_path, seeds, levels=("0",)))).panels
    told = [note for note in panel.notes if "omitted" in note]
    assert told == [
        f"{name}: omitted from the difference to c, not from the accuracies, for lack of a "
        "partner: seeds 2."
        for name in ("b", "a")
    ]


def test_chance_is_judged_by_the_networks_that_are_compared(tmp_path):
    """The baseline's networks without a partner are better than a guess, and decide nothing."""
    rng, numbers = np.random.default_rng(1), []
    for method, chances in (("a", (0.5, 0.5)), ("b", (0.5, 0.5, 0.9))):
        for seed, chance in enumerate(chances):
            right = rng.random(2000) < chance
            path = rows(tmp_path, f"{method}{seed}", right, classes=2, loss=method)
            numbers.append(Number("label-noise", method, "0", seed, path))
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS)
    (panel,) = judge_study(spec.load_study(str(path)), Findings(numbers)).panels
    assert [one.at_chance for one in panel.comparisons] == [True]


def test_one_network_as_several_seeds_counts_once_and_is_told(tmp_path):
    """The same weights again replicate nothing, whatever the seeds; at other levels they may be."""
    rng = np.random.default_rng(1)
    numbers = []
    for level in ("0", "0.4"):
        for method, weights in (("a", "xxx"), ("b", "yzy")):
            for seed, one in enumerate(weights):
                right = rng.random(200) < (0.9 if method == "a" else 0.6)
                name = f"{method}{level}{seed}".replace(".", "p")
                path = rows(tmp_path, name, right, loss=method, seed=seed, weights=one)
                numbers.append(Number("label-noise", method, level, seed, path))
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS + CLAIM.format(says="better"))
    study = spec.load_study(str(path))
    result = judge_study(study, Findings(numbers))
    (panel,) = result.panels
    seeds = {line.method: {value.seeds for value in line.values} for line in panel.lines}
    assert seeds == {"a": {(0,)}, "b": {(0, 1)}}
    assert [c.unit for c in panel.comparisons] == ["1 pair of checkpoints, 200 images"] * 2
    assert result.judgements[0].verdict == "not tested"
    told = [note for note in panel.notes if "omitted as the same network" in note]
    assert sorted(told) == [
        "a at 0.4: omitted as the same network as seed 0: seeds 1, 2.",
        "a at 0: omitted as the same network as seed 0: seeds 1, 2.",
        "b at 0.4: omitted as the same network as seed 0: seeds 2.",
        "b at 0: omitted as the same network as seed 0: seeds 2.",
    ]
    kept = collect(study, Findings(numbers))
    assert judge_study(kept.study, kept.findings) == result


def test_a_folder_of_evaluations_becomes_a_report(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    rng = np.random.default_rng(1)
    for method, chance in (("a", 0.9), ("b", 0.6)):
        for level in (0.0, 0.25):
            for seed in (0, 1, 2):
                made = {"loss": method, "label_noise": level, "seed": seed, "data_fraction": 1.0}
                name = f"{method}{int(100 * level)}s{seed}"
                rows(runs, name, rng.random(500) < chance, **made)
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS)
    study = spec.load_study(str(path))
    result = judge_study(study, findings_of_records(study, runs, "command"))
    assert [v.level for v in result.panels[0].lines[0].values] == ["0", "0.25"]
    assert [c.verdict for c in result.panels[0].comparisons] == ["better", "better"]
    assert result.provenance["Study"]["claims fixed"].startswith("not known")
    assert result.provenance["Data"] == {"d, d": "500 images, digest d"}
    rows(runs, "again", rng.random(500) < 0.5, loss="a", label_noise=0.25, seed=2)
    with pytest.raises(RecordError, match="keep one of them"):
        findings_of_records(study, runs, "command")


@pytest.mark.thorough
def test_a_network_of_unknown_seed_is_paired_with_none(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    rng = np.random.default_rng(1)
    for name, method, seed in (("0", "b", None), ("1", "b", None), ("2", "a", 0), ("3", "a", 1)):
        right, attacked = rng.random(500) < 0.7, {"title": "Clean"}
        rows(runs, name, right, attacked, loss=method, label_noise=0.0, seed=seed)
    (tmp_path / "claims.toml").write_text(CLAIMS)
    study = spec.load_study(str(tmp_path / "claims.toml"))
    found = findings_of_records(study, runs, "command")
    seeds = [(n.method, n.seed) for n in found.numbers]
    assert sorted(seeds, key=str) == [("a", 0), ("a", 1), ("b", None), ("b", None)]
    kept = collect(study, found)
    assert kept.findings.numbers[0].seed == found.numbers[0].seed
    for one in (found, kept.findings):
        (panel,) = judge_study(study, one).panels
        assert panel.comparisons[0].unit.startswith("2 and 2 unpaired seeds")
        reporting.write(judge_study(study, one), tmp_path / "report", "neurips", None, kept.content)


def test_budgets_are_drawn_rising_and_revisions_of_attacks_are_told(tmp_path):
    text = CLAIMS.replace('"label_noise"', '"epsilon"\nprotocol = "pgd"\nlevels = ["0.2", "0.1"]')
    (tmp_path / "claims.toml").write_text(text)
    study = spec.load_study(str(tmp_path / "claims.toml"))
    numbers = []
    for seed, revision in ((0, 6), (1, 7)):
        one = evaluation(f"{seed}.pt", n=200, epsilons=["0.1", "0.2"], seed=seed)
        header = one.header | {"digest": str(seed) * 64, "engine": {"revision": revision}}
        blocks = record.Blocks(tmp_path / f"{seed}.parquet")
        blocks.finish(header, one.run, one.table)
        numbers.append(Number("label-noise", "b", "", seed, tmp_path / f"{seed}.parquet"))
    (panel,) = judge_study(study, Findings(numbers)).panels
    assert [value.level for value in panel.lines[0].values] == ["0", "0.1", "0.2"]
    assert "Not all evaluations are by the same revision of the attacks: 6 and 7." in panel.notes


@pytest.mark.parametrize("strength", [0.05, 0.5])
def test_a_median_that_hangs_on_images_that_proofs_kept_unattacked_is_not_told(tmp_path, strength):
    text = CLAIMS.replace('"label_noise"', '"epsilon"\nprotocol = "pgd"\nlevels = ["0.1"]')
    (tmp_path / "claims.toml").write_text(text)
    study = spec.load_study(str(tmp_path / "claims.toml"))

    def median(fab, on):
        one, path = evaluation("net.pt", strength=strength), tmp_path / f"{fab}{on}.parquet"
        header, columns = one.header | {"prove": {"on": on}}, one.table.to_pydict()
        if fab:
            resolved = header["protocol"]["resolved"]
            resolved = resolved | {"attacks": [resolved["attacks"][0], {"kind": "fab"}]}
            header["protocol"] = header["protocol"] | {"resolved": resolved}
            named = ["fab-t" if by == "pgd" else by for by in columns["fooled_by"]]
            columns["fooled_by"] = named
        record.Blocks(path).finish(header, one.run, record.table(columns))
        findings = Findings([Number("label-noise", "b", "", 0, path)])
        (panel,) = judge_study(study, findings).panels
        return panel.lines[0].median

    known = median(True, False)
    assert known is not None
    assert median(False, True) == known
    assert median(True, True) == (known if strength == 0.05 else None)


@pytest.mark.parametrize("chosen", [None, "few", "many", "0123456"])
def test_the_commands_data_set_chooses_among_a_folders_evaluations(tmp_path, chosen):
    """And the claims remain about the file's own."""
    for name, digest, n in (("few", "012345678", 1), ("many", "abcdefghi", 2)):
        for seed in range(n):
            data = {"name": name, "digest": digest, "n": 20, "split": "test", "source": None}
            made = {"loss": "a", "seed": seed, "weights": f"{seed}", "label_noise": 0.0}
            right = np.ones(20, dtype=bool)
            rows(tmp_path, f"{name}{seed}", right, beside={"data": data}, data_fraction=1.0, **made)
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS.replace('"d"', '"mnist"') + CLAIM.format(says="better"))
    changes = {"test": {"data": chosen}} if chosen else {}
    found = findings_of_records(spec.load_study(str(path), changes), tmp_path, "command")
    taken, left = ("many", "few") if chosen in (None, "many") else ("few", "many")
    assert {number.path.stem[:-1] for number in found.numbers} == {taken}
    assert [*found.provenance["Data"]] == [f"{taken}, test"]
    assert f"The study's claims are about mnist; these evaluations are of {taken}." in found.notes
    told = next(note for note in found.notes if note.startswith("Left out"))
    assert f"{left}0.parquet" in told
    assert (f"--data chooses {chosen}, not {left}" in told) is bool(chosen)
    other = spec.load_study(str(path), {"test": {"data": "cifar10"}})
    with pytest.raises(RecordError, match=r"since --data chooses cifar10, not few: few0\.parquet"):
        findings_of_records(other, tmp_path, "command")


def test_a_study_that_names_no_data_makes_claims_about_what_is_chosen(tmp_path):
    for seed in range(2):
        data = {"name": "d", "digest": "d", "n": 20, "split": "test", "source": None}
        made = {"loss": "a", "seed": seed, "weights": f"{seed}", "label_noise": 0.0}
        right = np.ones(20, dtype=bool)
        rows(tmp_path, f"d{seed}", right, beside={"data": data}, data_fraction=1.0, **made)
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS.replace('data = "d"', "") + CLAIM.format(says="better"))
    study = spec.load_study(str(path), {"test": {"data": "d"}})
    found = findings_of_records(study, tmp_path, "command")
    assert not [note for note in found.notes if "claims are about" in note]


@pytest.mark.parametrize(
    ("norm", "taken", "told"),
    [
        ("", "linf", "pgd takes the protocol pgd, not pgd (ℓ₂): l2.parquet."),
        ('norm = "l2"\n', "l2", "pgd takes the protocol pgd in l2, not pgd: linf.parquet."),
    ],
)
def test_an_analysis_takes_the_evaluations_in_its_norm(tmp_path, norm, taken, told):
    for name in ("linf", "l2"):
        attacked = {"name": "pgd", "norm": name, "file": 'norm = ["linf", "l2"]'}
        rows(tmp_path, name, np.ones(20, dtype=bool), attacked, loss="a", seed=0)
    path = tmp_path / "claims.toml"
    analysis = f'name = "pgd"\nfactor = "epsilon"\nprotocol = "pgd"\n{norm}'
    path.write_text(CLAIMS.replace('name = "label-noise"\nfactor = "label_noise"\n', analysis))
    found = findings_of_records(spec.load_study(str(path)), tmp_path, "command")
    assert [number.path.stem for number in found.numbers] == [taken]
    assert f"Left out, since {told}" in found.notes


def attacked_by(budgets=("0.1",), settings=None, target="none", surrogate=None, name="pgd"):
    """A header's protocol, and what stands beside it."""
    found = protocol.load_protocol(name, settings or [])
    resolved = found.resolved() | {"target": target, "epsilons": list(budgets)}
    entries = [{"epsilon": text, "value": float(text)} for text in budgets]
    told = {"name": name, "norm": found.norm, "file": "", "epsilons": entries, "resolved": resolved}
    return told, ({} if surrogate is None else {"surrogate": {"weights": surrogate, "path": "s"}})


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"settings": ["steps=1"]}, "most networks were evaluated with another attack"),
        ({"target": "random"}, "most networks were evaluated with another attack"),
        ({"budgets": ("0.05", "0.1")}, "most networks were evaluated at other budgets"),
        ({"surrogate": "w"}, "pgd takes no attacks by transfer"),
    ],
)
def test_networks_that_were_attacked_in_another_way_are_left_out_of_a_report(tmp_path, other, told):
    for seed in (0, 1, 2):
        how, beside = attacked_by(**(other if seed == 1 else {}))
        rows(tmp_path, f"n{seed}", np.ones(20, bool), how, beside=beside, loss="a", seed=seed)
    path = tmp_path / "claims.toml"
    analysis = 'name = "pgd"\nfactor = "epsilon"\nprotocol = "pgd"\n'
    path.write_text(CLAIMS.replace('name = "label-noise"\nfactor = "label_noise"\n', analysis))
    found = findings_of_records(spec.load_study(str(path)), tmp_path, "command")
    assert [number.path.stem for number in found.numbers] == ["n0", "n2"]
    assert f"Left out, since {told}: n1.parquet." in found.notes


def test_a_report_of_records_keeps_to_the_methods_and_seeds_of_an_analysis(tmp_path):
    made = {"label_noise": 0.0, "data_fraction": 1.0}
    for method in "abc":
        for seed in (0, 1):
            rows(tmp_path, f"{method}{seed}", np.ones(20, bool), loss=method, seed=seed, **made)
    path = tmp_path / "claims.toml"
    path.write_text(
        CLAIMS.replace(
            'factor = "label_noise"\n',
            'factor = "label_noise"\nmethods = ["a", "b"]\nseeds = [1]\n',
        ).replace('data = "d"', 'data = "mnist"')
        + CLAIM.format(says="better")
    )
    found = findings_of_records(spec.load_study(str(path)), tmp_path, "command")
    assert [number.path.stem for number in found.numbers] == ["a1", "b1"]
    assert any("names other methods or seeds: a, seed 0" in note for note in found.notes)
    assert "The study's claims are about mnist; these evaluations are of d." in found.notes


def test_label_noise_as_it_came_out_is_the_level_that_was_asked_for(tmp_path):
    """The share that came of 0.4 is another with every seed."""
    for method in "ab":
        for seed, noise in enumerate((0.399902, 0.400146, 0.3997)):
            made = {"label_noise": noise, "data_fraction": 1.0, "seed": seed}
            rows(tmp_path, f"{method}{seed}", np.ones(20, bool), loss=method, **made)
    path = tmp_path / "claims.toml"
    for levels, told in (("", "0.4"), ('levels = ["0", "0.40"]\n', "0.40")):
        path.write_text(
            CLAIMS.replace('factor = "label_noise"\n', f'factor = "label_noise"\n{levels}')
        )
        found = findings_of_records(spec.load_study(str(path)), tmp_path, "command")
        assert {number.level for number in found.numbers} == {told}


def test_evaluations_that_no_analysis_takes_are_told(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    right = np.ones(20, dtype=bool)
    for seed in (0, 1):
        rows(runs, f"whole{seed}", right, loss="a", label_noise=0.0, seed=seed, data_fraction=1.0)
    for seed in range(7):
        rows(runs, f"part{seed}", right, loss="a", label_noise=0.0, seed=seed, data_fraction=0.1)
    rows(runs, "unknown", right, loss="a", seed=0)
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS)
    found = findings_of_records(spec.load_study(str(path)), runs, "command")
    assert {number.path.name for number in found.numbers} == {"whole0.parquet", "whole1.parquet"}
    told = [note for note in found.notes if note.startswith("Left out")]
    assert told == [
        "Left out, since label-noise takes data_fraction 1, not 0.1: part0.parquet, part1.parquet, "
        "part2.parquet, part3.parquet, part4.parquet and 2 more.",
        "Left out, since their label_noise is not on record: unknown.parquet.",
    ]
    for path_ in runs.glob("whole*"):
        path_.unlink()
    with pytest.raises(RecordError, match=r"fits an analysis of claims: Left out, since .* 0\.1"):
        findings_of_records(spec.load_study(str(path)), runs, "command")


@pytest.mark.parametrize("models", [("lenet5", "other"), ("lenet5", "12"), ("1/0", "nan")])
def test_a_factor_that_is_no_number_is_told(tmp_path, models):
    """Of records, which say more than numbers of how networks were made."""
    runs = tmp_path / "runs"
    runs.mkdir()
    made = {"loss": "a", "label_noise": 0.0, "data_fraction": 1.0}
    for seed, model in enumerate(models):
        rows(runs, f"n{seed}", np.ones(20, dtype=bool), model=model, seed=seed, **made)
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS.replace('factor = "label_noise"', 'factor = "model"'))
    study = spec.load_study(str(path))
    if "12" in models:
        found = findings_of_records(study, runs, "command")
        assert [(n.level, n.path.stem) for n in found.numbers] == [("12", "n1")]
        assert "Left out, since their model is no number: n0.parquet." in found.notes
    else:
        with pytest.raises(RecordError, match=r"since their model is no number: n0.* n1"):
            findings_of_records(study, runs, "command")


ATTACKED = """
[[analysis]]
name = "pgd"
factor = "epsilon"
protocol = "pgd"
"""


@pytest.mark.parametrize(
    ("file", "target", "taken"),
    [
        ('norm = "linf"', "none", True),
        ('norm = "linf"', "next", False),
        ('norm = "linf"\ntarget = "next"', "next", True),
        ('norm = "linf"\ntarget = "next"', "none", False),
        ('norm = "linf"\ntarget = "next"\n[linf]\ntarget = "none"', "none", True),
        ("", "next", True),  # a protocol made in Python, which has no other
    ],
)
def test_attacks_on_another_target_than_their_protocols_are_left_out(tmp_path, file, target, taken):
    resolved = protocol.load_protocol("clean").resolved() | {"target": target}
    pgd = {"name": "pgd", "norm": "linf", "file": file, "resolved": resolved}
    made = {"loss": "a", "seed": 0, "weights": "w", "label_noise": 0.0, "data_fraction": 1.0}
    rows(tmp_path, "n", np.ones(20, dtype=bool), pgd, **made)
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS[: CLAIMS.index("[[analysis]]")] + ATTACKED)
    study = spec.load_study(str(path))
    if taken:
        assert len(findings_of_records(study, tmp_path, "command").numbers) == 1
        return
    usual = {"next": "none", "none": "next"}[target]
    with pytest.raises(RecordError, match=f"the protocol's file, {usual}, not {target}: n.parquet"):
        findings_of_records(study, tmp_path, "command")


def test_networks_of_one_loss_and_seed_are_told_apart_under_attack(tmp_path):
    """As README's own commands make them: another architecture, another noise, other images."""
    pgd = {"name": "pgd", "norm": "linf", "file": 'norm = ["linf"]'}
    right = np.ones(20, dtype=bool)
    how = {"seed": 0, "data_fraction": 1.0}
    made = [
        ("lenet", "cross-entropy", "lenet5", 0.0),
        ("ce", "cross-entropy", "mnist-cnn", 0.4),
        ("copy", "cross-entropy", "mnist-cnn", 0.4),
        ("l2", "large-margin", "mnist-cnn", 0.4),
    ]
    for name, loss, model, noise in made:
        weights = {"weights": f"{name:0<64}", "model": model, "label_noise": noise}
        rows(tmp_path, name, right, pgd, loss=loss, **weights, **how)
    rows(tmp_path, "short", right[:10], pgd, loss="hinge", weights="s", **how)
    rows(
        tmp_path,
        "twice",
        right,
        pgd,
        loss="large-margin",
        model="mnist-cnn",
        weights="l2" + 62 * "0",
    )
    for name, digest in (("short", "other"),):
        path = tmp_path / f"{name}.parquet"
        header = json.loads(json.dumps(dict(record.read(path).header)))
        header["data"]["digest"] = digest
        table = record.read(path).table
        path.unlink()
        record.Blocks(path).finish(header, {}, table)
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS[: CLAIMS.index("[[analysis]]")] + ATTACKED)
    found = findings_of_records(spec.load_study(str(path)), tmp_path, "command")
    assert {(number.path.stem, number.method) for number in found.numbers} == {
        ("lenet", "cross-entropy, lenet5, label noise 0"),
        ("ce", "ce"),
        ("copy", "copy"),
        ("l2", "large-margin"),
    }
    told = " ".join(found.notes)
    assert "most networks were evaluated on 20 other images: short.parquet." in told
    assert "is of the same network: twice.parquet." in told


def test_an_attack_shows_what_it_found_on_the_first_network_of_the_baseline(tmp_path):
    numbers = []
    for method, seed in (("a", 0), ("b", 2), ("b", 1)):
        made = evaluation(f"{method}{seed}.pt", seed=seed, epsilons=("0.1", "0.2"))
        made = replace(made, header=made.header | {"data": made.header["data"] | {"digest": "d"}})
        blocks = record.Blocks(tmp_path / f"{method}{seed}.parquet")
        blocks.write(0, made.table, made.examples)
        blocks.finish(made.header, made.run, made.table)
        numbers.append(Number("attacked", method, "", seed, tmp_path / f"{method}{seed}.parquet"))
    path = tmp_path / "claims.toml"
    attacked = """
        [[analysis]]
        name = "attacked"
        factor = "epsilon"
        protocol = "pgd"
        """
    path.write_text(CLAIMS[: CLAIMS.index("[[analysis]]")] + attacked)
    study = spec.load_study(str(path))
    (gallery,) = judge_study(study, Findings(numbers)).galleries
    assert gallery.title.startswith("b, seed 1, under ")
    expected = record.read(tmp_path / "b1.parquet").examples
    assert [e.index for e in gallery.examples] == [e.index for e in expected[:6]]
    (tmp_path / "b1.examples.npz").unlink()
    assert judge_study(study, Findings(numbers)).galleries == ()


def test_different_images_are_not_compared(tmp_path):
    one = rows(tmp_path, "one", np.ones(50, bool), loss="a")
    header = json.loads(json.dumps(dict(record.read(one).header)))
    header["data"]["digest"] = "other"
    header["digest"] = "two".ljust(64, "0")
    record.Blocks(tmp_path / "two.parquet").finish(header, {}, record.read(one).table)
    path = tmp_path / "claims.toml"
    path.write_text(CLAIMS)
    numbers = [
        Number("label-noise", "a", "0", 0, one),
        Number("label-noise", "b", "0", 0, tmp_path / "two.parquet"),
    ]
    with pytest.raises(RecordError, match="evaluated on other images"):
        judge_study(spec.load_study(str(path)), Findings(numbers))


def test_attacks_by_transfer_stand_beside_those_on_the_same_networks_and_images_alone():
    transfer = spec.Analysis("t", "epsilon", levels=("0.1",), protocol="fgsm", surrogate="a")
    own = replace(transfer, name="own", surrogate="")
    others = {
        "data_fraction": "0.1",
        "passes": "2",
        "limit": 10,
        "seeds": (1,),
        "label_noise": "0.4",
        "norm": "l2",
    }
    trained = spec.TrainingSpec("lenet5", "d", seeds=(0, 1), steps=1)
    study = spec.Study("s", "t", "q", "a", spec.TestSpec("d"), (), trained=trained)

    def table(analysis, share):
        right = Replicates((0, 1), np.full((2, 10), share, bool))
        return SimpleNamespace(
            analysis=analysis, levels=("0.1",), methods=("a",), found={"": 1}, at=lambda *_: right
        )

    def sources(*asked):
        tables = {one.name: table(one, one.name == "own") for one in asked}
        return [matrix.values for matrix in judge._matrices(study, tables)]

    assert sources(own, transfer) == [((1.0,), (0.0,))]
    # all seeds and all images, written otherwise
    assert sources(replace(own, seeds=(1, 0)), transfer) == [((1.0,), (0.0,))]
    for key, value in others.items():
        unlike = replace(own, name="other", **{key: value})
        assert sources(unlike, transfer) == [], key
        assert sources(unlike, own, transfer) == [((1.0,), (0.0,))], key
