from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from tasks.rca.graph import partial_correlation as module
from tasks.rca.graph.partial_correlation import (
    correlation_matrix,
    critical_correlation,
    partial_correlations,
    small_given_one,
)

ROWS = 60


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.standard_normal((ROWS, 9)) @ rng.standard_normal((9, 9))


def one(correlation: np.ndarray, i: int, j: int, given: list[int]) -> float:
    return float(partial_correlations(correlation, np.array([i]), np.array([j]), np.array([given], dtype=int))[0])


def test_one_conditioning_column_by_hand() -> None:
    correlation = np.array([[1, 0.5, 0.6], [0.5, 1, 0.7], [0.6, 0.7, 1]])
    assert one(correlation, 0, 1, [2]) == pytest.approx((0.5 - 0.6 * 0.7) / np.sqrt(0.64 * 0.51))


@pytest.mark.parametrize("size", range(7))
def test_it_is_the_correlation_of_what_regression_leaves(values: np.ndarray, size: int) -> None:
    rng = np.random.default_rng(size)
    tests = np.argsort(rng.random((20, 9)), axis=1)
    i, j, given = tests[:, 0], tests[:, 1], tests[:, 2 : 2 + size]
    found = partial_correlations(correlation_matrix(values), i, j, given)
    for t in range(20):
        design = np.column_stack([np.ones(ROWS), values[:, given[t]]])
        left = [values[:, k] - design @ np.linalg.lstsq(design, values[:, k])[0] for k in (i[t], j[t])]
        assert found[t] == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-9)


def test_batches_do_not_show(values: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = np.argsort(np.random.default_rng(0).random((50, 9)), axis=1)
    arguments = correlation_matrix(values), tests[:, 0], tests[:, 1], tests[:, 2:5]
    whole = partial_correlations(*arguments)
    monkeypatch.setattr(module, "_BATCH", 7)
    assert (partial_correlations(*arguments) == whole).all()


def test_no_tests() -> None:
    none = np.empty(0, dtype=int)
    assert partial_correlations(np.eye(3), none, none, np.empty((0, 1), dtype=int)).shape == (0,)


def test_a_sum_is_no_error(values: np.ndarray) -> None:
    """One front-end latency is often the exact sum of the others."""
    a, b, other = values[:, 0], values[:, 1], values[:, 2]
    correlation = correlation_matrix(np.column_stack([a, b, a + b, other]))
    assert one(correlation, 0, 2, [1]) == pytest.approx(1)
    assert one(correlation, 0, 1, [2]) == pytest.approx(-1)
    assert np.isnan(one(correlation, 2, 3, [0, 1]))


def test_a_copy_explains_nothing_away(values: np.ndarray) -> None:
    correlation = correlation_matrix(np.column_stack([values[:, 0], values[:, 0] * 3, values[:, 1]]))
    assert np.isnan(one(correlation, 0, 2, [1]))
    assert one(correlation, 0, 1, []) == pytest.approx(1)


def test_redundant_conditioning_columns_are_passed_over(values: np.ndarray) -> None:
    a, b = values[:, 2], values[:, 3]
    correlation = correlation_matrix(np.column_stack([values[:, :2], a, b, a, a - b]))
    plain = one(correlation, 0, 1, [2, 3])
    for given in ([2, 3, 4], [2, 4, 3], [2, 5], [5, 3, 4, 2]):
        assert one(correlation, 0, 1, given) == pytest.approx(plain, abs=1e-7)


def test_a_column_that_never_moves_correlates_with_none(values: np.ndarray) -> None:
    correlation = correlation_matrix(np.column_stack([values[:, 0], np.full(ROWS, 7.0)]))
    assert correlation.tolist() == [[1, 0], [0, 1]]


def test_huge_values_are_correlated_like_small_ones(values: np.ndarray) -> None:
    assert correlation_matrix(values * 2.0**1000) == pytest.approx(correlation_matrix(values))


def test_with_too_few_samples_no_correlation_is_small() -> None:
    assert critical_correlation(0.05, 5, 2) < 0


@pytest.mark.parametrize("size", [0, 3])
def test_the_critical_correlation_has_p_alpha(size: int) -> None:
    critical = critical_correlation(0.05, 40, size)
    assert 2 * norm.sf(np.arctanh(critical) * np.sqrt(40 - size - 3)) == pytest.approx(0.05)


def test_all_given_one_agrees_with_one_at_a_time(values: np.ndarray) -> None:
    correlation = correlation_matrix(np.column_stack([values, values[:, 0]]))
    for i, small in enumerate(small_given_one(correlation, 0.3)):
        j, k = np.nonzero(~np.eye(10, dtype=bool))
        j, k = j[(j != i) & (k != i)], k[(j != i) & (k != i)]
        each = partial_correlations(correlation, np.full_like(j, i), j, k[:, None])
        assert (small[j, k] == (np.abs(each) < 0.3)).all()
        assert not small.diagonal().any()
        assert not small[:, i].any()


def test_indices_of_any_integer_type() -> None:
    correlation = np.eye(300)
    correlation[200, 250] = correlation[250, 200] = 0.5
    i, j, given = (np.array(indices, dtype=np.int16) for indices in ([200], [250], [[299]]))
    assert partial_correlations(correlation, i, j, given) == pytest.approx([0.5])
