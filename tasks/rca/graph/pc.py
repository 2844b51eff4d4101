"""PC: the causal graph if no common cause was left out."""

from __future__ import annotations

import numpy as np

from tasks.rca.graph.causal_graph import CausalGraph
from tasks.rca.graph.partial_correlation import correlation_matrix
from tasks.rca.graph.skeleton import Budget, Independence, Skeleton, learn_skeleton

MAX_TESTS = 50_000_000


def learn_pc(
    values: np.ndarray,
    *,
    alpha: float = 0.05,
    max_conditions: int | None = None,
    forbidden: np.ndarray | None = None,
    max_tests: int = MAX_TESTS,
) -> CausalGraph:
    n = values.shape[1]
    forbidden = np.zeros((n, n), dtype=bool) if forbidden is None else forbidden
    test = Independence(correlation_matrix(values), len(values), alpha)
    skeleton = learn_skeleton(test, Budget(max_tests), never=forbidden & forbidden.T, max_conditions=max_conditions)
    heads = skeleton.adjacent & forbidden.T
    heads |= colliders(skeleton, refused=forbidden)
    return orient(skeleton.adjacent, heads, forbidden)


def colliders(skeleton: Skeleton, refused: np.ndarray | None = None) -> np.ndarray:
    """(n, n) bool: [i, j] if i *-> j in some i *-> j <-* k where i and k were separated, but never by a set with j.

    An arrow in ``refused`` (n, n) keeps its whole collider from being drawn.
    """
    heads = np.zeros_like(skeleton.adjacent)
    allowed = skeleton.adjacent if refused is None else skeleton.adjacent & ~refused
    apart = skeleton.separated & ~skeleton.adjacent
    for middle in range(len(heads)):
        ends = np.flatnonzero(allowed[:, middle])
        pairs = np.ix_(ends, ends)
        heads[ends, middle] = (apart[pairs] & ~skeleton.separates[:, :, middle][pairs]).any(axis=1)
    return heads


def orient(adjacent: np.ndarray, heads: np.ndarray, forbidden: np.ndarray) -> CausalGraph:
    """Meek's rules 1 to 3, each round at once on the graph as it was before the round."""
    apart = ~adjacent & ~np.eye(len(adjacent), dtype=bool)
    directed = heads & ~heads.T
    conflict = heads & heads.T
    open_ = adjacent & ~heads & ~heads.T
    while True:
        away_from_collider = linked(directed.T, apart)
        closes_cycle = linked(directed, directed)
        new = open_ & ~forbidden & (away_from_collider | closes_cycle | _double_triangle(open_, directed, apart))
        if not new.any():
            break
        directed |= new & ~new.T
        conflict |= new & new.T
        open_ &= ~(new | new.T)
    return CausalGraph(directed, open_ | conflict, np.zeros_like(adjacent))


def linked(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[i, j]: some k has first[i, k] and second[k, j]."""
    return first.astype(np.float32) @ second.astype(np.float32) > 0


def _double_triangle(open_: np.ndarray, directed: np.ndarray, apart: np.ndarray) -> np.ndarray:
    found = np.zeros_like(open_)
    ways = open_.astype(np.float32) @ directed.astype(np.float32)
    for i, j in np.argwhere(open_ & (ways > 1)):
        between = np.flatnonzero(open_[i] & directed[:, j])
        found[i, j] = apart[np.ix_(between, between)].any()
    return found
