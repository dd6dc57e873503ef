"""Verdicts, claims, policies and the checklist: what an audit concludes from what it found."""

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import cache, partial
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.audits import (
    HOSTILE,
    POLICY,
    N,
    broken,
    comparison,
    finished,
    full,
    hostile,
    level,
    minimal,
)
from helpers.evaluations import evaluation
from scipy.stats import beta, binom

from robustkit.auditing.annex import annex
from robustkit.auditing.asked import unanswerable
from robustkit.auditing.checklist import fill
from robustkit.auditing.doubts import least_looks
from robustkit.auditing.junit import junit
from robustkit.auditing.outcome import (
    NO_CLAIM,
    PLAIN_CLAIM,
    Bound,
    Certificate,
    ClassRow,
    Corrupted,
    Corruptions,
    IndicatorResult,
    Level,
    RobustnessClaim,
    Stage,
    worst_classes,
)
from robustkit.auditing.plan import load_plan
from robustkit.auditing.policy import (
    as_written,
    judge_policy,
    lower_bound,
    parse_policy,
    read_policy,
)
from robustkit.auditing.request import threat_model
from robustkit.auditing.stages import BLACK_BOX
from robustkit.auditing.verdict import claim_from, judge, parse_claim
from robustkit.auditing.wording import at_most, in_points, shares
from robustkit.corruption import NAMES
from robustkit.data import load_dataset
from robustkit.errors import InputError
from robustkit.files import shipped
from robustkit.protocol import KINDS, parse_epsilon
from robustkit.protocol.words import kind_in_words
from robustkit.record import Evaluation
from robustkit.reporting.audit import lowest, page
from robustkit.reporting.modelcard import half_page
from robustkit.reporting.wording import percent
from robustkit.statistics import Estimate, proportion
from robustkit.statistics.estimate import MOST_IMAGES, images_to_settle
from robustkit.summary import failure, summarise

LEFT = Estimate(0.45, 0.42, 0.48, 1000, "Clopper-Pearson, 95 %")
PGD = Stage("pgd", "PGD", "white box", True, "complete")
SQUARE = Stage("square", "Square", "black box", True, "complete")
PASSED = IndicatorResult("zero-gradients", "Do gradients vanish?", "A", "passed", 0.0, 0.1, n=999)
OPEN = replace(PASSED, status="unresolved", value=0.3)
RESOLVED = replace(PASSED, status="resolved")
UNSEEN = replace(PASSED, status="not examined", value=None, evidence="memory ran out")
APART = replace(PASSED, status="not applicable", value=None, evidence="no surrogate was given")
FAILED = replace(SQUARE, status="failed", reason="the logits are not finite")
SKIPPED = replace(SQUARE, status="skipped", reason="no time was left")
GOOD = (PGD, SQUARE)


def verdict(accuracy, survived=LEFT, stages=GOOD, indicators=(PASSED,), **more):
    claim = RobustnessClaim("linf", "8/255", accuracy, "given")
    own = {"delta": 0.05, "images": 1000, "looked": 10_000, "available": 10_000, **more}
    return judge(claim, survived, stages, indicators, **own)


# ---- the verdict


@pytest.mark.parametrize(
    ("accuracy", "delta", "word"),
    [
        (1.0, 0.05, "overstated"),
        (np.nextafter(0.48, 1), 0.05, "overstated"),
        (0.48, 0.05, "not established"),  # it may be true, and it may be 6 points too high
        (0.4701, 0.05, "not established"),
        (0.4699, 0.05, "believable"),
        (0.45, 0.05, "believable"),
        (0.42, 0.05, "believable"),
        (0.3701, 0.05, "believable"),
        (0.3699, 0.05, "not established"),  # the attacks left far more than was claimed
        (0.0, 0.05, "not established"),
        (0.45, 0.03, "not established"),
        (0.45, 0.0301, "believable"),
        (0.42, 0.001, "believable"),
        # both: proved to be too high, and by less than Δ
        (0.49, 0.08, "overstated"),
        (0.48, 0.08, "believable"),
    ],
)
def test_the_interval_decides_between_the_claim_and_the_claim_less_delta(accuracy, delta, word):
    found = verdict(float(accuracy), delta=delta)
    assert (found.word, found.delta) == (word, delta)


def test_the_claim_that_two_hundred_images_could_buy():
    """93.2 % of an adversarially trained network: 200 images do not tell, 2,000 refute it."""
    few = verdict(0.932, proportion(181, 200, "exact"), images=200)
    assert few.word == "not established"
    assert "of 200 images, 90.5\u00a0% are still classified correctly" in few.sentence
    assert f"{few.needed:,} images would, if the same share survives" in few.sentence
    assert verdict(0.932, proportion(1786, 2000, "exact"), images=2000).word == "overstated"
    bought = proportion(round(0.905 * few.needed), few.needed, "exact")
    assert bought.high < 0.932 or bought.low > 0.882


@pytest.mark.parametrize("word", ["overstated", "believable", "not established"])
def test_the_first_line_says_how_many_images_there_were(word):
    accuracy = {"overstated": 0.9, "believable": 0.45, "not established": 0.475}[word]
    found = verdict(accuracy)
    assert found.word == word
    assert "of 1,000 images, 45.0\u00a0% are still classified correctly" in found.sentence
    assert "on the 17 images" in verdict(0.5, survived=None, images=17).sentence
    assert "of 1,000 images" in verdict(0.45, indicators=(OPEN,)).sentence


def test_a_claim_that_is_too_high_by_less_than_delta_is_overstated_and_told_so():
    close = verdict(0.49, delta=0.08)
    assert close.word == "overstated"
    assert "overstated by less than Δ\u00a0=\u00a08\u00a0points" in " ".join(close.reasons)
    assert "less than Δ" not in " ".join(verdict(0.49).reasons)


@pytest.mark.parametrize(
    ("accuracy", "side"),
    [
        (0.45, "it would be believable"),
        (0.47, "45.0\u00a0% lies in the indifference zone from 44.0\u00a0% to 47.0\u00a0%"),
        (0.48, "it would be overstated"),
    ],
)
def test_what_more_images_would_come_to_is_told(accuracy, side):
    found = verdict(accuracy, delta=0.03)
    assert found.word == "not established"
    assert side in found.reasons[1]


def test_more_images_than_the_data_set_has_are_told():
    found = verdict(0.475, available=1000)
    assert f"{found.needed:,} images, more than the 1,000 of the data set," in found.sentence
    assert "of the data set" not in verdict(0.475, available=found.needed).sentence
    assert "of the data set" not in verdict(0.475, available=None).sentence
    close = verdict(0.45, delta=1e-6)
    assert close.needed is None
    assert "more than 10,000,000 images, more than the 10,000 of the data set," in close.sentence


def test_images_are_asked_for_only_where_they_would_help():
    assert verdict(0.475, stages=(PGD, FAILED)).needed
    for found in (
        verdict(0.45),
        verdict(0.45, stages=(PGD, FAILED)),
        verdict(0.45, indicators=(OPEN,)),
        verdict(0.3),
        verdict(0.9),
        verdict(0.45, survived=None),
    ):
        assert found.needed is None


def test_where_no_claim_was_made_the_sentence_says_whose_number_it_is():
    claim = RobustnessClaim("linf", "8/255", 0.45, f"plain pgd, {PLAIN_CLAIM}")
    found = judge(claim, LEFT, GOOD, (PASSED,), delta=0.05, images=1000, looked=100)
    assert found.sentence.startswith("The 45.0\u00a0% robust accuracy that plain PGD finds at ")
    assert verdict(0.45).sentence.startswith("The claim of 45.0\u00a0% robust accuracy at ")


@pytest.mark.thorough
@pytest.mark.parametrize("survived", [LEFT, None])
@pytest.mark.parametrize("stopped", [FAILED, SKIPPED, replace(SKIPPED, required=False)])
def test_where_the_plain_evaluation_broke_off_there_is_no_claim(survived, stopped):
    """A share that would be overstated as a claim: what attacks have not met is no finding."""
    claim = RobustnessClaim("linf", "8/255", 0.95, f"plain pgd, {NO_CLAIM}")
    found = judge(claim, survived, (PGD, stopped), (PASSED,), delta=0.05, images=9, looked=10_000)
    assert (found.word, found.by, found.needed) == ("not established", None, None)
    assert found.sentence.startswith(
        "No claim was given and the plain evaluation, PGD, did not complete"
    )
    assert "95.0" not in found.sentence
    assert sum(reason.startswith("Square ") for reason in found.reasons) == 1
    audit = finished(replace(full(), claim=claim, verdict=found))
    for word in ("believable", "not overstated"):
        assert not rule(audit, verdict=word).passed
    assert "| claim (ℓ∞, ε = 8/255) | – |" in half_page(audit)
    if (survived, stopped) == (LEFT, FAILED):
        assert "Dashed: the claim" not in page(audit)
        assert "Dashed: the claim" in page(full())


def test_a_claim_below_delta_is_said_to_say_little():
    nothing = proportion(0, 1000, "exact")
    assert "it says little" in " ".join(verdict(0.0, nothing).reasons)
    assert "it says little" not in " ".join(verdict(0.45).reasons)


@pytest.mark.parametrize(("delta", "least"), [(0.05, 93), (0.03, 157), (0.02, 236), (0.2, 22)])
def test_indicators_that_looked_at_too_few_images_establish_nothing(delta, least):
    """So few that, at 95 %, no more than one of them need show what takes Δ of all."""
    assert binom.cdf(1, least, delta) <= 0.05 < binom.cdf(1, least - 1, delta)
    good, few = (verdict(0.45, delta=max(delta, 0.0301), looked=n) for n in (10_000, 1))
    assert (good.word, few.word) == ("believable", "not established")
    assert least_looks(delta) == least
    if delta > 0.03:
        assert verdict(0.45, delta=delta, looked=least).word == "believable"
        found = verdict(0.45, delta=delta, looked=least - 1)
        assert found.word == "not established"
        assert f"it takes {least} to notice" in found.sentence
    assert verdict(0.9, delta=delta, looked=1).word == "overstated"


@pytest.mark.parametrize("name", ["quick", "standard", "thorough"])
def test_a_shipped_plan_looks_at_enough_images(name):
    plan = load_plan(name)
    assert plan.indicators >= least_looks(plan.delta)


# ---- how often a verdict is wrong, by summing the binomial and not by drawing


exactly = cache(partial(proportion, method="exact"))


def words_by_count(claim, n, delta, *truths):
    """The word for each count of survivors that comes about; how many more images settle it is open."""
    likely = sum(binom.pmf(np.arange(n + 1), n, truth) for truth in truths) > 1e-12
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robustkit.auditing.verdict.images_to_settle", lambda *_, **__: None)
        words = [
            verdict(claim, exactly(k, n), delta=delta).word if likely[k] else ""
            for k in range(n + 1)
        ]
    return np.array(words)


def chance(words, word, truth):
    n = len(words) - 1
    return float(binom.pmf(np.arange(n + 1), n, truth)[words == word].sum())


@pytest.mark.parametrize(("n", "delta"), [(40, 0.05), (200, 0.05), (200, 0.02), (900, 0.05)])
@pytest.mark.parametrize("claim", [0.2, 0.5, 0.9, 0.932, 0.97, 0.99, 1.0])
def test_a_verdict_is_wrong_in_one_of_forty_audits_at_most(n, delta, claim):
    words = words_by_count(claim, n, delta, claim, claim - delta)
    # the worst false claim is too high by just Δ, the worst true one is the truth itself
    assert chance(words, "believable", claim - delta) <= 0.025
    assert chance(words, "overstated", claim) <= 0.025


@pytest.mark.parametrize("name", ["quick", "standard"])
@pytest.mark.parametrize("claim", [0.45, 0.5, 0.7, 0.9, 0.98])
def test_a_shipped_plan_has_the_images_to_believe_a_true_claim(name, claim):
    plan = load_plan(name)
    few, many = (
        words_by_count(claim, 200, plan.delta, claim),
        words_by_count(claim, plan.images, plan.delta, claim),
    )
    assert chance(many, "believable", claim) >= 0.84
    assert chance(few, "believable", claim) < chance(many, "believable", claim)


def test_the_shipped_plans_ask_for_more_the_harder_they_try():
    assert [load_plan(name).delta for name in ("quick", "standard", "thorough")] == [
        0.05,
        0.03,
        0.02,
    ]
    assert load_plan("thorough").images == 0
    # with ten thousand, every claim is either believable or overstated
    for seen in np.linspace(0.01, 0.99, 99):
        assert all(
            images_to_settle(seen, above=claim - 0.02, below=claim) <= 10_000
            for claim in np.clip([seen - 0.01, seen, seen + 0.01, seen + 0.02], 0.02, 1)
        )


@pytest.mark.parametrize(
    ("share", "above", "below"),
    [
        (0.905, 0.882, 0.932),
        (0.905, 0.9, 0.95),
        (0.5, 0.45, 0.5),
        (1.0, 0.95, 1.0),
        (0.3, 0.4, 0.5),
    ],
)
def test_the_images_that_settle_a_claim_are_the_fewest(share, above, below):
    found = images_to_settle(share, above=above, below=below)

    def ends(n):
        # Clopper and Pearson's by the quantiles of the beta distribution, counts not whole
        k = share * n
        low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
        return low, beta.ppf(0.975, k + 1, n - k) if k < n else 1.0

    for n in range(1, found):
        low, high = ends(n)
        assert low <= above
        assert high >= below
    low, high = ends(found)
    assert low > above or high < below


def test_no_number_of_images_is_named_beyond_reason():
    assert images_to_settle(0.5, above=0.5, below=0.5 + 1e-7) is None
    assert images_to_settle(0.5, above=0.4999, below=0.51) < MOST_IMAGES


@pytest.mark.parametrize(
    ("stages", "indicators", "word", "reason"),
    [
        (
            GOOD,
            (PASSED, RESOLVED),
            "believable",
            "Every required attack completed (2): PGD and Square.",
        ),
        (
            GOOD,
            (PASSED, APART),
            "believable",
            "1 indicator does not apply: Do gradients vanish? (no surrogate was given).",
        ),
        (
            GOOD,
            (PASSED, UNSEEN, APART),
            "not established",
            "1 indicator could not be examined: Do gradients vanish? (memory ran out).",
        ),
        (GOOD, (APART,), "not established", "No indicator of a failing attack was examined"),
        (
            (PGD, replace(FAILED, required=False)),
            (PASSED,),
            "believable",
            "Square did not complete: the logits are not finite.",
        ),
        (
            (PGD, FAILED),
            (PASSED,),
            "not established",
            "Square did not complete: the logits are not finite.",
        ),
        ((PGD, SKIPPED), (PASSED,), "not established", "Square was skipped: no time was left."),
        (
            (replace(PGD, required=False),),
            (PASSED,),
            "not established",
            "No attack that a verdict needs was run.",
        ),
        ((), (PASSED,), "not established", "No attack that a verdict needs was run."),
        (
            GOOD,
            (PASSED, OPEN),
            "not established",
            "1 indicator stayed unresolved: Do gradients vanish? (0.3, threshold 0.1).",
        ),
        (GOOD, (OPEN, OPEN), "not established", "2 indicators stayed unresolved: "),
        (GOOD, (), "not established", "No indicator of a failing attack was examined"),
        (GOOD, (UNSEEN,), "not established", "No indicator of a failing attack was examined"),
    ],
)
def test_a_claim_within_the_interval_needs_attacks_and_indicators(stages, indicators, word, reason):
    found = verdict(0.45, stages=stages, indicators=indicators)
    assert found.word == word
    assert any(r.startswith(reason) for r in found.reasons), found.reasons
    assert found.by is None


@pytest.mark.parametrize("stages", [GOOD, (PGD, FAILED), ()])
@pytest.mark.parametrize("indicators", [(PASSED,), (OPEN,), ()])
def test_what_was_fooled_stays_fooled_whatever_did_not_complete(stages, indicators):
    found = verdict(0.5, stages=stages, indicators=indicators)
    assert found.word == "overstated"
    assert found.by == pytest.approx(0.02)
    assert "overstated by 2.0\u00a0points or more" in found.sentence
    assert ("could only have lowered" in " ".join(found.reasons)) == (FAILED in stages)


@pytest.mark.parametrize("above", [1e-5, 0.000375, 0.00049, 0.0199, 0.02, 0.3])
def test_no_claim_is_told_to_be_further_above_the_interval_than_it_is(above):
    survived = proportion(83, 200, "exact")
    found = verdict(survived.high + above, survived, images=200)
    claimed, by, high = (
        float(re.search(pattern, found.sentence)[1])
        for pattern in (
            r"claim of ([\d.]+)\u00a0%",
            r"overstated by ([\d.]+)\u00a0points or more",
            r"CI [\d.]+ to ([\d.]+)\)",
        )
    )
    assert 0 < by <= 100 * above + 1e-9
    assert high < claimed
    assert f"{by:g}" in found.reasons[0]


def test_a_claim_below_says_that_the_attacks_may_be_too_weak():
    (reason,) = verdict(0.3).reasons
    assert "5\u00a0points below the interval, which begins at 42.0\u00a0%" in reason
    assert "they may be too weak, or the claim is conservative" in reason
    assert verdict(0.3).by is None


def test_where_nothing_was_attacked_nothing_is_known():
    found = verdict(0.45, survived=None, stages=())
    assert found.word == "not established"
    assert found.reasons[0] == "No attack completed on the 1,000 images."


def test_all_reasons_against_a_claim_are_told():
    found = verdict(0.3, stages=(PGD, FAILED), indicators=(OPEN,))
    assert len(found.reasons) == 3
    assert "Square did not complete" in verdict(0.45, stages=(PGD, FAILED)).sentence


def test_rounding_never_contradicts_a_sentence():
    assert shares(0.4496, 0.45) == ["44.96\u00a0%", "45.00\u00a0%"]
    assert shares(0.45, 0.45) == ["45.0\u00a0%", "45.0\u00a0%"]
    assert shares(0.9996, 0.97) == ["99.96\u00a0%", "97.00\u00a0%"]
    assert shares(0.0001, 0.03, 1.0) == ["0.01\u00a0%", "3.00\u00a0%", "100.00\u00a0%"]


@pytest.mark.parametrize("right", [0, 1, 1249, 2499, 2500])
def test_the_sentence_of_a_verdict_rounds_as_the_page_does(right):
    found = verdict(right / 2500, proportion(right, 2500, "exact"), images=2500)
    assert f"{percent(right / 2500)} are still classified correctly" in found.sentence
    assert f"of {percent(right / 2500)} robust accuracy" in found.sentence
    assert in_points(0.0001) == "0.01\u00a0points"
    assert in_points(-0.0) == "0.0\u00a0points"
    just = verdict(0.48004)
    assert "48.004\u00a0% lies above" in just.reasons[0]
    assert "0.004\u00a0points" in just.sentence


def test_lists_in_sentences():
    assert at_most([]) == ""
    assert at_most(["a"]) == "a"
    assert at_most(["a", "b", "c"]) == "a, b and c"
    assert at_most(list("abcdefg"), 3) == "a, b, c and 4 more"
    assert at_most(["PGD, 40 steps", "Square"]) == "PGD, 40 steps; Square"


# ---- claims


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("linf:8/255=0.45", ("linf", "8/255", 0.45)),
        ("l2:0.5=45%", ("l2", "0.5", 0.45)),
        (" l1 : 12 = 0 ", ("l1", "12", 0.0)),
        ("linf:8/255=1", ("linf", "8/255", 1.0)),
    ],
)
def test_a_claim_is_read(text, claim):
    found = parse_claim(text)
    assert (found.norm, found.epsilon, found.accuracy) == claim
    assert found.source == "given"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write NORM:EPSILON=ACCURACY"),
        ("0.45", "write NORM:EPSILON=ACCURACY"),
        ("8/255=0.45", "write NORM:EPSILON=ACCURACY"),
        ("l3:8/255=0.45", "unknown norm 'l3'; known: linf, l2, l1"),
        ("linf:8/0=0.45", "expected a number such as"),
        ("linf:-1=0.45", "a budget must be above 0"),
        ("linf:8/255=high", "'high' is no accuracy"),
        ("linf:8/255=", "'' is no accuracy"),
        ("linf:8/255=45", "between 0 and 1; did you mean 45%?"),
        ("linf:8/255=nan", "between 0 and 1"),
        ("linf:8/255=-0.1", "between 0 and 1"),
    ],
)
def test_a_bad_claim_is_one_clear_line(text, message):
    with pytest.raises(InputError) as error:
        parse_claim(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_evaluation_makes_a_claim(tmp_path):
    record = evaluation()
    accuracy = record.robust()[1].accuracy.value
    path = tmp_path / "results.json"
    path.write_text(json.dumps([summarise(record)]))
    for source in (record, path):
        claim = claim_from(source, "2/10")
        assert (claim.norm, claim.epsilon, claim.accuracy) == ("linf", "0.2", accuracy)
    assert claim.source == str(path)
    assert claim_from(evaluation(epsilons=["0.1"])).epsilon == "0.1"


@pytest.mark.parametrize("size", ["30deg+14px", "30deg", "3px"])
def test_a_rotation_is_another_claim_with_another_translation(size, tmp_path):
    summary, record = summarise(evaluation(epsilons=("1", "2"))), tmp_path / "results.json"
    levels = zip(summary["robust"], ("10deg+1px", "30deg+3px"), strict=True)
    summary |= {"robust": [entry | {"epsilon": text} for entry, text in levels]}
    summary |= {"protocol": summary["protocol"] | {"norm": "spatial"}}
    record.write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"not attacked at ε = .*; attacked at: 10deg\+1px, 30deg"):
        claim_from(record, size)
    assert claim_from(record, "60/2deg+3px").epsilon == "30deg+3px"
    claim, images = parse_claim("spatial:30deg+3px=0.5"), load_dataset("mnist5k", limit=1)
    with pytest.raises(InputError, match=r"the claim is about 30deg\+3px"):
        threat_model(images, claim, epsilon=size)
    assert threat_model(images, claim, epsilon="60/2deg+3px").judged.text == "30deg+3px"


def test_what_makes_no_claim_is_one_clear_line(tmp_path):
    record, path = evaluation(), tmp_path / "results.json"
    aimed = json.loads(json.dumps(record.header))
    aimed["protocol"]["resolved"]["target"] = "next"
    for source, epsilon, message in (
        (record, None, "name the budget of the claim; attacked at: 0.1, 0.2, 0.3"),
        (record, "0.4", "not attacked at ε = 0.4; attacked at: 0.1, 0.2, 0.3"),
        (Evaluation(aimed, record.run, record.table), "0.1", "a targeted evaluation"),
        (tmp_path / "none.json", "0.1", r"none\.json: no such file"),
        (tmp_path / "none.parquet", "0.1", r"none\.parquet: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            claim_from(source, epsilon)
    one = summarise(record)
    for content, message in (
        ([], "0 checkpoints"),
        ([one, one], "2 checkpoints"),
        ({"schema": "other"}, "not a summary of evaluations"),
        ([failure("a.pt", "NaN logits")], "the evaluation failed"),
        ([{key: one[key] for key in ("schema", "status")}], "not a whole summary"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            claim_from(path, "0.1")


# ---- policies


def rules(*requirements, audit=None):
    policy = parse_policy({"title": "t", "require": list(requirements)}, "policy.toml")
    return judge_policy(policy, audit or full())


def rule(audit=None, **requirement):
    return rules(requirement, audit=audit)[0]


def test_every_rule_of_a_policy_is_judged_in_its_order():
    found = full().policy
    assert [r.passed for r in found] == [True, False, True, True, True, False, True, False]
    for r, entry in zip(found, POLICY["require"], strict=True):
        assert tomllib.loads(r.rule.replace(", ", "\n")).items() >= entry.items()
        assert r.sentence.endswith(".")


def test_a_policy_is_read_from_its_file(tmp_path):
    path = tmp_path / "gate.toml"
    path.write_text('title = "Gate"\n[[require]]\nrobust = "linf:8/255"\nat_least = 0.45\n')
    policy = read_policy(path)
    assert policy.title == "Gate"
    assert as_written(policy.require[0]) == (
        'robust = "linf:8/255", at_least = 0.45, confidence = 0.95'
    )
    with pytest.raises(InputError, match=r"none\.toml: no such file"):
        read_policy(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "the key 'title' is missing"),
        ({"title": "t"}, "the key 'require' is missing"),
        ({"title": "t", "require": []}, "at least one"),
        ({"title": "t", "require": [1]}, "require 1: expected a table"),
        ({"title": "t", "requires": []}, "did you mean 'require'"),
        ({"title": "t", "require": [{}]}, "unknown requirement"),
        ({"title": "t", "require": [{"robst": "linf:1"}]}, "did you mean 'robust'"),
    ],
)
def test_a_bad_policy_is_one_clear_line(table, message):
    with pytest.raises(InputError, match=message) as error:
        parse_policy(table, "policy.toml")
    assert str(error.value).startswith("policy.toml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"robust": "linf:8/255"}, "the key 'at_least' is missing"),
        ({"robust": "linf:8/255", "atleast": 0.4}, "did you mean 'at_least'"),
        ({"robust": "linf:8/255", "at_least": 45}, "a share from 0 to 1"),
        ({"robust": "linf:8/255", "at_least": "0.4"}, "expected float"),
        ({"robust": "8/255", "at_least": 0.4}, "write NORM:EPSILON"),
        ({"robust": "linf:x", "at_least": 0.4}, "expected a number"),
        ({"robust": "l9:1", "at_least": 0.4}, "unknown norm 'l9'"),
        ({"robust": "linf:1", "at_least": 0.4, "confidence": 1}, "confidence: expected"),
        ({"robust": "linf:1", "certified": "linf:1", "at_least": 0.4}, "one rule a table"),
        ({"accuracy": "claen", "at_least": 0.4}, "did you mean 'clean'"),
        ({"accuracy": "corruptions", "at_least": 0.4, "confidence": 0.9}, "no interval"),
        ({"unresolved_indicators": -1}, "0 or more"),
        ({"unresolved_indicators": True}, "expected int"),
        ({"not_worse_than": "b.pt"}, "the key 'by_more_than' is missing"),
        ({"verdict": "beleivable"}, "did you mean 'believable'"),
        ({"verdict": "believable", "delta": 5.0}, "expected 0.05 for 5 points, got 5.0"),
        ({"verdict": "not overstated", "delta": 0.05}, 'delta goes with verdict = "believable"'),
    ],
)
def test_a_bad_rule_is_one_clear_line(entry, message):
    with pytest.raises(InputError, match=message):
        rules(entry)


STANDARD = load_plan("standard")
EVERYWHERE = replace(
    STANDARD, name="own", stages=tuple(replace(s, budgets="all") for s in STANDARD.stages)
)


def asked_in_vain(entry, plan=STANDARD, norm="linf", budgets=("0.05", "0.1"), against=("b/c.pt",)):
    sizes = [parse_epsilon(size) for size in budgets]
    policy = parse_policy({"title": "t", "require": [entry]}, "policy.toml")
    return unanswerable(policy, plan, norm, sizes, against)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"robust": "l2:0.5", "at_least": 0.4}, 'robust = "l2:0.5": the audit is in linf'),
        ({"certified": "l1:1", "at_least": 0.4}, 'certified = "l1:1": the audit is in linf'),
        ({"not_worse_than": "d.pt", "by_more_than": 0.1}, "give --against d.pt"),
    ],
)
def test_a_rule_of_another_audit_is_refused_before_any_work(entry, message):
    with pytest.raises(InputError, match=message):
        asked_in_vain(entry)


@pytest.mark.parametrize(
    ("entry", "why", "where"),
    [
        ({"robust": "linf:0.05"}, "the plan standard has .* at the judged 0.1 alone", {}),
        ({"robust": "linf:0.2"}, "has the budgets 0.05 and 0.1 alone", {}),
        ({"certified": "linf:1/50"}, "has the budgets 0.05 and 0.1 alone", {}),
        ({"certified": "l0:5"}, "no bounds for l0", {"norm": "l0", "budgets": ("5",)}),
    ],
)
def test_a_rule_that_no_network_passes_is_told_before_any_work(entry, why, where):
    entry = entry | {"at_least": 0.0}
    (told,) = asked_in_vain(entry, **where)
    written = " ".join(f'{key} = "{value}"' for key, value in entry.items() if key != "at_least")
    assert told.startswith(f"the rule {written} will fail, whatever the network: ")
    assert re.search(why, told)


@pytest.mark.parametrize(
    ("entry", "where"),
    [
        ({"robust": "linf:1/10", "at_least": 0.4}, {}),
        ({"robust": "linf:1/20", "at_least": 0.4}, {"plan": EVERYWHERE}),
        ({"certified": "linf:0.05", "at_least": 0.4}, {}),
        ({"not_worse_than": "c.pt", "by_more_than": 0.1}, {}),
        ({"not_worse_than": "b/c.pt", "by_more_than": 0.1}, {}),
        ({"accuracy": "clean", "at_least": 0.4}, {"against": ()}),
        ({"verdict": "believable"}, {"against": ()}),
        ({"unresolved_indicators": 0}, {"against": ()}),
    ],
)
def test_of_a_rule_that_a_network_may_pass_nothing_is_said(entry, where):
    assert asked_in_vain(entry, **where) == []


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(("count", "n"), [(0, 10), (1, 10), (451, 1000), (10, 10)])
def test_the_one_sided_bound_is_the_exact_one(count, n, confidence):
    low = lower_bound(proportion(count, n), confidence)
    if count:  # at the bound, as many successes are just as likely as the risk
        assert binom.sf(count - 1, n, low) == pytest.approx(1 - confidence, rel=1e-6)
    else:
        assert low == 0


def test_a_lower_bound_that_just_reaches_passes():
    low = lower_bound(full().survived, 0.95)
    assert rule(robust="linf:8/255", at_least=low).passed
    failed = rule(robust="linf:8/255", at_least=float(np.nextafter(low, 1)))
    assert not failed.passed
    assert "is below" in failed.sentence
    assert "45.1\u00a0% of 1,000 images are still classified correctly" in failed.sentence


def test_a_budget_may_be_written_otherwise():
    assert rule(robust="linf:16/510", at_least=0.3).passed


@pytest.mark.parametrize(
    ("size", "passed"),
    [("10deg+1px", True), ("20/2deg+1px", True), ("10deg+9px", False), ("10deg", False)],
)
def test_a_rotation_that_was_tried_with_another_translation_is_not_known(size, passed):
    tried = (Level("10deg+1px", 10.0, LEFT),)
    stages = tuple(replace(s, robust=tried) for s in GOOD)
    bounds = Certificate("IBP", (Bound("10deg+1px", 10.0, LEFT),), n=1000)
    more = {"norm": "spatial", "epsilon": "10deg+1px", "robust": tried, "certificate": bounds}
    audit = replace(full(), stages=stages, **more)
    for kind, unknown in (("robust", "No attack completed"), ("certified", "Nothing is certified")):
        found = rule(audit, **{kind: f"spatial:{size}", "at_least": 0.2})
        assert found.passed == passed
        assert found.sentence.startswith(unknown) != passed


@pytest.mark.parametrize(
    ("requirement", "reason"),
    [
        ({"robust": "linf:1/255", "at_least": 0.0}, "no attack completed at"),
        ({"robust": "l2:8/255", "at_least": 0.0}, "attacked in ℓ∞, not in ℓ₂"),
        ({"certified": "linf:8/255", "at_least": 0.0}, "Softmax has no bound"),
        ({"certified": "l2:1", "at_least": 0.0}, "bounds are in ℓ∞, not in ℓ₂"),
        ({"accuracy": "corruptions", "at_least": 0.0}, "smaller than 32"),
        ({"not_worse_than": "other.pt", "by_more_than": 1.0}, "not compared with other.pt"),
        ({"not_worse_than": "baseline.pt", "by_more_than": 1.0}, "its record has other images"),
        ({"verdict": "believable"}, "the verdict is not established"),
    ],
)
def test_a_rule_about_what_is_not_known_fails(requirement, reason):
    found = rule(broken(), **requirement)
    assert not found.passed
    assert reason.lower() in found.sentence.lower()


@pytest.mark.parametrize("requirement", POLICY["require"])
def test_nothing_but_clean_accuracy_passes_where_nothing_else_is_known(requirement):
    easy = {k: 0.0 if k == "at_least" else v for k, v in requirement.items()}
    assert rule(minimal(), **easy).passed == (requirement.get("accuracy") == "clean")


def test_robust_accuracy_without_all_required_attacks_is_no_finding():
    found = rule(broken(), robust="linf:8/255", at_least=0.0)
    assert not found.passed
    assert "Square attack, 5,000 queries" in found.sentence


def test_a_budget_that_only_some_required_attacks_tried_is_no_finding():
    found = rule(robust="linf:4/255", at_least=0.0)
    assert not found.passed
    ran = (
        "Required attacks ran at the judged ε = 8/255 alone (APGD on the logit ratio; Square attack"
    )
    assert found.sentence.startswith(ran)
    tried = tuple(
        replace(s, robust=(*s.robust, level("4/255", 700))) if s.required else s
        for s in full().stages
    )
    assert rule(replace(full(), stages=tried), robust="linf:4/255", at_least=0.0).passed


@pytest.mark.parametrize(
    ("unresolved", "unseen", "apart", "allowed", "passed"),
    [
        (0, 0, 0, 0, True),
        (1, 0, 0, 0, False),
        (1, 0, 0, 1, True),
        (0, 0, 3, 0, True),  # what nobody gave is no fault of the network's
        (0, 1, 0, 0, False),  # what broke off may have been one
        (0, 1, 0, 1, True),
        (1, 1, 0, 1, False),
        (2, 2, 9, 4, True),
    ],
)
def test_what_does_not_apply_fails_no_rule_and_what_is_not_known_does(
    unresolved, unseen, apart, allowed, passed
):
    results = (PASSED, *[OPEN] * unresolved, *[UNSEEN] * unseen, *[APART] * apart)
    found = rule(replace(full(), indicators=results), unresolved_indicators=allowed)
    assert found.passed == passed
    assert found.rule == f"unresolved_indicators = {allowed}"
    assert ("could not be examined" in found.sentence) == (unseen > 0)


@pytest.mark.parametrize("delta", [0.05, 0.03, 0.02])
@pytest.mark.parametrize("allowed", [0, 3])
def test_indicators_on_too_few_images_hold_no_rule(delta, allowed):
    """One that looks at survivors alone may look at fewer: the most that any looked at counts."""
    least = least_looks(delta)

    def judged(n):
        results = (replace(PASSED, n=1), replace(PASSED, n=n), replace(APART, n=10_000))
        audit = replace(full(), indicators=results, verdict=replace(full().verdict, delta=delta))
        return rule(audit, unresolved_indicators=allowed)

    assert judged(least).passed
    for n in (1, least - 1):
        found = judged(n)
        assert not found.passed
        assert f"examined on {n} image" in found.sentence
        assert f"it takes {least} to notice" in found.sentence


def test_no_rule_of_a_policy_fails_what_its_file_does_not_name():
    """Every key of a rule that has a default is either of no effect, or written out."""
    with pytest.raises(InputError, match="unknown key 'unexamined_indicators'"):
        rules({"unresolved_indicators": 0, "unexamined_indicators": 3})
    believed = replace(
        full(),
        indicators=(PASSED, APART),
        verdict=verdict(0.45, indicators=(PASSED, APART)),
        claim=RobustnessClaim("linf", "8/255", 0.45, "given"),
    )
    assert rule(believed, unresolved_indicators=0).passed
    assert rule(believed, verdict="believable").passed


WITHOUT_ADAPTIVE = tuple(s for s in full().stages if s.family != "adaptive")


def compared(*comparisons):
    return replace(full(), comparisons=comparisons, stages=WITHOUT_ADAPTIVE)


@pytest.mark.parametrize(("margin", "passed"), [(0.016, True), (0.0159, False), (0.0, False)])
def test_not_worse_asks_for_the_whole_interval(margin, passed):
    audit = compared(comparison("a/b.pt"), comparison("c.pt", 0.2))
    assert rule(audit, not_worse_than="b.pt", by_more_than=margin).passed == passed


@pytest.mark.parametrize("limit", [0.0, 0.0025, 0.01, 0.0104, 0.0105, 0.05])
@pytest.mark.parametrize("low", [-0.0525, -0.0104, -0.01, -0.00251, -0.0024, 0.0004])
@pytest.mark.parametrize("more", [0, 4])
def test_the_sentence_of_not_worse_says_what_its_own_numbers_say(limit, low, more):
    difference = Estimate(low + 0.01, low, low + 0.02, N, "")
    stages = (*WITHOUT_ADAPTIVE, *[s for s in full().stages if s.family == "adaptive"])
    stages = tuple(replace(s, first=more) if s.family == "adaptive" else s for s in stages)
    other = replace(comparison("b.pt"), difference=difference)
    found = rule(
        replace(full(), stages=stages, comparisons=(other,)),
        not_worse_than="b.pt",
        by_more_than=limit,
    )
    assert found.passed == (round(low - more / N + limit, 9) >= 0)
    told = found.sentence.replace("−", "-").replace("\u00a0", " ")
    begins = re.search(r"begins at (\S+) points" if more else r"CI (\S+) points? to", told)
    written = re.search(r"(?:above|below) (\S+) points?\.", told)
    assert float(written[1]) == -100 * limit or float(written[1]) == pytest.approx(-100 * limit)
    assert (float(begins[1]) >= float(written[1])) == found.passed


def test_what_adaptive_attacks_took_from_the_audited_network_alone_counts_against_it():
    """6 of 1,000 images; without them the interval begins at −1.6 points."""
    found = rule(full(), not_worse_than="baseline.pt", by_more_than=0.0219)
    assert not found.passed
    assert "less the 0.6\u00a0points that adaptive attacks took from it alone" in found.sentence
    assert rule(full(), not_worse_than="baseline.pt", by_more_than=0.0221).passed


def test_whatever_only_the_audited_network_met_counts_against_it():
    """Of 6 and 14 of 1,000 images, at an interval that begins at −1.6 points."""
    branching = replace(WITHOUT_ADAPTIVE[0], name="branch and bound", family="white box", first=14)
    alone = replace(full(), stages=(*WITHOUT_ADAPTIVE, branching))
    found = rule(alone, not_worse_than="baseline.pt", by_more_than=0.0299)
    assert not found.passed
    assert "less the 1.4\u00a0points that branch and bound took from it alone" in found.sentence
    assert rule(alone, not_worse_than="baseline.pt", by_more_than=0.0301).passed
    both = replace(full(), stages=(*full().stages, branching))
    found = rule(both, not_worse_than="baseline.pt", by_more_than=0.0359)
    assert not found.passed
    assert "2.0\u00a0points that adaptive attacks and branch and bound took" in found.sentence
    assert rule(both, not_worse_than="baseline.pt", by_more_than=0.0361).passed


def test_a_network_that_some_required_attacks_never_met_is_not_said_to_be_as_good():
    stages = (*WITHOUT_ADAPTIVE, replace(WITHOUT_ADAPTIVE[4], status="skipped"))
    found = rule(replace(full(), stages=stages), not_worse_than="baseline.pt", by_more_than=1.0)
    assert not found.passed
    assert "ot all required attacks completed (not: Square attack" in found.sentence


def test_a_plan_that_requires_no_attack_finds_no_robust_accuracy():
    stages = tuple(replace(stage, required=False) for stage in full().stages)
    found = rule(replace(full(), stages=stages), robust="linf:8/255", at_least=0.0)
    assert not found.passed
    assert "o attack that a finding at" in found.sentence


def test_two_comparisons_with_files_of_one_name_need_the_path():
    audit = compared(comparison("a/b.pt"), comparison("c/b.pt", 0.2))
    found = rule(audit, not_worse_than="b.pt", by_more_than=1.0)
    assert not found.passed
    assert "he name b.pt may mean a/b.pt or c/b.pt; give its path" in found.sentence
    assert rule(audit, not_worse_than="c/b.pt", by_more_than=0.0).passed


def test_a_verdict_may_only_have_to_be_no_overstatement():
    whole = [replace(s, status="complete", robust=(level("8/255", 462),)) for s in broken().stages]
    assert rule(replace(broken(), stages=tuple(whole)), verdict="not overstated").passed
    assert not rule(full(), verdict="not overstated").passed
    assert not rule(minimal(), verdict="not overstated").passed  # where nothing was attacked


def test_what_no_required_attack_met_is_not_said_to_be_no_overstatement():
    stages = broken().stages
    noise, *_ = stages
    failed = [replace(s, status="failed", robust=(), so_far=None, first=0) for s in stages[1:]]
    audit = replace(broken(), stages=(noise, *failed))
    assert audit.verdict.word == "not established"
    found = rule(audit, verdict="not overstated")
    assert not found.passed
    assert found.sentence.startswith("No attack that a verdict needs completed")
    required = next(s for s in stages if s.required)
    # nor what some of them met: FGSM alone says next to nothing of what PGD would find
    some = [
        s if s is required or not s.required else replace(s, status="skipped", robust=())
        for s in stages
    ]
    found = rule(replace(audit, stages=tuple(some)), verdict="not overstated")
    assert not found.passed
    assert found.sentence.startswith("Not all required attacks completed (not: ")
    assert "Not all required attacks completed (not: Square attack" in (
        rule(broken(), verdict="not overstated").sentence
    )
    assert rule(replace(audit, stages=(noise, required)), verdict="not overstated").passed
    elsewhere = replace(required, robust=(level("2/255", 900),))
    audit = replace(audit, stages=(noise, elsewhere))
    assert not rule(audit, verdict="not overstated").passed


def corrupted(**rows):
    """Corruptions of which each has these severities, at 900 less 100 a severity of 1,000."""
    return Corruptions(
        tuple(
            Corrupted(name, "other", tuple(proportion(900 - 100 * (s or 0), N) for s in at), at)
            for name, at in rows.items()
        ),
        0.5,
        n=N,
    )


def test_clean_images_are_no_corruption_that_a_mean_is_over():
    audit = replace(full(), corruptions=corrupted(identity=(None,), fog=(3, 5), frost=(3, 5)))
    assert audit.corruptions.counted == 2
    found = rule(audit, accuracy="corruptions", at_least=0.4)
    assert "he mean accuracy over 2 corruptions and their severities" in found.sentence
    fifteen = dict.fromkeys((*NAMES, "saturate", "spatter"), (1, 2))
    assert corrupted(**fifteen).counted == 15


@pytest.mark.parametrize(("delta", "passed"), [(None, True), (0.0301, True), (0.03, False)])
def test_a_rule_may_ask_for_a_smaller_delta_than_the_plan(delta, passed):
    audit = replace(
        full(),
        robust=tuple(replace(lv, accuracy=LEFT) for lv in full().robust),
        claim=RobustnessClaim("linf", "8/255", 0.45, "given"),
        verdict=verdict(0.45),
    )
    asked = {} if delta is None else {"delta": delta}
    found = rule(audit, verdict="believable", **asked)
    assert found.passed == passed
    if delta:
        assert f"{100 * delta:.6g}\u00a0points" in found.sentence
        assert not rule(full(), verdict="believable", **asked).passed  # it is overstated


def guide_gate():
    text = (shipped("reports").parent / "docs/pages/guides/audit.md").read_text()
    (gate,) = re.findall(r"<!-- gate -->\n```toml\n(.*?)```", text, re.S)
    return tomllib.loads(gate)


def test_the_gate_of_the_guide_passes_a_believable_network():
    """The shipped LeNet-5 at 0.1: 527 of 900 images, no surrogate given."""
    left, claim = proportion(527, 900, "exact"), RobustnessClaim("linf", "0.1", 0.55, "given")
    stages = tuple(replace(s, robust=(Level("0.1", 0.1, left),)) for s in GOOD)
    audit = replace(
        full(),
        epsilon="0.1",
        robust=(Level("0.1", 0.1, left),),
        stages=stages,
        indicators=(PASSED, APART),
        claim=claim,
        verdict=judge(claim, left, stages, (PASSED, APART), delta=0.05, images=900, looked=100),
    )
    policy = parse_policy(guide_gate(), "gate.toml")
    assert [r.passed for r in judge_policy(policy, audit)] == [True, True, True]
    weak = replace(audit, robust=(Level("0.1", 0.1, proportion(400, 900, "exact")),))
    assert [r.passed for r in judge_policy(policy, weak)] == [False, True, False]


# ---- JUnit


@pytest.mark.parametrize("audit", [full(), broken(), hostile(), minimal()])
def test_junit_has_a_case_a_rule_and_its_failures(audit):
    text = junit(audit)
    root = ElementTree.fromstring(text.encode())
    (suite,) = root
    cases = suite.findall("testcase")
    failed = [r for r in audit.policy if not r.passed]
    assert suite.get("tests") == str(len(audit.policy)) == str(len(cases))
    assert suite.get("failures") == root.get("failures") == str(len(failed))
    assert [c.find("failure").get("message") for c in cases if c.find("failure") is not None] == [
        r.sentence for r in failed
    ]
    assert len({c.get("name") for c in cases}) == len(cases)
    told = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert told["verdict"] == audit.verdict.word


def test_junit_holds_what_xml_cannot():
    strange = f"{HOSTILE} \x00\x07\x1b[31m ]]> \ud800 \ufffe \U0001f600\n\t"
    rules = (replace(full().policy[1], rule=strange, sentence=strange),)
    audit = replace(full(), checkpoint={"path": strange}, policy=rules)
    root = ElementTree.fromstring(junit(audit).encode())
    message = root.find(".//failure").get("message")
    assert message.startswith(HOSTILE)
    assert message.endswith(" \\x00\\x07\\x1b[31m ]]> \\ud800 \\ufffe \U0001f600\n\t")


# ---- the checklist


def answers(audit):
    return {item.text: item for item in fill(audit)}


def item(audit, start):
    (found,) = [i for text, i in answers(audit).items() if text.startswith(start)]
    return found


@pytest.mark.parametrize(
    ("values", "answer", "how"),
    [
        ((0.8, 0.5, 0.1), "done", "Accuracy falls at each of 3 budgets."),
        ((0.8, 0.5, 0.0), "done", "Accuracy falls at each of 3 budgets."),
        ((0.8, 0.0, 0.0), "done", "Accuracy falls at each budget until it is 0, at ε = 2."),
        ((0.0, 0.0, 0.0), "in part", "Accuracy is 0 at every budget, from ε = 1 on."),
        ((0.8, 0.8, 0.0), "did not hold", "Accuracy does not fall between ε = 1 and 2."),
    ],
)
def test_accuracy_is_not_said_to_fall_from_0(values, answer, how):
    robust = tuple(
        Level(str(i), float(i), proportion(round(v * N), N, "exact"))
        for i, v in enumerate(values, 1)
    )
    items = fill(replace(full(), robust=robust))
    assert (answer, how) in [(one.answer, one.how) for one in items]


def shares_of_classes(*robust):
    """Rows of classes a, b, … of 20 images each, of which so many are right under attack."""
    return tuple(
        ClassRow(name, proportion(20 - i, 20, "exact"), proportion(count, 20, "exact"))
        for i, (name, count) in enumerate(zip("abcdefghij", robust, strict=False))
    )


@pytest.mark.parametrize(
    ("robust", "worst", "said"),
    [
        ((5, 3, 9), "b", "lowest for class b: 15.0\u00a0% of 20 images"),
        ((3, 9, 3), "ca", "lowest for 2 of 3 classes alike, 15.0\u00a0% of each: c and a"),
        ((0,) * 10, "jihgfedcba", "lowest for 10 of 10 classes alike, 0.0\u00a0% of each: j, i, h"),
        ((7,), "a", "There is one class, a; accuracy under attack is 35.0\u00a0% of 20 images"),
    ],
)
def test_the_worst_class_is_one_everywhere_or_none_is(robust, worst, said):
    audit = replace(full(), classes=shares_of_classes(*robust))
    assert "".join(row.name for row in worst_classes(audit.classes)) == worst
    assert [row.name for row in lowest(audit.classes, 1)] == [worst[0]]
    (flaws,) = [p for p in annex(audit).provisions if p.point.endswith("model flaws")]
    assert said in flaws.how


def test_nothing_is_claimed_where_nothing_was_done():
    done = [i.text for i in fill(minimal()) if i.answer == "done"]
    assert done == ["Report accuracy without attack."]


def test_every_item_says_how():
    for audit in (full(), broken(), minimal(), hostile()):
        assert all(found.how.strip() for found in fill(audit))


def test_a_stage_that_failed_answers_nothing():
    audit = full()
    named = "Try a transfer attack"
    assert item(audit, named).answer == "not done"
    assert "no --surrogate was given" in item(audit, named).how
    stages = [replace(s, status="complete") if s.family == "transfer" else s for s in audit.stages]
    assert item(replace(audit, stages=tuple(stages)), named).answer == "done"


def on_all(audit, *names):
    """With stages that attacked every image."""
    stages = (replace(s, images=audit.clean.n) if s.name in names else s for s in audit.stages)
    return replace(audit, stages=tuple(stages))


def test_answers_follow_from_what_ran():
    audit = on_all(full(), "fgsm", "pgd")
    assert item(audit, "Sanity: iterative").how == (
        "Iterative attacks left 48.0\u00a0%, single-step attacks 89.2\u00a0%."
    )
    assert item(audit, "Sanity: with a large").answer == "done"
    assert item(audit, "Try random noise").how.startswith("100 draws per image")
    many = audit.protocols | {"noise": audit.protocols["noise"].replace("100", "10000")}
    assert item(replace(audit, protocols=many), "Try random noise").answer == "done"
    hop = audit.protocols | {"square": '[[attack]]\nkind = "hopskipjump"\n'}
    named = "Try at least one gradient-free"
    assert item(audit, named).answer == "not done"
    assert item(replace(audit, protocols=hop), named).answer == "done"
    assert item(audit, "Where bounds can be proved").answer == "done"
    assert item(broken(), "Where bounds can be proved").how == "Softmax has no bound"
    assert item(audit, "For randomised").answer == "not done"
    assert item(audit, "For components").answer == "not applicable"


@pytest.mark.parametrize("corrupted_too", [True, False])
@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("30deg+3px", "rotations and translations were"),
        ("30deg", "rotations were"),
        ("3px", "translations were"),
        (None, "no rotation or translation was"),
    ],
)
def test_rotations_that_were_searched_for_are_not_denied(size, words, corrupted_too):
    audit = (
        full() if corrupted_too else replace(full(), corruptions=Corruptions(reason="too small"))
    )
    if size:
        tried = audit.protocols | {"pgd": '[[attack]]\nkind = "spatial-grid"\n'}
        audit = replace(audit, norm="spatial", epsilon=size, protocols=tried)
    found = item(audit, "Test broader threats")
    whole = corrupted_too and size == "30deg+3px"
    nothing = not (corrupted_too or size)
    assert found.answer == ("done" if whole else "not done" if nothing else "in part")
    assert (f"{words} searched for" in found.how) != nothing
    stopped = tuple(replace(s, status="failed") for s in audit.stages)
    assert "s were searched for" not in item(replace(audit, stages=stopped), "Test broader").how


@pytest.mark.parametrize("kind", [k for k, cls in KINDS.items() if issubclass(cls, BLACK_BOX)])
def test_an_attack_by_outputs_alone_is_one_without_gradients(kind):
    """By the same list as a stage's family, so that none is denied that the report lists."""
    tried = full().protocols | {"square": f'[[attack]]\nkind = "{kind}"\n'}
    found = item(replace(full(), protocols=tried), "Try at least one gradient-free")
    assert found.answer in ("done", "in part")
    assert kind_in_words(kind) in found.how


def test_a_sanity_check_that_does_not_hold_says_so():
    audit = on_all(full(), "fgsm", "pgd")
    flat = (level("4/255", 451), level("8/255", 451))
    assert item(replace(audit, robust=flat), "Sanity: a larger").answer == "did not hold"
    assert item(replace(audit, robust=flat), "Sanity: with a large").answer == "not done"
    better = tuple(
        replace(s, robust=(level("8/255", 100),)) if s.name == "fgsm" else s for s in audit.stages
    )
    assert item(replace(audit, stages=better), "Sanity: iterative").answer == "did not hold"
    assert item(audit, "Sanity: more iterations").answer == "did not hold"


def test_two_shares_that_differ_are_told_as_two_numbers():
    audit = on_all(full(), "fgsm", "pgd")
    left = {"fgsm": 4400, "pgd": 4404}
    stages = tuple(
        replace(s, robust=(level("8/255", left[s.name], 10_000),)) if s.name in left else s
        for s in audit.stages
    )
    assert item(replace(audit, stages=stages), "Sanity: iterative").how == (
        "Iterative attacks left 44.04\u00a0%, single-step attacks 44.00\u00a0%."
    )
    robust = (level("4/255", 451), level("8/255", 1004, 10_000))
    found = item(replace(audit, robust=robust), "Sanity: with a large")
    assert found.how.startswith("10.04\u00a0% at ε = 8/255, chance is 10.00\u00a0%; no larger")


def test_what_single_steps_fooled_is_no_merit_of_later_iterative_attacks():
    """APGD on the survivors of FGSM is given its success, and finds nothing itself."""
    audit = full()
    left = {"fgsm": 400, "pgd": 880, "apgd": 400}
    stages = tuple(
        replace(s, robust=(level("8/255", left[s.name]),)) for s in audit.stages if s.name in left
    )
    audit = replace(
        on_all(replace(audit, stages=stages), "fgsm", "pgd"),
        protocols=audit.protocols | {"apgd": '[[attack]]\nkind = "apgd"\n'},
    )
    found = item(audit, "Sanity: iterative")
    assert found.answer == "did not hold"
    assert found.how == "Iterative attacks left 88.0\u00a0%, single-step attacks 40.0\u00a0%."
    # of an audit that does not say whom its stages attacked, an indicator is asked
    unknown = replace(
        audit, stages=stages, indicators=(result("single-beats-iterative", "passed"),)
    )
    assert item(unknown, "Sanity: iterative").answer == "done"
    assert "terative attacks left" not in item(unknown, "Sanity: iterative").how


def result(name, status, adaptive_attack=""):
    return replace(PASSED, name=name, status=status, adaptive_attack=adaptive_attack)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("more-steps", "Sanity: more iterations"),
        ("more-restarts", "Sanity: more random starts"),
        ("single-beats-iterative", "Sanity: iterative"),
        ("larger-epsilon", "Sanity: a larger"),
        ("half", "Sanity: with a large"),
        ("incomplete-optimisation", "Verify that the attacks converged"),
    ],
)
@pytest.mark.parametrize(
    ("status", "answer", "how"),
    [
        ("passed", "done", ""),
        ("resolved", "did not hold", ""),
        ("unresolved", "did not hold", ""),
        ("not examined", "not done", ""),
    ],
)
def test_an_indicator_answers_only_where_it_was_examined(name, start, status, answer, how):
    found = item(replace(minimal(), indicators=(result(name, status),)), start)
    assert found.answer == answer
    assert found.how.startswith(how)


def test_randomness_and_targets_follow_from_what_ran():
    audit = replace(full(), indicators=(result("random-model", "resolved"),))
    assert item(audit, "For randomised").answer == "not done"
    eot = audit.protocols | {"apgd": '[[attack]]\nkind = "apgd"\neot = 20\ntargets = 9\n'}
    assert item(replace(audit, protocols=eot), "For randomised").answer == "done"
    assert item(audit, "Try targeted").answer == "in part"
    assert item(replace(audit, protocols=eot), "Try targeted").answer == "done"
    steady = replace(audit, indicators=(result("random-model", "passed"),))
    assert item(steady, "For randomised").answer == "not applicable"


def test_a_protocol_that_cannot_be_read_claims_nothing():
    audit = replace(full(), protocols=dict.fromkeys(full().protocols, "not = [TOML"))
    assert item(audit, "Try random noise").answer == "not done"


@pytest.mark.thorough
def test_no_torch_is_needed():
    modules = "checklist, policy, stored, verdict"
    code = f"import sys; from robustkit.auditing import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
