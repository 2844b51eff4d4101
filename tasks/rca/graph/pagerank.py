"""PageRank of the columns of a causal graph, for a surfer who goes from effects to causes."""

from __future__ import annotations

import numpy as np

from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.graph.random_walk import stationary_distribution, transition_matrix


def rank_by_pagerank(graph: CausalGraph, *, damping: float = 0.85) -> np.ndarray:
    """(n,) share of time in each column; the shares sum to 1.

    From a column the surfer goes to each of its causes alike; with probability 1 - ``damping``, and wherever no cause
    is known, to any column alike. Every column is a node, isolated ones too: those all have the same, lowest score.
    Exact up to rounding (one linear system, O(n^3)).

    Source: Page et al., "The PageRank Citation Ranking: Bringing Order to the Web", Stanford InfoLab, 1999.
    """
    transition = transition_matrix(graph.causes().astype(float))
    return stationary_distribution(transition, np.ones(len(graph)), restart_probability=1 - damping)
