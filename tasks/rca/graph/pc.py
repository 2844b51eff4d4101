"""PC: causal discovery when every common cause is among the columns.

Source: Spirtes, Glymour, Scheines, "Causation, Prediction, and Search", 2nd ed., MIT Press 2000, in the form that does
not depend on order: Colombo and Maathuis, "Order-Independent Constraint-Based Causal Structure Learning", JMLR 2014.
"""

from __future__ import annotations

import numpy as np

from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.graph.partial_correlation import correlation_matrix
from tasks.rca.graph.skeleton import Independence, Skeleton, learn_skeleton, require_few_columns


def learn_pc(values: np.ndarray, *, alpha: float = 0.05) -> CausalGraph:
    """Learn the graph of PC-stable with Fisher's z test of partial correlations.

    ``values``: (rows, columns) without NaN. ``alpha``: a pair is separated at p > alpha.

    Where tests contradict each other about a direction (two heads on an edge), the edge is undirected. The result does
    not depend on the order of columns. Complexity: exponential in the largest number of neighbours, O(columns^3) if
    few columns have many.

    Raises:
        MethodError: too many columns, or too many tests (:mod:`tasks.rca.graph.skeleton`).
    """
    require_few_columns(values.shape[1])
    skeleton = learn_skeleton(Independence(correlation_matrix(values), len(values), alpha))
    return orient(skeleton.adjacent, colliders(skeleton))


def colliders(skeleton: Skeleton) -> np.ndarray:
    """(n, n) bool: [i, j] if i *-> j <-* k for some k: i and k were separated, and never by a set with j in it."""
    heads = np.zeros_like(skeleton.adjacent)
    for middle in range(len(heads)):
        ends = np.flatnonzero(skeleton.adjacent[:, middle])
        pairs = np.ix_(ends, ends)
        heads[ends, middle] = (skeleton.separated[pairs] & ~skeleton.separates[:, :, middle][pairs]).any(axis=1)
    return heads


def orient(adjacent: np.ndarray, heads: np.ndarray) -> CausalGraph:
    """Apply Meek's rules 1 to 3. A round applies them all to the graph as it was before, so no order of edges decides.

    Edges with two heads, edges that one round points both ways, and edges that would close a cycle stay undirected.
    """
    apart = ~adjacent & ~np.eye(len(adjacent), dtype=bool)
    directed = heads & ~heads.T
    unknown = adjacent & ~heads & ~heads.T
    while True:
        away_from_collider = linked(directed.T, apart)
        away_from_cycle = linked(directed, directed)
        new = unknown & (away_from_collider | away_from_cycle | double_triangle(unknown, unknown, directed, apart))
        new &= ~_descendants(directed).T
        if not new.any():
            undirected = adjacent & ~directed & ~directed.T
            return CausalGraph(directed, undirected, np.zeros_like(adjacent))
        directed |= new & ~new.T
        unknown &= ~(new | new.T)


def double_triangle(candidates: np.ndarray, spokes: np.ndarray, heads: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """[i, j] of ``candidates`` for which two columns k that are apart have spokes[i, k] and heads[k, j]."""
    found = np.zeros_like(candidates)
    ways = spokes.astype(np.float32) @ heads.astype(np.float32)
    for i, j in np.argwhere(candidates & (ways > 1)):
        between = np.flatnonzero(spokes[i] & heads[:, j])
        found[i, j] = apart[np.ix_(between, between)].any()
    return found


def linked(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[i, j]: some k has first[i, k] and second[k, j]."""
    return first.astype(np.float32) @ second.astype(np.float32) > 0


def _descendants(directed: np.ndarray) -> np.ndarray:
    """(n, n) bool: [i, j] if a directed path leads from i to j."""
    reached = directed
    while True:
        further = reached | linked(reached, reached)
        if (further == reached).all():
            return reached
        reached = further
