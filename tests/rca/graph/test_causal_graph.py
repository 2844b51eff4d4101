from __future__ import annotations

import numpy as np
import pytest

from tasks.rca.graph.causal_graph import CausalGraph


def edges(n: int, *pairs: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros((n, n), dtype=bool)
    for i, j in pairs:
        matrix[i, j] = True
    return matrix


def test_a_walk_goes_from_effect_to_cause() -> None:
    graph = CausalGraph(edges(4, (0, 1)), edges(4, (1, 2), (2, 1)), edges(4, (2, 3)))
    expected = edges(4, (1, 0), (1, 2), (2, 1), (3, 2))
    assert (graph.causes() == expected).all()


def test_parents_are_certain_causes() -> None:
    graph = CausalGraph(edges(4, (3, 1), (0, 1)), edges(4), edges(4, (2, 1)))
    assert graph.parents(1).tolist() == [0, 3]
    assert graph.parents(0).tolist() == []
    assert len(graph) == 4


def test_feedback_is_two_directed_edges() -> None:
    graph = CausalGraph.of_directed(edges(2, (0, 1), (1, 0)))
    assert (graph.causes() == edges(2, (0, 1), (1, 0))).all()


def test_no_columns() -> None:
    assert CausalGraph.of_directed(np.zeros((0, 0), dtype=bool)).causes().shape == (0, 0)


@pytest.mark.parametrize(
    ("directed", "undirected", "possibly"),
    [
        (edges(2, (0, 0)), edges(2), edges(2)),
        (edges(2), edges(2, (0, 1)), edges(2)),
        (edges(2), edges(2), edges(2, (0, 1), (1, 0))),
        (edges(2, (0, 1)), edges(2, (0, 1), (1, 0)), edges(2)),
        (edges(2, (0, 1)), edges(2), edges(2, (1, 0))),
        (edges(2), edges(3), edges(2)),
        (edges(2).astype(float), edges(2), edges(2)),
    ],
)
def test_contradictory_edges_are_refused(directed: np.ndarray, undirected: np.ndarray, possibly: np.ndarray) -> None:
    with pytest.raises(ValueError, match="edge"):
        CausalGraph(directed, undirected, possibly)
