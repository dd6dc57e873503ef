import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from robustkit.statistics import proportion


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


@pytest.mark.parametrize(("count", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_counts_that_cannot_be_are_refused(count, n):
    with pytest.raises(ValueError, match="expected 0 <= count <= n"):
        proportion(count, n)
