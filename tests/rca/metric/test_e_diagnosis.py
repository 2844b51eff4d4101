from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.rca.metric.e_diagnosis import e_diagnosis, energy_test
from tests.rca.views import view_of


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def brute_force_share(x: np.ndarray, y: np.ndarray) -> float:
    """Energy distance by its definition, all pairs, over twice the mean distance between the windows."""
    between = np.abs(x[:, None] - y).mean()
    within = np.abs(x[:, None] - x).mean() + np.abs(y[:, None] - y).mean()
    return (2 * between - within) / (2 * between) if between else 0.0


def test_known_answer_of_the_statistic() -> None:
    # windows {0, 1} and {2}: E|X-Y| = 1.5, E|X-X'| = 0.5, E|Y-Y'| = 0: (3 - 0.5) / 3
    share, _ = energy_test(np.array([[0.0], [1.0]]), np.array([[2.0]]), 9, rng())
    assert share[0] == pytest.approx(2.5 / 3)


@settings(max_examples=60, deadline=None)
@given(
    x=arrays(float, st.tuples(st.integers(1, 8), st.just(2)), elements=st.integers(-20, 20).map(float)),
    y=arrays(float, st.tuples(st.integers(1, 8), st.just(2)), elements=st.integers(-20, 20).map(float)),
)
def test_statistic_equals_the_definition(x: np.ndarray, y: np.ndarray) -> None:
    share, p_value = energy_test(x, y, 19, rng())
    expected = [brute_force_share(x[:, column], y[:, column]) for column in range(2)]
    np.testing.assert_allclose(share, expected, atol=1e-9)
    assert ((p_value >= 1 / 20) & (p_value <= 1)).all()


def test_exact_p_value_of_a_tiny_sample() -> None:
    """{0, 1} against {10, 11}: of the 6 equally likely labellings 2 are as extreme."""
    _, p_value = energy_test(np.array([[0.0], [1.0]]), np.array([[10.0], [11.0]]), 20_000, rng())
    assert p_value[0] == pytest.approx(1 / 3, abs=0.02)


def test_no_change_is_rarely_significant() -> None:
    samples = np.random.default_rng(5).normal(size=(60, 2000))
    found = [
        np.mean(energy_test(samples[:30], samples[30:], 99, np.random.default_rng(i))[1] <= 0.05) for i in range(10)
    ]
    assert np.mean(found) == pytest.approx(0.05, abs=0.02)


def test_missing_samples_are_left_out() -> None:
    gappy = np.array([[1.0], [np.nan], [2.0], [5.0]])
    share, _ = energy_test(gappy, np.array([[3.0], [np.nan]]), 9, rng())
    assert share[0] == pytest.approx(brute_force_share(np.array([1.0, 2, 5]), np.array([3.0])))
    share, p_value = energy_test(gappy, np.array([[np.nan]]), 9, rng())
    assert np.isnan(share[0])
    assert np.isnan(p_value[0])


def test_change_is_evidence_and_likeness_is_not() -> None:
    """The reference ranked the metric first whose windows resemble each other most."""
    wave = [float(i % 5) for i in range(20)]
    view = view_of({("same", "x"): wave + wave, ("moved", "x"): wave + [value + 10 for value in wave]}, normal_rows=20)
    scores = dict(e_diagnosis(view, rng()).services)
    assert scores["moved"] > 0 > scores["same"]


def test_every_service_is_listed_not_three_metrics() -> None:
    columns = {(f"s{i}", "x"): [float((j * (i + 3)) % 7) for j in range(30)] for i in range(8)}
    assert len(e_diagnosis(view_of(columns, normal_rows=15), rng()).services) == 8


def test_a_constant_column_has_no_change() -> None:
    view = view_of({("a", "x"): [0.3] * 10 + [0.1 + 0.2] * 10, ("b", "x"): [1.0] * 10 + [2.0] * 10}, normal_rows=10)
    assert dict(e_diagnosis(view, rng()).services) == pytest.approx({"a": -1, "b": 1})


def test_same_seed_same_scores() -> None:
    values = np.random.default_rng(3).normal(size=40).tolist()
    view = view_of({("a", "x"): values}, normal_rows=20)
    assert e_diagnosis(view, rng()) == e_diagnosis(view, rng())
