from __future__ import annotations

import numpy as np
import pytest

from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.graph.pc import learn_pc, orient
from tests.rca.graph.linear_models import (
    Edges,
    correlations,
    dag,
    order_problem,
    pairs,
    random_dag,
    samples,
    samples_with,
)


def learn(n: int, edges: Edges) -> CausalGraph:
    return learn_pc(samples_with(correlations(dag(n, edges))))


@pytest.mark.parametrize(
    ("edges", "directed", "undirected"),
    [
        pytest.param([(0, 1), (1, 2)], [], [(0, 1), (1, 2)], id="chain"),
        pytest.param([(1, 0), (1, 2)], [], [(0, 1), (1, 2)], id="fork"),
        pytest.param([(0, 1), (2, 1)], [(0, 1), (2, 1)], [], id="collider"),
        pytest.param([(0, 1), (2, 1), (1, 3)], [(0, 1), (2, 1), (1, 3)], [], id="Y: away from the collider"),
        pytest.param([(0, 1), (0, 2), (1, 2)], [], [(0, 1), (0, 2), (1, 2)], id="triangle"),
        pytest.param(
            [(0, 1), (2, 1), (3, 0), (3, 2), (3, 1)],
            [(0, 1), (2, 1), (3, 1)],
            [(0, 3), (2, 3)],
            id="double triangle",
        ),
        pytest.param(
            [(0, 1), (0, 2), (3, 2), (3, 4)],
            [(0, 2), (3, 2)],
            [(0, 1), (3, 4)],
            id="M: 1 and 4 depend only given 2",
        ),
    ],
)
def test_textbook_graphs(edges: Edges, directed: Edges, undirected: Edges) -> None:
    graph = learn(1 + max(max(edge) for edge in edges), edges)
    assert pairs(graph.directed) == set(directed)
    assert pairs(np.triu(graph.undirected)) == set(undirected)
    assert not graph.possibly_directed.any()


def test_colliders_that_contradict_each_other_leave_the_edge_undirected() -> None:
    """0 -> 1 <-> 2 <- 3, with a hidden common cause of 1 and 2: no graph without it fits."""
    noise = np.eye(4)
    noise[1, 2] = noise[2, 1] = 0.5
    graph = learn_pc(samples_with(correlations(dag(4, [(0, 1), (3, 2)]), noise)))
    assert pairs(graph.directed) == {(0, 1), (3, 2)}
    assert pairs(np.triu(graph.undirected)) == {(1, 2)}


def square(*pairs_of: tuple[int, int], n: int = 4, both: bool = False) -> np.ndarray:
    matrix = np.zeros((n, n), dtype=bool)
    for i, j in pairs_of:
        matrix[i, j] = True
    return matrix | matrix.T if both else matrix


def test_no_rule_closes_a_cycle() -> None:
    """By rule 1, 0 -> 1 - 2 would be 1 -> 2, but 2 -> 3 -> 1 is known."""
    adjacent = square((0, 1), (1, 2), (2, 3), (3, 1), both=True)
    graph = orient(adjacent, square((0, 1), (2, 3), (3, 1)))
    assert pairs(graph.directed) == {(0, 1), (2, 3), (3, 1), (2, 1)}


def test_alpha() -> None:
    values = samples(dag(3, []), 50, np.random.default_rng(0))
    assert learn_pc(values, alpha=1e-6).causes().sum() == 0
    assert learn_pc(values, alpha=0.999).causes().sum() > 0


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_columns_says_nothing(seed: int) -> None:
    assert order_problem(learn_pc, seed) == ""


def test_it_finds_what_causal_learn_finds() -> None:
    """Same skeletons always. Directions where tests do not contradict each other: causal-learn then lets the order of
    its rules decide which edges they direct.
    """
    pytest.importorskip("causallearn")
    from causallearn.search.ConstraintBased.PC import pc

    compared = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        values = samples(random_dag(int(rng.integers(5, 9)), rng.uniform(1.5, 3.5), rng), 200, rng)
        mine = learn_pc(values)
        marks = pc(values, 0.05, "fisherz", True, 0, 1, show_progress=False).G.graph
        assert ((marks != 0) == (mine.causes() | mine.causes().T)).all()
        if not ((marks == 1) & (marks.T == 1)).any():
            compared += 1
            assert (mine.directed == ((marks == -1) & (marks.T == 1))).all()
    assert compared >= 5


def test_it_finds_the_class_of_the_true_graph() -> None:
    pytest.importorskip("causallearn")
    from causallearn.graph.Dag import Dag
    from causallearn.graph.GraphNode import GraphNode
    from causallearn.utils.DAG2CPDAG import dag2cpdag

    from tasks.rca.graph.pc import colliders
    from tasks.rca.graph.skeleton import Independence, learn_skeleton

    for seed in range(25):
        rng = np.random.default_rng(seed)
        weights = random_dag(int(rng.integers(5, 13)), rng.uniform(1.5, 4), rng)
        nodes = [GraphNode(str(k)) for k in range(len(weights))]
        truth = Dag(nodes)
        for i, j in np.argwhere(weights):
            truth.add_directed_edge(nodes[i], nodes[j])
        marks = dag2cpdag(truth).graph
        skeleton = learn_skeleton(Independence(correlations(weights), 10**13, 0.05))
        graph = orient(skeleton.adjacent, colliders(skeleton))
        assert (graph.directed == ((marks == -1) & (marks.T == 1))).all()
        assert (graph.undirected == ((marks == -1) & (marks.T == -1))).all()
