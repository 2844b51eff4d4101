from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from tasks.score.intervals import poisson_interval, wilson_interval


def test_known_wilson_intervals() -> None:
    assert wilson_interval(0, 20, 0.95) == (0.0, pytest.approx(0.1611, abs=1e-4))
    assert wilson_interval(10, 10, 0.95) == (pytest.approx(0.7225, abs=1e-4), 1.0)
    assert wilson_interval(5, 10, 0.95) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_known_poisson_intervals() -> None:
    assert poisson_interval(0, 2.0, 0.95) == (0.0, pytest.approx(3.6889 / 2, abs=1e-4))
    assert poisson_interval(3, 1.0, 0.95) == pytest.approx((0.6187, 8.7673), abs=1e-4)


def test_nothing_seen_has_no_interval() -> None:
    assert all(map(math.isnan, (*wilson_interval(0, 0, 0.95), *poisson_interval(0, 0.0, 0.95))))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95]))
def test_wilson_agrees_with_statsmodels_and_holds_the_share(counts: tuple[int, int], confidence: float) -> None:
    hits, total = counts
    low, high = wilson_interval(hits, total, confidence)
    assert 0 <= low <= hits / total <= high <= 1
    assert (low, high) == pytest.approx(proportion_confint(hits, total, 1 - confidence, "wilson"), abs=1e-9)


@given(st.integers(0, 200), st.floats(0.01, 100))
def test_a_poisson_interval_holds_the_rate_and_scales_with_exposure(events: int, hours: float) -> None:
    low, high = poisson_interval(events, hours, 0.95)
    assert 0 <= low <= events / hours <= high
    assert poisson_interval(events, 1.0, 0.95) == pytest.approx((low * hours, high * hours))
