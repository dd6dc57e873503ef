"""Seeds × images: accuracies over seeds and differences, against independent computations."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import gammaincinv, ndtr
from scipy.stats import binom, multinomial, norm, ttest_1samp, ttest_ind, ttest_rel, wilcoxon
from scipy.stats import t as student_t
from statsmodels.stats.contingency_tables import mcnemar

from robustkit.errors import InputError
from robustkit.statistics import compare_images, compare_seeds, compare_unpaired, over_seeds
from robustkit.statistics import proportion as wilson
from robustkit.statistics.pivot import Exact, Score, Student, Term, interval
from robustkit.statistics.resampling import bootstrap, sign_flip
from robustkit.statistics.resampling import wilcoxon as signed_ranks
from robustkit.statistics.spread import mean_squares, student, terms


def rng():
    return np.random.default_rng(0)


def networks(seeds=5, images=300, level=1.5, spread=0.3, key=1):
    """Correct samples of a method: seeds and images both matter."""
    own = np.random.default_rng(key)
    image = np.random.default_rng(99).normal(size=images)
    latent = level + spread * own.normal(size=(seeds, 1)) + image
    return latent + own.normal(size=(seeds, images)) > 0


def counted(wins, losses, n):
    a, b = np.zeros((2, n), bool)
    a[:wins], b[wins : wins + losses] = True, True
    return compare_images(a, b)


def test_mean_squares_are_those_of_the_two_way_analysis_of_variance():
    x = rng().integers(-1, 2, size=(4, 7))
    grand = sum(map(sum, x.tolist())) / 28
    rows = [sum(row) / 7 for row in x.tolist()]
    columns = [sum(column) / 4 for column in x.T.tolist()]
    between_rows = sum(7 * (r - grand) ** 2 for r in rows) / 3
    between_columns = sum(4 * (c - grand) ** 2 for c in columns) / 6
    rest = sum(
        (x[s, i] - rows[s] - columns[i] + grand) ** 2 for s, i in product(range(4), range(7))
    )
    found = mean_squares(x[None])
    assert found.mean[0] == pytest.approx(grand)
    assert found.seed[0, 0] == pytest.approx(between_rows)
    assert found.image[0, 0] == pytest.approx(between_columns)
    assert found.residual[0, 0] == pytest.approx(rest / 18)
    assert sum(t.variance for t in terms(found)) == pytest.approx(
        (between_rows + max(between_columns - rest / 18, 0)) / 28
    )


def test_mean_squares_of_whole_numbers_have_the_square_of_their_unit():
    """In units so small that their squares overflow 64-bit integers; a power of 2 rounds nothing."""
    x = rng().integers(-1, 2, size=(2, 4, 7))
    found, small = mean_squares(x), mean_squares(x * 2**40)
    for large, one in zip(small[1:4], found[1:4], strict=True):
        assert (large == 2.0**80 * one).all()
    assert (small.mean == 2.0**40 * found.mean).all()


def test_without_differences_between_images_it_is_the_paired_t_test_over_seeds():
    d = np.array([[1, 1, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    pivot = student(mean_squares(d[None]))
    expected = ttest_1samp(d.mean(axis=1), 0)
    assert interval(pivot, 0.5) == pytest.approx(tuple(expected.confidence_interval(0.5)))
    assert pivot.p_above(0) == pytest.approx(expected.pvalue)


def test_with_seeds_all_alike_it_is_the_paired_t_test_over_images():
    a, b = networks(1)[0], networks(1, level=1.0, key=2)[0]
    d = np.repeat((a.astype(int) - b.astype(int))[None], 4, axis=0)
    expected = ttest_rel(a.astype(float), b.astype(float))
    pivot = student(mean_squares(d[None]))
    assert interval(pivot, 0.05) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert pivot.p_above(0) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("seeds", "alpha"), list(product((3, 5, 10), (0.05, 0.01))))
def test_the_critical_value_holds_however_the_variance_is_shared(seeds, alpha):
    """Exact coverage for a normal mean, image variance known, by quadrature over the seeds'."""
    df, chi = seeds - 1, (np.arange(400) + 0.5) / 400
    estimates = 2 * gammaincinv(df / 2, chi) / df
    for share in (0.1, 0.5, 0.9, 1.0):
        covered = []
        for estimate in share * estimates:
            pivot = Student(0.0, (Term(estimate, df), Term(1 - share, 1e9)))
            reach = pivot.critical(alpha) * np.sqrt(pivot.variance)
            covered.append(1 - 2 * ndtr(-reach))
        assert 1 - alpha - 0.001 <= np.mean(covered) <= 1 - alpha + 0.025


def test_one_seed_is_wilsons_interval_and_says_what_is_not_in_it():
    x = networks(1)
    found, expected = over_seeds(x), wilson(int(x.sum()), x.size)
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)
    assert "training variance is not in it" in found.method
    assert over_seeds(x[0]) == found


def test_seeds_all_alike_are_little_more_than_one():
    """Wilson's interval with as many images as there are, but for one degree of freedom."""
    x = networks(1)
    found, expected = over_seeds(np.repeat(x, 6, axis=0)), over_seeds(x)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_seeds_that_differ_widen_the_interval():
    assert width(over_seeds(networks(spread=1.0))) > 2 * width(over_seeds(networks(spread=0.0)))


def test_errors_have_the_mirrored_interval():
    x = networks(3, 60, level=2.5)
    right, wrong = over_seeds(x), over_seeds(~x)
    assert (wrong.low, wrong.high) == pytest.approx((1 - right.high, 1 - right.low))


@pytest.mark.parametrize("value", [False, True])
def test_an_accuracy_of_none_or_all_still_has_an_interval(value):
    found = over_seeds(np.full((3, 100), value))
    assert found.value == float(value)
    assert width(found) == pytest.approx(width(wilson(0, 100)), rel=0.02)


def test_an_accuracy_covers_what_it_estimates():
    """400 studies of 3 seeds whose true accuracy is known in closed form."""
    generator, truth = rng(), norm.cdf(1.5 / np.sqrt(2.09))
    covered = 0
    for _ in range(400):
        latent = 1.5 + 0.3 * generator.normal(size=(3, 1)) + generator.normal(size=200)
        found = over_seeds(latent + generator.normal(size=(3, 200)) > 0)
        covered += found.low <= truth <= found.high
    assert 0.925 <= covered / 400 <= 0.99


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_order_of_seeds_or_images_changes_a_digit(key):
    order = np.random.default_rng(key)
    a, b = networks(11, 60), networks(11, 60, level=1.2, key=2)
    seeds, images = order.permutation(11), order.permutation(60)
    mixed = [x[seeds][:, images] for x in (a, b)]
    assert over_seeds(mixed[0]) == over_seeds(a)
    assert compare_seeds(*mixed, rng()) == compare_seeds(a, b, rng())
    assert compare_unpaired(mixed[0], mixed[1][:5]).pivot == compare_unpaired(a, b[seeds[:5]]).pivot


@pytest.mark.parametrize("compare", [compare_seeds, lambda a, b, rng: compare_unpaired(a, b[:4])])
def test_turning_the_pair_turns_the_interval(compare):
    a, b = networks(4), networks(4, level=1.1, key=2)
    there, back = compare(a, b, rng()), compare(b, a, rng())
    assert there.difference == pytest.approx(-back.difference)
    assert there.interval(0.05) == pytest.approx(tuple(-x for x in back.interval(0.05)[::-1]))
    assert there.p == pytest.approx(back.p)


def test_unmatched_seeds_see_the_same_difference_with_more_variance_where_seeds_are_shared():
    common = np.random.default_rng(5).normal(size=(6, 1))
    image = np.random.default_rng(6).normal(size=400)
    noise = np.random.default_rng(7).normal(size=(2, 6, 400)) / 3
    a, b = (level + common + image + n > 0 for level, n in zip((1.0, 1.3), noise, strict=True))
    paired, unpaired = compare_seeds(a, b, rng()), compare_unpaired(a, b)
    assert paired.difference == pytest.approx(unpaired.difference)
    assert np.diff(unpaired.interval(0.05)) > 3 * np.diff(paired.interval(0.05))


def test_unmatched_seeds_without_differences_between_images_have_welchs_standard_error():
    """Two groups of seeds, all image differences alike; each side keeps its degrees of freedom."""
    a = np.array([[1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 1, 1]], bool)
    b = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], bool)
    pivot = compare_unpaired(a, b).pivot
    scale = 4 / 6  # two images more, the same for all
    expected = ttest_ind(a.mean(axis=1), b.mean(axis=1), equal_var=False)
    error = (a.mean() - b.mean()) / expected.statistic
    *seeds, _ = pivot.terms
    assert sum(term.variance for term in seeds) == pytest.approx((scale * error) ** 2)
    assert [term.df for term in seeds] == [2, 1]


@pytest.mark.parametrize(("left", "right", "images"), [(4, 3, 300), (2, 6, 50), (5, 5, 1000)])
def test_unmatched_seeds_are_those_of_a_plain_computation(left, right, images):
    """Sums of squares in floats: seeds of each side, images by the difference of their means."""
    a, b = networks(left, images), networks(right, images, level=1.1, key=2)
    sides = [
        np.hstack([side, np.tile(extra, (len(side), 1))]).astype(float)
        for side, extra in ((a, [1, 0]), (b, [0, 1]))  # one image that only a gets right, one b
    ]
    n = images + 2
    of_seeds = [side.mean(1).var(ddof=1) / len(side) for side in sides]
    rests = [side - side.mean(1, keepdims=True) - side.mean(0) + side.mean() for side in sides]
    residual = sum((rest**2).sum() / ((len(rest) - 1) * (n - 1)) / len(rest) for rest in rests)
    of_images = max((sides[0].mean(0) - sides[1].mean(0)).var(ddof=1) - residual, 0) / n
    variance = sum(of_seeds) + of_images
    parts = zip((*of_seeds, of_images), (left - 1, right - 1, n - 1), strict=True)
    quantile = sum(part * student_t.ppf(0.975, df) for part, df in parts)
    centre, half = sides[0].mean() - sides[1].mean(), quantile / np.sqrt(variance)
    assert compare_unpaired(a, b).interval(0.05) == pytest.approx((centre - half, centre + half))


def test_few_seeds_beside_many_have_no_interval_that_is_too_short():
    """Two seeds and ten, no difference: one t of pooled freedom covers 87 % of the time."""
    draw, covered = np.random.default_rng(0), 0
    for _ in range(300):
        sides = [0.7 + 0.05 * draw.standard_normal(seeds) for seeds in (2, 10)]
        a, b = (draw.random((len(side), 1000)) < side[:, None] for side in sides)
        low, high = compare_unpaired(a, b).interval(0.05)
        covered += low <= 0 <= high
    assert covered / 300 > 0.91


@pytest.mark.parametrize("n", [25, 30, 1000])
def test_all_right_against_all_wrong_is_a_difference_of_nearly_one(n):
    a, b = np.ones(n, bool), np.zeros(n, bool)
    for found, sign in ((compare_images(a, b), 1), (compare_images(b, a), -1)):
        low, high = sorted(sign * end for end in found.interval(0.05))
        assert 0.7 < low < high == 1
        assert found.p < 1e-5
        assert found.p_equivalence(0.5) == 1


def test_no_discordant_image_at_all_is_not_certainty():
    same = networks(3, 50)
    found = compare_seeds(same, same, rng())
    low, high = found.interval(0.05)
    assert low < -0.02
    assert high > 0.02
    assert found.p == 1


def test_a_contrast_says_what_was_replicated():
    a, b = networks(6, 1200), networks(6, 1200, key=2)
    for found, seeds, unit in (
        (compare_images(a[0], b[0]), 1, "1 pair of checkpoints, 1,200 images"),
        (compare_seeds(a, b, rng()), 6, "6 paired seeds, 1,200 images"),
        (compare_unpaired(a, b[:4]), 4, "6 and 4 unpaired seeds, 1,200 images"),
        (compare_unpaired(a[:3], b), 3, "3 and 6 unpaired seeds, 1,200 images"),
    ):
        assert (found.n, found.seeds, found.unit) == (1200, seeds, unit)


def test_seeds_that_happen_to_tie_are_not_certainty():
    """Each seed is right on half of the images, each image with half of the seeds."""
    a = np.tile([[True, False], [False, True]], (1, 20))
    assert 0.2 < width(over_seeds(a)) < 0.4
    low, high = compare_seeds(a, ~a, rng()).interval(0.05)
    assert low < -0.1
    assert high > 0.1
    low, high = compare_unpaired(a, ~a).interval(0.05)
    assert low < -0.1
    assert high > 0.1


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (9, 3), (12, 12), (3, 17)])
def test_few_discordant_pairs_are_mcnemars_exact_test(wins, losses):
    expected = mcnemar([[0, wins], [losses, 0]], exact=True).pvalue
    found = counted(wins, losses, 100)
    assert found.test == "exact McNemar"
    assert found.p == pytest.approx(expected)


@pytest.mark.parametrize(("wins", "losses"), [(15, 15), (40, 12), (0, 30), (100, 160)])
def test_many_discordant_pairs_are_mcnemars_test(wins, losses):
    expected = mcnemar([[0, wins], [losses, 0]], exact=False, correction=False).pvalue
    found = counted(wins, losses, 500)
    assert found.test == "McNemar"
    assert found.p == pytest.approx(expected)


@pytest.mark.parametrize(("wins", "losses"), [(15, 15), (40, 12), (0, 30), (100, 160)])
def test_the_ends_solve_the_score_equation(wins, losses):
    """Tango 1998, with the restricted likelihood maximised by search instead of in closed form."""
    n = 500
    for theta, sign in zip(counted(wins, losses, n).interval(0.05), (1, -1), strict=True):

        def unlikelihood(q, theta=theta):
            shares = np.array([q + theta, q, 1 - 2 * q - theta])
            counts = np.array([wins, losses, n - wins - losses])
            return -np.sum(counts * np.log(np.maximum(shares, 1e-300)))

        bounds = (max(0.0, -theta) + 1e-12, (1 - theta) / 2 - 1e-12)
        q = minimize_scalar(
            unlikelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        z = (wins - losses - n * theta) / np.sqrt(n * (2 * q + theta - theta**2))
        assert z == pytest.approx(sign * norm.ppf(0.975), abs=1e-3)


def test_the_score_test_is_sound_at_minus_one_however_many_images():
    """With a hundred million images the variance at −1 is rounding dust instead of 0."""
    assert Score(0, 99_999_998, 100_000_000).p_above(-1.0) == 0
    assert Score(0, 999_999_999, 1_000_000_000).lower(0.05) == -1


def test_a_p_value_too_small_for_a_number_is_zero():
    assert Exact(100_000, 0, 100_000).p_above(0.5) == 0


@pytest.mark.parametrize("n", [8, 15])
def test_the_exact_interval_covers_whatever_the_truth(n):
    """Every table of n images, at every truth of a grid."""
    cells = [(w, x) for w in range(n + 1) for x in range(n + 1 - w)]
    ends = np.array([counted(w, x, n).interval(0.05) for w, x in cells])
    tables = np.array([(w, x, n - w - x) for w, x in cells])
    for wins, losses in product(range(21), repeat=2):
        if wins + losses <= 20:
            win, loss = wins / 20, losses / 20
            weights = multinomial.pmf(tables, n, [win, loss, (20 - wins - losses) / 20])
            inside = (ends[:, 0] <= win - loss + 1e-12) & (win - loss - 1e-12 <= ends[:, 1])
            assert weights[inside].sum() >= 0.95


contrasts = st.one_of(
    st.builds(
        lambda w, x, extra: counted(w, x, w + x + extra),
        st.integers(0, 60),
        st.integers(0, 60),
        st.integers(2, 400),
    ),
    st.builds(
        lambda S, N, key, level: compare_seeds(
            networks(S, N, key=key), networks(S, N, level=level, key=key + 1), rng()
        ),
        st.integers(2, 6),
        st.integers(2, 60),
        st.integers(0, 1000),
        st.floats(-1, 3),
    ),
    st.builds(
        lambda S, N, key: compare_unpaired(networks(S, N, key=key), networks(3, N, key=key + 1)),
        st.integers(2, 6),
        st.integers(2, 60),
        st.integers(0, 1000),
    ),
)


@settings(max_examples=150, deadline=None)
@given(contrasts, st.sampled_from([0.2, 0.125, 0.05, 0.01, 0.001]), st.floats(0.001, 0.5))
def test_p_values_and_intervals_always_agree(contrast, alpha, delta):
    low, high = contrast.interval(alpha)
    assert -1 <= low <= contrast.difference <= high <= 1
    assert (contrast.p < alpha) == (low > 0 or high < 0)
    assert (contrast.p_equivalence(delta) < alpha) == (-delta < low and high < delta)


@settings(max_examples=60, deadline=None)
@given(contrasts)
def test_intervals_grow_with_confidence(contrast):
    ends = [contrast.interval(alpha) for alpha in (0.5, 0.1, 0.05, 0.01, 1e-6)]
    lows, highs = zip(*ends, strict=True)
    assert list(lows) == sorted(lows, reverse=True)
    assert list(highs) == sorted(highs)


small = st.lists(st.integers(-6, 6), min_size=1, max_size=9).map(np.array)


def share_of_flips(values):
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in product((-1, 1), repeat=len(values))
    ]
    return np.mean([s >= abs(sum(values)) for s in sums])


@given(small)
def test_sign_flips_are_those_of_every_pattern_of_signs(differences):
    assert sign_flip(differences) == pytest.approx(share_of_flips(differences.tolist()))


@pytest.mark.parametrize("seeds", [3, 5, 8, 20])
def test_signed_ranks_are_scipys_exact_test_where_nothing_is_tied(seeds):
    differences = rng().permutation(np.arange(1, seeds + 1)) * rng().choice([-1, 1], seeds)
    assert signed_ranks(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue)


@pytest.mark.parametrize(
    ("differences", "ranks"),
    [
        ([2, -2, 5, 0], [1.5, -1.5, 3]),
        # with ranks for the zeros these would be 0.75 each
        ([4, -1, -2, 3, 0, 0, 0], [4, -1, -2, 3]),
        ([2, 3, -1, -1, 0, 0], [3, 4, -1.5, -1.5]),
    ],
)
def test_signed_ranks_with_ties_and_zeros_count_every_pattern(differences, ranks):
    """Zeros have no rank, and ties share theirs."""
    assert signed_ranks(np.array(differences)) == pytest.approx(share_of_flips(ranks))


def test_smallest_p_values_are_reached_when_every_seed_agrees():
    for seeds, smallest in ((3, 0.25), (5, 0.0625), (12, 2.0**-11)):
        a = networks(seeds, 400, level=2.5, spread=0.0)
        b = networks(seeds, 400, level=0.5, spread=0.0, key=2)
        tests = {test.test: test for test in compare_seeds(a, b, rng()).secondary}
        assert tests["sign-flip permutation"].p == tests["sign-flip permutation"].smallest
        assert tests["Wilcoxon"].smallest == smallest
        assert ("bootstrap over seeds" in tests) == (seeds >= 10)
        if seeds >= 10:
            found = tests["bootstrap over seeds"]
            assert found.p == found.smallest == 1 / 10_000


def test_the_bootstrap_is_near_the_t_test_for_many_seeds():
    a, b = networks(40, 500, level=1.5, spread=0.5), networks(40, 500, 1.52, 0.5, key=2)
    contrast = compare_seeds(a, b, rng())
    d = a.mean(axis=1) - b.mean(axis=1)
    assert contrast.secondary[-1].p == pytest.approx(ttest_1samp(d, 0).pvalue, abs=0.03)
    assert contrast.secondary == compare_seeds(a, b, rng()).secondary


@pytest.mark.parametrize(
    "differences", [[1, 1, 1, 1, 2, 2, 2, 3, 3, 20], [-2, 1, 1, 3, 4, 4, 5, 6, 9, 40]]
)
def test_the_bootstrap_divides_each_resample_by_its_own_spread(differences):
    """With one outlier the bootstrap of the mean alone says 0.05, the studentised one 0.35."""
    x, draws = np.array(differences, dtype=float), np.random.default_rng(11)
    drawn = draws.choice(x, (100_000, len(x)))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (drawn.mean(1) - x.mean()) / drawn.std(1, ddof=1)
    # a resample without spread that misses the mean has an infinite t
    p = np.mean(np.abs(t) >= abs(x.mean() / x.std(ddof=1)))
    assert bootstrap(np.array(differences), rng()) == pytest.approx(p, abs=0.02)


@pytest.mark.parametrize(("difference", "p"), [(0, 1.0), (3, 1 / 10_000), (-3, 1 / 10_000)])
def test_the_bootstrap_of_seeds_that_all_say_the_same_is_one_or_its_smallest(difference, p):
    assert bootstrap(np.full(10, difference), rng()) == p


def test_a_resample_that_hits_the_mean_without_spread_says_nothing_against_it():
    """Of ten seeds eight at the mean: every tenth resample has these alone, and its t is 0."""
    draws = np.random.default_rng(3).choice([50.0] * 8 + [49.0, 51.0], (100_000, 10))
    spread = draws.std(1)
    t = np.divide(draws.mean(1) - 50, spread, out=np.zeros(len(draws)), where=spread > 0)
    assert np.mean(spread == 0) > 0.1
    assert np.mean(np.abs(t) >= 50 / np.sqrt(0.2)) == 0
    found = bootstrap(np.array([50] * 8 + [49, 51]), rng())
    assert found == pytest.approx(1 / 10_000, abs=2e-4)
    assert bootstrap(np.array([0] * 8 + [-1, 1]), rng()) == 1.0


def test_one_pair_of_networks_is_compared_by_images():
    a, b = networks(1), networks(1, level=1.0, key=2)
    assert compare_seeds(a, b, rng()) == compare_images(a[0], b[0])


def test_a_binomial_tail_reaches_the_contrast():
    """Six images for a, none for b: 2 / 2^6."""
    assert counted(6, 0, 200).p == pytest.approx(2 * binom.pmf(6, 6, 0.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: over_seeds(np.ones((3, 4))), "^correct: expected booleans, seeds × images, none"),
        (lambda: compare_images(networks(2), networks(2)), "^a: expected booleans, images, none"),
        (lambda: compare_seeds(networks(2), np.ones(3), rng()), "^b: expected booleans, seeds × i"),
        (lambda: over_seeds(np.ones((0, 4), bool)), "none of them 0"),
        (lambda: over_seeds(np.ones((3, 1), bool)), "at least two"),
        (lambda: compare_images(networks(1)[0], networks(1, 20)[0]), "the same seeds and images"),
        (lambda: compare_seeds(networks(3), networks(4), rng()), "the same seeds and images"),
        (lambda: compare_unpaired(networks(3), networks(3, 20)), "300 images and b 20"),
        (lambda: compare_unpaired(networks(3), networks(1)), "at least two"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def width(estimate):
    return estimate.high - estimate.low
