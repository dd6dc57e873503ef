"""Families of comparisons: verdicts, corrections and the sentences that state them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from robustkit.errors import InputError
from robustkit.statistics import Comparison, Contrast, Estimate, Member, SecondaryTest, family
from robustkit.statistics.pivot import Student, Term


def contrast(difference, error=0.002, seeds=5, secondary=()):
    """A difference with its standard error, four degrees of freedom."""
    pivot = Student(difference, (Term(error**2, seeds - 1),))
    unit = f"{seeds} paired seeds, 10,000 images"
    return Contrast(difference, 10_000, "two-way t", unit, pivot, secondary, seeds)


def judged(difference, error=0.002, delta=None, **more):
    (found,) = family([Member("a", "b", "0.2", contrast(difference, error, **more))], delta=delta)
    return found


@pytest.mark.parametrize(
    ("difference", "delta", "verdict"),
    [
        (0.02, None, "better"),
        (-0.02, None, "worse"),
        (0.001, None, "inconclusive"),
        (0.001, 0.01, "equivalent"),
        (0.02, 0.01, "better"),
        (0.02, 0.05, "equivalent"),
        (0.005, 0.008, "inconclusive"),
    ],
)
def test_a_verdict_is_read_off_the_interval(difference, delta, verdict):
    assert judged(difference, delta=delta).verdict == verdict


def test_a_family_of_one_is_the_contrast_itself():
    found, alone = judged(0.006, delta=0.02), contrast(0.006)
    assert found.difference is not None
    assert (found.difference.low, found.difference.high) == pytest.approx(alone.interval(0.05))
    assert (found.p, found.p_holm) == pytest.approx((alone.p, alone.p))
    assert found.p_equivalence == pytest.approx(alone.p_equivalence(0.02))
    assert found.correction == ""
    assert found.difference.method == "two-way t, 95 % interval"


def test_a_family_says_at_which_level_its_intervals_hold():
    members = [Member("a", "b", "0.2", contrast(0.02)), Member("a", "b", "0.4", None, "no data")]
    tested, untested = family(members, delta=None, level=0.9)
    assert tested.difference.method == "two-way t, simultaneous 90 % interval"
    assert "(simultaneous 90 % CI " in tested.sentence()
    assert (tested.confidence, untested.confidence) == (pytest.approx(0.9), pytest.approx(0.9))


differences = st.lists(st.floats(-0.03, 0.03), min_size=1, max_size=7)


@settings(max_examples=40, deadline=None)
@given(differences, st.sampled_from([None, 0.005, 0.02]), st.sampled_from([0.9, 0.95, 0.99]))
def test_interval_p_values_and_verdict_agree_in_every_family(values, delta, level):
    members = [Member("a", "b", str(i), contrast(v)) for i, v in enumerate(values)]
    for found in family(members, delta=delta, level=level):
        low, high = found.difference.low, found.difference.high
        decided = low > 0 or high < 0
        assert (found.p < 1 - level) == decided
        inside = delta is not None and -delta < low and high < delta
        assert (found.p_equivalence is not None and found.p_equivalence < 1 - level) == inside
        sign = "better" if found.difference.value > 0 else "worse"
        expected = "equivalent" if inside else sign if decided else "inconclusive"
        assert found.verdict == expected
        assert found.p_holm <= found.p


@settings(max_examples=15, deadline=None)
@given(differences)
def test_holm_beside_is_statsmodels(values):
    members = [Member("a", "b", str(i), contrast(v)) for i, v in enumerate(values)]
    raw = [member.contrast.p for member in members]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda: 0)  # statsmodels does, at every call
        expected = multipletests(raw, method="holm")[1]
    assert [one.p_holm for one in family(members, delta=None)] == pytest.approx(list(expected))


@pytest.mark.thorough
def test_all_intervals_of_a_family_hold_together():
    """1,000 families of five independent differences, three of them not null."""
    generator, truths = np.random.default_rng(0), np.array([0.0, 0.0, 0.05, 0.5, -0.5])
    held, false_signs = 0, 0
    for _ in range(1000):
        means = truths + 0.01 * generator.normal(size=5)
        spread = 0.01**2 * generator.chisquare(4, size=5) / 4
        found = family(
            [
                Member("a", "b", str(i), contrast(float(m), float(np.sqrt(v))))
                for i, (m, v) in enumerate(zip(means, spread, strict=True))
            ],
            delta=None,
        )
        held += all(
            one.difference.low <= truth <= one.difference.high
            for one, truth in zip(found, truths, strict=True)
        )
        false_signs += any(one.p < 0.05 for one in found[:2])
    assert 0.935 <= held / 1000 <= 0.975
    assert false_signs / 1000 <= 0.06


def test_a_member_without_data_is_not_tested_and_still_counts():
    tested = Member("a", "b", "0.2", contrast(0.02))
    found = family([tested, Member("a", "b", "0.4", None, "0.4: no checkpoint")], delta=0.01)
    assert found[0].correction == "Bonferroni over 2 levels"
    assert found[0].p == pytest.approx(2 * contrast(0.02).p)
    assert (found[1].verdict, found[1].difference, found[1].p) == ("not tested", None, 1.0)
    assert found[1].p_equivalence is None
    assert found[1].sentence() == "a and b were not compared (0.4: no checkpoint)."


def test_an_empty_family_has_no_comparisons():
    assert family([], delta=0.01) == ()


@pytest.mark.parametrize(("seeds", "note"), [(5, "cannot decide with 5 seeds"), (6, "")])
def test_six_seeds_are_the_fewest_with_which_signs_decide(seeds, note):
    """Of 2^S patterns two are as extreme as can be: 1/16 with five seeds, 1/32 with six."""
    signs = SecondaryTest("sign-flip permutation", 0.5, 2 / 2**seeds)
    assert judged(0.02, seeds=seeds, secondary=(signs,)).secondary[0].note == note


def test_a_test_that_cannot_reach_the_level_says_so():
    tests = (
        SecondaryTest("sign-flip permutation", 0.25, 0.25),
        SecondaryTest("Wilcoxon", 0.25, 0.25),
        SecondaryTest("another", 0.01, 0.001),
    )
    found = judged(0.02, seeds=3, secondary=tests)
    assert [test.note for test in found.secondary] == [*["cannot decide with 3 seeds"] * 2, ""]
    assert found.sentence().endswith(
        ". Sign-flip permutation and Wilcoxon cannot decide with 3 seeds."
    )


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.01])
def test_a_delta_that_is_no_share_is_refused(delta):
    with pytest.raises(InputError, match="share between 0 and 1"):
        family([], delta=delta)


def test_a_level_that_is_no_share_is_refused():
    with pytest.raises(InputError, match="level 95"):
        family([], delta=None, level=95)


RESULT = Comparison(
    a="l2-margin",
    b="cross-entropy",
    level="0.8",
    difference=Estimate(0.025, 0.011, 0.039, 10_000, ""),
    p=0.004,
    p_equivalence=None,
    delta=None,
    test="two-way t",
    correction="Bonferroni over 5 levels",
    unit="5 paired seeds, 10,000 images",
    verdict="better",
)
WHERE = {"where": "at 80 % label noise", "after": "after 4,000 steps"}


def result(low, value, high, **changes):
    return replace(RESULT, difference=Estimate(value, low, high, 10_000, ""), **changes)


def test_a_difference_in_a_sentence():
    assert RESULT.sentence(**WHERE) == (
        "At 80 % label noise, l2-margin is better than cross-entropy after 4,000 steps: "
        "+2.5 points (simultaneous 95 % CI 1.1 to 3.9; 5 paired seeds, 10,000 images, two-way t, "
        "Bonferroni over 5 levels)."
    )


def test_a_method_that_begins_the_sentence_keeps_its_letters():
    found = result(-0.039, -0.025, -0.011, verdict="worse", correction="")
    assert found.sentence() == (
        "l2-margin is worse than cross-entropy: −2.5 points "
        "(95 % CI −3.9 to −1.1; 5 paired seeds, 10,000 images, two-way t)."
    )


def test_equivalence_in_a_sentence_has_a_direction():
    found = result(-0.003, 0.001, 0.004, verdict="equivalent", delta=0.005)
    assert found.sentence(**WHERE).startswith(
        "At 80 % label noise, l2-margin is equivalent to cross-entropy within ±0.5 points after "
        "4,000 steps: +0.10 points (simultaneous 95 % CI −0.30 to 0.40; "
    )


@pytest.mark.parametrize(
    ("low", "high", "lean"),
    [
        (0.0001, 0.004, " (better, by less than Δ)"),
        (-0.004, -0.0001, " (worse, by less than Δ)"),
        (-0.004, 0.0001, ""),
        (0.0, 0.004, ""),
    ],
)
def test_equivalence_that_excludes_no_difference_says_so(low, high, lean):
    found = result(low, (low + high) / 2, high, verdict="equivalent", delta=0.005)
    assert found.sentence(**WHERE).startswith(
        "At 80 % label noise, l2-margin is equivalent to cross-entropy within ±0.5 points"
        f"{lean} after 4,000 steps: "
    )
    assert found.lean == lean
    assert replace(found, verdict="better").lean == ""


def test_no_decision_in_a_sentence():
    found = result(-0.02, -0.001, 0.018, verdict="inconclusive")
    assert found.sentence().startswith(
        "The difference between l2-margin and cross-entropy is inconclusive: −0.1 points ("
    )
    assert found.sentence(**WHERE).startswith("At 80 % label noise, the difference between")


def test_no_difference_at_all_has_no_sign():
    found = result(-0.018, 0.0, 0.018, verdict="inconclusive", correction="")
    assert found.sentence() == (
        "The difference between l2-margin and cross-entropy is inconclusive: 0.0 points "
        "(95 % CI −1.8 to 1.8; 5 paired seeds, 10,000 images, two-way t)."
    )


def test_rounding_never_hides_what_decided():
    """0.02 to 4.2 points: one digit would begin the interval at 0.0."""
    assert "CI 0.02 to 4.20;" in result(0.0002, 0.02, 0.042).sentence()
    found = result(0.0001, 0.003, 0.00496, verdict="equivalent", delta=0.005)
    assert "CI 0.01 to 0.50;" not in found.sentence()
    assert "to 0.496;" in found.sentence()
