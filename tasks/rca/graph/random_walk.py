"""Random walks over a graph, computed without sampling: time per node, and the walk that ranks causes.

How often a walk visits each node is a property of its transition matrix. Simulating many walks estimates it; the
functions here compute it, so the result is exact, fast and deterministic.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from tasks.rca.graph.causal_graph import CausalGraph

_SPARSE_FROM = 200
_SPARSE_BELOW = 0.1
_CONVERGED = 1e-15


def transition_matrix(weights: np.ndarray) -> np.ndarray:
    """Rows of the non-negative (n, n) ``weights`` [from, to] as probabilities. A row without weight stays all zero."""
    totals = weights.sum(axis=1, keepdims=True)
    return np.divide(weights, totals, out=np.zeros_like(weights, dtype=float), where=totals > 0)


def stationary_distribution(transition: np.ndarray, restart: np.ndarray, *, restart_probability: float) -> np.ndarray:
    """Share of time in each node of a walk that starts afresh with ``restart_probability`` at every step.

    ``transition``: (n, n), rows sum to 1, or to 0 for a dead end: from there the walk starts afresh. ``restart``: (n,)
    weights (not all zero) of the nodes in which it starts. One linear system; nothing is iterated, so there is no
    tolerance. O(n^3).

    Source: Page et al., "The PageRank Citation Ranking: Bringing Order to the Web", Stanford InfoLab, 1999.
    """
    n = len(transition)
    visits = np.linalg.solve(np.eye(n) - (1 - restart_probability) * transition.T, restart / restart.sum())
    visits = np.maximum(visits, 0.0)
    return visits / visits.sum()


def visit_frequencies(transition: np.ndarray, start: np.ndarray, *, steps: int) -> np.ndarray:
    """Expected share of its ``steps`` steps that a walk spends in each node (the start is not counted).

    ``transition``: (n, n), rows sum to 1. ``start``: (n,) weights (not all zero) of the nodes in which it starts. This
    is the limit of the visit counts of simulated walks as their number grows. It depends on ``start`` only as far as
    the graph falls apart or ``steps`` is small. O(steps x edges) at most.
    """
    few_edges = np.count_nonzero(transition) < _SPARSE_BELOW * transition.size
    big_and_sparse = len(transition) >= _SPARSE_FROM and few_edges
    forward = sparse.csr_array(transition.T) if big_and_sparse else np.ascontiguousarray(transition.T)
    position = start / start.sum()
    visits = np.zeros_like(position)
    for step in range(steps):
        moved = forward @ position
        if np.max(np.abs(moved - position)) <= _CONVERGED:
            visits += (steps - step) * moved
            break
        visits += moved
        position = moved
    return visits / steps


def cause_walk_weights(causes: np.ndarray, relevance: np.ndarray, *, rho: float) -> np.ndarray:
    """Weights [from, to] of the steps of a walk that looks for the cause of an anomaly.

    ``causes``: (n, n) bool [effect, cause]. ``relevance``: (n,) non-negative, how closely each node follows the
    anomaly. A step to a cause weighs the cause's relevance; a step back to an effect weighs ``rho`` times the effect's
    relevance; staying weighs by how much the node's relevance exceeds that of its most relevant cause, so that the
    walk settles on nodes that no cause explains. A node without edges keeps the walk.

    Source: Wang et al., "CloudRanger: Root Cause Identification for Cloud Native Systems", CCGRID 2018 (first-order
    part), after Kim, Sumbaly, Shah, "Root Cause Detection in a Service-Oriented Architecture", SIGMETRICS 2013.
    """
    backward = causes.T & ~causes
    weights = np.where(causes, relevance, 0.0) + np.where(backward, rho * relevance, 0.0)
    best_cause = np.max(np.where(causes, relevance, 0.0), axis=1, initial=0.0)
    stay = np.maximum(relevance - best_cause, 0.0)
    stay[weights.sum(axis=1) + stay <= 0] = 1.0
    np.fill_diagonal(weights, stay)
    return weights


def rank_by_walk(
    graph: CausalGraph, values: np.ndarray, sli: np.ndarray, *, rho: float = 0.5, steps: int = 1000
) -> np.ndarray:
    """(n,) expected visit frequency per column of a walk from effects to causes that starts anywhere alike.

    ``values``: (rows, n) and ``sli``: (rows,), standardised. A column's relevance is its absolute correlation with the
    SLI. A column without edges keeps the walks that start in it and so scores 1 / n.
    """
    relevance = np.abs(values.T @ sli) / len(sli)
    weights = cause_walk_weights(graph.causes(), relevance, rho=rho)
    return visit_frequencies(transition_matrix(weights), np.ones(len(graph)), steps=steps)
