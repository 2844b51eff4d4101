from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2, chi2_contingency

from tasks.rca.graph import psi_pc as module
from tasks.rca.graph.psi_pc import FNodeTest, attached_to_fault, discretise


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def f_node_test(columns: list[list[int]], abnormal: list[int]) -> FNodeTest:
    return FNodeTest(np.array(columns), np.array(abnormal, dtype=bool), bins=1 + max(map(max, columns)))


def test_marginal_p_value_is_that_of_the_contingency_table() -> None:
    codes, abnormal = [0, 0, 0, 1, 1, 2, 2, 2, 2, 1], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    expected = chi2_contingency([[3, 2, 0], [0, 1, 4]], correction=False).pvalue
    assert np.exp(f_node_test([codes], abnormal).marginal[0]) == pytest.approx(expected)


def test_conditional_p_value_adds_tables_up_and_empty_margins_count_for_nothing() -> None:
    # given 0: [[2, 1], [0, 3]], 1 degree; given 1: all in one column of the table, 0 degrees
    abnormal = [0, 0, 0, 1, 1, 1, 0, 1, 1]
    codes, by = [0, 0, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1, 1]
    statistic = chi2_contingency([[2, 1], [0, 3]], correction=False).statistic
    log_p = f_node_test([codes, by], abnormal).log_p_values(np.array([0]), np.array([[1]]))
    assert np.exp(log_p[0]) == pytest.approx(chi2.sf(statistic, 1))


def test_many_strata_give_the_same_p_values_as_few() -> None:
    """More values of the conditioning columns than rows: only those that occur are counted."""
    random = rng(3)
    codes, abnormal = random.integers(0, 3, (4, 40)), random.random(40) < 0.5
    sparse = FNodeTest(codes, abnormal, bins=3).log_p_values(np.array([0]), np.array([[1, 2, 3]]))
    by = np.unique(codes[1:], axis=1, return_inverse=True)[1].ravel()
    dense = FNodeTest(np.stack([codes[0], by]), abnormal, bins=int(by.max()) + 1)
    assert sparse[0] == pytest.approx(dense.log_p_values(np.array([0]), np.array([[1]]))[0])


def test_no_degree_of_freedom_is_no_evidence() -> None:
    """Given a metric that tells normal from abnormal by itself, no other one adds anything."""
    test = f_node_test([[0, 0, 1, 1], [0, 0, 1, 1]], [0, 0, 1, 1])
    assert test.log_p_values(np.array([0]), np.array([[1]]))[0] == 0


def test_p_values_too_small_for_a_float_still_compare() -> None:
    abnormal = np.arange(6000) >= 3000
    clear, clearest = abnormal.astype(int), abnormal.astype(int)
    clear[:10] = 1
    log_p = FNodeTest(np.stack([clear, clearest]), abnormal, bins=2).marginal
    assert log_p[1] < log_p[0] < -2000
    assert log_p[1] == pytest.approx(-3000 - 0.5 * np.log(3000) - np.log(np.pi) / 2)


def squared_error(values: np.ndarray, codes: np.ndarray) -> float:
    return sum(float(np.sum((values[codes == c] - values[codes == c].mean()) ** 2)) for c in np.unique(codes))


@settings(max_examples=60, deadline=None)
@given(arrays(float, st.integers(3, 9), elements=st.integers(-30, 30).map(float)), st.integers(1, 4))
def test_bins_are_the_best_k_means_clusters(values: np.ndarray, bins: int) -> None:
    codes = discretise(values[:, None], bins)[0]
    ordered = np.sort(values)
    splits = combinations(range(1, len(values)), min(bins, len(values)) - 1)
    best = min(sum(float(np.sum((p - p.mean()) ** 2)) for p in np.split(ordered, s)) for s in splits)
    assert squared_error(values, codes) == pytest.approx(best, abs=1e-9)
    assert 0 <= codes.min() <= codes.max() < bins
    assert (np.diff(codes[np.argsort(values)]) >= 0).all()
    assert all(len(set(codes[values == value])) == 1 for value in values)


def test_bins_of_many_rows() -> None:
    values = np.concatenate([rng().normal(centre, 0.1, 300) for centre in (0, 5, 11)])
    assert (discretise(values[:, None], 3)[0] == np.repeat([0, 1, 2], 300)).all()


def test_an_effect_is_cut_off_by_its_cause() -> None:
    cause = np.repeat([0, 0, 0, 1, 0, 1, 1, 1], 20)
    abnormal = np.repeat([False, True], 80)
    flipped = rng().random(160) < 0.1
    test = FNodeTest(np.stack([cause ^ flipped, cause]), abnormal, bins=2)
    assert test.marginal[0] < np.log(0.01)
    for order in ([0, 1], [1, 0]):
        found = attached_to_fault(test, np.array([order]), np.array([0.01]))
        assert found.attached[0].tolist() == [column == 1 for column in order]
        assert found.log_p_value[0, order.index(0)] > np.log(0.01)
        assert found.largest_set[0].tolist() == [1 - column for column in order]


def test_of_two_copies_one_stays() -> None:
    test = f_node_test([[0, 0, 0, 0, 1, 1, 1, 1]] * 2, [0, 0, 0, 0, 1, 1, 1, 1])
    found = attached_to_fault(test, np.array([[0, 1], [1, 0]]), np.array([0.05, 0.05]))
    assert found.attached.tolist() == [[False, True], [False, True]]


def test_padding_is_never_attached() -> None:
    test = f_node_test([[0, 0, 0, 0, 1, 1, 1, 1]], [0, 0, 0, 0, 1, 1, 1, 1])
    found = attached_to_fault(test, np.array([[0, -1, -1]]), np.array([0.91]))
    assert found.attached.tolist() == [[True, False, False]]


def test_a_group_stops_at_the_first_level_that_leaves_a_metric() -> None:
    """The reference went on unless exactly one was left, and so took in metrics that have nothing to do with it."""
    random = rng(2)
    abnormal = np.arange(400) >= 200
    clear = (random.random((2, 400)) < np.where(abnormal, 0.7, 0.3)).astype(int)
    noise = random.integers(0, 2, (3, 400))
    test = FNodeTest(np.concatenate([clear, noise]), abnormal, bins=2)
    groups = np.arange(5)[None]
    level = module._first_level_with_a_child(test, groups, 0.01)
    found = attached_to_fault(test, groups, level)
    assert level == pytest.approx([0.01])
    assert found.attached.tolist() == [[True, True, False, False, False]]


def test_the_level_rises_until_a_metric_is_left() -> None:
    test = f_node_test([[0, 0, 1, 1, 0, 1, 1, 1]], [0, 0, 0, 0, 1, 1, 1, 1])
    assert 0.41 < np.exp(test.marginal[0]) < 0.51
    assert module._first_level_with_a_child(test, np.array([[0, -1]]), 0.01) == pytest.approx([0.51])


def test_the_published_order_is_random_and_ours_explains_the_weaker_link_first() -> None:
    """Two metrics that explain each other: whoever is tested first goes, half of the time each, or the weaker one."""
    cause, effect = [0] * 30 + [1] * 30, [0] * 22 + [1] * 38
    test = f_node_test([cause, effect], [0] * 29 + [1] * 31)
    groups, level = np.array([[0, 1]]), np.array([1e-8])
    assert attached_to_fault(test, groups, level).attached.tolist() == [[True, False]]
    drawn = [attached_to_fault(test, groups, level, rng(seed)).attached[0].tolist() for seed in range(200)]
    assert 60 < drawn.count([True, False]) < 140
    assert drawn.count([True, False]) + drawn.count([False, True]) == 200
