import networkx as nx
import numpy as np
import pytest

from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.graph.pagerank import rank_by_pagerank


def directed(n: int, *edges: tuple[int, int]) -> np.ndarray:
    array = np.zeros((n, n), dtype=bool)
    for cause, effect in edges:
        array[cause, effect] = True
    return array


def test_two_columns_by_hand() -> None:
    """0 -> 1: the cause gets x0 = b + .85 x1, the effect x1 = b, where b is what every column gets."""
    scores = rank_by_pagerank(CausalGraph.of_directed(directed(2, (0, 1))))
    np.testing.assert_allclose(scores, [1.85 / 2.85, 1 / 2.85])


@pytest.mark.parametrize("seed", range(5))
def test_same_as_networkx(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = np.triu(rng.random((15, 15)) < 0.15, 1)
    kind = rng.integers(0, 3, (15, 15))
    undirected = edges & (kind == 1)
    graph = CausalGraph(edges & (kind == 0), undirected | undirected.T, edges & (kind == 2))
    expected = nx.pagerank(
        nx.from_numpy_array(graph.causes(), create_using=nx.DiGraph), alpha=0.7, tol=1e-14, max_iter=1000
    )
    np.testing.assert_allclose(rank_by_pagerank(graph, damping=0.7), [expected[i] for i in range(15)], atol=1e-10)


def test_isolated_columns_stay_in_their_place_and_come_last_together() -> None:
    """Avoided defect: one isolated node shifted the scores onto wrong names, and the last columns vanished."""
    scores = rank_by_pagerank(CausalGraph.of_directed(directed(5, (4, 1), (4, 3))))
    assert len(scores) == 5
    assert np.argmax(scores) == 4
    assert scores[0] == pytest.approx(scores[2])
    assert scores[0] == pytest.approx(scores.min())


def test_no_edge_no_preference() -> None:
    """Avoided defect: an empty graph raised, or came back in column order."""
    np.testing.assert_allclose(rank_by_pagerank(CausalGraph.of_directed(directed(4))), 0.25)


def test_an_edge_whose_cause_is_only_possible_goes_to_the_cause() -> None:
    """Avoided defect: 0 o-> 1 was walked from cause to effect."""
    none = directed(2)
    assert np.argmax(rank_by_pagerank(CausalGraph(none, none, directed(2, (0, 1))))) == 0
