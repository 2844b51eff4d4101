from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from tasks.score import comparison
from tasks.score.comparison import (
    average_ranks,
    cliques,
    friedman_p_value,
    holm,
    mcnemar_p_values,
    sign_flip_p_values,
)


def p_of(*differences: float) -> float:
    return float(sign_flip_p_values(np.array(differences)[:, None], seed=0, label="x")[0])


def test_known_p_values() -> None:
    """All of n signs agree: 2 of the 2^n sign patterns are as extreme. A tie changes nothing."""
    assert p_of(1, 1, 1, 1, 1) == 2 / 32
    assert p_of(1, 1, 1, 1, 1, 0, 0) == 2 / 32
    assert p_of(-1, -1, -1, -1) == 2 / 16
    assert p_of(0, 0, 0) == 1
    assert p_of(1, -1) == 1
    assert p_of(0.3) == 1
    assert p_of(3, 1, 1) == 2 / 8
    assert p_of(3, 1, -1) == 6 / 8


def test_equals_the_enumeration_of_all_signs() -> None:
    rng = np.random.default_rng(0)
    differences = rng.choice([-0.8, -0.2, 0, 0, 0.4, 1], size=(9, 30))
    signs = np.array(list(product((1, -1), repeat=9)))
    observed = np.abs(differences.sum(axis=0))
    expected = np.mean(np.abs(signs @ differences) >= observed - 1e-12, axis=0)
    np.testing.assert_array_equal(sign_flip_p_values(differences, seed=0, label="x"), expected)


def test_equals_the_sign_test_where_all_differences_are_one() -> None:
    for wins, losses in ((30, 10), (25, 25), (31, 9)):
        found = p_of(*[1.0] * wins, *[-1.0] * losses)
        assert found == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, abs=0.006)


def test_draws_estimate_the_exact_p_value(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(1).normal(0.3, 1, size=(14, 40))
    exact = sign_flip_p_values(differences, seed=0, label="x")
    monkeypatch.setattr(comparison, "_EXACT_CASES", 5)
    drawn = sign_flip_p_values(differences, seed=0, label="x")
    np.testing.assert_allclose(drawn, exact, atol=0.01)
    np.testing.assert_array_equal(drawn, sign_flip_p_values(differences, seed=0, label="x"))
    assert (drawn != sign_flip_p_values(differences, seed=1, label="x")).any()
    monkeypatch.setattr(comparison, "_CHUNK", 1000)
    np.testing.assert_array_equal(sign_flip_p_values(differences, seed=0, label="x"), drawn)


def test_false_alarms_are_as_rare_as_they_should_be() -> None:
    """Under the null hypothesis a p value is below 5 % in about 5 % of the trials; Holm keeps all of 20 below it."""
    differences = np.random.default_rng(2).normal(size=(12, 4000))
    p = sign_flip_p_values(differences, seed=0, label="x")
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.01)
    families = [holm(family).min() <= 0.05 for family in p.reshape(200, 20)]
    assert np.mean(families) < 0.1


def test_many_pairs_are_quick() -> None:
    """276 pairs of 24 methods, three scores, 52 cases."""
    differences = np.random.default_rng(0).choice([-1.0, 0, 1], size=(52, 828))
    assert (sign_flip_p_values(differences, seed=0, label="x") > 0).all()


def test_holm_by_hand() -> None:
    """Sorted .005 .01 .03 .04 times 4 3 2 1, never falling."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.9])), [1, 1])
    assert holm(np.zeros(0)).size == 0


def test_average_ranks_share_the_places_of_ties() -> None:
    values = np.array([[0.9, 0.5, 0.5, 0.1], [1.0, 1.0, 1.0, 0.0]])
    np.testing.assert_allclose(average_ranks(values), [1.5, 2.25, 2.25, 4])
    np.testing.assert_allclose(average_ranks(np.array([[0.3, 0.1 + 0.2]])), [1.5, 1.5])


def test_friedman_in_the_form_of_iman_and_davenport() -> None:
    """Ten cases, four methods, no ties: the textbook formula over the average ranks."""
    values = np.random.default_rng(3).random((10, 4)) + np.array([0.4, 0.2, 0, 0])
    ranks = average_ranks(values)
    chi_square = 12 * 10 / (4 * 5) * (np.sum(ranks**2) - 4 * 5**2 / 4)
    f = 9 * chi_square / (10 * 3 - chi_square)
    assert friedman_p_value(values) == pytest.approx(stats.f.sf(f, 3, 27))


def test_friedman_says_nothing_about_too_little() -> None:
    assert np.isnan(friedman_p_value(np.ones((5, 4))))
    assert np.isnan(friedman_p_value(np.random.default_rng(0).random((5, 2))))
    assert np.isnan(friedman_p_value(np.random.default_rng(0).random((1, 4))))
    assert friedman_p_value(np.tile([3.0, 2.0, 1.0], (6, 1))) == 0


def test_cliques_are_the_longest_runs_without_a_difference() -> None:
    """In rank order 0 1 2 3 4, with differences between 0 and 2, 0 and 3, 0 and 4, 1 and 4."""
    significant = np.zeros((5, 5), dtype=bool)
    for a, b in ((0, 2), (0, 3), (0, 4), (1, 4)):
        significant[a, b] = significant[b, a] = True
    ranks = np.array([1.0, 2, 3, 4, 5])
    assert cliques(ranks, significant) == [[0, 1], [1, 2, 3], [2, 3, 4]]
    shuffled = np.array([3, 0, 4, 1, 2])
    found = cliques(ranks[shuffled], significant[np.ix_(shuffled, shuffled)])
    assert [[int(shuffled[i]) for i in group] for group in found] == [[0, 1], [1, 2, 3], [2, 3, 4]]
    assert cliques(ranks, np.zeros((5, 5), dtype=bool)) == [[0, 1, 2, 3, 4]]
    assert cliques(ranks, ~np.eye(5, dtype=bool)) == []


def test_known_mcnemar_p_values() -> None:
    """5 against 0: 2 of 32 outcomes of five coins. 8 against 2: 2 * (1 + 10 + 45) of 1024. A draw: 1."""
    columns = [[1.0] * 5 + [0.0] * 7, [1.0] * 8 + [-1.0] * 2 + [0.0] * 2, [1, -1] + [0] * 10, [0.0] * 12]
    np.testing.assert_allclose(mcnemar_p_values(np.array(columns).T), [2 / 32, 112 / 1024, 1, 1])


def test_mcnemar_agrees_with_statsmodels_and_with_the_signs_of_few_cases() -> None:
    rng = np.random.default_rng(0)
    differences = rng.choice([-1.0, 0.0, 1.0], size=(14, 20))
    for column, p in zip(differences.T, mcnemar_p_values(differences), strict=True):
        table = [[0, np.sum(column > 0)], [np.sum(column < 0), 0]]
        assert p == pytest.approx(mcnemar(table, exact=True).pvalue)
    np.testing.assert_allclose(mcnemar_p_values(differences), sign_flip_p_values(differences, seed=0, label="x"))
