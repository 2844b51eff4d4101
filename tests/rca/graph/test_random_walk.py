import itertools

import networkx as nx
import numpy as np
import pytest

from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.graph.random_walk import (
    cause_walk_weights,
    rank_by_walk,
    stationary_distribution,
    transition_matrix,
    visit_frequencies,
)


def graph_of(n: int, *edges: tuple[int, int]) -> CausalGraph:
    directed = np.zeros((n, n), dtype=bool)
    directed[tuple(np.transpose(edges))] = True
    return CausalGraph.of_directed(directed)


def random_transition(n: int, density: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = rng.random((n, n)) * (rng.random((n, n)) < density)
    np.fill_diagonal(weights, 0.1)
    return transition_matrix(weights)


def simulated_visits(transition: np.ndarray, walks: int, steps: int, seed: int) -> np.ndarray:
    """Share of visits over ``walks`` walks that start in any node alike."""
    rng = np.random.default_rng(seed)
    n = len(transition)
    thresholds = np.cumsum(transition, axis=1)
    position = rng.integers(0, n, walks)
    visits = np.zeros(n)
    for _ in range(steps):
        position = np.minimum((rng.random(walks)[:, None] > thresholds[position]).sum(axis=1), n - 1)
        visits += np.bincount(position, minlength=n)
    return visits / visits.sum()


@pytest.mark.parametrize("density", [0.05, 0.6])
def test_simulated_walks_converge_to_the_frequencies(density: float) -> None:
    transition = random_transition(12, density, seed=1)
    expected = visit_frequencies(transition, np.ones(12), steps=30)
    assert expected.sum() == pytest.approx(1)
    simulated = simulated_visits(transition, walks=40_000, steps=30, seed=2)
    np.testing.assert_allclose(simulated, expected, atol=0.003)


def test_a_long_walk_spends_its_time_by_the_eigenvector() -> None:
    transition = random_transition(9, 0.7, seed=3)
    values, vectors = np.linalg.eig(transition.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    frequencies = visit_frequencies(transition, np.eye(9)[0], steps=10**7)
    np.testing.assert_allclose(frequencies, stationary / stationary.sum(), atol=1e-6)


def test_visits_by_hand() -> None:
    """0 -> 1 -> 2 -> 2: of three steps from node 0, one is in node 1 and two are in node 2."""
    transition = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(visit_frequencies(transition, np.eye(3)[0], steps=3), [0, 1 / 3, 2 / 3])


def test_restarting_walk_is_personalised_pagerank() -> None:
    transition = random_transition(20, 0.1, seed=4)
    transition[[3, 7]] = 0.0
    restart = np.arange(1.0, 21.0)
    expected = nx.pagerank(
        nx.from_numpy_array(transition, create_using=nx.DiGraph),
        alpha=0.85,
        personalization=dict(enumerate(restart)),
        tol=1e-14,
        max_iter=1000,
    )
    found = stationary_distribution(transition, restart, restart_probability=0.15)
    np.testing.assert_allclose(found, [expected[i] for i in range(20)], atol=1e-10)


def test_weights_by_hand() -> None:
    """0 -> 1 -> 2 with relevances .9, .4, .6; rho .5."""
    causes = graph_of(3, (0, 1), (1, 2)).causes()
    weights = cause_walk_weights(causes, np.array([0.9, 0.4, 0.6]), rho=0.5)
    np.testing.assert_allclose(weights, [[0.9, 0.2, 0.0], [0.9, 0.0, 0.3], [0.0, 0.4, 0.6 - 0.4]])


def test_an_edge_without_direction_weighs_fully_both_ways() -> None:
    none = np.zeros((2, 2), dtype=bool)
    graph = CausalGraph(none, ~np.eye(2, dtype=bool), none)
    weights = cause_walk_weights(graph.causes(), np.array([0.9, 0.4]), rho=0.5)
    np.testing.assert_allclose(weights, [[0.5, 0.4], [0.9, 0.0]])


def noise(rows: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns that all follow the SLI alike, and the SLI."""
    rng = np.random.default_rng(seed)
    sli = rng.standard_normal(rows)
    values = sli[:, None] + rng.standard_normal((rows, columns))
    return (values - values.mean(0)) / values.std(0), (sli - sli.mean()) / sli.std()


def test_the_root_of_a_chain_is_visited_most() -> None:
    values, sli = noise(400, 6, seed=5)
    for chain in ([2, 0, 4, 1], [1, 4, 0, 2]):
        scores = rank_by_walk(graph_of(6, *itertools.pairwise(chain)), values, sli)
        assert np.argmax(scores) == chain[0]
        np.testing.assert_allclose(scores[[3, 5]], 1 / 6)


def test_the_graph_decides_not_the_position_of_the_column() -> None:
    """Avoided defect: node scores of zero made every row uniform, one fixed permutation whatever the graph was."""
    values, sli = noise(200, 5, seed=6)
    ranked = {
        tuple(np.argsort(-rank_by_walk(graph_of(5, *edges), values, sli)))
        for edges in ([(0, 1), (1, 2)], [(2, 1), (1, 0)], [(4, 3), (4, 2)], [(3, 4), (0, 4)])
    }
    assert len(ranked) == 4


def test_a_column_unrelated_to_the_sli_holds_no_walk() -> None:
    values, sli = noise(50, 3, seed=7)
    values[:, 1] = 0.0
    scores = rank_by_walk(graph_of(3, (1, 0), (2, 0)), values, sli)
    assert np.all(np.isfinite(scores))
    assert scores[1] < scores[2]


def test_a_part_of_a_big_graph_is_walked_like_a_small_graph() -> None:
    transition = random_transition(60, 0.01, seed=8)
    padded = np.eye(300)
    padded[:60, :60] = transition
    whole = visit_frequencies(padded, np.r_[np.ones(60), np.zeros(240)], steps=200)
    np.testing.assert_allclose(whole[:60], visit_frequencies(transition, np.ones(60), steps=200), atol=1e-12)
