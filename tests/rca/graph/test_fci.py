from __future__ import annotations

import itertools

import numpy as np
import pytest

from tasks.rca.graph.fci import Marks, learn_fci, take_apart_given_possible_d_sep
from tasks.rca.graph.skeleton import Independence, learn_skeleton
from tests.rca.graph.linear_models import (
    Edges,
    ancestors,
    correlations,
    dag,
    order_problem,
    pairs,
    random_dag,
    samples,
    samples_with,
)

CIRCLE, HEAD, TAIL, NONE = 2, 1, -1, 0
CERTAIN = 10**13
"""Rows that make every dependence significant."""


def learn_marks(correlation: np.ndarray, rows: int = CERTAIN) -> np.ndarray:
    """(n, n): the mark at i of the edge between i and j."""
    test = Independence(correlation, rows, 0.05)
    skeleton = learn_skeleton(test)
    take_apart_given_possible_d_sep(skeleton, test)
    marks = Marks(skeleton)
    marks.orient()
    return np.select([marks.heads.T, marks.tails.T, marks.adjacent], [HEAD, TAIL, CIRCLE], NONE)


def edges_of(marks: np.ndarray) -> set[str]:
    left, right = {CIRCLE: "o", HEAD: "<", TAIL: "-"}, {CIRCLE: "o", HEAD: ">", TAIL: "-"}
    edges = np.argwhere(np.triu(marks != NONE)).tolist()
    return {f"{i} {left[int(marks[i, j])]}-{right[int(marks[j, i])]} {j}" for i, j in edges}


@pytest.mark.parametrize(
    ("n", "edges", "hidden", "expected"),
    [
        pytest.param(3, [(0, 1), (1, 2)], [], {"0 o-o 1", "1 o-o 2"}, id="chain"),
        pytest.param(3, [(1, 0), (1, 2)], [], {"0 o-o 1", "1 o-o 2"}, id="fork"),
        pytest.param(3, [(0, 1), (2, 1)], [], {"0 o-> 1", "1 <-o 2"}, id="collider"),
        pytest.param(4, [(0, 1), (2, 1), (1, 3)], [], {"0 o-> 1", "1 <-o 2", "1 --> 3"}, id="Y"),
        pytest.param(3, [(2, 0), (2, 1)], [2], {"0 o-o 1"}, id="hidden cause of two"),
        pytest.param(
            5,
            [(0, 1), (3, 2), (4, 1), (4, 2)],
            [4],
            {"0 o-> 1", "1 <-> 2", "2 <-o 3"},
            id="hidden cause, seen by others",
        ),
        pytest.param(5, [(3, 0), (3, 1), (4, 1), (4, 2)], [3, 4], {"0 o-> 1", "1 <-o 2"}, id="M with hidden ends"),
        pytest.param(
            6,
            [(0, 1), (5, 1), (5, 2), (1, 3), (2, 3), (4, 1)],
            [5],
            {"0 o-> 1", "1 <-o 4", "1 <-o 2", "1 --> 3", "2 --> 3"},
            id="discriminating path to a cause",
        ),
        pytest.param(
            7,
            [(0, 1), (5, 1), (5, 2), (1, 3), (6, 2), (6, 3), (4, 1)],
            [5, 6],
            {"0 o-> 1", "1 <-o 4", "1 <-> 2", "1 --> 3", "2 <-> 3"},
            id="discriminating path to a collider",
        ),
    ],
)
def test_textbook_graphs(n: int, edges: Edges, hidden: list[int], expected: set[str]) -> None:
    seen = [k for k in range(n) if k not in hidden]
    assert edges_of(learn_marks(correlations(dag(n, edges))[np.ix_(seen, seen)])) == expected


def test_marks_become_a_graph_walked_from_effect_to_cause() -> None:
    """o-> is walked from its head to its circle, never along the arrow."""
    graph = learn_fci(samples_with(correlations(dag(4, [(0, 1), (2, 1), (1, 3)]))))
    assert pairs(graph.possibly_directed) == {(0, 1), (2, 1)}
    assert pairs(graph.directed) == {(1, 3)}
    assert not graph.undirected.any()
    assert pairs(graph.causes()) == {(1, 0), (1, 2), (3, 1)}


def test_hidden_causes_are_undirected() -> None:
    edges = [(0, 1), (3, 2), (4, 1), (4, 2)]
    graph = learn_fci(samples_with(correlations(dag(5, edges))[:4, :4]))
    assert pairs(graph.undirected) == {(1, 2), (2, 1)}
    assert pairs(graph.possibly_directed) == {(0, 1), (3, 2)}


def mixed_graphs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every graph of n columns with at most one edge (->, <-, <->) a pair, without a cycle or a <-> to an ancestor:
    (graphs, n, n) bool [cause, effect], and <->.
    """
    places = np.transpose(np.triu_indices(n, 1))
    choices = np.array(list(itertools.product(range(4), repeat=len(places))))
    directed, both = np.zeros((2, len(choices), n, n), dtype=bool)
    for (i, j), choice in zip(places, choices.T, strict=True):
        directed[:, i, j], directed[:, j, i] = choice == 1, choice == 2
        both[:, i, j] = both[:, j, i] = choice == 3
    reached = directed
    for _ in range(n):
        reached = reached | (reached.astype(int) @ reached.astype(int) > 0)
    proper = ~(reached.diagonal(axis1=1, axis2=2).any(axis=1) | (both & reached).any(axis=(1, 2)))
    return directed[proper], both[proper]


def separations(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(graphs, tests) bool: whether a pair is independent given a set, for all of them; (tests, 2): the pairs."""
    n = covariance.shape[-1]
    found, tested = [], []
    for i, j in itertools.combinations(range(n), 2):
        rest = [k for k in range(n) if k not in (i, j)]
        for given in itertools.chain.from_iterable(itertools.combinations(rest, size) for size in range(n - 1)):
            columns = [i, j, *given]
            inverse = np.linalg.inv(covariance[:, columns][:, :, columns])
            found.append(np.abs(inverse[:, 0, 1]) < 1e-9 * np.sqrt(inverse[:, 0, 0] * inverse[:, 1, 1]))
            tested.append((i, j))
    return np.array(found).T, np.array(tested)


@pytest.mark.parametrize(("n", "classes"), [(3, 11), (4, 248)])
def test_it_finds_all_there_is_to_find(n: int, classes: int) -> None:
    """Every graph of 3 and of 4 columns: exactly the marks that all graphs with the same independences share."""
    rng = np.random.default_rng(0)
    directed, both = mixed_graphs(n)
    shape = directed.shape
    weights = directed * rng.uniform(0.3, 0.9, shape) * rng.choice([-1, 1], shape)
    shared = np.triu(both * rng.uniform(0.1, 0.24, shape) * rng.choice([-1, 1], shape))
    effect = np.linalg.inv(np.eye(n) - weights)
    covariance = effect.swapaxes(1, 2) @ (np.eye(n) + shared + shared.swapaxes(1, 2)) @ effect
    independent, tested = separations(covariance)

    adjacent = directed | directed.swapaxes(1, 2) | both
    separable = np.zeros(shape, dtype=bool)
    for test, (i, j) in enumerate(tested):
        separable[:, i, j] |= independent[:, test]
    upper = np.triu(np.ones((n, n), dtype=bool), 1)
    maximal = (separable == (~adjacent & upper)).all(axis=(1, 2))
    marks = np.select([directed, directed.swapaxes(1, 2) | both], [TAIL, HEAD], NONE)[maximal]
    known, member = np.unique(independent[maximal], axis=0, return_inverse=True)
    assert len(known) == classes
    for number in range(len(known)):
        alike = np.flatnonzero(member == number)
        truth = np.where((marks[alike] == marks[alike[0]]).all(axis=0), marks[alike[0]], CIRCLE)
        covariance_of_one = covariance[maximal][alike[0]]
        scale = np.sqrt(np.diag(covariance_of_one))
        assert edges_of(learn_marks(covariance_of_one / np.outer(scale, scale))) == edges_of(truth)


def test_nothing_it_says_about_larger_graphs_is_wrong() -> None:
    """Hidden causes among up to 12 columns: pairs adjacent iff no set separates them; heads and tails are true."""
    for seed in range(25):
        rng = np.random.default_rng(seed)
        weights = random_dag(int(rng.integers(6, 13)), rng.uniform(1.5, 3.5), rng)
        seen = np.sort(rng.permutation(len(weights))[int(rng.integers(1, 4)) :])
        everything = correlations(weights)
        is_ancestor = ancestors(weights != 0)
        inseparable = np.zeros((len(seen), len(seen)), dtype=bool)
        for a, b in itertools.combinations(range(len(seen)), 2):
            i, j = seen[a], seen[b]
            given = [k for k in seen if k not in (i, j) and (is_ancestor[k, i] or is_ancestor[k, j])]
            inverse = np.linalg.inv(everything[np.ix_([i, j, *given], [i, j, *given])])
            inseparable[a, b] = inseparable[b, a] = abs(inverse[0, 1]) > 1e-7
        marks = learn_marks(everything[np.ix_(seen, seen)])
        causes = is_ancestor[np.ix_(seen, seen)]
        assert ((marks != NONE) == inseparable).all()
        assert not (causes & (marks == HEAD)).any()
        assert not (~causes & (marks == TAIL)).any()


def test_a_set_beyond_neighbours() -> None:
    """0 and 1 are separated by 4, 5 and 6, and by no neighbours of 0 (2, 6) or of 1 (3, 5)."""
    edges = [(7, 0), (7, 2), (4, 2), (4, 3), (8, 3), (8, 1), (2, 5), (5, 1), (3, 6), (6, 0)]
    test = Independence(correlations(dag(9, edges))[:7, :7], CERTAIN, 0.05)
    skeleton = learn_skeleton(test)
    assert skeleton.adjacent[0, 1]
    take_apart_given_possible_d_sep(skeleton, test)
    assert not skeleton.adjacent[0, 1]
    assert set(np.flatnonzero(skeleton.separates[0, 1])) >= {4, 5, 6}


def test_the_search_beyond_neighbours_has_a_limit() -> None:
    rng = np.random.default_rng(0)
    values = samples(random_dag(12, 5, rng), 500, rng)
    test = Independence(np.corrcoef(values.T), 500, 0.05)
    limited, whole = learn_skeleton(test), learn_skeleton(test)
    before = limited.adjacent.sum()
    take_apart_given_possible_d_sep(limited, test, max_tests=10)
    take_apart_given_possible_d_sep(whole, test)
    assert limited.adjacent.sum() == before > whole.adjacent.sum()


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_columns_says_nothing(seed: int) -> None:
    assert order_problem(learn_fci, seed) == ""


def test_it_finds_what_causal_learn_finds() -> None:
    """On samples, in most cases: where a test is wrong, causal-learn's result depends on the order of columns."""
    pytest.importorskip("causallearn")
    from causallearn.search.ConstraintBased.FCI import fci

    same = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        weights = random_dag(int(rng.integers(5, 9)), rng.uniform(1.5, 3), rng)
        values = samples(weights, 500, rng)[:, 1:]
        theirs = fci(values, "fisherz", 0.05, show_progress=False)[0].graph
        same += edges_of(learn_marks(np.corrcoef(values.T), rows=500)) == edges_of(theirs)
    assert same >= 9


def test_two_columns_and_few_rows() -> None:
    values = np.random.default_rng(0).standard_normal((4, 2))
    assert len(learn_fci(values)) == 2
    assert len(learn_fci(values[:, :1])) == 1
