"""Quantiles and intervals against SciPy and the papers."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from compress.core.intervals import Z95, t95, wilson_interval


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 13, 30, 100, 10_000])
def test_students_quantile_is_scipys(freedom):
    assert t95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=3e-3)


def test_students_quantile_becomes_the_normal_one():
    assert t95(10**9) == pytest.approx(Z95, rel=1e-8)
    with pytest.raises(ValueError, match="0 degrees of freedom"):
        t95(0)


@pytest.mark.parametrize(("successes", "samples"), [(0, 1), (1, 1), (3, 7), (127, 128), (500, 1000)])
def test_wilsons_interval_is_scipys(successes, samples):
    low, high = wilson_interval(successes, samples)
    expected = stats.binomtest(successes, samples).proportion_ci(0.95, "wilson")
    assert math.isclose(low, expected.low, abs_tol=1e-12)
    assert math.isclose(high, expected.high, abs_tol=1e-12)
