"""Linear models with a known causal graph, for the tests of graph learners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from tasks.rca.graph.causal_graph import CausalGraph

Edges = list[tuple[int, int]]


def random_dag(n: int, degree: float, rng: np.random.Generator) -> np.ndarray:
    """(n, n) weights [cause, effect] of a random acyclic graph, columns in no particular order."""
    edges = np.triu(rng.random((n, n)) < degree / (n - 1), 1)
    weights = edges * rng.uniform(0.4, 0.9, (n, n)) * rng.choice([-1, 1], (n, n))
    order = rng.permutation(n)
    return weights[np.ix_(order, order)]


def dag(n: int, edges: Edges) -> np.ndarray:
    """(n, n) weights [cause, effect]; all different, so that no effects cancel."""
    weights = np.zeros((n, n))
    for k, (cause, effect) in enumerate(edges):
        weights[cause, effect] = 0.5 + 0.07 * k
    return weights


def correlations(weights: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
    """The correlation matrix that the model implies; ``noise``: (n, n) covariance of its noise, by default 1."""
    effect = np.linalg.inv(np.eye(len(weights)) - weights)
    covariance = effect.T @ (np.eye(len(weights)) if noise is None else noise) @ effect
    scale = np.sqrt(np.diag(covariance))
    return covariance / np.outer(scale, scale)


def samples_with(correlation: np.ndarray, rows: int = 2000) -> np.ndarray:
    """(rows, n) samples whose correlations are exactly ``correlation``."""
    draws = np.random.default_rng(0).standard_normal((rows, len(correlation)))
    draws -= draws.mean(axis=0)
    white = draws @ np.linalg.inv(np.linalg.cholesky(draws.T @ draws / rows)).T
    return white @ np.linalg.cholesky(correlation).T


def samples(weights: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """(rows, n) random samples of the model."""
    return rng.standard_normal((rows, len(weights))) @ np.linalg.inv(np.eye(len(weights)) - weights)


def telemetry(rng: np.random.Generator) -> np.ndarray:
    """Strongly correlated columns, with a copy, an exact sum and a constant."""
    load = rng.standard_normal((80, 2)) @ rng.standard_normal((2, 9))
    values = load + 0.4 * rng.standard_normal((80, 9))
    return np.column_stack([values, values[:, 0] * 7, values[:, 1:4].sum(axis=1), np.ones(80)])


def order_problem(learn: Callable[[np.ndarray], CausalGraph], seed: int) -> str:
    """How the order of the columns of some telemetry changes the graph that ``learn`` finds, beyond the order."""
    rng = np.random.default_rng(seed)
    values = telemetry(rng)
    order = rng.permutation(values.shape[1])
    graph, other = learn(values), learn(values[:, order])
    for sort in (field.name for field in fields(CausalGraph)):
        if (getattr(other, sort) != getattr(graph, sort)[np.ix_(order, order)]).any():
            return sort
    return ""


def ancestors(directed: np.ndarray) -> np.ndarray:
    """(n, n) bool: [i, j] if i is j or an ancestor of j."""
    reached = directed.astype(bool) | np.eye(len(directed), dtype=bool)
    for _ in range(len(directed)):
        reached = reached | (reached.astype(int) @ reached.astype(int) > 0)
    return reached


def pairs(matrix: np.ndarray) -> set[tuple[int, int]]:
    """The (i, j) at which a boolean matrix is True."""
    return {(int(i), int(j)) for i, j in np.argwhere(matrix)}
