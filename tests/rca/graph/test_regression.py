import numpy as np
import pytest

from tasks.rca.graph.causal_graph import DirectedEdges
from tasks.rca.graph.regression import adjusted, causes_first, residual_scores
from tasks.rca.method import Ranking
from tasks.rca.run.pair import order


def graph_of(n: int, *pairs: tuple[int, int]) -> DirectedEdges:
    return DirectedEdges(n, *np.array(pairs).T)


def test_residual_by_hand() -> None:
    """In the normal window effect = 2 cause + (1, -1, -1, 1), which no line explains; then effect 9 at cause 2."""
    cause = np.array([-1.0, 1.0, -1.0, 1.0, 2.0, 0.0])
    effect = np.array([-1.0, 1.0, -3.0, 3.0, 9.0, 0.0])
    abnormal = np.arange(6) >= 4
    scores = residual_scores(np.column_stack([cause, effect]), abnormal, graph_of(2, (0, 1)), lags=0)
    # effect: residuals 5 and 0 against 1 with 2 degrees of freedom; cause: 2 and 0 against 1 with 3
    np.testing.assert_allclose(scores, [2 / np.sqrt(4 / 3), 5 / np.sqrt(4 / 2)])


def test_adjustment_by_hand() -> None:
    chain = graph_of(4, (0, 1), (1, 2))
    np.testing.assert_allclose(adjusted(np.array([4.0, 1.0, 10.0, 9.0]), chain, 3.0), [14, 1, 10, 9])
    np.testing.assert_allclose(adjusted(np.array([4.0, 5.0, 10.0, 9.0]), chain, 3.0), [9, 15, 10, 9])
    np.testing.assert_allclose(adjusted(np.array([2.9, 5.0, 1.0, 9.0]), chain, 3.0), [2.9, 6, 1, 9])


def test_adjustment_ends_on_a_circle() -> None:
    circle = graph_of(3, (0, 1), (1, 2), (2, 0))
    np.testing.assert_allclose(adjusted(np.array([4.0, 1.0, 2.0]), circle, 3.0), [6, 1, 2])


def test_descendants_decide_between_equal_metrics() -> None:
    """Avoided defect: descendant adjustment was never applied."""
    scores = np.array([9.0, 9.0, 0.0])
    assert adjusted(scores, graph_of(3, (0, 1)), 3.0).argmax() == 0
    assert adjusted(scores, graph_of(3, (1, 0)), 3.0).argmax() == 1


def test_lags_explain_an_effect_that_comes_later() -> None:
    rng = np.random.default_rng(1)
    cause = rng.standard_normal(80)
    cause[60:] += 20
    effect = np.r_[0.0, cause[:-1]] + 0.1 * rng.standard_normal(80)
    values, abnormal = np.column_stack([cause, effect]), np.arange(80) >= 60
    graph = graph_of(2, (0, 1))
    assert residual_scores(values, abnormal, graph, lags=0)[1] > 15
    assert residual_scores(values, abnormal, graph, lags=1)[1] < 8


def test_an_exact_sum_of_its_causes_is_explained() -> None:
    rng = np.random.default_rng(2)
    causes = rng.standard_normal((75, 3))
    causes[60:, 0] += 1e6
    values = np.column_stack([causes, causes.sum(axis=1), causes[:, 0]])
    graph = graph_of(5, (0, 3), (1, 3), (2, 3), (4, 3))
    assert residual_scores(values, np.arange(75) >= 60, graph, lags=0)[3] == 0.0


def test_many_causes_do_not_make_a_metric_suspicious() -> None:
    """With as many causes as rows every normal residual is 0, and any later one would be infinitely far."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((75, 80))
    graph = graph_of(80, *((cause, 79) for cause in range(79)))
    scores = residual_scores(values, np.arange(75) >= 60, graph, lags=0)
    assert np.all(np.isfinite(scores))
    assert scores[79] < 12


def test_equal_scores_rank_by_topological_order() -> None:
    """c causes b, b causes a, d stands alone: at the same score c and d, then b, then a. Unequal ones stay."""
    graph = graph_of(4, (2, 1), (1, 0))
    scores = causes_first(np.full(4, 5.0), graph)
    assert scores[2] == scores[3] == 5 > scores[1] > scores[0]
    assert scores == pytest.approx([5] * 4, rel=1e-6)
    tied = order(Ranking.of_services(dict(zip("abc", scores, strict=False))), ("a", "b", "c"), np.random.default_rng(0))
    assert [(suspect.service, suspect.tied) for suspect in tied] == [("c", False), ("b", False), ("a", False)]
    assert causes_first(np.array([5.001, 5, 4.999, 0]), graph).argsort().tolist() == [3, 2, 1, 0]


def test_a_circle_of_causes_shares_the_last_place() -> None:
    scores = causes_first(np.ones(3), graph_of(3, (0, 1), (1, 2), (2, 1)))
    assert scores[0] > scores[1] == scores[2]
