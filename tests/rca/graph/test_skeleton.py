from __future__ import annotations

import itertools

import numpy as np
import pytest

from tasks.rca.graph import skeleton as module
from tasks.rca.graph.partial_correlation import correlation_matrix
from tasks.rca.graph.skeleton import Independence, Skeleton, combinations, conditioned, learn_skeleton
from tasks.rca.method import MethodError
from tests.rca.graph.linear_models import correlations, dag, pairs, random_dag, samples


def learn(values: np.ndarray, **limits: int) -> Skeleton:
    return learn_skeleton(Independence(correlation_matrix(values), len(values), 0.05), **limits)


def test_combinations() -> None:
    for n, size in itertools.product(range(8), range(5)):
        assert [tuple(row) for row in combinations(n, size)] == list(itertools.combinations(range(n), size))


def test_conditioned_tests_every_other_given_the_rest_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = np.array([2, 3, 5, 7])
    expected = {(1, y, given) for y in (2, 7) for given in itertools.combinations([k for k in pool if k != y], 2)}
    for batch in (1, 4, 100):
        monkeypatch.setattr(module, "_BATCH", batch)
        pieces = list(conditioned(1, np.array([0, 3]), pool, 2))
        tests = [(int(x), int(y), tuple(given)) for i, j, s in pieces for x, y, given in zip(i, j, s, strict=True)]
        assert len(tests) == 6
        assert set(tests) == expected


def test_what_separates_a_pair_is_remembered() -> None:
    """0 -> 1 -> 3 <- 2 <- 0: only 1 and 2 together separate 0 from 3."""
    correlation = correlations(dag(4, [(0, 1), (0, 2), (1, 3), (2, 3)]))
    skeleton = learn_skeleton(Independence(correlation, 10**6, 0.05))
    assert pairs(np.triu(skeleton.adjacent)) == {(0, 1), (0, 2), (1, 3), (2, 3)}
    assert pairs(np.triu(skeleton.separated)) == {(0, 3), (1, 2)}
    assert np.flatnonzero(skeleton.separates[3, 0]).tolist() == [1, 2]
    assert np.flatnonzero(skeleton.separates[1, 2]).tolist() == [0]


def test_two_copies_do_not_cut_each_other_off() -> None:
    """Each copy determines the other; that is no evidence that the other has no effect."""
    rng = np.random.default_rng(0)
    cause = rng.standard_normal(200)
    effect = cause + rng.standard_normal(200)
    skeleton = learn(np.column_stack([cause, effect, cause * 5 - 1]))
    assert skeleton.adjacent.sum() == 6


def test_largest_conditioning_set() -> None:
    correlation = correlations(dag(4, [(0, 1), (0, 2), (1, 3), (2, 3)]))
    test = Independence(correlation, 10**6, 0.05)
    assert learn_skeleton(test, max_conditions=1).adjacent[0, 3]
    assert not learn_skeleton(test, max_conditions=2).adjacent[0, 3]


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_too_few_rows_separate_nothing(rows: int) -> None:
    values = np.random.default_rng(0).standard_normal((rows, 4)) + 10 * np.arange(rows)[:, None] ** 2
    assert learn(values).adjacent.sum() == 12


@pytest.mark.parametrize("columns", [0, 1, 2])
def test_few_columns(columns: int) -> None:
    assert learn(np.random.default_rng(5).standard_normal((30, columns))).adjacent.sum() == 0


def test_it_says_when_there_are_too_many_columns() -> None:
    with pytest.raises(MethodError, match="501 metrics; this method stops at 500"):
        learn_skeleton(Independence(np.eye(501), 100, 0.05))


def test_it_says_when_there_are_too_many_tests() -> None:
    values = samples(random_dag(12, 9, np.random.default_rng(0)), 2000, np.random.default_rng(1))
    with pytest.raises(MethodError, match=r"12 metrics .* tests .* up to 2 others; this method stops at 10"):
        learn(values, max_tests=10)
