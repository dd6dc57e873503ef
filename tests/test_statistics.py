from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm, ttest_1samp

from robustkit.errors import InputError
from robustkit.statistics import (
    Method,
    mean_over_seeds,
    median_distance,
    median_over_seeds,
    outperforming,
    over_seeds,
    proportion,
    ratio,
)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_own_equation(pair):
    """Wilson 1927: the ends are the p at which (k/n - p)² = z² p (1 - p) / n."""
    count, n = pair
    found = proportion(count, n)
    z = norm.ppf(0.975)
    for end in (found.low, found.high):
        if 0 < end < 1:
            assert (count / n - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-9)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (97, 100), (5, 1000)])
def test_the_exact_interval_inverts_the_binomial_tails(count, n):
    """Clopper and Pearson 1934: each tail at its end holds 2.5 %."""
    found = proportion(count, n, "exact")
    if count > 0:
        assert binom.sf(count - 1, n, found.low) == pytest.approx(0.025)
    if count < n:
        assert binom.cdf(count, n, found.high) == pytest.approx(0.025)
    assert (found.low == 0) == (count == 0)
    assert (found.high == 1) == (count == n)


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_that_the_type_names_has_an_interval(method):
    found = proportion(30, 100, method)
    assert 0.2 < found.low < 0.3 < found.high < 0.41


@pytest.mark.parametrize(("count", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_counts_that_cannot_be_are_refused(count, n):
    with pytest.raises(ValueError, match="expected 0 <= count <= n"):
        proportion(count, n)


def test_a_mean_over_seeds_has_students_interval():
    values = [0.91, 0.94, 0.90, 0.95, 0.93]
    found = mean_over_seeds(values)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.value, found.n) == (pytest.approx(np.mean(values)), 5)
    assert found.method == "t over 5 seeds, 95 %"


@given(st.permutations([0.1, 0.7, 0.3, 0.9, 0.11, 0.123]))
def test_the_order_of_seeds_does_not_move_the_interval(values):
    found, sorted_ = mean_over_seeds(values), mean_over_seeds(sorted(values))
    assert (found.low, found.high) == pytest.approx((sorted_.low, sorted_.high), rel=1e-14)


def test_a_ratio_is_a_mean_on_logarithms():
    a, b = np.array([12.0, 15.0, 13.0]), np.array([10.0, 11.0, 10.5])
    found = ratio(a, b)
    assert found.value == pytest.approx(np.prod(a / b) ** (1 / 3))
    turned = ratio(b, a)
    assert (turned.low, turned.high) == pytest.approx((1 / found.high, 1 / found.low))
    expected = ttest_1samp(np.log(a / b), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((np.exp(expected.low), np.exp(expected.high)))


def test_outperforming_is_clopper_and_pearsons_share_of_wins():
    found = outperforming([3, 4, 5, 1, 7, 8], [1, 1, 1, 2, 1, 1])
    expected = binomtest(5, 6).proportion_ci(0.95, "exact")
    assert (found.value, found.low, found.high) == pytest.approx((5 / 6, *expected))


def test_ties_count_half_and_widen_the_interval_both_ways():
    found = outperforming([1, 1, 2, 2], [0, 1, 2, 3])
    assert found.value == 0.5
    assert "2 ties counted half" in found.method
    assert found.low == pytest.approx(binomtest(1, 4).proportion_ci(0.95, "exact").low)
    assert found.high == pytest.approx(binomtest(3, 4).proportion_ci(0.95, "exact").high)


@pytest.mark.parametrize("n", [6, 7, 20, 101])
def test_the_medians_ends_leave_at_least_the_level_between_them(n):
    """P(k-th smallest <= median <= k-th largest) is a binomial sum; one step in it is too little."""
    found = median_distance(np.arange(n))
    k = int(found.low) + 1
    assert found.high == n - k
    assert 1 - 2 * binom.cdf(k - 1, n, 0.5) >= 0.95
    assert 1 - 2 * binom.cdf(k, n, 0.5) < 0.95
    assert found.value == np.median(np.arange(n))


def test_a_median_may_lie_at_infinity():
    inf = float("inf")
    assert median_distance([1.0, inf, inf]).value == inf
    assert median_distance([1.0, 2.0, inf, inf]).value == inf
    few = median_distance([3.0, 1.0, 2.0, inf, 5.0])
    assert (few.value, few.low, few.high) == (3.0, 0.0, inf)


@pytest.mark.parametrize("seeds", [2, 3, 8])
@pytest.mark.parametrize("digits", [1, 9])
def test_the_median_over_seeds_ends_where_the_next_distance_is_ruled_out(seeds, digits):
    """An end may be the median by the accuracy's interval there; its neighbour outside may not."""
    rng = np.random.default_rng(seeds)
    far = rng.gamma(2, size=200) + 0.4 * rng.normal(size=(seeds, 200)) - 0.5
    x = np.round(np.maximum(far + rng.normal(0, 0.1, (seeds, 1)), 0), digits)
    x[:, :20] = np.inf
    found, places = median_over_seeds(x), np.unique(x)
    low, high = (int(np.flatnonzero(places == end)[0]) for end in (found.low, found.high))
    assert over_seeds(x > places[low]).low <= 0.5 < over_seeds(x > places[low - 1]).low
    assert over_seeds(x >= places[high]).high >= 0.5
    assert high + 1 == len(places) or over_seeds(x >= places[high + 1]).high < 0.5
    assert found.value == np.median(x)
    assert found.low <= found.value <= found.high
    assert found.n == 200


@pytest.mark.parametrize(("seeds", "key"), [(2, 0), (2, 1), (2, 3), (3, 0), (3, 4), (5, 0)])
def test_the_median_over_seeds_has_every_distance_that_is_not_ruled_out(seeds, key):
    """With few seeds one may be ruled out and a further one not: all are asked, one by one."""
    rng = np.random.default_rng(key)
    x = rng.exponential(1, (1, 60)) * (1 + 0.2 * rng.normal(size=(seeds, 1)))
    x = np.round(np.maximum(x + rng.exponential(0.2, (seeds, 60)), 0), 2)
    x[rng.random((seeds, 60)) < 0.05] = 0
    x[:, :4] = np.inf
    found, places = median_over_seeds(x), np.unique(x)
    low = [place for place in places if over_seeds(x > place).low <= 0.5]
    high = [place for place in places if over_seeds(x >= place).high >= 0.5]
    assert found.value == np.median(x)
    assert found.low == min(low[0], found.value)
    assert found.high == max(high[-1], found.value)


def test_seeds_that_differ_make_the_median_less_certain_than_images_alone():
    images = np.random.default_rng(0).gamma(2, size=500)
    alike = median_over_seeds(np.stack([images, images, images]))
    unlike = median_over_seeds(np.stack([images - 0.1, images, images + 0.1]).clip(0))
    assert unlike.high - unlike.low > 1.2 * (alike.high - alike.low)
    for level in (0.8, 0.95):
        assert median_over_seeds(images, level=level) == median_distance(images, level)


def test_an_estimate_says_how_many_it_rests_on_and_how_it_was_made():
    x = np.random.default_rng(0).gamma(2, size=(3, 1200))
    for found, n, method in (
        (over_seeds(x > 1), 1200, "two-way t over 3 seeds and 1,200 images, 95 %"),
        (
            over_seeds(x[0] > 1, level=0.9),
            1200,
            "Wilson over images, 90 %; one seed: training variance is not in it",
        ),
        (
            median_over_seeds(x, level=0.9),
            1200,
            "two-way t at the median over 3 seeds and 1,200 images, 90 %",
        ),
        (median_distance(x[0], 0.975), 1200, "order statistics, 97.5 %"),
    ):
        assert (found.n, found.method) == (n, method)


def test_a_median_over_seeds_may_lie_at_infinity():
    x = np.full((3, 50), np.inf)
    x[:, :10] = 0.1
    assert median_over_seeds(x).value == median_over_seeds(x).high == np.inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: median_over_seeds([[0.1, -0.2], [0.1, 0.2]]), "at least 0"),
        (lambda: median_over_seeds([[0.1], [0.2]]), "one image has no spread"),
        (lambda: mean_over_seeds([0.5]), "at least 2 finite numbers"),
        (lambda: mean_over_seeds([0.5, float("nan")]), "at least 2 finite numbers"),
        (lambda: ratio([1.0, 2.0], [1.0, 0.0]), "positive"),
        (lambda: ratio([1.0, 2.0], [1.0, 2.0, 3.0]), "2 values beside 3"),
        (lambda: outperforming([], []), "at least 1 finite"),
        (lambda: median_distance([]), "^distances: expected a list of numbers, at least 0 or inf"),
        (lambda: median_distance([1.0, -1.0]), "at least 0"),
    ],
)
def test_input_that_has_no_answer_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_interval_of_a_median_is_no_wider_than_its_level_asks_where_that_is_met_exactly():
    # between the first and the last of six lie 1 - 2 / 64 of all medians
    found = median_distance(np.arange(1.0, 7.0), level=1 - 2 / 64)
    assert (found.low, found.high) == (1.0, 6.0)
    wider = median_distance(np.arange(1.0, 7.0), level=1 - 1.99 / 64)
    assert (wider.low, wider.high) == (0.0, np.inf)
