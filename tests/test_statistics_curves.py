"""Curves, ranks over data sets, and how many seeds a difference takes."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import (
    chi2,
    f,
    friedmanchisquare,
    multivariate_normal,
    norm,
    studentized_range,
)
from statsmodels.stats.power import TTestPower

from robustkit.errors import InputError
from robustkit.statistics import (
    Components,
    components,
    curve,
    friedman,
    mean_over_seeds,
    over_seeds,
    plan,
)
from robustkit.statistics.curves import covariance, pointwise_alpha
from robustkit.statistics.power import powers
from robustkit.statistics.spread import mean_squares


def rng():
    return np.random.default_rng(0)


def budgets(levels=(2.0, 1.0, 0.2, -1.0), seeds=4, images=200):
    """The same networks and images at rising budgets."""
    own = rng()
    latent = own.normal(size=(seeds, images)) + own.normal(size=images)
    latent += 0.2 * own.normal(size=(seeds, 1))
    return latent + np.array(levels)[:, None, None] > 0


X = [0.0, 1.0, 2.0, 4.0]


def test_the_area_is_the_trapezoids_of_the_accuracies():
    correct = budgets()
    found = curve(correct, X, rng())
    accuracies = correct.mean(axis=(1, 2))
    assert [p.value for p in found.points] == pytest.approx(accuracies.tolist())
    assert found.area.value == pytest.approx(np.trapezoid(accuracies, X) / 4)


def test_the_area_of_one_accuracy_is_that_accuracy():
    correct = budgets()[:1].repeat(4, axis=0)
    found, expected = curve(correct, X, rng()), over_seeds(correct[0])
    assert (found.area.low, found.area.high) == pytest.approx((expected.low, expected.high))


def test_points_that_move_as_one_need_no_wider_band():
    correct = budgets()[1:2].repeat(4, axis=0)
    found, expected = curve(correct, X, rng()), over_seeds(correct[0])
    for point in found.points:
        assert (point.low, point.high) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_a_band_lies_between_the_pointwise_and_bonferronis():
    correct = budgets()
    for i, point in enumerate(curve(correct, X, rng()).points):
        inner, outer = over_seeds(correct[i]), over_seeds(correct[i], level=1 - 0.05 / 4)
        assert outer.low <= point.low < inner.low
        assert inner.high < point.high <= outer.high


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_level_of_a_band_is_that_of_correlated_gaussians(correlation, alpha):
    """The box within which all of them lie, by scipy's integral; scales do not matter."""
    matrix = np.full((4, 4), correlation) + (1 - correlation) * np.eye(4)
    scales = np.array([1.0, 0.1, 2.0, 0.5])
    level = pointwise_alpha(matrix * np.outer(scales, scales), alpha, rng())
    end = np.full(4, norm.isf(level / 2))
    inside = multivariate_normal(cov=matrix, seed=1).cdf(end, lower_limit=-end)
    # four standard errors of a share of 20,000 draws
    assert inside == pytest.approx(1 - alpha, abs=4 * (alpha * (1 - alpha) / 20_000) ** 0.5)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_level_of_a_band_rests_on_twenty_thousand_draws(alpha):
    """A published band keeps its digits: the root of [[1, ρ], [ρ, 1]] is known in closed form."""
    up, down = np.sqrt(1.6) / 2, np.sqrt(0.4) / 2
    root = np.array([[up + down, up - down], [up - down, up + down]])
    largest = np.abs(rng().standard_normal((20_000, 2)) @ root).max(axis=1)
    expected = 2 * norm.sf(np.quantile(largest, 1 - alpha))
    found = pointwise_alpha(np.array([[1.0, 0.6], [0.6, 1.0]]), alpha, rng())
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_curve_says_how_its_intervals_were_made():
    several, one = curve(budgets(), X, rng()), curve(budgets()[:, 0], X, rng(), level=0.9)
    alone = "t over images, without training variance"
    assert {p.method for p in several.points} == {
        "two-way t, simultaneous 95 % band; 4 seeds, 200 images"
    }
    assert several.area.method == "two-way t, 95 %; 4 seeds, 200 images"
    assert {p.method for p in one.points} == {
        f"{alone}, simultaneous 90 % band; 1 seed, 200 images"
    }
    assert one.area.method == f"{alone}, 90 %; 1 seed, 200 images"


@pytest.mark.thorough
def test_a_band_covers_the_whole_curve():
    """200 curves of one network, whose images alone vary, with their truth in closed form."""
    generator, levels = rng(), np.array([1.5, 0.5, 0.0, -1.0])
    truth = 0.5 + np.arctan(levels) / np.pi  # of a Cauchy variable
    held = 0
    for _ in range(200):
        correct = generator.standard_cauchy(150) + levels[:, None] > 0
        found = curve(correct, X, generator).points
        held += all(p.low <= t <= p.high for p, t in zip(found, truth, strict=True))
    assert 0.91 <= held / 200 <= 0.99


def world(seeds, effect, generator):
    """Whether each of 300 images is right at ten levels of accuracy 80 %, by each of some seeds.

    Images are shared by all levels; seeds have `effect`, times the root of its variance 0.1.
    """
    latent = generator.standard_normal((10, seeds, 300))
    latent += np.sqrt(0.1) * (generator.standard_normal(300) + effect)
    return latent + np.sqrt(1.2) * norm.ppf(0.8) > 0


@pytest.mark.thorough
@pytest.mark.parametrize(("seeds", "least"), [(2, 0.88), (3, 0.92), (4, 0.93)])
def test_a_band_covers_a_curve_whose_levels_have_trainings_of_their_own(seeds, least, monkeypatch):
    """300 studies; with correlations as few seeds tell them 79, 88 and 92 % were covered."""
    monkeypatch.setattr("robustkit.statistics.curves.DRAWS", 2000)
    generator, held = rng(), 0
    for _ in range(300):
        correct = world(seeds, generator.standard_normal((10, seeds, 1)), generator)
        found = curve(correct, range(10), generator, same_networks=False).points
        held += all(p.low <= 0.8 <= p.high for p in found)
    assert held / 300 >= least


def test_trainings_of_their_own_vary_apart_however_few_seeds_agree():
    """The level of a band, where seeds bring nearly all variance, is that of independent points."""
    generator = rng()
    for seeds in (2, 3, 5):
        squares = mean_squares(
            world(seeds, 3 * generator.standard_normal((10, seeds, 1)), generator).view(np.int8)
        )
        level = pointwise_alpha(covariance(squares, same_networks=False), 0.05, rng())
        assert level == pytest.approx(1 - 0.95 ** (1 / 10), rel=0.1)
    # what images bring correlates as before
    close = mean_squares(budgets((0.2, 0.1, 0.0, -0.1)).view(np.int8))
    level = pointwise_alpha(covariance(close, same_networks=False), 0.05, rng())
    assert level > 1.2 * (1 - 0.95 ** (1 / 4))


@pytest.mark.parametrize("seeds", [3, 10])
def test_the_band_of_the_same_networks_is_no_wider_than_their_correlation_asks_for(seeds):
    generator = rng()
    correct = world(seeds, generator.standard_normal((seeds, 1)), generator)
    same, own = (
        curve(correct, range(10), rng(), same_networks=same).points for same in (True, False)
    )
    for i, (a, b) in enumerate(zip(same, own, strict=True)):
        widest = over_seeds(correct[i], level=1 - 0.05 / 10)
        assert widest.low <= b.low < a.low
        assert a.high < b.high <= widest.high


def test_no_order_changes_a_curve():
    correct, order = budgets(), rng()
    levels, seeds, images = order.permutation(4), order.permutation(4), order.permutation(200)
    mixed = correct[levels][:, seeds][:, :, images]
    assert curve(mixed, np.array(X)[levels], rng()) == curve(correct, X, rng())


def test_a_curve_may_end_where_nothing_is_right():
    correct = budgets()
    correct[3] = False
    last = curve(correct, X, rng()).points[3]
    assert (last.value, last.low) == (0, 0)
    assert 0.01 < last.high < 0.05


def test_one_network_has_a_curve_without_training_variance():
    found = curve(budgets()[:, 0], X, rng())
    assert "without training variance" in found.area.method
    assert found.area.low < found.area.value < found.area.high


@pytest.mark.parametrize("x", [[0.0, 1.0, 2.0], [0.0, 1.0, 1.0, 2.0]])
def test_places_that_do_not_fit_are_refused(x):
    with pytest.raises(InputError, match="expected 4 different numbers"):
        curve(budgets(), x, rng())


def test_outcomes_that_are_no_booleans_are_refused():
    with pytest.raises(InputError, match=r"^correct: expected booleans, levels × seeds × images,"):
        curve(np.ones((4, 3, 20)), X, rng())


SCORES = np.random.default_rng(3).normal(size=(14, 4)) + np.array([0.0, 0.5, 0.1, 0.6])


def test_friedman_is_the_sum_of_squared_ranks():
    """Demšar 2006, equations 2 and 3, without ties."""
    found = friedman(SCORES)
    ranks = np.array([[1 + sum(other > own for other in row) for own in row] for row in SCORES])
    mean = ranks.mean(axis=0)
    statistic = 12 * 14 / (4 * 5) * (np.sum(mean**2) - 4 * 25 / 4)
    assert found.mean_ranks == pytest.approx(tuple(mean))
    assert found.statistic == pytest.approx(statistic)
    assert found.p == pytest.approx(chi2.sf(statistic, 3))
    iman = 13 * statistic / (14 * 3 - statistic)
    assert found.f_statistic == pytest.approx(iman)
    assert found.f_p == pytest.approx(f.sf(iman, 3, 39))


def test_the_critical_difference_of_four_methods_on_fourteen_data_sets():
    """Demšar 2006, section 3.2.2: 1.25 at 5 %."""
    assert friedman(SCORES).critical_difference == pytest.approx(1.25, abs=0.005)
    quantile = studentized_range.ppf(0.9, 4, np.inf)
    assert friedman(SCORES, level=0.9).critical_difference == pytest.approx(
        quantile * np.sqrt(4 * 5 / (12 * 14))
    )


def test_ties_share_their_rank():
    scores = np.round(SCORES)
    found = friedman(scores)
    assert found.statistic == pytest.approx(friedmanchisquare(*scores.T).statistic)
    assert sum(found.mean_ranks) == pytest.approx(10)


@pytest.mark.thorough
def test_agreement_is_seen_however_the_statistic_is_rounded(monkeypatch):
    """With some hundreds of blocks n (k − 1) − statistic is rounding dust instead of 0."""
    monkeypatch.setattr("robustkit.statistics.ranks.ENUMERATED", 5)
    for blocks in range(800, 900):
        found = friedman(np.tile([0.0, 1.0, 2.0], (blocks, 1)))
        assert (found.f_statistic, found.f_p) == (np.inf, 0)


def test_blocks_that_all_agree_or_all_tie():
    agreed = friedman(np.tile([3.0, 1.0, 2.0], (6, 1)))
    assert agreed.mean_ranks == (1, 3, 2)
    assert (agreed.f_statistic, agreed.f_p) == (np.inf, 0)
    assert agreed.permutation_p == pytest.approx(6 / 6**6)
    tied = friedman(np.ones((6, 3)))
    assert (tied.statistic, tied.p, tied.f_p, tied.permutation_p) == (0, 1, 1, 1)


@pytest.mark.parametrize(
    ("k", "n", "statistic", "p"),
    [(3, 3, 6.0, 0.0278), (3, 4, 6.5, 0.0417), (3, 5, 6.4, 0.0394), (4, 2, 6.0, 0.0417)],
)
def test_the_permutation_p_is_that_of_the_tables_of_friedmans_test(k, n, statistic, p):
    """Critical values at 5 %, as tabulated since Friedman (1937)."""
    rows = np.array(list(permutations(range(k))))
    for choice in np.ndindex(*(len(rows),) * (n - 1)):
        found = friedman(np.stack([rows[0], *rows[list(choice)]]))
        if found.statistic == pytest.approx(statistic):
            assert found.permutation_p == pytest.approx(p, abs=5e-5)
            return
    pytest.fail("no such ranks")


def test_the_permutation_p_of_many_blocks_is_drawn_and_close_to_the_approximations():
    found = friedman(SCORES)
    assert found.permutation_p == pytest.approx(found.f_p, rel=0.2, abs=1e-4)
    assert friedman(SCORES[::-1]).permutation_p == found.permutation_p
    noise = rng().normal(size=(30, 4))
    noise_found = friedman(noise)
    assert noise_found.permutation_p == pytest.approx(noise_found.f_p, abs=0.02)


@pytest.mark.parametrize("scores", [[[1, 2, 3]], [[1, 2], [2, 1]], [[1, 2, np.nan], [1, 2, 3]]])
def test_scores_that_cannot_be_ranked_are_refused(scores):
    with pytest.raises(InputError, match="data sets × methods"):
        friedman(scores)


def test_power_over_seeds_alone_is_that_of_the_t_test():
    seeds = np.array([3.0, 5.0, 10.0, 30.0])
    spread = Components(seed=4e-4, image=0.0, residual=0.0, seeds=5, images=10_000)
    found, _ = powers(spread, seeds, np.full(4, 1e4), 0.02, 0.05)
    expected = [TTestPower().power(1.0, n, 0.05, alternative="two-sided") for n in seeds]
    # the t test also counts differences of the wrong sign
    assert found == pytest.approx(np.array(expected), abs=2e-3)


def test_power_over_images_alone_is_that_of_the_t_test():
    images = np.array([10.0, 20.0, 50.0])
    spread = Components(seed=0.0, image=0.01, residual=0.0, seeds=5, images=10_000)
    found, _ = powers(spread, np.full(3, 5.0), images, 0.1, 0.05)
    expected = [TTestPower().power(1.0, n, 0.05, alternative="two-sided") for n in images]
    assert found == pytest.approx(np.array(expected), abs=2e-3)


def test_power_of_equivalence_is_what_simulated_studies_reach():
    generator, seeds, delta = rng(), 12, 0.02
    spread = Components(seed=4e-4, image=0.0, residual=0.0, seeds=5, images=10_000)
    reached = 0
    for _ in range(2000):
        found = mean_over_seeds(0.02 * generator.normal(size=seeds))
        reached += -delta < found.low and found.high < delta
    _, planned = powers(spread, np.array([12.0]), np.array([1e4]), delta, 0.05)
    assert reached / 2000 == pytest.approx(planned[0], abs=0.03)


def test_components_are_mean_squares_at_their_upper_bounds_less_the_residual():
    """By the expected mean squares of the two-way model: residual + S image, residual + N seed."""
    seed, image = rng().normal(size=(2, 4, 1)), rng().normal(size=(2, 1, 200))
    a, b = seed + image + np.random.default_rng(1).normal(size=(2, 4, 200)) > 0
    d = np.hstack([a.astype(float) - b, np.tile([-1.0, 1.0], (4, 1))])  # two images are added
    S, N = 4, 200
    rows, columns = d.mean(axis=1, keepdims=True), d.mean(axis=0)
    rest = ((d - rows - columns + d.mean()) ** 2).sum() / ((S - 1) * (N + 1))
    of_seeds, of_images = (N + 2) * rows.var(ddof=1), S * columns.var(ddof=1)
    raised = [df / chi2.ppf(0.1, df) for df in (S - 1, N - 1, (S - 1) * (N - 1))]
    found = components(a, b, confidence=0.9)
    assert found.seed == pytest.approx((raised[0] * of_seeds - rest) / N)
    assert found.image == pytest.approx((raised[1] * of_images - rest) / S)
    assert found.residual == pytest.approx(raised[2] * rest)
    assert min(found.seed, found.image) > 0
    assert (found.seeds, found.images) == (S, N)


def test_components_are_above_the_truth_as_often_as_they_promise():
    generator, above = rng(), 0
    for _ in range(200):
        seed = 0.4 * generator.normal(size=(2, 4, 1))
        a, b = seed + generator.normal(size=(2, 4, 300)) > 0
        above += components(a, b, confidence=0.8).seed > TRUE_SEED_VARIANCE
    assert 0.72 <= above / 200 <= 0.88


# of Φ(0.4 z) for z normal, twice: by its closed form, arcsin(ρ) / 2π with ρ = 0.16 / 1.16
TRUE_SEED_VARIANCE = 2 * np.arcsin(0.16 / 1.16) / (2 * np.pi)


def test_more_seeds_more_images_and_larger_differences_need_less():
    a, b = budgets()[1], budgets()[0]
    spread = components(a, b)
    made = plan(spread, delta=0.05)
    assert [row.seeds for row in made.rows] == list(range(3, 51))
    for rows in (
        [row.difference for row in made.rows],
        [row.equivalence for row in made.rows],
    ):
        assert rows == sorted(rows)
    images = [row.images_difference for row in made.rows if row.images_difference is not None]
    assert images == sorted(images, reverse=True)
    assert (plan(spread, delta=0.1).seeds_difference or 0) <= (made.seeds_difference or 99)
    assert plan(spread, delta=0.05, family=5).rows[9].difference < made.rows[9].difference


def test_the_images_asked_for_are_just_enough():
    spread = components(budgets()[1], budgets()[0])
    row = plan(spread, delta=0.05).rows[20]
    for kind, images in enumerate((row.images_difference, row.images_equivalence)):
        enough, less = (
            powers(spread, np.array([23.0]), np.array([float(n)]), 0.05, 0.05)[kind][0]
            for n in (images, images - 1)
        )
        assert less < 0.8 <= enough


def test_a_plan_is_told_in_a_sentence():
    spread = Components(seed=4e-4, image=0.0, residual=0.0, seeds=5, images=10_000)
    made = plan(spread, delta=0.02)
    assert made.sentence() == (
        "To show a true difference of 2 points with power 80 % on 10,000 images takes 10 paired "
        "seeds; to show equivalence within ±2 points, if there is no difference at all, 13 paired "
        "seeds."
    )
    assert "more than 50 seeds" in plan(spread, delta=0.002).sentence()


def test_a_plan_does_not_look_at_the_observed_effect():
    a = np.array([[True, False] * 50, [False, True] * 50, [True, False] * 50])
    lost = np.zeros_like(a)
    won = np.ones_like(a)
    assert components(a, lost) == components(a, won)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: plan(s, delta=0.0), "delta 0.0"),
        (lambda s: plan(s, delta=0.01, power=1.0), "power 1.0"),
        (lambda s: plan(s, delta=0.01, seeds=[1]), "two seeds"),
        (lambda s: plan(s, delta=0.01, images=1), "a plan on 1 images: one image has no spread"),
        (lambda s: plan(s, delta=0.01, images=0), "a plan on 0 images"),
        (lambda s: components(budgets()[0][:1], budgets()[1][:1]), "one seed"),
    ],
)
def test_plans_that_make_no_sense_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make(Components(1e-4, 0.01, 0.01, 5, 1000))
